"""From the term dictionaries of a task to checked functions.

A term is written ``name: {_target_: dotted.path, <settings>, <parameters>}``. Its manager's settings dataclass names
the settings; every other key is a parameter of the target, checked by name and type against the target's annotations
before anything compiles. Settings win where a name is both.

A target is a function ``func(ctx, *, param: type = default)``, of which the keyword-only arguments are the parameters,
or a class (an `equinox.Module`), of which the constructor's arguments are. A class with memory has
``init(ctx) -> memory``, called in the first state of each episode, and ``__call__(ctx, memory) -> (value, memory)``.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from equinox import EquinoxRuntimeError
from jax.errors import JaxRuntimeError

from ksim.config.targets import TARGET, locate, target_name
from ksim.config.values import build, convert, parameters
from ksim.config.words import choices, hint, in_words, listed, shown
from ksim.errors import ConfigError, KsimError


@dataclass(frozen=True)
class Term:
    """One resolved term: ``func(ctx, **params)``, or ``func(**params)`` builds it where `func` is a class."""

    name: str  # its key in the task
    path: str  # where it stands in the config, for messages: "task.rewards.upright"
    func: Callable[..., Any]
    params: dict[str, Any]  # what the config gives, checked; the target's own defaults fill in the rest
    settings: Any  # an instance of the manager's settings dataclass
    driven: dict[str, str] = field(default_factory=dict)  # parameters that a curriculum sets: parameter -> curriculum

    @property
    def is_class(self) -> bool:
        """Whether the target is a class that is built first, such as a term with memory."""
        return inspect.isclass(self.func)

    @property
    def has_memory(self) -> bool:
        """Whether the term remembers something: its class has an `init` that gives the memory's first value."""
        return self.is_class and hasattr(self.func, "init")

    @property
    def parameter_names(self) -> list[str]:
        """The parameters that the target has."""
        return list(parameters(self.func)[0])

    def with_driven(self, driven: dict[str, str]) -> Term:
        """The term with parameters that curricula set."""
        return dataclasses.replace(self, driven=driven)


@dataclass(frozen=True)
class ObservationGroup:
    """One resolved observation group."""

    settings: ObservationGroupCfg
    terms: dict[str, Term]


# Settings, one class a manager. ---------------------------------------------------------------------------------------


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

    time_out: bool = False  # true: this end truncates the episode and does not terminate it


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
    hold_probability: float = 1.0  # that an env step keeps the last delay and draws no new one; 1: one an episode

    def __post_init__(self) -> None:
        _check_range("range_s", self.range_s)
        if self.range_s[0] < 0:
            raise ValueError(f"'range_s' must not be negative, not {shown(self.range_s)}")
        if not 0.0 <= self.hold_probability <= 1.0:
            raise ValueError(f"'hold_probability' must be from 0 to 1, not {self.hold_probability}")


@dataclass(frozen=True, kw_only=True)
class ObservationSettings:
    """Settings of an observation term, applied in this order: bias, noise, clip, scale, delay, history."""

    bias: NoiseCfg | None = None  # drawn once an episode; applied where the group's corruption is enabled
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
    nan_policy: Literal["disabled", "warn", "sanitize", "error"] = "disabled"

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

    resampling_time_range_s: tuple[float, float]  # time to the next resampling, drawn uniformly, in seconds
    fixed: tuple[float, ...] | None = None  # terms see this value in place of what is drawn; for evals and the viewer

    def __post_init__(self) -> None:
        _check_range("resampling_time_range_s", self.resampling_time_range_s, positive=True)


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


# Resolving. -----------------------------------------------------------------------------------------------------------


def resolve(path: str, terms: Mapping[str, Any], settings: type) -> dict[str, Term]:
    """The terms of one manager, in their order.

    Args:
        path: where `terms` stands in the config, such as "task.rewards".
        terms: name -> ``{_target_: ..., ...}``, or None for a term that a derived task removed.
        settings: the manager's settings dataclass.

    Raises:
        ConfigError: naming the YAML path, for anything that is not right.
    """
    if not isinstance(terms, Mapping):
        raise ConfigError(f"{path}: must be a mapping of names to terms, not {shown(terms)}")
    return {
        str(name): _resolve_term(f"{path}.{name}", str(name), term, settings)
        for name, term in terms.items()
        if term is not None
    }


