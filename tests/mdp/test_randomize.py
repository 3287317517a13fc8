"""Domain randomization: what is drawn, from the compiled value, and what a body with it is."""

import copy
import dataclasses
import itertools

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from scipy import stats
from scipy.spatial.transform import Rotation
from support import plain
from support.terms import context, simulation

from ksim.config.compose import compose
from ksim.envs.scene import Scene, build_scene
from ksim.errors import ConfigError
from ksim.mdp import actions, observations, quantities, randomize
from ksim.mdp.contact_friction import check_friction_counts

KEYS = jax.random.split(jax.random.key(0), 100_000)
TORSO = 2
FEET = ".*collision_capsule.*"
KNEES = ".*knee.*"


@pytest.fixture(scope="module")
def ctx(kbot):
    """An env in which earlier draws have left every field at three times its compiled value, and the IMU elsewhere."""
    names = (
        "geom_friction body_mass body_inertia body_ipos dof_armature dof_frictionloss actuator_gainprm"
        " actuator_biasprm actuator_forcerange"
    )
    left = {name: 3.0 * getattr(kbot.model, name) for name in names.split()}
    left["site_pos"] = kbot.model.site_pos + 0.3
    left["site_quat"] = np.tile([0.5, 0.5, -0.5, 0.5], (kbot.model.nsite, 1))
    return context(kbot, simulation(kbot), model_fields=left)


def draws(function, ctx, pick, **params):
    """What a randomization writes for many keys, of each field what `pick` takes of it."""

    def draw(key):
        return pick(function(ctx, key, **params))

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(draw))(KEYS))


def uniform(values, low, high):
    values = np.ravel(values)[: len(KEYS)]
    slack = 1e-5 * max(abs(low), abs(high))
    assert values.min() >= low - slack and values.max() <= high + slack
    return stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-3


def knees(kbot):
    return [kbot.model.joint(f"dof_{side}_knee_04").id for side in ("left", "right")]


@pytest.mark.parametrize(("operation", "low", "high"), [("scale", 0.32, 0.96), ("set", 0.5, 1.5), ("add", 1.14, 2.14)])
def test_friction_is_one_draw_from_the_compiled_value(kbot, ctx, operation, low, high):
    feet = [i for i in range(kbot.model.ngeom) if "collision_capsule" in kbot.model.geom(i).name]
    assert (kbot.model.geom_friction[feet, 0] == 0.64).all()
    value = draws(
        randomize.friction,
        ctx,
        lambda w: w["geom_friction"][jnp.array(feet), 0],
        geoms=FEET,
        range=(0.5, 1.5),
        operation=operation,
    )
    assert uniform(value[:, 0], low, high) and (value == value[:, :1]).all()


def test_only_what_is_named_changes(kbot, ctx):
    """Everything else keeps what the env has, not the compiled value."""
    writes = randomize.friction(ctx, KEYS[0], geoms=FEET, range=(0.5, 1.5))
    assert set(writes) == {"geom_friction"}
    changed = np.asarray(writes["geom_friction"]) != np.float32(3.0 * kbot.model.geom_friction)
    feet = [i for i in range(kbot.model.ngeom) if "collision_capsule" in kbot.model.geom(i).name]
    assert np.flatnonzero(changed[:, 0]).tolist() == feet and not changed[:, 1:].any()


@pytest.mark.parametrize(
    ("function", "field"), [(randomize.armature, "dof_armature"), (randomize.friction_loss, "dof_frictionloss")]
)
def test_joint_values_are_drawn_for_each_joint(kbot, ctx, function, field):
    dofs = kbot.model.jnt_dofadr[knees(kbot)]
    compiled = getattr(kbot.model, field)[dofs]
    value = draws(function, ctx, lambda w: w[field][dofs], joints=KNEES, range=(0.1, 0.4), operation="add")
    for i in (0, 1):
        assert uniform(value[:, i] - np.float32(compiled[i]), 0.1, 0.4)
    assert abs(np.corrcoef(value.T)[0, 1]) < 0.02


