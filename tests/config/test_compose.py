"""The configuration: what the shipped YAML composes to, how it is frozen, and where it is found."""

import dataclasses
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from support.runs import fresh

from ksim.config import compose
from ksim.config.compose import freeze, load_frozen
from ksim.config.schema import Config, ManagerBasedRlEnvCfg, SceneCfg
from ksim.errors import ConfigError

REPO = Path(__file__).resolve().parent.parent.parent
FILES = {path.stem: yaml.safe_load(path.read_text()) for path in (REPO / "conf" / "task").glob("*.yaml")}
LAYERS = {"rough_ground"}  # for another task's defaults
TASKS = sorted(name for name, task in FILES.items() if "_target_" not in task and name not in LAYERS)  # those of terms
# What tasks leave to the user.
GIVEN = {
    "standing": ["task.scene.robot=kbot"],
    "walking": ["task.scene.robot=kbot"],
}


@pytest.fixture
def user_dir(tmp_path):
    """A folder of the user's own YAML files; call it with a task's YAML."""

    def write(text: str, name: str = "mine", group: str = "task") -> Path:
        path = tmp_path / "conf" / group / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return tmp_path / "conf"

    return write


@pytest.mark.parametrize("task", TASKS)
def test_every_task_composes(task):
    cfg = compose.compose([f"task={task}", *GIVEN.get(task, [])])
    assert isinstance(cfg, Config) and cfg.name == task
    assert cfg.algo.rollout_length * cfg.algo.num_envs == cfg.algo.dataset_size


@pytest.mark.parametrize("engine", ["auto", "mjx", "mujoco"])
def test_every_engine_composes(engine):
    assert compose.compose([f"physics={engine}"]).physics.engine == engine


def test_loggers_compose():
    assert compose.compose(["logger=local"]).logger == {}
    assert compose.compose(["logger=wandb", "logger.wandb.mode=offline"]).logger["wandb"]["mode"] == "offline"
    both = compose.compose(["logger=[tensorboard,wandb]", "logger.tensorboard.flush_s=1.0", "logger.wandb.tags=[a]"])
    assert both.logger["tensorboard"]["flush_s"] == 1.0 and both.logger["wandb"]["tags"] == ["a"]


def test_kbot_standing_is_the_default_task():
    assert compose.compose().name == "kbot_standing"


def test_the_scene_and_the_task_follow_num_envs_and_seed():
    cfg = compose.compose(["algo.num_envs=512", "seed=7"])
    assert cfg.task.scene.num_envs == 512
    assert cfg.task.seed == 7


def test_a_null_seed_is_drawn_and_frozen(tmp_path):
    first, second = compose.compose(["seed=null"]), compose.compose(["seed=null"])
    assert isinstance(first.seed, int) and first.task.seed == first.seed
    assert first.seed != second.seed
    (tmp_path / "config.yaml").write_text(freeze(first))
    assert load_frozen(tmp_path / "config.yaml").seed == first.seed


@pytest.mark.parametrize("task", TASKS)
def test_a_frozen_config_is_the_same_config(task, tmp_path):
    cfg = compose.compose([f"task={task}", *GIVEN.get(task, []), "logger=[wandb,tensorboard]"])
    (tmp_path / "config.yaml").write_text(freeze(cfg))
    assert load_frozen(tmp_path / "config.yaml") == cfg
    assert list(load_frozen(tmp_path / "config.yaml").task.rewards) == list(cfg.task.rewards)
    assert "${" not in freeze(cfg)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["algo"].update(learning_rat=1), r"algo\.learning_rat: no such key \(did you mean 'learning_rate'"),
        (lambda c: c["algo"].pop("gamma"), r"algo\.gamma: has no value"),
        (lambda c: c["algo"].update(gamma="x"), r"algo\.gamma: must be a number, not 'x'"),
        (lambda c: c.pop("task"), r"task: has no value"),
        (lambda c: c.update(extra=1), r"extra: no such key"),
    ],
)
def test_a_frozen_config_that_does_not_fit_says_where(change, message, tmp_path):
    plain = yaml.safe_load(freeze(compose.compose()))
    change(plain)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(plain))
    with pytest.raises(ConfigError, match=rf"config\.yaml is not a config of this version of ksim: {message}"):
        load_frozen(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "is not valid YAML"), ("3", "holds no mapping"), ("- 3", "holds no mapping"), (None, "cannot be read")],
)
def test_a_file_that_is_no_config_says_so(text, message, tmp_path):
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_frozen(path)


