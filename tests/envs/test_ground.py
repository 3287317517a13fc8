"""Uneven ground against MuJoCo's own rays, and the kinds of it against what they promise."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from support import plain
from support.envs import Player, kbot_task
from support.terms import context

from ksim.config.compose import compose
from ksim.config.schema import ManagerBasedRlEnvCfg, PatchesCfg, SceneCfg
from ksim.envs.ground import Patch
from ksim.envs.scene import build_scene
from ksim.errors import ConfigError
from ksim.mdp import events, observations, terminations, terrains

KINDS = {name: {"_target_": f"ksim.mdp.terrains.{name}"} for name in ("rough", "slope", "stairs", "stepping_stones")}
PIT = {"_target_": "ksim.mdp.terrains.slope", "up": False, "degrees": [10.0, 10.0]}


def make(kinds=None, robot="kbot", **patches):
    cfg = PatchesCfg(kinds=kinds or KINDS | {"pit": PIT}, **({"levels": 3, "size": 4.0, "border": 1.0} | patches))
    return build_scene(
        ManagerBasedRlEnvCfg(decimation=1, scene=SceneCfg(num_envs=1, robot=robot, terrain="patches", patches=cfg))
    )


@pytest.fixture(scope="module")
def scene():
    return make()


def ray_height(scene, data, x, y):
    """Height of the floor, asked of MuJoCo: a ray from 10 m down."""
    distance = mujoco.mj_rayHfield(scene.model, data, scene.model.geom("floor").id, [x, y, 10.0], [0, 0, -1.0], None)
    return 10.0 - distance


def at_home(scene, pos=(0.0, 0.0, 0.0), yaw=0.0):
    qpos = scene.home_qpos.copy()
    qpos[:3] += pos
    qpos[3:7] = [np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]
    data = plain.make(scene.model, qpos)
    mujoco.mj_forward(scene.model, data)
    return data


def test_heights_are_those_that_mujoco_collides_with(scene):
    data = at_home(scene)
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.99, 0.99, (400, 2)) * scene.ground.half_size
    expected = [ray_height(scene, data, x, y) for x, y in points]
    assert np.ptp(expected) > 0.5  # hills and trenches
    error = np.abs(np.asarray(scene.ground.height(jnp.asarray(points))) - expected)
    assert error.max() < 2e-3 and np.median(error) < 1e-6  # float32, on risers of half a metre


def test_beyond_the_edge_the_edge_goes_on(scene):
    x, y = scene.ground.half_size
    outside, edge = jnp.array([[x + 5, 0.3], [0.1, -y - 1]]), jnp.array([[x, 0.3], [0.1, -y]])
    np.testing.assert_allclose(scene.ground.height(outside), scene.ground.height(edge), atol=1e-6)


def test_starts_are_where_a_robot_stands_on_top_of_the_ground(scene):
    """In the home pose at each start the robot touches nothing from below, and falls no more than the roughness."""
    assert scene.ground.starts.shape == (3, 5, 3)
    for start in scene.ground.starts.reshape(-1, 3):
        data = at_home(scene, start)
        deepest = min((c.dist for c in data.contact[: data.ncon]), default=0.0)
        assert deepest > -0.003
        assert abs(start[2] - ray_height(scene, data, *start[:2])) < 0.05


def test_starts_are_above_what_is_not_level():
    scene = make({"hillside": {"_target_": lambda patch: 0.3 * patch.x}}, levels=1)
    data = at_home(scene, scene.ground.starts[0, 0])
    assert min((c.dist for c in data.contact[: data.ncon]), default=0.0) > -0.003


def test_every_patch_is_drawn_for_itself():
    """Levels of one kind are not one pattern that is scaled, nor are its columns one pattern."""
    ground = make({"rough": KINDS["rough"] | {"columns": 2}}, levels=2).ground
    around = np.random.default_rng(0).uniform(-1.9, 1.9, (400, 2))
    heights = [ground.height(jnp.asarray(start[:2] + around)) for start in ground.starts.reshape(-1, 3)]
    alike = np.corrcoef(np.asarray(heights)) - np.eye(4)
    assert np.abs(alike).max() < 0.3


def patch(difficulty=1.0, size=6.0, spacing=0.05, start_radius=0.5):
    along = np.linspace(-0.5 * size, 0.5 * size, round(size / spacing) + 1)
    x, y = np.meshgrid(along, along)
    return Patch(x, y, spacing, size, difficulty, start_radius, np.random.default_rng(0))


@pytest.mark.parametrize(("difficulty", "degrees"), [(0.0, 3.0), (0.5, 9.0), (1.0, 15.0)])
def test_a_slope_is_as_steep_as_it_says(difficulty, degrees):
    p = patch(difficulty)
    heights = terrains.slope(p, degrees=(3.0, 15.0))
    row = heights[len(heights) // 2]  # through the middle, along x
    steep = np.degrees(np.arctan(np.abs(np.diff(row)) / p.spacing))
    assert steep[:40] == pytest.approx(np.full(40, degrees)) and row[0] == 0 and row.argmax() in range(50, 71)
    np.testing.assert_array_equal(terrains.slope(p, degrees=(3.0, 15.0), up=False), -heights)
    assert np.ptp(row[np.abs(p.x[0]) < 0.45]) == 0  # level where robots start


def test_stairs_rise_step_by_step():
    p = patch()
    row = terrains.stairs(p, rise=(0.02, 0.12), tread=0.3)[60]
    rises = np.diff(row[:61])
    assert set(np.round(rises, 9)) == {0.0, 0.12}
    assert np.diff(np.flatnonzero(rises)) * p.spacing == pytest.approx(0.3)
    assert row[0] == 0 and row.max() == pytest.approx(0.12 * 8)  # 2.5 m of steps of 0.3 m


def test_rough_ground_keeps_its_heights_and_its_start():
    p = patch()
    heights = terrains.rough(p, height=(0.01, 0.04))
    assert np.abs(heights).max() <= 0.04 and heights.std() > 0.01
    assert np.abs(terrains.rough(patch(0.0), height=(0.01, 0.04))).max() <= 0.01
    assert np.all(heights[p.distance <= 0.5] == 0)


def test_stones_are_as_far_apart_as_they_say():
    p = patch()
    row = terrains.stepping_stones(p, gap=(0.05, 0.25), stone=0.4, depth=0.5)[60]
    edges = np.flatnonzero(np.diff(row) != 0) * p.spacing
    assert set(np.unique(row)) == {-0.5, 0.0}
    assert np.diff(edges)[2:6] == pytest.approx([0.25, 0.4, 0.25, 0.4], abs=0.5 * p.spacing)


def test_boxes_are_blocks():
    heights = terrains.boxes(patch(), height=(0.02, 0.1), side=0.5)
    assert np.abs(heights).max() <= 0.1 and len(np.unique(heights)) > 50
    assert np.mean(np.diff(heights, axis=1) != 0) < 0.15  # flat but for one node in ten


def test_one_seed_makes_one_ground():
    first, again, other = (make(seed=seed).ground.heights for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_lengths_are_above_the_ground(scene):
    start = scene.ground.starts[2, 1]  # the top of the steepest slope
    assert start[2] > 0.3
    ctx = context(scene, at_home(scene, start + [0, 0, 0.02]))
    assert float(observations.base_height(ctx)[0]) == pytest.approx(scene.home_height + 0.02, abs=1e-5)
    assert not bool(terminations.low_height(ctx, limit=0.9 * scene.home_height))
    assert bool(terminations.low_height(ctx, limit=1.1 * scene.home_height))
    x, _ = scene.ground.half_size
    inside, outside = (context(scene, at_home(scene, (x - d, 0.0, 0.0))) for d in (0.6, 0.4))
    assert not bool(terminations.off_ground(inside)) and bool(terminations.off_ground(outside))


def test_a_scan_sees_the_ground_ahead(scene):
    start, yaw = scene.ground.starts[1, 2], 0.7  # stairs
    data = at_home(scene, start + [0.3, -0.2, 0.05], yaw)
    found = observations.ground_scan(context(scene, data), forward=(-0.2, 0.6), width=0.4, spacing=0.2, limit=None)
    expected = []
    for ahead in (-0.2, 0.0, 0.2, 0.4, 0.6):
        for left in (-0.2, 0.0, 0.2):
            x = data.qpos[0] + ahead * np.cos(yaw) - left * np.sin(yaw)
            y = data.qpos[1] + ahead * np.sin(yaw) + left * np.cos(yaw)
            expected.append(ray_height(scene, data, x, y) - (data.qpos[2] - scene.home_height))
    assert np.ptp(expected) > 0.05
    np.testing.assert_allclose(found, expected, atol=1e-4)
    cut = observations.ground_scan(context(scene, data), limit=0.03)
    assert float(jnp.abs(cut).max()) == pytest.approx(0.03)


def test_a_scan_mirrors_left_to_right(scene):
    """A robot that faces along x on one side of a slope's ridge line sees the image of what it sees on the other."""
    start = scene.ground.starts[2, 1]
    left, right = (
        observations.ground_scan(context(scene, at_home(scene, start + [0.4, y, 0.0], yaw)))
        for y, yaw in ((0.7, 0.3), (-0.7, -0.3))
    )
    permutation = observations.ground_scan.traits.mirrors_as(
        scene, forward=(-0.4, 0.8), width=0.8, spacing=0.2, limit=0.5
    )
    assert float(jnp.abs(left - right).max()) > 0.02
    np.testing.assert_allclose(permutation(left), right, atol=2e-3)


