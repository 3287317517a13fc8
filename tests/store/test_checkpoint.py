"""Checkpoints: exact, whole or absent, and honest about damage."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ksim.store import checkpoint, files, manifest, tree_file
from ksim.store.checkpoint import CheckpointError


def _trees(value: float = 1.0) -> dict:
    return {
        "policy": {"actor": {"layers": [{"weight": np.full((3, 2), value, np.float32)}]}},
        "train_state": {"step": np.int64(value), "env": (np.arange(5.0) * value,)},
    }


def _same(a: Any, b: Any) -> None:
    structures: list[Any] = [jax.tree_util.tree_structure(tree) for tree in (a, b)]
    assert structures[0] == structures[1]
    pairs: Any = zip(jax.tree_util.tree_leaves(a), jax.tree_util.tree_leaves(b), strict=True)
    for x, y in pairs:
        assert type(x) is type(y)
        if isinstance(x, jax.Array | np.ndarray | np.generic):
            assert x.dtype == y.dtype and x.shape == y.shape
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
                x, y = jax.random.key_data(jnp.asarray(x)), jax.random.key_data(jnp.asarray(y))
            assert np.asarray(x).tobytes() == np.asarray(y).tobytes()
        elif eqx.is_array_like(x):
            assert x == y


def _round_trip(tmp_path, tree):
    path = checkpoint.save(tmp_path, 7, {"tree": tree}, {})
    loaded = checkpoint.load(path, {"tree": tree}).trees["tree"]
    _same(loaded, tree)
    return loaded


def test_every_kind_of_leaf_comes_back_exactly(tmp_path):
    nan = np.array([np.nan, -np.nan, np.inf, -0.0], np.float32)
    nan.view(np.uint32)[0] |= 5  # a payload
    _round_trip(
        tmp_path,
        {
            "nan": jnp.array(nan),
            "bfloat16": jnp.array([1.5, -2.0, 3e38], jnp.bfloat16),
            "float8": jnp.array([[1.0, 0.5]], jnp.float8_e4m3fn),
            "zero_d": jnp.float32(3.0),
            "empty": jnp.zeros((0, 4)),
            "bool": jnp.array([True, False]),
            "numpy": np.arange(6, dtype=np.int64).reshape(2, 3).T,
            "numpy_scalar": np.float64(0.1),
            "file": [True, 3, 0.1, 1 + 2j],  # Python numbers; `file` is an argument of numpy.savez
            "none": None,
        },
    )


def test_a_random_key_comes_back_with_its_implementation(tmp_path):
    keys = {
        "one": jax.random.key(1),
        "many": jax.random.split(jax.random.key(2), (2, 3)),
        "rbg": jax.random.key(3, impl="rbg"),
        "raw": jax.random.PRNGKey(4),
    }
    loaded = _round_trip(tmp_path, keys)
    assert jax.random.normal(loaded["one"]) == jax.random.normal(keys["one"])
    assert jax.random.key_impl(loaded["rbg"]) == "rbg"
    like = {**keys, "one": jax.random.key(0, impl="rbg")}
    with pytest.raises(CheckpointError, match="one: key<fry>"):
        checkpoint.load(tmp_path / "7", {"tree": like})


def test_an_equinox_module_comes_back_into_a_fresh_one(tmp_path):
    def build(seed):
        return eqx.nn.MLP(3, 2, 4, 2, activation=jax.nn.elu, key=jax.random.key(seed))

    path = checkpoint.save(tmp_path, 1, {"policy": build(0)}, {})
    loaded = checkpoint.load(path, {"policy": build(1)}).trees["policy"]
    _same(eqx.filter(loaded, eqx.is_array), eqx.filter(build(0), eqx.is_array))
    assert loaded.activation is not None and loaded(jnp.ones(3)).shape == (2,)
    abstract = eqx.filter_eval_shape(build, 1)
    _same(checkpoint.load(path, {"policy": abstract}).trees["policy"], loaded)
    assert "layers.0.weight" in np.load(path / "policy.npz", allow_pickle=False)
    np.testing.assert_array_equal(checkpoint.load_arrays(path, "policy")["layers.0.bias"], loaded.layers[0].bias)


def test_a_loaded_array_may_be_donated(tmp_path):
    tree = {"x": jnp.arange(4096.0)}
    checkpoint.save(tmp_path, 1, {"tree": tree}, {})
    x = checkpoint.load(tmp_path / "1", {"tree": tree}).trees["tree"]["x"]
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    assert float(step(step(x))[-1]) == 4097.0


def test_a_loaded_array_shares_no_memory(monkeypatch):
    """JAX takes NumPy's memory as its own where it is aligned; what is donated is then overwritten."""
    memory = np.zeros(4096 + 16, np.float32)
    start = -memory.ctypes.data % 64 // 4
    aligned = memory[start : start + 4096]
    monkeypatch.setattr(tree_file, "arrays_from_bytes", lambda data: {"x": aligned})
    loaded = tree_file.from_bytes(b"", {"x": jax.ShapeDtypeStruct((4096,), jnp.float32)})["x"]
    assert aligned.ctypes.data % 64 == 0 and loaded.unsafe_buffer_pointer() != aligned.ctypes.data
    jax.block_until_ready(jax.jit(lambda x: x + 1, donate_argnums=0)(loaded))
    assert not aligned.any()


