"""Where a training's time and memory go: ``python -m ksim.bench task=kbot_standing``.

Everything is measured on the states and actions of this training, in one process, the programs taking turns. The
ceiling is what C MuJoCo alone can do with them on this machine: no policy, no rewards, nothing copied out.
"""

import argparse
import contextlib
import copy
import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from mujoco.batch import Batch, SimulationError
from rich.console import Console
from rich.table import Table

from ksim.config.compose import compose
from ksim.diagnostics import manager_times
from ksim.envs import Env
from ksim.envs.carry import EnvCarry, Obs
from ksim.errors import ConfigError, KsimError
from ksim.physics import PhysicsState
from ksim.rl import Algorithm, Policy, random_key, rollout
from ksim.store import files
from ksim.system import cpus, jax_setup
from ksim.system.entry import entry
from ksim.training.checks import checked
from ksim.training.experiment import Experiment, build
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
    "env terms": "events to observations, all but physics",
    "policy": "the network that acts",
    "learning": "values, advantages, epochs of minibatches, statistics",
}


class Recording(eqx.Module):
    """One rollout of a training.

    Attributes:
        env_carry: the envs before it.
        action_TEa: the actions.
        physics: (T, E, ...) what each env step asked of the engine: states, per-env model fields and controls.
        model_fields: by name, (T, E, ...).
        ctrl_TESu: of every substep.
    """

    env_carry: EnvCarry
    action_TEa: Float[Array, "T E a"]
    physics: PhysicsState
    model_fields: dict[str, Array]
    ctrl_TESu: Float[Array, "T E S nu"]


