"""What makes a model slow: what MuJoCo computes in a physics step, on states and controls of a training."""

from collections.abc import Mapping
from typing import Any

import jax
import mujoco
import numpy as np

from ksim.diagnostics.replay import Recording
from ksim.physics.base import APPLIED_FORCES, STATE_FIELDS

_SAMPLES = 64  # recorded env steps that are taken again
_TIMER = mujoco.mjtTimer
_PARTS = {  # parts of a physics step, with MuJoCo's own timers of them
    "kinematics, inertia": (_TIMER.mjTIMER_POS_KINEMATICS.value, _TIMER.mjTIMER_POS_INERTIA.value),
    "collision": (_TIMER.mjTIMER_POS_COLLISION.value,),
    "constraint rows": (_TIMER.mjTIMER_POS_MAKE.value, _TIMER.mjTIMER_POS_PROJECT.value),
    "velocity, actuation": (_TIMER.mjTIMER_VELOCITY.value, _TIMER.mjTIMER_ACTUATION.value),
    "constraint solver": (_TIMER.mjTIMER_CONSTRAINT.value,),
    "integration": (_TIMER.mjTIMER_ADVANCE.value,),
}
_MANY_ROWS, _MANY_VERTICES, _MANY_PAIRS, _DENSE_DOFS = 100, 500, 50, 60


def measure(model: mujoco.MjModel, recording: Recording) -> dict[str, Any]:
    """Step sampled states of a rollout in C MuJoCo, one thread.

    Args:
        model: the scene.
        recording: states and controls; fields of mjModel that differ between envs are left at the model's.

    Returns:
        `settings` of the solver; `sizes` of the model; `per_step`: means over physics steps of `iterations`,
        `contacts` and `constraint_rows`; `share_at_cap`: of the steps in which the solver used all its iterations;
        `percent`: of a step's time, by part; `notes`: in words, what is slow and what would change it.
    """
    asked: Any = jax.device_get((recording.physics, recording.model_fields, recording.ctrl_TESu))
    states, fields, ctrl_TESu = asked
    num_steps, num_envs, num_substeps, _ = ctrl_TESu.shape
    chosen = np.unique(np.linspace(0, num_steps * num_envs - 1, _SAMPLES).astype(int))
    data = mujoco.MjData(model)
    counts: list[tuple[int, int, int]] = []
    spent = dict.fromkeys(_PARTS, 0.0)
    for t, e in zip(*np.unravel_index(chosen, (num_steps, num_envs)), strict=True):
        mujoco.mj_resetData(model, data)
        for name in STATE_FIELDS:
            getattr(data, name)[:] = getattr(states, name)[t, e]
        for name in set(APPLIED_FORCES) & set(fields):
            getattr(data, name)[:] = fields[name][t, e]
        for s in range(num_substeps):
            data.ctrl[:] = ctrl_TESu[t, e, s]
            mujoco.mj_step(model, data)
            counts.append((int(data.solver_niter.max(initial=0)), data.ncon, data.nefc))
        for name, timers in _PARTS.items():
            spent[name] += sum(data.timer[timer].duration for timer in timers)
    iterations, contacts, rows = np.array(counts, float).T
    found: dict[str, Any] = {
        "settings": settings(model),
        "sizes": sizes(model),
        "per_step": {"iterations": iterations.mean(), "contacts": contacts.mean(), "constraint_rows": rows.mean()},
        "share_at_cap": float(np.mean(iterations >= model.opt.iterations)),
        "percent": {name: 100.0 * s / max(sum(spent.values()), 1e-12) for name, s in spent.items()},
    }
    return found | {"notes": notes(found)}


