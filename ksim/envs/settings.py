"""What a task can set of a term besides the term's own parameters: one class per manager."""

import math
from dataclasses import dataclass
from typing import Literal

from ksim.config.words import listed, shown


@dataclass(frozen=True, kw_only=True)
class RewardSettings:
    """Settings of a reward term."""

    weight: float  # factor in the sum; a term of weight 0 is not evaluated

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight):
            raise ValueError(f"'weight' must be finite, not {self.weight}")


@dataclass(frozen=True, kw_only=True)
class TerminationSettings:
    """Settings of a termination term."""

    # True: this end truncates the episode and does not terminate it; None: as the term's own trait says.
    time_out: bool | None = None


@dataclass(frozen=True, kw_only=True)
class EventSettings:
    """Settings of an event term."""

    mode: Literal["startup", "reset", "interval", "step"]  # when it fires
    interval_range_s: tuple[float, float] | None = None  # time to the next firing, drawn uniformly, in seconds
    is_global: bool = False  # true: an interval event fires in all envs at once

    def __post_init__(self) -> None:
        if self.mode == "interval" and self.interval_range_s is None:
            raise ValueError("mode 'interval' needs 'interval_range_s', for example [3.0, 6.0]")
        if self.mode != "interval" and (self.interval_range_s is not None or self.is_global):
            raise ValueError(f"'interval_range_s' and 'is_global' mean nothing in mode {self.mode!r}")
        if self.interval_range_s is not None:
            _check_range("interval_range_s", self.interval_range_s, positive=True)


@dataclass(frozen=True, kw_only=True)
class NoiseCfg:
    """Random or constant disturbance of an observation, in the observation's own unit, drawn anew each env step."""

    type: Literal["constant", "uniform", "gaussian"]
    value: float | None = None  # of constant noise
    low: float | None = None  # of uniform noise
    high: float | None = None  # of uniform noise
    mean: float | None = None  # of Gaussian noise; None is 0
    std: float | None = None  # of Gaussian noise
    operation: Literal["add", "scale", "replace"] = "add"  # what the drawn number does to the observation

    def __post_init__(self) -> None:
        uses = {"constant": ("value",), "uniform": ("low", "high"), "gaussian": ("mean", "std")}[self.type]
        for name in ("value", "low", "high", "mean", "std"):
            given = getattr(self, name) is not None
            if given and name not in uses:
                raise ValueError(f"{self.type} noise has no {name!r}; it has {listed(uses)}")
            if not given and name in uses and name != "mean":
                raise ValueError(f"{self.type} noise needs {name!r}")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low = {self.low} is above high = {self.high}")
        if self.std is not None and self.std < 0:
            raise ValueError(f"std = {self.std} is negative")


@dataclass(frozen=True, kw_only=True)
class DelayCfg:
    """How late an observation arrives, or a control takes effect."""

    range_s: tuple[float, float]  # drawn uniformly for each env, in seconds, rounded to whole steps
    hold_probability: float = 1.0  # that an env step keeps the last delay and draws no new one; 1: one per episode

    def __post_init__(self) -> None:
        _check_range("range_s", self.range_s)
        if self.range_s[0] < 0:
            raise ValueError(f"'range_s' must not be negative, not {shown(self.range_s)}")
        if not 0.0 <= self.hold_probability <= 1.0:
            raise ValueError(f"'hold_probability' must be from 0 to 1, not {self.hold_probability}")


@dataclass(frozen=True, kw_only=True)
class ObservationSettings:
    """Settings of an observation term, applied in this order: bias, noise, clip, scale, delay, history."""

    bias: NoiseCfg | None = None  # drawn once per episode; applied where the group's corruption is enabled
    noise: NoiseCfg | None = None  # drawn in each env step; likewise
    clip: tuple[float, float] | None = None  # lowest and highest value
    scale: float | tuple[float, ...] | None = None  # one factor, or one for each element
    delay: DelayCfg | None = None  # how late it arrives
    history: int = 1  # newest frames that are seen, the oldest first

    def __post_init__(self) -> None:
        if self.clip is not None:
            _check_range("clip", self.clip)
        if self.history < 1:
            raise ValueError(f"'history' must be at least 1, the present frame alone, not {self.history}")


