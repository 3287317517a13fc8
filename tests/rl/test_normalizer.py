"""Running statistics against NumPy's over all the data at once."""

import jax.numpy as jnp
import numpy as np
import pytest

from ksim.envs.mirror import SignedPermutation
from ksim.rl.normalizer import Normalizer

RNG = np.random.default_rng(0)
MEAN, STD = np.array([0.0, 5.0, -100.0]), np.array([1.0, 0.01, 30.0])
BATCHES = [
    RNG.normal(MEAN + i, STD * (1 + i), size=(*shape, 3)) for i, shape in enumerate([(7,), (4, 25), (1,), (60, 5)])
]
ALL = np.concatenate([batch.reshape(-1, 3) for batch in BATCHES])
MIRROR = SignedPermutation(np.array([1, 0, 2]), np.array([-1.0, -1.0, -1.0], np.float32))


def merged(mirror=None):
    normalizer = Normalizer.initial(3)
    for batch in BATCHES:
        normalizer = normalizer.update(jnp.asarray(batch, jnp.float32), mirror)
    return normalizer


def test_statistics_of_unequal_batches_are_those_of_all_the_data():
    normalizer = merged()
    np.testing.assert_allclose(normalizer.mean, ALL.mean(0), rtol=1e-5)
    np.testing.assert_allclose(normalizer.var, ALL.var(0), rtol=1e-4)
    assert normalizer.count == len(ALL)


def test_with_a_mirror_the_mirror_images_count_too():
    """So that normalizing commutes with mirroring."""
    both = np.concatenate([ALL, -ALL[:, [1, 0, 2]]])
    normalizer = merged(MIRROR)
    np.testing.assert_allclose(normalizer.mean, both.mean(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(normalizer.var, both.var(0), rtol=1e-4)
    x = jnp.asarray(ALL[:20], jnp.float32)
    np.testing.assert_allclose(normalizer(MIRROR(x)), MIRROR(normalizer(x)), atol=1e-5)


def test_normalizing_is_standardizing_within_ten():
    normalizer = merged()
    x = np.array([[0.3, 5.1, -90.0], [1e6, -1e6, 0.0]])
    expected = np.clip((x - ALL.mean(0)) / np.sqrt(ALL.var(0) + 1e-6), -10, 10)
    np.testing.assert_allclose(normalizer(jnp.asarray(x, jnp.float32)), expected, rtol=1e-3)
    assert np.abs(expected).max() == 10


def test_before_the_first_update_nothing_changes():
    x = jnp.array([[0.5, -3.0, 9.0]])
    np.testing.assert_allclose(Normalizer.initial(3)(x), x, rtol=1e-5)


def test_many_small_batches_keep_their_precision():
    """A million samples of mean 100 and standard deviation 0.1, one percent at a time, in float32."""
    data = RNG.normal(100.0, 0.1, size=(100, 10_000, 1))
    normalizer = Normalizer.initial(1)
    for batch in data:
        normalizer = normalizer.update(jnp.asarray(batch, jnp.float32))
    assert float(normalizer.mean[0]) == pytest.approx(100.0, abs=1e-3)
    assert float(jnp.sqrt(normalizer.var[0])) == pytest.approx(0.1, rel=0.01)
