"""Where a training's time and memory go, measured on its own states and actions, the programs taking turns."""

import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ksim.diagnostics import manager_times, model_cost, replay
from ksim.envs import Env
from ksim.envs.carry import EnvCarry
from ksim.envs.foreign import ForeignEnv
from ksim.rl import Algorithm, random_key
from ksim.system import cpus, memory
from ksim.system.jit import jit
from ksim.training.experiment import Experiment
from ksim.training.state import jit_chunk

# What is measured, and what it does for every env step.
PROGRAMS = {
    "ceiling": "C MuJoCo alone",
    "physics": "the engine, from JAX",
    "env": "Env.step",
    "rollout": "env and policy",
    "train": "the training",
}
# What an iteration of training goes into.
PARTS = {
    "physics": "steps, and a forward pass after resets",
    "host callback": "copies between JAX and C MuJoCo",
    "env": "an environment of somebody else's, its physics included",
    "env terms": "events to observations, all but physics",
    "policy": "the network that acts",
    "learning": "values, advantages, epochs of minibatches, statistics",
}


class Program(NamedTuple):
    """A compiled program and what it is called with."""

    call: Callable[..., Any]
    args: tuple[Any, ...]


class Compiler:
    """Compiles programs and notes how long each took.

    Attributes:
        seconds: by the program's name.
    """

    def __init__(self, tell: Callable[[str], object]):
        self.seconds: dict[str, float] = {}
        self._tell = tell

    def __call__(self, name: str, function: Callable[..., Any], *args: Any) -> Program:
        """The program of a jittable function, for these arguments; they may be donated to it."""
        self._tell(f"compiling {name}")
        jitted: Any = function if hasattr(function, "lower") else jit(function)
        begin = time.perf_counter()
        program = jitted.lower(*args).compile()
        self.seconds[name] = time.perf_counter() - begin
        return Program(program, args)


class Turns(NamedTuple):
    """What was measured.

    Attributes:
        seconds: of an iteration's worth of each program, one for each turn.
        inside_C: how much of them calls into C MuJoCo took.
    """

    seconds: dict[str, list[float]]
    inside_C: dict[str, list[float]]


