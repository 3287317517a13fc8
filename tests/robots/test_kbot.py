"""The K-Bot against the published figures, and its mirror map against kinematics."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from ksim import robots
from ksim.robots import Robot

FACTS: dict[str, Any] = json.loads((Path(__file__).parent / "kbot_facts.json").read_text())
FEET = [row["name"] for row in FACTS["foot_geoms"]]
ACTUATORS: dict[str, dict[str, Any]] = FACTS["actuators"]

# The figures have 6 to 9 digits; masses and inertias are copied, frames are rounded by less than this.
ATOL = 1e-6


def figures() -> dict[str, Any]:
    """Every figure under a key 'kind:name.quantity'."""
    flat: dict[str, Any] = {f"total.{key}": FACTS[key] for key in ("nq", "nv", "nbody", "total_mass", "com_at_qpos0")}
    for kind in ("bodies", "joints", "foot_geoms", "sites", "sensors"):
        flat[f"{kind}.names"] = [row["name"] for row in FACTS[kind]]
        for row in FACTS[kind]:
            flat |= {f"{kind}:{row['name']}.{key}": value for key, value in row.items() if key != "name"}
    return flat


def measure(model: mujoco.MjModel) -> dict[str, Any]:
    """What ``model`` has under the keys of ``figures``."""
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)

    flat: dict[str, Any] = {
        "total.nq": model.nq,
        "total.nv": model.nv,
        "total.nbody": model.nbody,
        "total.total_mass": model.body_mass.sum(),
        "total.com_at_qpos0": data.subtree_com[0],
        "bodies.names": [_name(model, mujoco.mjtObj.mjOBJ_BODY, i) for i in range(1, model.nbody)],
        "joints.names": [_name(model, mujoco.mjtObj.mjOBJ_JOINT, i) for i in range(model.njnt)],
        "foot_geoms.names": _foot_geom_names(model),
        "sites.names": [_name(model, mujoco.mjtObj.mjOBJ_SITE, i) for i in range(model.nsite)],
        "sensors.names": [_name(model, mujoco.mjtObj.mjOBJ_SENSOR, i) for i in range(model.nsensor)],
    }
    for of_kind in (_bodies, _joints, _foot_geoms, _sites, _sensors):
        flat |= of_kind(model, data)
    return flat


def _name(model: mujoco.MjModel, kind: mujoco.mjtObj, index: int) -> str:
    return mujoco.mj_id2name(model, kind, index)


def _bodies(model: mujoco.MjModel, data: mujoco.MjData) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for i in range(1, model.nbody):
        flat |= _prefixed(
            f"bodies:{_name(model, mujoco.mjtObj.mjOBJ_BODY, i)}.",
            parent=_name(model, mujoco.mjtObj.mjOBJ_BODY, model.body_parentid[i]),
            pos=model.body_pos[i],
            quat=model.body_quat[i],
            mass=model.body_mass[i],
            com=model.body_ipos[i],
            inertia_diag=model.body_inertia[i],
            inertia_quat=model.body_iquat[i],
            xpos_at_qpos0=data.xpos[i],
            xquat_at_qpos0=data.xquat[i],
        )
    return flat


def _joints(model: mujoco.MjModel, data: mujoco.MjData) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for i in range(model.njnt):
        dof = model.jnt_dofadr[i]
        flat |= _prefixed(
            f"joints:{_name(model, mujoco.mjtObj.mjOBJ_JOINT, i)}.",
            body=_name(model, mujoco.mjtObj.mjOBJ_BODY, model.jnt_bodyid[i]),
            type=mujoco.mjtJoint(model.jnt_type[i]).name.removeprefix("mjJNT_").lower(),
            axis=model.jnt_axis[i],
            range=model.jnt_range[i] if model.jnt_limited[i] else [0, 0],
            armature=model.dof_armature[dof],
            damping=model.dof_damping[dof],
            frictionloss=model.dof_frictionloss[dof],
            actuatorfrcrange=model.jnt_actfrcrange[i] if model.jnt_actfrclimited[i] else [0, 0],
            world_axis_at_qpos0=data.xaxis[i],
            world_anchor_at_qpos0=data.xanchor[i],
        )
    return flat


def _foot_geoms(model: mujoco.MjModel, data: mujoco.MjData) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for geom in _foot_geom_names(model):
        i = model.geom(geom).id
        flat |= _prefixed(
            f"foot_geoms:{geom}.",
            body=_name(model, mujoco.mjtObj.mjOBJ_BODY, model.geom_bodyid[i]),
            type=mujoco.mjtGeom(model.geom_type[i]).name.removeprefix("mjGEOM_").lower(),
            size=model.geom_size[i],
            pos=model.geom_pos[i],
            quat=model.geom_quat[i],
            contype=model.geom_contype[i],
            conaffinity=model.geom_conaffinity[i],
            condim=model.geom_condim[i],
            priority=model.geom_priority[i],
            friction=model.geom_friction[i],
            solref=model.geom_solref[i],
            solimp=model.geom_solimp[i],
            xpos_at_qpos0=data.geom_xpos[i],
        )
    return flat


def _sites(model: mujoco.MjModel, data: mujoco.MjData) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for i in range(model.nsite):
        flat |= _prefixed(
            f"sites:{_name(model, mujoco.mjtObj.mjOBJ_SITE, i)}.",
            body=_name(model, mujoco.mjtObj.mjOBJ_BODY, model.site_bodyid[i]),
            pos=model.site_pos[i],
            quat=model.site_quat[i],
            type=mujoco.mjtGeom(model.site_type[i]).name.removeprefix("mjGEOM_").lower(),
            size=model.site_size[i],
            xpos_at_qpos0=data.site_xpos[i],
            xmat_at_qpos0=data.site_xmat[i],
        )
    return flat


def _sensors(model: mujoco.MjModel, data: mujoco.MjData) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for i in range(model.nsensor):
        flat |= _prefixed(
            f"sensors:{_name(model, mujoco.mjtObj.mjOBJ_SENSOR, i)}.",
            type=mujoco.mjtSensor(model.sensor_type[i]).name.removeprefix("mjSENS_").lower(),
            obj=_name(model, model.sensor_objtype[i], model.sensor_objid[i]),
            dim=model.sensor_dim[i],
            noise=model.sensor_noise[i],
        )
    return flat


def _foot_geom_names(model: mujoco.MjModel) -> list[str]:
    touching = (i for i in range(model.ngeom) if model.geom_contype[i] or model.geom_conaffinity[i])
    return [_name(model, mujoco.mjtObj.mjOBJ_GEOM, i) for i in touching]


def _prefixed(prefix: str, **values: Any) -> dict[str, Any]:
    return {prefix + key: value for key, value in values.items()}


def agrees(key: str, figure: Any, measured: Any) -> bool:
    if isinstance(figure, str) or (isinstance(figure, list) and isinstance(figure[0], str)):
        return bool(figure == measured)
    figure, measured = np.asarray(figure, float), np.asarray(measured, float)
    if figure.shape != measured.shape:
        return False
    if "quat" in key and np.dot(figure, measured) < 0:  # q and -q are the same rotation
        measured = -measured
    # Inertias go down to 2e-7 kg m^2: they are copied, so only the last digit may differ.
    atol = 1e-12 if "inertia_diag" in key else ATOL
    return bool(np.allclose(figure, measured, rtol=1e-9, atol=atol))


def mismatches(model: mujoco.MjModel) -> list[str]:
    measured = measure(model)
    return [key for key, figure in figures().items() if key not in measured or not agrees(key, figure, measured[key])]


@pytest.fixture(scope="module")
def kbot() -> Robot:
    return robots.load("kbot")


@pytest.fixture(scope="module")
def model(kbot: Robot) -> mujoco.MjModel:
    return kbot.spec.compile()


@pytest.fixture(scope="module")
def measured(model: mujoco.MjModel) -> dict[str, Any]:
    return measure(model)


@pytest.mark.parametrize("key", list(figures()))
def test_figure(key: str, measured: dict[str, Any]) -> None:
    assert key in measured
    assert agrees(key, figures()[key], measured[key]), f"{key}: {measured[key]} instead of {figures()[key]}"


def _set(kind: str, name: str, field: str, change: Callable[[Any], Any]) -> Callable[[mujoco.MjSpec], None]:
    def apply(spec: mujoco.MjSpec) -> None:
        element = getattr(spec, kind)(name)
        setattr(element, field, change(getattr(element, field)))

    return apply


def _first(delta: float) -> Callable[[Any], Any]:
    return lambda values: [values[0] + delta, *values[1:]]


@pytest.mark.parametrize(
    ("key", "perturb"),
    [
        ("bodies:torso.mass", _set("body", "torso", "mass", lambda x: x * 1.0001)),
        ("total.total_mass", _set("body", "imu", "mass", lambda x: x * 1.001)),
        ("bodies:PRT0001.inertia_diag", _set("body", "PRT0001", "inertia", lambda x: x * 1.001)),
        ("bodies:imu.com", _set("body", "imu", "ipos", _first(1e-5))),
        ("bodies:KD_D_401R.pos", _set("body", "KD_D_401R", "pos", _first(1e-5))),
        ("bodies:KD_D_401R.xpos_at_qpos0", _set("body", "torso", "quat", lambda _: [1, 0, 0, 1.0001])),
        ("joints:dof_right_knee_04.axis", _set("joint", "dof_right_knee_04", "axis", lambda x: -x)),
        ("joints:dof_right_knee_04.range", _set("joint", "dof_right_knee_04", "range", _first(1e-4))),
        ("joints:dof_left_ankle_02.armature", _set("joint", "dof_left_ankle_02", "armature", lambda x: x * 1.01)),
        ("joints:dof_left_wrist_00.frictionloss", _set("joint", "dof_left_wrist_00", "frictionloss", lambda x: 0)),
        (
            "joints:dof_left_wrist_00.actuatorfrcrange",
            _set("joint", "dof_left_wrist_00", "actfrcrange", _first(0.1)),
        ),
        ("foot_geoms:LFootBushing_GPF_1517_12_collision_capsule_1.size", _set("geom", "L1", "size", _first(1e-5))),
        ("foot_geoms:LFootBushing_GPF_1517_12_collision_capsule_1.solimp", _set("geom", "L1", "solimp", _first(0.001))),
        ("foot_geoms:LFootBushing_GPF_1517_12_collision_capsule_1.condim", _set("geom", "L1", "condim", lambda _: 4)),
        ("sites:imu_site.xmat_at_qpos0", _set("site", "imu_site", "quat", lambda _: [1, 0, 0, 0.0001])),
        ("sensors:imu_gyro.obj", _set("sensor", "imu_gyro", "objname", lambda _: "base_site")),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_perturbed_model_is_noticed(key: str, perturb: Callable[[mujoco.MjSpec], None]) -> None:
    spec = robots.load("kbot").spec
    for geom in spec.geoms:  # a short name for the table above
        if geom.name == "LFootBushing_GPF_1517_12_collision_capsule_1":
            original, geom.name = geom.name, "L1"
    perturb(spec)
    spec.geom("L1").name = original
    assert key in mismatches(spec.compile())


def test_the_table_is_the_published_one(kbot: Robot) -> None:
    assert kbot.joint_names == tuple(ACTUATORS)
    for field in ("kp", "kd", "torque_limit", "armature"):
        np.testing.assert_array_equal(getattr(kbot, f"{field}_u"), [row[field] for row in ACTUATORS.values()], field)


def test_joints_are_in_the_order_of_the_actuators(model: mujoco.MjModel, kbot: Robot) -> None:
    assert [model.joint(name).id for name in kbot.joint_names] == list(range(1, 21))


def test_only_inertials_weigh(kbot: Robot) -> None:
    """Visual geoms and capsules are massless: a model without them is as heavy and moves alike."""
    spec = robots.load("kbot").spec
    spec.compiler.discardvisual = True
    bare = spec.compile()
    assert bare.ngeom == len(FEET)
    np.testing.assert_array_equal(bare.body_mass, kbot.spec.compile().body_mass)


@pytest.fixture(scope="module")
def at_home(model: mujoco.MjModel, kbot: Robot) -> mujoco.MjData:
    data = mujoco.MjData(model)
    data.qpos[:] = kbot.home_qpos
    mujoco.mj_forward(model, data)
    return data


def test_home_pose(model: mujoco.MjModel, kbot: Robot, at_home: mujoco.MjData) -> None:
    home = FACTS["home"]
    np.testing.assert_allclose(kbot.home_qpos, home["qpos_on_floor_z0"], atol=1e-9)
    np.testing.assert_allclose(at_home.subtree_com[0], home["com"], atol=ATOL)
    np.testing.assert_allclose(at_home.site("imu_site").xpos[2], home["imu_height"], atol=ATOL)
    for site, position in home["foot_sites"].items():
        np.testing.assert_allclose(at_home.site(site).xpos, position, atol=ATOL)
    ranges_u = model.jnt_range[1:]
    assert np.all((kbot.home_qpos[7:] >= ranges_u[:, 0]) & (kbot.home_qpos[7:] <= ranges_u[:, 1]))


def test_both_feet_touch_the_floor_at_home(model: mujoco.MjModel, kbot: Robot, at_home: mujoco.MjData) -> None:
    for side in ("L", "R"):
        lowest = np.inf
        for geom in FEET:
            if geom.startswith(side):
                i = model.geom(geom).id
                radius, half_length = model.geom_size[i, :2]
                axis_z = at_home.geom_xmat[i].reshape(3, 3)[2, 2]
                lowest = min(lowest, at_home.geom_xpos[i, 2] - half_length * abs(axis_z) - radius)
        assert abs(lowest) < 1e-4


def test_the_keyframe_is_the_home_pose(kbot: Robot) -> None:
    model = mujoco.MjModel.from_xml_path(str(Path(robots.__file__).parent / "kbot" / "kbot.xml"))
    np.testing.assert_array_equal(model.key("home").qpos, kbot.home_qpos)


def test_feet_collide_with_a_floor_of_contype_1_and_nothing_else(kbot: Robot) -> None:
    spec = robots.load("kbot").spec
    spec.worldbody.add_geom(name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[1, 1, 1], contype=1, conaffinity=0)
    model = spec.compile()
    data = mujoco.MjData(model)
    data.qpos[:] = kbot.home_qpos
    data.qpos[2] -= 0.3  # so that all that could touch the floor is in it
    mujoco.mj_forward(model, data)
    touching = {model.geom(i).name for contact in data.contact for i in contact.geom}
    assert touching == {"floor", *FEET}


LEFT_AND_RIGHT = [
    ("left_foot", "right_foot", "site"),
    ("KD_D_401L_L_Shin_Drive", "KD_D_401R", "body"),
    ("KC_C_401L_Up_Forearm_Drive", "KC_C_401R_R_UpForearmDrive", "body"),
    ("PRT0001_2", "PRT0001", "body"),
]


def _mirror_error(model: mujoco.MjModel, joint_index_u: np.ndarray, joint_sign_u: np.ndarray) -> float:
    """Largest distance (m) between a body and its mirrored counterpart, over random poses."""
    rng = np.random.default_rng(0)
    pose, mirrored = mujoco.MjData(model), mujoco.MjData(model)
    low_u, high_u = model.jnt_range[1:].T
    worst = 0.0
    for _ in range(20):
        pose.qpos[7:] = rng.uniform(low_u, high_u)
        mirrored.qpos[7:] = joint_sign_u * pose.qpos[7:][joint_index_u]
        mujoco.mj_kinematics(model, pose)
        mujoco.mj_kinematics(model, mirrored)
        for left, right, kind in LEFT_AND_RIGHT:
            for a, b in ((left, right), (right, left)):
                position = getattr(pose, kind)(a).xpos * [1, -1, 1]
                worst = max(worst, float(np.linalg.norm(getattr(mirrored, kind)(b).xpos - position)))
    return worst


def test_a_mirrored_pose_mirrors_feet_and_hands(model: mujoco.MjModel, kbot: Robot) -> None:
    """Within 3 mm: the published arms differ by 1 mm in the upper arm's frame."""
    assert kbot.mirror is not None
    assert _mirror_error(model, kbot.mirror.joint_index_u, kbot.mirror.joint_sign_u) < 3e-3