def test_episodes_start_on_patches_of_the_levels_that_are_asked_for(scene):
    ctx = context(scene, at_home(scene))
    draw = jax.vmap(
        lambda key, hardest: events.start_on_patch(ctx, key, hardest=hardest, spread=0.1)["qpos"], (0, None)
    )
    keys = jax.random.split(jax.random.key(0), 600)
    for hardest, levels in ((0.0, {0}), (0.5, {0, 1}), (1.0, {0, 1, 2})):
        place = np.asarray(draw(keys, hardest))[:, :3] - scene.home_qpos[:3]
        distance = np.abs(place[:, None, None] - scene.ground.starts).max(axis=-1)
        level, column = np.unravel_index(distance.reshape(len(keys), -1).argmin(axis=1), scene.ground.starts.shape[:2])
        assert distance.min(axis=(1, 2)).max() <= 0.1 + 1e-5
        assert set(level) == levels and set(column) == set(range(5))
        counts = np.bincount(level * 5 + column, minlength=15)[: 5 * len(levels)]
        assert counts.min() > 0.5 * len(keys) / len(counts)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"terrain": "patches"}, r"^task\.scene\.patches\.kinds: is empty"),
        ({"patches": PatchesCfg(kinds=KINDS)}, r"^task\.scene\.patches: means nothing with task\.scene\.terrain=plane"),
        (
            {"terrain": "patches", "patches": PatchesCfg(kinds=KINDS, spacing=0.001)},
            r"^task\.scene\.patches\.spacing: 0\.001 m makes .* at most 4,000,000",
        ),
        (
            {"terrain": "patches", "patches": PatchesCfg(kinds={"a": {"_target_": "ksim.mdp.terrains.slop"}})},
            r"^task\.scene\.patches\.kinds\.a: .*did you mean 'slope'",
        ),
        (
            {
                "terrain": "patches",
                "patches": PatchesCfg(kinds={"a": {"_target_": "ksim.mdp.terrains.rough", "grain": 0.01}}),
            },
            r"^task\.scene\.patches\.kinds\.a: grain = 0\.01 is finer",
        ),
    ],
)
def test_mistakes_name_their_path(changes, says):
    with pytest.raises(ConfigError, match=says):
        build_scene(ManagerBasedRlEnvCfg(decimation=1, scene=SceneCfg(num_envs=1, robot="kbot", **changes)))


