"""The whole configuration as typed dataclasses.

Hydra merges the YAML files of ``conf/`` into `Config`, so that a misspelt key or a wrong type anywhere is an error.
A field with no default gets its value from YAML; a field with a default is set in YAML only where it differs.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from omegaconf import MISSING

from ksim.config.fields import setting


@dataclass(kw_only=True)
class PatchesCfg:
    """Uneven ground: square patches, one level of difficulty after another along x, one kind beside another along y."""

    # Name -> kind of ground, such as {_target_: ksim.mdp.terrains.stairs}; null removes one.
    kinds: dict[str, Any] = field(default_factory=dict)
    levels: int = setting(6, above=0)  # from the easiest to the hardest
    size: float = setting(6.0, above=0)  # side of a patch, in metres
    spacing: float = setting(0.05, above=0)  # between the nodes of the height field, in metres
    border: float = setting(3.0, at_least=0)  # level ground around all patches, in metres
    start_radius: float = setting(0.5, above=0)  # of the level square in the middle of a patch, in metres
    seed: int = setting(0, at_least=0)  # of what is random in the ground, whatever the seed of a training


@dataclass(kw_only=True)
class SceneCfg:
    """What stands in the world: one articulated robot, the ground, and the sensors that terms read."""

    num_envs: int = setting(above=0)  # parallel copies of the scene (E)
    robot: str  # a built-in robot, or the path of a folder with a robot.yaml, such as ./my_robot
    mjcf: str | None = None  # another MJCF with the same joints, a path or package://<package>/<path>; None: its own
    # plane: replaces the MJCF's planes; patches: likewise, with uneven ground; none: leaves them.
    terrain: str = setting("plane", choices=("plane", "patches", "none"))
    patches: PatchesCfg = field(default_factory=PatchesCfg)  # of the terrain of that name
    sensors: dict[str, Any] = field(default_factory=dict)  # name -> sensor added to the model before it compiles


@dataclass(kw_only=True)
class SimCfg:
    """MuJoCo's solver settings; they are part of what is simulated and equal on every engine."""

    timestep: float = setting(0.005, above=0)  # length of one physics step, in seconds
    integrator: str = setting("implicitfast", choices=("euler", "implicit", "implicitfast", "rk4"))
    solver: str = setting("newton", choices=("cg", "newton"))  # constraint solver
    # Caps: the solver stops where it has converged. Too low, and feet are kicked by contact forces that are not there.
    iterations: int = setting(10, above=0)  # largest number of solver iterations in a physics step
    ls_iterations: int = setting(20, above=0)  # largest number of line-search iterations in a solver iteration
    cone: str = setting("pyramidal", choices=("elliptic", "pyramidal"))  # friction cone
    impratio: float = setting(1.0, above=0)  # ratio of frictional to normal constraint impedance
    gravity: list[float] | None = setting(None, length=3)  # in m/s^2; None: the MJCF's
    # Of the contacts of every geom, as MuJoCo means them; None: what the MJCF says, geom by geom.
    contact_solref: list[float] | None = setting(None, length=2)  # time constant in seconds, and damping ratio
    # Impedance: lowest, highest, width in metres, midpoint, power.
    contact_solimp: list[float] | None = setting(None, length=5)
    contact_margin: float | None = setting(None, at_least=0)  # distance at which contacts begin, in metres
    nan_guard: bool = True  # reset, count and dump envs whose state is non-finite or larger than 1e10


@dataclass(kw_only=True)
class ViewerCfg:
    """The camera of videos and of the viewer, in the frame that follows the robot's base horizontally."""

    # Where the camera is, in metres; None: where the robot in its home pose fills most of the picture.
    position: list[float] | None = setting(None, length=3)
    target: list[float] | None = setting(None, length=3)  # the point it looks at, in metres; None: the robot's middle
    width: int = setting(640, above=0)  # in pixels
    height: int = setting(480, above=0)  # in pixels


@dataclass(kw_only=True)
class GateCfg:
    """What good is: bounds of an evaluation's figures, under each of some conditions; none: the task has no gate."""

    episodes: int = setting(256, above=0)  # of each condition
    # name -> `ksim.config.gate.ConditionCfg`; null removes one. Any, so that the command line can add one.
    conditions: dict[str, Any] = field(default_factory=dict)


DEFAULT_EVENT = "reset_scene_to_default"


