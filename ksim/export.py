"""Hand a policy to a robot or to people: ``python -m ksim.export run=latest``; an ONNX file that says how to use it,
and a page that plays it in a browser.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from ksim import __version__
from ksim.config import compose, options
from ksim.errors import KsimError
from ksim.policies import onnx, saved
from ksim.policies.describe import describe
from ksim.policies.saved import SavedPolicy
from ksim.rl import random_key, rollout
from ksim.store import files, run_dir
from ksim.store.run_dir import RunDir
from ksim.system import jax_setup
from ksim.system.entry import entry
from ksim.system.jit import jit
from ksim.training.checks import load_checked
from ksim.training.experiment import Experiment, build
from ksim.viz.page import knows, make

log = logging.getLogger(__name__)

USAGE = """\
usage: python -m ksim.export run=<run> [option=value ...]

Writes the deterministic policy of a saved run, observation normalizer included, as an ONNX file that holds what a
control loop needs besides: joints, home pose, gains, torque limits, the layout of the observation, the law of the
action, the control rate. The file is checked on 1,000 observations of the run's env first: where onnxruntime and JAX
differ by more than 1e-5, nothing is written.

With page=<file>, it also writes an HTML file that holds the policy, the robot and MuJoCo: it opens with a double click,
to drive the robot by sliders, push it and pull it, with no server and no network. Parts of it come from the npm
registry, when the first page is made.

options:
  run=<run>             a run directory, `latest` (the newest run), or `<task>/latest`
  checkpoint=latest     which policy: its step, `#<n>` (the n-th that is kept), `best` or `latest`
  out=<file>            where to; without it, <run>/export/policy.onnx
  page=<file>           also a page, such as policy.html
  runs_dir=runs         where `latest` looks
  trust=<package,...>   code outside ksim that the run may name, or true; your own runs need no word

