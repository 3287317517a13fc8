"""Put a page together: one HTML file that needs neither a server nor a network."""

import base64
import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ksim.envs.env import Env
from ksim.envs.managers.call import parameter
from ksim.mdp import terminations
from ksim.mdp.quantities import metres
from ksim.viz import env_view
from ksim.viz.page import licences, npm
from ksim.viz.page.drawing import drawing
from ksim.viz.page.simulation import simulation

# The newest releases with which tests/viz/test_page.py has passed. MuJoCo's is its first package of a WebAssembly
# build that is as new as the engines; what its physics may differ by is in that test.
MUJOCO = npm.Package(
    "@mujoco/mujoco",
    "3.14.0",
    "sha512-WPUYidu4Fx8+uM4hQv80SOA0ifpWGrsNJguKs8JBV8SCTxjKQ2/rqsh880nUH0/Vwa8vuefghvCQkkoed3bkUg==",
)
ONNXRUNTIME = npm.Package(
    "onnxruntime-web",
    "1.30.0",
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
)
THREE = npm.Package(
    "three",
    "0.187.0",
    "sha512-Qiu7R+Cmh8CstZsY1uJOSWnVlfo7ZtNLV7mF8Jltk3LB3AtDu9cRZlcnRKkAk8Y4z6KKw35z7Y7Urd7jWY8etA==",
)
# By package, its files that are modules and by which names they are imported, and its other files.
_MODULES = {
    MUJOCO: {"mujoco.js": "mujoco"},
    ONNXRUNTIME: {"dist/ort.wasm.bundle.min.mjs": "onnxruntime-web"},
    THREE: {
        "build/three.module.js": "three",
        "build/three.core.js": "three/core",
        "examples/jsm/controls/OrbitControls.js": "three/OrbitControls",
    },
}
_WASM = {MUJOCO: "mujoco.wasm", ONNXRUNTIME: "dist/ort-wasm-simd-threaded.wasm"}
_FOLDER = Path(__file__).parent


def make(model: bytes, env: Env) -> bytes:
    """The page of a policy.

    Args:
        model: the policy, as `ksim.export` writes it; `ksim.viz.page.knows.check` has let it pass.
        env: of the policy's task: what it lives in.

    Raises:
        NpmError: a package cannot be had.
        KsimError: the scene cannot be written.
    """
    modules, files = _packages()
    visual = env_view.visual_model(env)
    world = {
        "simulation": simulation(env.scene),
        "drawing": drawing(visual),
        "camera": env_view.camera(env, visual).view()["camera"] | {"fovy": visual.vis.global_.fovy},
        "ends": ends(env),
        "ground": ground(env),
    }
    own = {
        "policy.onnx": model,
        "world.json": json.dumps(world, default=_plain).encode(),
        "licences.json": json.dumps(_licences(env)).encode(),
    }
    template = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True, undefined=StrictUndefined
    ).get_template("page.html.jinja")
    page = template.render(
        title=env.scene.robot.name,
        style=(_FOLDER / "page.css").read_text(),
        boot=(_FOLDER / "boot.js").read_text(),
        modules={f"ksim/{path.name}": path.read_text() for path in sorted(_FOLDER.glob("js/*.js"))},
        packed_modules=modules,
        packed_files=files | {name: _packed(content) for name, content in own.items()},
    )
    return page.encode()


def ends(env: Env) -> list[dict[str, Any]]:
    """The task's terminations that a page can judge: what counts as a fall."""
    found: list[dict[str, Any]] = []
    for term in env.terminations.terms.values():
        if term.func is terminations.bad_orientation:
            found.append({"name": term.name, "lean_rad": parameter(term, "limit_rad")})
        elif term.func is terminations.low_height:
            found.append({"name": term.name, "height": metres(env.scene, parameter(term, "limit"))})
        elif term.func is terminations.joint_out_of_range:
            ids = env.scene.find_joints(parameter(term, "joints"))
            names = [env.scene.joint_names[j] for j in ids]
            found.append({"name": term.name, "joints": names, "limit": parameter(term, "limit")})
    return found


def ground(env: Env) -> dict[str, Any] | None:
    """Uneven ground: heights of its nodes, rows and columns, and how far apart they are, m; None where it is flat."""
    found = env.scene.ground
    if found is None:
        return None
    return {"heights": found.heights.ravel(), "shape": list(found.heights.shape), "spacing": found.spacing}


def fetch() -> None:
    """Get the npm packages, unless they are there already. Raises NpmError."""
    _packages()


@cache
def _packages() -> tuple[dict[str, str], dict[str, str]]:
    """Modules by the name that they are imported by, and WebAssembly by its file's name, packed."""
    modules: dict[str, str] = {}
    wasm: dict[str, str] = {}
    for package, names in _MODULES.items():
        found = npm.read(package, [*names, *([_WASM[package]] if package in _WASM else [])])
        # A module that lives in memory has no neighbours: all are imported by names, which the page resolves.
        sources = {name: found[path].replace(b"'./three.core.js'", b"'three/core'") for path, name in names.items()}
        modules |= {name: _packed(source) for name, source in sources.items()}
        if package in _WASM:
            wasm[Path(_WASM[package]).name] = _packed(found[_WASM[package]])
    return modules, wasm


def _licences(env: Env) -> dict[str, str]:
    three = npm.read(THREE, ["LICENSE"])["LICENSE"].decode()
    found = {
        "ksim": licences.of_distribution("ksim"),
        f"Robot: {env.scene.robot.name}": licences.of_robot(env.scene.robot),
        f"MuJoCo ({MUJOCO.name} {MUJOCO.version})": licences.of_distribution("mujoco"),
        f"ONNX Runtime ({ONNXRUNTIME.name} {ONNXRUNTIME.version})": licences.of_distribution("onnxruntime"),
        f"three.js {THREE.version}": three,
    }
    return {whose: text for whose, text in found.items() if text}


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()


def _plain(value: Any) -> Any:
    """Arrays and bytes as JSON; boot.js makes typed arrays of them."""
    if isinstance(value, bytes):
        return {"dtype": "uint8", "base64": base64.b64encode(value).decode()}
    array = np.asarray(value)
    if array.dtype == bool:
        array = array.astype(np.uint8)
    content = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return {"dtype": array.dtype.name, "base64": base64.b64encode(content).decode()}
