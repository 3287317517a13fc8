"""An env by the name of its task, for people who want the env and none of the training."""

import dataclasses
from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, overload

from ksim.config.compose import compose
from ksim.config.schema import TaskCfg
from ksim.config.words import hint, listed
from ksim.envs.api.manager_based import ManagerBasedRlEnv
from ksim.envs.check import check_task
from ksim.envs.env import Env, make_env
from ksim.errors import ConfigError
from ksim.physics import choose_engine
from ksim.system import jax_setup

if TYPE_CHECKING:
    from ksim.envs.api.gymnasium import GymnasiumVectorEnv

APIS = ("functional", "manager", "gymnasium")
Path = str | PathLike[str]


@overload
def make(
    task: str,
    *,
    num_envs: int | None = None,
    api: Literal["functional"] = "functional",
    overrides: Sequence[str] = (),
    config_dir: Path | None = None,
) -> Env: ...
@overload
def make(
    task: str,
    *,
    num_envs: int | None = None,
    api: Literal["manager"],
    overrides: Sequence[str] = (),
    config_dir: Path | None = None,
    device: str | None = None,
    render_mode: str | None = None,
) -> ManagerBasedRlEnv: ...
@overload
def make(
    task: str,
    *,
    num_envs: int | None = None,
    api: Literal["gymnasium"],
    overrides: Sequence[str] = (),
    config_dir: Path | None = None,
    device: str | None = None,
    render_mode: str | None = None,
    group: str | None = None,
) -> "GymnasiumVectorEnv": ...
def make(
    task: str,
    *,
    num_envs: int | None = None,
    api: Literal["functional", "manager", "gymnasium"] = "functional",
    overrides: Sequence[str] = (),
    config_dir: Path | None = None,
    **options: Any,
) -> "Env | ManagerBasedRlEnv | GymnasiumVectorEnv":
    """The env of a task of `conf/task/`, as `python -m ksim.run task=<task> <overrides>` would train on it.

    Args:
        task: its name.
        num_envs: parallel envs; None for as many as the config has. The functional env is told at its `reset`.
        api: `functional` for pure functions on a state of the caller's, `manager` for the face of Isaac Lab and
            mjlab, `gymnasium` for a `gymnasium.vector.VectorEnv`.
        overrides: as on the command line: "seed=3", "physics=mjx", "task.rewards.upright.weight=2".
        config_dir: a folder of the caller's own YAML files, searched before ksim's.
        **options: of `manager` and `gymnasium`: `device` and `render_mode`, as `ManagerBasedRlEnv` takes them; of
            `gymnasium`: `group`, as `GymnasiumVectorEnv` takes it.

    Raises:
        ConfigError: a mistake in an argument, an override or a YAML file.
    """
    if api not in APIS:
        raise ConfigError(f"api: there is no {api!r}{hint(api, APIS)}; there are {listed(APIS)}")
    cfg = compose([f"task={task}", *overrides], config_dir)
    foreign = isinstance(cfg.task, TaskCfg)
    if foreign and api != "functional":
        raise ConfigError(f"api={api} is a face of tasks of terms; task={task} has api=functional")
    if num_envs is not None and not foreign:  # algo.num_envs would have to fit the learner's minibatches, too
        cfg.task = dataclasses.replace(cfg.task, scene=dataclasses.replace(cfg.task.scene, num_envs=num_envs))
    check_task(cfg.task)
    physics = cfg.physics
    if api == "functional":
        if options:
            raise ConfigError(f"{next(iter(options))}: is an option of the stateful faces; choose one with api=")
        jax_setup.prepare(physics.engine)
        engine = choose_engine(physics.engine, jax_setup.backend(), physics.threads).engine
        return make_env(cfg.task, engine, physics.threads)
    group = {"group": options.pop("group", None)} if api == "gymnasium" else {}
    known = {"device": None, "render_mode": None}
    for name in options:
        if name not in known:
            raise ConfigError(f"{name}: no such option of api={api}{hint(name, [*known, *group])}")
    env = ManagerBasedRlEnv(cfg.task, **known | options, engine=physics.engine, threads=physics.threads)
    if api == "manager":
        return env
    try:
        from ksim.envs.api.gymnasium import GymnasiumVectorEnv  # an optional extra
    except ModuleNotFoundError as error:
        raise ConfigError("api=gymnasium needs the package gymnasium: pip install 'ksim[gym]'") from error
    return GymnasiumVectorEnv(env, **group)
