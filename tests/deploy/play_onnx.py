"""A robot's control loop, made of nothing but an exported policy's own description: plain MuJoCo, no ksim.

    python play_onnx.py policy.onnx robot.xml seconds push trace.npz

Starts in the home pose, pushes a floating base forward by `push` m/s at half time, and keeps every step in trace.npz.
"""

import json
import sys

import mujoco
import numpy as np
import onnxruntime

LAW = "target = clip(offset + scale * action, lower, upper); all other joints: target = home"
TRAINED_WITH = {"bias", "noise", "delay"}  # a real robot brings its own
OBSERVATION_KEYS = {"name", "size", "description", "function", "parameters", "joints", "clip", "scale", "history"}
ACTION_KEYS = {"name", "law", "control", "joints", "scale", "offset", "lower", "upper", "relative"}


def make_model(meta, mjcf):
    """The robot with its PD controllers, on a floor."""
    spec, sim = mujoco.MjSpec.from_file(mjcf), meta["simulation"]
    for name in ("timestep", "iterations", "ls_iterations", "impratio"):
        setattr(spec.option, name, sim[name])
    spec.option.integrator = mujoco.mjtIntegrator.__members__["mjINT_" + sim["integrator"].upper()]
    spec.option.solver = mujoco.mjtSolver.__members__["mjSOL_" + sim["solver"].upper()]
    spec.option.cone = mujoco.mjtCone.__members__["mjCONE_" + sim["cone"].upper()]
    if meta["base"]:
        spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1], contype=1, conaffinity=0)
    for joint in meta["joints"]:
        if "control" in joint:
            kp, kd, limit = joint["kp"], joint["kd"], joint["torque_limit"]
            gain = {"position": kp, "velocity": kd, "effort": 1}[joint["control"]]
            bias = {"position": (0, -kp, -kd), "velocity": (0, 0, -kd), "effort": (0, 0, 0)}[joint["control"]]
            motor = spec.add_actuator(name=joint["name"], target=joint["name"], trntype=mujoco.mjtTrn.mjTRN_JOINT)
            motor.biastype, motor.forcerange = mujoco.mjtBias.mjBIAS_AFFINE, (-limit, limit)
            motor.gainprm[0], motor.biasprm[:3] = gain, bias
            spec.joint(joint["name"]).armature = joint["armature"]
    return spec.compile()


def play(policy, mjcf, seconds, push):
    """Run the loop; what it saw and did at every step."""
    session = onnxruntime.InferenceSession(policy, providers=["CPUExecutionProvider"])
    meta = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    unknown = [t["name"] for t in meta["observations"] if set(t) - OBSERVATION_KEYS - TRAINED_WITH]
    unknown += [t["name"] for t in meta["actions"] if t["law"] != LAW or set(t) - ACTION_KEYS]
    if unknown:
        sys.exit(f"this loop does not know all that is done in the terms {unknown}")
    model = make_model(meta, mjcf)
    data = mujoco.MjData(model)
    home = {joint["name"]: joint["home"] for joint in meta["joints"]}
    for joint in meta["joints"]:
        data.joint(joint["name"]).qpos = joint["home"]
        if "control" in joint:
            data.actuator(joint["name"]).ctrl = joint["home"]
    base = data.joint(model.body(meta["base"]["body"]).jntadr[0]) if meta["base"] else None
    if base:
        base.qpos = [*meta["base"]["home_pos"], *meta["base"]["home_quat"]]

    def gravity():
        down, inverse = np.zeros(3), base.qpos[3:] * [1, -1, -1, -1]
        mujoco.mju_rotVecQuat(down, np.array([0.0, 0.0, -1.0]), inverse)
        return down

    measure = {  # what the IMU and the encoders of the robot say, by the function that said it in training
        "ksim.mdp.observations.projected_gravity": lambda term: gravity(),
        "ksim.mdp.observations.base_ang_vel": lambda term: base.qvel[3:],
        "ksim.mdp.observations.joint_pos": lambda term: [data.joint(j).qpos[0] - home[j] for j in term["joints"]],
        "ksim.mdp.observations.joint_vel": lambda term: [data.joint(j).qvel[0] for j in term["joints"]],
        "ksim.mdp.observations.last_action": lambda term: action,
    }
    num_steps, frames, trace = round(seconds / meta["step_dt"]), {}, []
    action = np.zeros(sum(len(term["joints"]) for term in meta["actions"]))
    for step in range(num_steps):
        for term in meta["observations"]:
            value = np.clip(measure[term["function"]](term), *term.get("clip", (-np.inf, np.inf)))
            frame = value * term.get("scale", 1)
            frames[term["name"]] = [*frames.get(term["name"], [frame] * term["history"])[1:], frame]
        obs = np.concatenate([frame for term in frames.values() for frame in term], dtype=np.float32)
        action = session.run(["action"], {"obs": obs[None]})[0][0]
        start = 0
        for term in meta["actions"]:
            for i, joint in enumerate(term["joints"]):
                target = term["offset"][i] + term["scale"][i] * action[start + i]
                lower, upper = term["lower"][i], term["upper"][i]  # null: no bound
                target = max(target, -np.inf if lower is None else lower)
                data.actuator(joint).ctrl = min(target, np.inf if upper is None else upper)
            start += len(term["joints"])
        if base and step == num_steps // 2:
            base.qvel[0] += push
        mujoco.mj_step(model, data, meta["decimation"])
        trace.append({"obs": obs, "action": action, "qpos": data.qpos.copy()})
    return {key: np.stack([step[key] for step in trace]) for key in trace[0]}


if __name__ == "__main__":
    np.savez(sys.argv[5], **play(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])))
