"""Signed permutations, and which values of a robot mirror into each other."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
from support.terms import context, simulation

from ksim.envs import mirror
from ksim.mdp import observations
from ksim.robots.robot import Mirror


def test_vectors(kbot):
    """Through the x-z plane: of a velocity the y part turns over, of an angular velocity the others."""
    v = jnp.array([1.0, 2.0, 3.0])
    assert mirror.of_vector("polar", 3)(v).tolist() == [1, -2, 3]
    assert mirror.of_vector("axial", 3)(v).tolist() == [-1, 2, -3]
    assert mirror.of_vector("even", 3)(v).tolist() == [1, 2, 3]
    # A cross product of two polar vectors is axial.
    a, b = jnp.array([0.3, -0.2, 1.0]), jnp.array([1.0, 0.7, -0.4])
    polar, axial = mirror.of_vector("polar", 3), mirror.of_vector("axial", 3)
    np.testing.assert_allclose(jnp.cross(polar(a), polar(b)), axial(jnp.cross(a, b)), rtol=1e-6)


def test_joints_swap_sides(kbot):
    """All joints, or any set that holds both sides, in any order; a set with one side has no symmetry."""
    names = np.array(kbot.joint_names)
    for joints in (np.arange(20), np.array([9, 3, 4, 8])):  # the second: ankles and knees
        permutation = mirror.of_joints(kbot, joints)
        partner = [n.replace("left", "RIGHT").replace("right", "left").replace("RIGHT", "right") for n in names[joints]]
        assert names[joints][permutation.index].tolist() == partner
        x = jnp.arange(1.0, len(joints) + 1)
        np.testing.assert_array_equal(permutation(permutation(x)), x)
    assert mirror.of_joints(kbot, np.array([3, 4])) is None


def test_each_joint_has_its_own_sign():
    """All of K-Bot's are -1: of a robot with both, any of its joints in any order."""
    signs = Mirror(joint_index_u=np.array([1, 0, 2, 4, 3]), joint_sign_u=np.array([1.0, 1.0, -1.0, -1.0, -1.0]))
    permutation = mirror.of_joints(SimpleNamespace(robot=SimpleNamespace(mirror=signs)), np.array([2, 4, 1, 0, 3]))
    assert permutation(np.array([1.0, 2.0, 3.0, 4.0, 5.0])).tolist() == [-1.0, -5.0, 4.0, 3.0, -2.0]


def test_a_robot_whose_mirror_map_leaves_joints_out(cartpole):
    """The cart-pole's map names the slider alone: the hinge has no mirror image."""
    assert mirror.of_joints(cartpole, np.array([0])) is not None
    assert mirror.of_joints(cartpole, np.array([0, 1])) is None


def test_bodies_and_contacts_swap_sides(kbot_feet):
    """By where they are, whatever their names: K-Bot's two forearms are called PRT0001 and PRT0001_2."""
    names = [kbot_feet.model.body(i).name for i in range(kbot_feet.model.nbody)]
    bodies = ["base", "PRT0001", "torso", "PRT0001_2", "KD_D_401R", "KD_D_401L_L_Shin_Drive"]
    permutation = mirror.of_bodies(kbot_feet, np.array([names.index(name) for name in bodies]))
    assert permutation.index.tolist() == [0, 3, 2, 1, 5, 4] and permutation.sign.tolist() == [1] * 6
    assert mirror.of_bodies(kbot_feet, np.array([names.index("base"), names.index("PRT0001")])) is None
    feet = mirror.of_contacts(kbot_feet, "feet")
    assert feet.index.tolist() == [1, 0] and feet.sign.tolist() == [1, 1]


def test_the_clock_of_the_image_is_half_a_period_on(kbot):
    data = simulation(kbot)
    now, later = (
        observations.phase(context(kbot, data, episode_step=step), period_s=0.8) for step in (7, 27)
    )  # of 0.02 s
    np.testing.assert_allclose(mirror.of_vector("phase", 2)(now), later, atol=1e-5)


def test_concatenation(kbot):
    parts = [mirror.of_vector("polar", 3), mirror.of_joints(kbot, np.array([3, 8])), mirror.of_vector("even", 1)]
    x = jnp.arange(1.0, 7.0)
    expected = jnp.concatenate([parts[0](x[:3]), parts[1](x[3:5]), parts[2](x[5:])])
    np.testing.assert_array_equal(mirror.concatenated(parts)(x), expected)
    batch = jnp.stack([x, 2 * x])
    np.testing.assert_array_equal(mirror.concatenated(parts)(batch)[1], 2 * expected)


def test_maps_are_the_same_by_what_they_do():
    one, same = (
        mirror.SignedPermutation(np.array([1, 0]), np.array([1.0, -1.0], dtype)) for dtype in (np.float32, float)
    )
    assert one == same and hash(one) == hash(same)
    assert one != mirror.SignedPermutation(np.array([1, 0]), np.array([1.0, 1.0]))
    assert one != mirror.SignedPermutation(np.array([0, 1]), np.array([1.0, -1.0]))
