"""Which backend is tried, in which order, and what is said when there is none."""

import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ksim.viz import backend
from ksim.viz.backend import RenderError, WorkerError, find_backend, run_worker

pytestmark = pytest.mark.usefixtures("fresh_backend")
linux = pytest.mark.skipif(platform.system() != "Linux", reason="backends of Linux")


@pytest.fixture
def headless(monkeypatch):
    for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


def record_probes(monkeypatch, working=()):
    tried = []

    def probe(job, name, *, stall_timeout_s):
        tried.append(name)
        if name not in working:
            raise WorkerError(f"{name} is broken")
        return {"ok": True, "device": "a test"}

    monkeypatch.setattr(backend, "run_worker", probe)
    return tried


@linux
def test_order_without_and_with_a_display(monkeypatch, headless):
    tried = record_probes(monkeypatch)
    with pytest.raises(RenderError):
        find_backend()
    assert tried == ["egl", "osmesa"]
    tried.clear()
    monkeypatch.setenv("DISPLAY", ":7")
    with pytest.raises(RenderError):
        find_backend()
    assert tried == ["egl", "osmesa", "glfw"]


@linux
def test_first_working_backend_is_taken_and_remembered(monkeypatch, headless):
    tried = record_probes(monkeypatch, working=("osmesa", "glfw"))
    monkeypatch.setenv("DISPLAY", ":7")
    report = find_backend()
    assert (report.name, report.device) == ("osmesa", "a test")
    assert report.failures == (("egl", "egl is broken"),)
    assert find_backend() is report
    assert tried == ["egl", "osmesa"]


def test_mujoco_gl_of_the_user_is_the_only_one_tried(monkeypatch, headless):
    tried = record_probes(monkeypatch, working=("egl",))
    monkeypatch.setenv("MUJOCO_GL", "OSMesa")
    with pytest.raises(RenderError, match="MUJOCO_GL=osmesa is set, so only this backend was tried"):
        find_backend()
    assert tried == ["osmesa"]


def test_wrong_mujoco_gl_gives_a_clear_error(monkeypatch, headless):
    monkeypatch.setenv("MUJOCO_GL", "elg")
    with pytest.raises(RenderError) as caught:
        find_backend()
    assert "MUJOCO_GL=elg is set" in str(caught.value)
    assert "invalid value for environment variable MUJOCO_GL: elg" in str(caught.value)
    assert "Unset MUJOCO_GL" in str(caught.value)


def test_rendering_switched_off(monkeypatch, headless):
    monkeypatch.setenv("MUJOCO_GL", "disable")
    with pytest.raises(RenderError, match="switched off"):
        find_backend()


@linux
def test_no_backend_names_what_failed_and_the_packages(monkeypatch, headless, tmp_path):
    # A broken OpenGL package before the real one is what a machine without libraries looks like to mujoco.
    (tmp_path / "OpenGL.py").write_text("raise ImportError('no OpenGL on this machine')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RenderError) as caught:
        find_backend()
    message = str(caught.value)
    assert message.count("no OpenGL on this machine") == 2  # egl and osmesa
    for part in (
        "glfw: not tried, there is no display",
        "an OpenGL platform library has not been loaded into this process",
        "apt-get install libegl1 libgl1-mesa-dri",
        "apt-get install libosmesa6",
        "apt-get install xvfb",
        "MUJOCO_GL",
    ):
        assert part in message


@linux
def test_hanging_worker_is_killed_with_its_children(monkeypatch, tmp_path):
    pid_file = tmp_path / "pid"
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import subprocess, sys, time, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(pid_file)!r}).write_text(str(child.pid))\n"
        "print('.', flush=True)\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setattr(backend, "WORKER", worker)
    start = time.monotonic()
    with pytest.raises(WorkerError, match="no answer for 2 s"):
        run_worker({"kind": "probe"}, "egl", stall_timeout_s=2)
    assert time.monotonic() - start < 20
    assert not is_running(int(pid_file.read_text()))


def is_running(pid):
    for _ in range(100):  # a killed orphan is a zombie until its new parent collects it
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return False
        if state == "Z":
            return False
        time.sleep(0.05)
    return True


def test_crashing_worker_is_named(monkeypatch, tmp_path):
    worker = tmp_path / "worker.py"
    monkeypatch.setattr(backend, "WORKER", worker)
    worker.write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(WorkerError, match="died of SIGSEGV"):
        run_worker({"kind": "probe"}, "egl", stall_timeout_s=60)
    worker.write_text("raise SystemExit('no such library')")
    with pytest.raises(WorkerError, match="exit code 1: no such library"):
        run_worker({"kind": "probe"}, "egl", stall_timeout_s=60)


@linux
@pytest.mark.parametrize("name", ["egl", "osmesa"])
def test_backend_draws_though_this_process_used_another(monkeypatch, headless, name):
    # mujoco leaves its choice in PYOPENGL_PLATFORM and refuses another one in a child that inherits it.
    monkeypatch.setenv("MUJOCO_GL", name)
    monkeypatch.setenv("PYOPENGL_PLATFORM", "osmesa" if name == "egl" else "egl")
    try:
        report = find_backend()
    except RenderError as err:
        assert "PYOPENGL_PLATFORM" not in str(err)
        pytest.skip(f"{name} is not installed: {err}")
    assert report.name == name
    assert report.device != "unknown"


@linux
@pytest.mark.skipif(shutil.which("Xvfb") is None, reason="Xvfb is not installed")
def test_glfw_draws_on_a_virtual_display(monkeypatch, headless):
    read, write = os.pipe()
    with subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "640x480x24", "-nolisten", "tcp"],
        pass_fds=(write,),
        stderr=subprocess.DEVNULL,
    ) as server:
        os.close(write)
        with os.fdopen(read) as numbers:
            display = numbers.readline().strip()
        try:
            if not display:
                pytest.skip("Xvfb does not start here")
            monkeypatch.setenv("DISPLAY", f":{display}")
            monkeypatch.setenv("MUJOCO_GL", "glfw")
            assert find_backend().name == "glfw"
        finally:
            server.terminate()


def test_nothing_here_imports_jax():
    code = "import sys, ksim.viz.render, ksim.viz.plots; print('jax' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
