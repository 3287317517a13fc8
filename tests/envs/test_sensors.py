"""Sensors of a task: contacts as C MuJoCo has them, their times, and MuJoCo's own sensors at a site."""

from types import SimpleNamespace

import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from support import plain
from support.envs import MDP, Player, kbot_task

from ksim.config.schema import SceneCfg, SimCfg
from ksim.envs import make_env
from ksim.envs.contacts import Contacts
from ksim.errors import ConfigError
from ksim.mdp import sensors

E, T = 4, 22
FEET = ".*FootBushing.*"
DT = 0.02

FEET_SENSOR = {"_target_": f"{MDP}.sensors.contact", "bodies": FEET, "against": "floor", "track_time": True}


def told(ctx):
    """All that a contact sensor tells, of two feet: (9 x 2)."""
    feet = ctx.contact("feet")
    values = (
        feet.found, feet.force, feet.peak_force, feet.contact_time, feet.air_time,
        feet.last_contact_time, feet.last_air_time, feet.first_contact, feet.first_air,
    )  # fmt: skip
    return jnp.concatenate([1.0 * v for v in values])


NAMES = "found force peak_force contact_time air_time last_contact_time last_air_time first_contact first_air".split()


def task(sensors, **managers):
    cfg = kbot_task(sim=SimCfg(timestep=0.005, iterations=50, ls_iterations=50), **managers)
    cfg.scene = SceneCfg(num_envs=E, robot="kbot", sensors=sensors)
    return cfg


@pytest.fixture(scope="module", params=["mujoco", "mjx"])
def play(request):
    """Robots that fall a few centimetres onto their feet and hop; some are put back after 0.3 s."""
    player = Player(
        task(
            {
                "feet": FEET_SENSOR,
                "gyro": {"_target_": f"{MDP}.sensors.at_site", "site": "imu_site", "type": "gyro"},
            },
            observations={
                "actor": {"terms": {"feet": {"_target_": told}}},
                "gyro": {
                    "terms": {
                        "own": {"_target_": f"{MDP}.observations.sensor", "name": "gyro"},
                        "mjcf": {"_target_": f"{MDP}.observations.sensor", "name": "imu_gyro"},
                    }
                },
            },
            events={"root": {"_target_": f"{MDP}.events.reset_root", "mode": "reset", "height_range": [-0.001, 0.06]}},
            terminations={"time_out": {"_target_": f"{MDP}.terminations.time_out"}},
            episode_length_s=0.3,
        ),
        request.param,
    )
    action = np.zeros((T, E, 20))
    action[5::6] = 2.0  # kick
    _, first = player.reset(E)
    return player, first, player.play(action)


def reading(obs):
    """By name, (E, 2)."""
    return dict(zip(NAMES, np.split(obs["actor"], len(NAMES), axis=1), strict=True))


def touching(model, data):
    """By foot: the normal forces of its contacts with the floor."""
    feet = {model.body(b).name: [] for b in range(model.nbody) if "FootBushing" in model.body(b).name}
    for c in range(data.ncon):
        geoms = data.contact[c].geom
        names = [model.geom(int(g)).name for g in geoms]
        if "floor" not in names or data.contact[c].efc_address < 0:
            continue
        force = np.zeros(6)
        mujoco.mj_contactForce(model, data, c, force)
        foot = model.body(int(model.geom_bodyid[geoms[1 - names.index("floor")]])).name
        feet[foot].append(force[0])
    return list(feet.values())


def test_contacts_are_those_of_mujoco(play):
    """In the last substep, and the largest over the substeps, of envs that go on."""
    player, _, steps = play
    model, home = player.env.scene.model, player.env.scene.home_joint_pos
    lower, upper = np.array([model.joint(name).range for name in player.env.scene.joint_names]).T
    seen = []
    for step in steps:
        got = reading(step.out.terminal_obs)
        for env in range(E):
            before = step.before.envs.physics
            data = plain.make(model, before.qpos[env], before.qvel[env], before.qacc_warmstart[env])
            data.ctrl = np.clip(home + np.float32(0.3) * step.action[env], lower, upper)
            peak = np.zeros(2)
            for _ in range(4):
                mujoco.mj_step(model, data)
                forces = touching(model, data)
                peak = np.maximum(peak, [max(f, default=0.0) for f in forces])
            np.testing.assert_allclose(got["force"][env], [sum(f) for f in forces], rtol=1e-2, atol=0.5)
            np.testing.assert_allclose(got["peak_force"][env], peak, rtol=1e-2, atol=0.5)
            assert got["found"][env].tolist() == [bool(f) for f in forces]
            seen.append(np.concatenate([got["found"][env], got["peak_force"][env] > got["force"][env] + 1]))
    assert {0.0, 1.0} == set(np.ravel(seen)) and np.any(np.array(seen)[:, 2:])