def test_no_default_is_written_twice():
    """An algorithm's settings have theirs in its class, and a task's YAML states only what differs."""
    assert list(yaml.safe_load((REPO / "conf" / "algo" / "ppo.yaml").read_text())) == ["_target_"]
    defaults = ManagerBasedRlEnvCfg(decimation=0, scene=SceneCfg(num_envs=0, robot=""))
    for task in TASKS:
        plain = yaml.safe_load((REPO / "conf" / "task" / f"{task}.yaml").read_text())
        for key in ("episode_length_s", "is_finite_horizon", "scale_rewards_by_dt"):
            assert plain.get(key) != getattr(defaults, key), f"{task} repeats {key}"
        for group in ("sim", "viewer"):
            for key, value in plain.get(group, {}).items():
                assert value != getattr(getattr(defaults, group), key), f"{task} repeats {group}.{key}"


def test_a_task_is_given_by_keywords():
    with pytest.raises(TypeError, match="positional argument"):
        ManagerBasedRlEnvCfg(2, SceneCfg(num_envs=1, robot="cartpole"))


def test_a_task_fits_on_one_screen():
    """And what is the same for all robots, on two."""
    for task in TASKS:
        limit = 120 if task in GIVEN else 80
        assert len((REPO / "conf" / "task" / f"{task}.yaml").read_text().splitlines()) <= limit


# Events: the default, and how a task is rid of it. --------------------------------------------------------------------

_MINIMAL = """
scene: {robot: cartpole, terrain: none}
decimation: 2
actions: {force: {_target_: ksim.mdp.actions.joint_effort}}
observations: {actor: {terms: {q: {_target_: ksim.mdp.observations.joint_pos}}}}
"""
_DEFAULT = "reset_scene_to_default"
_PUSH = "{_target_: ksim.mdp.events.push, mode: interval, interval_range_s: [1.0, 2.0], speed: 0.3}"


@pytest.mark.parametrize(
    ("yaml_events", "overrides", "expected"),
    [
        ("", [], [_DEFAULT]),
        ("events: {}", [], []),
        ("events: null", [], [_DEFAULT]),
        (f"events: {{push: {_PUSH}}}", [], [_DEFAULT, "push"]),
        (f"events: {{push: {_PUSH}, {_DEFAULT}: null}}", [], ["push"]),
        ("", ["task.events={}"], []),
        ("", [f"+task.events.push={_PUSH}"], [_DEFAULT, "push"]),
        ("", [f"+task.events.{_DEFAULT}=null"], []),
        (f"events: {{push: {_PUSH}}}", ["task.events={}"], []),
        (f"events: {{push: {_PUSH}}}", ["task.events={}", f"+task.events.kick={_PUSH}"], [_DEFAULT, "kick"]),
        (f"events: {{push: {_PUSH}}}", [f"+task.events.kick={_PUSH}", "task.events={}"], []),
        (f"events: {{push: {_PUSH}}}", ["task.events={}", "task.events=null"], [_DEFAULT]),
    ],
)
def test_the_default_event(user_dir, yaml_events, overrides, expected):
    cfg = compose.compose(["task=mine", *overrides], user_dir(_MINIMAL + yaml_events))
    assert [name for name, term in cfg.task.events.items() if term is not None] == expected
    assert cfg == dataclasses.replace(cfg, task=dataclasses.replace(cfg.task))  # nothing is added a second time


