"""A bead on a wire: an action is its speed."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import mujoco

from ksim.config.fields import setting
from ksim.config.schema import TaskCfg
from ksim.envs.foreign import ForeignEnv, Moment
from ksim.errors import ConfigError
from ksim.physics import PhysicsState

XML = "<mujoco><worldbody><body><joint name='x' type='slide'/><geom size='.1'/></body></worldbody></mujoco>"


@dataclass(kw_only=True)
class BeadCfg(TaskCfg):
    end: float = setting(2.0, above=0)
    sign: int = 1

    def check(self):
        if self.sign not in (-1, 1):
            raise ConfigError(f"task.sign: must be -1 or 1, not {self.sign}")

    def make_env(self, engine, threads):
        return BeadEnv(self)

    @classmethod
    def algo_settings(cls, task):
        return {"ppo": {"gamma": 0.9, "lam": 0.8}}


class BeadEnv(ForeignEnv):
    about = "a bead on a wire"

    def __init__(self, cfg):
        model = mujoco.MjModel.from_xml_string(XML)
        super().__init__(cfg, model, step_dt=0.1, max_episode_steps=4, action_names=["speed"])

    def first(self, key, model_fields):
        return self._moment(jax.random.uniform(key), 0.0)

    def next(self, state, action_a, model_fields):
        return self._moment(state + self.cfg.sign * action_a[0], action_a[0])

    def physics_of(self, state):
        nothing = jnp.zeros((*state.shape, 0))
        return PhysicsState(state[..., None], 0.0 * state[..., None], nothing, 0.0 * state[..., None], {})

    def _moment(self, x, reward):
        obs = {"actor": x[None], "critic": jnp.stack([x, x**2])}
        return Moment(x, obs, jnp.asarray(reward, jnp.float32), x > self.cfg.end, {"height": x})