It needs the extra `onnx`: pip install 'ksim[onnx]'
"""

FORMAT = 1  # of the metadata
TOLERANCE = 1e-5  # largest difference between ONNX and JAX in an element of the action
_NUM_ENVS, _NUM_STEPS = 8, 125  # 1,000 observations


@dataclass(frozen=True)
class Options:
    """The command line; see `USAGE`."""

    run: str = field(metadata={"shown": "run directory or latest"})
    checkpoint: str = "latest"
    out: str | None = None
    page: str | None = None
    runs_dir: str = "runs"


@dataclass(frozen=True)
class Exported:
    """An export: the file, the largest difference to JAX, and on how many observations that was found."""

    path: Path
    max_error: float
    num_observations: int


def main(argv: Sequence[str]) -> None:
    """Export as the command line asks.

    Raises:
        KsimError: a mistake of the user's, or a file that does not agree with JAX; nothing was written.
    """
    if {"-h", "--help"} & set(argv):
        print(USAGE, end="")
        return
    chosen, _ = options.parse(Options, argv)
    onnx.check_installed()
    jax_setup.share_the_gpu()
    run = run_dir.open(chosen.run, chosen.runs_dir)
    with Console(stderr=True).status("exporting ..."):
        logging.basicConfig(format="%(message)s", level=logging.WARNING)  # now, so that lines go above the spinner
        policy = saved.load(run.path, chosen.checkpoint)
        page = Path(chosen.page) if chosen.page else None
        exported = export(run, policy, Path(chosen.out) if chosen.out else run.export / "policy.onnx", page)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"run:     {run.path}, checkpoint of step {policy.step:,}")
    rate = 1.0 / policy.description["step_dt"]
    console.print(
        f"policy:  obs of {policy.observation_size} elements to action of {len(policy.joints)}, at {rate:g} Hz"
    )
    console.print(
        f"checked: on {exported.num_observations:,} recorded observations, "
        f"largest error against JAX {exported.max_error:.1e}"
    )
    console.print(str(exported.path))
    if page is not None:
        console.print(f"{page} ({page.stat().st_size / 1e6:.1f} MB)")


def export(run: RunDir, policy: SavedPolicy, path: Path, page: Path | None = None) -> Exported:
    """Write a run's policy as ONNX, after it has proven that it acts as the policy does.

    Args:
        run: where the env is found whose observations it is checked on.
        policy: one of the run's.
        path: the file; its folder is made, and a file that is there is replaced.
        page: an HTML file to write as well, likewise.

    Raises:
        KsimError: onnxruntime's actions differ from JAX's, the run's task cannot be built any more, or a file cannot
            be written; a page does not know a term of the task, or its packages cannot be had.
    """
    if page is not None:
        knows.check(policy.observation, policy.description)
        make.fetch()
    model = onnx.make(policy, metadata(run, policy))
    experiment = build(compose.with_overrides(load_checked(run.config_path), ["physics.engine=mujoco"]))
    _compare(policy, experiment)
    max_error = largest_error(policy, model, record(experiment, policy, _NUM_ENVS, _NUM_STEPS))
    if not max_error <= TOLERANCE:  # NaN, too
        raise KsimError(f"the ONNX graph differs from JAX by {max_error:.1e}, more than {TOLERANCE:g}: nothing written")
    _write(path, model)
    if page is not None:
        _write(page, make.make(model, experiment.env))
    return Exported(path, max_error, _NUM_ENVS * _NUM_STEPS)


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomic(path, content)
    except OSError as error:
        raise KsimError(f"{path} cannot be written: {error.strerror or error}") from error


def metadata(run: RunDir, policy: SavedPolicy) -> dict[str, str]:
    """What the file says about itself, each value as JSON: the policy's description, and where it comes from.

    The keys are those of `ksim.policies.describe.describe`, without what matters to a training alone, and
    `observations` is the list of the actor's terms.
    """
    about = {
        "format": FORMAT,
        "ksim": __version__,
        "run": f"{run.path.parent.name}/{run.path.name}",
        "step": policy.step,
        **{name: value for name, value in policy.description.items() if name not in ("policy", "rewards")},
        "observations": policy.observation,
        "carry": [
            {"name": name, "initial": leaf[0]}
            for name, leaf in zip(onnx.carry_names(policy), jax.tree.leaves(policy.init_carry()), strict=True)
        ],
    }
    return {name: json.dumps(files.jsonable(value), allow_nan=False) for name, value in about.items()}


def record(experiment: Experiment, policy: SavedPolicy, num_envs: int, num_steps: int) -> np.ndarray:
    """What the policy sees while it plays, (T, E, n), noise included."""
    env, seed = experiment.env, experiment.cfg.seed
    assert seed is not None  # a frozen config has one

    def play(key: jax.Array) -> jax.Array:
        env_carry, obs = env.reset(key, num_envs)
        carry = policy.init_carry(num_envs)
        played = rollout(env, policy.policy, env_carry, obs, carry, key, num_steps, deterministic=True)
        return played[3].obs["actor"]

    return np.asarray(jit(play)(random_key(seed, "eval")))


def largest_error(policy: SavedPolicy, model: bytes, obs_TEn: np.ndarray) -> float:
    """The largest difference between the actions of onnxruntime and of JAX, each remembering what is its own."""
    session = onnx.Session(model)
    carry = policy.init_carry(obs_TEn.shape[1])
    onnx_carry = [np.asarray(leaf) for leaf in jax.tree.leaves(carry)]
    errors = []
    for obs_En in obs_TEn:
        action_Ea, carry = policy.act(obs_En, carry)
        onnx_action_Ea, onnx_carry = session(obs_En, onnx_carry)
        errors.append(np.max(np.abs(onnx_action_Ea - action_Ea)))
    return float(np.max(errors))


def _compare(policy: SavedPolicy, experiment: Experiment) -> None:
    """Warn where the task's or the robot's code has changed since the training: the file describes what was then."""
    now: Mapping[str, Any] = files.jsonable(describe(experiment.cfg, experiment.env, policy.policy))
    size = sum(term["size"] for term in now["observations"]["actor"])
    if size != policy.observation_size:
        raise KsimError(
            f"the task has changed since {policy.path} was written: the actor now sees {size} elements, "
            f"{policy.observation_size} then; export with the ksim that trained it (see the run's provenance.json)"
        )
    if changed := [name for name in now if now[name] != policy.description.get(name)]:
        log.warning("%s changed since the training; the file describes what it was then", ", ".join(changed))


if __name__ == "__main__":
    entry(main)
