"""A simulation on a page in the browser."""

import contextlib
import dataclasses
import html
import io
import logging
import socket
import time
from pathlib import Path

import numpy as np
import viser

from ksim.envs.markers import Marker
from ksim.errors import ConfigError
from ksim.viz import env_view
from ksim.viz.camera import Camera
from ksim.viz.viewer.simulation import Simulation
from ksim.viz.viewer.snapshot import Pose
from ksim.viz.viewer.web.asked import Asked
from ksim.viz.viewer.web.commands import Change, CommandSliders
from ksim.viz.viewer.web.drive import Driving
from ksim.viz.viewer.web.keyboard import keep_keys
from ksim.viz.viewer.web.look import Looking
from ksim.viz.viewer.web.plots import LivePlots
from ksim.viz.viewer.web.policies import PolicyPicker
from ksim.viz.viewer.web.pulling import Pulling
from ksim.viz.viewer.web.recorder import Recorder
from ksim.viz.viewer.web.scene import Pull, WebScene

log = logging.getLogger(__name__)

_FRAME_S = 1 / 30
_WORDS_S = 0.2  # between two versions of what is written on the page
_AWAY = 1.3  # the camera, times the distance at which the robot fills a picture: the panel hides some of it


class WebViewer:
    """A page that shows a simulation and drives it, for any number of browsers at once.

    Browsers may come and go; the simulation goes on. All that they ask for is done in the thread that calls `update`.

    Attributes:
        simulation: what is shown.
        url: where the page is.
    """

    def __init__(self, simulation: Simulation, folder: Path | str = "."):
        """Open the page, on `simulation.cfg.host` and `port`, or on the next port that is free.

        Args:
            simulation: what is shown.
            folder: where films are saved.

        Raises:
            ConfigError: this machine has no such address.
        """
        cfg = simulation.cfg
        _check_host(cfg.host)
        self.simulation = simulation
        self._stopping = False
        self._asked = Asked()
        with contextlib.redirect_stdout(io.StringIO()):  # it has its own way to say where it is
            self._server = viser.ViserServer(host=cfg.host, port=cfg.port, label="ksim", verbose=False)
        self.url = f"http://{cfg.host}:{self._server.get_port()}"
        camera = env_view.camera(simulation.env, simulation.model)
        self._camera = dataclasses.replace(camera, distance=_AWAY * camera.distance)
        self._scene = WebScene(self._server, simulation.model, self._camera.track)
        self._scene.on_pull = lambda pull: self._asked.put(lambda: self._drag(pull))
        self._pulling = Pulling(simulation)
        self._recorder = Recorder(simulation.model, Path(folder))
        self._framed_at = self._told_at = -np.inf
        self._shown: Pose | None = None
        self._set_stage()
        self._add_elements()
        self._show(True)
        self._tell()

    def is_open(self) -> bool:
        """Whether nobody has called `stop`; the page waits for browsers for ever."""
        return not self._stopping

    def update(self) -> None:
        """Do what people have asked for since the last time; show the simulation as it is, if that is due."""
        acted = self._asked.do(self._say)
        if self._policies is not None:
            self._policies.follow()
        self._pulling.update()
        now = time.monotonic()
        if now - self._framed_at >= _FRAME_S or acted:
            self._framed_at = now
            self._show(acted)
        if now - self._told_at >= _WORDS_S or acted:
            self._told_at = now
            self._tell()

    def stop(self) -> None:
        """It is no longer open; from any thread or a signal's handler."""
        self._stopping = True

    def close(self) -> None:
        """Close the page; a film that is being written is finished first."""
        self._recorder.wait()
        with contextlib.redirect_stdout(io.StringIO()):
            self._server.stop()

    # The page

    def _set_stage(self) -> None:
        server, camera = self._server, self._camera
        server.gui.configure_theme(show_logo=False, show_share_button=False, control_width="large")
        server.scene.configure_environment_map("studio", environment_intensity=0.5)
        server.scene.world_axes.visible = False
        lookat, position = np.array(camera.lookat), _position(camera)
        server.initial_camera.look_at = (*lookat,)
        server.initial_camera.position = (*position,)
        server.initial_camera.fov = float(np.radians(self.simulation.model.vis.global_.fovy))

    def _add_elements(self) -> None:
        server, simulation, asked = self._server, self.simulation, self._asked
        gui = server.gui
        self._status = gui.add_html("")
        tabs = gui.add_tab_group()
        with tabs.add_tab("Drive", viser.Icon.DEVICE_GAMEPAD_2):
            self._driving = Driving(server, simulation, asked, self._start_together)
            self._policies = None
            if simulation.checkpoints is not None:
                self._policies = PolicyPicker(server, simulation, simulation.checkpoints, asked)
            self._commands = CommandSliders(server, simulation, asked, self._both)
            self._driving.add_next_command(self._commands.let_go)
        with tabs.add_tab("Look", viser.Icon.EYE):
            self._looking = Looking(server, simulation, asked)
            stiffness = gui.add_slider("pull", 5.0, 200.0, 5.0, self._pulling.stiffness, hint="N/m per kg of a drag")
            stiffness.on_update(asked.by(lambda event: setattr(self._pulling, "stiffness", event.target.value)))
            self._record = gui.add_button("Record", icon=viser.Icon.VIDEO)
            self._record.on_click(asked.by(lambda event: self._toggle_recording(event.client)))
        with tabs.add_tab("Plots", viser.Icon.CHART_LINE):
            self._plots = LivePlots(server, simulation.history, simulation.env.scene.joint_names)
        with tabs.add_tab("Keys", viser.Icon.KEYBOARD):
            rows = "".join(f"| {key.key} | {key.does} |\n" for key in self._driving.keys)
            gui.add_markdown(f"Drag a body to pull it.\n\n| key | |\n|-|-|\n{rows}")
        keep_keys(server, {key.hotkey for key in self._driving.keys})

    # What is shown

    def _show(self, is_changed: bool) -> None:
        """Show the envs as they are, if they are not shown yet, or what is drawn of them is another."""
        simulation = self.simulation
        with simulation.lock:
            envs, pose = self._looking.shown(), simulation.pose
            selected, time_s = simulation.selected, simulation.time_s
            if pose is self._shown and not is_changed:
                return
            self._shown = pose
            markers = [*self._looking.markers(), *(self._policies.ghost() if self._policies is not None else [])]
        markers_R: list[list[Marker]] = [markers if env == selected else [] for env in envs]
        qpos_Rq = np.asarray(pose.qpos)[envs]
        if np.isfinite(qpos_Rq).all():
            self._scene.show(qpos_Rq, markers_R, follow=envs.index(selected) if self._looking.follows else None)
            self._recorder.see(time_s, qpos_Rq[envs.index(selected)], markers)
        if self._recorder.is_full:
            self._toggle_recording(None)

    def _tell(self) -> None:
        simulation = self.simulation
        error = "" if simulation.error is None else f'<p style="color:#c92a2a">{html.escape(simulation.error)}</p>'
        said = f"<b>{html.escape(simulation.status)}</b><br>{html.escape(simulation.message) or '&nbsp;'}{error}"
        content = f'<div style="padding:0 1em 0.6em;font-size:0.85em;overflow-wrap:anywhere">{said}</div>'
        if content != self._status.content:
            self._status.content = content
        for part in (self._driving, self._commands, self._looking, self._plots, self._policies):
            if part is not None:
                part.update()

    def _say(self, text: str) -> None:
        self.simulation.message = text

    # What is asked for

    def _drag(self, pull: Pull | None) -> None:
        if pull is None:
            self._pulling.let_go()
            return
        if not self._pulling.is_on:
            self._looking.select(self._looking.shown()[pull.robot])
            self._pulling.grab(pull.body, pull.grabbed)
        self._pulling.to(pull.target)

    def _both(self, change: Change) -> None:
        if self._policies is None:
            change(self.simulation)
        else:
            self._policies.both(change)

    def _start_together(self) -> None:
        if self._policies is not None:
            self._policies.start_together()

    def _toggle_recording(self, client: viser.ClientHandle | None) -> None:
        """Begin a film from where a browser looks, or end it; it is sent to that browser, too."""

        def saved(path: Path | None, said: str) -> None:
            self._asked.put(lambda: self._say(said))
            if path is not None and client is not None and client.client_id in self._server.get_clients():
                client.send_file_download(path.name, path.read_bytes(), save_immediately=True)

        if self._recorder.is_on:
            self._record.label = "Record"
            self._say("the film is being written ...")
            self._recorder.stop(saved)
        else:
            self._record.label = "Stop and save"
            self._recorder.start(self._camera if client is None else self._seen_by(client))

    def _seen_by(self, client: viser.ClientHandle) -> Camera:
        camera = self._camera
        if self._looking.follows and camera.track is not None:  # the page's origin is below what is tracked
            offset = np.zeros(3)
        else:
            camera = dataclasses.replace(camera, track=None)
            offset = self._scene.offset(self._looking.shown().index(self.simulation.selected))
        position, target = client.camera.position - offset, client.camera.look_at - offset
        return Camera.between((*position,), (*target,), track=camera.track, width=camera.width, height=camera.height)


def _position(camera: Camera) -> np.ndarray:
    """Where a camera is, in the coordinates of what it looks at."""
    azimuth, elevation = np.radians([camera.azimuth, camera.elevation])
    away = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    return np.asarray(np.array(camera.lookat) - camera.distance * away)


def _check_host(host: str) -> None:
    """Raises ConfigError where no server can listen."""
    try:
        family, kind, _, _, (address, *_) = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind((address, 0))
    except OSError as error:
        raise ConfigError(f"view.host: this machine has no address {host!r} ({error.strerror})") from None