def test_times_count_from_change_to_change(play):
    """And start anew with an episode, without a first contact where it starts on the floor."""
    _, first, steps = play
    zero = {name: np.zeros((E, 2)) for name in NAMES}
    assert all(not reading(first)[name].any() for name in NAMES[3:])
    contact, air, last_contact, last_air = (np.zeros((E, 2)) for _ in range(4))
    landed = left = 0
    for step in steps:
        got = reading(step.out.terminal_obs)
        found = got["found"].astype(bool)
        lands, leaves = found & (air > 0), ~found & (contact > 0)
        last_air, last_contact = np.where(lands, air, last_air), np.where(leaves, contact, last_contact)
        contact, air = np.where(found, contact + 1, 0), np.where(found, 0, air + 1)
        expected = {
            "contact_time": DT * contact,
            "air_time": DT * air,
            "last_contact_time": DT * last_contact,
            "last_air_time": DT * last_air,
            "first_contact": lands,
            "first_air": leaves,
        }
        for name, value in expected.items():
            np.testing.assert_allclose(got[name], value, atol=1e-5, err_msg=name)
        landed, left = landed + lands.sum(), left + leaves.sum()
        done = step.out.done[:, None]
        contact, air, last_contact, last_air = (np.where(done, 0, x) for x in (contact, air, last_contact, last_air))
        fresh = reading(step.out.obs)
        assert all(np.array_equal(fresh[name][step.out.done], zero[name][step.out.done]) for name in NAMES[3:])
    assert landed > 3 and left > 3


def test_a_reset_envs_contacts_are_its_own(play):
    """Those of `mj_forward` on the fresh state alone."""
    player, _, steps = play
    model, home = player.env.scene.model, player.env.scene.home_joint_pos
    checked = 0
    for step in steps:
        got = reading(step.out.obs)
        for env in np.flatnonzero(step.out.done):
            physics = step.after.envs.physics
            data = plain.forward(model, plain.make(model, physics.qpos[env], physics.qvel[env]), home)
            forces = touching(model, data)
            np.testing.assert_allclose(got["force"][env], [sum(f) for f in forces], rtol=1e-2, atol=0.5)
            assert got["found"][env].tolist() == [bool(f) for f in forces]
            checked += 1
    assert checked >= E


def test_a_sensor_is_added_at_a_site(play):
    """The same as the robot's own gyro at that site."""
    _, first, steps = play
    for obs in (first, *(step.out.obs for step in steps)):
        assert np.array_equal(obs["gyro"][:, :3], obs["gyro"][:, 3:])


def test_an_illegal_contact_ends_the_episode():
    """Of feet, by a blow: where a foot is touched with more than 300 N in any substep."""
    ends = {"_target_": f"{MDP}.terminations.illegal_contact", "sensor": "feet", "force": 300.0}
    drop = {"_target_": f"{MDP}.events.reset_root", "mode": "reset", "height_range": [0.0, 0.1]}
    player = Player(
        task(
            {"feet": {"_target_": f"{MDP}.sensors.contact", "geoms": ".*collision_capsule.*"}},
            terminations={"hit": ends},
            rewards={"peak": {"_target_": lambda ctx: ctx.contact("feet").peak_force.max(), "weight": 1.0}},
            events={"drop": drop},
            scale_rewards_by_dt=False,
        )
    )
    hits = 0
    for step in player.play(np.zeros((10, E, 20))):
        assert np.array_equal(step.out.terminated, step.out.reward > 300)
        hits += step.out.terminated.sum()
    assert 0 < hits < 10 * E


