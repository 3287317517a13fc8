"""The command line: every mistake is one message, exit code 2, and nothing on disk."""

import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ksim.config.compose import compose, freeze
from ksim.errors import ConfigError, KsimError
from ksim.sweep.preflight import preflight

YAMLS = {
    "key_typo": "defaults: [cartpole_balance, _self_]\nrewrads: {}\n",
    "inner_typo": "defaults: [cartpole_balance, _self_]\nsim: {timstep: 0.1}\n",
    "wrong_type": "defaults: [cartpole_balance, _self_]\nsim: {timestep: abc}\n",
    "no_mapping": "defaults: [cartpole_balance, _self_]\nsim: 3\n",
    "base_typo": "defaults: [cartpole_balanc, _self_]\n",
    "syntax": "a: [\nb: }\n",
    "missing": "scene: {robot: cartpole}\ndecimation: ???\n",
    "no_scene": "decimation: 2\n",
    "interpolation": "defaults: [cartpole_balance, _self_]\ndecimation: ${algo.nothing}\n",
    "term_typo": "defaults: [cartpole_balance, _self_]\nrewards: {up: {_target_: own.uprigth, weight: 1.0}}\n",
    "mine": "defaults: [cartpole_balance, _self_]\nrewards: {up: {_target_: own.upright, weight: 1.0, std: 2}}\n",
}