@dataclass(frozen=True, kw_only=True)
class ObservationGroupCfg:
    """Settings of an observation group."""

    enable_corruption: bool = False  # apply the terms' bias and noise
    concatenate: bool = True  # one vector; false: a dictionary by term name
    delay: DelayCfg | None = None  # of all terms, in place of their own: they arrive together
    history: int | None = None  # of all terms, in place of their own
    # What is done about values that are not finite. disabled: nothing; sanitize: they become 0; warn: they become 0
    # and are counted in the log as not_finite/<path of the term>; error: the program ends and names the term.
    nan_policy: Literal["disabled", "warn", "sanitize", "error"] = "warn"

    def __post_init__(self) -> None:
        if self.history is not None and self.history < 1:
            raise ValueError(f"'history' must be at least 1, the present frame alone, not {self.history}")


@dataclass(frozen=True, kw_only=True)
class ActionSettings:
    """Settings of an action term, applied in this order: clip, the term's own map to a control, delay, low-pass."""

    clip: tuple[float, float] | None = None  # lowest and highest action, in the policy's own unit
    delay: DelayCfg | None = None  # how late controls take effect, rounded to physics steps
    low_pass_hz: float | None = None  # cut-off frequency of a first-order filter of the controls

    def __post_init__(self) -> None:
        if self.clip is not None:
            _check_range("clip", self.clip)
        if self.low_pass_hz is not None and self.low_pass_hz <= 0:
            raise ValueError(f"'low_pass_hz' must be positive, not {self.low_pass_hz}")


@dataclass(frozen=True, kw_only=True)
class CommandSettings:
    """Settings of a command term."""

    # Time to the next resampling, drawn uniformly, in seconds; None: drawn only when an episode begins.
    resampling_time_range_s: tuple[float, float] | None
    fixed: tuple[float, ...] | None = None  # terms see this value in place of what is drawn; for evals and the viewer

    def __post_init__(self) -> None:
        if self.resampling_time_range_s is not None:
            _check_range("resampling_time_range_s", self.resampling_time_range_s, positive=True)


@dataclass(frozen=True, kw_only=True)
class PatchSettings:
    """Settings of a kind of ground."""

    columns: int = 1  # patches of it on each level

    def __post_init__(self) -> None:
        if self.columns < 1:
            raise ValueError(f"'columns' must be at least 1, not {self.columns}; null removes a kind")


@dataclass(frozen=True, kw_only=True)
class SensorSettings:
    """Settings of a sensor: none, everything is a parameter of the sensor."""


@dataclass(frozen=True, kw_only=True)
class CurriculumSettings:
    """Settings of a curriculum."""

    sets: str | None = None  # what its value takes the place of, such as "rewards.action_rate.weight"

    def __post_init__(self) -> None:
        managers = ("commands", "events", "metrics", "rewards", "terminations")
        if self.sets is not None and (self.sets.count(".") != 2 or self.sets.split(".")[0] not in managers):
            raise ValueError(
                f"'sets' must be <manager>.<term>.<parameter>, the manager one of {listed(managers)}, not {self.sets!r}"
            )


@dataclass(frozen=True, kw_only=True)
class MetricSettings:
    """Settings of a metric."""

    reduce: Literal["mean", "last", "max", "sum"] = "mean"  # from an episode's steps to one number


def _check_range(name: str, value: tuple[float, float], positive: bool = False) -> None:
    if value[0] > value[1]:
        raise ValueError(f"'{name}' must be [lowest, highest], not {shown(value)}")
    if positive and value[0] <= 0:
        raise ValueError(f"'{name}' must be positive, not {shown(value)}")
