"""One pytree in one `.npz`: exact dtypes and shapes, readable names, no pickle.

Every array leaf is an entry named by its path in the tree (`actor.layers.0.weight`), so that
`numpy.load(file)["actor.layers.0.weight"]` works with no ksim. The entry `__ksim__` holds JSON about the leaves
that NumPy's format cannot name: `dtype` (bfloat16, float8, ...: stored as unsigned integers of the same bits),
`key` (random keys: stored as their data) and `scalar` (Python numbers: stored as 0-d arrays).
Leaves that are no arrays or numbers (functions, strings) are not stored; a reader keeps its own.
"""

import io
import json
import zipfile
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  (teaches NumPy the names bfloat16, float8_..., int4)
import numpy as np

PyTree: TypeAlias = Any

_INFO = "__ksim__"
_NUMBERS: dict[str, type] = {"bool": bool, "int": int, "float": float, "complex": complex}


class TreeError(ValueError):
    """A tree that cannot be stored, a file that cannot be read, or two that do not fit; names the leaves."""


def to_bytes(tree: PyTree) -> bytes:
    """The content of the `.npz`: the same leaves give the same bytes. Raises TreeError for a leaf of no use."""
    leaves = {name: leaf for name, leaf in _named(tree).items() if _stored(leaf)}
    info: dict[str, dict[str, str]] = {"dtype": {}, "key": {}, "scalar": {}}
    for name, leaf in leaves.items():
        if type(leaf) in _NUMBERS.values():
            info["scalar"][name] = type(leaf).__name__
        elif _is_key(leaf):
            info["key"][name] = str(jax.random.key_impl(leaf))
            leaves[name] = jax.random.key_data(leaf)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, leaf in jax.device_get(leaves).items():
            array = np.asarray(leaf)
            if array.dtype.isbuiltin == 2:  # a registered dtype, such as bfloat16
                info["dtype"][name] = array.dtype.name
                array = array.view(f"u{array.dtype.itemsize}")
            if array.dtype.kind not in "biufcU":
                raise TreeError(f"{name}: {array.dtype} cannot be stored")
            _put(archive, name, array)
        _put(archive, _INFO, np.array(json.dumps(info)))
    return buffer.getvalue()


def arrays_from_bytes(data: bytes) -> dict[str, Any]:
    """The leaves by name as NumPy arrays (random keys as JAX's keys, Python numbers as such), no tree needed.

    Raises TreeError where `data` is no such file.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found = {}
            for entry in archive.namelist():
                with archive.open(entry) as stream:
                    found[entry.removesuffix(".npy")] = np.lib.format.read_array(stream, allow_pickle=False)
        info = json.loads(str(found.pop(_INFO)))
        for name, dtype in info["dtype"].items():
            found[name] = found[name].view(np.dtype(dtype))
        for name, impl in info["key"].items():
            found[name] = jax.random.wrap_key_data(jnp.array(found[name]), impl=impl)
        for name, kind in info["scalar"].items():
            found[name] = _NUMBERS[kind](found[name].item())
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError, EOFError, OSError) as error:
        raise TreeError(f"no readable tree file: {error}") from None
    return found


def from_bytes(data: bytes, like: PyTree) -> PyTree:
    """The stored leaves in the structure of `like`; leaves that are not stored are taken from `like`.

    `like` may hold arrays or `jax.ShapeDtypeStruct`. JAX leaves come back as (strongly typed, uncommitted) JAX
    arrays, NumPy leaves as NumPy arrays, Python numbers as such. Raises TreeError that names the leaves which
    are missing, left over, or of another shape, dtype or kind.
    """
    found = arrays_from_bytes(data)
    wanted = _named(like)
    problems = [f"{n}: not in the file" for n, leaf in wanted.items() if _stored(leaf) and n not in found]
    problems += [f"{n}: in the file, but has no place" for n in found if n not in wanted or not _stored(wanted[n])]
    leaves = []
    for name, leaf in wanted.items():
        if _stored(leaf) and name in found:
            if (there := _describe(found[name])) != (here := _describe(leaf)):
                problems.append(f"{name}: {there} in the file, {here} expected")
            elif not problems:
                leaf = _like(found[name], leaf)
        leaves.append(leaf)
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise TreeError("; ".join(problems[:5]) + more)
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(like), leaves)


def _named(tree: PyTree) -> dict[str, Any]:
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    names = [jax.tree_util.keystr(path, simple=True, separator=".") or "value" for path, _ in paths]
    if len(set(names)) < len(names) or _INFO in names:  # {"a.b": x, "a": {"b": y}}: only the long form tells them apart
        names = [jax.tree_util.keystr(path) for path, _ in paths]
        if len(set(names)) < len(names):
            raise TreeError("two leaves have the same path: " + max(names, key=names.count))
    return {name: leaf for name, (_, leaf) in zip(names, paths, strict=True)}


def _put(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    # ZipInfo's fixed date keeps the bytes a function of the content.
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as stream:
        np.lib.format.write_array(stream, array, allow_pickle=False)


def _stored(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct | bool | int | float | complex)


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key)


def _describe(leaf: Any) -> str:
    if type(leaf) in _NUMBERS.values():
        return f"Python {type(leaf).__name__}"
    return f"{leaf.dtype}{list(leaf.shape)}"


def _like(value: Any, leaf: Any) -> Any:
    if _is_key(value) or type(value) in _NUMBERS.values():
        return value
    if isinstance(leaf, np.generic):
        return value[()]
    if isinstance(leaf, np.ndarray):
        return value
    return jnp.array(value, copy=True)  # not asarray: an array that shares NumPy's memory must not be donated
