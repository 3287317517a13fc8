"""What a physics step is made of, against what MuJoCo itself does."""

from types import SimpleNamespace

import mujoco
import numpy as np
import pytest

from ksim.diagnostics import model_cost
from ksim.envs.scene import build_scene

# A floor, a fixed box, a chain of three links, a link that is welded to the last one, a pair that is excluded, and
# one geom that only an explicit pair lets touch.
CHAIN = """
<mujoco>
  <worldbody>
    <geom name="floor" type="plane" size="5 5 1"/>
    <body name="post" pos="1 0 0"><geom type="box" size=".1 .1 .1"/></body>
    <body name="a" pos="0 0 1"><freejoint/><geom size=".1"/>
      <body name="b" pos="0 .3 0"><joint axis="1 0 0"/><geom size=".1"/>
        <body name="c" pos="0 .3 0"><joint axis="1 0 0"/><geom size=".1"/>
          <body name="d" pos="0 .3 0"><geom size=".1"/><geom name="ghost" size=".1" contype="0" conaffinity="0"/></body>
        </body>
      </body>
    </body>
    <body name="e" pos="0 0 2"><freejoint/><geom size=".1"/><geom size=".1" contype="2" conaffinity="4"/></body>
  </worldbody>
  <contact><exclude body1="a" body2="c"/><pair geom1="ghost" geom2="floor"/></contact>
</mujoco>
"""


def pairs_that_touch(model: mujoco.MjModel) -> set[tuple[int, int]]:
    """With margins larger than the world, all that can touch do."""
    model.geom_margin[:] = 100.0
    model.body_margin[:] = 100.0
    model.pair_margin[:] = 100.0
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return {tuple(sorted(pair)) for pair in data.contact.geom.tolist()}


@pytest.mark.parametrize("which", ["chain", "kbot"])
def test_the_pairs_are_those_that_mujoco_looks_at(which, kbot_cfg):
    model = mujoco.MjModel.from_xml_string(CHAIN) if which == "chain" else build_scene(kbot_cfg.task).model
    count = model_cost.geom_pairs(model)
    assert count == len(pairs_that_touch(model)) >= 4


def test_a_box_at_rest_has_four_contacts_and_its_solver_is_named():
    model = mujoco.MjModel.from_xml_string(
        """<mujoco><option cone="elliptic" iterations="1" timestep="0.002"/><worldbody><geom type="plane" size="5 5 1"/>
        <body pos="0 0 .099"><freejoint/><geom type="box" size=".1 .1 .1"/></body></worldbody></mujoco>"""
    )
    rest = {"qpos": model.qpos0, "qvel": np.zeros(6), "act": np.zeros(0), "qacc_warmstart": np.zeros(6)}
    physics = SimpleNamespace(**{name: np.tile(x, (2, 3, 1)) for name, x in rest.items()})
    recording = SimpleNamespace(physics=None, model_fields={}, ctrl_TESu=np.zeros((2, 3, 4, 0)))
    recording.physics = physics
    found = model_cost.measure(model, recording)
    assert found["per_step"]["contacts"] == pytest.approx(4) and found["per_step"]["constraint_rows"] == pytest.approx(
        12
    )
    assert found["sizes"] == {"dofs": 6, "geoms": 2, "pairs": 1, "mesh_vertices": 0}
    assert found["settings"]["cone"] == "elliptic" and found["settings"]["jacobian"] == "dense"
    assert sum(found["percent"].values()) == pytest.approx(100) and found["percent"]["constraint solver"] > 1
    assert any("elliptic" in note for note in found["notes"])
    assert any("uses all its 1 iterations" in note for note in found["notes"]) == (found["share_at_cap"] > 0.05)
