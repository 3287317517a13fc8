"""The door for environments that somebody else wrote: two pure functions of one env become an `Env`.

A task's YAML names the `ksim.config.schema.TaskCfg` that builds one; `ksim.envs.playground.env` is an example.
"""

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ksim.config.schema import TaskCfg
from ksim.envs import guard
from ksim.envs.carry import EnvCarry, Obs, PerEnv, Shared, StepOutput
from ksim.envs.env import Env
from ksim.envs.episode import EpisodeSums
from ksim.envs.managers import CommandManager, CurriculumManager, EventManager, MetricManager, RewardManager
from ksim.envs.managers.terminations import Ends, TerminationManager
from ksim.envs.scene import Scene
from ksim.envs.symmetry import Symmetry
from ksim.envs.tree import replace, split_keys, strong, where_env, with_envs, with_shared
from ksim.errors import ConfigError
from ksim.physics import PhysicsState
from ksim.physics.base import float_dtype
from ksim.physics.chunks import where_masked
from ksim.robots import Robot

_STATE = "state"  # where the carry's memory has the environment's own


class Moment(eqx.Module):
    """One env as the environment shows it: at first, or after a step.

    Attributes:
        state: the environment's own, any pytree of arrays.
        obs: by group, `actor` and `critic`, each a vector.
        reward: of the step that led here.
        terminated: whether the episode ended with it, for a reason of its own.
        metrics: numbers for the log, by name.
    """

    state: Any
    obs: dict[str, Float[Array, " n"]]
    reward: Float[Array, ""]
    terminated: Bool[Array, ""]
    metrics: dict[str, Float[Array, ""]]