def measure(
    experiment: Experiment,
    repeats: int,
    warmup: int,
    managers: bool = False,
    tell: Callable[[str], object] = lambda text: None,
) -> dict[str, Any]:
    """Time ceiling, engine, env, rollout, update and training in turns.

    Args:
        experiment: what to train.
        repeats: how many turns.
        warmup: iterations of training before them, rounded up to whole chunks.
        managers: also time the managers of the env, each alone.
        tell: hears what comes next.

    Returns:
        `programs`: by name, `env_steps_per_s` (median), `physics_steps_per_s` (None where the task does not say how
        many make an env step), `all` (of each turn), `percent_of_ceiling` and `compile_s`; `warm_compile_s`: of the
        training where the compile cache has its program; `peak_memory`: bytes, by
        device; `model`: see `ksim.diagnostics.model_cost`, None where the physics is not ksim's;
        `parts`: seconds of an iteration and share of it, by what they go into; `managers`: likewise of the env's
        steps in an iteration; `carry_bytes_per_env`; and settings.
    """
    cfg, env, algorithm = experiment.cfg, experiment.env, experiment.algorithm
    assert cfg.seed is not None  # the config is checked
    threads = cfg.physics.threads or cpus.available()
    compiler = Compiler(tell)
    memory.forget_peak()
    state: Any = jit(partial(algorithm.init, env))(random_key(cfg.seed, "train"))
    chunk = compiler("train", jit_chunk(experiment), state).call
    warm_compile_s = _seconds(lambda: jit_chunk(experiment).lower(state).compile())
    tell("training to warm up")
    for _ in range(-(-warmup // cfg.log.interval_iterations)):
        state, *_ = chunk(state)
    before: Any = jax.tree.map(jnp.copy, state)  # `state` is donated to the next chunk
    tell("recording a rollout")
    acting = (algorithm.policy(before), before.env_carry, before.obs, random_key(cfg.seed, "eval"))
    num_steps = rollout_length(algorithm)
    is_foreign = isinstance(env, ForeignEnv)  # its physics is called by code that is not ksim's
    record = replay.record_actions if is_foreign else replay.record
    recording: replay.Recording = jit(partial(record, env, num_steps=num_steps))(*acting)
    programs = _programs(compiler, env, recording, acting, num_steps)
    if managers and not is_foreign:
        tell("recording states")
        programs |= _manager_programs(compiler, env, recording)
    ceiling = None if is_foreign else replay.Ceiling(env.scene.model, recording, threads)
    turns = _take_turns(experiment, repeats, ceiling, programs, Program(chunk, (state,)), tell)
    peak_memory = memory.peak()
    return {
        **_about(experiment, num_steps, threads, repeats),
        **_found(experiment, turns, compiler.seconds, managers and not is_foreign),
        "warm_compile_s": warm_compile_s,
        "peak_memory": peak_memory,
        "model": None if is_foreign else model_cost.measure(env.scene.model, recording),
        "carry_bytes_per_env": carry_bytes(before.env_carry) / algorithm.num_envs,
    }


def _about(experiment: Experiment, num_steps: int, threads: int, repeats: int) -> dict[str, Any]:
    """What is measured, and on what."""
    cfg = experiment.cfg
    return {
        "task": cfg.name,
        "engine": dataclasses.asdict(experiment.engine),
        "seed": cfg.seed,
        "num_envs": experiment.algorithm.num_envs,
        "rollout_length": num_steps,
        "decimation": getattr(cfg.task, "decimation", None),
        "threads": threads,
        "cpus": os.cpu_count(),
        "device": str(jax.devices()[0]),
        "repeats": repeats,
    }


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def rollout_length(algorithm: Algorithm) -> int:
    """Env steps, of each env, in an iteration."""
    return max(algorithm.steps_per_iteration // algorithm.num_envs, 1)


def _programs(
    compiler: Compiler, env: Env, recording: replay.Recording, acting: tuple[Any, ...], num_steps: int
) -> dict[str, Program]:
    asked = (recording.physics, recording.model_fields, recording.ctrl_TESu)
    is_foreign = isinstance(env, ForeignEnv)
    engine = {} if is_foreign else {"physics": compiler("physics", partial(replay.step_engine, env), *asked)}
    return engine | {
        "env": compiler("env", partial(replay.step_env, env), recording.env_carry, recording.action_TEa),
        "rollout": compiler("rollout", partial(replay.play, env, num_steps=num_steps), *acting),
    }


def _manager_programs(compiler: Compiler, env: Env, recording: replay.Recording) -> dict[str, Program]:
    states_T = jit(partial(manager_times.record_states, env))(recording.env_carry, recording.action_TEa)
    return {
        name: compiler(name, partial(manager_times.run_part, part, env), states_T, recording.action_TEa)
        for name, (_, part) in manager_times.PARTS.items()
    }


def _take_turns(
    experiment: Experiment,
    repeats: int,
    ceiling: replay.Ceiling | None,
    programs: Mapping[str, Program],
    training: Program,
    tell: Callable[[str], object],
) -> Turns:
    """Times everything `repeats` times; the training goes on from turn to turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ("train", *programs)}
    if ceiling is not None:
        seconds["ceiling"] = []
    inside_C: dict[str, list[float]] = {name: [] for name in programs}
    (state,) = training.args
    for turn in range(repeats):
        tell(f"turn {turn + 1} of {repeats}")
        if ceiling is not None:
            seconds["ceiling"].append(ceiling.seconds())
        for name, (program, args) in programs.items():
            with replay.time_in_batch() as spent:
                begin = time.perf_counter()
                jax.block_until_ready(program(*args))
                seconds[name].append(time.perf_counter() - begin)
            inside_C[name].append(sum(spent))
        begin = time.perf_counter()
        state, *_ = jax.block_until_ready(training.call(state))
        seconds["train"].append((time.perf_counter() - begin) / experiment.cfg.log.interval_iterations)
    return Turns(seconds, inside_C)


def _found(
    experiment: Experiment, turns: Turns, compile_s: Mapping[str, float], managers: bool
) -> dict[str, dict[str, Any] | float | None]:
    """What the times say: see `measure`."""
    steps = experiment.algorithm.steps_per_iteration
    substeps = getattr(experiment.cfg.task, "decimation", None)
    median = {name: statistics.median(values) for name, values in turns.seconds.items()}
    in_C = {name: statistics.median(values) for name, values in turns.inside_C.items()}
    return {
        "programs": {
            name: {
                "env_steps_per_s": steps / median[name],
                "percent_of_ceiling": 100.0 * median["ceiling"] / median[name] if "ceiling" in median else None,
                "physics_steps_per_s": substeps and steps * substeps / median[name],
                "all": [steps / s for s in turns.seconds[name]],
                "compile_s": compile_s.get(name),
            }
            for name in PROGRAMS
            if name in median
        },
        "iteration_s": median["train"],
        "ceiling_s": median.get("ceiling"),
        "parts": parts(median, in_C, experiment.engine.engine),
        "managers": {
            name: {"seconds": (s := median[name] - in_C[name]), "percent": 100.0 * s / median["env"]}
            for name in (manager_times.PARTS if managers else ())
        },
    }


def parts(seconds: Mapping[str, float], inside_C: Mapping[str, float], engine: str) -> dict[str, dict[str, float]]:
    """What an iteration of training goes into, by differences between the programs.

    Args:
        seconds: of each program, an iteration's worth.
        inside_C: how much of them C MuJoCo took.
        engine: `mujoco` or `mjx`.
    """
    found: dict[str, float]
    if "physics" not in seconds:
        found = {"env": seconds["env"]}
    elif engine == "mujoco":
        callback = seconds["physics"] - inside_C["physics"]
        found = {"physics": inside_C["env"], "host callback": callback}
        found["env terms"] = seconds["env"] - inside_C["env"] - callback
    else:
        found = {"physics": seconds["physics"], "env terms": seconds["env"] - seconds["physics"]}
    found |= {
        "policy": seconds["rollout"] - seconds["env"],
        "learning": seconds["train"] - seconds["rollout"],
    }
    return {name: {"seconds": s, "percent": 100.0 * s / seconds["train"]} for name, s in found.items()}


def carry_bytes(state: EnvCarry) -> int:
    """Bytes of all leaves of the envs' state."""
    total = 0
    for leaf in jax.tree.leaves(state):
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        total += (jax.random.key_data(leaf) if is_key else leaf).nbytes
    return total