@pytest.fixture
def cwd(tmp_path, monkeypatch):
    """A working directory with a user's own tasks and terms."""
    (tmp_path / "my" / "task").mkdir(parents=True)
    for name, text in YAMLS.items():
        (tmp_path / "my" / "task" / f"{name}.yaml").write_text(text)
    (tmp_path / "my" / "sweep.yaml").write_text(
        'defaults: [config, _self_]\nhydra: {sweeper: {params: {algo.num_envs: "512,1000"}}}\n'
    )
    (tmp_path / "own.py").write_text("def upright(ctx, *, std: float = 1.0): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


MISTAKES = [
    # a key
    ("algo.learning_rat=1", "algo.learning_rat: no such key (did you mean 'learning_rate'?)"),
    ("task.sim.timestp=1", "task.sim.timestp: no such key (did you mean 'timestep'?)"),
    ("algoo.gamma=1", "algoo: no such key (did you mean 'algo'?)"),
    ("learning_rate=1", "learning_rate: no such key (did you mean 'algo.learning_rate'?)"),
    ("hydra.job.chdr=true", "hydra.job.chdr: no such key (did you mean 'chdir'?)"),
    # a key behind +
    ("+algo.learning_rat=1", "algo.learning_rat: no such key (did you mean 'learning_rate'?)"),
    ("++algo.learning_rat=1", "algo.learning_rat: no such key (did you mean 'learning_rate'?)"),
    ("+extra=1", re.compile(r"extra: no such key \(there are 'name', 'init_from', 'init_checkpoint', 'seed',.*\)")),
    ("+task.rewards.upright.sdt=1", re.compile(r"task\.rewards\.upright\.sdt: .* \(did you mean 'std'\?\)")),
    # a group's choice
    (
        "task=kbot_standin",
        re.compile(r"task: there is no 'kbot_standin' \(did you mean 'kbot_standing'\?\); there are 'cart"),
    ),
    ("physics=mjxx", "physics: there is no 'mjxx' (did you mean 'mjx'?); there are 'auto', 'mjx', 'mujoco'"),
    ("+algo=ppo", "+algo=ppo: a run has one algo already; write it without the +"),
    (
        "--task=kbot_standing",
        re.compile("unrecognized arguments: --task=kbot_standing; settings are written without d"),
    ),
    ("~algo", "~algo: a run cannot be without; choose another one with algo=..."),
    # inside a YAML file
    ("--config-dir my task=key_typo", "task.rewrads: no such key (did you mean 'rewards'?) (in task/key_typo.yaml)"),
    (
        "--config-dir my task=inner_typo",
        "task.sim.timstep: no such key (did you mean 'timestep'?) (in task/inner_typo.yaml)",
    ),
    ("--config-dir my task=wrong_type", "task.sim.timestep: must be a number, not 'abc' (in task/wrong_type.yaml)"),
    ("--config-dir my task=no_mapping", "task.sim: must be a mapping, not 3 (in task/no_mapping.yaml)"),
    (
        "--config-dir my task=base_typo",
        re.compile(
            r"task: there is no 'cartpole_balanc' \(did you mean 'cartpole_balance'\?\).*in task/base_typo.yaml"
        ),
    ),
    ("--config-dir my task=syntax", re.compile(r'not valid YAML: .* in ".*/my/task/syntax.yaml", line 2, column 4')),
    ("--config-dir my task=missing", re.compile(r"task\.decimation: has no value; .* task\.decimation=<a whole numb")),
    ("--config-dir my task=no_scene", re.compile(r"task\.scene: has no value")),
    (
        "--config-dir my task=interpolation",
        "task.decimation: Interpolation key 'algo.nothing' not found (in task/interpolation.yaml)",
    ),
    ("--config-dir my task=term_typo", "task.rewards.up: own has no 'uprigth' (did you mean 'upright'?)"),
    ("--config-dir nowhere", re.compile(r"--config-dir: there is no folder /.*/nowhere")),
    ("--config-name nothing", re.compile(r"Cannot find primary config 'nothing'")),
    # a term
    (
        "task.rewards.uprigth.std=1",
        "task.rewards.uprigth: no such key (did you mean 'upright'?); to add it, write +task.rewards.uprigth=...",
    ),
    ("task.rewards.upright.std=x", "task.rewards.upright.std: must be a number, not 'x'"),
    ("task.rewards.upright=3", "task.rewards.upright: must be a mapping with '_target_', not 3"),
    ("task.events=3", "task.events: must be a mapping of names to terms, not 3"),
    (
        '"+task.rewards.new={_target_: ksim.mdp.rewards.uprigth, weight: 1}"',
        "task.rewards.new: ksim.mdp.rewards has no 'uprigth' (did you mean 'upright'?)",
    ),
    (
        "task.observations.actor.terms.gravity.noise.type=gauss",
        "task.observations.actor.terms.gravity.noise.type: must be one of 'constant', 'uniform', 'gaussian',"
        " not 'gauss'",
    ),
    # a type
    ("algo.num_envs=abc", "algo.num_envs: must be a whole number, not 'abc'"),
    ("algo.num_envs=1.5", "algo.num_envs: must be a whole number, not 1.5"),
    ("algo.actor_hidden=3", "algo.actor_hidden: must be a list of whole numbers, not 3"),
    ("algo.actor_hidden=[a]", "algo.actor_hidden: must be a list of whole numbers, not ['a']"),
    ("task.scene=3", "task.scene: must be a mapping, not 3"),
    ("task.rewards=null", "task.rewards: must be a mapping, not null"),
    ("seed=abc", "seed: must be a whole number or null, not 'abc'"),
    ("eval.video=maybe", "eval.video: must be true or false, not 'maybe'"),
    # no value
    (
        "algo.num_envs=???",
        "algo.num_envs: has no value; give it one in a YAML file, or algo.num_envs=<a whole number>",
    ),
    ("task.rewards.upright.std=???", re.compile(r"task\.rewards\.upright\.std: has no value")),
    # a value, or a combination, that cannot work
    (
        "algo.num_envs=1024 algo.num_env_states_per_minibatch=3000 algo.num_minibatches=8",
        "algo: num_env_states_per_minibatch x num_minibatches = 24000 is not a multiple of num_envs = 1024; 24576 would"
        " be (algo.num_env_states_per_minibatch=3072)",
    ),
    ("algo.num_envs=0", "algo.num_envs: must be above 0, not 0"),
    ("algo.gamma=1.01", "algo.gamma: must be above 0 and at most 1, not 1.01"),
    ("algo.gamma=0", "algo.gamma: must be above 0 and at most 1, not 0.0"),
    ("algo.lam=-1", "algo.lam: must be from 0 to 1, not -1.0"),
    ("algo.learning_rate=nan", "algo.learning_rate: must be a number, not nan"),
    ("algo.init_std=-0.1", "algo.init_std: must be above 0, not -0.1"),
    ("algo.actor_hidden=[0]", "algo.actor_hidden[0]: must be above 0, not 0"),
    ("algo.max_learning_rate=2e-5", re.compile(r"algo: learning_rate = .* is not between")),
    (
        "algo.schedule=adaptiv",
        "algo.schedule: there is no 'adaptiv' (did you mean 'adaptive'?); there are 'adaptive', 'fixed'",
    ),
    ("algo.activation=elo", re.compile(r"algo\.activation: there is no 'elo' \(did you mean 'elu'\?\)")),
    ("algo.symmetry=mirror", re.compile(r"algo\.symmetry: there is no 'mirror'; there are 'none'")),
    ("task.decimation=0", "task.decimation: must be above 0, not 0"),
    ("task.sim.timestep=0", "task.sim.timestep: must be above 0, not 0.0"),
    ("task.sim.cone=round", "task.sim.cone: there is no 'round'; there are 'elliptic', 'pyramidal'"),
    ("task.sim.solver=newtn", re.compile(r"task\.sim\.solver: there is no 'newtn' \(did you mean 'newton'\?\)")),
    ("task.sim.integrator=rk5", re.compile(r"task\.sim\.integrator: there is no 'rk5' \(did you mean 'rk4'\?\)")),
    ("task.scene.terrain=hills", "task.scene.terrain: there is no 'hills'; there are 'plane', 'patches', 'none'"),
    ("task.scene.robot=kbt", re.compile(r"task\.scene\.robot: .*'kbt'.*did you mean 'kbot'")),
    ("task.scene.mjcf=nothing.xml", re.compile(r"task\.scene\.mjcf: no such file.*nothing\.xml")),
    ("task.rewards.upright.std=-1", "task.rewards.upright.std: a standard deviation must be positive, not -1.0"),
    (
        "task.episode_length_s=0",
        "task.terminations.time_out: a time-out needs task.episode_length_s above 0; set it, or"
        " task.terminations.time_out=null for episodes without a time limit",
    ),
    (
        "task.episode_length_s=0 task.terminations.time_out=null +task.terminations.low.time_out=true",
        "task.terminations.low: a time-out needs task.episode_length_s above 0; set it, or task.terminations.low=null"
        " for episodes without a time limit",
    ),
    ("task.sim.contact_solref=[0.02]", "task.sim.contact_solref: must be a list of 2 numbers, not of 1"),
    ("task.sim.contact_margin=-0.1", "task.sim.contact_margin: must be 0 or more, not -0.1"),
    (
        "+task.curriculum.still={_target_:ksim.mdp.curriculum.linear,sets:rewards.still.weight,start:0.0,end:1.0,"
        "num_steps:9} task.rewards.still.weight=2",
        "task.rewards.still.weight: task.curriculum.still sets it, so a value here would do nothing; with"
        " task.curriculum.still=null it counts",
    ),
    ("task.episode_length_s=-1", "task.episode_length_s: must be 0 or more, not -1.0"),
    ("task.viewer.position=[1,2]", "task.viewer.position: must be a list of 3 numbers, not of 2"),
    ("task.observations.actor=null", "task.observations: the group 'actor' is missing"),
    ("task.actions.legs=null", "task.actions: there is none, so there is nothing to learn"),
    (
        "task.scene.num_envs=3",
        "task.scene.num_envs: is said once, as the algorithm's; write algo.num_envs=3, and in a task's YAML"
        " algo: {ppo: {num_envs: 3}}",
    ),
    ("task.seed=3", "task.seed: is said once, as the run's; write seed=3"),
    ("seed=-1", "seed: must be 0 or more, not -1"),
    ("physics.engine=mjy", re.compile(r"physics\.engine: there is no 'mjy' \(did you mean 'mjx'\?\)")),
    ("physics.threads=0", "physics.threads: must be above 0, not 0"),
    (
        "logger=wandb logger.wandb.mode=on",
        "logger.wandb.mode: must be one of 'online', 'offline', 'disabled', not 'on'",
    ),
    ("logger=wandb logger.wandb.mod=online", "logger.wandb.mod: no such key (did you mean 'mode'?)"),
    ("logger=wandb +logger.wandb.mod=online", "logger.wandb.mod: no such setting (did you mean 'mode'?)"),
    ("+logger.mine._target_=no.where", re.compile("logger.mine: there is no module 'no'")),
    ("+logger.mine.every=1", re.compile("logger.mine: must be a mapping with a '_target_'")),
    ("logger.wandb.mode=offline", "logger.wandb: is off, so nothing in it can be set; turn it on with logger=wandb"),
    ("log.interval_iterations=0", "log.interval_iterations: must be above 0, not 0"),
    ("init_from=runs/nothing", re.compile("init_from: runs/nothing does not exist; there is no run in ")),
    ("eval.interval_steps=0", "eval.interval_steps: must be above 0, not 0"),
    ("checkpoint.keep=0", "checkpoint.keep: must be above 0, not 0"),
    ("name=latest", re.compile("'latest' cannot be a task's name")),
    # the command line itself
    ("seed", re.compile("seed: is not an override of the form key=value")),
    ("algo.actor_hidden=[3", re.compile(r"algo\.actor_hidden=\[3: is not an override of the form key=value")),
    ("seed=1,2", "seed=1,2 is a sweep; add -m to run one training per value (a list is written seed=[1,2])"),
    ("seed=range(1,3)", "seed=range(1,3) is a sweep; add -m to run one training per value"),
    ("hydra.run.dir=here", "hydra.run.dir: ksim names each run directory; choose the folder with runs_dir=<folder>"),
    ("--experimental-rerun x", re.compile("--experimental-rerun would write into the old run directory")),
    (
        "launcher=slurm seed=1",
        "launcher=slurm sends nothing away without -m; write: python -m ksim.run -m launcher=slurm seed=1",
    ),
    # one job of a sweep
    ("-m seed=1,a", "seed: must be a whole number or null, not 'a' [in the job seed=a]"),
    ("-m algo.num_envs=512,1000", re.compile(r"algo: .* 1000; .* \[in the job algo\.num_envs=1000\]")),
    ("-m seed=1,2 +algo.learning_rat=1", re.compile(r"algo\.learning_rat: no such key.*\[in the job seed=1 \+algo")),
    ("-m task=kbot_standing,kbot_standin", re.compile(r"task: there is no 'kbot_standin' .*\[in the job task=kbot_s")),
    (
        "-m task.rewards.upright.std=range(-1,2)",
        re.compile(r"task\.rewards\.upright\.std: a standard deviation must be positive, not -1"),
    ),
    ("hydra.mode=MULTIRUN algo.num_envs=1000", re.compile("algo: .* is not a multiple of num_envs = 1000")),
    ("-m --config-dir my --config-name sweep", re.compile(r"algo: .* = 1000; .* \[in the job algo\.num_envs=1000")),
    # flags of K-Scale's earlier ksim
    ("action=env", re.compile(r"action=env is a flag of K-Scale's earlier ksim; `python -m ksim\.eval run=")),
    ("action=train", re.compile("training is what `python -m ksim.run task=<task>` does; leave it out")),
    ("pretrained=walking", re.compile(r"`python -m ksim\.run init_from=<run directory>` starts from a trained policy")),
    ("checkpoint_num=3", re.compile(r"`python -m ksim\.eval run=<run directory> checkpoint=<step>\|best\|latest`")),
    ("num_envs=512", "num_envs: no such key (did you mean 'algo.num_envs'?)"),
]


@pytest.mark.parametrize(("command", "message"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_each_mistake_is_one_message_and_leaves_nothing(cwd, command, message):
    before = sorted(cwd.rglob("*"))
    with pytest.raises(KsimError) as error:
        preflight(shlex.split(command))
    text = str(error.value)
    if isinstance(message, re.Pattern):
        assert message.search(text), text
    else:
        assert text == message
    assert "\n" not in text
    assert [p for p in sorted(cwd.rglob("*")) if "__pycache__" not in p.parts] == before


def test_a_right_command_line_claims_its_own_run_directory(cwd):
    first = preflight(["task=cartpole_balance"])
    second = preflight(["task=cartpole_balance"])
    assert first[:-1] == ["task=cartpole_balance"]
    paths = [argv[-1].removeprefix("hydra.run.dir=").strip('"') for argv in (first, second)]
    assert paths[0] != paths[1]
    for path in map(Path, paths):
        assert path.is_dir() and path.parent == cwd / "runs" / "cartpole_balance"


def test_the_runs_folder_and_the_name_can_be_chosen(cwd):
    argv = preflight(["task=cartpole_balance", "runs_dir=my runs/a", "name=trial"])
    (made,) = (cwd / "my runs" / "a" / "trial").iterdir()
    assert argv[-1] == f'hydra.run.dir="{made}"'


def test_a_users_own_term_and_task_work(cwd):
    preflight(["--config-dir", "my", "task=mine"])
    assert (cwd / "runs" / "mine").is_dir()


@pytest.mark.parametrize("argv", [["--cfg", "hydra"], ["--help"], ["--info", "searchpath"], ["--hydra-help"]])
def test_what_only_prints_is_handed_on_as_it_is(cwd, argv):
    assert preflight(argv) == argv
    assert not (cwd / "runs").exists()


def test_the_config_that_is_printed_is_the_one_that_trains(cwd, capsys):
    """What the task changes in the algorithm included, resolved, and of each job of a sweep."""
    assert preflight(["--cfg", "job", "task=cartpole_balance", "algo.lam=0.5"]) is None
    cfg = compose(["task=cartpole_balance", "algo.lam=0.5"])
    assert capsys.readouterr().out == freeze(cfg) and cfg.algo.gamma == 0.995
    preflight(["-m", "--cfg", "job", "-p", "algo.gamma", "task=cartpole_balance,kbot_standing"])
    assert capsys.readouterr().out == "# task=cartpole_balance\n0.995\n# task=kbot_standing\n0.98\n"
    with pytest.raises(ConfigError, match="--package algo.gama: the config has nothing there"):
        preflight(["--cfg", "job", "-p", "algo.gama"])


def test_printing_a_wrong_config_is_a_mistake_too(cwd):
    with pytest.raises(ConfigError, match=r"algo\.gama: no such key \(did you mean 'gamma'\?\)"):
        preflight(["--cfg", "job", "algo.gama=1"])


# As a process. --------------------------------------------------------------------------------------------------------


def ksim_run(cwd, *argv, train=None, code="from ksim.run import main; main()"):
    """`python -m ksim.run <argv>`, optionally with another training function in place of the real one."""
    if train is not None:
        stub = "import sys, types\nm = types.ModuleType('ksim.training.loop')\n"
        stub += f"exec({textwrap.dedent(train)!r}, vars(m))\n"
        code = f"{stub}sys.modules['ksim.training.loop'] = m\n{code}"
        command = [sys.executable, "-c", code, *argv]
    else:
        command = [sys.executable, "-m", "ksim.run", *argv]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent.parent)}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


def test_a_mistake_exits_with_2_and_without_a_traceback(cwd):
    done = ksim_run(cwd, "algo.learning_rat=1")
    assert done.returncode == 2
    assert done.stderr == "error: algo.learning_rat: no such key (did you mean 'learning_rate'?)\n"
    assert not (cwd / "runs").exists() and not (cwd / "outputs").exists()


def test_the_preflight_starts_no_jax_backend(cwd):
    code = """
from ksim.sweep.preflight import preflight
preflight(["-m", "task=cartpole_balance,kbot_standing", "physics=mjx", "seed=1,2"])
preflight(["task=kbot_standing"])
from jax._src import xla_bridge
assert not xla_bridge._backends, xla_bridge._backends
"""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent.parent)}
    subprocess.run([sys.executable, "-c", code], cwd=cwd, env=env, check=True, timeout=120)


