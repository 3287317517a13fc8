"""From YAML and overrides to a checked, resolved `Config`; every mistake becomes one `ConfigError`."""

from __future__ import annotations

import dataclasses
import os
import re
import secrets
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

from ksim.config.schema import Config, SceneCfg
from ksim.config.values import describe
from ksim.config.words import choices, hint, listed, one_line, shown
from ksim.errors import ConfigError, KsimError
from ksim.store import checkpoint, run_dir
from ksim.system import trust
from ksim.training.checks import check

CONFIG_NAME = "config"
VERSION_BASE = "1.3"

# Flags of K-Scale's earlier ksim, and what does their work here.
_OLD_FLAGS: dict[str, dict[str | None, str]] = {
    "action": {
        "train": "training is what `python -m ksim.run task=<task>` does; leave it out",
        "env": "`python -m ksim.eval run=<run directory>` films a trained policy",
        None: "there is a command for each action: `python -m ksim.run`, `ksim.eval`, `ksim.bench`",
    },
    "pretrained": {
        None: "`python -m ksim.run init_from=<run directory>` starts from a trained policy, "
        "`python -m ksim.eval run=<run directory>` plays it"
    },
    "checkpoint_num": {None: "`python -m ksim.eval run=<run directory> checkpoint=<step>|best|latest` plays one"},
}


def conf_dir() -> Path:
    """Where the YAML files are: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / f"{CONFIG_NAME}.yaml").is_file():
            return folder
    raise ConfigError(f"{package}: ksim's conf/ folder is neither in the package nor beside it; reinstall ksim")


def _folder_name(overrides: str) -> str:
    """A name for a sweep job's folder."""
    return re.sub(r"[^\w.,=+-]+", "-", str(overrides)).strip("-")[:120] or "default"


ConfigStore.instance().store(name="schema", node=Config)
# Cached, because a launched job must find the launcher's folder.
OmegaConf.register_new_resolver("ksim_folder", _folder_name, use_cache=True, replace=True)


def compose(overrides: Sequence[str] = (), config_dir: str | os.PathLike[str] | None = None) -> Config:
    """The checked config of one run, as `python -m ksim.run <overrides>` would train it.

    Args:
        overrides: as on the command line, such as "algo.num_envs=512".
        config_dir: a folder of the user's own YAML files, searched before ksim's.

    Raises:
        ConfigError: for every mistake in the overrides or in a YAML file.
    """
    with composer(config_dir=config_dir) as load:
        return to_config(load(overrides))


class Loader(typing.Protocol):
    """Composes the YAML files with overrides; for a sweep, the overrides may still hold several values."""

    def __call__(self, overrides: Sequence[str], is_sweep: bool = False) -> DictConfig: ...


@contextmanager
def composer(
    config_dir: str | os.PathLike[str] | None = None,
    config_path: str | os.PathLike[str] | None = None,
    config_name: str = CONFIG_NAME,
) -> Iterator[Loader]:
    """Hydra's composition without its application: nothing is made on disk, no logging is set up.

    Args:
        config_dir: Hydra's --config-dir, searched first.
        config_path: Hydra's --config-path, in place of ksim's own folder.
        config_name: Hydra's --config-name.
    """
    hydra.version.setbase(VERSION_BASE)
    search_path = create_config_search_path(str(Path(config_path).absolute() if config_path else conf_dir()))
    if config_dir is not None:
        if not Path(config_dir).is_dir():
            raise ConfigError(f"--config-dir: there is no folder {Path(config_dir).absolute()}")
        anchor = SearchPathQuery(provider="schema")
        search_path.prepend("command-line", f"file://{Path(config_dir).absolute()}", anchor)
    state = HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    app = Hydra.create_main_hydra2(task_name="ksim", config_search_path=search_path)

    def load(overrides: Sequence[str], is_sweep: bool = False) -> DictConfig:
        try:
            cfg = app.compose_config(
                config_name=config_name,
                overrides=list(overrides),
                run_mode=RunMode.MULTIRUN if is_sweep else RunMode.RUN,
                with_log_configuration=False,
            )
            HydraConfig.instance().set_config(cfg)
        except Exception as error:
            raise ConfigError(_explain(error, app, overrides)) from error
        _refuse_driven(OmegaConf.select(cfg, "task.curriculum"), overrides)
        return cfg

    try:
        yield load
    finally:
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = state


