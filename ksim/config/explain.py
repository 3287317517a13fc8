"""What Hydra's and OmegaConf's errors mean, in one line that names the YAML path and what would be right."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml
from hydra.core.config_loader import ConfigLoader
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException, ValidationError

from ksim.config.schema import Config, ManagerBasedRlEnvCfg
from ksim.config.values import describe
from ksim.config.words import choices, first_line, hint, listed, one_line, shown
from ksim.errors import ConfigError
from ksim.system import trees


def explain(
    error: Exception,
    overrides: Sequence[str],
    loader: ConfigLoader | None = None,
    compose: Callable[[], Mapping[str, Any]] = dict,
) -> str:
    """What went wrong while Hydra composed, in one message.

    Args:
        error: Hydra's or OmegaConf's.
        overrides: of the command line.
        loader: Hydra's, which knows the choices of each group.
        compose: gives the config without the overrides, of which the names are the ones that may be meant.
    """
    if loader is not None and isinstance(error, MissingConfigException):
        return _explain_missing_file(error, loader)
    if isinstance(error, yaml.YAMLError):
        return f"not valid YAML: {one_line(error)}"
    cause = next(
        (e for e in (error, error.__cause__, error.__context__) if isinstance(e, OmegaConfBaseException)), None
    )
    place = re.match(r"In '([^']+)'", str(error))
    where = f" (in {place[1]}.yaml)" if place else ""
    if cause is not None:
        return explain_node(cause, overrides, compose) + where
    if isinstance(error, AssertionError) and "NoneType" in str(error):
        # OmegaConf only asserts where an override reaches into a mapping that is null.
        return "an override sets something in what is null, so it can do nothing"
    text = one_line(error)
    if ambiguous := re.match(r"Ambiguous value for argument '(.*?)'", text):
        key, _, value = ambiguous[1].partition("=")
        return f"{ambiguous[1]} is a sweep; add -m to run one training per value (a list is written {key}=[{value}])"
    if sweep := re.match(r"Sweep parameters '(.*?)' requires", text):
        return f"{sweep[1]} is a sweep; add -m to run one training per value"
    if absent := re.match(r"Could not delete from config\. '(.*?)' does not exist", text):
        parent, _, name = absent[1].rpartition(".")
        return f"~{absent[1]}: there is nothing to remove{hint(name, trees.get(compose(), parent) or ())}"
    if present := re.match(r"Could not append to config\. An item is already at '(.*?)'", text):
        return f"+{present[1]}: is there already; write it without the +"
    if not isinstance(error, HydraException):
        text = f"{type(error).__name__}: {text}"
    return re.sub(r"\s*See https://hydra.cc\S*.*$", "", text)


def _explain_missing_file(error: MissingConfigException, loader: ConfigLoader) -> str:
    text = str(error)
    found = re.search(r"Could not (?:find|load) '([^']+)'", text)
    if found is None:
        return one_line(text.split("Config search path")[0].split("Search path")[0])
    if found[1] == "hydra/sweeper/optuna":
        return "sweeper=optuna: needs the extra 'optuna'; install it with: pip install 'ksim[optuna]'"
    group, _, name = found[1].rpartition("/")
    options = sorted(loader.get_group_options(group)) if group else []
    place = re.match(r"In '([^']+)'", text)
    where = f" (in {place[1]}.yaml)" if place and place[1] != "config" else ""
    return f"{group or 'config'}: there is no '{name}'{hint(name, options)}; there are {listed(options)}{where}"


def explain_node(
    error: OmegaConfBaseException,
    overrides: Sequence[str] = (),
    compose: Callable[[], Mapping[str, Any]] = dict,
) -> str:
    """An error of one node: an unknown key or a wrong type."""
    path = str(error.full_key or "")
    if isinstance(error, ValidationError):
        expected = _expected(path)
        if path and expected:
            value = shown(error.value) if error.value is not None else _overridden_value(path, overrides)
            return f"{path}: must be {expected}{f', not {value}' if value else ''}"
        if merge := re.search(r"is not a subclass of (\w+)\. value: (.*)", first_line(error)):
            paths = [p for p in _all_paths(Config) if getattr(_dataclass(_annotation(p)), "__name__", "") == merge[1]]
            if paths:
                return f"{paths[0]}: must be a mapping, not {merge[2]}"
        return f"{path}: {first_line(error)}" if path else first_line(error)
    if path and ("not in" in str(error.msg) or "is not in struct" in str(error.msg)):
        parent = error.parent_node
        known = [str(k) for k in parent] if isinstance(parent, DictConfig) and not parent._is_none() else []
        return unknown_key(path, known, compose)
    if "does not support deletion" in str(error.msg):
        return f"~{path}: cannot be removed" + (f"; {path}={{}} empties it" if path.startswith("task.") else "")
    if merged := re.search(r"Cannot merge (Dict|List)Config with (Dict|List)Config", str(error.msg)):
        given, there = ("a mapping" if kind == "Dict" else "a list" for kind in merged.groups())
        return f"{path}: must be {there}, not {given}"
    return f"{path}: {first_line(error)}" if path else first_line(error)


def unknown_key(path: str, known: Iterable[str] = (), compose: Callable[[], Mapping[str, Any]] = dict) -> str:
    """A message for a key that does not exist, with the nearest that does.

    Args:
        path: the key.
        known: what there is beside it, where the schema does not say.
        compose: see `explain`.
    """
    parent, _, name = path.rpartition(".")
    schema = _dataclass(_annotation(parent))
    names = list(_fields(schema)) if schema is not None else list(known)
    near = hint(name, names) or _elsewhere(parent, name, compose())
    if schema is not None:
        return f"{path}: no such key{near or choices(names)}"
    if parent == "logger" and not near:
        return f"{path}: is off, so nothing in it can be set; turn it on with logger={name}"
    if parent == "hydra.launcher" and not near:
        return f"{path}: this launcher has no such setting; launcher=slurm and others have their own"
    add = (
        f"; to add it, write +{path}=..."
        if parent.startswith("task.") and not near.startswith(" (did you mean 'task.")
        else ""
    )
    return f"{path}: no such key{near}{add}"


def _elsewhere(parent: str, name: str, config: Mapping[str, Any]) -> str:
    """ " (did you mean 'algo.gamma'?)" for a name that is a key elsewhere, below `parent`."""
    below = trees.get(config, parent) if parent else config
    found = [path for path in trees.paths(below, parent) if path.rpartition(".")[2] == name and path != name]
    found.sort(key=lambda path: (not path.startswith("algo."), path.count(".")))
    return f" (did you mean '{found[0]}'?)" if found else ""


def _fields(schema: type) -> dict[str, Any]:
    """Field -> annotation."""
    hints = typing.get_type_hints(schema)
    if schema is Config:
        hints["task"] = ManagerBasedRlEnvCfg  # what it is where it has no `_target_`
    return {f.name: hints[f.name] for f in dataclasses.fields(schema)}


def _dataclass(annotation: Any) -> type | None:
    """The dataclass that an annotation is, or that it allows besides null."""
    options = (annotation, *typing.get_args(annotation))
    return next((o for o in options if isinstance(o, type) and dataclasses.is_dataclass(o)), None)


def _annotation(path: str) -> Any:
    """What the schema says about a path; None where it says nothing."""
    annotation: Any = Config
    for part in re.findall(r"[^.\[\]]+", path):
        schema = _dataclass(annotation)
        if schema is None and part.isdigit():
            annotation = next(iter(typing.get_args(annotation)), None)
        else:
            annotation = _fields(schema).get(part) if schema else None
    return annotation


def _all_paths(schema: type, prefix: str = "") -> Iterator[str]:
    for name, annotation in _fields(schema).items():
        yield prefix + name
        if inner := _dataclass(annotation):
            yield from _all_paths(inner, f"{prefix}{name}.")


def _expected(path: str) -> str:
    annotation = _annotation(path)
    return "" if annotation is None else describe(annotation)


def _overridden_value(path: str, overrides: Sequence[str]) -> str:
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if key == path:
            return value
    return ""


def check_given(missing: Iterable[str], algorithm: type | None = None) -> None:
    """Refuse paths that have no value.

    Raises:
        ConfigError: naming the first one, and what it could be.
    """
    if missing := sorted(missing):
        path = missing[0]
        others = f" (nor have {', '.join(missing[1:])})" if len(missing) > 1 else ""
        expected = _expected(path)
        if algorithm is not None and path.startswith("algo."):
            hints = typing.get_type_hints(algorithm)
            expected = describe(hints[name]) if (name := path.removeprefix("algo.")) in hints else ""
        what = f"<{expected or 'value'}>"
        raise ConfigError(f"{path}: has no value; give it one in a YAML file, or {path}={what}{others}")