def test_a_loaded_state_compiles_nothing_anew(tmp_path):
    def advance(state):
        key, sub = jax.random.split(state["key"])
        return {"key": key, "x": state["x"] + jax.random.normal(sub, (4,)), "n": state["n"] + 1}

    step: Any = jax.jit(advance)
    state = step({"key": jax.random.key(0), "x": jnp.zeros(4), "n": jnp.int32(0)})
    compiled = step._cache_size()
    checkpoint.save(tmp_path, 1, {"state": state}, {})
    loaded = checkpoint.load(tmp_path / "1", {"state": state}).trees["state"]
    _same(step(step(loaded)), step(step(state)))
    assert step._cache_size() == compiled == 1


def test_names_that_collide_are_told_apart(tmp_path):
    _round_trip(tmp_path, {"a.b": np.float32(1), "a": {"b": np.float32(2)}})
    _round_trip(tmp_path, {"__ksim__": np.float32(1)})
    _round_trip(tmp_path, np.float32(1))


def test_the_same_state_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        checkpoint.save(tmp_path / name, 1, _trees(), {})
    assert (tmp_path / "a/1/policy.npz").read_bytes() == (tmp_path / "b/1/policy.npz").read_bytes()


def test_what_cannot_be_stored_is_named_and_leaves_nothing(tmp_path):
    with pytest.raises(CheckpointError, match="tree|odd: object"):
        checkpoint.save(tmp_path, 1, {"tree": {"odd": np.array([object()])}}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["actor"].update(extra=np.zeros(1)), r"policy.npz does not fit: actor.extra: not in the file"),
        (lambda t: t.clear(), r"actor.layers.0.weight: in the file, but has no place"),
        (
            lambda t: t["actor"]["layers"][0].update(weight=np.zeros((4, 2), np.float32)),
            r"actor.layers.0.weight: float32\[3, 2\] in the file, float32\[4, 2\] expected",
        ),
        (
            lambda t: t["actor"]["layers"][0].update(weight=np.zeros((3, 2))),
            r"float32\[3, 2\] in the file, float64\[3, 2\] expected",
        ),
        (lambda t: t["actor"]["layers"][0].update(weight=1.0), r"in the file, Python float expected"),
    ],
)
def test_a_tree_that_does_not_fit_names_the_leaf(tmp_path, change, message):
    path = checkpoint.save(tmp_path, 1, _trees(), {})
    like = _trees()["policy"]
    change(like)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(path, {"policy": like})
    with pytest.raises(CheckpointError, match="holds no 'critic', only policy.npz, train_state.npz"):
        checkpoint.load(path, {"critic": like})


def test_of_many_leaves_that_do_not_fit_five_are_named(tmp_path):
    path = checkpoint.save(tmp_path, 1, {"tree": {}}, {})
    with pytest.raises(CheckpointError, match=r"l4: not in the file; and 3 more$"):
        checkpoint.load(path, {"tree": {f"l{i}": 0.5 for i in range(8)}})


