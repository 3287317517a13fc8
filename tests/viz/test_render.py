"""Real pictures of a tiny model, drawn headless."""

import logging

import imageio.v2 as imageio
import mujoco
import numpy as np
import pytest
from scipy import ndimage

from ksim.envs.markers import Arrow, Capsule, Frame, Sphere
from ksim.errors import ConfigError
from ksim.viz import backend, render
from ksim.viz.backend import RenderError, forget_backends
from ksim.viz.camera import Camera
from ksim.viz.markers import DebugVisualizer, pack
from ksim.viz.render import render_frames, render_video, try_render_video

# Looks along +y: +x is right and +z is up in the picture.
FRONT = Camera(lookat=(0.0, 0.0, 1.0), distance=4.0, azimuth=90.0, elevation=0.0, width=160, height=120)


def positions(model: mujoco.MjModel, x_T=(0.0,), z_T=(1.0,)) -> np.ndarray:
    x_T, z_T = np.broadcast_arrays(x_T, z_T)
    qpos_Tq = np.tile(model.qpos0, (len(x_T), 1))
    qpos_Tq[:, 0], qpos_Tq[:, 2] = x_T, z_T
    return qpos_Tq


def center(image: np.ndarray, channel: int = 0) -> tuple[float, float]:
    """Returns the mean column and row of the pixels in which `channel` clearly wins."""
    others = np.delete(image.astype(int), channel, axis=-1).max(axis=-1)
    rows, columns = np.nonzero(image[..., channel].astype(int) > others + 60)
    assert len(rows), "nothing of this colour in the picture"
    return float(columns.mean()), float(rows.mean())


def red_pixels(image: np.ndarray, channel: int = 0) -> int:
    others = np.delete(image.astype(int), channel, axis=-1).max(axis=-1)
    return int((image[..., channel].astype(int) > others + 60).sum())


def test_frames_have_the_size_and_the_ball_moves_as_it_should(renderer, ball):
    frames = render_frames(ball, positions(ball, x_T=[-0.5, 0.5, 0.0], z_T=[1.0, 1.0, 1.5]), camera=FRONT)
    assert frames.shape == (3, 120, 160, 3)
    assert frames.dtype == np.uint8
    (left, middle), (right, same), (between, above) = (center(frame) for frame in frames)
    assert left < 79.5 < right and left + right == pytest.approx(159, abs=2)
    assert between == pytest.approx(79.5, abs=1)
    assert middle == pytest.approx(same, abs=1) and above < middle - 10


def test_video_plays_in_real_time_with_skipped_frames(renderer, ball, tmp_path):
    x_T = np.linspace(-1, 1, 50)
    camera = Camera(lookat=(0, 0, 1), distance=4, azimuth=90, elevation=0, width=161, height=120)
    path = render_video(ball, positions(ball, x_T), tmp_path / "new" / "ball.mp4", fps=50, camera=camera)
    assert path == tmp_path / "new" / "ball.mp4"
    assert [p.name for p in path.parent.iterdir()] == ["ball.mp4"]
    with imageio.get_reader(path) as reader:
        meta = reader.get_meta_data()
        frames = [np.asarray(frame) for frame in reader.iter_data()]
    assert (meta["codec"], meta["pix_fmt"].split("(")[0]) == ("h264", "yuv420p")
    assert meta["fps"] == 25
    assert meta["source_size"] == (160, 120)  # even, as yuv420p needs it
    assert len(frames) == 25
    columns = [center(frame)[0] for frame in frames]
    assert np.all(np.diff(columns) > 0)


def test_long_video_is_small(renderer, ball, tmp_path):
    # A tenth of a video of 20 s at 50 Hz, which has to stay under 1 MB.
    t_T = np.arange(100) / 50
    camera = Camera(track="ball", width=640, height=480)
    path = render_video(ball, positions(ball, np.sin(3 * t_T)), tmp_path / "a.mp4", fps=50, camera=camera)
    assert path.stat().st_size < 100_000


