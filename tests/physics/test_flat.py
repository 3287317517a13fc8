"""An engine under `vmap`: what it maps over becomes more envs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ksim.physics.flat import _flat

M, E = 3, 4


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)])
def test_what_all_members_share_is_theirs_env_by_env(axes):
    """As `vmap` of the function itself has it, and it is called once, with all envs."""
    shapes = []

    def function(a_E, b_E2):
        shapes.append(a_E.shape)
        return {"a": a_E, "sum": a_E[:, None] * b_E2}

    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=(E, *size))) for size in ((), (2,))]
    own = [
        x if axis is None else jnp.stack([x * (1.0 + i) for i in range(M)])
        for x, axis in zip(arrays, axes, strict=True)
    ]
    expected = jax.vmap(function, axes)(*own)
    shapes.clear()
    found = jax.vmap(_flat(function), axes)(*own)
    assert shapes[-1] == (M * E,)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
