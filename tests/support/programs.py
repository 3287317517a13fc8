"""Trainings of one process share their compiled programs, which take most of a small training's time."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import mujoco
import numpy as np
import pytest

from ksim.envs import Env
from ksim.system.jit import jit


@contextlib.contextmanager
def compiled_once() -> Iterator[None]:
    """Within, a train program of the same text, on an engine of the same model, is compiled once.

    Traced it is each time, so a setting that matters makes another program.
    """
    programs: dict[Any, Callable[..., Any]] = {}

    def jit_once(function: partial, **options: Any) -> Any:
        (env,) = (arg for arg in function.args if isinstance(arg, Env))
        return _Jitted(jit(function, **options), _engine(env), programs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ksim.training.state.jit", jit_once)
        yield


def _engine(env: Env) -> tuple[Any, ...]:
    """What the program calls back to: it says which sort of call, but not which model."""
    model, physics = env.scene.model, env.physics
    content = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, content)
    return type(physics), tuple(physics.fields), content.tobytes()


class _Jitted:
    def __init__(self, jitted: Any, engine: tuple[Any, ...], programs: dict[Any, Callable[..., Any]]):
        self._jitted, self._engine, self._programs = jitted, engine, programs

    def __call__(self, *args: Any) -> Any:
        return self.lower(*args).compile()(*args)

    def lower(self, *args: Any) -> "_Lowered":
        return _Lowered(self._jitted.lower(*args), self._engine, self._programs)


class _Lowered:
    def __init__(self, lowered: Any, engine: tuple[Any, ...], programs: dict[Any, Callable[..., Any]]):
        self._lowered, self._programs = lowered, programs
        self._key = (engine, lowered.as_text(), lowered.in_tree, lowered.out_tree)

    def compile(self) -> Callable[..., Any]:
        if self._key not in self._programs:
            self._programs[self._key] = self._lowered.compile()
        return self._programs[self._key]
