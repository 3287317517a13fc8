"""One full episode per env with the deterministic policy: no bias to short episodes."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ksim.envs.carry import EnvCarry, StepOutput
from ksim.envs.env import Env
from ksim.envs.tree import replace, where_env, with_shared
from ksim.rl.policy import Policy


class Ends(eqx.Module):
    """How the first episode of each of E envs ended.

    Attributes:
        values: by name, each (E,): `return`, `length` (env steps), `reward/<term>` (per second), `metric/<name>`.
        terminated: (E,) it ended in a state of its own.
        ends: by termination term, each (E,).
    """

    values: dict[str, Float[Array, " E"]]
    terminated: Bool[Array, " E"]
    ends: dict[str, Bool[Array, " E"]]


class Episodes(Ends):
    """The first episode of each of E envs, that of the first one in full.

    Attributes:
        qpos_Tq, qvel_Tv: (T, nq) and (T, nv) of the first env after each step, its episode's last state included; a
            fresh episode follows an end.
        action_Ta: (T, a) its actions.
        means_T: its running `values`, each (T,).
        command_Tn: its commands, by name, each (T, n).
        carry_T: all that it carried after each step, as so many envs, for what terms draw; None where it was not kept.
    """

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
    start, step = _first_episodes(env, policy, key, num_envs, curriculum)

    def seen(now: _Now, _: None) -> tuple[_Now, tuple]:
        commands = {name: value_E[0] for name, value_E in env.commands.values(now.state.envs.memory).items()}
        now, action_Ea, out = step(now)
        means = {name: x_E[0] for name, x_E in out.episode.items()}
        last = jax.tree.map(lambda x: x[0], out.terminal)  # where the episode is over, the state has gone on
        kept = replace(last, key=None) if keep_carry else None  # random keys cannot leave the device
        return now, (last.physics.qpos, last.physics.qvel, action_Ea[0], means, commands, kept)

    end, shown_T = jax.lax.scan(seen, start, None, length=num_steps)
    *numbers_T, envs_T = shown_T
    carry_T = EnvCarry(envs_T, replace(start.state.shared, key=None)) if keep_carry else None
    first = end.first
    return Episodes(first.values, first.terminated, first.ends, *numbers_T, carry_T)  # type: ignore[call-arg]


def evaluate_until(
    env: Env,
    policy: Policy,
    key: PRNGKeyArray,
    num_envs: int,
    num_steps: int,
    most_falls: int,
    curriculum: Mapping[str, Any] | None = None,
) -> tuple[Ends, Bool[Array, ""]]:
    """As `evaluate`, without recording the first env, and only until more have fallen than may.

    Args:
        env, policy, key, num_envs, num_steps, curriculum: as for `evaluate`.
        most_falls: so many episodes may end in a state of their own; one more, and it is over.

    Returns:
        How the episodes ended, and whether all of them did; else those that still went on are in it as they stood.
    """
    start, step = _first_episodes(env, policy, key, num_envs, curriculum)

    def goes_on(progress: tuple[Int[Array, ""], _Now]) -> Bool[Array, ""]:
        t, now = progress
        return (t < num_steps) & jnp.any(now.running_E) & (jnp.sum(now.first.terminated) <= most_falls)

    def on(progress: tuple[Int[Array, ""], _Now]) -> tuple[Int[Array, ""], _Now]:
        t, now = progress
        return t + 1, step(now)[0]

    t, end = jax.lax.while_loop(goes_on, on, (jnp.zeros((), jnp.int32), start))
    return end.first, ~jnp.any(end.running_E) | (t == num_steps)


class _Now(eqx.Module):
    """Between two steps of an evaluation."""

    state: EnvCarry
    obs: dict[str, Any]
    carry: Any  # the policy's
    running_E: Bool[Array, " E"]  # in the first episode
    first: Ends


def _first_episodes(
    env: Env, policy: Policy, key: PRNGKeyArray, num_envs: int, curriculum: Mapping[str, Any] | None
) -> tuple[_Now, Callable[[_Now], tuple[_Now, Float[Array, "E a"], StepOutput]]]:
    """Fresh episodes, and a step of them, which also gives the actions and what they led to."""
    state, obs = env.reset(key, num_envs, curriculum=curriculum)

    def step(now: _Now) -> tuple[_Now, Float[Array, "E a"], StepOutput]:
        distribution, carry = policy(now.obs["actor"], now.carry)
        action_Ea = distribution.mode()
        state, out = env.step(now.state, action_Ea)
        carry = where_env(out.done, policy.init_carry(num_envs), carry)
        if curriculum is not None:
            state = with_shared(state, curriculum=curriculum)
        ended = Ends(out.episode, out.terminated, out.ends)
        first = jax.tree.map(lambda new, old: jnp.where(now.running_E, new, old), ended, now.first)
        return _Now(state, out.obs, carry, now.running_E & ~out.done, first), action_Ea, out

    like = jax.eval_shape(lambda s, a: env.step(s, a)[1], state, state.envs.action)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (like.episode, like.terminated, like.ends))
    nothing = Ends(*zeros)
    return _Now(state, obs, policy.init_carry(num_envs), jnp.ones(num_envs, bool), nothing), step
