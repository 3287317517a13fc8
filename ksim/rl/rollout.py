"""A policy and an env, step by step: what algorithms learn from."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from ksim.envs.carry import EnvCarry, Obs
from ksim.envs.env import Env
from ksim.envs.tree import where_env
from ksim.rl.distribution import Distribution
from ksim.rl.policy import Policy


class Trajectory(eqx.Module):
    """T steps of E envs: each EnvState of the glossary, with the policy that made it.

    Attributes:
        obs: by group, (T, E, n).
        action: (T, E, a).
        distribution: the policy's, each parameter (T, E, a).
        reward: (T, E), of the transition that the action made.
        terminated: (T, E), likewise: there is no value after it. The end of a finite horizon counts.
        done: (T, E), likewise: the episode ended, whichever way.
        next_obs: by group, (T, E, n): the true next observation, not the one after a reset.
    """

    obs: Obs
    action: Float[Array, "T E a"]
    distribution: Distribution
    reward: Float[Array, "T E"]
    terminated: Bool[Array, "T E"]
    done: Bool[Array, "T E"]
    next_obs: Obs


def rollout(
    env: Env,
    policy: Policy,
    env_carry: EnvCarry,
    obs: Obs,
    carry: PyTree[Array],
    key: PRNGKeyArray,
    num_steps: int,
    *,
    deterministic: bool = False,
) -> tuple[EnvCarry, Obs, PyTree[Array], Trajectory, dict[str, Float[Array, ""]]]:
    """Play a policy.

    Args:
        env: the env.
        policy: acts on the group `actor`.
        env_carry, obs: the envs, and what they show.
        carry: the policy's; it begins anew in envs that are done.
        key: random key of the actions.
        num_steps: T.
        deterministic: act by the distribution's mode.

    Returns:
        The envs afterwards, what they show, the policy's carry; the trajectory; the sums of the env's log.
    """

    def step(now: tuple[EnvCarry, Obs, Any], key: PRNGKeyArray) -> tuple[tuple, tuple]:
        env_carry, obs, carry = now
        distribution, carry = policy(obs["actor"], carry)
        action_Ea = distribution.mode() if deterministic else distribution.sample(key)
        env_carry, out = env.step(env_carry, action_Ea)
        carry = where_env(out.done, policy.init_carry(len(out.done)), carry)
        # The end of a finite horizon is part of the task: there is no value after it.
        terminated = out.done if env.cfg.is_finite_horizon else out.terminated
        seen = Trajectory(obs, action_Ea, distribution, out.reward, terminated, out.done, out.terminal_obs)
        return (env_carry, out.obs, carry), (seen, out.log)

    keys_T = jax.random.split(key, num_steps)
    (env_carry, obs, carry), (trajectory_TE, log_T) = jax.lax.scan(step, (env_carry, obs, carry), keys_T)
    return env_carry, obs, carry, trajectory_TE, {name: jnp.sum(x) for name, x in log_T.items()}
