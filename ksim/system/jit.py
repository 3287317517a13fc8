"""`jax.jit` with a name: a training warns of what compiles again, and `JIT_PROFILE=1` tells what compiled, why, and
how long it ran.
"""

import atexit
import contextlib
import functools
import inspect
import itertools
import logging
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import equinox as eqx
import jax
from rich.console import Console
from rich.table import Table

log = logging.getLogger(__name__)

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
_LONG_S = 0.5  # what others compile again in less is not worth a warning
_SHOWN = 4  # changes that a line lists

Signature = dict[str, str]  # argument or leaf of one -> type and shape


class Record:
    """What is known of one jitted function.

    Attributes:
        name: as it is shown.
        traces: what it was traced for, each time.
        compile_s: seconds of each tracing and compilation.
        first_run_s: of the first call of each compiled program, until its results were there.
        run_s: of all calls after these.
    """

    def __init__(self, name: str):
        self.name = name
        self.traces: list[Signature] = []
        self.compile_s: list[float] = []
        self.first_run_s: list[float] = []
        self.run_s: list[float] = []


_is_profiling = os.environ.get("JIT_PROFILE", "") not in ("", "0")
_records: list[Record] = []
_foreign: dict[str, list[float]] = {}  # seconds of the compilations of other functions, by name
_names: set[str] = set()  # of ksim's own
_is_watching = False


def jit(function: Callable[..., Any], *, name: str | None = None, filtered: bool = False, **options: Any) -> Any:
    """`jax.jit`, known by a name.

    Args:
        function: what is to be compiled; pure.
        name: for warnings and profiles; None: the function's.
        filtered: as `equinox.filter_jit`: arguments may hold what is no array.
        options: those of `jax.jit`.
    """
    record = Record(name or _name_of(function))
    _names.add(record.name)
    traced = _noting_traces(function, record)
    jitted = eqx.filter_jit(traced) if filtered else jax.jit(traced, **options)
    if not _is_profiling:
        return jitted
    _records.append(record)
    return _Profiled(jitted, function, record)


@contextlib.contextmanager
def warning_of_recompiles() -> Iterator[None]:
    """Within, a function that is compiled although it was before is warned of, with what has changed."""
    global _is_watching
    _listen()
    before, _is_watching = _is_watching, True
    try:
        yield
    finally:
        _is_watching = before


def show_profile(console: Console | None = None) -> None:
    """Print what compiled and ran so far."""
    console = console or Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    table = Table(
        "", "traces", "compile (s)", "first run (s)", "calls", "run (s)", "median run (ms)", title="JIT_PROFILE"
    )
    for column in table.columns[1:]:
        column.justify = "right"
    by_name: dict[str, list[Record]] = {}
    for record in _records:
        if record.traces:
            by_name.setdefault(record.name, []).append(record)
    for name, records in by_name.items():
        runs = [s for record in records for s in record.run_s]
        firsts = [s for record in records for s in record.first_run_s]
        compiled = sum(s for record in records for s in record.compile_s)
        median = f"{1e3 * statistics.median(runs):.1f}" if runs else ""
        table.add_row(name, str(sum(len(record.traces) for record in records)), f"{compiled:.2f}", f"{sum(firsts):.3f}",
                      str(len(firsts) + len(runs)), f"{sum(runs):.3f}", median)  # fmt: skip
    console.print(table)
    for name, records in by_name.items():
        traces = [trace for record in records for trace in record.traces]
        for before, after in itertools.pairwise(traces):
            console.print(f"{name} compiled again: {changes(before, after)}")
    if _foreign:
        count, total = sum(map(len, _foreign.values())), sum(map(sum, _foreign.values()))
        slowest = sorted(_foreign.items(), key=lambda item: -sum(item[1]))[:_SHOWN]
        longest = ", ".join(f"{name} {sum(seconds):.2f} s" for name, seconds in slowest)
        console.print(f"besides, {count} programs of JAX's own or of yours: {total:.2f} s of compiling ({longest})")