def resolve_groups(path: str, groups: Mapping[str, Any]) -> dict[str, ObservationGroup]:
    """The observation groups of a task: ``{group: {terms: {...}, <ObservationGroupCfg>}}``; null removes a group.

    Raises:
        ConfigError: as `resolve`.
    """
    if not isinstance(groups, Mapping):
        raise ConfigError(f"{path}: must be a mapping of names to observation groups, not {shown(groups)}")
    resolved = {}
    for name, group in groups.items():
        if group is None:
            continue
        group_path = f"{path}.{name}"
        if not isinstance(group, Mapping):
            raise ConfigError(f"{group_path}: must be a mapping with 'terms', not {shown(group)}")
        known = ["terms", *(f.name for f in dataclasses.fields(ObservationGroupCfg))]
        for key in group:
            if key not in known:
                raise ConfigError(f"{group_path}.{key}: no such key{hint(str(key), known)}")
        if group.get("terms") is None:
            raise ConfigError(f"{group_path}: 'terms' is missing")
        settings = build(ObservationGroupCfg, {k: v for k, v in group.items() if k != "terms"}, group_path)
        resolved[str(name)] = ObservationGroup(
            settings, resolve(f"{group_path}.terms", group["terms"], ObservationSettings)
        )
    return resolved


def _resolve_term(path: str, name: str, term: Any, settings: type) -> Term:
    if not isinstance(term, Mapping):
        raise ConfigError(f"{path}: must be a mapping with '{TARGET}', not {shown(term)}")
    if TARGET not in term:
        raise ConfigError(f"{path}: '{TARGET}' is missing")
    func = locate(term[TARGET], path)
    setting_names = [f.name for f in dataclasses.fields(settings)]
    params, is_open = parameters(func)
    given_settings, given_params = {}, {}
    for key, value in term.items():
        if key == TARGET:
            continue
        if key in setting_names:
            given_settings[key] = value
        elif key in params:
            given_params[key] = convert(value, params[key].annotation, f"{path}.{key}")
            _check_conventions(f"{path}.{key}", str(key), given_params[key])
        elif is_open and isinstance(key, str):
            given_params[key] = value
        else:
            known = [*params, *setting_names]
            wrong = f"{path}.{key}: {target_name(func)} has no parameter '{key}'"
            raise ConfigError(wrong + (_positional_hint(func, str(key)) or hint(str(key), known) or choices(known)))
    for key, param in params.items():
        if param.default is inspect.Parameter.empty and key not in given_params and key not in setting_names:
            raise ConfigError(f"{path}: {target_name(func)} needs the parameter '{key}'")
    return Term(name, path, func, given_params, build(settings, given_settings, path))


def construct(term: Term, **changes: Any) -> Any:
    """The term as a function of what its manager gives: with its parameters, or built of them, where it is a class."""
    params = term.params | changes
    return term.func(**params) if term.is_class else partial(term.func, **params)


@contextmanager
def at(term: Term) -> Iterator[None]:
    """What goes wrong inside is told with the term's place in the config.

    Raises:
        ConfigError: with the YAML path in front; of an error that is not ksim's own, the line of the user's code.
    """
    try:
        yield
    except KsimError as error:
        if str(error).startswith("task."):
            raise
        raise ConfigError(f"{term.path}: {error}") from None
    except (EquinoxRuntimeError, JaxRuntimeError):
        raise  # not from tracing the term, but from running it on values
    except Exception as error:  # a user's term may raise anything
        raise ConfigError(f"{term.path}: {_line_of(error, term.func)}{in_words(error)}") from error


def _line_of(error: Exception, func: Callable[..., Any]) -> str:
    """The deepest line in the package of a term's function, "my_rewards.py:12: "; nothing if the error is not there."""
    module = getattr(func, "__module__", None) or ""
    package = module.rpartition(".")[0] or module
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if f"{frame.f_globals.get('__name__')}.".startswith(f"{package}."):
            path = Path(frame.f_code.co_filename)
            return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{line}: "
    return ""


def _positional_hint(func: Callable[..., Any], name: str) -> str:
    if not inspect.isclass(func) and name in inspect.signature(func).parameters:
        return f"; in its definition, '{name}' must come after a '*' to be a parameter"
    return ""


def _check_conventions(path: str, name: str, value: Any) -> None:
    """What a parameter's name promises: a standard deviation is positive, a range is ordered."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and (name == "std" or name.endswith("_std")) and not value > 0:
        raise ConfigError(f"{path}: a standard deviation must be positive, not {value}")
    is_pair = isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(v, int | float) for v in value)
    if is_pair and (name == "range" or "_range" in name) and value[0] > value[1]:
        raise ConfigError(f"{path}: a range must be [lowest, highest], not {shown(value)}")


def _check_range(name: str, value: tuple[float, float], positive: bool = False) -> None:
    if value[0] > value[1]:
        raise ValueError(f"'{name}' must be [lowest, highest], not {shown(value)}")
    if positive and value[0] <= 0:
        raise ValueError(f"'{name}' must be positive, not {shown(value)}")