_TRAIN = """
import logging
from ksim.config.compose import freeze
def train(cfg, run_dir):
    logging.getLogger("ksim").info("training with seed %s", cfg.seed)
    run_dir.config_path.write_text(freeze(cfg))
    return 1.0
"""


def test_a_run_trains_in_the_claimed_directory(cwd):
    done = ksim_run(cwd, "task=cartpole_balance", "seed=null", train=_TRAIN)
    assert done.returncode == 0, done.stderr
    (run,) = (cwd / "runs" / "cartpole_balance").iterdir()
    assert sorted(p.name for p in run.iterdir()) == [".hydra", "config.yaml", "train.log"]
    assert "training with seed" in (run / "train.log").read_text()
    assert not (cwd / "outputs").exists()


def test_a_users_mistake_found_late_is_a_message_and_a_bug_a_traceback(cwd):
    raises = "from ksim.errors import KsimError\ndef train(cfg, run_dir): raise {}('no luck')\n"
    late = ksim_run(cwd, "task=cartpole_balance", train=raises.format("KsimError"))
    assert late.returncode == 2 and late.stderr.splitlines()[-1] == "error: no luck"
    assert "Traceback" not in late.stderr
    bug = ksim_run(cwd, "task=cartpole_balance", train=raises.format("ValueError"))
    assert bug.returncode == 1 and "Traceback" in bug.stderr and "ValueError: no luck" in bug.stderr


def test_hydras_own_printing_works(cwd):
    done = ksim_run(cwd, "--cfg", "job", "-p", "algo", "algo.gamma=0.5")
    assert done.returncode == 0 and "gamma: 0.5" in done.stdout
    done = ksim_run(cwd, "--help")
    assert done.returncode == 0 and "kbot_standing" in done.stdout
    assert not (cwd / "runs").exists()
