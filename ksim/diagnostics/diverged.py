"""What the NaN guard kept of envs that diverged, on disk, and its replay in plain C MuJoCo."""

import copy
import io
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
from jaxtyping import Float

from ksim.envs.carry import DivergedEnvs
from ksim.envs.guard import BAD_MAGNITUDE
from ksim.errors import KsimError
from ksim.physics.base import APPLIED_FORCES, STATE_FIELDS
from ksim.physics.batch import MOVABLE_FIELDS, SAME_FRAME_FIELDS
from ksim.store import files

_MODEL = "model.mjb"


@dataclass(frozen=True)
class Replay:
    """One env step of S substeps, simulated again.

    Attributes:
        qpos_Sq, qvel_Sv, act_Sa: the state before the step and after each substep, S + 1 of them; NaN from where
            MuJoCo raised an error.
        warnings: what MuJoCo said meanwhile.
    """

    qpos_Sq: Float[np.ndarray, "S+1 nq"]
    qvel_Sv: Float[np.ndarray, "S+1 nv"]
    act_Sa: Float[np.ndarray, "S+1 na"]
    warnings: tuple[str, ...]

    @property
    def diverged_after(self) -> int | None:
        """Substeps until the state was not finite or larger than 1e10; None where it never was.

        With 0 it was so before the physics: an event had written it, or the step before had left it. None, too, where
        controls were not finite: MuJoCo takes them for 0, and says so in the warnings.
        """
        states = np.concatenate([self.qpos_Sq, self.qvel_Sv, self.act_Sa], axis=1)
        bad_S = ~np.all(np.abs(states) < BAD_MAGNITUDE, axis=1)  # NaN is not smaller
        return int(np.argmax(bad_S)) if bad_S.any() else None


@dataclass(frozen=True)
class DivergedEnv:
    """An env that diverged, and all that the engine was given for the env step that broke it.

    Attributes:
        model: the task's compiled model.
        state: `qpos`, `qvel`, `act` and `qacc_warmstart` before the step.
        model_fields: the fields of mjModel and the applied forces that were this env's own, by name.
        ctrl_Su: controls of each substep.
    """

    model: mujoco.MjModel
    state: dict[str, np.ndarray]
    model_fields: dict[str, np.ndarray]
    ctrl_Su: Float[np.ndarray, "S nu"]

    def simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """This env alone, before the step: its own model, and its state with the forces that were applied."""
        model, data = copy.copy(self.model), mujoco.MjData(self.model)
        for name, value in self.state.items():
            getattr(data, name)[:] = value
        for name, value in self.model_fields.items():
            _set(data if name in APPLIED_FORCES else model, name, value)
        if MOVABLE_FIELDS & set(self.model_fields):
            for name in SAME_FRAME_FIELDS:
                getattr(model, name)[:] = mujoco.mjtSameFrame.mjSAMEFRAME_NONE.value
        return model, data

    def replay(self) -> Replay:
        """Take the step again, as `physics=mujoco` takes it.

        What diverged on MJX may not diverge here: then the engines differ, or float32 does.
        """
        model, data = self.simulation()
        states = [_state(data)]
        warnings: list[str] = []
        handler = mujoco.get_mju_user_warning()
        mujoco.set_mju_user_warning(warnings.append)  # else it prints, and writes a file into the working directory
        try:
            for ctrl_u in self.ctrl_Su:
                data.ctrl[:] = ctrl_u
                mujoco.mj_step(model, data)
                states.append(_state(data))
        except mujoco.FatalError as error:
            warnings.append(str(error))
            broken = tuple(np.full_like(x, np.nan) for x in states[0])
            states += [broken] * (len(self.ctrl_Su) + 1 - len(states))
        finally:
            mujoco.set_mju_user_warning(handler)
        qpos_Sq, qvel_Sv, act_Sa = (np.stack(x) for x in zip(*states, strict=True))
        return Replay(qpos_Sq, qvel_Sv, act_Sa, tuple(warnings))


def save(folder: Path, model: mujoco.MjModel, envs: DivergedEnvs, start: int = 0) -> None:
    """Write the diverged envs from the slot `start` on, a file each, and the model beside them.

    Args:
        folder: is made where it is not there.
        model: the compiled model.
        envs: with NumPy arrays.
        start: those in the slots before it are on disk already.
    """
    folder.mkdir(exist_ok=True)
    mujoco.mj_saveModel(model, str(folder / _MODEL), None)
    for slot in range(start, int(envs.count)):
        buffer = io.BytesIO()
        np.savez(buffer, **{name: np.asarray(x)[slot] for name, x in envs.given.items()})
        files.write_atomic(folder / f"{slot}.npz", buffer.getvalue())


def load(folder: str | Path) -> list[DivergedEnv]:
    """The diverged envs of a run, in the order in which they were found.

    Args:
        folder: `nan_guard` in a run directory. MuJoCo must be of the version that wrote it.

    Raises:
        KsimError: there are none, or MuJoCo cannot read the model.
    """
    folder = Path(folder)
    paths = sorted(folder.glob("[0-9]*.npz"), key=lambda path: int(path.stem))
    if not paths:
        raise KsimError(f"{folder} holds nothing of the NaN guard")
    try:
        model = mujoco.MjModel.from_binary_path(str(folder / _MODEL))
    except ValueError as error:
        raise KsimError(f"{folder / _MODEL} cannot be read by MuJoCo {mujoco.__version__}: {error}") from None
    return [_read(path, model) for path in paths]


def _read(path: Path, model: mujoco.MjModel) -> DivergedEnv:
    with np.load(path) as found:
        given = dict(found)
    ctrl_Su = given.pop("ctrl")
    return DivergedEnv(model, {name: given.pop(name) for name in STATE_FIELDS}, given, ctrl_Su)


def _set(owner: object, name: str, value: np.ndarray) -> None:
    """Set a field of mjModel or mjData, an array or (some of `opt.`) a number, whatever its shape there."""
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    old = getattr(owner, last)
    if isinstance(old, np.ndarray):
        old[:] = value.reshape(old.shape)
    else:
        setattr(owner, last, value.item())


def _state(data: mujoco.MjData) -> tuple[np.ndarray, ...]:
    return data.qpos.copy(), data.qvel.copy(), data.act.copy()
