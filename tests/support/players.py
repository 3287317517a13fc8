"""Trained policies in a viewer, for `support.window.Person`: the exports in tests/deploy, played by ONNX Runtime."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ksim.config.compose import compose
from ksim.envs import Env
from ksim.policies.load import Trained
from ksim.policies.onnx import Session
from ksim.rl import Normal, Policy
from ksim.training.experiment import build
from ksim.viz.viewer import InteractiveVisualizerConfig, MujocoInteractiveVisualizer, Simulation
from ksim.viz.viewer.browser import WebInteractiveVisualizer
from ksim.viz.viewer.visualizer import InteractiveVisualizer

DEPLOY = Path(__file__).parents[1] / "deploy"
FORWARD = [0.5, 0.0, 0.0]  # m/s, for what walks


class Exported(Policy):
    """A policy of an ONNX file."""

    session: Session = eqx.field(static=True)
    num_actions: int = eqx.field(static=True)

    def __call__(self, obs: jax.Array, carry: Any = ()) -> tuple[Normal, Any]:
        shape = jax.ShapeDtypeStruct((len(obs), self.num_actions), jnp.float32)
        action = jax.pure_callback(lambda x: self.session(np.asarray(x))[0], shape, obs)
        return Normal(action, jnp.zeros_like(action)), carry

    def spec(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_spec(cls, spec: Any) -> "Exported":
        raise NotImplementedError


def make_env(task: str) -> Env:
    """`kbot_standing` or `kbot_walking`, without the pushes."""
    return build(compose([f"task={task}", "physics=mujoco", "physics.threads=1", "task.events.push=null"])).env


def simulation(task: str, cfg: InteractiveVisualizerConfig) -> Simulation:
    """It with its policy."""
    env = make_env(task)
    policy = Exported(Session((DEPLOY / f"{task}.onnx").read_bytes()), env.action_size)
    sim = Simulation(env, cfg, trained=Trained(policy, None, 1))
    if "velocity" in env.commands.terms:
        sim.set_command("velocity", FORWARD)
    return sim


def _player(base: type[InteractiveVisualizer], task: str) -> InteractiveVisualizer:
    class Player(base):  # type: ignore[misc, valid-type]
        def setup_environment(self) -> Env:
            self.simulation = simulation(task, self.config)
            return self.simulation.env

        def setup_simulation(self, env: Env) -> Simulation:
            return self.simulation

    return Player(InteractiveVisualizerConfig(host="127.0.0.1", port=0, plot_path="plots"))


def window_standing() -> InteractiveVisualizer:
    return _player(MujocoInteractiveVisualizer, "kbot_standing")


def browser_walking() -> InteractiveVisualizer:
    return _player(WebInteractiveVisualizer, "kbot_walking")
