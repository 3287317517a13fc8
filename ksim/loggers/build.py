"""From the config's `logger` to the loggers of a run."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ksim.config.targets import TARGET, locate
from ksim.config.values import convert, parameters
from ksim.config.words import hint, listed
from ksim.errors import ConfigError, KsimError
from ksim.loggers.logger import Logger, Loggers, RunInfo, warn

_RUN = "run"  # the argument that is not in the config


def check(settings: Mapping[str, Any]) -> None:
    """Find every logger and check its settings against its constructor's annotations; nothing is constructed.

    Args:
        settings: the config's `logger`: name -> `_target_` and keyword arguments; None for one that is off.

    Raises:
        ConfigError: for the first mistake, naming its YAML path; a logger whose package is not installed.
    """
    _resolve(settings)


def build(settings: Mapping[str, Any], run: RunInfo) -> Loggers:
    """Start the loggers. One that cannot start is warned of and left out, unless a setting is to blame.

    Args:
        settings: as for `check`.
        run: what they listen to.

    Raises:
        KsimError: as `check`, or a logger refuses its settings.
    """
    started: dict[str, Logger] = {}
    for name, (target, arguments) in _resolve(settings).items():
        try:
            started[name] = target(run=run, **arguments)
        except KsimError:
            raise
        except Exception as error:
            warn(name, error)
    return Loggers(started)


def _resolve(settings: Mapping[str, Any]) -> dict[str, tuple[Callable[..., Logger], dict[str, Any]]]:
    return {name: _resolve_one(f"logger.{name}", one) for name, one in settings.items() if one is not None}


def _resolve_one(path: str, settings: Any) -> tuple[Callable[..., Logger], dict[str, Any]]:
    if not isinstance(settings, Mapping) or TARGET not in settings:
        raise ConfigError(
            f"{path}: must be a mapping with a '{TARGET}', such as ksim.loggers.wandb.WandbLogger; ksim's own are"
            " turned on with logger=<name>"
        )
    try:
        target = locate(settings[TARGET], path)
    except ConfigError as error:
        if isinstance(error.__cause__, KsimError):  # the module says itself what it lacks
            raise ConfigError(f"{path}: {error.__cause__}") from error
        raise
    known, takes_any = parameters(target)
    if _RUN not in known and not takes_any:
        raise ConfigError(f"{path}: {settings[TARGET]} must take the keyword argument '{_RUN}', a RunInfo")
    known.pop(_RUN, None)
    given = {str(key): value for key, value in settings.items() if key != TARGET}
    for key in given:
        if key not in known and not takes_any:
            near = hint(key, known) or (f"; there are {listed(known)}" if known else "; it takes none")
            raise ConfigError(f"{path}.{key}: no such setting{near}")
    for key, parameter in known.items():
        if parameter.default is inspect.Parameter.empty and key not in given:
            raise ConfigError(f"{path}: '{key}' is missing")
    annotation = {key: parameter.annotation for key, parameter in known.items()}
    return target, {key: convert(value, annotation.get(key, Any), f"{path}.{key}") for key, value in given.items()}
