"""One pytree in one `.npz`: exact dtypes and shapes, readable names, no pickle.

Every array leaf is an entry named by its path in the tree (`actor.layers.0.weight`), so that
`numpy.load(file)["actor.layers.0.weight"]` works with no ksim. The entry `__ksim__` holds JSON about the leaves
that NumPy's format cannot name: `dtype` (bfloat16, float8, ...: stored as unsigned integers of the same bits),
`key` (random keys: stored as their data) and `scalar` (Python numbers: stored as 0-d arrays).
Leaves that are no arrays or numbers (functions, strings) are not stored; a reader keeps its own.
"""

import io
import json
import math
import zipfile
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  (teaches NumPy the names bfloat16, float8_..., int4)
import numpy as np

from ksim.system import foreign

PyTree: TypeAlias = Any

_INFO = "__ksim__"
_NUMBERS: dict[str, type] = {"bool": bool, "int": int, "float": float, "complex": complex}
_KINDS = "biufcU"  # of arrays: numbers, and the text of `_INFO`
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


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
            if array.dtype.kind not in _KINDS:
                raise TreeError(f"{name}: {array.dtype} cannot be stored")
            _put(archive, name, array)
        _put(archive, _INFO, np.array(json.dumps(info)))
    return buffer.getvalue()


def arrays_from_bytes(data: bytes) -> dict[str, Any]:
    """The leaves by name as NumPy arrays (random keys as JAX's keys, Python numbers as such), no tree needed.

    Whatever `data` holds, no code of it is run, and what comes of it takes no more memory than `data`. Raises
    TreeError where it is no such file.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_entries(archive.infolist(), len(data))
            found = {entry.removesuffix(".npy"): _array(archive.read(entry)) for entry in archive.namelist()}
        info = foreign.parse_json(str(found.pop(_INFO)).encode())
        for name, dtype in info["dtype"].items():
            found[name] = found[name].view(_registered(dtype))
        for name, impl in info["key"].items():
            found[name] = jax.random.wrap_key_data(jnp.array(found[name]), impl=impl)
        for name, kind in info["scalar"].items():
            found[name] = _NUMBERS[kind](found[name].item())
    except (
        *(zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError, EOFError, OSError),
        *(
            NotImplementedError,
            RuntimeError,
        ),  # what zipfile raises for methods that it does not know, and for passwords
    ) as error:
        raise TreeError(f"no readable tree file: {error}") from None
    return found


def from_bytes(data: bytes, like: PyTree, part: str = "") -> PyTree:
    """The stored leaves in the structure of `like`; leaves that are not stored are taken from `like`.

    With `part`, `like` is that part of the stored tree alone, such as `model` of a tree with a field of this name.

    `like` may hold arrays or `jax.ShapeDtypeStruct`. JAX leaves come back as (strongly typed, uncommitted) JAX
    arrays, NumPy leaves as NumPy arrays, Python numbers as such. Raises TreeError that names the leaves which
    are missing, left over, or of another shape, dtype or kind.
    """
    found = arrays_from_bytes(data)
    if part:
        found = {name.removeprefix(f"{part}."): leaf for name, leaf in found.items() if name.startswith(f"{part}.")}
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


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Refuses what could unpack to more than the file: compressed entries, overlapping ones, and names twice."""
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names):
        raise ValueError(f"it has two entries {max(names, key=names.count)!r}")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise ValueError(f"its entry {entry.filename!r} is compressed")
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError("its entries are larger than the file")


def _array(data: bytes) -> np.ndarray:
    """The array in a `.npy`; NumPy's own reader would first take the memory that the header asks for."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"a .npy of version {version} is not one of ksim's")
    shape, is_fortran, dtype = _HEADERS[version](stream)
    if dtype.kind not in _KINDS:
        raise ValueError(f"an array of {dtype} is not one of ksim's")
    if math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise ValueError(f"{dtype}{list(shape)} does not fit into {len(data)} bytes")
    array = np.frombuffer(bytearray(data[stream.tell() :]), dtype)  # a bytearray: writable
    return array.reshape(shape, order="F" if is_fortran else "C")


def _registered(name: str) -> np.dtype:
    dtype = np.dtype(name)
    if dtype.isbuiltin != 2:
        raise ValueError(f"no type of an array is called {name!r}")
    return dtype


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