def test_gains_are_scaled_where_mujoco_keeps_them(kbot, ctx):
    """The torque of the actuator follows both: kp' (target - q) - kd' v."""
    ids = [kbot.model.actuator(f"dof_{side}_knee_04").id for side in ("left", "right")]
    value = draws(
        randomize.gains,
        ctx,
        lambda w: (w["actuator_gainprm"][jnp.array(ids)], w["actuator_biasprm"][jnp.array(ids)]),
        joints=KNEES,
        kp_range=(0.8, 1.2),
        kd_range=(0.5, 1.0),
    )
    kp, kd = kbot.robot.kp_u[ids[0]], kbot.robot.kd_u[ids[0]]
    gain, bias = value
    assert uniform(gain[:, 0, 0] / kp, 0.8, 1.2) and uniform(-bias[:, 0, 2] / kd, 0.5, 1.0)
    assert np.array_equal(gain[..., 0], -bias[..., 1])
    assert abs(np.corrcoef(gain[:, 0, 0], bias[:, 0, 2])[0, 1]) < 0.02
    writes = randomize.gains(context(kbot, simulation(kbot)), KEYS[0], joints=KNEES, kd_range=(0.5, 0.5))
    data = plain.make(kbot.model, kbot.home_qpos, np.full(kbot.model.nv, 0.1))
    own = plain.edited(kbot.model, **{name: np.asarray(x) for name, x in writes.items()})
    target = kbot.home_joint_pos[: kbot.num_actuated] + 0.01
    plain.forward(own, data, target)
    np.testing.assert_allclose(data.actuator_force[ids], kp * 0.01 - 0.5 * kd * 0.1, rtol=1e-4)


def test_the_gain_of_an_actuator_that_tracks_a_velocity_is_its_damping():
    """Torque kd' (target - velocity): a target that is reached asks for no torque, whatever kd' is."""
    scene = build_scene(compose(["task=kbot_standing"]).task)
    scene.set_control({"dof_left_knee_04": "velocity"})
    writes = randomize.gains(context(scene, simulation(scene)), KEYS[0], joints=".*left_knee.*", kd_range=(0.5, 0.5))
    own = plain.edited(scene.model, **{name: np.asarray(x) for name, x in writes.items()})
    u = own.actuator("dof_left_knee_04").id
    data = plain.make(own, scene.home_qpos, np.full(own.nv, 0.1))
    for target in (0.1, 0.3):
        plain.forward(own, data, np.full(own.nu, target))
        assert data.actuator_force[u] == pytest.approx(0.5 * scene.robot.kd_u[u] * (target - 0.1), rel=1e-4, abs=1e-6)


def test_torque_limits_are_scaled_both_ways(kbot, ctx):
    i = kbot.model.actuator("dof_left_knee_04").id
    value = draws(randomize.torque_limit, ctx, lambda w: w["actuator_forcerange"][i], joints=KNEES, range=(0.5, 0.9))
    assert uniform(value[:, 1] / kbot.robot.torque_limit_u[i], 0.5, 0.9) and np.array_equal(value[:, 0], -value[:, 1])


def test_a_mass_takes_its_inertia_with_it(kbot, ctx):
    i = TORSO
    mass, inertia = draws(
        randomize.mass,
        ctx,
        lambda w: (w["body_mass"][i], w["body_inertia"][i]),
        bodies=kbot.model.body(TORSO).name,
        range=(-0.1, 2.0),
        operation="add",
    )
    assert uniform(mass - np.float32(kbot.model.body_mass[i]), -0.1, 2.0)
    share = mass / kbot.model.body_mass[i]
    np.testing.assert_allclose(inertia, share[:, None] * kbot.model.body_inertia[i], rtol=1e-5)


def test_a_centre_of_mass_moves_along_each_axis(kbot, ctx):
    i = kbot.model.body(kbot.robot.base_body).id
    value = draws(
        randomize.centre_of_mass, ctx, lambda w: w["body_ipos"][i], bodies=kbot.robot.base_body, range=(-0.02, 0.03)
    )
    for axis in range(3):
        assert uniform(value[:, axis] - np.float32(kbot.model.body_ipos[i, axis]), -0.02, 0.03)


def moments_about_origin(mass, ipos, iquat, inertia):
    """Second moments of a body's mass about its own origin, in its frame, by NumPy: the integral of x x'."""
    rotation = Rotation.from_quat(iquat, scalar_first=True).as_matrix()
    about_com = rotation @ np.diag(inertia.sum() / 2 - inertia) @ rotation.T
    return about_com + mass * np.outer(ipos, ipos)


