"""Whose code a run's config may name: ksim's terms, what the user allows, and everything in the user's own runs.

A `_target_` is called, so that the config of a downloaded run could run any code. What composes a config from the
user's own YAML files and command line asks nobody; what reads one from a run directory goes through `read`.

A run of one's own is known by a signature beside its config, made with a key that lies in the user's folder.
"""

import hashlib
import hmac
import importlib
import os
import re
import secrets
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from ksim.errors import ConfigError
from ksim.system import foreign, trees

VARIABLE = "KSIM_TRUST"
TARGET = "_target_"  # the key in a config that names code
_ENGINE = "physics.engine"
_OPTION = "trust="
# What configs name; the rest of ksim writes files.
_ROOMS = ("ksim.mdp", "ksim.rl", "ksim.loggers", "ksim.physics", "ksim.envs.playground.task")
_LIMIT = 2**20  # bytes; the config of a walking humanoid has some ten thousand
_SIGNATURE = ".config.signature"
_KEY_BYTES = 32

_allowed: str | None = None


def take_option(argv: Sequence[str]) -> list[str]:
    """A command line without `trust=...`, which holds for this process from now on; else `KSIM_TRUST` does."""
    global _allowed
    for argument in argv:
        if argument.startswith(_OPTION):
            _allowed = argument.removeprefix(_OPTION)
    return [argument for argument in argv if not argument.startswith(_OPTION)]


def read(path: Path) -> str:
    """The text of a frozen config, of whose code nothing was imported but what is trusted.

    Raises:
        ConfigError: it cannot be read, is not valid YAML, or names code that is not trusted, with what to write.
    """
    try:
        text = foreign.read_regular(path, _LIMIT)
        plain = foreign.parse_yaml(text)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    allowed = _packages()
    if allowed is not None and (others := _others(plain)) and not _is_signed(path, text):
        _check(path, others, allowed)
    return text.decode()


def check_policy(manifest: Path, target: str) -> None:
    """Look at the class that a checkpoint's manifest names, before it is imported.

    Raises:
        ConfigError: it is not trusted, with what to write.
    """
    allowed = _packages()
    others = _others({"policy": {TARGET: target}})
    config = manifest.parent.parent.parent / "config.yaml"  # of the run that the checkpoint is in, if it is in one
    if allowed is None or not others:
        return
    try:
        if _is_signed(config, foreign.read_regular(config, _LIMIT)):
            return
    except (OSError, ValueError):
        pass
    _check(manifest, others, allowed)


def sign(path: Path) -> None:
    """Mark a frozen config, just written, as the user's own, where it names other code than ksim's.

    Where that cannot be done, the run is one that `trust=` is needed for.
    """
    try:
        text = path.read_bytes()
        if _others(foreign.parse_yaml(text)):
            temp = path.with_name(f"{_SIGNATURE}.tmp-{os.getpid()}")
            temp.write_text(_hmac(_key(), text))
            os.replace(temp, path.with_name(_SIGNATURE))
        else:
            unsign(path)
    except OSError:
        return


def unsign(path: Path) -> None:
    """Take the mark away from a config that goes."""
    path.with_name(_SIGNATURE).unlink(missing_ok=True)


@contextmanager
def everything() -> Iterator[None]:
    """Where another process has looked already, as a sweep's launcher at the configs of its jobs."""
    global _allowed
    before, _allowed = _allowed, "true"
    try:
        yield
    finally:
        _allowed = before


def _packages() -> tuple[str, ...] | None:
    """The packages that the user allows; None where it is all of them."""
    given = os.environ.get(VARIABLE, "") if _allowed is None else _allowed
    if given.lower() == "true":
        return None
    return tuple(name for name in given.replace(" ", "").strip("[]").split(",") if name and name.lower() != "false")


