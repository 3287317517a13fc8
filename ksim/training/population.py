"""Experiments that differ in numbers alone, as one jitted program.

Networks, updates and terms are mapped over the members; the physics of all members is one call on one env axis.
What differs are arguments of the program, so the algorithm and the terms know nothing of it.
"""

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ksim.config.schema import Config
from ksim.envs import Env
from ksim.envs.numbers import with_numbers
from ksim.errors import KsimError
from ksim.evaluation.episodes import Episodes, evaluate
from ksim.evaluation.evaluate import num_steps_of
from ksim.physics.base import float_dtype
from ksim.physics.flat import FlatPhysics
from ksim.rl import Algorithm, random_key, train_chunk
from ksim.rl.algorithm import Metrics
from ksim.system.jit import jit
from ksim.training.experiment import Experiment, build
from ksim.training.packing import varied

Numbers: TypeAlias = dict[str, Any]  # by YAML path: those of one member, or with an axis of members in front


class NotTraceable(KsimError):
    """A number that cannot differ within a program.

    Attributes:
        path: its place in the config.
    """

    def __init__(self, path: str, reason: object):
        super().__init__(f"{path} cannot differ within one program: {reason}")
        self.path = path


class Population:
    """M experiments as one.

    Attributes:
        members: each by itself, with what its directory, evaluation and pictures need; their envs share a model.
        numbers: in which they differ, (M, ...).
        stack: from the states of some members to one state, each leaf with an axis of members in front.
        take: from that and an index into that axis to one member's state.
    """

    def __init__(self, configs: Sequence[Config]):
        """Build them; this starts JAX's backend.

        Args:
            configs: of one pack (`ksim.training.packing.packs`).

        Raises:
            NotTraceable: a term is not made for a number that differs.
            ConfigError: as `ksim.training.experiment.build`.
        """
        first = build(configs[0])
        values = varied(configs)
        self.numbers: Numbers = {path: np.array(x, float_dtype()) for path, x in values.items()}
        self.members = [
            _member(first, config, {path: x[i] for path, x in values.items()}) for i, config in enumerate(configs)
        ]
        self._cfg = first.cfg
        self._algorithm = first.algorithm
        self._env = copy.copy(first.env)
        self._env.physics = FlatPhysics(first.env.physics)
        for path in self.numbers:
            self._check_traceable(path)
        self._init = jit(self._init_one, name="init")
        self.stack: Callable[[Sequence[Any]], Any] = jit(_stack, name="stack")
        self.take: Callable[[Any, int], Any] = jit(_take, name="take")
        self._finals: dict[Any, Any] = {}

    def __len__(self) -> int:
        return len(self.members)

    def init(self, member: int) -> Callable[[jax.Array], Any]:
        """A member's `Algorithm.init` as a function of the key; compiled once for all of them."""
        return partial(self._init, self.numbers_of(member))

    def numbers_of(self, members: int | Sequence[int]) -> Numbers:
        """A member's own, or those of some, with an axis of members in front."""
        return {path: x[np.asarray(members)] for path, x in self.numbers.items()}

    def train_chunk(self, numbers: Numbers, states_M: Any) -> tuple[Any, Metrics, dict[str, Bool[Array, " M"]]]:
        """`ksim.rl.train_chunk` of all members, to be jitted; states have an axis of members in front."""

        def one(numbers: Numbers, state: Any) -> tuple[Any, Metrics, dict[str, Bool[Array, ""]]]:
            return train_chunk(*self._with(numbers), state, self._cfg.log.interval_iterations)

        trained: tuple[Any, Metrics, Any] = jax.vmap(one)(numbers, states_M)
        return trained

    def evaluate(self, numbers: Numbers, states_M: Any, keys_M: Array, num_envs: int) -> Episodes:
        """Full episodes of all members' policies as they are, curricula staying where they are, to be jitted."""

        def one(numbers: Numbers, state: Any, key: Array) -> Episodes:
            env, algorithm = self._with(numbers)
            curriculum = state.env_carry.shared.curriculum or None
            return evaluate(env, algorithm.policy(state), key, num_envs, num_steps_of(env), curriculum)

        played: Episodes = jax.vmap(one)(numbers, states_M, keys_M)
        return played

    def player(self, member: int, episodes: int, *, keep_carry: bool) -> Callable[..., Episodes]:
        """As `ksim.evaluation.evaluate.player` for the final evaluation; compiled once for all members."""
        if (episodes, keep_carry) not in self._finals:

            def play(numbers: Numbers, policy: Any, key: Array, curriculum: Any) -> Episodes:
                env, _ = self._with(numbers)
                return evaluate(env, policy, key, episodes, num_steps_of(env), curriculum, keep_carry)

            self._finals[episodes, keep_carry] = jit(play, name="evaluate", filtered=True)
        program, cfg = self._finals[episodes, keep_carry], self.members[member].cfg
        assert cfg.seed is not None  # the config is checked
        key = random_key(cfg.seed, "eval")

        def play_member(policy: Any, curriculum: Mapping[str, Any] | None) -> Episodes:
            played: Episodes = jax.device_get(program(self.numbers_of(member), policy, key, curriculum or None))
            return played

        return play_member

    def _with(self, numbers: Numbers) -> tuple[Env, Algorithm]:
        """Env and algorithm of a member with these numbers."""
        settings = {path.removeprefix("algo."): x for path, x in numbers.items() if path.startswith("algo.")}
        return with_numbers(self._env, numbers), self._algorithm.with_settings(settings)

    def _init_one(self, numbers: Numbers, key: Array) -> Any:
        env, algorithm = self._with(numbers)
        return algorithm.init(env, key)

    def _check_traceable(self, path: str) -> None:
        if not path.startswith("task."):  # an algorithm's field has said so
            return

        def trace(number: Float[Array, "..."]) -> Any:
            with_numbers(self._env, {path: number})._trace_terms()

        try:
            jax.eval_shape(trace, self.numbers[path][0])
        except Exception as error:  # whatever a term's code raises
            raise NotTraceable(path, str(error).split("\n", 1)[0]) from error


def _stack(states: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def _take(states_M: Any, index: Any) -> Any:
    return jax.tree.map(lambda x: x[index], states_M)


def _member(first: Experiment, config: Config, numbers: Numbers) -> Experiment:
    """One of them by itself."""
    config = dataclasses.replace(config, physics=first.cfg.physics)
    env = with_numbers(first.env, numbers)
    env.cfg = config.task
    return Experiment(config, first.engine, env, config.algo)