def changes(before: Signature, after: Signature) -> str:
    """What differs between two traces, in words."""
    names = [name for name in (*after, *(n for n in before if n not in after)) if before.get(name) != after.get(name)]
    if not names:
        return "with the same arguments, as the function was made anew"
    shown = [f"{name}: {before.get(name, 'nothing')} -> {after.get(name, 'nothing')}" for name in names[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


class _Profiled:
    """A jitted function whose compilations and calls are timed."""

    def __init__(self, jitted: Any, function: Callable[..., Any], record: Record):
        self._jitted = jitted
        self._function = function
        self._record = record
        self._programs: dict[Any, Callable[..., Any]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((args, kwargs))):
            return self._jitted(*args, **kwargs)  # a part of another program
        key = (jax.tree.structure((args, kwargs)), *_signature(self._function, args, kwargs).items())
        if key not in self._programs:
            self._programs[key] = self.lower(*args, **kwargs).compile()
        return self._programs[key](*args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> "_Lowered":
        """As `jax.jit`'s."""
        begin = time.perf_counter()
        lowered = self._jitted.lower(*args, **kwargs)
        return _Lowered(lowered, self._record, time.perf_counter() - begin)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._jitted, name)


class _Lowered:
    def __init__(self, lowered: Any, record: Record, seconds: float):
        self._lowered = lowered
        self._record = record
        self._seconds = seconds

    def compile(self) -> Callable[..., Any]:
        begin = time.perf_counter()
        program = self._lowered.compile()
        self._record.compile_s.append(self._seconds + time.perf_counter() - begin)
        times = [self._record.first_run_s]  # of the first call; then those of all others

        def run(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            result = jax.block_until_ready(program(*args, **kwargs))
            times[0].append(time.perf_counter() - begin)
            times[0] = self._record.run_s
            return result

        return run


def _noting_traces(function: Callable[..., Any], record: Record) -> Callable[..., Any]:
    """The function, of which each trace is noted, and warned of where it is one too many."""

    def traced(*args: Any, **kwargs: Any) -> Any:
        signature = _signature(function, args, kwargs)
        if _is_watching and record.traces:
            log.warning("%s compiles again during the training: %s", record.name, changes(record.traces[-1], signature))
        record.traces.append(signature)
        return function(*args, **kwargs)

    traced.__name__ = traced.__qualname__ = record.name
    return traced


def _signature(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Signature:
    """Types and shapes of a call's arguments, and the numbers and words that the function was made with."""
    fixed = function.keywords if isinstance(function, functools.partial) else {}
    found = {name: repr(x) for name, x in fixed.items() if isinstance(x, int | float | str | bool)}
    named = {
        name: value
        for name, value in inspect.signature(function).bind(*args, **kwargs).arguments.items()
        if name not in fixed
    }
    for path, leaf in jax.tree_util.tree_flatten_with_path(named)[0]:
        found[jax.tree_util.keystr(path, simple=True, separator=".")] = _type(leaf)
    return found


def _type(leaf: Any) -> str:
    try:
        aval = jax.typeof(leaf)
    except TypeError:
        return repr(leaf)
    return aval.str_short() + (" (weak)" if getattr(aval, "weak_type", False) else "")


def _name_of(function: Callable[..., Any]) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))


@functools.cache
def _listen() -> None:
    """Hear of every program that JAX compiles from now on."""
    jax.monitoring.register_event_duration_secs_listener(_heard)


def _heard(event: str, duration_secs: float, **about: Any) -> None:
    if event != _COMPILE_EVENT:
        return
    name = str(about.get("fun_name", "?")).removeprefix("jit(").removesuffix(")")
    if name in _names:
        return
    seen = _foreign.setdefault(name, [])
    seen.append(duration_secs)
    if _is_watching and len(seen) > 1 and duration_secs > _LONG_S:
        log.warning("%s compiled again during the training, in %.1f s", name, duration_secs)


if _is_profiling:
    _listen()
    atexit.register(show_profile)
