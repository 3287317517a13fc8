"""A robot's control loop, made of nothing but an exported policy's own description: plain MuJoCo, no ksim.

    python play_onnx.py policy.onnx robot.xml seconds push trace.npz [x y yaw_rate]

Starts in the home pose, pushes a floating base forward by `push` m/s at half time, and keeps every step in trace.npz. A
policy that follows a velocity is given x and y (m/s) and yaw_rate (rad/s), 0 0 0 if nothing is said.
"""

import json
import sys

import mujoco
import numpy as np
import onnxruntime

LAW = "target = clip(offset + scale * action, lower, upper); all other joints: target = home"
STEPPING = LAW.replace("scale * action", "scale * action + lift @ swing_share")
TRAINED_WITH = {"bias", "noise", "delay"}  # a real robot brings its own
OBSERVATION_KEYS = {"name", "size", "description", "function", "parameters", "joints", "clip", "scale", "history"}
ACTION_KEYS = {"name", "law", "control", "joints", "scale", "offset", "lower", "upper", "relative"}
STEPPING_KEYS = {"lift", "clock", "stance", "offsets"}


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


class Clock:
    """The clock of a gait, (cos, sin); it runs while the velocity asks to move, and stops at half its period."""

    def __init__(self, period_s, command, min_command):
        self.period_s, self.min_command = period_s, -1 if command is None else min_command
        self.phase, self.runs = 0.0, False

    def tick(self, dt, velocity):
        """One step later."""
        ahead, moves = self.phase + dt / self.period_s, np.linalg.norm(velocity) > self.min_command
        half, is_half = np.floor(2 * ahead + 1e-4), np.floor(2 * ahead + 1e-4) > np.floor(2 * self.phase + 1e-4)
        if not moves and (is_half or not self.runs):
            ahead, self.runs = half / 2 if self.runs else self.phase, False
        else:
            self.runs = True
        self.phase = ahead % 1
        angle = 2 * np.pi * self.phase
        return [np.cos(angle), np.sin(angle)] if self.runs else [0, 0]


def lift(term, clock):
    """What the joints do by themselves when it is time to swing a foot."""
    lift_an, (cos, sin) = np.array(term["lift"]), clock
    num_feet = lift_an.shape[1]
    offset_n = 2 * np.pi * (np.arange(num_feet) / num_feet if term["offsets"] is None else np.array(term["offsets"]))
    level = np.sin(np.pi * (term["stance"] - 0.5))
    share_n = np.maximum(sin * np.cos(offset_n) + cos * np.sin(offset_n) - level, 0) / (1 - level)
    return lift_an @ (share_n if cos or sin else 0 * share_n)


def set_targets(data, term, action, asked):
    """What the joints of an action term are to do."""
    ahead = lift(term, asked[term["clock"]]) if "lift" in term else np.zeros(len(term["joints"]))
    for i, joint in enumerate(term["joints"]):
        target = term["offset"][i] + term["scale"][i] * action[i] + ahead[i]
        lower, upper = term["lower"][i], term["upper"][i]  # null: no bound
        target = max(target, -np.inf if lower is None else lower)
        data.actuator(joint).ctrl = min(target, np.inf if upper is None else upper)


def play(policy, mjcf, seconds, push, velocity=(0, 0, 0)):
    """Run the loop; what it saw and did at every step."""
    session = onnxruntime.InferenceSession(policy, providers=["CPUExecutionProvider"])
    meta = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    unknown = [t["name"] for t in meta["observations"] if set(t) - OBSERVATION_KEYS - TRAINED_WITH]
    known = {LAW: ACTION_KEYS, STEPPING: ACTION_KEYS | STEPPING_KEYS}
    unknown += [t["name"] for t in meta["actions"] if set(t) - known.get(t["law"], set()) - TRAINED_WITH]
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
        "ksim.mdp.observations.command": lambda term: asked[term["parameters"]["name"]],
    }
    clocks = {
        term["name"]: Clock(**term["parameters"])
        for term in meta["commands"]
        if term["function"].endswith("gait_clock")
    }
    num_steps, frames, trace = round(seconds / meta["step_dt"]), {}, []
    action = np.zeros(sum(len(term["joints"]) for term in meta["actions"]))
    for step in range(num_steps):
        asked = {term["name"]: velocity for term in meta["commands"]}
        asked |= {name: clock.tick(meta["step_dt"], velocity) for name, clock in clocks.items()}
        for term in meta["observations"]:
            value = np.clip(measure[term["function"]](term), *term.get("clip", (-np.inf, np.inf)))
            frame = value * term.get("scale", 1)
            frames[term["name"]] = [*frames.get(term["name"], [frame] * term["history"])[1:], frame]
        obs = np.concatenate([frame for term in frames.values() for frame in term], dtype=np.float32)
        action = session.run(["action"], {"obs": obs[None]})[0][0]
        start = 0
        for term in meta["actions"]:
            set_targets(data, term, action[start:], asked)
            start += len(term["joints"])
        if base and step == num_steps // 2:
            base.qvel[0] += push
        mujoco.mj_step(model, data, meta["decimation"])
        trace.append({"obs": obs, "action": action, "qpos": data.qpos.copy()})
    return {key: np.stack([step[key] for step in trace]) for key in trace[0]}


if __name__ == "__main__":
    numbers = [float(number) for number in (*sys.argv[3:5], *sys.argv[6:])]
    np.savez(sys.argv[5], **play(sys.argv[1], sys.argv[2], *numbers[:2], numbers[2:] or (0, 0, 0)))
