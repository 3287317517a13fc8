"""No accepted value does nothing: each choice of each setting makes another program, model or engine."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import jax
import mujoco
import numpy as np
import pytest
from support.fake_env import FakeEnv

from ksim.config import fields
from ksim.config.schema import Config, PatchesCfg
from ksim.envs.mirror import SignedPermutation
from ksim.envs.scene import build_scene
from ksim.envs.symmetry import Symmetry
from ksim.physics import choose_engine
from ksim.rl import PPO


def swaps(size: int, sign: float) -> SignedPermutation:
    return SignedPermutation(np.arange(size)[::-1].copy(), np.full(size, sign, np.float32))


@dataclasses.dataclass(frozen=True)
class MirroredEnv(FakeEnv):
    """The fake env with sizes and a mirror map: enough to train on with every symmetry."""

    obs_sizes: ClassVar = {"actor": {"x": 1}, "critic": {"x": 2}}
    action_size = 2

    def symmetry(self, groups: Any) -> Symmetry:
        return Symmetry(swaps(2, -1.0), {"actor": swaps(1, -1.0), "critic": swaps(2, 1.0)})


def program(cfg: Config) -> str:
    """What an algorithm's iteration computes, without the addresses of functions."""
    env = MirroredEnv((2, 3, 4, 5))
    small = {"num_envs": 4, "num_env_states_per_minibatch": 4, "num_minibatches": 2, "num_learning_epochs": 1}
    algorithm: PPO = dataclasses.replace(cfg.algo, **small, actor_hidden=(4,), critic_hidden=(4,))
    state = jax.eval_shape(partial(algorithm.init, env), jax.random.key(0))
    return re.sub(r"0x[0-9a-f]+", "", str(jax.make_jaxpr(partial(algorithm.iterate, env))(state)))


def model(cfg: Config) -> bytes:
    """The compiled model."""
    if cfg.task.scene.terrain == "patches":  # which needs some
        patches = PatchesCfg(kinds={"hill": {"_target_": "ksim.mdp.terrains.slope"}}, levels=1, spacing=0.5)
        cfg = changed(cfg, "task.scene.patches", patches)
    compiled = build_scene(cfg.task).model
    buffer = np.empty(mujoco.mj_sizeModel(compiled), np.uint8)
    mujoco.mj_saveModel(compiled, None, buffer)
    return buffer.tobytes()


def engines(cfg: Config) -> tuple[str, str]:
    """What steps the physics without and with an accelerator."""
    return choose_engine(cfg.physics.engine, "cpu").engine, choose_engine(cfg.physics.engine, "gpu").engine


MAKES: dict[str, Callable[[Config], Any]] = {"algo": program, "task": model, "physics": engines}


def settings_with_choices(config: Any, path: str = "") -> Iterator[tuple[str, tuple[Any, ...]]]:
    for field in dataclasses.fields(config):
        where = f"{path}.{field.name}" if path else field.name
        if choices := fields.limits(field).choices:
            yield where, choices
        if dataclasses.is_dataclass(value := getattr(config, field.name)):
            yield from settings_with_choices(value, where)


def changed(config: Any, path: str, value: Any) -> Any:
    name, _, rest = path.partition(".")
    return dataclasses.replace(config, **{name: changed(getattr(config, name), rest, value) if rest else value})


@pytest.fixture(scope="module")
def found(composed) -> dict[str, tuple[Any, ...]]:
    return dict(settings_with_choices(composed["kbot_standing"]))


def test_the_settings_with_choices_are_found(found):
    assert {"algo.symmetry", "algo.schedule", "algo.activation", "task.sim.cone", "physics.engine"} <= set(found)


def test_each_choice_makes_a_difference(composed, found):
    for path, choices in found.items():
        make = MAKES[path.partition(".")[0]]
        made = {choice: make(changed(composed["kbot_standing"], path, choice)) for choice in choices}
        assert len(set(made.values())) == len(choices), f"{path}: two of {choices} are the same"
