"""From YAML and overrides to a typed, resolved `Config`; every mistake becomes one `ConfigError`.

What is known only from a robot or a term is checked above: see `ksim.training.checks.checked`.
"""

from __future__ import annotations

import dataclasses
import os
import re
import secrets
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ksim.config import algorithm, composition, hydra_internals, launchers
from ksim.config import task as tasks
from ksim.config.empty import empty
from ksim.config.explain import check_given, explain, explain_node, unknown_key
from ksim.config.overrides import parse_overrides, texts
from ksim.config.schema import DEFAULT_EVENT, Config, ManagerBasedRlEnvCfg, SceneCfg
from ksim.config.values import build, settings_of
from ksim.config.words import first_line, hint
from ksim.errors import ConfigError
from ksim.system import trees, trust

CONFIG_NAME = "config"
VERSION_BASE = "1.3"


def _folder_name(overrides: str) -> str:
    """A name for a sweep job's folder."""
    return re.sub(r"[^\w.,=+-]+", "-", str(overrides)).strip("-")[:120] or "default"


launchers.store()
# Cached, because a launched job must find the launcher's folder.
OmegaConf.register_new_resolver("ksim_folder", _folder_name, use_cache=True, replace=True)


def conf_dir() -> Path:
    """Where the YAML files are: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / f"{CONFIG_NAME}.yaml").is_file():
            return folder
    raise ConfigError(f"{package}: ksim's conf/ folder is neither in the package nor beside it; reinstall ksim")


def compose(overrides: Sequence[str] = (), config_dir: str | os.PathLike[str] | None = None) -> Config:
    """The config of one run, as `python -m ksim.run <overrides>` would train it.

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

    def __call__(self, overrides: Sequence[str], is_sweep: bool = False) -> DictConfig:
        """The composed config."""


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
    search_path = hydra_internals.create_config_search_path(
        str(Path(config_path).absolute() if config_path else conf_dir())
    )
    if config_dir is not None:
        if not Path(config_dir).is_dir():
            raise ConfigError(f"--config-dir: there is no folder {Path(config_dir).absolute()}")
        anchor = SearchPathQuery(provider="schema")
        search_path.prepend("command-line", f"file://{Path(config_dir).absolute()}", anchor)
    state = HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    app = hydra_internals.Hydra.create_main_hydra2(task_name="ksim", config_search_path=search_path)

    def composed(overrides: Sequence[str], mode: RunMode) -> DictConfig:
        return app.compose_config(
            config_name=config_name, overrides=list(overrides), run_mode=mode, with_log_configuration=False
        )

    def without_overrides() -> dict[str, Any]:
        try:
            found = _mapping(composed([], RunMode.RUN))
            return found | {"algo": algorithm.with_defaults(found["algo"])}
        except Exception:  # it is only for a better message
            return {}

    def load(overrides: Sequence[str], is_sweep: bool = False) -> DictConfig:
        parse_overrides(overrides)  # whose messages are better than Hydra's
        composition.store(hydra_internals.names_target(app.config_loader, config_name, overrides, "task"))
        try:
            cfg = composed(overrides, RunMode.MULTIRUN if is_sweep else RunMode.RUN)
            HydraConfig.instance().set_config(cfg)
        except Exception as error:
            raise ConfigError(explain(error, overrides, app.config_loader, without_overrides)) from error
        _refuse_driven(OmegaConf.select(cfg, "task.curriculum"), overrides)
        _refuse_removing_nothing(cfg, overrides)
        return cfg

    try:
        yield load
    finally:
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = state


def to_config(cfg: DictConfig) -> Config:
    """The composition that Hydra has just made, typed: every interpolation resolved, and a seed drawn if it is null.

    What the task changes in the algorithm is merged into it, under what the command line says.

    Raises:
        ConfigError: for an unknown key, a missing value, a wrong type or a value out of its limits.
    """
    state: Any = HydraConfig.get()
    overrides = parse_overrides(texts(state.overrides.task))
    ours = _mapping(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]))
    values = [o for o in overrides if o.key_or_group not in state.runtime.choices]
    empty(ours, values, typing.cast(DictConfig, HydraConfig.instance().cfg))
    _refuse_said_twice(ours)
    try:
        places = algorithm.merge_task(ours, str(state.runtime.choices.get("algo")), overrides)
        cls = algorithm.class_of(ours["algo"])
        check_given((path for path, value in trees.leaves(ours) if value == MISSING), cls)
        ours["algo"] = algorithm.with_defaults(ours["algo"])
        plain = _resolved(ours)
        if plain.get("seed") is None:
            plain["seed"] = secrets.randbelow(2**31)
        return _typed(plain, places)
    except ConfigError as error:
        raise _with_its_file(error) from error