def test_terms_of_patches_need_patches(kbot_flat):
    ctx = context(kbot_flat, at_home(kbot_flat))
    with pytest.raises(ConfigError, match="terrain=patches"):
        events.start_on_patch(ctx, jax.random.key(0))
    with pytest.raises(ConfigError, match="terrain=patches"):
        terminations.off_ground(ctx)


@pytest.fixture(scope="module")
def kbot_flat():
    return build_scene(kbot_task())


def test_robots_stand_on_slopes_in_an_env():
    """Every env starts on a patch of its own, its feet find the ground, and what it sees of its height says so."""
    cfg = kbot_task(
        events={
            "start": {"_target_": "ksim.mdp.events.start_on_patch", "mode": "reset"},
        },
        metrics={},
    )
    cfg.scene.terrain = "patches"
    cfg.scene.patches = PatchesCfg(kinds={"hill": PIT | {"up": True}}, levels=4, size=4.0, border=1.0)
    cfg.observations["actor"] = {"terms": {"height": {"_target_": "ksim.mdp.observations.base_height"}}}
    player = Player(cfg)
    steps = player.play(np.zeros((10, 16, player.env.action_size)))
    qpos = steps[-1].after.envs.physics.qpos
    assert len(np.unique(np.round(qpos[:, 0]))) == 4  # levels
    assert qpos[:, 2].min() > 0.8 and qpos[:, 2].max() < 1.6
    home = player.env.scene.home_height
    np.testing.assert_allclose(steps[-1].out.obs["actor"][:, 0], home, atol=0.03)


def test_kbot_walks_over_rough_ground_as_over_flat(composed_rough):
    """The same terms and algorithm, with the ground and what it needs added."""
    flat, rough = composed_rough
    assert rough.algo == flat.algo and rough.task.scene.terrain == "patches"
    for group in ("rewards", "commands", "actions", "metrics"):
        assert getattr(rough.task, group) == getattr(flat.task, group)
    added = {
        group: getattr(rough.task, group).keys() - getattr(flat.task, group).keys()
        for group in ("events", "terminations")
    }
    assert added == {"events": {"start"}, "terminations": {"off_ground"}}
    assert rough.task.observations["actor"] == flat.task.observations["actor"]


@pytest.fixture(scope="module")
def composed_rough():
    return tuple(compose([f"task={task}"]) for task in ("kbot_walking", "kbot_walking_rough"))
