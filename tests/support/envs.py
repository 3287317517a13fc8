"""Small tasks written in Python, and playing them step by step with everything kept."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ksim.config.schema import ManagerBasedRlEnvCfg, SceneCfg, SimCfg
from ksim.envs import Env, EnvCarry, StepOutput, make_env
from ksim.envs.carry import PerEnv
from support.jit import quick_jit

MDP = "ksim.mdp"


def cartpole_task(**managers: Any) -> ManagerBasedRlEnvCfg:
    """A cart-pole task of 0.02 s steps: a force on the cart, joints to see, and what is given."""
    terms = {"joint_pos": {"_target_": f"{MDP}.observations.joint_pos"}}
    defaults: dict[str, Any] = {
        "actions": {"force": {"_target_": f"{MDP}.actions.joint_effort", "joints": "slider", "scale": 10.0}},
        "observations": {"actor": {"terms": terms}, "critic": {"terms": terms}},
        "sim": SimCfg(timestep=0.01),
        "decimation": 2,
    }
    return ManagerBasedRlEnvCfg(scene=SceneCfg(num_envs=4, robot="cartpole", terrain="none"), **(defaults | managers))


def kbot_task(**managers: Any) -> ManagerBasedRlEnvCfg:
    """A K-Bot task of 0.02 s steps: position targets, gravity to see, and what is given."""
    terms = {"gravity": {"_target_": f"{MDP}.observations.projected_gravity"}}
    defaults: dict[str, Any] = {
        "actions": {"joints": {"_target_": f"{MDP}.actions.joint_position", "scale": 0.3}},
        "observations": {"actor": {"terms": terms}, "critic": {"terms": terms}},
        "sim": SimCfg(timestep=0.005, iterations=20, ls_iterations=20),
        "decimation": 4,
    }
    return ManagerBasedRlEnvCfg(scene=SceneCfg(num_envs=4, robot="kbot"), **(defaults | managers))


@dataclass(frozen=True)
class Step:
    """One step of all envs, as NumPy."""

    before: EnvCarry
    action: np.ndarray
    out: StepOutput
    after: EnvCarry


class Player:
    """An env with its compiled `reset` and `step`; its results are NumPy."""

    def __init__(self, cfg: ManagerBasedRlEnvCfg, engine: str = "mujoco", threads: int = 1):
        self.env: Env = make_env(cfg, engine, threads)
        self._reset = quick_jit(self.env.reset, static_argnums=1, static_argnames="random_age")
        self._step = quick_jit(self.env.step)

    def reset(self, num_envs: int, seed: int = 0, random_age: bool = False) -> tuple[EnvCarry, dict[str, np.ndarray]]:
        return host(self._reset(jax.random.key(seed), num_envs, random_age=random_age))

    def step(self, state: EnvCarry, action: Any) -> tuple[EnvCarry, StepOutput]:
        return host(self._step(state, jnp.asarray(action, jnp.float32)))

    def play(self, action_TEa: np.ndarray, seed: int = 0, random_age: bool = False) -> list[Step]:
        """Fresh episodes, and a step for each of the actions."""
        state, _ = self.reset(action_TEa.shape[1], seed, random_age)
        steps = []
        for action in np.asarray(action_TEa, np.float32):
            after, out = self.step(state, action)
            steps.append(Step(state, action, out, after))
            state = after
        return steps


def host(tree: Any) -> Any:
    """The tree with NumPy arrays; random keys stay as they are."""
    return jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x), tree)


def own(state: EnvCarry) -> PerEnv:
    """What each env has for itself, without what all of them share."""
    return state.envs


def same(a: Any, b: Any, envs: Any = ...) -> bool:
    """Whether two trees are the same in every bit, random keys included, in some of the envs."""

    def equal(x: Any, y: Any) -> bool:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        return np.array_equal(np.asarray(x)[envs], np.asarray(y)[envs], equal_nan=np.issubdtype(x.dtype, np.floating))

    return jax.tree.structure(a) == jax.tree.structure(b) and all(jax.tree.leaves(jax.tree.map(equal, a, b)))
