"""Numbers, plots and a video of a policy: many fresh episodes of its mean action, one folder an evaluation."""

import contextlib
import dataclasses
import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import mujoco
import numpy as np

from ksim import __version__
from ksim.errors import KsimError
from ksim.evaluation.episodes import Episodes, evaluate
from ksim.store import files
from ksim.training.experiment import Experiment, random_key
from ksim.viz.env_view import camera, visual_model
from ksim.viz.plots import plot_episode
from ksim.viz.render import try_render_video

VIDEO = "video.mp4"
_STEPS_WITHOUT_LIMIT = 1000  # length of an evaluation where episodes have no time limit


@dataclass(frozen=True)
class Result:
    """An evaluation.

    Attributes:
        summary: means over the episodes: `return`, `episode_length_s`, `falls` (share that terminated) with
            `falls_low` and `falls_high` (95 % Wilson interval), `reward/<term>` (per second), `termination/<term>`
            (share), `metric/<name>` and its median `metric/<name>/median`; `episodes` and `seed`.
        folder: where it was written.
        video: the mp4 of the first episode, if one was asked for and could be drawn.
    """

    summary: dict[str, float]
    folder: Path
    video: Path | None


def evaluate_into(
    folder: Path,
    experiment: Experiment,
    policy: Mapping[str, Any],
    *,
    episodes: int,
    seed: int,
    video: bool,
    about: Mapping[str, Any],
    replace: bool = False,
) -> Result:
    """Play full episodes of the deterministic policy, and write numbers, plots and a video of the first one.

    The folder appears complete or not at all. A video that cannot be drawn is warned of and left out.

    Args:
        folder: gets `metrics.json`, `video.mp4` and the plots.
        experiment: the task and its engine.
        policy: its `net` and `normalizer`, as in a checkpoint, and, where the task has curricula, the `curriculum`
            that it has come to.
        episodes: how many.
        seed: of their random stream, which is not the training's in any case.
        video: also film the first episode.
        about: what else `metrics.json` says, besides the engine and the summary.
        replace: put it in the place of a folder that exists; else it is given a name of its own, with `_1`, ...

    Raises:
        KsimError: the folder cannot be written.
    """
    played = play(experiment, policy, episodes, seed)
    summary = summarize(played, experiment.env.step_dt) | {"seed": float(seed)}
    record = {
        "created_at": files.now(),
        "ksim": __version__,
        "engine": dataclasses.asdict(experiment.engine),
        **about,
        "summary": summary,
    }
    with _staged(folder) as temp:
        files.write_atomic(temp / "metrics.json", files.json_bytes(record))
        plot_first(experiment, played, temp)
        filmed = film(experiment, played, temp / VIDEO) if video else None
        folder = _put(temp, folder, replace)
    return Result(summary, folder, folder / VIDEO if filmed else None)


def play(experiment: Experiment, policy: Mapping[str, Any], episodes: int, seed: int) -> Episodes:
    """Full episodes of the policy's mean action, in NumPy; arguments as for `evaluate_into`."""
    return player(experiment, episodes, seed)(policy)


def player(
    experiment: Experiment, episodes: int, seed: int, *, purpose: str = "eval"
) -> Callable[[Mapping[str, Any]], Episodes]:
    """A function that plays a policy, compiled once; the same episodes each time.

    Args:
        experiment, episodes, seed: as for `evaluate_into`.
        purpose: of the random stream.
    """
    num_steps = experiment.env.max_episode_steps or _STEPS_WITHOUT_LIMIT
    program = jax.jit(partial(evaluate, experiment.env, num_envs=episodes, num_steps=num_steps))
    key = random_key(seed, purpose)

    def play(policy: Mapping[str, Any]) -> Episodes:
        level = policy.get("curriculum") or None
        result: Episodes = jax.device_get(program(policy["net"], dict(policy["normalizer"]), key, curriculum=level))
        return result

    return play


def summarize(episodes: Episodes, step_dt: float) -> dict[str, float]:
    """Means over the episodes, as `Result.summary`."""
    values = {name: np.asarray(x) for name, x in episodes.values.items()}
    from scipy.stats import binomtest  # late: it takes a second, and a training begins without it

    fallen = binomtest(int(np.sum(episodes.terminated)), len(episodes.terminated))
    interval = fallen.proportion_ci(method="wilson")  # right even where none, or all, of them fell
    summary = {
        "return": float(values.pop("return").mean()),
        "episode_length_s": float(values.pop("length").mean() * step_dt),
        "falls": fallen.statistic,
        "falls_low": float(interval.low),
        "falls_high": float(interval.high),
    }
    for name, x in values.items():
        summary[name] = float(x.mean())
        if name.startswith("metric/"):
            summary[f"{name}/median"] = float(np.median(x))
    summary |= {f"termination/{name}": float(np.mean(end)) for name, end in episodes.ends.items()}
    return summary | {"episodes": float(len(episodes.terminated))}