def to_config(cfg: DictConfig) -> Config:
    """Hydra's composition as a `Config` with every interpolation resolved, checked, and a seed drawn if it is null.

    Raises:
        ConfigError: for an unknown key, a missing value, a wrong type or an impossible combination.
    """
    ours = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    _check_given(missing for missing, value in _leaves(OmegaConf.to_container(ours)) if value == MISSING)
    try:
        plain = OmegaConf.to_container(ours, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {_first_line(error)}") from error
    assert isinstance(plain, dict)
    if plain.get("seed") is None:
        plain["seed"] = secrets.randbelow(2**31)
        if isinstance(plain.get("task"), dict) and plain["task"].get("seed") is None:
            plain["task"]["seed"] = plain["seed"]
    config = _typed(plain)
    if config.init_from is not None:
        config = dataclasses.replace(config, init_from=_init_from(config))
    return config


def _init_from(config: Config) -> str:
    """The run directory that `init_from` names, now: `latest` may be another one later."""
    assert config.init_from is not None
    try:
        run = run_dir.open(config.init_from, config.runs_dir)
        checkpoint.find(run.checkpoints, config.init_checkpoint, lambda message: None)
    except KsimError as error:
        raise ConfigError(f"init_from: {error}") from error
    return str(run.path)


def with_overrides(cfg: Config, overrides: Sequence[str]) -> Config:
    """A config that was composed before, with overrides of the same grammar; checked again.

    Raises:
        ConfigError: as `compose`.
    """
    node = OmegaConf.structured(cfg)
    OmegaConf.set_struct(node, True)
    for parsed in parse_overrides(overrides):
        if parsed.is_sweep_override():
            raise ConfigError(f"{parsed.input_line} is a sweep; give one value")
        try:
            ConfigLoaderImpl._apply_overrides_to_config([parsed], node)
        except Exception as error:
            raise ConfigError(_explain(error, None, overrides)) from error
    plain = OmegaConf.to_container(node, resolve=True)
    assert isinstance(plain, dict)
    _refuse_driven(plain["task"]["curriculum"], overrides)
    return _typed(plain)


def _refuse_driven(curriculum: Mapping[str, Any] | None, overrides: Sequence[str]) -> None:
    """Refuse a value on the command line that a curriculum takes the place of: it would do nothing."""
    driven = {
        f"task.{term.get('sets')}": name for name, term in (curriculum or {}).items() if isinstance(term, Mapping)
    }
    for key in (parsed.key_or_group for parsed in parse_overrides(overrides)):
        if key in driven:
            path = f"task.curriculum.{driven[key]}"
            raise ConfigError(f"{key}: {path} sets it, so a value here would do nothing; with {path}=null it counts")


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """Overrides in Hydra's grammar, one by one.

    Raises:
        ConfigError: naming the one that is none.
    """
    parser = OverridesParser.create()
    parsed = []
    for override in overrides:
        try:
            parsed += parser.parse_overrides([override])
        except HydraException as error:
            reason = str(error).strip().split("\nSee https://")[0].split("\n")[-1]
            raise ConfigError(f"{override}: is not an override of the form key=value: {reason}") from error
    return parsed


def freeze(cfg: Config) -> str:
    """The config as YAML; `load_frozen` makes the same `Config` of it."""
    return OmegaConf.to_yaml(OmegaConf.structured(cfg))


def load_frozen(path: str | os.PathLike[str]) -> Config:
    """A run's `config.yaml`.

    Raises:
        ConfigError: where the file cannot be read, is not a config of this version of ksim, or names code that is not
            trusted; see `ksim.system.trust`.
    """
    text = trust.read(Path(path))
    try:
        plain = OmegaConf.to_container(OmegaConf.create(text), resolve=True)
        if not isinstance(plain, dict):
            raise ConfigError("it holds no mapping")
        return _typed(plain)
    except ConfigError as error:
        raise ConfigError(f"{path} is no config of this version of ksim: {error}") from error


def _typed(plain: dict[Any, Any]) -> Config:
    """The mapping in a fresh schema, which also refuses what a leading `+` smuggled in."""
    for key in plain:
        if key not in _fields(Config):
            raise ConfigError(_unknown_key(str(key), ()))
    try:
        typed = OmegaConf.merge(OmegaConf.structured(Config), plain)
    except OmegaConfBaseException as error:
        raise ConfigError(_explain_node(error)) from error
    _check_given(OmegaConf.missing_keys(typed))
    config = OmegaConf.to_object(typed)
    assert isinstance(config, Config)
    _make_absolute(config.task.scene)
    check(config)
    return config


def _make_absolute(scene: SceneCfg) -> None:
    """Paths of the robot's files: a frozen config means the same ones in every working directory."""
    if "/" in scene.robot:
        scene.robot = str(Path(scene.robot).expanduser().absolute())
    if scene.mjcf is not None and "://" not in scene.mjcf:
        scene.mjcf = str(Path(scene.mjcf).expanduser().absolute())


def _check_given(missing: Iterable[str]) -> None:
    if missing := sorted(missing):
        others = f" (nor have {', '.join(missing[1:])})" if len(missing) > 1 else ""
        what = f"<{_expected(missing[0]) or 'value'}>"
        raise ConfigError(f"{missing[0]}: has no value; give it one in a YAML file, or {missing[0]}={what}{others}")


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


# Messages. ------------------------------------------------------------------------------------------------------------


def check_old_flags(keys: Mapping[str, str]) -> None:
    """Refuses the flags of K-Scale's earlier ksim by naming the new command.

    Args:
        keys: overridden key -> value, as text.
    """
    for key, value in keys.items():
        if key in _OLD_FLAGS:
            answers = _OLD_FLAGS[key]
            raise ConfigError(f"{key}={value} is a flag of K-Scale's earlier ksim; {answers.get(value, answers[None])}")


def _explain(error: Exception, app: Hydra | None, overrides: Sequence[str]) -> str:
    """What went wrong while Hydra composed, in one message."""
    if app is not None and isinstance(error, MissingConfigException):
        return _explain_missing_file(error, app)
    if isinstance(error, yaml.YAMLError):
        return f"not valid YAML: {one_line(error)}"
    cause = next(
        (e for e in (error, error.__cause__, error.__context__) if isinstance(e, OmegaConfBaseException)), None
    )
    place = re.match(r"In '([^']+)'", str(error))
    where = f" (in {place[1]}.yaml)" if place else ""
    if cause is not None:
        return _explain_node(cause, overrides) + where
    if isinstance(error, AssertionError) and "NoneType" in str(error):
        # OmegaConf only asserts where an override reaches into a mapping that is null.
        return "an override sets something in what is null, so it can do nothing"
    text = one_line(error)
    if ambiguous := re.match(r"Ambiguous value for argument '(.*?)'", text):
        key, _, value = ambiguous[1].partition("=")
        return f"{ambiguous[1]} is a sweep; add -m to run one training a value (a list is written {key}=[{value}])"
    if sweep := re.match(r"Sweep parameters '(.*?)' requires", text):
        return f"{sweep[1]} is a sweep; add -m to run one training a value"
    if not isinstance(error, HydraException):
        text = f"{type(error).__name__}: {text}"
    return re.sub(r"\s*See https://hydra.cc\S*.*$", "", text)


def _explain_missing_file(error: MissingConfigException, app: Hydra) -> str:
    text = str(error)
    found = re.search(r"Could not (?:find|load) '([^']+)'", text)
    if found is None:
        return one_line(text.split("Config search path")[0].split("Search path")[0])
    if found[1] == "hydra/sweeper/optuna":
        return "sweeper=optuna: needs the extra 'optuna'; install it with: pip install 'ksim[optuna]'"
    group, _, name = found[1].rpartition("/")
    options = sorted(app.config_loader.get_group_options(group)) if group else []
    place = re.match(r"In '([^']+)'", text)
    where = f" (in {place[1]}.yaml)" if place and place[1] != CONFIG_NAME else ""
    return f"{group or 'config'}: there is no '{name}'{hint(name, options)}; there are {listed(options)}{where}"


def _explain_node(error: OmegaConfBaseException, overrides: Sequence[str] = ()) -> str:
    """An error of one node: an unknown key or a wrong type."""
    path = str(error.full_key or "")
    if isinstance(error, ValidationError):
        expected = _expected(path)
        if path and expected:
            value = shown(error.value) if error.value is not None else _overridden_value(path, overrides)
            return f"{path}: must be {expected}{f', not {value}' if value else ''}"
        if merge := re.search(r"is not a subclass of (\w+)\. value: (.*)", _first_line(error)):
            paths = [p for p in _all_paths(Config) if getattr(_dataclass(_annotation(p)), "__name__", "") == merge[1]]
            if paths:
                return f"{paths[0]}: must be a mapping, not {merge[2]}"
        return f"{path}: {_first_line(error)}" if path else _first_line(error)
    if path and ("not in" in str(error.msg) or "is not in struct" in str(error.msg)):
        parent = error.parent_node
        known = [str(k) for k in parent] if isinstance(parent, DictConfig) and not parent._is_none() else []
        return _unknown_key(path, known)
    return f"{path}: {_first_line(error)}" if path else _first_line(error)


def _unknown_key(path: str, known: Iterable[str]) -> str:
    """A message for a key that does not exist, with the nearest that does."""
    parent, _, name = path.rpartition(".")
    schema = _dataclass(_annotation(parent))
    if schema is not None:
        names = list(_fields(schema))
        if not parent and not (near := hint(name, names)):
            elsewhere = [p for p in _all_paths(Config) if p.rpartition(".")[2] == name]
            elsewhere.sort(key=lambda p: not p.startswith("algo."))  # the task's num_envs follows the algorithm's
            near = f" (did you mean '{elsewhere[0]}'?)" if elsewhere else ""
            return f"{path}: no such key{near or choices(names)}"
        return f"{path}: no such key{hint(name, names) or choices(names)}"
    if parent == "logger" and not hint(name, known):
        return f"{path}: is off, so nothing in it can be set; turn it on with logger={name}"
    add = f"; to add it, write +{path}=..." if parent.startswith("task.") else ""
    return f"{path}: no such key{hint(name, known)}{add}"


def _fields(schema: type) -> dict[str, Any]:
    """Field -> annotation."""
    hints = typing.get_type_hints(schema)
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


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
