"""E envs that a person takes hold of: poses, velocities, forces, commands."""

import logging
import threading
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import PRNGKeyArray
from numpy.typing import ArrayLike

from ksim.config.words import hint, listed
from ksim.envs.tree import replace, with_envs
from ksim.errors import ConfigError
from ksim.policies.load import Trained
from ksim.viz.env_view import visual_model
from ksim.viz.viewer import pose as poses
from ksim.viz.viewer.blame import explain
from ksim.viz.viewer.config import InteractiveVisualizerConfig
from ksim.viz.viewer.driven_env import HOLD, PULL, DrivenEnv, Hold, hold_path
from ksim.viz.viewer.snapshot import Judged, Pose, Programs, State

log = logging.getLogger(__name__)


class EnvsInHand:
    """E envs between two steps: what a person can do to them. `ksim.viz.viewer.simulation.Simulation` lets them go on.

    What is done to them concerns the selected env, is seen at once in `pose`, and no time passes.
    """

    def __init__(
        self,
        env: DrivenEnv,
        cfg: InteractiveVisualizerConfig,
        trained: Trained | None,
        num_envs: int,
        key: PRNGKeyArray,
    ):
        """Fresh episodes; this compiles."""
        self.env = env
        self.cfg = cfg
        self.num_envs = num_envs
        self.model = visual_model(env)
        self.lock = threading.RLock()
        self.message = ""
        self.error: str | None = None
        self.judged: Judged | None = None
        robot, scene = env.scene.robot, env.scene
        props = scene.home_qpos[len(robot.home_qpos) :]
        self.keyframes = {"home": scene.home_qpos}
        self.keyframes |= {name: np.concatenate([qpos, props]) for name, qpos in robot.keyframes.items()}
        self._keyframe = -1
        self._selected = 0
        self._paused = cfg.paused
        self._trained = trained
        self._data = mujoco.MjData(self.model)
        self._programs = Programs(env, num_envs, None if trained is None else trained.policy)
        self._state: State
        self.pose: Pose
        self._state, self.pose = self._programs.begin(key, self._curriculum)

    # Episodes

    def reset(self, *, all_envs: bool = False) -> None:
        """A fresh episode in the selected env or in all of them, as the task begins them."""
        mask_E = np.ones(self.num_envs, bool) if all_envs else self._mask()
        self._change(self._programs.restart, mask_E)
        self.message = "a new episode"

    # The pose of the selected env

    def initial_pose(self) -> None:
        """Joints and orientation as in the home pose, at rest; the base stays where it is, at home height at least."""
        with self.lock:
            qpos, base = self._qpos(), self._base
            home = np.array(self.env.scene.home_qpos)
            if base is not None:
                home[base : base + 2] = qpos[base : base + 2]
                home = self._raised(home)
                home[base + 2] = max(qpos[base + 2], home[base + 2])
            self.place(home, np.zeros(self.model.nv))
            self.message = "the initial pose"

    def next_keyframe(self) -> None:
        """The next of `keyframes`, at rest."""
        with self.lock:
            self._keyframe = (self._keyframe + 1) % len(self.keyframes)
            self.keyframe(list(self.keyframes)[self._keyframe])

    def keyframe(self, name: str) -> None:
        """A pose of `keyframes`, at rest.

        Raises:
            ConfigError: there is no such keyframe.
        """
        if name not in self.keyframes:
            raise ConfigError(f"keyframe {name!r}: there is none{hint(name, self.keyframes)}")
        self.place(self._raised(self.keyframes[name]), np.zeros(self.model.nv))
        self.message = f"keyframe {name}"

    def suspend(self, on: bool | None = None) -> None:
        """Hold the base where it is, or where `suspended_pose` says, while the rest moves; or let it go.

        Args:
            on: None: the other way round than now.
        """
        with self.lock:
            base, dof = self._base, self.env.scene.base_dof_adr
            if base is None or dof is None:
                self.message = "the robot's base is fixed"
                return
            on = not self.pose.is_suspended[self._selected] if on is None else on
            qpos, qvel = self._qpos(), self._qvel()
            if on and self.cfg.suspended_pose is not None:
                qpos[base : base + 7] = self.cfg.suspended_pose
                qpos[base + 3 : base + 7] /= np.linalg.norm(qpos[base + 3 : base + 7])
            if on:
                qvel[dof : dof + 6] = 0.0
            self._remember(HOLD, lambda hold: Hold(self._set(hold.on, on), hold.value))
            self.place(qpos, qvel)
            self.message = "suspended" if on else "let go"

    def move(
        self, position: ArrayLike = (0.0, 0.0, 0.0), *, roll: float = 0.0, pitch: float = 0.0, yaw: float = 0.0
    ) -> None:
        """Move the base, in m along the world's axes and in rad: yaw about the world's z, roll and pitch its own."""
        with self.lock:
            if (base := self._base_or_say()) is None:
                return
            qpos = self._qpos()
            qpos[base : base + 3] += np.asarray(position, float)
            qpos[base + 3 : base + 7] = poses.turned(qpos[base + 3 : base + 7], roll, pitch, yaw)
            self.place(qpos, self._qvel())

    def push(
        self, velocity: ArrayLike = (0.0, 0.0, 0.0), *, roll: float = 0.0, pitch: float = 0.0, yaw: float = 0.0
    ) -> None:
        """Change the velocity of the base, in m/s along the world's axes and in rad/s about the axes of `move`."""
        with self.lock:
            dof = self.env.scene.base_dof_adr
            if (base := self._base_or_say()) is None or dof is None:
                return
            qpos, qvel = self._qpos(), self._qvel()
            qvel[dof : dof + 3] += np.asarray(velocity, float)
            qvel[dof + 3 : dof + 6] = poses.spun(qpos[base + 3 : base + 7], qvel[dof + 3 : dof + 6], roll, pitch, yaw)
            self.place(qpos, qvel)

    def place(self, qpos: ArrayLike, qvel: ArrayLike) -> None:
        """Other positions (nq,) and velocities (nv,), as MuJoCo has them."""
        qpos_Eq, qvel_Ev = np.array(self.pose.qpos), np.array(self.pose.qvel)
        qpos_Eq[self._selected], qvel_Ev[self._selected] = qpos, qvel
        self._change(self._programs.place, qpos_Eq, qvel_Ev, self._mask())

    # Forces on the selected env

    def pull(self, body: int | str, force: ArrayLike, point: ArrayLike | None = None) -> None:
        """Pull a body with a force (3,) in N along the world's axes, from now on until `release` or another force.

        Args:
            body: its id or name.
            force: zeros end it.
            point: where, (3,) in m in the world; None: at the body's centre of mass.
        """
        with self.lock:
            index, force = self.model.body(body).id, np.asarray(force, float)
            torque = np.zeros(3)
            if point is not None:
                self._place_bodies()
                torque = np.cross(np.asarray(point, float) - self._data.xipos[index], force)
            xfrc = np.array(self.pose.pull[self._selected])
            xfrc[index] = [*force, *torque]
            self.apply(xfrc)

    def apply(self, xfrc: ArrayLike, index: int | None = None) -> None:
        """Forces and torques on all bodies, (nbody, 6) as `mjData.xfrc_applied`, in place of all pulls of the env.

        Args:
            xfrc: forces (N) and torques (N m), in the world frame at the bodies' centres of mass.
            index: which env; None: the selected one.
        """
        with self.lock:
            pull = np.array(self.pose.pull)
            pull[self._selected if index is None else index] = xfrc
            self.pose = replace(self.pose, pull=pull)

    def release(self, index: int | None = None) -> None:
        """No pulls any more, on the selected env or another one."""
        self.apply(np.zeros((self.model.nbody, 6)), index)

    # Commands of the selected env

    def set_command(self, name: str, value: ArrayLike | None) -> None:
        """Hold a command at a value, or with None let it go on as the task has it.

        Raises:
            ConfigError: there is no such command, or its length is another one.
        """
        if name not in self.env.commands.terms:
            names = list(self.env.commands.terms)
            there = f"there are {listed(names)}" if names else "the task has none"
            raise ConfigError(f"command {name!r}: there is none{hint(name, names)}; {there}")
        with self.lock:
            now = self.pose.commands[name][self._selected]
            held = now if value is None else np.asarray(value, now.dtype)
            if held.shape != now.shape:
                raise ConfigError(f"command {name!r}: has {len(now)} elements, not {held.size}")
            path, on = hold_path(self.env.commands.terms[name]), value is not None
            self._remember(path, lambda hold: Hold(self._set(hold.on, on), self._set(hold.value, held)))
            self._change(self._programs.renew)

    def next_command(self) -> None:
        """Draw all commands anew, and hold none of them any longer."""
        with self.lock:
            if not self.env.commands.terms:
                self.message = "the task has no commands"
                return
            self._change(self._programs.redraw_commands, self._mask())
            values = {name: x_E[self._selected] for name, x_E in self.pose.commands.items()}
            shown = (f"{name} [{', '.join(f'{x:.2f}' for x in value)}]" for name, value in values.items())
            self.message = f"command {', '.join(shown)}"

    # Its parts

    @property
    def _curriculum(self) -> Any:
        return (self._trained.curriculum or None) if self._trained is not None else None

    @property
    def _base(self) -> int | None:
        return self.env.scene.base_qpos_adr

    def _base_or_say(self) -> int | None:
        if self._base is None:
            self.message = "the robot's base is fixed"
        return self._base

    def _raised(self, qpos: np.ndarray) -> np.ndarray:
        """A pose for a floor at 0 on the ground that is there, on the highest of it under the robot."""
        qpos, base, ground = np.array(qpos, float), self._base, self.env.scene.ground
        if base is not None and ground is not None:
            around = np.linspace(-0.5, 0.5, 9) * self.env.cfg.scene.patches.start_radius
            points = qpos[base : base + 2] + np.stack(np.meshgrid(around, around), axis=-1)
            qpos[base + 2] += float(ground.height(jnp.asarray(points)).max())
        return qpos

    def _qpos(self) -> np.ndarray:
        return np.array(self.pose.qpos[self._selected], float)

    def _qvel(self) -> np.ndarray:
        return np.array(self.pose.qvel[self._selected], float)

    def _mask(self) -> np.ndarray:
        return np.arange(self.num_envs) == self._selected

    def _set(self, array_E: Any, value: ArrayLike) -> Any:
        return jnp.asarray(array_E).at[self._selected].set(value)

    def _place_bodies(self) -> None:
        """The bodies of the selected env in `_data`."""
        self._data.qpos[:] = self.pose.qpos[self._selected]
        mujoco.mj_kinematics(self.model, self._data)

    def _now(self) -> State:
        """The state with the pulls of this instant."""
        state = self._state
        memory = state.carry.envs.memory | {PULL: jnp.asarray(self.pose.pull)}
        return State(with_envs(state.carry, memory=memory), state.obs, state.memory)

    def _remember(self, path: str, change: Callable[[Any], Any]) -> None:
        """Change something of what is remembered; seen after the next program."""
        state = self._state
        memory = dict(state.carry.envs.memory)
        memory[path] = change(memory[path])
        self._state = State(with_envs(state.carry, memory=memory), state.obs, state.memory)

    def _change(self, program: Callable[..., Any], *args: Any) -> None:
        with self.lock:
            try:
                self._state, self.pose = program(self._now(), *args)
                self.error = None
            except Exception as error:  # a term may raise anything
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Pause and tell why."""
        log.debug("the simulation failed", exc_info=error)
        self.error = explain(self.env, self._now().carry, error)
        self._paused = True
