"""The installed `playground` package: its environments by name, its settings checked, the robots' files found."""

import contextlib
import io
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from ksim.config.words import hint, listed
from ksim.errors import ConfigError
from ksim.system import jax_setup

MENAGERIE = "KSIM_MENAGERIE"  # environment variable: a folder of MuJoCo Menagerie, where none is given
NEEDS = "needs the package playground, the last release for JAX: pip install 'ksim[playground]'"

_lock = threading.Lock()  # Playground looks for the robots' files where a global of its own says


@cache
def package() -> ModuleType:
    """`mujoco_playground`, imported without what it and MJX print.

    Raises:
        ConfigError: it is not installed, or not for JAX.
    """
    jax_setup.import_mjx_quietly()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            import mujoco_playground  # an optional extra
            from mujoco_playground._src import mjx_env  # what its environments step through
    except ImportError as error:
        raise ConfigError(f"MuJoCo Playground {NEEDS} ({error})") from error
    assert mujoco_playground.MjxEnv is mjx_env.MjxEnv
    return mujoco_playground


def functions() -> ModuleType:
    """The module of the functions that all of its environments step through."""
    package()
    from mujoco_playground._src import mjx_env  # an optional extra

    return mjx_env


def names() -> tuple[str, ...]:
    """Every environment of the registry."""
    return tuple(package().registry.ALL_ENVS)


def check_name(name: str, path: str = "env") -> None:
    """Refuse what the registry does not have.

    Raises:
        ConfigError: naming the nearest.
    """
    if name not in names():
        near = hint(name, names()) or f"; there are {listed(names())}"
        raise ConfigError(f"{path}: MuJoCo Playground has no {name!r}{near}")


def default_config(name: str) -> Any:
    """The environment's own settings, an `ml_collections.ConfigDict`."""
    return package().registry.get_default_config(name)


def check_overrides(name: str, overrides: Mapping[str, Any], path: str = "config_overrides") -> None:
    """Refuse settings that an environment does not have, and values of another type.

    Args:
        name: of the environment.
        overrides: flat, dotted keys for nested settings.
        path: where they stand, for messages.

    Raises:
        ConfigError: naming the key.
    """
    config = default_config(name)
    known = list(_leaves(config))
    for key, value in overrides.items():
        if key not in known:
            raise ConfigError(
                f"{path}.{key}: {name} has no such setting{hint(key, known) or f'; it has {listed(known)}'}"
            )
        try:
            config.update_from_flattened_dict({key: value})
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{path}.{key}: {' '.join(str(error).split())}") from error


def flat(overrides: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys: what Playground takes."""
    found: dict[str, Any] = {}
    for key, value in overrides.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def load(name: str, overrides: Mapping[str, Any], *, impl: str = "jax", menagerie: str | None = None) -> Any:
    """An environment of the registry, a `mujoco_playground.MjxEnv`.

    Args:
        name: of the registry.
        overrides: of its settings, flat, dotted keys for nested ones.
        impl: of MJX.
        menagerie: folder of MuJoCo Menagerie, for the environments whose robots are there.

    Raises:
        ConfigError: there is no such environment or setting, or its robot's files are nowhere.
    """
    check_name(name)
    check_overrides(name, overrides)
    given = {"impl": impl} if "impl" in default_config(name) else {}
    registry = package().registry
    with _lock, _files(name, menagerie):
        try:
            return registry.load(name, config_overrides={**given, **overrides})
        except NotImplementedError as error:
            raise ConfigError(f"{name}: MJX has no {error}") from error
        except (OSError, ValueError) as error:
            if not needs_menagerie(name):
                raise ConfigError(f"{name}: {' '.join(str(error).split())}") from error
            raise ConfigError(f"{name}: {_where_files_are(str(error))}") from error


def needs_menagerie(name: str) -> bool:
    """Whether an environment's robot is in MuJoCo Menagerie; the dm_control suite brings its own."""
    return name not in package().dm_control_suite.ALL_ENVS


def domain_randomizer(name: str) -> Callable[..., Any]:
    """The registry's own, `(mjx model, (E, 2) keys) -> (models, vmap axes)`.

    Raises:
        ConfigError: it has none for this environment.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # it prints where it has none
        found = package().registry.get_domain_randomizer(name)
    if found is None:
        raise ConfigError(f"task.domain_randomization: MuJoCo Playground has none for {name}")
    return found


@contextlib.contextmanager
def _files(name: str, menagerie: str | None) -> Iterator[None]:
    """Have Playground find the robots' files; of its own, it clones all of Menagerie into its package."""
    if not needs_menagerie(name):
        yield
        return
    module: Any = functions()
    before = module.MENAGERIE_PATH
    if menagerie := menagerie or os.environ.get(MENAGERIE):
        if not Path(menagerie).is_dir():
            raise ConfigError(f"{name}: there is no folder {Path(menagerie).absolute()}; {_where_files_are('')}")
        place: Any = module.epath.Path(Path(menagerie).absolute())
    else:
        place = before if before.exists() else _Fetched(name)
    module.MENAGERIE_PATH = place
    try:
        yield
    finally:
        module.MENAGERIE_PATH = before


class _Fetched:
    """MuJoCo Menagerie as the package `mujoco-menagerie` has it: a robot is fetched when it is asked for."""

    def __init__(self, name: str):
        try:
            import mujoco_menagerie  # optional
        except ModuleNotFoundError as error:
            raise ConfigError(f"{name}: {_where_files_are('')}") from error
        self._package = mujoco_menagerie

    def exists(self) -> bool:
        return True

    def __truediv__(self, robot: str) -> Any:
        try:
            return functions().epath.Path(self._package.get(str(robot)).path(progress=None))
        except (self._package.MenagerieError, OSError) as error:
            raise OSError(f"mujoco-menagerie could not fetch {robot}: {error}") from error


def _where_files_are(reason: str) -> str:
    said = f" ({' '.join(reason.split())[:200]})" if reason else ""
    return (
        "its robot's files are in MuJoCo Menagerie and were not found; pip install mujoco-menagerie fetches them when"
        " they are needed, or clone https://github.com/google-deepmind/mujoco_menagerie and name its folder with"
        f" task.menagerie=<folder> (from Python: menagerie=) or {MENAGERIE}{said}"
    )


def _leaves(config: Any, prefix: str = "") -> Iterator[str]:
    for key, value in config.items():
        yield f"{prefix}{key}"
        if hasattr(value, "items"):
            yield from _leaves(value, f"{prefix}{key}.")
