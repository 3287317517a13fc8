"""Numbers and a video of a policy: many fresh episodes of its mean action."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ksim.experiment import Experiment, random_key
from ksim.rl import ActorCritic, Normalizer
from ksim.rl.evaluate import Episodes, evaluate
from ksim.viz.render import try_render_video

log = logging.getLogger(__name__)

_STEPS_WITHOUT_LIMIT = 1000  # length of an evaluation where episodes have no time limit


@dataclass(frozen=True)
class Result:
    """An evaluation.

    Attributes:
        summary: means over the episodes: `return`, `episode_length_s`, `falls` (share that terminated) with
            `falls_low` and `falls_high` (95 % Wilson interval), `reward/<term>` (per second), `termination/<term>`
            (share), `metric/<name>` and its median `metric/<name>/median`; `episodes` and `seed`.
        episodes: each episode's own values.
        video: the mp4 of the first episode, if one was asked for and could be drawn.
    """

    summary: dict[str, float]
    episodes: Episodes
    video: Path | None

    @property
    def sentence(self) -> str:
        """The summary in one line."""
        s = self.summary
        text = f"return {s['return']:.2f}, episode {s['episode_length_s']:.1f} s, falls {s['falls']:.1%}"
        if "metric/drift/median" in s:
            text += f", median drift {s['metric/drift/median']:.2f} m"
        return f"{text} over {s['episodes']:.0f} episodes"


def evaluate_and_film(
    experiment: Experiment,
    net: ActorCritic,
    normalizer: Mapping[str, Normalizer],
    video: Path | None,
    *,
    episodes: int | None = None,
    seed: int | None = None,
) -> Result:
    """Play full episodes of the deterministic policy, and film the first one.

    Args:
        experiment: the task and its engine.
        net, normalizer: the policy.
        video: where the mp4 goes; None for none. `eval.video` in the config switches it off, too.
        episodes: how many; None for the config's `eval.episodes`.
        seed: of the episodes; None for the run's. Their random stream is not the training's in any case.
    """
    cfg, env = experiment.cfg, experiment.env
    seed = cfg.seed if seed is None else seed
    assert seed is not None  # the config is checked
    num_envs = episodes or cfg.eval.episodes
    num_steps = env.max_episode_steps or _STEPS_WITHOUT_LIMIT
    play = jax.jit(partial(evaluate, env, num_envs=num_envs, num_steps=num_steps))
    result: Episodes = jax.device_get(play(net, dict(normalizer), random_key(seed, "eval")))
    summary = summarize(result, env.step_dt) | {"episodes": float(num_envs), "seed": float(seed)}
    path = film(experiment, result, video) if video is not None and cfg.eval.video else None
    return Result(summary, result, path)


def summarize(episodes: Episodes, step_dt: float) -> dict[str, float]:
    """Means over the episodes, as `Result.summary`."""
    values = {name: np.asarray(x) for name, x in episodes.values.items()}
    falls = float(np.mean(episodes.terminated))
    low, high = wilson(falls, len(episodes.terminated))
    summary = {
        "return": float(values.pop("return").mean()),
        "episode_length_s": float(values.pop("length").mean() * step_dt),
        "falls": falls,
        "falls_low": low,
        "falls_high": high,
    }
    for name, x in values.items():
        summary[name] = float(x.mean())
        if name.startswith("metric/"):
            summary[f"{name}/median"] = float(np.median(x))
    return summary | {f"termination/{name}": float(np.mean(end)) for name, end in episodes.ends.items()}


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share of `count` trials (Wilson 1927): right even where none, or all, of them count."""
    middle = share + z**2 / (2 * count)
    half = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    scale = 1 + z**2 / count
    return max(float((middle - half) / scale), 0.0), min(float((middle + half) / scale), 1.0)


def film(experiment: Experiment, episodes: Episodes, path: Path) -> Path | None:
    """The first episode as an mp4; None, with a warning, where nothing can be rendered."""
    step_dt = experiment.env.step_dt
    length = min(int(episodes.values["length"][0]), int(experiment.cfg.eval.video_length_s / step_dt))
    qpos_Tq: Array | np.ndarray = jnp.asarray(episodes.qpos_Tq)[: max(length - 1, 1)]  # the last one is of the next
    path.parent.mkdir(parents=True, exist_ok=True)
    return try_render_video(
        experiment.visual_model(), np.asarray(qpos_Tq), path, fps=1.0 / step_dt, camera=experiment.camera()
    )