def test_an_inertia_is_that_of_a_body_that_can_exist(kbot, ctx):
    """However far it is drawn: positive moments that obey the triangle inequality; and mass and shift as drawn."""
    i = TORSO
    name = kbot.model.body(i).name
    mass, ipos, iquat, inertia = draws(
        randomize.inertia,
        ctx,
        lambda w: tuple(w[f"body_{n}"][i] for n in ("mass", "ipos", "iquat", "inertia")),
        bodies=name,
        log_mass_range=(-0.5, 0.4),
        log_stretch_range=(-0.8, 0.8),
        shear_range=(-0.9, 0.9),
        shift_range=(-0.05, 0.02),
    )
    assert uniform(np.log(mass / kbot.model.body_mass[i]), -0.5, 0.4)
    axes = Rotation.from_quat(kbot.model.body_iquat[i], scalar_first=True).as_matrix()
    shift = (ipos - kbot.model.body_ipos[i]) @ axes
    for axis in range(3):
        assert uniform(shift[:, axis], -0.05, 0.02)
    np.testing.assert_allclose(np.linalg.norm(iquat, axis=1), 1, atol=1e-5)
    a, b, c = np.sort(inertia, axis=1).T
    assert (a > 0).all() and (a + b > c * (1 - 1e-5)).all()
    # The triangular map of the matter, out of its second moments S = U diag(s) U' in the compiled principal frame.
    turn = axes.T @ Rotation.from_quat(iquat.astype(float), scalar_first=True).as_matrix()
    moments = (inertia.sum(axis=1, keepdims=True) / 2 - inertia) * (kbot.model.body_mass[i] / mass)[:, None]
    S = np.einsum("nij,nj,nkj->nik", turn, moments, turn)
    s = kbot.model.body_inertia[i].sum() / 2 - kbot.model.body_inertia[i]
    z = np.sqrt(S[:, 2, 2] / s[2])
    yz, xz = S[:, 1, 2] / (z * s[2]), S[:, 0, 2] / (z * s[2])
    y = np.sqrt((S[:, 1, 1] - yz**2 * s[2]) / s[1])
    xy = (S[:, 0, 1] - xz * yz * s[2]) / (y * s[1])
    x = np.sqrt((S[:, 0, 0] - xy**2 * s[1] - xz**2 * s[2]) / s[0])
    for stretch in (x, y, z):
        assert stats.kstest(np.log(stretch), stats.uniform(-0.8, 1.6).cdf).pvalue > 1e-3
    for shear in (xy, xz, yz):
        assert stats.kstest(shear, stats.uniform(-0.9, 1.8).cdf).pvalue > 1e-3


