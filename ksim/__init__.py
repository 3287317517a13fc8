"""Train policies for simulated robots. What users call is here; it is imported when it is asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what the lazy names below are, for type checkers
    from ksim.envs.api import playground as playground
    from ksim.envs.api.make import make as make
    from ksim.envs.env import Env as Env
    from ksim.policies.saved import load as load_policy
    from ksim.training.start import train as train

__version__ = "0.1.0"
__all__ = ["Env", "__version__", "load_policy", "make", "playground", "train"]

_LAZY = {
    "Env": ("ksim.envs.env", "Env"),
    "load_policy": ("ksim.policies.saved", "load"),
    "make": ("ksim.envs.api.make", "make"),
    "playground": ("ksim.envs.api.playground", ""),
    "train": ("ksim.training.start", "train"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LAZY[name]
    found = import_module(module)
    return getattr(found, attribute) if attribute else found


def __dir__() -> list[str]:
    return sorted(__all__)