def main(argv: Sequence[str]) -> None:
    """Measure as the command line asks.

    Raises:
        KsimError: a mistake of the user's.
    """
    options = _parser().parse_intermixed_args(argv)
    if options.repeats < 1 or options.warmup < 1:
        raise ConfigError("--repeats and --warmup must be above 0")
    jax_setup.share_the_gpu()
    cfg = checked(compose(options.overrides))
    if options.json is not None and not options.json.absolute().parent.is_dir():
        raise KsimError(f"--json: there is no folder {options.json.absolute().parent}")
    jax.config.update("jax_enable_compilation_cache", False)  # else its compile seconds would be those of a disk
    with Console(stderr=True).status("building ...") as status:
        found = measure(
            build(cfg), options.repeats, options.warmup, options.managers, lambda text: status.update(f"{text} ...")
        )
    found["overrides"] = options.overrides
    show(found)
    if options.json is not None:
        files.write_atomic(options.json, files.json_bytes(found))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m ksim.bench",
        description="Where a training's time and memory go, on its own states and actions.",
        allow_abbrev=False,
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for a training: task=kbot_standing ...")
    parser.add_argument("--repeats", type=int, default=3, help="turns; the median counts (default: 3)")
    parser.add_argument("--warmup", type=int, default=8, help="iterations of training before them (default: 8)")
    parser.add_argument("--managers", action="store_true", help="also time the managers of the env, one by one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    return parser


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
        `programs`: by name, `env_steps_per_s` (median), `all` (of each turn), `percent_of_ceiling` and `compile_s`;
        `parts`: seconds of an iteration and share of it, by what they go into; `managers`: likewise of the env's
        steps in an iteration; `carry_bytes_per_env`; and settings.
    """
    cfg, env, algorithm = experiment.cfg, experiment.env, experiment.algorithm
    assert cfg.seed is not None  # the config is checked
    steps, interval = algorithm.steps_per_iteration, cfg.log.interval_iterations
    num_steps = rollout_length(algorithm)
    threads = cfg.physics.threads or cpus.available()
    compile_s: dict[str, float] = {}

    def compiled(name: str, function: Any, *args: Any) -> Any:
        tell(f"compiling {name}")
        begin = time.perf_counter()
        program = function.lower(*args).compile()
        compile_s[name] = time.perf_counter() - begin
        return program

    state: Any = jax.jit(partial(algorithm.init, env))(random_key(cfg.seed, "train"))
    chunk = compiled("train", jit_chunk(experiment), state)
    tell("training to warm up")
    for _ in range(-(-warmup // interval)):
        state, *_ = chunk(state)
    before: Any = jax.tree.map(jnp.copy, state)  # `state` is donated to the next chunk
    tell("recording a rollout")
    policy, key = algorithm.policy(before), random_key(cfg.seed, "eval")
    recording: Recording = jax.jit(partial(record, env, num_steps=num_steps))(policy, before.env_carry, before.obs, key)
    inputs = (recording.physics, recording.model_fields, recording.ctrl_TESu)
    acting = (policy, before.env_carry, before.obs, key)
    programs = {
        "physics": (compiled("physics", jax.jit(lambda *x: step_engine(env, *x)), *inputs), inputs),
        "env": (
            compiled("env", jax.jit(lambda s, a: step_env(env, s, a)), recording.env_carry, recording.action_TEa),
            (recording.env_carry, recording.action_TEa),
        ),
        "rollout": (compiled("rollout", jax.jit(partial(play, env, num_steps=num_steps)), *acting), acting),
    }
    if managers:
        tell("recording states")
        states_T = jax.jit(lambda s, a: manager_times.record_states(env, s, a))(
            recording.env_carry, recording.action_TEa
        )
        for name, (_, part) in manager_times.PARTS.items():
            function = jax.jit(partial(manager_times.run_part, part, env))
            programs[name] = (
                compiled(name, function, states_T, recording.action_TEa),
                (states_T, recording.action_TEa),
            )
    replay = Replay(experiment, recording, threads)
    seconds: dict[str, list[float]] = {name: [] for name in (*PROGRAMS, *programs)}
    inside_C: dict[str, list[float]] = {name: [] for name in programs}  # of an iteration
    for turn in range(repeats):
        tell(f"turn {turn + 1} of {repeats}")
        seconds["ceiling"].append(replay.seconds())
        for name, (program, args) in programs.items():
            with _time_in_batch() as spent:
                begin = time.perf_counter()
                jax.block_until_ready(program(*args))
                seconds[name].append(time.perf_counter() - begin)
            inside_C[name].append(sum(spent))
        begin = time.perf_counter()
        state, *_ = jax.block_until_ready(chunk(state))
        seconds["train"].append((time.perf_counter() - begin) / interval)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    C = {name: statistics.median(values) for name, values in inside_C.items()}
    return {
        "task": cfg.name,
        "engine": dataclasses.asdict(experiment.engine),
        "seed": cfg.seed,
        "num_envs": algorithm.num_envs,
        "rollout_length": num_steps,
        "decimation": cfg.task.decimation,
        "threads": threads,
        "cpus": os.cpu_count(),
        "device": str(jax.devices()[0]),
        "repeats": repeats,
        "programs": {
            name: {
                "env_steps_per_s": steps / median[name],
                "percent_of_ceiling": 100.0 * median["ceiling"] / median[name],
                "all": [steps / s for s in seconds[name]],
                "compile_s": compile_s.get(name),
            }
            for name in PROGRAMS
        },
        "iteration_s": median["train"],
        "ceiling_s": median["ceiling"],
        "parts": parts(median, C, experiment.engine.engine),
        "managers": {
            name: {"seconds": (s := median[name] - C[name]), "percent": 100.0 * s / median["env"]}
            for name in (manager_times.PARTS if managers else ())
        },
        "carry_bytes_per_env": carry_bytes(before.env_carry) / algorithm.num_envs,
    }


def parts(seconds: Mapping[str, float], inside_C: Mapping[str, float], engine: str) -> dict[str, dict[str, float]]:
    """What an iteration of training goes into, by differences between the programs.

    Args:
        seconds: of each program, an iteration's worth.
        inside_C: how much of them C MuJoCo took.
        engine: `mujoco` or `mjx`.
    """
    if engine == "mujoco":
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


# The programs. --------------------------------------------------------------------------------------------------------


class _Tap:
    """An engine that keeps what it was last asked to step."""

    def __init__(self, physics: Any):
        self.physics = physics

    def step(self, *args: Any) -> PhysicsState:
        self.asked = args
        new: PhysicsState = self.physics.step(*args)
        return new

    def __getattr__(self, name: str) -> Any:
        return getattr(self.physics, name)


def rollout_length(algorithm: Algorithm) -> int:
    """Env steps, of each env, in an iteration."""
    return max(algorithm.steps_per_iteration // algorithm.num_envs, 1)


def record(env: Env, policy: Policy, env_carry: EnvCarry, obs: Obs, key: PRNGKeyArray, num_steps: int) -> Recording:
    """A rollout of the stochastic policy, with what it asked of the engine."""
    tapped = copy.copy(env)
    tapped.physics = tap = _Tap(env.physics)

    def step(now: tuple, key: Array) -> tuple[tuple, tuple]:
        state, obs, carry = now
        distribution, carry = policy(obs["actor"], carry)
        action_Ea = distribution.sample(key)
        state, out = tapped.step(state, action_Ea)
        return (state, out.obs, carry), (action_Ea, tap.asked)

    start = (env_carry, obs, policy.init_carry(len(obs["actor"])))
    _, (action_TEa, asked) = jax.lax.scan(step, start, jax.random.split(key, num_steps))
    physics, model_fields, ctrl_TESu = asked
    return Recording(env_carry, action_TEa, physics, dict(model_fields), ctrl_TESu)


def play(env: Env, policy: Policy, env_carry: EnvCarry, obs: Obs, key: PRNGKeyArray, num_steps: int) -> Any:
    """The rollout of a training by itself; of everything that it returns, the sums, so that nothing is left out."""
    env_carry, obs, _, trajectory, log = rollout(
        env, policy, env_carry, obs, policy.init_carry(len(obs["actor"])), key, num_steps
    )
    return env_carry, _sums(trajectory), log


def step_engine(
    env: Env, physics: PhysicsState, model_fields: dict[str, Array], ctrl_TESu: Float[Array, "T E S nu"]
) -> Any:
    """The engine alone on recorded inputs, called as the env calls it."""

    def step(carry: Array, asked: tuple) -> tuple[Array, Any]:
        # The carry keeps the calls in order, as the state does in a training.
        state, fields, ctrl_ESu = asked
        state = dataclasses.replace(state, qpos=state.qpos + 0.0 * carry)
        new = env.physics.step(state, fields, ctrl_ESu)
        return new.qpos.ravel()[0], jax.tree.map(jnp.sum, new)

    return jax.lax.scan(step, jnp.zeros((), physics.qpos.dtype), (physics, model_fields, ctrl_TESu))


def step_env(env: Env, state: EnvCarry, action_TEa: Float[Array, "T E a"]) -> Any:
    """The env alone on recorded actions; of everything that it returns, the sums, so that nothing is left out."""

    def step(state: EnvCarry, action_Ea: Array) -> tuple[EnvCarry, Any]:
        state, out = env.step(state, action_Ea)
        return state, _sums(out)

    return jax.lax.scan(step, state, action_TEa)


def _sums(tree: Any) -> Any:
    """The sum of every leaf that is a number; random keys are none."""
    return jax.tree.map(jnp.sum, eqx.filter(tree, lambda x: not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)))


class Replay:
    """The ceiling: recorded states and controls through C MuJoCo's pool, no outputs bound.

    Args:
        experiment: whose model it is.
        recording: the states and controls.
        threads: size of the pool.
    """

    def __init__(self, experiment: Experiment, recording: Recording, threads: int):
        self._physics: PhysicsState = jax.device_get(recording.physics)
        self._model_fields = jax.device_get(recording.model_fields)
        self._ctrl_TESu = np.asarray(recording.ctrl_TESu)
        # Controls that are held over the substeps need one call, others one each.
        self._held = bool((self._ctrl_TESu == self._ctrl_TESu[:, :, :1]).all())
        self.batch = Batch(experiment.env.scene.model, nsim=self._ctrl_TESu.shape[1], nthread=threads)
        for name in self._model_fields:
            self.batch.expand(name)

    def seconds(self) -> float:
        """Time of the calls that step, over the whole rollout; writing the states does not count."""
        num_steps, _, num_substeps, _ = self._ctrl_TESu.shape
        calls = [(0, num_substeps)] if self._held else [(s, 1) for s in range(num_substeps)]
        total = 0.0
        for t in range(num_steps):
            for name in ("qpos", "qvel", "act", "qacc_warmstart"):  # a state's field is a view, not an output
                self.batch.bind(name)[:] = getattr(self._physics, name)[t]
            for name, value_TE in self._model_fields.items():
                expanded = self.batch.expand(name)
                expanded[:] = value_TE[t].reshape(expanded.shape)
            for s, count in calls:
                self.batch.bind("ctrl")[:] = self._ctrl_TESu[t, :, s]
                begin = time.perf_counter()
                with contextlib.suppress(SimulationError):
                    self.batch.step(nstep=count)
                total += time.perf_counter() - begin
        return total


@contextlib.contextmanager
def _time_in_batch() -> Iterator[list[float]]:
    """Collects the seconds that each call into C MuJoCo's pools takes."""
    spent: list[float] = []

    def timed(function: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent.append(time.perf_counter() - begin)

        return call

    originals = {name: getattr(Batch, name) for name in ("step", "forward")}
    try:
        for name, function in originals.items():
            setattr(Batch, name, timed(function))
        yield spent
    finally:
        for name, function in originals.items():
            setattr(Batch, name, function)


def carry_bytes(state: EnvCarry) -> int:
    """Bytes of all leaves of the envs' state."""
    total = 0
    for leaf in jax.tree.leaves(state):
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        total += (jax.random.key_data(leaf) if is_key else leaf).nbytes
    return total


def show(found: Mapping[str, Any]) -> None:
    """Print a measurement."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"{found['task']}: {found['num_envs']} envs x {found['rollout_length']} env steps an iteration,"
        f" {found['decimation']} physics steps each"
    )
    console.print(f"physics: {found['engine']['reason']}; the ceiling: {found['threads']} of {found['cpus']} CPUs")
    speeds = Table("", "", "env steps/s", "% of ceiling", "compile (s)", title=f"median of {found['repeats']}")
    times = Table("", "", "seconds", "%", title="what an iteration goes into")
    for table, first in ((speeds, 2), (times, 2)):
        for column in table.columns[first:]:
            column.justify = "right"
    for name, row in found["programs"].items():
        compile_s = "" if row["compile_s"] is None else f"{row['compile_s']:.1f}"
        speed, percent = f"{row['env_steps_per_s']:,.0f}", f"{row['percent_of_ceiling']:.1f}"
        speeds.add_row(name, PROGRAMS[name], speed, percent, compile_s)
    for name, part in found["parts"].items():
        times.add_row(name, PARTS[name], f"{part['seconds']:.3f}", f"{part['percent']:.1f}")
    times.add_section()
    times.add_row("an iteration", "", f"{found['iteration_s']:.3f}", "100.0")
    times.add_row("the ceiling", "the physics in C MuJoCo alone", f"{found['ceiling_s']:.3f}",
                  f"{found['programs']['train']['percent_of_ceiling']:.1f}")  # fmt: skip
    console.print(speeds, times)
    if found["managers"]:
        console.print(_manager_table(found))
    console.print(f"carried from step to step: {found['carry_bytes_per_env']:,.0f} bytes an env")


def _manager_table(found: Mapping[str, Any]) -> Table:
    rows = Table("", "", "seconds", "% of Env.step", title="managers of the env, each alone, in an iteration")
    for column in rows.columns[2:]:
        column.justify = "right"
    for name, row in found["managers"].items():
        rows.add_row(name, manager_times.PARTS[name][0], f"{row['seconds']:.4f}", f"{row['percent']:.1f}")
    programs = found["programs"]
    share = programs["env"]["env_steps_per_s"] / programs["physics"]["env_steps_per_s"]
    rows.add_section()
    rows.add_row("Env.step", "of the engine's own throughput", "", f"{100.0 * share:.1f}")
    return rows


if __name__ == "__main__":
    entry(main)
