"""Pictures on request from one child process."""

import gc
import os
import signal

import numpy as np
import pytest

from ksim.envs.markers import Ghost, Sphere
from ksim.errors import ConfigError
from ksim.viz.backend import RenderError
from ksim.viz.live import LiveRenderer
from ksim.viz.render import Camera, render_frames

FRONT = Camera(lookat=(0.0, 0.0, 1.0), distance=4.0, azimuth=90.0, elevation=0.0, width=160, height=120)


def at(ball, x: float) -> np.ndarray:
    qpos = ball.qpos0.copy()
    qpos[0] = x
    return qpos


@pytest.fixture
def live(renderer, ball):
    live = LiveRenderer(ball, FRONT)
    yield live
    live.close()


def share_that_differs(a, b) -> float:
    """Share of the pixels; a software renderer is not exact to the bit."""
    return float((a != b).any(axis=-1).mean())


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_each_picture_is_that_of_its_state_and_its_markers(live, ball):
    marker = Sphere((0.9, 0.0, 1.5), radius=0.1, rgba=(0, 1, 0, 1))
    states = [at(ball, -0.5), at(ball, 0.5), at(ball, 0.5)]
    markers_T = [[], [marker], []]
    alone = render_frames(ball, np.array(states), camera=FRONT, markers_T=markers_T)
    for qpos, markers, expected in zip(states, markers_T, alone, strict=True):
        assert share_that_differs(live.draw(qpos, markers), expected) < 0.001
    assert share_that_differs(alone[1], alone[2]) > 0.002 and share_that_differs(alone[0], alone[2]) > 0.002


def test_one_process_draws_them_all_and_ends_with_the_renderer(live, ball):
    live.draw(at(ball, 0.0))
    process = live._process
    live.draw(at(ball, 0.1))
    assert live._process is process and is_running(process.pid)
    live.close()
    live.close()
    assert not is_running(process.pid)
    live.draw(at(ball, 0.1))  # and starts again
    process = live._process
    live._finalizer()  # what happens when nobody holds the renderer any more
    gc.collect()
    assert not is_running(process.pid)


def test_a_process_that_dies_is_told_and_replaced(live, ball):
    live.draw(at(ball, 0.0))
    os.kill(live._process.pid, signal.SIGKILL)
    live._process.wait()
    with pytest.raises(RenderError, match="Rendering failed"):
        live.draw(at(ball, 0.0))
    assert live.draw(at(ball, 0.0)).shape == (120, 160, 3)


def test_a_ghost_is_seen_through_and_leaves_the_floor_alone(live, ball):
    behind, before = at(ball, 0.0), at(ball, 0.0)
    before[1] = -1.0  # nearer to the camera, so it covers the ball
    plain = live.draw(behind).astype(int)
    thin = live.draw(behind, [Ghost(before, rgba=(0.0, 1.0, 0.0, 0.5))]).astype(int)
    opaque = live.draw(behind, [Ghost(before, rgba=(0.0, 1.0, 0.0, 1.0))]).astype(int)
    (red, _, _), (mixed_red, mixed_green, _), (no_red, green, _) = (x[60, 80] for x in (plain, thin, opaque))
    assert red > 100 and green > 100 and no_red < 10
    assert 30 < mixed_red < red and 30 < mixed_green < green
    changed = np.abs(plain - opaque).max(axis=-1) > 8
    assert 300 < changed.sum() < 1500  # a ball of 13 pixels' radius, and nothing else
    assert share_that_differs(live.draw(behind), plain) < 0.001  # gone with its frame


def test_mistakes(ball):
    with pytest.raises(ConfigError, match="no body 'bal'"):
        LiveRenderer(ball, Camera(track="bal"))
    live = LiveRenderer(ball, FRONT)
    with pytest.raises(ValueError, match="qpos must have shape"):
        live.draw(np.zeros(3))
    with pytest.raises(ValueError, match="a ghost's qpos must have shape"):
        live.draw(ball.qpos0, [Ghost(np.zeros(3))])
    with pytest.raises(RenderError, match="not finite"):
        live.draw(ball.qpos0 * np.nan)
