"""A Playground environment on an engine of ksim's: MJX as it is, or C MuJoCo in its place, in the same jitted program.

Playground's environments step through four functions: `mjx.make_data`, `mjx.forward`, `mjx.step`, and their own
`step`, which holds the controls over the substeps. While an environment is traced for C MuJoCo, these are replaced by
ones that call `mujoco.batch.Batch`. As with MJX, derived fields are those of the state before the last substep.
"""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import mujoco
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from ksim.envs.playground import library
from ksim.envs.playground.data import FILLED, Data, Reads, blank
from ksim.errors import ConfigError
from ksim.physics.pool import Pool
from ksim.system import jax_setup

# Playground's wrappers, too, exchange an environment's model while it is traced; one thread at a time may do so.
_tracing = threading.RLock()

State = Any  # mujoco_playground.State


class MjxEngine:
    """An environment as Playground has it, on MJX; pure, of one env.

    Args:
        env: a `mujoco_playground.MjxEnv`.
        name: its name, for messages.
    """

    def __init__(self, env: Any, name: str):
        jax_setup.avoid_cpu_hang()
        self.env = env
        self.name = name

    def reset(self, rng: PRNGKeyArray, model_fields: Mapping[str, Array] | None = None) -> State:
        """A fresh episode.

        Args:
            rng: random key.
            model_fields: this env's own fields of the model, by name, with "opt." before those of its options.
        """
        with self._traced(model_fields or {}):
            return self.env.reset(rng)

    def step(self, state: State, action_a: Array, model_fields: Mapping[str, Array] | None = None) -> State:
        """One env step; `state` keeps its dictionaries, which Playground's environments write into."""
        with self._traced(model_fields or {}):
            return self.env.step(jax.tree.map(lambda x: x, state), action_a)

    @contextlib.contextmanager
    def _traced(self, model_fields: Mapping[str, Array]) -> Iterator[None]:
        with _tracing, jax.default_matmul_precision("highest"):  # TF32 breaks the physics
            before = self.env._mjx_model
            self.env._mjx_model = with_fields(before, model_fields)
            try:
                yield
            finally:
                self.env._mjx_model = before


class CEngine(MjxEngine):
    """The environment on C MuJoCo.

    Args:
        env: a `mujoco_playground.MjxEnv`.
        name: its name, for messages.
        threads: size of the thread pool; None for one per CPU that this process may use.

    Raises:
        ConfigError: it reads a field of `mjx.Data` that C MuJoCo does not fill.

    Attributes:
        fields: of `mjx.Data` that the environment reads or writes, and the state.
    """

    def __init__(self, env: Any, name: str, threads: int | None = None):
        self.env = env
        self.name = name
        self._base = env.mjx_model
        model = env.mj_model.__copy__()
        model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET.value  # a diverged state stays visible
        self._model = model
        self._reads: Reads | None = Reads()
        self.fields: tuple[str, ...] = tuple(sorted(FILLED))
        self._pool: Pool | None = None
        self._trace()
        self.fields, self._reads = self._reads.used(), None
        self._pool = Pool(model, self.fields, threads)

    def _trace(self) -> None:
        """Run a reset and a step on abstract values, to see what is read."""
        zero_a = jax.ShapeDtypeStruct((self.env.action_size,), "float32")
        jax.eval_shape(lambda key, action: self.step(self.reset(key), action), jax.random.PRNGKey(0), zero_a)

    @contextlib.contextmanager
    def _traced(self, model_fields: Mapping[str, Array]) -> Iterator[None]:
        places = [(mujoco.mjx, "make_data"), (mujoco.mjx, "forward"), (mujoco.mjx, "step")]
        places.append((library.functions(), "step"))
        ours: list[Callable[..., Any]] = [self._make_data, self._forward, self._substep, self._step_held]
        with super()._traced(model_fields):
            before = [getattr(module, name) for module, name in places]
            for (module, name), function in zip(places, ours, strict=True):
                setattr(module, name, function)
            try:
                yield
            finally:
                for (module, name), function in zip(places, before, strict=True):
                    setattr(module, name, function)

    def _make_data(self, model: Any, **kwargs: Any) -> Data:
        return blank(self._model, self.fields, self.name, self._reads)

    def _forward(self, model: Any, data: Data) -> Data:
        return self._call(model, data, 0)

    def _substep(self, model: Any, data: Data) -> Data:
        return self._call(model, data, 1)

    def _step_held(self, model: Any, data: Data, action: Array, n_substeps: int = 1) -> Data:
        return self._call(model, Data(data.fields | {"ctrl": action}, data.owner, data.reads), n_substeps)

    def _call(self, model: Any, data: Data, num_substeps: int) -> Data:
        if self._pool is None:  # traced for what is read
            return Data(dict(data.fields), data.owner, data.reads)
        after = self._pool.step(data.fields, changed_fields(model, self._base), num_substeps)
        return Data({name: after[name] for name in self.fields}, self.name)


def with_fields(model: Any, fields: Mapping[str, Array]) -> Any:
    """An MJX model with some of its fields exchanged, by name, with "opt." before those of its options."""
    option = {name.removeprefix("opt."): value for name, value in fields.items() if name.startswith("opt.")}
    own = {name: value for name, value in fields.items() if not name.startswith("opt.")}
    if option:
        own["opt"] = model.opt.replace(**option)
    return model.replace(**own) if own else model


def changed_fields(model: Any, base: Any) -> dict[str, Array]:
    """The fields of an MJX model that are not those of another, the same objects, by name as `with_fields` has them."""
    changed: dict[str, Any] = {}
    for prefix, new, old in (("", model, base), ("opt.", model.opt, base.opt)):
        for field in dataclasses.fields(new):
            value = getattr(new, field.name)
            if value is not getattr(old, field.name) and isinstance(value, jax.Array | np.ndarray):
                changed[prefix + field.name] = value
    return changed


def make_engine(env: Any, name: str, engine: str, threads: int | None = None) -> MjxEngine:
    """An environment on a resolved engine, `mjx` or `mujoco`.

    Raises:
        ConfigError: as `CEngine`, or another engine.
    """
    if engine == "mjx":
        return MjxEngine(env, name)
    if engine == "mujoco":
        return CEngine(env, name, threads)
    raise ConfigError(f"physics.engine: MuJoCo Playground's environments run on mjx and mujoco, not on {engine}")