def test_tracking_camera_follows_sideways_but_not_up_and_down(renderer, ball):
    camera = Camera(lookat=(0, 0, 1), distance=4, azimuth=90, elevation=0, track="ball", width=160, height=120)
    frames = render_frames(ball, positions(ball, x_T=[0, 3], z_T=[1.0, 0.5]), camera=camera)
    first, second = center(frames[0]), center(frames[1])
    assert first[0] == pytest.approx(second[0], abs=1)
    assert second[1] > first[1] + 5


def test_tracking_camera_climbs_with_the_ground(renderer, ball, ball_on_a_table):
    """A ball on a table half a metre high is seen where it is seen on the floor."""
    camera = Camera(lookat=(0, 0, 1), distance=4, azimuth=90, elevation=0, track="ball", width=160, height=120)
    on_floor = render_frames(ball, positions(ball), camera=camera)[0]
    table, x_T, z_T = ball_on_a_table, [0.0, *40 * [5.0]], [1.5, *40 * [1.0]]
    rows = [center(frame)[1] for frame in render_frames(table, positions(table, x_T, z_T), camera=camera)]
    assert rows[0] == pytest.approx(center(on_floor)[1], abs=1)
    assert rows[1] > rows[0] + 10 and rows[-1] == pytest.approx(rows[0], abs=1)
    assert (np.diff(rows[1:]) <= 0).all()  # it sinks without a jump


def test_named_camera_and_camera_between(renderer, ball):
    qpos_Tq = positions(ball, x_T=[0.5])
    named = render_frames(ball, qpos_Tq, camera=Camera(name="side", width=160, height=120))[0]
    between = Camera.between((0, -4, 1), (0, 0, 1), width=160, height=120)
    assert (between.distance, between.azimuth, between.elevation) == (4, 90, 0)
    assert center(render_frames(ball, qpos_Tq, camera=between)[0]) == pytest.approx(center(named), abs=1)


def test_picture_larger_than_the_framebuffer_of_the_model(renderer, ball):
    assert ball.vis.global_.offwidth == 640
    assert render_frames(ball, positions(ball), camera=Camera(width=800, height=600)).shape == (1, 600, 800, 3)
    assert ball.vis.global_.offwidth == 640  # the caller's model is left alone


def test_mocap_bodies_move(renderer, ball):
    mocap_pos_TM3 = np.array([[[-0.8, 0, 1]], [[0.8, 0, 1]]])
    frames = render_frames(ball, positions(ball, [0, 0]), camera=FRONT, mocap_pos_TM3=mocap_pos_TM3)
    assert center(frames[0], channel=2)[0] < 70 and center(frames[1], channel=2)[0] > 90


@pytest.mark.parametrize(
    "marker",
    [
        Arrow((0.5, 0, 1), (0.5, 0, 1.8), radius=0.05, rgba=(0, 1, 0, 1)),
        Sphere((0.5, 0, 1.4), radius=0.1, rgba=(0, 1, 0, 1)),
        Capsule((0.5, 0, 1), (0.5, 0, 1.8), radius=0.05, rgba=(0, 1, 0, 1)),
    ],
)
def test_markers_show_in_their_frame_only(renderer, ball, marker):
    visualizer = DebugVisualizer()
    visualizer.next_frame()
    visualizer.next_frame()
    visualizer.add(marker)
    frames = render_frames(ball, positions(ball, [0, 0]), camera=FRONT, markers_T=visualizer.markers_T)
    assert red_pixels(frames[0], channel=1) == 0
    assert red_pixels(frames[1], channel=1) > 20
    column, row = center(frames[1], channel=1)
    assert column > 85 and row < 58  # right of the ball, above the middle


def test_arrow_ends_where_it_should(renderer, ball):
    arrow = Arrow((0.5, 0, 1), (0.5, 0, 1.8), radius=0.05, rgba=(0, 1, 0, 1))
    image = render_frames(ball, positions(ball), camera=FRONT, markers_T=[[arrow]])[0].astype(int)
    top_of_arrow = np.nonzero((image[..., 1] > image[..., 0] + 60).any(axis=1))[0].min()
    # At this distance a metre is 120 / (2 * 4 * tan(45 / 2 degrees)) = 36.2 pixels; z = 1 is in the middle.
    assert top_of_arrow == pytest.approx(60 - 0.8 * 36.2, abs=2)


