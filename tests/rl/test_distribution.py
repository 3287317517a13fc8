"""The Gaussian policy against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from ksim.rl.distribution import Normal

RNG = np.random.default_rng(0)
MEAN, LOG_STD = RNG.normal(size=(4, 3)), RNG.normal(-0.5, 0.5, size=3)
NORMAL = Normal(jnp.asarray(MEAN), jnp.broadcast_to(jnp.asarray(LOG_STD), (4, 3)))


def test_log_density():
    x = RNG.normal(size=(4, 3))
    expected = stats.norm(MEAN, np.exp(LOG_STD)).logpdf(x).sum(-1)
    np.testing.assert_allclose(NORMAL.log_prob(jnp.asarray(x)), expected, rtol=1e-5)


def test_entropy():
    expected = [stats.multivariate_normal(mean, np.diag(np.exp(2 * LOG_STD))).entropy() for mean in MEAN]
    np.testing.assert_allclose(NORMAL.entropy(), expected, rtol=1e-5)
    np.testing.assert_allclose(Normal(NORMAL.mean, NORMAL.log_std[0]).entropy(), expected, rtol=1e-5)


def test_kl_divergence():
    """KL(p || q) = E_p[log p - log q]; not the other way round."""
    other_mean, other_log_std = MEAN + 0.3, LOG_STD + [0.4, -0.2, 0.0]
    other = Normal(jnp.asarray(other_mean), jnp.broadcast_to(jnp.asarray(other_log_std), (4, 3)))
    p, q = stats.norm(MEAN, np.exp(LOG_STD)), stats.norm(other_mean, np.exp(other_log_std))
    x = p.rvs((50_000, 4, 3), random_state=1)
    expected = np.mean(p.logpdf(x) - q.logpdf(x), axis=0).sum(-1)
    np.testing.assert_allclose(NORMAL.kl(other), expected, atol=0.02)
    assert np.abs(NORMAL.kl(other) - other.kl(NORMAL)).min() > 0.05
    np.testing.assert_allclose(NORMAL.kl(NORMAL), 0, atol=1e-6)


def test_samples():
    keys = jax.random.split(jax.random.key(0), 4000)
    samples = np.asarray(jax.vmap(NORMAL.sample)(keys))
    for i in range(4):
        for j in range(3):
            assert stats.kstest(samples[:, i, j], stats.norm(MEAN[i, j], np.exp(LOG_STD[j])).cdf).pvalue > 1e-4
    assert np.abs(np.corrcoef(samples.reshape(4000, -1).T) - np.eye(12)).max() < 0.08