def test_each_contact_of_a_geom_counts_where_its_sensor_looks():
    """A box on its four corners, and a ball that lies on the floor and leans on a wall; against what MuJoCo has."""
    spec = mujoco.MjSpec()
    geom = mujoco.mjtGeom
    spec.worldbody.add_geom(name="floor", type=geom.mjGEOM_PLANE, size=[0, 0, 1])
    spec.worldbody.add_geom(name="wall", type=geom.mjGEOM_BOX, pos=[2.999, 0, 0], size=[1, 1, 1])
    bodies = {"box": (geom.mjGEOM_BOX, 0.0, [0.1, 0.2, 0.3]), "ball": (geom.mjGEOM_SPHERE, 1.7, [0.3, 0, 0])}
    for name, (kind, x, size) in bodies.items():
        body = spec.worldbody.add_body(name=name, pos=[x, 0, 0.299])
        body.add_freejoint()
        body.add_geom(name=name, type=kind, size=size)
    pairs = [("box", "floor"), ("ball", "floor"), ("ball", "wall"), ("ball", None)]
    robot = SimpleNamespace(spec=spec, parts={})
    watched = [sensors.contact(robot, f"s{i}", geoms=own, against=other) for i, (own, other) in enumerate(pairs)]
    model = spec.compile()
    data = plain.forward(model, mujoco.MjData(model), [])

    def place(name):
        sensor = model.sensor(name)
        return slice(int(sensor.adr[0]), int(sensor.adr[0] + sensor.dim[0]))

    fields = {"sensordata": jnp.asarray(data.sensordata)}
    forces = {}
    for c in range(data.ncon):
        force = np.zeros(6)
        mujoco.mj_contactForce(model, data, c, force)
        forces.setdefault(frozenset(model.geom(int(g)).name for g in data.contact[c].geom), []).append(force[0])
    on_floor, on_wall = forces[frozenset(["ball", "floor"])], forces[frozenset(["ball", "wall"])]
    corners = forces[frozenset(["box", "floor"])]
    assert len(corners) == 4 and min(corners) > 1 and min(on_floor + on_wall) > 1
    expected = [sum(corners), sum(on_floor), sum(on_wall), sum(on_floor + on_wall)]
    found = [Contacts(sensor, place, fields.__getitem__, None, 0.02).force[0] for sensor in watched]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


MISTAKES = [
    (
        {"bodies": "foot"},
        r"sensors\.c: no body matches 'foot'; parts with bodies: base, trunk, feet; .*torso",
    ),
    ({"geoms": "(x"}, r"task\.scene\.sensors\.c: geom pattern '\(x' is not a regular expression"),
    ({}, r"task\.scene\.sensors\.c: give either 'bodies' or 'geoms'"),
    ({"bodies": FEET, "against": "flor"}, r"task\.scene\.sensors\.c: against: there is no geom 'flor'"),
]


@pytest.mark.parametrize(("params", "message"), MISTAKES)
def test_mistakes_name_the_sensor(params, message):
    with pytest.raises(ConfigError, match=message):
        make_env(task({"c": {"_target_": f"{MDP}.sensors.contact", **params}}), "mujoco")


def test_an_unknown_contact_sensor_is_named():
    ends = {"_target_": f"{MDP}.terminations.illegal_contact", "sensor": "feets"}
    with pytest.raises(ConfigError, match=r"task\.terminations\.e: there is no contact sensor 'feets' .*mean 'feet'"):
        make_env(task({"feet": FEET_SENSOR}, terminations={"e": ends}), "mujoco")


def test_a_site_and_a_name_must_be_right():
    at_site = {"_target_": f"{MDP}.sensors.at_site", "type": "gyro"}
    with pytest.raises(ConfigError, match=r"task\.scene\.sensors\.g: no site matches 'imu_sit' .*mean 'imu_site'"):
        make_env(task({"g": at_site | {"site": "imu_sit"}}), "mujoco")
    with pytest.raises(ConfigError, match=r"sensors\.g: site: must name one site, not left_foot, right_foot"):
        make_env(task({"g": at_site | {"site": "feet"}}), "mujoco")
    with pytest.raises(ConfigError, match=r"task\.scene\.sensors\.imu_gyro: the robot's MJCF has a sensor 'imu_gyro'"):
        make_env(task({"imu_gyro": at_site | {"site": "imu_site"}}), "mujoco")