@dataclass(kw_only=True)
class TaskCfg(abc.ABC):
    """A task of any kind: a dataclass of its settings that `_target_` in a task's YAML names, and what it makes.

    Without a `_target_`, a task is a `ManagerBasedRlEnvCfg`. Settings are checked as an algorithm's.
    """

    is_finite_horizon: bool = False  # true: the time limit is part of the task, so the learner does not bootstrap there
    viewer: ViewerCfg = field(default_factory=ViewerCfg)
    # Only tasks of terms have them.
    commands: ClassVar[Mapping[str, Any]] = {}
    gate: ClassVar[None] = None

    @abc.abstractmethod
    def check(self) -> None:
        """What can be known of it before its env is built.

        Raises:
            ConfigError: for the first mistake, naming its YAML path and what would be right.
        """

    @abc.abstractmethod
    def make_env(self, engine: str, threads: int | None) -> Any:
        """Its `ksim.envs.Env` on a resolved engine, `mjx` or `mujoco`."""

    @classmethod
    def algo_settings(cls, task: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
        """What such a task changes in algorithms, by choice of `algo`: below its YAML's own section `algo`.

        Args:
            task: its settings as they are given, not checked yet.
        """
        return {}


@dataclass(kw_only=True)
class ManagerBasedRlEnvCfg:
    """A task: scene, physics settings, and the terms that make observations, rewards and episode ends.

    The dictionaries map a term's name to ``{_target_: dotted.path, <settings and parameters>}``; null removes a term.
    """

    decimation: int = setting(above=0)  # physics steps in one env step
    scene: SceneCfg
    observations: dict[str, Any] = field(default_factory=dict)  # group name -> ObservationGroupCfg with its terms
    actions: dict[str, Any] = field(default_factory=dict)  # concatenated in this order
    rewards: dict[str, Any] = field(default_factory=dict)  # summed with their weights
    terminations: dict[str, Any] = field(default_factory=dict)  # none: episodes never end
    # Startup, reset, interval and step events. `reset_scene_to_default` comes first unless it is given (or null)
    # here; an empty mapping removes even that. Any, because only None can stand for "not given": OmegaConf merges an
    # empty mapping into a filled one without a trace, and cannot reach into an optional one.
    events: Any = None
    commands: dict[str, Any] = field(default_factory=dict)  # generators of the goals that observations and rewards read
    curriculum: dict[str, Any] = field(default_factory=dict)  # values that change during a training
    metrics: dict[str, Any] = field(default_factory=dict)  # logged, not optimized
    gate: GateCfg | None = field(default_factory=GateCfg)  # what an evaluation is held against; null: nothing
    episode_length_s: float = setting(0.0, at_least=0)  # time limit of an episode, in seconds; 0: none
    is_finite_horizon: bool = False  # true: the time limit is part of the task, so the learner does not bootstrap there
    scale_rewards_by_dt: bool = True  # multiply each reward by the env step's length, so weights are rates per second
    seed: int | None = None  # None: one is drawn and written back here
    sim: SimCfg = field(default_factory=SimCfg)
    viewer: ViewerCfg = field(default_factory=ViewerCfg)

    def __post_init__(self) -> None:
        default = {DEFAULT_EVENT: {"_target_": f"ksim.mdp.events.{DEFAULT_EVENT}", "mode": "reset"}}
        if self.events is None:
            self.events = default
        elif isinstance(self.events, Mapping) and self.events and DEFAULT_EVENT not in self.events:
            self.events = {**default, **self.events}


@dataclass(kw_only=True)
class PhysicsCfg:
    """How the physics is computed; it changes speed and rounding, not the task."""

    # Auto: mjx where JAX sees an accelerator, else mujoco. A dotted path is a class of the user's own.
    engine: str = setting(MISSING, choices=("auto", "mjx", "mujoco"), or_path=True)
    # Threads of the mujoco engine; None: the CPUs that this process may use.
    threads: int | None = setting(MISSING, above=0)
    # Devices that one training on mjx is spread over; None: as many of those that it sees as divide its sizes.
    devices: int | None = setting(None, above=0)


@dataclass(kw_only=True)
class LogCfg:
    """How often numbers leave the jitted program."""

    # Iterations in one jitted chunk, which makes one line of metrics.jsonl.
    interval_iterations: int = setting(MISSING, above=0)


@dataclass(kw_only=True)
class CheckpointCfg:
    """When training state is saved, and how much of it stays."""

    every_s: float = setting(MISSING, above=0)  # seconds of wall time between checkpoints
    keep: int = setting(MISSING, above=0)  # newest checkpoints that stay; the best one stays besides


@dataclass(kw_only=True)
class EvalCfg:
    """Evaluations of the deterministic policy: a large one at the end of a training, small ones during it."""

    episodes: int = setting(MISSING, at_least=0)  # fresh episodes at the end, one per env; 0: no evaluation there
    video: bool = MISSING  # also render one episode
    video_overlay: bool = MISSING  # write time, commands and reward into it
    video_length_s: float = setting(MISSING, above=0)  # longest video, in seconds of simulated time
    # Env steps of training between two that judge which checkpoint is best; None: there are none.
    interval_steps: int | None = setting(MISSING, above=0)
    interval_episodes: int = setting(MISSING, above=0)  # episodes of each of these, the same ones every time
    gate: bool = MISSING  # at the end, also play the conditions of the task's gate, for the report
    # At each of the evaluations during a training, play the gate, too, and end where it is passed twice in a row.
    stop_at_gate: bool = MISSING


@dataclass(kw_only=True)
class Config:
    """Everything that a run depends on; a run directory's `config.yaml` is one of these, resolved."""

    name: str = MISSING  # the task's name, first part of the run directory
    init_from: str | None = MISSING  # run whose policy the training starts from; None: a fresh one
    init_checkpoint: str = MISSING  # which one of that run: its step, `#<n>`, `best` or `latest`
    # Seed of every random stream; None draws one, and the frozen config holds it.
    seed: int | None = setting(MISSING, at_least=0)
    runs_dir: str = MISSING  # folder of all run directories, relative to the working directory
    task: Any = MISSING  # a ManagerBasedRlEnvCfg, or the TaskCfg that `_target_` names in YAML
    algo: Any = MISSING  # the algorithm: an instance of the dataclass that `_target_` names in YAML
    physics: PhysicsCfg = MISSING
    # Where metrics go besides metrics.jsonl: name -> logger, None where it is off.
    logger: dict[str, Any] = field(default_factory=dict)
    log: LogCfg = MISSING
    checkpoint: CheckpointCfg = MISSING
    eval: EvalCfg = MISSING
