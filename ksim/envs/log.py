"""From the sums that `Env.step` logs to the averages that people read."""

from collections.abc import Mapping

_PER_EPISODE = ("return", "reward/", "metric/", "termination/", "curriculum/")
_COUNTS = ("not_finite/", "nan_guard")


def summarize(log: Mapping[str, float], step_dt: float) -> dict[str, float | None]:
    """Averages over the episodes that ended; None where none did.

    Args:
        log: sums of `StepOutput.log` over any number of steps.
        step_dt: seconds of one env step.

    Returns:
        `episodes` (count), `return`, `episode_length_s`, `falls` (share of the ends that terminated),
        `reward/<term>` (per second of episode), `termination/<term>` (share of the ends), `metric/<name>`,
        `curriculum/<name>` (as the episodes ended), and the counts `nan_guard` and `not_finite/<path of a term>`
        (left out while zero).
    """
    episodes = float(log["episodes"])

    def average(name: str) -> float | None:
        return float(log[name]) / episodes if episodes else None

    length = average("length")
    summary: dict[str, float | None] = {
        "episodes": episodes,
        "return": average("return"),
        "episode_length_s": None if length is None else length * step_dt,
        "falls": average("terminated"),
    }
    summary |= {name: average(name) for name in log if name.startswith(_PER_EPISODE[1:])}
    return summary | {name: float(log[name]) for name in log if name.startswith(_COUNTS) and log[name]}