def _others(plain: Any) -> dict[str, str]:
    """What a config could run besides ksim's own terms: YAML path -> target, or an interpolation's text."""
    found = {}
    for path, value in trees.leaves(plain):
        if _is_target(path, value):
            if not isinstance(value, str) or not _is_ksims(value):
                found[path] = str(value)
        elif isinstance(value, str) and ("${" in value or _smuggles(value)):
            found[path] = value
    return found


def _smuggles(text: str) -> bool:
    """Whether an override that is kept as a text (of a gate's condition) names other code than ksim's."""
    named = re.findall(rf"{TARGET}\s*[:=]\s*([\w.]+)", text)
    return text.count(TARGET) != len(named) or not all(_is_ksims(target) for target in named)


def _is_ksims(target: str) -> bool:
    return any(_is_defined_in(target, room) for room in _ROOMS)


def _is_target(path: str, value: Any) -> bool:
    """Whether a leaf of a config names code. An engine that is a dotted path does, too."""
    is_engine = path == _ENGINE and isinstance(value, str) and "." in value
    return is_engine or path.rpartition(".")[2] == TARGET


def _check(path: Path, others: Mapping[str, str], allowed: Sequence[str]) -> None:
    needed = []
    for place, value in others.items():
        if not _is_target(place, value):
            does = "is resolved in a frozen config" if "${" in value else "may name any code"
            raise ConfigError(f"{path}: {place}: {value!r} {does}; write trust=true to read it")
        package = next((name for name in allowed if _is_inside(value, name)), None)
        if package is None:
            needed.append((place, value))
        elif not _is_defined_in(value, package):
            raise ConfigError(
                f"{path}: {place}: {value} is not defined in {package}; trust=true allows it all the same"
            )
    if needed:
        place, value = needed[0]
        names = dict.fromkeys(value.partition(".")[0] for _, value in needed)
        trust = "true" if "ksim" in names else ",".join([*allowed, *names])
        raise ConfigError(
            f"{path}: {place}: {value} is not one of ksim's terms, and this run was not made by your ksim: it could do"
            f" anything to your machine. If you know what it does, write trust={trust}"
        )


def _is_inside(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")


def _is_defined_in(target: str, package: str) -> bool:
    """Whether a function or class is a trusted package's own, and not one that it imports, such as `os.system`.

    Only the package itself is imported. What does not exist there, or cannot be imported, is nothing to fear.
    """
    first, *rest = target.split(".")
    if not _is_inside(target, package) or any(part.startswith("_") for part in rest):
        return False
    try:
        found: Any = importlib.import_module(first)
        for part in rest:
            if isinstance(found, types.ModuleType) and not hasattr(found, part):
                importlib.import_module(f"{found.__name__}.{part}")
            found = getattr(found, part)
            if isinstance(found, types.ModuleType) and not (
                _is_inside(found.__name__, package) or _is_inside(package, found.__name__)
            ):
                return False
    except Exception:  # `ksim.config.targets.locate` says what is wrong
        return True
    return _is_inside(str(getattr(found, "__module__", None)), package)


def _is_signed(path: Path, text: bytes) -> bool:
    try:
        signature = foreign.read_regular(path.with_name(_SIGNATURE), 1000)
        key = _key_path().read_bytes()
    except (OSError, ValueError):
        return False
    return len(key) == _KEY_BYTES and hmac.compare_digest(signature, _hmac(key, text).encode())


def _hmac(key: bytes, text: bytes) -> str:
    return hmac.new(key, text, hashlib.sha256).hexdigest()


def _key_path() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "ksim" / "key"


def _key() -> bytes:
    """The user's key; made where there is none. Raises OSError."""
    path = _key_path()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temp = path.with_name(f".key.tmp-{os.getpid()}-{secrets.token_hex(4)}")
        fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(fd, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
        try:
            os.link(temp, path)  # only the first of several processes makes it
        except FileExistsError:
            pass
        finally:
            temp.unlink()
    return path.read_bytes()