@pytest.mark.parametrize("joint", [name for name in ACTUATORS if "wrist" not in name])  # a wrist moves no position
def test_a_wrong_mirror_sign_is_noticed(joint: str, model: mujoco.MjModel, kbot: Robot) -> None:
    assert kbot.mirror is not None
    sign_u = kbot.mirror.joint_sign_u.copy()
    sign_u[kbot.joint_names.index(joint)] *= -1
    assert _mirror_error(model, kbot.mirror.joint_index_u, sign_u) > 0.02


def test_mirror_axes_and_ranges(model: mujoco.MjModel, kbot: Robot) -> None:
    """A rotation about an axis is mirrored into one about the axis with x and z turned round: wrists included."""
    assert kbot.mirror is not None
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    for u, other in enumerate(kbot.mirror.joint_index_u):
        sign = kbot.mirror.joint_sign_u[u]
        np.testing.assert_allclose(sign * data.xaxis[1 + u], data.xaxis[1 + other] * [-1, 1, -1], atol=1e-4)
        np.testing.assert_allclose(model.jnt_range[1 + u], np.sort(sign * model.jnt_range[1 + other]), atol=ATOL)


def test_mirroring_twice_gives_the_pose_itself(kbot: Robot) -> None:
    assert kbot.mirror is not None
    index_u, sign_u = kbot.mirror.joint_index_u, kbot.mirror.joint_sign_u
    q_u = np.arange(1.0, 21.0)
    np.testing.assert_array_equal(sign_u * (sign_u * q_u[index_u])[index_u], q_u)
    np.testing.assert_array_equal(sign_u * kbot.home_qpos[7:][index_u], kbot.home_qpos[7:])


@pytest.mark.parametrize("camera", ["front", "side", "track"])
def test_cameras(camera: str, model: mujoco.MjModel) -> None:
    """Each sees the centre of mass near the middle of its picture."""
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    to_com = data.subtree_com[1] - data.camera(camera).xpos
    looks_along = -data.camera(camera).xmat.reshape(3, 3)[:, 2]
    assert to_com @ looks_along / np.linalg.norm(to_com) > np.cos(np.deg2rad(8))