def _resolved(ours: dict[str, Any]) -> dict[str, Any]:
    try:
        return _mapping(OmegaConf.create(ours), resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {first_line(error)}") from error


def _mapping(node: Any, resolve: bool = False) -> dict[str, Any]:
    """An OmegaConf mapping as plain ones."""
    return typing.cast(dict[str, Any], OmegaConf.to_container(node, resolve=resolve))


def _with_its_file(error: ConfigError) -> ConfigError:
    """The error with the YAML file that holds what it names, unless the command line does."""
    path = re.split(r"[:\[ ]", str(error), maxsplit=1)[0]
    state: Any = HydraConfig.instance().cfg
    overrides = parse_overrides(texts(state.hydra.overrides.task))
    given = [o.key_or_group for o in overrides if o.key_or_group not in state.hydra.runtime.choices]
    if any(f"{path}.".startswith(f"{key}.") or key.startswith(f"{path}.") for key in given):
        return error
    for name, content in reversed(hydra_internals.layers(state)):
        if trees.get(_mapping(content), path, state) is not state and name != CONFIG_NAME:
            return ConfigError(f"{error} (in {name}.yaml)")
    return error


def with_overrides(cfg: Config, overrides: Sequence[str]) -> Config:
    """A config that was composed before, with overrides of the same grammar.

    Raises:
        ConfigError: as `compose`.
    """
    before = plain(cfg)
    node = typing.cast(DictConfig, OmegaConf.merge(composition.node_of(before["task"]), before))
    OmegaConf.set_struct(node, True)
    for open_node in (node.algo, *([node.task] if tasks.is_foreign(before["task"]) else ())):
        OmegaConf.set_struct(open_node, False)
    parsed_overrides = parse_overrides(overrides)
    for parsed in parsed_overrides:
        if parsed.is_sweep_override():
            raise ConfigError(f"{parsed.input_line} is a sweep; give one value")
        try:
            hydra_internals.apply_override(parsed, node)
        except Exception as error:
            raise ConfigError(explain(error, overrides, compose=lambda: plain(cfg))) from error
    changed = _mapping(node, resolve=True)
    empty(changed, parsed_overrides)
    _refuse_driven(changed["task"].get("curriculum"), overrides)
    _refuse_said_twice(changed)
    return _typed(changed)


def _refuse_said_twice(ours: Mapping[str, Any]) -> None:
    """Take the places away that are filled when the config is typed; nothing may be there."""
    task = ours.get("task")
    if not isinstance(task, dict):
        return
    if (seed := task.pop("seed", None)) is not None:
        raise ConfigError(f"task.seed: is said once, as the run's; write seed={seed}")
    scene = task.get("scene")
    if isinstance(scene, dict) and (num_envs := scene.pop("num_envs", MISSING)) != MISSING:
        raise ConfigError(
            f"task.scene.num_envs: is said once, as the algorithm's; write algo.num_envs={num_envs}, and in a task's"
            f" YAML algo: {{ppo: {{num_envs: {num_envs}}}}}"
        )


def _refuse_driven(curriculum: Mapping[str, Any] | None, overrides: Sequence[str]) -> None:
    """Refuse a value on the command line that a curriculum takes the place of: it would do nothing."""
    driven = {
        f"task.{term.get('sets')}": name for name, term in (curriculum or {}).items() if isinstance(term, Mapping)
    }
    for key in (parsed.key_or_group for parsed in parse_overrides(overrides)):
        if key in driven:
            path = f"task.curriculum.{driven[key]}"
            raise ConfigError(f"{key}: {path} sets it, so a value here would do nothing; with {path}=null it counts")


_TERM = re.compile(r"(task\.(?:scene\.sensors|gate\.conditions|observations\.\w+\.terms|[a-z]+))\.(\w+)")


def _refuse_removing_nothing(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Refuse `+task.rewards.uprigt=null`: what it adds means that something is not there."""
    for parsed in parse_overrides(overrides):
        term = _TERM.fullmatch(parsed.key_or_group)
        if term and parsed.is_add() and parsed.value() is None and term[2] != DEFAULT_EVENT:
            others = [str(name) for name in OmegaConf.select(cfg, term[1]) or () if name != term[2]]
            raise ConfigError(f"{parsed.input_line}: there is nothing to remove{hint(term[2], others)}")


def plain(cfg: Config) -> dict[str, Any]:
    """The config as nested mappings and lists, everything said once: what a run's `config.yaml` holds."""
    mapping = dataclasses.asdict(dataclasses.replace(cfg, algo=None, task=None))
    mapping |= {"algo": algorithm.plain(cfg.algo), "task": tasks.plain(cfg.task)}
    if isinstance(cfg.task, ManagerBasedRlEnvCfg):
        del mapping["task"]["seed"], mapping["task"]["scene"]["num_envs"]
    return mapping


def freeze(cfg: Config) -> str:
    """The config as YAML; `load_frozen` makes the same `Config` of it."""
    return OmegaConf.to_yaml(OmegaConf.create(plain(cfg)))


def load_frozen(path: str | os.PathLike[str]) -> Config:
    """A run's `config.yaml`.

    Raises:
        ConfigError: where the file cannot be read, is not a config of this version of ksim, or names code that is not
            trusted; see `ksim.system.trust`.
    """
    text = trust.read(Path(path))
    try:
        if not isinstance(yaml.safe_load(text), dict):
            raise ConfigError("it holds no mapping")
        frozen = _mapping(OmegaConf.create(text), resolve=True)
        _refuse_said_twice(frozen)
        if "algo" in frozen:
            cls = algorithm.class_of(frozen["algo"])
            check_given((f"algo.{name}" for name in settings_of(cls) if name not in frozen["algo"]), cls)
        return _typed(frozen)
    except ConfigError as error:
        raise ConfigError(f"{path} is not a config of this version of ksim: {error}") from error


def _typed(mapping: Mapping[str, Any], places: Mapping[str, str] | None = None) -> Config:
    """The resolved mapping as a `Config`: strict in every key, type and limit, whatever a leading `+` smuggled in.

    Args:
        mapping: as `plain` gives it.
        places: see `ksim.config.algorithm.build`.
    """
    for key in mapping:
        if key not in settings_of(Config):
            raise ConfigError(unknown_key(str(key), compose=lambda: mapping))
    algo = algorithm.build(mapping["algo"], places) if "algo" in mapping else MISSING
    foreign = tasks.is_foreign(mapping.get("task"))
    own = {"algo", "task"} if foreign else {"algo"}  # with a schema of their own
    try:
        node = OmegaConf.merge(
            composition.node_of(mapping.get("task")), {k: v for k, v in mapping.items() if k not in own}
        )
    except OmegaConfBaseException as error:
        raise ConfigError(explain_node(error)) from error
    if algo != MISSING and "task" in mapping and not foreign:
        # Said once, and handed to the env here.
        node.task.seed, node.task.scene.num_envs = node.seed, algo.num_envs
    check_given({*OmegaConf.missing_keys(node)} - {"algo"} | ({"algo"} if algo == MISSING else set()))
    values = _mapping(node) | {"algo": algo}
    if foreign:
        values["task"] = tasks.build(mapping["task"])
    else:
        values["task"] = build(ManagerBasedRlEnvCfg, values["task"], "task")
        _make_absolute(values["task"].scene)
    config: Config = build(Config, values, "")
    return config


def _make_absolute(scene: SceneCfg) -> None:
    """Paths of the robot's files: a frozen config means the same ones in every working directory."""
    if "/" in scene.robot:
        scene.robot = str(Path(scene.robot).expanduser().absolute())
    if scene.mjcf is not None and "://" not in scene.mjcf:
        scene.mjcf = str(Path(scene.mjcf).expanduser().absolute())
