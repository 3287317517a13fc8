"""Running statistics against NumPy's over all the data at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ksim.envs.mirror import SignedPermutation
from ksim.rl.normalizer import Normalizer

RNG = np.random.default_rng(0)
MEAN, STD = np.array([0.0, 5.0, -100.0]), np.array([1.0, 0.1, 30.0])
BATCHES = [
    RNG.normal(MEAN + i, STD * (1 + i), size=(*shape, 3)) for i, shape in enumerate([(7,), (4, 25), (1,), (60, 5)])
]
ALL = np.concatenate([batch.reshape(-1, 3) for batch in BATCHES])
MIRROR = SignedPermutation(np.array([1, 0, 2]), np.array([-1.0, -1.0, -1.0], np.float32))


updated = jax.jit(Normalizer.update)


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
        normalizer = updated(normalizer, jnp.asarray(batch, jnp.float32))
    assert float(normalizer.mean[0]) == pytest.approx(100.0, abs=1e-3)
    assert float(jnp.sqrt(normalizer.var[0])) == pytest.approx(0.1, rel=0.01)


def test_what_is_not_finite_is_left_out_with_its_whole_observation():
    """And a batch of nothing else changes nothing, before the first update and after it."""
    data = RNG.normal(MEAN, STD, size=(300, 3))
    broken = data.copy()
    for i, value in enumerate((np.nan, np.inf, -np.inf)):
        broken[10 * i, i] = value
    whole = np.delete(data, [0, 10, 20], axis=0)
    found = Normalizer.initial(3).update(jnp.asarray(broken, jnp.float32))
    expected = Normalizer.initial(3).update(jnp.asarray(whole, jnp.float32))
    for name in ("mean", "var", "count"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-5)
    for before in (Normalizer.initial(3), found):
        after = before.update(jnp.full((5, 3), jnp.nan))
        for name in ("mean", "var", "count"):
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


@pytest.mark.parametrize("when", [0, 1, 50])
def test_one_spike_does_not_blind_a_channel(when):
    """A single 1e9 among a million samples, in the first batch or in a later one: the spread stays what it was."""
    batches = RNG.normal(2.0, 0.5, size=(100, 10_000, 1))
    batches[when, 77, 0] = 1e9
    normalizer = Normalizer.initial(1)
    for batch in batches:
        normalizer = updated(normalizer, jnp.asarray(batch, jnp.float32))
    assert float(jnp.sqrt(normalizer.var[0])) == pytest.approx(0.5, rel=0.02)
    assert float(normalizer.mean[0]) == pytest.approx(2.0, abs=0.01)


def test_what_was_constant_at_first_may_begin_to_move():
    """The bound of what counts grows with what is seen: after a few batches the statistics are those of the data."""
    normalizer = Normalizer.initial(1).update(jnp.zeros((1000, 1)))
    moving = jnp.asarray(RNG.normal(0.0, 300.0, size=(20, 1000, 1)), jnp.float32)
    for batch in moving:
        normalizer = updated(normalizer, batch)
    assert float(jnp.sqrt(normalizer.var[0])) == pytest.approx(300.0, rel=0.1)
