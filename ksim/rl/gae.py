"""Generalized advantage estimation."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def gae(
    reward_TE: Float[Array, "T E"],
    value_TE: Float[Array, "T E"],
    next_value_TE: Float[Array, "T E"],
    terminated_TE: Bool[Array, "T E"],
    done_TE: Bool[Array, "T E"],
    *,
    gamma: float,
    lam: float,
) -> tuple[Float[Array, "T E"], Float[Array, "T E"]]:
    """Advantages and returns (targets of the value function).

    delta_t = r_t + gamma (1 - terminated_t) V(s_{t+1}) - V(s_t), where s_{t+1} is the true next state, before any
    reset: an episode that a time limit cuts is bootstrapped, one that terminates is not.
    A_t = delta_t + gamma lam (1 - done_t) A_{t+1} (Schulman et al. 2016, https://arxiv.org/abs/1506.02438, eq. 16;
    time limits as in Pardo et al. 2018, https://arxiv.org/abs/1712.00378, eq. 6).

    Args:
        reward_TE: rewards.
        value_TE: V(s_t).
        next_value_TE: V(s_{t+1}).
        terminated_TE: s_{t+1} is terminal.
        done_TE: the episode ends with this step, whichever way.
        gamma: discount of one step.
        lam: how far advantages look ahead, from one step (0) to the rollout's end (1).

    Returns:
        A_t and A_t + V(s_t).
    """
    delta_TE = reward_TE + gamma * jnp.where(terminated_TE, 0.0, next_value_TE) - value_TE

    def backward(advantage_E: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        delta_E, done_E = step
        advantage_E = delta_E + gamma * lam * jnp.where(done_E, 0.0, advantage_E)
        return advantage_E, advantage_E

    _, advantage_TE = jax.lax.scan(backward, jnp.zeros_like(delta_TE[0]), (delta_TE, done_TE), reverse=True)
    return advantage_TE, advantage_TE + value_TE
