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
import numpy as np

from ksim import __version__
from ksim.envs.env import Env
from ksim.errors import KsimError
from ksim.evaluation.episodes import Ends, Episodes, evaluate
from ksim.evaluation.first import VIDEO, show_first
from ksim.physics import EngineChoice
from ksim.rl.policy import Policy
from ksim.rl.streams import random_key
from ksim.store import files
from ksim.system.jit import jit

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
    env: Env,
    engine: EngineChoice,
    policy: Policy,
    curriculum: Mapping[str, Any] | None,
    *,
    episodes: int,
    seed: int,
    video_length_s: float | None,
    overlay: bool = False,
    about: Mapping[str, Any],
    besides: Mapping[str, Any] | None = None,
    replace: bool = False,
    play: Callable[[Policy, Mapping[str, Any] | None], Episodes] | None = None,
) -> Result:
    """Play full episodes of the deterministic policy, and write numbers, plots and a video of the first one.

    The folder appears complete or not at all. A video that cannot be drawn is warned of and left out.

    Args:
        folder: gets `metrics.json`, `video.mp4` and the plots.
        env, engine: the task, and what steps it.
        policy: the policy.
        curriculum: how far the curricula of the task have come; they stay there. None: they begin, and go on.
        episodes: how many.
        seed: of their random stream, which is not the training's in any case.
        video_length_s: film so much of the first episode, at most; None: no video.
        overlay: write time, commands and reward into the film.
        about: what else `metrics.json` says, besides the engine and the summary.
        besides: other files to write, by name: what each says, besides the engine and `about`.
        replace: put it in the place of a folder that exists; else it is given a name of its own, with `_1`, ...
        play: what plays these episodes, compiled before, as `player` would; None: it is compiled here.

    Raises:
        KsimError: the folder cannot be written.
    """
    play = play or player(env, episodes, seed, keep_carry=video_length_s is not None)
    played = play(policy, curriculum)
    summary = summarize(played, env.step_dt) | {"seed": float(seed)}
    common = {"created_at": files.now(), "ksim": __version__, "engine": dataclasses.asdict(engine), **about}
    with _staged(folder) as temp:
        for name, said in {"metrics.json": {"summary": summary}, **(besides or {})}.items():
            files.write_atomic(temp / name, files.json_bytes(common | said))
        filmed = show_first(env, played, temp, video_length_s=video_length_s, overlay=overlay)
        folder = _put(temp, folder, replace)
    return Result(summary, folder, folder / VIDEO if filmed else None)


def player(
    env: Env, episodes: int, seed: int, *, purpose: str = "eval", keep_carry: bool = False
) -> Callable[[Policy, Mapping[str, Any] | None], Episodes]:
    """A function that plays full episodes of a policy's most probable actions, with the task's curricula at a level.

    It is compiled once, plays the same episodes each time, and returns NumPy arrays.

    Args:
        env, episodes, seed: as for `evaluate_into`.
        purpose: of the random stream; see `ksim.rl.streams.random_key`.
        keep_carry: as for `evaluate`.
    """
    num_steps = num_steps_of(env)
    play_all = partial(evaluate, env, num_envs=episodes, num_steps=num_steps, keep_carry=keep_carry)
    program = jit(play_all, filtered=True)
    key = random_key(seed, purpose)

    def play(policy: Policy, curriculum: Mapping[str, Any] | None) -> Episodes:
        result: Episodes = jax.device_get(program(policy, key, curriculum=curriculum or None))
        return result

    return play


def num_steps_of(env: Env) -> int:
    """Env steps of an evaluation's episodes: a full one, or 1,000 where there is no time limit."""
    return env.max_episode_steps or _STEPS_WITHOUT_LIMIT


def summarize(episodes: Ends, step_dt: float) -> dict[str, float]:
    """Means over the episodes, as `Result.summary`."""
    from scipy.stats import binomtest  # late: it takes a second, and a training begins without it

    values = {name: np.asarray(x) for name, x in episodes.values.items()}
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