def test_the_first_step_is_0(tmp_path):
    assert checkpoint.load(checkpoint.save(tmp_path, 0, {}, {}), {}).step == 0 and checkpoint.steps(tmp_path) == [0]
    with pytest.raises(ValueError, match="step -1 is negative"):
        checkpoint.save(tmp_path, -1, {}, {})


def test_meta_and_manifest(tmp_path):
    path = checkpoint.save(tmp_path, 5, _trees(), {"score": np.float32(0.5), "nan": float("nan"), "names": ("a", "b")})
    loaded = checkpoint.load(path, {})
    assert loaded.step == 5 and loaded.meta == {"score": 0.5, "nan": None, "names": ["a", "b"]}
    assert json.loads((path / "manifest.json").read_text())["format"] == manifest.FORMAT


def _damage(file: Path, how: str) -> None:
    data = file.read_bytes()
    if how == "truncated":
        file.write_bytes(data[:-7])
    elif how == "flipped":
        at = len(data) // 2
        file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    elif how == "emptied":
        file.write_bytes(b"")
    else:
        file.unlink()


@pytest.mark.parametrize("how", ["truncated", "flipped", "emptied", "deleted"])
@pytest.mark.parametrize("name", ["policy.npz", "train_state.npz", "manifest.json"])
def test_damage_is_named_and_the_one_before_is_used(tmp_path, how, name):
    for step in (100, 200):
        checkpoint.save(tmp_path, step, _trees(step), {})
    _damage(tmp_path / "200" / name, how)
    assert name in "".join(checkpoint.verify(tmp_path / "200"))
    with pytest.raises(CheckpointError, match=f"200/{name}"):
        checkpoint.load(tmp_path / "200", {"policy": _trees()["policy"]})
    said: list[str] = []
    assert checkpoint.newest_valid(tmp_path, said.append) == tmp_path / "100"
    assert name in said[0] and "100 instead" in said[1]
    _damage(tmp_path / "100" / name, how)
    with pytest.raises(CheckpointError, match="every checkpoint .* is damaged"):
        checkpoint.newest_valid(tmp_path, said.append)


def test_every_single_flipped_bit_is_seen(tmp_path):
    path = checkpoint.save(tmp_path, 1, {"policy": {"w": np.float32(1)}}, {"note": "x"})
    for file in path.iterdir():
        data = file.read_bytes()
        for at in range(len(data)):
            file.write_bytes(data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :])
            problems = checkpoint.verify(path)
            # White space between the manifest's values carries nothing.
            assert problems or (file.name == "manifest.json" and data[at : at + 1].isspace())
        file.write_bytes(data)
    assert checkpoint.verify(path) == []


def test_a_newer_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "FORMAT", 99)
    path = checkpoint.save(tmp_path, 1, _trees(), {})
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="newer ksim .*99"):
        checkpoint.load(path, {})


def test_no_checkpoint_at_all(tmp_path):
    assert checkpoint.steps(tmp_path / "none") == []
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        checkpoint.newest_valid(tmp_path, print)


@pytest.mark.parametrize("can_exchange", [True, False])
def test_the_same_step_is_replaced(tmp_path, monkeypatch, can_exchange):
    if not can_exchange:
        monkeypatch.setattr(files, "exchange", lambda a, b: False)
    for value in (1.0, 2.0):
        path = checkpoint.save(tmp_path, 3, _trees(value), {"value": value})
    assert checkpoint.load(path, _trees()).meta == {"value": 2.0}
    assert [p.name for p in tmp_path.iterdir()] == ["3"]


