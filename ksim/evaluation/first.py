"""The first episode of an evaluation in pictures: a film, and plots over time."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mujoco
import numpy as np

from ksim.envs.drawing import draw, drawn_terms
from ksim.envs.env import Env
from ksim.evaluation.episodes import Episodes
from ksim.viz.env_view import camera, visual_model
from ksim.viz.plots import plot_episode
from ksim.viz.render import try_render_video

VIDEO = "video.mp4"


def show_first(
    env: Env, episodes: Episodes, folder: Path, *, video_length_s: float | None, overlay: bool = False
) -> Path | None:
    """Write the plots, and the film unless its length is None.

    Args:
        env: the env.
        episodes: what it played.
        folder: gets the PNG files and `VIDEO`; it exists.
        video_length_s: longest film, in seconds.
        overlay: as for `film`.

    Returns:
        The film; None where there is none, after a warning if it was asked for.
    """
    with ThreadPoolExecutor(1) as pool:  # a process of its own draws the film; meanwhile the plots are made here
        length_s = video_length_s
        filming = pool.submit(film, env, episodes, folder / VIDEO, length_s, overlay) if length_s is not None else None
        plot_first(env, episodes, folder)
    return filming.result() if filming is not None else None


def film(env: Env, episodes: Episodes, path: Path, length_s: float, overlay: bool = False) -> Path | None:
    """The first episode as an mp4, with what its terms draw where `episodes` has kept the carry.

    Args:
        env, episodes: as for `show_first`.
        path: of the mp4.
        length_s: longest film, in seconds; it then shows the episode's beginning.
        overlay: write time, commands and reward into the upper left corner.

    Returns:
        The path; None, with a warning, where nothing can be rendered.
    """
    length = min(first_length(episodes), max(round(length_s / env.step_dt), 1))
    model, terms, carry_T = visual_model(env), drawn_terms(env), episodes.carry_T
    return try_render_video(
        model,
        np.asarray(episodes.qpos_Tq)[:length],
        path,
        fps=1.0 / env.step_dt,
        camera=camera(env, model),
        markers_T=[draw(env, carry_T, t, terms) for t in range(length)] if terms and carry_T is not None else None,
        captions_T=list(_captions(env, episodes, length)) if overlay else None,
    )


def plot_first(env: Env, episodes: Episodes, folder: Path) -> list[Path]:
    """The first episode's joint states, actions, commands and reward terms over time, as PNG files."""
    scene = env.scene
    length = first_length(episodes)
    qpos_Tq, qvel_Tv = np.asarray(episodes.qpos_Tq)[:length], np.asarray(episodes.qvel_Tv)[:length]
    slides = scene.model.jnt_type[scene.joint_ids] == mujoco.mjtJoint.mjJNT_SLIDE.value
    units = "rad or m" if slides.any() else "rad"
    action_Ta = np.asarray(episodes.action_Ta)[:length]
    positions = {name: qpos_Tq[:, adr] for name, adr in zip(scene.joint_names, scene.joint_qpos_adr, strict=True)}
    velocities = {name: qvel_Tv[:, adr] for name, adr in zip(scene.joint_names, scene.joint_dof_adr, strict=True)}
    actions = {name: action_Ta[:, i] for i, name in enumerate(env.action_names)}
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


def first_length(episodes: Episodes) -> int:
    """Env steps of the first env's first episode, its last included."""
    return int(episodes.values["length"][0])


def _captions(env: Env, episodes: Episodes, length: int) -> Iterator[Mapping[str, str]]:
    """Time, commands and reward of each step."""
    reward_T = sum(reward_rates(episodes).values(), np.zeros(len(episodes.qpos_Tq)))
    for t in range(length):
        commands = {name: " ".join(f"{x:+.2f}" for x in value_Tn[t]) for name, value_Tn in episodes.command_Tn.items()}
        yield {"time": f"{(t + 1) * env.step_dt:.2f} s", **commands, "reward": f"{reward_T[t]:.2f} per second"}
