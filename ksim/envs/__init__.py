"""The environment: a task's terms over a physics engine, in pure functional form."""

from ksim.envs.env import Env, make_env
from ksim.envs.state import EnvState, StepOutput

__all__ = ["Env", "EnvState", "StepOutput", "make_env"]