def sentence(summary: Mapping[str, float]) -> str:
    """A summary's main numbers in one line."""
    s = summary
    text = f"return {s['return']:.2f}, episode {s['episode_length_s']:.1f} s, falls {s['falls']:.1%}"
    if "metric/drift/median" in s:
        text += f", median drift {s['metric/drift/median']:.2f} m"
    return f"{text} over {s['episodes']:.0f} episodes"


def film(experiment: Experiment, episodes: Episodes, path: Path) -> Path | None:
    """The first episode as an mp4; None, with a warning, where nothing can be rendered."""
    env = experiment.env
    length = min(_first_length(episodes), int(experiment.cfg.eval.video_length_s / env.step_dt))
    qpos_Tq = np.asarray(episodes.qpos_Tq)[: max(length, 1)]
    path.parent.mkdir(parents=True, exist_ok=True)
    model = visual_model(env)
    return try_render_video(model, qpos_Tq, path, fps=1.0 / env.step_dt, camera=camera(env, model))


def plot_first(experiment: Experiment, episodes: Episodes, folder: Path) -> list[Path]:
    """The first episode's joint states, actions, commands and reward terms over time, as PNG files."""
    env = experiment.env
    scene = env.scene
    length = _first_length(episodes)
    qpos_Tq, qvel_Tv = np.asarray(episodes.qpos_Tq)[:length], np.asarray(episodes.qvel_Tv)[:length]
    slides = scene.model.jnt_type[scene.joint_ids] == mujoco.mjtJoint.mjJNT_SLIDE.value
    units = "rad or m" if slides.any() else "rad"
    action_Ta = np.asarray(episodes.action_Ta)[:length]
    positions = {name: qpos_Tq[:, adr] for name, adr in zip(scene.joint_names, scene.joint_qpos_adr, strict=True)}
    velocities = {name: qvel_Tv[:, adr] for name, adr in zip(scene.joint_names, scene.joint_dof_adr, strict=True)}
    actions = {scene.joint_names[joint]: action_Ta[:, i] for i, joint in enumerate(env.actions.joints_a)}
    commands = {name: np.asarray(value_Tn)[:length] for name, value_Tn in episodes.command_Tn.items()}
    rewards = {name: rate_T[:length] for name, rate_T in reward_rates(episodes).items()}
    before_T = np.arange(length) * env.step_dt  # the times of actions; what they led to is a step later
    after_T = before_T + env.step_dt
    plots = [
        (after_T, positions, "joint_positions", f"position ({units})"),
        (after_T, velocities, "joint_velocities", "velocity (rad/s or m/s)" if slides.any() else "velocity (rad/s)"),
        (before_T, actions, "actions", "action"),
        (before_T, commands, "commands", "command"),
        (after_T, rewards, "rewards", "weighted reward per second"),
    ]
    return [plot_episode(t, lines, folder / f"{name}.png", label) for t, lines, name, label in plots if lines]


def reward_rates(episodes: Episodes) -> dict[str, np.ndarray]:
    """Each reward term of the first env at each step: name -> (T,), weighted, per second."""
    # The mean rate since the start, times the steps, is a sum of rates.
    steps_T = np.asarray(episodes.means_T["length"], np.float64)
    prefix = "reward/"
    sums = {k.removeprefix(prefix): steps_T * v for k, v in episodes.means_T.items() if k.startswith(prefix)}
    return {name: np.diff(sum_T, prepend=0.0) for name, sum_T in sums.items()}


def _first_length(episodes: Episodes) -> int:
    """Env steps of the first episode; the positions after its last one are of the next episode already."""
    return max(int(episodes.values["length"][0]) - 1, 1)


@contextlib.contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write into; what is left of it when the context ends is removed."""
    temp = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
    try:
        temp.mkdir(parents=True)
        yield temp
    except OSError as error:
        raise KsimError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temp, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()  # only where nothing is in it


def _put(temp: Path, folder: Path, replace: bool) -> Path:
    """Rename `temp`; a name is given to one process only."""
    if replace:
        shutil.rmtree(folder, ignore_errors=True)
    number = 0
    while True:
        target = folder.with_name(f"{folder.name}_{number}") if number else folder
        try:
            return temp.rename(target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            number += 1
