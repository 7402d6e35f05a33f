"""Checkpoint files: safetensors written beside their target and renamed over it, never a pickle."""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastgd.arrays import Array

__all__ = ["CheckpointError", "load_file", "pack_state", "save_file", "unpack_state"]

STATE_KEY = "fastgd.state"
DTYPES = frozenset(
    ["bool", "float16", "float32", "float64", "bfloat16", "complex64"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)


class CheckpointError(ValueError):
    """A file that cannot be read or written as a checkpoint; the message is one sentence that says why."""


def save_file(
    path: str | os.PathLike[str], tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a safetensors file so that `path` holds either its old content or all of the new one.

    path: the file; a symbolic link is followed, an existing file is replaced.
    tensors: name -> array of any shape and layout; booleans, 8 to 64 bit integers, 16 to 64 bit floats.
    metadata: name -> text, kept in the file's header. Default: none.

    Raises CheckpointError when the file cannot be written, and TypeError for a dtype the format has not.
    Whatever goes wrong, the temporary file is removed.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file as write

    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise CheckpointError(f"cannot save to {os.fspath(path)}: it is a folder")
    plain = {name: plain_array(name, tensor) for name, tensor in tensors.items()}
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        with open(temporary, "xb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        write(plain, temporary, metadata=dict(metadata or {}))
        os.chmod(temporary, mode)  # safetensors makes files that only their owner can read
        sync(temporary)
        os.replace(temporary, target)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(f"cannot save to {os.fspath(path)}: {reason}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    if os.name == "posix":
        # the file is in place, whole, whether or not its folder can be opened and synchronised
        with contextlib.suppress(OSError):
            sync(target.parent)


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


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
