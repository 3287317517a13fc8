"""What a policy's user must know besides its weights: a checkpoint carries it, and an export hands it on.

Plain JSON types after `ksim.store.files.jsonable`; infinities become null, that is "no bound". SI units throughout.
"""

import dataclasses
import inspect
from typing import Any

import mujoco
import numpy as np

from ksim.config.schema import Config
from ksim.config.values import parameters
from ksim.envs.env import Env
from ksim.envs.foreign import ForeignEnv
from ksim.envs.joint_action import JointAction
from ksim.envs.managers.call import parameter
from ksim.envs.scene import Scene
from ksim.envs.terms import Term
from ksim.envs.traits import traits_of
from ksim.rl.policy import Policy
from ksim.system.trust import TARGET

# What an actuator does with its target, by its kind of control: see `ksim.robots.actuators`.
TORQUE_LAWS = {
    "position": "clip(kp * (target - position) - kd * velocity, -torque_limit, torque_limit)",
    "velocity": "clip(kd * (target - velocity), -torque_limit, torque_limit)",
    "effort": "clip(target, -torque_limit, torque_limit)",
}


def describe(cfg: Config, env: Env, policy: Policy) -> dict[str, Any]:
    """Everything that rebuilds a policy, and everything that connects it to a robot.

    Args:
        cfg: the run's config.
        env: its env.
        policy: the policy, of any numbers.

    Returns:
        `task`, `seed`, `robot`; `step_dt` (seconds between two actions), `decimation` (physics steps in them) and
        `simulation` (the physics' settings); `base`, `imu`, `joints`: the robot, the actuated joints first, in the
        order of the controls; `actions`, in the order of the action's elements; `torque_laws`, by a joint's `control`;
        `observations`: by group, the terms in the order of the vector; `commands`; `rewards`: names; `policy`: its
        class and its `ksim.rl.policy.Policy.spec`. Of an environment that somebody else wrote, `environment` in the
        place of the robot.
    """
    spec = {TARGET: f"{type(policy).__module__}.{type(policy).__qualname__}", **policy.spec()}
    if isinstance(env, ForeignEnv):
        return {"task": cfg.name, "seed": cfg.seed, **_foreign(env), "policy": spec}
    return {
        "task": cfg.name,
        "seed": cfg.seed,
        "robot": env.scene.robot.name,
        "step_dt": env.step_dt,
        "decimation": cfg.task.decimation,
        "simulation": dataclasses.asdict(cfg.task.sim),
        "base": _base(env.scene),
        "imu": _imu(env.scene),
        "joints": _joints(env),
        "actions": [_action(env.scene, env.actions.terms[name], a) for name, a in env.actions.actions.items()],
        "torque_laws": TORQUE_LAWS,
        "observations": {group: _observations(env, group) for group in env.observations.groups},
        "commands": [_term(term) for term in env.commands.terms.values()],
        "rewards": list(env.rewards.terms),
        "policy": spec,
    }


def _foreign(env: ForeignEnv) -> dict[str, Any]:
    """What can be said of an environment whose observations and actions only its own code explains."""
    observations = {
        group: [
            {"name": name, "size": size, "description": "what the environment shows"} for name, size in sizes.items()
        ]
        for group, sizes in env.obs_sizes.items()
    }
    return {
        "environment": env.about,
        "step_dt": env.step_dt,
        "actions": [{"name": "action", "law": env.action_law, "joints": list(env.action_names)}],
        "observations": observations,
        "commands": [],
        "rewards": [],
    }


def _base(scene: Scene) -> dict[str, Any] | None:
    """The floating base and where it is in the home pose; None for a robot with a fixed base."""
    adr = scene.base_qpos_adr
    if adr is None:
        return None
    home = scene.home_qpos[adr : adr + 7]
    return {"body": scene.robot.base_body, "home_pos": home[:3], "home_quat": home[3:]}


def _imu(scene: Scene) -> dict[str, Any] | None:
    """Where the IMU sits in the base's frame in the home pose: what it measures has to be turned by `quat` (wxyz)."""
    if scene.robot.imu_site is None:
        return None
    data = mujoco.MjData(scene.model)
    data.qpos = scene.home_qpos
    mujoco.mj_kinematics(scene.model, data)
    base, site = data.body(scene.robot.base_body), data.site(scene.robot.imu_site)
    rotation = base.xmat.reshape(3, 3).T
    quat = np.zeros(4)
    mujoco.mju_mat2Quat(quat, (rotation @ site.xmat.reshape(3, 3)).ravel())
    return {"site": scene.robot.imu_site, "pos": rotation @ (site.xpos - base.xpos), "quat": quat}


def _joints(env: Env) -> list[dict[str, Any]]:
    """The joints; those with a `control` are actuated."""
    scene, robot = env.scene, env.scene.robot
    joints = []
    for j, name in enumerate(scene.joint_names):
        joint = {"name": name, "home": scene.home_joint_pos[j]}
        if j < scene.num_actuated:
            joint |= {
                "control": env.actions.control.get(name, "position"),
                "kp": robot.kp_u[j],
                "kd": robot.kd_u[j],
                "torque_limit": robot.torque_limit_u[j],
                "armature": robot.armature_u[j],
            }
        joints.append(joint)
    return joints


def _action(scene: Scene, term: Term, action: JointAction) -> dict[str, Any]:
    """The joints of an action term and the map from its elements to their targets."""
    values = {f.name.removesuffix("_a"): getattr(action, f.name) for f in dataclasses.fields(action)}
    return {
        "name": term.name,
        "law": action.law,
        **values,
        "joints": [scene.joint_names[j] for j in action.joints_a],
        **dataclasses.asdict(term.settings, dict_factory=_without_none),
    }


def _observations(env: Env, group: str) -> list[dict[str, Any]]:
    """The terms of an observation group, concatenated in this order: each clipped, then scaled, then its history.

    Delay, bias and noise are what a training adds; a robot has its own.
    """
    settings, terms = env.observations.groups[group].settings, env.observations.groups[group].terms
    described = []
    for term in terms.values():
        changes = dataclasses.asdict(term.settings, dict_factory=_without_none)
        if not settings.enable_corruption:
            changes.pop("noise", None)
            changes.pop("bias", None)
        if settings.delay is not None:
            changes["delay"] = dataclasses.asdict(settings.delay)
        changes["history"] = env.observations.history(group, term)  # frames, the oldest first
        described.append(
            _term(term) | {"size": env.obs_sizes[group][term.name]} | _joints_of(env.scene, term) | changes
        )
    return described


def _term(term: Term) -> dict[str, Any]:
    """What a term is; without the parameters that a curriculum sets."""
    return {
        "name": term.name,
        "description": " ".join((inspect.getdoc(term.func) or "").split("\n\n")[0].split()),
        "function": f"{term.func.__module__}.{term.func.__qualname__}",
        "parameters": {n: parameter(term, n) for n in parameters(term.func)[0] if n not in term.driven},
    }


def _joints_of(scene: Scene, term: Term) -> dict[str, Any]:
    """The joints that a term's elements belong to, in their order."""
    if "joints" not in parameters(term.func)[0]:
        return {}
    ids = scene.find_joints(parameter(term, "joints"), actuated=traits_of(term.func).actuated)
    return {"joints": [scene.joint_names[j] for j in ids]}


def _without_none(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in items if value is not None}
