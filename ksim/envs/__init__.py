"""The environment: a task's terms over a physics engine, in pure functional form, and its stateful faces."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ksim.config.schema import ManagerBasedRlEnvCfg
from ksim.envs.env import Env, make_env
from ksim.envs.state import EnvState, StepOutput

if TYPE_CHECKING:
    from ksim.envs.api.make import make as make
    from ksim.envs.api.manager_based import ManagerBasedRlEnv as ManagerBasedRlEnv

__all__ = ["Env", "EnvState", "ManagerBasedRlEnv", "ManagerBasedRlEnvCfg", "StepOutput", "make", "make_env"]

# These check and compose configs, whose modules import this package; so they are imported when they are asked for.
_LATE = {"ManagerBasedRlEnv": "ksim.envs.api.manager_based", "make": "ksim.envs.api.make"}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATE[name]), name)
