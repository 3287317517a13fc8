"""Parts of the page that need neither a browser nor a simulation."""

from types import SimpleNamespace

import mujoco
import numpy as np
import pytest
from support.envs import MDP

from ksim.envs.settings import CommandSettings
from ksim.envs.terms import resolve
from ksim.errors import ConfigError
from ksim.viz.viewer.web.asked import Asked
from ksim.viz.viewer.web.commands import command_ranges
from ksim.viz.viewer.web.contacts import contact_forces
from ksim.viz.viewer.web.plots import thinned
from ksim.viz.viewer.web.policies import PolicyPicker
from ksim.viz.viewer.web.scene import _pieces, _turned_to

BOX_ON_A_FLOOR = """
<mujoco>
  <worldbody>
    {first}
    <body pos="0 0 .1"><freejoint/><geom type="box" size=".1 .1 .1" mass="3"/></body>
    {last}
  </worldbody>
</mujoco>
"""
FLOOR = '<geom type="plane" size="1 1 .1"/>'
SLAB = '<geom type="box" size="1 1 .1" pos="0 0 -.1"/>'


@pytest.mark.parametrize("ground", [{"first": FLOOR, "last": ""}, {"first": "", "last": SLAB}])
def test_the_arrows_under_a_box_at_rest_point_up_and_carry_its_weight(ground):
    """Whichever of the two geoms is the contact's first."""
    model = mujoco.MjModel.from_xml_string(BOX_ON_A_FLOOR.format(**ground))
    data = mujoco.MjData(model)
    mujoco.mj_step(model, data, 1000)
    arrows = list(contact_forces(model, data))
    assert len(arrows) == 4
    along = sum(np.asarray(arrow.end) - arrow.start for arrow in arrows)
    np.testing.assert_allclose(along, [0.0, 0.0, 0.6], atol=1e-3)  # 0.6 m is the weight of the model


def test_thinned_curves_keep_their_extremes_and_their_order():
    rng = np.random.default_rng(0)
    time_T = np.cumsum(rng.uniform(0.01, 0.03, 4999))
    noise_T, spike_T = rng.normal(size=4999), np.zeros(4999)
    spike_T[3210] = 1.0
    time_P, noise_P, spike_P = thinned(time_T, [noise_T, spike_T], points=400)
    assert len(time_P) == len(noise_P) == len(spike_P) <= 400
    assert (np.diff(time_P) > 0).all() and time_P[-1] == time_T[-1]
    assert noise_P.max() == noise_T.max() and noise_P.min() == noise_T.min()
    assert spike_P.sum() == 1.0
    assert time_P[spike_P.argmax()] == pytest.approx(time_T[3210], abs=0.8)


def test_short_curves_stay_as_they_are():
    x = np.arange(5.0)
    assert all(np.array_equal(x, thinned_x) for thinned_x in thinned(x, [x, x]))


def term_of(**term):
    return resolve("task.commands", {"goal": {"resampling_time_range_s": [3.0, 8.0], **term}}, CommandSettings)["goal"]


def test_sliders_have_the_ranges_of_the_commands():
    velocity = {"_target_": f"{MDP}.commands.uniform_velocity", "x_range": [-0.5, 1.0], "y_range": [-0.3, 0.3]}
    velocity |= {"yaw_rate_range": [-1.0, 1.0]}
    assert command_ranges(term_of(**velocity), 3) == [("x", -0.5, 1.0), ("y", -0.3, 0.3), ("yaw_rate", -1.0, 1.0)]
    uniform = {"_target_": f"{MDP}.commands.uniform", "low": [0.0, -2.0], "high": [1.0, 2.0]}
    assert command_ranges(term_of(**uniform), 2) == [("0", 0.0, 1.0), ("1", -2.0, 2.0)]


def test_a_command_of_one_value_has_no_slider():
    uniform = {"_target_": f"{MDP}.commands.uniform", "low": [0.0, 1.0], "high": [1.0, 1.0]}
    assert command_ranges(term_of(**uniform), 2) == []


@pytest.mark.parametrize("direction", [[0, 0, 1], [0, 0, -1], [1, 0, 0], [0.6, 0, -0.8], [-0.36, 0.48, 0.8]])
def test_arrows_point_where_they_should(direction):
    turned = np.empty(3)
    mujoco.mju_rotVecQuat(turned, np.array([0.0, 0.0, 1.0]), _turned_to(np.array(direction, float)))
    np.testing.assert_allclose(turned, direction, atol=1e-6)


def test_an_arrow_ends_at_its_tip():
    start, end = np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.5, 3.0])
    (_, shaft_at, _, shaft), (_, head_at, wxyz, head) = _pieces(0, start, end, 0.02)
    tip = np.empty(3)
    mujoco.mju_rotVecQuat(tip, np.array([0.0, 0.0, head[2]]), wxyz)
    np.testing.assert_allclose(head_at + tip, end, atol=1e-9)
    np.testing.assert_allclose(shaft_at, start)
    assert shaft[2] + head[2] == pytest.approx(0.5) and head[0] > shaft[0] == 0.02


def test_what_is_asked_for_is_done_in_order_and_what_fails_is_told():
    asked, done, said = Asked(), [], []

    def fail():
        raise ConfigError("no such keyframe")

    for action in (lambda: done.append(1), fail, lambda: done.append(2)):
        asked.put(action)
    assert asked.do(said.append)
    assert done == [1, 2] and said == ["no such keyframe"]
    assert not asked.do(said.append)


def test_a_ghost_that_cannot_go_on_ends_and_is_told():
    steps = []
    simulation = SimpleNamespace(
        pose=SimpleNamespace(pull=np.zeros((1, 2, 6))), selected=0, time_s=1.0, env=SimpleNamespace(step_dt=0.02)
    )
    rival = SimpleNamespace(time_s=0.0, error="a term: it", apply=lambda pull: None, step=lambda: steps.append(1))
    picker = PolicyPicker.__new__(PolicyPicker)
    picker._simulation, picker._rival = simulation, rival
    picker.follow()
    picker.follow()
    assert len(steps) == 1 and picker.ghost() == []
    assert simulation.message == "the other checkpoint has stopped: a term: it"
