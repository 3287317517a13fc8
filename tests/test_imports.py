"""What an import brings along: the commands answer soon, and a login node needs no display."""

import json

import pytest
from support import child

_PICTURES = {"matplotlib", "imageio", "OpenGL", "viser", "ksim.viz", "mujoco.renderer", "mujoco.viewer"}
_LOGGING = {"wandb", "tensorboardX"}
_ABSENT = {
    "ksim": {"jax", "numpy", "mujoco", "hydra", "equinox", "submitit"} | _PICTURES | _LOGGING,
    "ksim.run": {"submitit", "optax", "scipy.stats"} | _PICTURES | _LOGGING,
    "ksim.eval": {"submitit", "scipy.stats", "imageio", "OpenGL", "viser"} | _LOGGING,
    "ksim.view": {"submitit", "scipy.stats", "imageio", "OpenGL", "viser", "mujoco.viewer"} | _LOGGING,
    "ksim.viz.viewer.plot_worker": {"jax", "mujoco", "hydra"} | _LOGGING,
    "ksim.report": {"jax", "mujoco", "hydra", "equinox", "submitit"} | _LOGGING,
}


@pytest.mark.parametrize("module", _ABSENT)
def test_what_is_not_needed_is_not_imported(module):
    code = f"import json, sys; import {module}; print(json.dumps(list(sys.modules)))"
    found = set(json.loads(child.output(code, MUJOCO_GL="")))
    assert module in found
    assert found & _ABSENT[module] == set()