def test_frame_marker_points_along_its_rotated_axes(renderer, ball):
    # Turned by 90 degrees about y: x points down, z points right (+x), y away from the camera.
    frame = Frame((0.8, 0, 1), quat=(np.sqrt(0.5), 0, np.sqrt(0.5), 0), length=0.5, radius=0.04)
    image = render_frames(ball, positions(ball, [-3]), camera=FRONT, markers_T=[[frame]])[0]
    red, blue = center(image, channel=0), center(image, channel=2)
    assert red[1] > 65 and blue[0] > red[0] + 7


def test_marker_rows_leave_out_what_is_not_finite():
    rows = pack([[Sphere((0, 0, np.nan))], [Sphere((1, 2, 3)), Frame((0, 0, 0))]])
    assert rows.shape == (4, 13)
    assert rows[:, 0].tolist() == [1, 1, 1, 1]
    assert pack([[], []]).shape == (0, 13)


def test_diverged_robot_stands_still_in_the_picture(renderer, ball, caplog):
    qpos_Tq = positions(ball, [0.5, 0.5, 0.0])
    qpos_Tq[1] = np.nan
    with caplog.at_level(logging.WARNING):
        frames = render_frames(ball, qpos_Tq, camera=FRONT)
    assert np.array_equal(frames[0], frames[1]) and not np.array_equal(frames[0], frames[2])
    assert "1 of 3 frames" in caplog.text
    with pytest.raises(RenderError, match="not finite in any frame"):
        render_frames(ball, np.full_like(qpos_Tq, np.nan), camera=FRONT)


def test_unwritable_video_is_a_render_error_and_leaves_nothing(renderer, ball, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RenderError, match="cannot write"):
        render_video(ball, positions(ball), tmp_path / "file" / "a.mp4", fps=50, camera=FRONT)


def test_failed_encoder_leaves_no_file(renderer, ball, tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "missing"))
    with pytest.raises(RenderError, match="failed"):
        render_video(ball, positions(ball), tmp_path / "a.mp4", fps=50, camera=FRONT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("camera", "message"),
    [
        (Camera(track="bal"), "no body 'bal' .did you mean 'ball'"),
        (Camera(name="xyz"), "no camera 'xyz' .there are 'side'"),
        (Camera(name="side", track="ball"), "not both"),
        (Camera(width=0), "at least 2 pixels"),
    ],
)
def test_wrong_camera_is_named(ball, camera, message):
    with pytest.raises(ConfigError, match=message):
        render_frames(ball, positions(ball), camera=camera)
    with pytest.raises(ConfigError, match="must differ"):
        Camera.between((1, 2, 3), (1, 2, 3))


def test_wrong_shapes_are_refused(ball):
    for qpos_Tq in (np.zeros((3, 6)), np.zeros(7), np.zeros((0, 7))):
        with pytest.raises(ValueError, match="qpos_Tq must have shape"):
            render_frames(ball, qpos_Tq)
    with pytest.raises(ValueError, match="one list a frame"):
        render_frames(ball, positions(ball), markers_T=[[], []])
    with pytest.raises(ValueError, match="mocap_pos_TM3 must have shape"):
        render_frames(ball, positions(ball), mocap_pos_TM3=np.zeros((1, 2, 3)))