def test_leftovers_are_not_counted_and_go_at_the_next_save(tmp_path):
    checkpoint.save(tmp_path, 1, _trees(), {})
    (tmp_path / ".tmp-2-999").mkdir()
    (tmp_path / ".tmp-2-999/policy.npz").write_bytes(b"half")
    (tmp_path / "1").rename(tmp_path / ".old-1-999")  # a writer died between two renames
    checkpoint.save(tmp_path, 2, _trees(), {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]
    assert checkpoint.verify(tmp_path / "1") == []


def test_prune_and_discard(tmp_path):
    for step in range(1, 7):
        checkpoint.save(tmp_path, step, {}, {})
    assert checkpoint.prune(tmp_path, 2, protect={2}) == [1, 3, 4]
    assert checkpoint.steps(tmp_path) == [2, 5, 6]
    assert checkpoint.discard_after(tmp_path, 5) == [6]
    assert checkpoint.steps(tmp_path) == [2, 5]


def test_find(tmp_path):
    for step in (10, 20, 30):
        checkpoint.save(tmp_path, step, {}, {})
    said: list[str] = []
    assert checkpoint.find(tmp_path, "best", said.append).name == "30" and "no best" in said[0]
    checkpoint.write_best(tmp_path, checkpoint.Best(20, 0.5))
    assert checkpoint.read_best(tmp_path) == checkpoint.Best(20, 0.5)
    names: dict[str | int, str] = {"best": "20", "latest": "30", "#1": "10", "#3": "30", "20": "20", 10: "10"}
    assert {which: checkpoint.find(tmp_path, which, said.append).name for which in names} == names
    for which in ("#4", "#0", "25", "newest"):
        with pytest.raises(CheckpointError, match="there are: best, latest, 10, 20, 30"):
            checkpoint.find(tmp_path, which, said.append)
    checkpoint.write_best(tmp_path, None)
    assert checkpoint.read_best(tmp_path) is None
    (tmp_path / "best.json").write_text("{")
    assert checkpoint.find(tmp_path, "best", said.append).name == "30" and "best.json is damaged" in said[-1]


def test_a_full_disk_says_so_and_keeps_the_older_ones(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, _trees(), {})
    real = files.write_synced

    def full(path, data):
        if "train_state" in path.name:
            path.write_bytes(data[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, data)

    monkeypatch.setattr(files, "write_synced", full)
    with pytest.raises(CheckpointError, match="disk is full"):
        checkpoint.save(tmp_path, 2, _trees(), {})
    assert [p.name for p in tmp_path.iterdir()] == ["1"] and checkpoint.verify(tmp_path / "1") == []


def test_a_really_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting is not permitted")
    try:
        trees = {"train_state": {"x": np.zeros(50_000)}}
        checkpoint.save(disk, 1, trees, {})
        checkpoint.save(disk, 2, trees, {})
        with pytest.raises(CheckpointError, match="disk is full"):
            checkpoint.save(disk, 3, trees, {})
        assert checkpoint.steps(disk) == [1, 2] and not list(disk.glob(".tmp*"))
        assert checkpoint.newest_valid(disk, print) == disk / "2"
    finally:
        subprocess.run(["umount", disk], check=True)


_KILLED = """
import os, random, signal, sys, time
import numpy as np
from pathlib import Path
from ksim.store import checkpoint

random.seed(0)
folder = Path(sys.argv[1])
step = leftovers = 0
for _ in range(12):
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        while True:
            # Every third save replaces the step that is there.
            step += step % 3 != 2 or random.random() < 0.7
            trees = {f"tree_{i}": {"x": np.full(20_000, step)} for i in range(4)}
            checkpoint.save(folder, step, trees, {"step": step})
            os.write(write, step.to_bytes(8, "little"))
            checkpoint.prune(folder, 2)
    os.close(write)
    os.read(read, 8)  # it has begun
    time.sleep(random.uniform(0, 0.06))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    said = b""
    while part := os.read(read, 4096):
        said += part
    step = max(step + 1, int.from_bytes(said[-8:], "little")) if said else step + 1
    leftovers += any(folder.glob(".*"))
    damage = [checkpoint.verify(folder / str(s)) for s in checkpoint.steps(folder)]
    assert not any(damage), damage
    newest = checkpoint.newest_valid(folder, print)
    assert int(newest.name) >= int.from_bytes(said[-8:], "little") if said else True
    loaded = checkpoint.load(newest, {"tree_3": {"x": np.zeros(20_000, np.int64)}})
    assert (loaded.trees["tree_3"]["x"] == loaded.step).all()
    step = loaded.step
    print(step, len(said) // 8, [p.name for p in folder.iterdir()])
assert leftovers > 3, "hardly any kill fell into a write"
checkpoint.save(folder, step + 1, {}, {})
assert not [p for p in folder.iterdir() if p.name.startswith(".")]
"""


def test_killed_at_any_moment_the_folder_still_loads(tmp_path):
    done = subprocess.run([sys.executable, "-c", _KILLED, tmp_path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
