"""What the environment carries from step to step, and what a step returns."""

from typing import Any

import equinox as eqx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ksim.physics import PhysicsState

Obs = dict[str, Float[Array, "E n"]]
Flags = dict[str, Bool[Array, " *E"]]  # by a term's path
Memory = dict[str, Any]  # what terms remember, by their path in the config


class DivergedEnvs(eqx.Module):
    """The first envs of a run that diverged, in the order in which they did; N slots.

    Attributes:
        count: how many there are; the slots behind them are zeros.
        given: all that the engine was given for the env step that broke them, by MuJoCo's names, each (N, ...): the
            state, applied forces and fields of mjModel that differ between envs, and `ctrl` (N, S, nu) of S substeps.
    """

    count: Int[Array, ""]
    given: dict[str, Float[Array, "N ..."]]


class PerEnv(eqx.Module):
    """What each env has for itself: leaves of (E, ...), or of one env inside `vmap`.

    Attributes:
        physics: integration state and the derived fields that terms read.
        model_fields: values of randomized mjModel fields, by name.
        key: (E,) random stream of each env; resetting one env advances no other.
        episode_step: (E,) env steps since the reset; time is derived from it.
        action, prev_action: (E, a) the last action and the one before, as the policy gave them.
        timers: env steps until an interval event fires next, by term, each (E,).
        episode: sums over the running episode, by log name, each (E,).
        memory: carries of terms with memory, commands, delay lines, histories, contact timers. Empty where no term
            remembers anything.
    """

    physics: PhysicsState
    model_fields: dict[str, Array]
    key: PRNGKeyArray
    episode_step: Int[Array, " E"]
    action: Float[Array, "E a"]
    prev_action: Float[Array, "E a"]
    timers: dict[str, Int[Array, " E"]]
    episode: dict[str, Float[Array, " E"]]
    memory: Memory


class Shared(eqx.Module):
    """What all envs share.

    Attributes:
        key: random key of what is drawn for all envs at once, the timers of global events.
        curriculum: what curricula have learned so far, by their path in the config.
        diverged: the first envs that the NaN guard caught in this run.
    """

    key: PRNGKeyArray
    curriculum: dict[str, Any]
    diverged: DivergedEnvs


class EnvCarry(eqx.Module):
    """What E envs carry from step to step: `Env.reset` makes it, `Env.step` takes one and returns the next.

    Attributes:
        envs: what each env has for itself.
        shared: what all of them share.
    """

    envs: PerEnv
    shared: Shared


class StepOutput(eqx.Module):
    """What `Env.step` returns for E envs.

    Attributes:
        obs: the next observation, of a fresh episode where the env is done; by group, each (E, n).
        terminal_obs: the true next observation, before any reset; equal to `obs` where the env goes on, noise aside.
        reward: (E,) the sum of the weighted reward terms.
        terminated: (E,) the episode ended in a state of its own (a fall, say): there is no value after it.
        truncated: (E,) a time limit cut the episode: the learner bootstraps from `terminal_obs`.
        ends: (E,) each termination term's verdict.
        episode: (E,) the running episode so far, this step included, by name: `return`, `length` (env steps),
            `reward/<term>` (per second), `metric/<name>`.
        log: sums of these over the episodes that ended with this step, scalars; see `ksim.envs.log`.
        terminal: what each env had when it was judged, before any reset: the episode's last state where it is done.
    """

    obs: Obs
    terminal_obs: Obs
    reward: Float[Array, " E"]
    terminated: Bool[Array, " E"]
    truncated: Bool[Array, " E"]
    ends: dict[str, Bool[Array, " E"]]
    episode: dict[str, Float[Array, " E"]]
    log: dict[str, Float[Array, ""]]
    terminal: PerEnv

    @property
    def done(self) -> Bool[Array, " E"]:
        """Envs whose episode ended with this step."""
        return self.terminated | self.truncated
