"""The environment: a task's terms over a physics engine, in pure functional form, and its stateful faces."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ksim.config.schema import ManagerBasedRlEnvCfg as ManagerBasedRlEnvCfg
    from ksim.envs.api.make import make as make
    from ksim.envs.api.manager_based import ManagerBasedRlEnv as ManagerBasedRlEnv
    from ksim.envs.carry import EnvCarry as EnvCarry
    from ksim.envs.carry import StepOutput as StepOutput
    from ksim.envs.env import Env as Env
    from ksim.envs.env import make_env as make_env
    from ksim.envs.traits import term as term

# Imported when they are asked for: a picture needs this package's markers and not JAX, a term needs no face.
_MODULES = {
    "Env": "ksim.envs.env",
    "EnvCarry": "ksim.envs.carry",
    "ManagerBasedRlEnv": "ksim.envs.api.manager_based",
    "ManagerBasedRlEnvCfg": "ksim.config.schema",
    "StepOutput": "ksim.envs.carry",
    "make": "ksim.envs.api.make",
    "make_env": "ksim.envs.env",
    "term": "ksim.envs.traits",
}
__all__ = ["Env", "EnvCarry", "ManagerBasedRlEnv", "ManagerBasedRlEnvCfg", "StepOutput", "make", "make_env", "term"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
