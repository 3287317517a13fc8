"""One full episode per env with the deterministic policy: no bias to short episodes."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ksim.envs.carry import EnvCarry
from ksim.envs.env import Env
from ksim.envs.tree import replace, where_env, with_shared
from ksim.rl.policy import Policy


class Episodes(eqx.Module):
    """The first episode of each of E envs.

    Attributes:
        values: by name, each (E,): `return`, `length` (env steps), `reward/<term>` (per second), `metric/<name>`.
        terminated: (E,) it ended in a state of its own.
        ends: by termination term, each (E,).
        qpos_Tq, qvel_Tv: (T, nq) and (T, nv) of the first env after each step, its episode's last state included; a
            fresh episode follows an end.
        action_Ta: (T, a) its actions.
        means_T: its running `values`, each (T,).
        command_Tn: its commands, by name, each (T, n).
        carry_T: all that it carried after each step, as so many envs, for what terms draw; None where it was not kept.
    """

    values: dict[str, Float[Array, " E"]]
    terminated: Bool[Array, " E"]
    ends: dict[str, Bool[Array, " E"]]
    qpos_Tq: Float[Array, "T nq"]
    qvel_Tv: Float[Array, "T nv"]
    action_Ta: Float[Array, "T a"]
    means_T: dict[str, Float[Array, " T"]]
    command_Tn: dict[str, Float[Array, "T n"]]
    carry_T: EnvCarry | None = None


def evaluate(
    env: Env,
    policy: Policy,
    key: PRNGKeyArray,
    num_envs: int,
    num_steps: int,
    curriculum: Mapping[str, Any] | None = None,
    keep_carry: bool = False,
) -> Episodes:
    """Play the policy's most probable actions.

    Args:
        env: the env; observation noise is part of it.
        policy: the policy.
        key: random key, a stream of its own.
        num_envs: E, one episode each.
        num_steps: T, env steps of a full episode.
        curriculum: how far a training's curricula have come; they stay there. None: they begin, and go on.
        keep_carry: also return `Episodes.carry_T`.
    """
    state, obs = env.reset(key, num_envs, curriculum=curriculum)

    def step(now: tuple, _: None) -> tuple[tuple, tuple]:
        state, obs, carry, running_E, first = now
        distribution, carry = policy(obs["actor"], carry)
        action_Ea = distribution.mode()
        commands = {name: value_E[0] for name, value_E in env.commands.values(state.envs.memory).items()}
        state, out = env.step(state, action_Ea)
        carry = where_env(out.done, policy.init_carry(num_envs), carry)
        if curriculum is not None:
            state = with_shared(state, curriculum=curriculum)
        ended = (out.episode, out.terminated, out.ends)
        first = jax.tree.map(lambda new, old: jnp.where(running_E, new, old), ended, first)
        means = {name: x_E[0] for name, x_E in out.episode.items()}
        last = jax.tree.map(lambda x: x[0], out.terminal)  # where the episode is over, the state has gone on
        kept = replace(last, key=None) if keep_carry else None  # random keys cannot leave the device
        shown = (last.physics.qpos, last.physics.qvel, action_Ea[0], means, commands, kept)
        return (state, out.obs, carry, running_E & ~out.done, first), shown

    like = jax.eval_shape(lambda s, a: env.step(s, a)[1], state, state.envs.action)
    first = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (like.episode, like.terminated, like.ends))
    start: tuple = (state, obs, policy.init_carry(num_envs), jnp.ones(num_envs, bool), first)
    (*_, first), shown_T = jax.lax.scan(step, start, None, length=num_steps)
    values, terminated, ends = first
    *numbers_T, envs_T = shown_T
    carry_T = EnvCarry(envs_T, replace(state.shared, key=None)) if keep_carry else None
    return Episodes(values, terminated, ends, *numbers_T, carry_T)  # type: ignore[call-arg]