class ForeignEnv(Env, abc.ABC):
    """An env without managers: `first` and `next` are somebody else's, everything around them is ksim's.

    That is: time limits, resets to fresh states in the envs that are done, random ages at the start of a training,
    terminal observations, returns and metrics of episodes, and the NaN guard.

    Args:
        cfg: the task.
        model: what films show; `physics_of` gives its positions.
        step_dt: seconds of an env step.
        max_episode_steps: env steps of a full episode; 0: no limit.
        action_names: of the elements of an action.
    """

    about = "environment"  # in a few words, for tables
    action_law = "the environment's own"  # what an action does
    reward_scale = 1.0  # of the learner's rewards; those of logs are not scaled

    def __init__(
        self,
        cfg: TaskCfg,
        model: mujoco.MjModel,
        *,
        step_dt: float,
        max_episode_steps: int,
        action_names: Sequence[str],
    ):
        self.cfg = cfg  # type: ignore[assignment]
        self.scene = _Scene(model)
        self.physics_dt = float(model.opt.timestep)
        self.step_dt = step_dt
        self.max_episode_steps = max_episode_steps
        self._action_names = tuple(action_names)
        self.action_size = len(self._action_names)
        self.events = EventManager({}, step_dt)
        self.commands = CommandManager({}, step_dt)
        self.curriculum = CurriculumManager({})
        self.rewards = RewardManager({}, 1.0)
        self.terminations = TerminationManager({})
        self.metrics = MetricManager({})
        like = jax.eval_shape(lambda key: self.first(key, self._one(self.draw_model_fields(key[None]))), _key_like())
        self.obs_sizes = {group: {_STATE: x.shape[0]} for group, x in like.obs.items()}
        self._metrics = tuple(like.metrics)

    # What an environment says

    @abc.abstractmethod
    def first(self, key: PRNGKeyArray, model_fields: Mapping[str, Array]) -> Moment:
        """A fresh episode in one env, with its own fields of the model."""

    @abc.abstractmethod
    def next(self, state: Any, action_a: Float[Array, " a"], model_fields: Mapping[str, Array]) -> Moment:
        """One env step of one env."""

    @abc.abstractmethod
    def physics_of(self, state: Any) -> PhysicsState:
        """Positions and velocities out of the environment's state, of one env or of many."""

    def draw_model_fields(self, key_E: PRNGKeyArray) -> dict[str, Array]:
        """Fields of the model that differ between envs, each (E, ...), drawn once; of its own, none."""
        return {}

    # The env

    @property
    def action_names(self) -> tuple[str, ...]:
        """See `Env.action_names`; what its elements are called."""
        return self._action_names

    def is_vector(self, group: str) -> bool:
        """See `Env.is_vector`."""
        return True

    def symmetry(self, groups: Sequence[str] | None = None) -> Symmetry:
        """See `Env.symmetry`: nobody knows how such an env mirrors."""
        raise ConfigError(
            "algo.symmetry: only tasks of terms, on a robot with a mirror map, have one; none is right here"
        )

    def reset(
        self,
        key: PRNGKeyArray,
        num_envs: int,
        *,
        random_age: bool = False,
        curriculum: Mapping[str, Any] | None = None,
    ) -> tuple[EnvCarry, Obs]:
        """See `Env.reset`."""
        key_E4 = jax.vmap(lambda k: jax.random.split(k, 4))(jax.random.split(key, num_envs))
        model_fields = self.draw_model_fields(key_E4[:, 0])
        moment = self._first(key_E4[:, 1], model_fields)
        limit = self.max_episode_steps
        age_E = jnp.zeros(num_envs, jnp.int32)
        if random_age and limit:
            age_E = jax.vmap(lambda k: jax.random.randint(k, (), 0, limit))(key_E4[:, 2])
        zeros_Ea = jnp.zeros((num_envs, self.action_size), float_dtype())
        envs = PerEnv(
            physics=self.physics_of(moment.state),
            model_fields=model_fields,
            key=key_E4[:, 3],
            episode_step=age_E,
            action=zeros_Ea,
            prev_action=zeros_Ea,
            timers={},
            episode={name: jnp.zeros(num_envs, float_dtype()) for name in ("return", "length", *self._logged())},
            memory={_STATE: moment.state, "obs": moment.obs},
        )
        diverged = guard.none_diverged(self._given(envs, zeros_Ea))
        return EnvCarry(envs, Shared(key, {}, diverged)), moment.obs

    def step(self, carry: EnvCarry, action_Ea: Float[Array, "E a"]) -> tuple[EnvCarry, StepOutput]:
        """See `Env.step`; the order is the environment's step, the NaN guard, ends, rewards, resets."""
        carry, key_E = split_keys(carry)
        before = carry.envs
        moment = strong(jax.vmap(self.next)(before.memory[_STATE], action_Ea, before.model_fields))
        physics = self.physics_of(moment.state)
        diverged_E = guard.find_diverged(physics.qpos, physics.qvel, physics.act, action_Ea)
        seen = self._given(before, action_Ea)
        carry = with_shared(carry, diverged=guard.keep_first(carry.shared.diverged, diverged_E, seen))
        # A diverged env is put back to where it was, and reset from there: nothing of it may reach the learner.
        memory = where_env(diverged_E, before.memory, {_STATE: moment.state, "obs": moment.obs})
        physics = where_env(diverged_E, before.physics, physics)
        is_finite_E = jnp.isfinite(moment.reward)
        reward_E = jnp.where(is_finite_E & ~diverged_E, moment.reward, 0.0)
        step_E = before.episode_step + 1
        truncated_E = step_E >= self.max_episode_steps if self.max_episode_steps else jnp.zeros_like(diverged_E)
        own_E = moment.terminated & ~diverged_E
        ends_E = Ends(own_E | diverged_E, truncated_E, {"terminated": own_E, "time_out": truncated_E})
        metrics = {f"metric/{name}": jnp.where(diverged_E, 0.0, x) for name, x in moment.metrics.items()}
        added = {"return": reward_E, "length": jnp.ones_like(reward_E), **metrics}
        terminal = replace(
            before,
            physics=physics,
            episode_step=step_E,
            action=where_env(diverged_E, before.action, action_Ea),
            prev_action=before.action,
            episode={name: x + added[name] for name, x in before.episode.items()},
            memory=memory,
        )
        episode_E = self._report(terminal.episode)
        log = EpisodeSums.log(ends_E, episode_E) | {"nan_guard": jnp.sum(1.0 * diverged_E)}
        log |= {"not_finite/task.env": jnp.sum(1.0 * (~is_finite_E & ~diverged_E))}
        carry = self._reset_where(EnvCarry(terminal, carry.shared), ends_E.done, key_E)
        return carry, StepOutput(
            carry.envs.memory["obs"], memory["obs"], self.reward_scale * reward_E, *ends_E, episode_E, log, terminal
        )

    def restart(
        self, carry: EnvCarry, obs: Obs, mask_E: Bool[Array, " E"], key: PRNGKeyArray | None = None
    ) -> tuple[EnvCarry, Obs]:
        """See `Env.restart`."""
        seeded = carry if key is None else with_envs(carry, key=jax.random.split(key, len(mask_E)))
        fresh, reset_key_E = split_keys(seeded)
        fresh = self._reset_where(fresh, mask_E, reset_key_E)
        restarted = EnvCarry(where_env(mask_E, fresh.envs, carry.envs), carry.shared)
        return restarted, restarted.envs.memory["obs"]

    def _reset_where(self, carry: EnvCarry, done_E: Bool[Array, " E"], key_E: PRNGKeyArray) -> EnvCarry:
        """Fresh episodes in the envs of the mask, computed a few at a time; the others cost nothing."""
        envs = carry.envs

        def fresh(key: PRNGKeyArray, model_fields: dict[str, Array]) -> dict[str, Any]:
            moment = strong(self.first(key, model_fields))
            return {_STATE: moment.state, "obs": moment.obs}

        memory = where_masked(fresh, (key_E, envs.model_fields), done_E, envs.memory)
        begun = replace(
            envs,
            physics=self.physics_of(memory[_STATE]),
            episode_step=jnp.where(done_E, 0, envs.episode_step),
            action=jnp.where(done_E[:, None], 0.0, envs.action),
            prev_action=jnp.where(done_E[:, None], 0.0, envs.prev_action),
            episode={name: jnp.where(done_E, 0.0, x) for name, x in envs.episode.items()},
            memory=memory,
        )
        return EnvCarry(begun, carry.shared)

    def _first(self, key_E: PRNGKeyArray, model_fields: dict[str, Array]) -> Moment:
        moment: Moment = strong(jax.vmap(self.first)(key_E, model_fields))
        return moment

    def _given(self, envs: PerEnv, action_Ea: Array) -> dict[str, Array]:
        """What a diverged env is kept with."""
        return guard.given(envs.physics, envs.model_fields, action_Ea[:, None])

    def _logged(self) -> list[str]:
        return [f"metric/{name}" for name in self._metrics]

    def _report(self, sums: dict[str, Float[Array, " E"]]) -> dict[str, Float[Array, " E"]]:
        """The running episodes: metrics as means over their steps."""
        steps_E = jnp.maximum(sums["length"], 1.0)
        return {name: x / steps_E if name.startswith("metric/") else x for name, x in sums.items()}

    @staticmethod
    def _one(model_fields: dict[str, Array]) -> dict[str, Array]:
        return {name: x[0] for name, x in model_fields.items()}


class _Scene(Scene):
    """A model that no robot's table describes: its named hinges and slides, none of them actuated."""

    def __init__(self, model: mujoco.MjModel):
        self.model = model
        self.contacts = {}
        scalar = (mujoco.mjtJoint.mjJNT_HINGE.value, mujoco.mjtJoint.mjJNT_SLIDE.value)
        self.joint_ids = np.array([j for j in range(model.njnt) if model.jnt_type[j] in scalar], int)
        self.joint_names = tuple(model.joint(int(j)).name or f"joint {j}" for j in self.joint_ids)
        self.num_actuated = 0
        self.joint_qpos_adr = model.jnt_qposadr[self.joint_ids]
        self.joint_dof_adr = model.jnt_dofadr[self.joint_ids]
        self.home_qpos = np.array(model.qpos0)
        self.home_joint_pos = self.home_qpos[self.joint_qpos_adr]

    @property
    def robot(self) -> Robot:  # type: ignore[override]
        """Nobody has described it.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("this needs a robot of ksim's; the task is an environment that somebody else wrote")


def _key_like() -> Any:
    return jax.eval_shape(jax.random.key, 0)