@pytest.mark.parametrize("group", ["events", "terminations", "rewards", "metrics"])
def test_an_empty_mapping_removes_all_terms(user_dir, group, tmp_path):
    """On the command line and in a derived task; what is added after it stays."""
    folder = user_dir(f"defaults: [kbot_standing, _self_]\n{group}: {{}}\n", name="none")
    base = compose.compose(["task=kbot_standing"])
    assert len(getattr(base.task, group)) > 1
    changed = [
        compose.compose(["task=none"], folder),
        compose.compose([f"task.{group}={{}}"]),
        compose.with_overrides(base, [f"task.{group}={{}}"]),
    ]
    for cfg in changed:
        assert getattr(cfg.task, group) == {}
        assert cfg == dataclasses.replace(base, name=cfg.name, task=dataclasses.replace(base.task, **{group: {}}))
    (tmp_path / "config.yaml").write_text(freeze(changed[0]))
    assert load_frozen(tmp_path / "config.yaml") == changed[0]
    user_dir(f"defaults: [none, _self_]\n{group}: {{one: {{_target_: x}}}}\n", name="one")
    only = compose.compose(["task=one"], folder).task
    assert [name for name in getattr(only, group) if name != _DEFAULT] == ["one"]


# The user's own files. ------------------------------------------------------------------------------------------------


def test_a_task_derived_from_a_shipped_one(user_dir, tmp_path, monkeypatch):
    (tmp_path / "own_rewards.py").write_text("def tall(ctx, *, height: float = 1.0): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    task = """
        defaults: [kbot_standing, _self_]
        decimation: 5
        rewards:
          tall: {_target_: own_rewards.tall, weight: 2.0, height: 2}
          posture: null
    """
    cfg = compose.compose(["task=mine"], user_dir(task))
    base = compose.compose()
    assert cfg.name == "mine" and cfg.task.decimation == 5
    assert list(cfg.task.rewards) == [*base.task.rewards, "tall"]
    assert cfg.task.rewards["posture"] is None


def test_terms_can_be_changed_added_and_removed_on_the_command_line():
    cfg = compose.compose(
        [
            "task.rewards.upright.weight=3",
            "+task.rewards.tidy={_target_: ksim.mdp.rewards.action_size, weight: -0.1}",
            "task.rewards.posture=null",
            "~task.rewards.still",
        ]
    )
    assert cfg.task.rewards["upright"]["weight"] == 3
    assert list(cfg.task.rewards)[-1] == "tidy"
    assert cfg.task.rewards["posture"] is None
    assert "still" not in cfg.task.rewards


def test_composing_leaves_hydra_as_it_was():
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    compose.compose()
    assert not GlobalHydra.instance().is_initialized()
    assert not HydraConfig.initialized()


# Installed. -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_wheel_brings_its_configuration(tmp_path):
    """Built, unpacked somewhere else and used from a third folder: conf/ is inside, and runs of a checkout play."""
    source = tmp_path / "source"
    for name in ("ksim", "conf"):
        shutil.copytree(REPO / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in REPO.iterdir():
        if path.is_file() and path.suffix in (".toml", ".md", "") and not path.name.startswith("."):
            shutil.copy(path, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", source, "--no-deps", "-w", tmp_path], check=True)
    (wheel,) = tmp_path.glob("ksim-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", tmp_path / "site", wheel], check=True)
    (tmp_path / "elsewhere").mkdir()
    code = "from ksim.config import compose; print(compose.conf_dir(), compose.compose(['task=cartpole_balance']).name)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "elsewhere",
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == f"{tmp_path / 'site' / 'ksim' / 'conf'} cartpole_balance"
    run = fresh(tmp_path, "runs", 1)
    done = subprocess.run(
        [sys.executable, "-m", "ksim.eval", f"run={run.path}", "episodes=2", "video=false"],
        cwd=tmp_path / "elsewhere",
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (folder,) = run.eval.iterdir()
    assert f"{folder}/metrics.json" in done.stdout.splitlines()


def test_paths_of_a_robot_are_frozen_as_absolute_ones(tmp_path, monkeypatch):
    """So a run is played, and a job started, from any folder; an override that says the same path is the same."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(REPO / "ksim" / "robots" / "kbot", tmp_path / "mine")
    robot, mjcf = "task.scene.robot=./mine", "task.scene.mjcf=mine/kbot.xml"
    cfg = compose.compose([robot, mjcf])
    assert (cfg.task.scene.robot, cfg.task.scene.mjcf) == (str(tmp_path / "mine"), str(tmp_path / "mine" / "kbot.xml"))
    (tmp_path / "config.yaml").write_text(freeze(cfg))
    assert compose.with_overrides(cfg, [robot, mjcf]) == cfg
    monkeypatch.chdir("/")
    assert load_frozen(tmp_path / "config.yaml") == cfg
