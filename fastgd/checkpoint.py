"""Checkpoint files: arrays and nested state in the safetensors format, whole or not there, never a pickle."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastgd.arrays import Array
from fastgd.files import replacing

__all__ = ["CheckpointError", "load_file", "pack_state", "save_file", "unpack_state"]

STATE_KEY = "fastgd.state"

#: dtype -> the format's name of it, in the format's order, by which tensors are aligned
DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "uint16": "U16",
    "float16": "F16",
    "bfloat16": "BF16",
    "int32": "I32",
    "uint32": "U32",
    "float32": "F32",
    "complex64": "C64",
    "float64": "F64",
    "int64": "I64",
    "uint64": "U64",
}

#: readers refuse a file whose header has more bytes
MAX_HEADER = 100_000_000


class CheckpointError(ValueError):
    """A file that cannot be read or written as a checkpoint; the message is one sentence that says why."""


def save_file(
    path: str | os.PathLike[str], tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a safetensors file so that `path` holds either its old content or all of the new one.

    path: the file; a symbolic link is followed, an existing file is replaced.
    tensors: name -> array of any shape and layout; booleans, 8 to 64 bit integers, 16 to 64 bit floats.
    metadata: name -> text, kept in the file's header. Default: none.

    Raises CheckpointError when the file cannot be written, and TypeError or ValueError for a dtype, a name or
    metadata that the format has not. Whatever goes wrong, the temporary file is removed; one that a killed
    process leaves is removed by the next save to the same path (see fastgd.files.replacing).
    """
    place = os.fspath(path)
    if os.path.isdir(place):
        raise CheckpointError(f"cannot save to {place}: it is a folder")
    plain = {name: plain_array(name, tensor) for name, tensor in tensors.items()}
    order = {dtype: number for number, dtype in enumerate(DTYPES)}
    names = sorted(plain, key=lambda name: (-order[plain[name].dtype.name], name))
    start = header({name: plain[name] for name in names}, metadata or {})
    if len(start) > MAX_HEADER:
        raise CheckpointError(
            f"cannot save to {place}: its names and metadata take more than {MAX_HEADER} bytes"
        )
    try:
        # safetensors' own writer makes another file beside this one, which after a kill nobody would remove
        with replacing(path) as file:
            file.write(start)
            for name in names:
                file.write(plain[name].reshape(-1).view(np.uint8).data)
    except OSError as error:
        raise CheckpointError(f"cannot save to {place}: {error.strerror or error}") from error


def header(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    """What a safetensors file has before the arrays, which follow in this order without gaps.

    The length of the rest in 8 bytes; JSON with the metadata, and each array's dtype, shape, begin and end;
    spaces up to a multiple of 8 bytes.
    """
    entries: dict[str, Any] = {}
    for key, text in metadata.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise TypeError(f"metadata is text under text, not {text!r} under {key!r}")
    if metadata:
        entries["__metadata__"] = dict(metadata)
    begin = 0
    for name, array in tensors.items():
        if not isinstance(name, str):
            raise TypeError(f"tensors are named by text, not {name!r}")
        if name == "__metadata__":
            raise ValueError("no tensor can be named '__metadata__' in a safetensors file")
        end = begin + array.nbytes
        entries[name] = {
            "dtype": DTYPES[array.dtype.name],
            "shape": array.shape,
            "data_offsets": (begin, end),
        }
        begin = end
    content = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    content += b" " * (-len(content) % 8)
    return struct.pack("<Q", len(content)) + content


def load_file(path: str | os.PathLike[str]) -> tuple[dict[str, Array], dict[str, str]]:
    """The tensors and the metadata of a safetensors file; the arrays are writable and own their memory.

    Raises CheckpointError when there is no such file, or it is damaged or no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    place = os.fspath(path)
    if not os.path.isfile(place):
        found = "it is a folder" if os.path.isdir(place) else "there is no such file"
        raise CheckpointError(f"cannot load {place}: {found}")
    try:
        with safe_open(place, framework="np") as file:
            names = file.keys()
            tensors = {name: np.require(file.get_tensor(name), requirements=["W", "O"]) for name in names}
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, TypeError) as error:
        raise CheckpointError(
            f"cannot load {place}: it is not a safetensors file, or it is damaged ({error})"
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot load {place}: {error.strerror or error}") from error


def pack_state(state: Mapping[Any, Any]) -> tuple[dict[str, Array], dict[str, str]]:
    """Turns a nested state into the tensors and the metadata of one file; `unpack_state` is its inverse.

    state: dicts (keys text or int), lists, tuples, arrays, NumPy scalars, None, bool, int, float and text,
    in any nesting. Every value comes back with its own type and bits, infinities and NaN included. An array
    at state["state"][0]["exp_avg"] becomes the tensor "state.0.exp_avg".

    Raises TypeError that names the place of a value of another type.
    """
    tensors: dict[str, Array] = {}
    tree = encode(state, "", tensors)
    return tensors, {STATE_KEY: json.dumps(tree, separators=(",", ":"), allow_nan=False)}


def unpack_state(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> dict[Any, Any]:
    """The state that `pack_state` was given. Raises CheckpointError for a file that holds none."""
    if STATE_KEY not in metadata:
        raise CheckpointError("this safetensors file holds no fastgd state; it was written by something else")
    try:
        state = decode(json.loads(metadata[STATE_KEY]), tensors)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"the fastgd state in this file is damaged ({error})") from error
    if not isinstance(state, dict):
        raise CheckpointError("the fastgd state in this file is damaged (it is no table)")
    return state


def plain_array(name: str, tensor: Array) -> Array:
    """The array C-contiguous and little-endian: safetensors copies its memory without looking at strides."""
    array = np.asarray(tensor, order="C")
    if array.dtype.name not in DTYPES:
        raise TypeError(f"{name} has dtype {array.dtype}, which a safetensors file cannot hold")
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def encode(value: Any, place: str, tensors: dict[str, Array]) -> Any:
    """JSON for a value: itself where JSON has the type, else {"its type": content}; arrays go to tensors."""
    if isinstance(value, (np.ndarray, np.generic)):
        name = place or "value"
        while name in tensors:
            name += "_"
        tensors[name] = plain_array(name, np.asarray(value))
        return {"tensor" if isinstance(value, np.ndarray) else "scalar": name}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, Mapping):
        wrong = next((key for key in value if isinstance(key, bool) or not isinstance(key, (int, str))), None)
        if wrong is not None:
            raise TypeError(f"{place or 'the state'} has the key {wrong!r}; keys must be text or int")
        return {"dict": [[key, encode(item, join(place, key), tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        items = [encode(item, join(place, index), tensors) for index, item in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    kind = type(value).__name__
    raise TypeError(f"{place or 'the state'} is of type {kind}, which a checkpoint cannot hold")


def join(place: str, key: object) -> str:
    return f"{place}.{key}" if place else str(key)


def decode(value: Any, tensors: Mapping[str, Array]) -> Any:
    if isinstance(value, list):
        return [decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "scalar":
        return tensors[content][()]
    if kind == "float":
        return float(content)
    if kind == "tuple":
        return tuple(decode(item, tensors) for item in content)
    if kind == "dict":
        return {key: decode(item, tensors) for key, item in content}
    raise ValueError(f"unknown kind {kind!r}")