def settings(model: mujoco.MjModel) -> dict[str, Any]:
    """The options that time depends on, by MuJoCo's words."""
    option = model.opt
    jacobian = mujoco.mjtJacobian(option.jacobian).name.removeprefix("mjJAC_").lower()
    if jacobian == "auto":  # as MuJoCo decides
        jacobian = "sparse" if model.nv >= _DENSE_DOFS else "dense"
    return {
        "solver": mujoco.mjtSolver(option.solver).name.removeprefix("mjSOL_").lower(),
        "iterations": int(option.iterations),
        "ls_iterations": int(option.ls_iterations),
        "cone": mujoco.mjtCone(option.cone).name.removeprefix("mjCONE_").lower(),
        "jacobian": jacobian,
        "integrator": mujoco.mjtIntegrator(option.integrator).name.removeprefix("mjINT_").lower(),
        "timestep": float(option.timestep),
    }


def sizes(model: mujoco.MjModel) -> dict[str, int]:
    """Degrees of freedom, geoms that can touch something, pairs of these that can, and vertices of their meshes."""
    collides = (model.geom_contype | model.geom_conaffinity) != 0
    meshes = model.geom_dataid[collides & (model.geom_type == mujoco.mjtGeom.mjGEOM_MESH)]
    return {
        "dofs": int(model.nv),
        "geoms": int(collides.sum()),
        "pairs": geom_pairs(model),
        "mesh_vertices": int(model.mesh_vertnum[meshes].sum()) if len(meshes) else 0,
    }


def geom_pairs(model: mujoco.MjModel) -> int:
    """Pairs of geoms that MuJoCo may have to look at: explicit ones, and those that its filters leave.

    Two geoms collide where the contype of one meets the conaffinity of the other, unless their bodies are welded
    together, are parent and child (other than of the world), or are excluded ("Computation", section "Collision
    detection", of MuJoCo's documentation).
    """
    weld = model.body_weldid[model.geom_bodyid]
    parent = model.body_weldid[model.body_parentid[weld]]
    kind, affinity = model.geom_contype, model.geom_conaffinity
    meets = (kind[:, None] & affinity[None, :]) | (kind[None, :] & affinity[:, None])
    related = (parent[:, None] == weld[None, :]) & (weld != 0)[None, :] & (weld != 0)[:, None]
    body = model.geom_bodyid
    signature = (np.minimum(body[:, None], body[None, :]) << 16) + np.maximum(body[:, None], body[None, :])
    left = (meets != 0) & (weld[:, None] != weld[None, :]) & ~related & ~related.T
    left &= ~np.isin(signature, model.exclude_signature)
    return int(np.triu(left, 1).sum()) + int(model.npair)


def notes(found: Mapping[str, Any]) -> list[str]:
    """What is slow about the model, and what would change it; nothing where nothing stands out."""
    chosen, size, rows = found["settings"], found["sizes"], found["per_step"]["constraint_rows"]
    said = []
    if found["share_at_cap"] > 0.05:
        said.append(
            f"the solver uses all its {chosen['iterations']} iterations in {found['share_at_cap']:.0%} of the steps, so"
            " contacts are not solved: raise task.sim.iterations, or soften contacts (task.sim.contact_solref)"
        )
    if chosen["cone"] == "elliptic" and rows:
        said.append("elliptic friction cones take more time per iteration: task.sim.cone=pyramidal")
    if size["mesh_vertices"] > _MANY_VERTICES:
        said.append(
            f"colliding meshes have {size['mesh_vertices']:,} vertices: primitive geoms (capsules, boxes) are faster"
        )
    if size["pairs"] > _MANY_PAIRS:
        said.append(
            f"{size['pairs']:,} pairs of geoms can collide: contype and conaffinity, or explicit pairs, leave those"
            " that matter"
        )
    if rows > _MANY_ROWS:
        said.append(f"{rows:.0f} rows of constraints in a step: fewer contacts, or condim 3 in the place of 4 or 6")
    if chosen["jacobian"] == "sparse" and size["dofs"] < _DENSE_DOFS:
        said.append(f"a sparse Jacobian is slow for {size['dofs']} degrees of freedom: jacobian='dense' in the MJCF")
    if chosen["integrator"] == "rk4":
        said.append("rk4 computes four steps in one: task.sim.integrator=implicitfast")
    return said
