"""What every viewer drives and looks at: a task's envs, a policy or none, and what a person does to them."""

import contextlib
import copy
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

import mujoco
import numpy as np

from ksim.config.words import first_line
from ksim.envs.drawing import draw, drawn_terms
from ksim.envs.env import Env
from ksim.envs.markers import Arrow, Marker
from ksim.policies.load import Trained
from ksim.rl.streams import random_key
from ksim.viz.viewer.checkpoints import Checkpoints
from ksim.viz.viewer.config import InteractiveVisualizerConfig
from ksim.viz.viewer.driven_env import DrivenEnv
from ksim.viz.viewer.envs_in_hand import EnvsInHand
from ksim.viz.viewer.history import History
from ksim.viz.viewer.pace import Pace

log = logging.getLogger(__name__)

_LONGEST_ADVANCE_S = 0.05  # a picture is due then
_METRES_PER_NEWTON = 0.005
_PULL_RGBA = (0.9, 0.6, 0.1, 1.0)


class Simulation(EnvsInHand):
    """E envs of a task, stepped from the host, that a person looks at and takes hold of. It knows no screen.

    A viewer is a loop around `advance()`, which takes the env steps that are due by the clock, and draws what there is
    to see: `fill` gives it an `mjData` of `model`, `pose` and `judged` the numbers, `history` the curves, `markers`
    what terms draw, and `status` one line. Whatever a person does is a method. It works while paused, too, is
    seen at once in `pose`, and the policy answers to it in the next step.

    Any number of threads may call any of it: each call holds the lock `lock` of this object, and what is handed out is
    never changed. A client that looks at several things of the same instant holds the lock itself.

    Attributes:
        env: the env.
        model: the model with everything visible; its bodies, joints and `qpos` are those of `env.scene.model`.
        num_envs: E.
        cfg: the settings.
        history: of the selected env, a point per env step: `reward/total`, `reward/<term>` (weighted, per second),
            `termination/<term>` (0 or 1), `joint/<joint>/target|position|torque`.
        keyframes: poses by name, each (nq,): `home`, then those of the robot's MJCF.
        checkpoints: the run's, or None.
        pose: the envs now, as NumPy arrays (`ksim.viz.viewer.snapshot.Pose`).
        judged: what the last env step came to; None before the first.
        time_s: seconds simulated since the start.
        message: the last thing that happened, for a person.
        error: why it paused by itself: what a term or the engine raised, with its YAML path; None where all is well.
    """

    def __init__(
        self,
        env: Env,
        cfg: InteractiveVisualizerConfig | None = None,
        *,
        trained: Trained | None = None,
        checkpoints: Checkpoints | None = None,
        num_envs: int = 1,
        seed: int = 0,
        follows: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Reset the envs; this compiles.

        Args:
            env: the task, on its engine.
            cfg: the settings.
            trained: the policy, and how far its training's curricula came; None: actions are zeros.
            checkpoints: where newer policies come from; None: there are none.
            num_envs: E.
            seed: of the episodes.
            follows: play newer checkpoints as they come.
            clock: seconds of wall time.
        """
        super().__init__(
            DrivenEnv.of(env), cfg or InteractiveVisualizerConfig(), trained, num_envs, random_key(seed, "eval")
        )
        self.history = History(self.cfg.plot_window)
        self.checkpoints = checkpoints
        self.time_s = 0.0
        self._follows = follows
        self._drawn = drawn_terms(self.env)
        self._clock = clock
        self._looked_at = clock()
        with contextlib.suppress(Exception):  # what a term raises is told when the first step is taken
            self._programs.step(self._now(), self._curriculum)  # compiled now, so that no window stands still
        self._pace = Pace(self.env.step_dt, self.cfg.speed, clock)

    # Time

    @property
    def paused(self) -> bool:
        """Whether `advance` takes no steps."""
        return self._paused

    @paused.setter
    def paused(self, value: bool) -> None:
        with self.lock:
            self._paused = value
            self._pace.restart()
            if not value:
                self.error = None

    @property
    def speed(self) -> float:
        """Simulated seconds in a second that are asked for."""
        return self._pace.speed

    @speed.setter
    def speed(self, value: float) -> None:
        with self.lock:
            self._pace.speed = value

    @property
    def measured_speed(self) -> float:
        """Simulated seconds in a second that there were lately; 0 before it is known."""
        return self._pace.measured

    @property
    def selected(self) -> int:
        """The env that a person takes hold of, and whose history is kept."""
        return self._selected

    @selected.setter
    def selected(self, index: int) -> None:
        with self.lock:
            self._selected = int(np.clip(index, 0, self.num_envs - 1))
            self.history.clear()

    def advance(self) -> int:
        """Take the env steps that are due by the clock, for at most a twentieth of a second; returns how many.

        Newer checkpoints are looked for here, too.
        """
        with self.lock:
            self._look_for_newer()
            start, count = self._clock(), 0
            due = 0 if self._paused else self._pace.due()
            while count < due and not self._paused and (not count or self._clock() - start < _LONGEST_ADVANCE_S):
                self._step()
                self._pace.took()
                count += 1
            return count

    def step(self) -> None:
        """One env step now, paused or not."""
        with self.lock:
            self.error = None
            self._step()

    def _step(self) -> None:
        try:
            self._state, self.pose, self.judged = self._programs.step(self._now(), self._curriculum)
        except Exception as error:  # a term may raise anything
            self._fail(error)
            return
        self.time_s += self.env.step_dt
        self._record()

    # Policies

    @property
    def step_of_policy(self) -> int | None:
        """Env steps that the policy was trained for; None: actions are zeros."""
        return None if self._trained is None else self._trained.step

    def use(self, which: str = "latest") -> None:
        """Play another checkpoint of the run: its step, `#<n>`, `best` or `latest`, which newer ones will follow.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        if self.checkpoints is not None:
            trained = self.checkpoints.load(which)
            with self.lock:
                self._follows = which == "latest"
                self._take(trained)

    @property
    def follows_training(self) -> bool:
        """Whether newer checkpoints are taken as they come."""
        return self._follows

    def twin(self, trained: Trained) -> Self:
        """The same envs in the same state, played by another policy from now on; both go their own ways.

        It has no checkpoints of its own and keeps no history; a policy of the same shapes compiles nothing.
        """
        with self.lock:
            twin = copy.copy(self)
            twin.lock, twin.history, twin.checkpoints = threading.RLock(), History(1), None
            twin._follows, twin._data, twin._programs = False, mujoco.MjData(self.model), copy.copy(self._programs)
            twin._take(trained)
            return twin

    # What is to be seen

    def fill(self, data: mujoco.MjData, index: int | None = None) -> None:
        """Put an env's state into an `mjData` of `model` and compute all that can be drawn, contact forces included.

        Args:
            data: of `model`.
            index: which env; None: the selected one.
        """
        i = self._selected if index is None else index
        pose = self.pose
        data.qpos[:], data.qvel[:], data.xfrc_applied[:] = pose.qpos[i], pose.qvel[i], pose.pull[i]
        data.ctrl[:] = pose.ctrl[i]
        data.time = self.time_s
        mujoco.mj_forward(self.model, data)

    def markers(self) -> Sequence[Marker]:
        """What the terms draw of the selected env, and the pulls."""
        with self.lock:
            found: list[Marker] = []
            try:
                if self._drawn:
                    found += draw(self.env, self._programs.one(self._state, self._selected), 0, self._drawn)
            except Exception as error:  # a drawing may raise anything, in each picture again
                self.message = f"what terms draw is left out: {type(error).__name__}: {first_line(error)}"
                self._drawn = []
            pull = self.pose.pull[self._selected]
            if pull.any():
                self._place_bodies()
                for body in np.flatnonzero(pull.any(axis=1)):
                    start = np.array(self._data.xipos[body])
                    found.append(Arrow(start, start + pull[body, :3] * _METRES_PER_NEWTON, rgba=_PULL_RGBA))
            return found

    @property
    def status(self) -> str:
        """One line: what is played, on what, how fast."""
        step = self.step_of_policy
        played = "zero actions" if step is None else f"policy of step {step:,}"
        if self._paused:
            return f"{played}, {self.env.engine}, paused"
        speed = f"{self.measured_speed:.2f}x" if self.measured_speed else "..."
        behind = f" (asked for {self.speed:g}x)" if 0 < self.measured_speed < 0.9 * self.speed else ""
        return f"{played}, {self.env.engine}, {speed}{behind}"

    # Its parts

    def _look_for_newer(self) -> None:
        now = self._clock()
        if not self._follows or self.checkpoints is None or now - self._looked_at < self.cfg.checkpoint_every_s:
            return
        self._looked_at = now
        newer = self.checkpoints.newer(self.step_of_policy or 0)
        if newer is not None:
            self._take(newer)

    def _take(self, trained: Trained) -> None:
        self._trained = trained
        self._state = self._programs.take(trained.policy, self._state)
        self.message = f"policy of step {trained.step:,}"

    def _record(self) -> None:
        """A point of the history, and what there is to say."""
        judged, pose, i, scene = self.judged, self.pose, self._selected, self.env.scene
        assert judged is not None
        dt = self.env.step_dt
        point: dict[str, Any] = {"reward/total": judged.reward[i] / dt}
        point |= {f"reward/{name}": x_E[i] / dt for name, x_E in judged.rewards.items()}
        point |= {f"termination/{name}": float(x_E[i]) for name, x_E in judged.ends.items()}
        position_j = pose.qpos[i][scene.joint_qpos_adr]
        for j, joint in enumerate(scene.joint_names):
            if j < scene.num_actuated:
                point[f"joint/{joint}/target"] = pose.ctrl[i][j]
            point[f"joint/{joint}/position"] = position_j[j]
            point[f"joint/{joint}/torque"] = pose.torque[i][j]
        self.history.append(self.time_s, {name: float(x) for name, x in point.items()})
        ends = [name for name, x_E in judged.ends.items() if x_E[i]]
        if judged.terminated[i] or judged.truncated[i]:
            self.message = f"the episode ended: {', '.join(ends) or 'it diverged'}"
        not_finite = [path for path, count in judged.not_finite.items() if count]
        if not_finite:
            self.message = f"{', '.join(not_finite)}: not finite"