def test_an_inertia_is_the_map_of_the_bodys_matter(kbot):
    """With one value in each range: second moments m'/m A S A', as of a cloud of points that is mapped."""
    ctx = context(kbot, simulation(kbot))
    i = TORSO
    old = [np.asarray(getattr(kbot.model, f"body_{n}")[i]) for n in ("mass", "ipos", "iquat", "inertia")]
    writes = randomize.inertia(
        ctx,
        KEYS[0],
        bodies=kbot.model.body(i).name,
        log_mass_range=(0.3, 0.3),
        log_stretch_range=(0.2, 0.2),
        shear_range=(-0.4, -0.4),
        shift_range=(0.01, 0.01),
    )
    new = [np.asarray(writes[f"body_{n}"][i], float) for n in ("mass", "ipos", "iquat", "inertia")]
    axes = Rotation.from_quat(old[2], scalar_first=True).as_matrix()
    # Eight equal points with the body's second moments about its centre of mass, in the principal frame.
    second = old[3].sum() / 2 - old[3]
    points = np.array(list(itertools.product(*[(-s, s) for s in np.sqrt(second / old[0])])))
    stretch = np.exp(0.2)
    mapped = points @ np.array([[stretch, -0.4, -0.4], [0, stretch, -0.4], [0, 0, stretch]]).T + 0.01
    in_body = mapped @ axes.T + old[1]
    mass = old[0] * np.exp(0.3)
    expected = mass / 8 * in_body.T @ in_body
    assert new[0] == pytest.approx(mass, rel=1e-5)
    np.testing.assert_allclose(new[1], in_body.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(moments_about_origin(*new), expected, atol=1e-5 * np.abs(expected).max())


def test_principal_axes_are_those_of_numpy():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a = rng.normal(0, 1, (3, 3))
        a = (a @ a.T * rng.uniform(0.01, 10)).astype(np.float32)
        moments, quat = randomize.principal_axes(jnp.asarray(a))
        np.testing.assert_allclose(np.sort(moments), np.linalg.eigvalsh(a), atol=2e-6 * np.abs(a).max())
        rotation = Rotation.from_quat(np.asarray(quat, float), scalar_first=True).as_matrix()
        np.testing.assert_allclose(rotation @ np.diag(moments) @ rotation.T, a, atol=1e-5 * np.abs(a).max())


def test_nothing_changes_with_ranges_of_nothing(kbot):
    ctx = context(kbot, simulation(kbot))
    writes = randomize.inertia(ctx, KEYS[0], bodies=".*Foot.*")
    for name, value in writes.items():
        np.testing.assert_allclose(value, getattr(kbot.model, name), rtol=1e-5, atol=1e-7)


def test_an_encoder_bias_shifts_what_is_measured_and_what_is_tracked(kbot):
    data = simulation(kbot)
    left, right = (kbot.joint_names.index(f"dof_{side}_knee_04") for side in ("left", "right"))
    bias = draws(
        randomize.encoder_bias,
        context(kbot, data),
        lambda w: w["encoder_bias"][jnp.array([left, right])],
        joints=KNEES,
        range=(-0.02, 0.05),
    )
    assert uniform(bias[:, 0], -0.02, 0.05) and uniform(bias[:, 1], -0.02, 0.05)
    drawn = randomize.encoder_bias(context(kbot, data), KEYS[0], joints=KNEES, range=(0.01, 0.05))["encoder_bias"]
    assert np.flatnonzero(drawn).tolist() == sorted([left, right])
    ctx, true = context(kbot, data, model_fields={"encoder_bias": drawn}), context(kbot, data)
    np.testing.assert_allclose(observations.joint_pos(ctx), np.asarray(observations.joint_pos(true)) + drawn, atol=1e-6)
    np.testing.assert_allclose(observations.joint_pos(ctx, measured=False), observations.joint_pos(true), atol=1e-7)
    # An actuator is at its target where its encoder says so; a relative target starts from what is measured.
    action = jnp.full(2, 0.1)
    for make in (actions.joint_position, actions.relative_joint_position):
        term = make(kbot, joints=KNEES, scale=0.1)
        shift = np.asarray(term(ctx, action)) - np.asarray(term(true, action))
        expected = 0.0 if make is actions.relative_joint_position else -drawn[term.joints_a]
        np.testing.assert_allclose(shift, expected, atol=1e-6)
    effort = actions.joint_effort(kbot, joints=KNEES)
    np.testing.assert_allclose(effort(ctx, action), effort(true, action))


def test_a_floor_under_feet_of_a_higher_priority_has_no_say(kbot):
    with pytest.raises(ConfigError, match="friction never counts.*: name LFootBushing.* instead"):
        randomize.friction(context(kbot, simulation(kbot)), KEYS[0], geoms="floor", range=(0.1, 0.3))
    kbot_alone = copy.copy(kbot.model)
    kbot_alone.geom_conaffinity[:] = 0
    scene = Scene(kbot.robot, kbot_alone)
    with pytest.raises(ConfigError, match="none of them touches anything"):
        randomize.friction(context(scene, simulation(scene)), KEYS[0], geoms=FEET, range=(0.1, 0.3))
    everything = randomize.friction(context(kbot, simulation(kbot)), KEYS[0], geoms=".*", range=(0.1, 0.3))
    assert everything["geom_friction"].shape == kbot.model.geom_friction.shape


BALL_ON_FLOOR = """
<mujoco>
  <worldbody>
    <geom name="ground" type="plane" size="1 1 1" friction="{floor}" priority="{floor_priority}"/>
    <body pos="0 0 0.09"><freejoint/><geom name="sole" size="0.1" friction="{sole}" priority="{priority}"/></body>
  </worldbody>
</mujoco>
"""


@pytest.mark.parametrize("priorities", [(0, 0), (1, 0), (0, 1)])
@pytest.mark.parametrize(("floor", "sole"), [(1.0, 0.5), (0.5, 1.0), (0.3, 0.3)])
@pytest.mark.parametrize("factor", [0.45, 0.9, 1.6, 3.3])
@pytest.mark.parametrize("named", [["sole"], ["ground"], ["sole", "ground"]])
def test_friction_that_would_not_count_is_refused(priorities, floor, sole, factor, named):
    """As C MuJoCo's own contact says: refused where the contact has not the friction that was drawn for its geoms."""
    priority, floor_priority = priorities
    model = mujoco.MjModel.from_xml_string(
        BALL_ON_FLOOR.format(floor=floor, sole=sole, priority=priority, floor_priority=floor_priority)
    )
    ids = np.array(sorted(model.geom(name).id for name in named))
    drawn = model.geom_friction[ids, 0] * factor
    own = plain.edited(model)
    own.geom_friction[ids, 0] = drawn
    data = mujoco.MjData(own)
    mujoco.mj_forward(own, data)
    if np.isclose(data.contact[0].friction[0], drawn).any():
        check_friction_counts(model, ids, drawn)
        return
    with pytest.raises(
        ConfigError, match="higher contact priority: name (sole|ground) instead|would not count against"
    ):
        check_friction_counts(model, ids, drawn)


def test_the_larger_friction_of_the_floor_is_named_with_what_to_write(kbot):
    """At the compile of the env, for a range that only reaches below it; what nothing is known of passes."""
    model = plain.edited(kbot.model, geom_priority=0)
    model.geom_friction[model.geom("floor").id, 0] = 1.0
    ctx = context(Scene(kbot.robot, model), simulation(kbot))
    with pytest.raises(ConfigError) as error:
        jax.eval_shape(lambda key: randomize.friction(ctx, key, geoms=FEET, range=(0.6, 1.4), operation="set"), KEYS[0])
    sole = next(name for i in range(model.ngeom) if "capsule" in (name := model.geom(i).name))
    assert str(error.value) == (
        f"range: a friction of 0.6 of {sole} would not count against floor, which has 1: of two geoms of the same"
        " contact priority, MuJoCo takes the larger friction; name floor in geoms, too, or give"
        f" {sole} a higher 'priority' in the MJCF"
    )
    randomize.friction(ctx, KEYS[0], geoms=FEET, range=(1.0, 1.4), operation="set")
    randomize.friction(ctx, KEYS[0], geoms=[FEET, "floor"], range=(0.1, 1.4))
    randomize.friction(ctx, KEYS[0], geoms=FEET, range=jnp.array([0.6, 1.4]))  # from a curriculum
    randomize.friction(context(kbot, simulation(kbot)), KEYS[0], geoms=FEET, range=(0.1, 0.2))


def test_gravity_is_tilted_and_of_another_strength(kbot):
    ctx = context(kbot, simulation(kbot), model_fields={"opt.gravity": [1.0, 2.0, 3.0]})
    drawn = draws(randomize.gravity, ctx, lambda w: w["opt.gravity"], range=(-0.5, 1.0))
    for axis, compiled in enumerate([0.0, 0.0, -9.81]):
        assert uniform(drawn[:, axis] - compiled, -0.5, 1.0)


def test_an_imu_is_mounted_askew(kbot, ctx):
    """Gravity as its accelerometer measures it at rest turns by the drawn angles, and comes from the moved place."""
    i = kbot.model.site(kbot.robot.imu_site).id
    position, quat = draws(
        randomize.imu_mount,
        ctx,
        lambda w: (w["site_pos"][i], w["site_quat"][i]),
        position_range=(-0.01, 0.02),
        tilt_range=(-0.1, 0.1),
    )
    for axis in range(3):
        assert uniform(position[:, axis] - np.float32(kbot.model.site_pos[i, axis]), -0.01, 0.02)
    mounted = Rotation.from_quat(kbot.model.site_quat[i], scalar_first=True)
    tilt = (mounted.inv() * Rotation.from_quat(quat.astype(float), scalar_first=True)).as_euler("xyz")
    for axis in range(3):
        assert uniform(tilt[:, axis], -0.1, 0.1)


def test_a_policy_sees_gravity_and_turning_as_the_imu_that_is_askew_does(kbot):
    """What C MuJoCo's gyro and the site of a model with that mount give, turned by the mount that is in the MJCF."""
    data = simulation(kbot, seed=1)
    drawn = randomize.imu_mount(context(kbot, data), KEYS[0], tilt_range=(0.1, 0.3), position_range=(-0.02, 0.02))
    mounted, model = context(kbot, data, model_fields=drawn), copy.copy(kbot.model)
    i = model.site(kbot.robot.imu_site).id
    model.site_quat[i], model.site_pos[i] = drawn["site_quat"][i], drawn["site_pos"][i]
    model.site_sameframe[i] = 0  # else MuJoCo takes the site to be where its body is
    other = mujoco.MjData(model)
    other.qpos[:], other.qvel[:] = data.qpos, data.qvel
    mujoco.mj_forward(model, other)
    mujoco.mj_forward(kbot.model, data)
    to_base = data.body("base").xmat.reshape(3, 3).T @ data.site_xmat[i].reshape(3, 3)  # as it should be mounted
    gyro = other.sensordata[model.sensor("imu_gyro").adr[0] :][:3]
    gravity = other.site_xmat[i].reshape(3, 3).T @ [0.0, 0.0, -1.0]
    for term, measured in ((observations.base_ang_vel, gyro), (observations.projected_gravity, gravity)):
        np.testing.assert_allclose(term(mounted), to_base @ measured, atol=1e-5)
        true = term(context(kbot, data))
        assert np.abs(term(mounted) - true).max() > 0.05
        np.testing.assert_array_equal(term(mounted, measured=False), true)


def test_an_imu_on_a_part_that_moves_against_the_base_measures_something_else(kbot):
    robot = dataclasses.replace(kbot.robot, base_body="KD_D_401R")
    scene = Scene(robot, kbot.model)
    ctx = context(scene, simulation(kbot), model_fields={"site_quat": kbot.model.site_quat})
    with pytest.raises(ConfigError, match="'imu_site' moves against its base.*'measured: false'"):
        quantities.seen_by_imu(ctx, jnp.ones(3))


MISTAKES = [
    (randomize.friction_loss, {"joints": ".*wheel"}, "no joint matches '.*wheel'"),
    (randomize.friction_loss, {"range": (0.5, 1.5)}, "dof_frictionloss of a joint is 0 in the model: to scale it"),
    (randomize.mass, {"bodies": "pole", "range": (-0.1, 1.0)}, "range: -0.1 would leave a body without mass"),
    (randomize.mass, {"bodies": "pole", "range": (-5, 1.0), "operation": "add"}, "would leave a body without mass"),
    (randomize.mass, {"bodies": "world", "range": (0.5, 1.0)}, "no body matches|'world' has no mass"),
    (randomize.imu_mount, {}, "no site matches 'imu'"),
]


@pytest.mark.parametrize(("function", "params", "message"), MISTAKES)
def test_what_would_do_nothing_or_break_is_refused(cartpole, function, params, message):
    params = {"range": (0.5, 1.5)} | params if function is randomize.friction_loss else params
    with pytest.raises(ConfigError, match=message):
        function(context(cartpole, simulation(cartpole)), KEYS[0], **params)


@pytest.mark.parametrize(
    ("function", "params", "field", "message"),
    [
        (randomize.friction, {"geoms": FEET}, "geom_friction", "the friction of a geom is 0"),
        (randomize.torque_limit, {"joints": KNEES}, "actuator_forcerange", "the torque limit of a joint is 0"),
    ],
)
def test_what_is_zero_has_no_scale(kbot, function, params, field, message):
    scene = Scene(kbot.robot, plain.edited(kbot.model, **{field: 0.0}))
    with pytest.raises(ConfigError, match=f"{message} in the model: to scale it does nothing"):
        function(context(scene, simulation(kbot)), KEYS[0], range=(0.5, 1.5), **params)


def test_an_actuator_of_effort_has_no_gains_to_scale():
    scene = build_scene(compose(["task=cartpole_balance"]).task)
    scene.set_control({"slider": "effort"})
    ctx = context(scene, simulation(scene))
    for which in ("kp", "kd"):
        with pytest.raises(ConfigError, match=f"the {which} of an actuator is 0 in the model: to scale it"):
            randomize.gains(ctx, KEYS[0], **{f"{which}_range": (0.5, 1.5)})