@pytest.mark.usefixtures("fresh_backend")
def test_missing_renderer_is_one_warning_and_no_exception(ball, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MUJOCO_GL", "off")
    monkeypatch.setattr(render, "_warned", False)
    forget_backends()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert try_render_video(ball, positions(ball), tmp_path / "a.mp4", fps=50) is None
    assert caplog.text.count("No video") == 1
    assert list(tmp_path.iterdir()) == []


def test_stalled_rendering_ends_with_a_render_error(renderer, ball, tmp_path, monkeypatch):
    worker = tmp_path / "worker.py"
    worker.write_text("import time; time.sleep(600)")
    monkeypatch.setattr(backend, "WORKER", worker)
    with pytest.raises(RenderError, match="no answer for 0.5 s; the driver seems to hang"):
        render_video(ball, positions(ball), tmp_path / "a.mp4", fps=50, stall_timeout_s=0.5)


SUNNY = """
<mujoco>
  <statistic extent="2"/>
  <visual><headlight ambient="0.5 0.5 0.5" diffuse="0 0 0" specular="0 0 0"/></visual>
  <worldbody>
    <light type="directional" pos="0 0 4" dir="0.6 0 -1" diffuse="0.5 0.5 0.5" specular="0 0 0"/>
    <geom type="plane" size="0 0 1" rgba="0.9 0.9 0.9 1"/>
    <body name="ball"><freejoint/><geom size="0.2" rgba="1 0 0 1"/></body>
  </worldbody>
</mujoco>
"""


@pytest.mark.parametrize("x", [0.0, 30.0])
def test_the_shadow_is_one_piece_where_the_sun_puts_it(renderer, x):
    """Wherever the robot has gone, and with no dots of the floor's own beside it."""
    model = mujoco.MjModel.from_xml_string(SUNNY)
    camera = Camera(lookat=(0, 0, 0), distance=4, azimuth=90, elevation=-90, track="ball", width=320, height=240)
    picture = render_frames(model, positions(model, x_T=[x], z_T=[1.0]), camera=camera)[0].astype(int)
    is_floor = picture.max(axis=-1) - picture.min(axis=-1) < 30
    dark = is_floor & (picture.sum(axis=-1) < 0.75 * np.median(picture[is_floor].sum(axis=-1)))
    pieces, count = ndimage.label(dark)
    sizes = np.bincount(pieces.ravel())[1:]
    assert count > 0 and sizes.max() > 0.98 * dark.sum()
    # The camera is 4 m above the floor, and the ray through the ball's centre meets it at 0.6 m.
    _, columns = np.nonzero(dark)
    pixels_per_m = 120 / (4 * np.tan(np.radians(model.vis.global_.fovy) / 2))
    assert columns.mean() - 159.5 == pytest.approx(0.6 * pixels_per_m, abs=3)


def test_a_framed_robot_fills_most_of_the_picture(renderer, ball):
    """Its own size decides: the same picture of a ball a hundred times as large."""
    filled = []
    for size in (0.05, 5.0):
        body = f"<body name='b' pos='7 0 {size}'><freejoint/><geom size='{size}' rgba='1 0 0 1'/></body>"
        model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{body}</worldbody></mujoco>")
        camera = Camera.framing(model, model.qpos0, track="b", width=160, height=120)
        rows, columns = np.nonzero(render_frames(model, model.qpos0[None], camera=camera)[0][..., 0] > 60)
        filled.append(np.ptp(rows) + 1)
        assert columns.mean() == pytest.approx(79.5, abs=1) and rows.mean() == pytest.approx(59.5, abs=1)
    assert filled[0] == pytest.approx(filled[1], abs=2) and 0.65 * 120 < filled[0] < 120


def test_captions_are_drawn_in_their_frame(renderer, ball):
    path_T = positions(ball, [0, 0])
    plain = render_frames(ball, path_T, camera=FRONT)
    captions_T = [{"time": "0.00 s"}, {"time": "0.02 s", "reward": "1.5"}]
    one, two = render_frames(ball, path_T, camera=FRONT, captions_T=captions_T)
    changed = [np.abs(a.astype(int) - b).sum(axis=-1) > 0 for a, b in zip((one, two), plain, strict=True)]
    assert changed[0][:60, :80].any() and not changed[0][60:].any()
    assert np.nonzero(changed[1].any(axis=1))[0].max() > np.nonzero(changed[0].any(axis=1))[0].max()  # a second line


def test_a_video_ends_with_the_last_row(renderer, ball, tmp_path):
    for count in (4, 5):
        x_T = np.zeros(count)
        x_T[-1] = 1.0
        path = render_video(ball, positions(ball, x_T), tmp_path / "a.mp4", fps=50, camera=FRONT)
        with imageio.get_reader(path) as reader:
            frames = list(reader.iter_data())
        columns = [center(np.asarray(frame))[0] for frame in frames]
        assert columns[-1] > columns[0] + 10 and columns[:-1] == pytest.approx([columns[0]] * (len(columns) - 1), abs=1)
