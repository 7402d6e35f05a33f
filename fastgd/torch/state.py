"""The state of one parameter, as tensors under torch's key names: made where missing, else converted."""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping
from typing import Any

import numpy as np
import torch

from fastgd.arrays import Array
from fastgd.backends.base import BLOCK, Codes, State
from fastgd.kept import Active, Kept, residual_dtype, slot_dtype
from fastgd.rules import Slot
from fastgd.storage import arithmetic, decode, encode
from fastgd.torch.codes import coded_names, encode_again
from fastgd.torch.tensors import array_of, local, memory_of, torch_dtype

#: what any optimizer may keep beside the rule's slots
RESIDUAL, AVERAGE = "residual", "average"

Entry = MutableMapping[str, Any]


def conform(
    entry: Entry, active: Active, values: Mapping[str, Any], p: torch.Tensor, param: Array, what: str
) -> None:
    """Brings a parameter's state to what the settings ask for. Numbers that are there are kept.

    p: the parameter, complex or not, as it lies here. param: `array_of(p)`. What is of no use now stays.
    ValueError, naming the state, for tensors of other shapes.
    """
    for slot in active:
        if slot is not None:
            _conform_slot(entry, slot, values, p, param, f"{what}: {slot.name!r}")
    dtype = residual_dtype(values, param)
    if dtype is not None and not _is_alike(entry.get(RESIDUAL), p, torch_dtype(dtype)):
        master = values["rounding"] == "master"
        entry[RESIDUAL] = p.detach().to(torch_dtype(dtype), copy=True) if master else _zeros(p, dtype)
    if values["ema_decay"] is not None:
        real = np.dtype(arithmetic(param.dtype))
        found = entry.get(AVERAGE)
        start = p.detach() if found is None else _shaped(found, p.shape, f"{what}: {AVERAGE!r}")
        if found is None or not _is_alike(found, p, _dtype_beside(p, real)):
            entry[AVERAGE] = _filled(p, _dtype_beside(p, real), start)


def _conform_slot(
    entry: Entry, slot: Slot, values: Mapping[str, Any], p: torch.Tensor, param: Array, what: str
) -> None:
    dtype, parts = slot_dtype(slot, values, param), coded_names(slot)
    found = entry.get(slot.name)
    shape = slot.shape(tuple(p.shape))
    if all(part in entry for part in parts):
        _shaped(entry[parts[0]], shape, what)
        if dtype is None:
            return
        codes, scales = (local(entry.pop(part)).cpu().contiguous().numpy() for part in parts)
        found = torch.from_numpy(decode(codes, scales, arithmetic(param.dtype), unsigned=slot.unsigned))
    if found is None:
        first = 0.0 if slot.initial is None else values[slot.initial]
        if dtype is None:
            entry.update(zip(parts, _new_codes(slot, first, p, param), strict=True))
        elif slot.over is not None:
            entry[slot.name] = torch.full(shape, first, dtype=torch_dtype(dtype), device=p.device)
        else:
            value = complex(first, first) if p.is_complex() else first
            entry[slot.name] = torch.full_like(
                p, value, dtype=_dtype_beside(p, dtype), memory_format=torch.preserve_format
            )
            entry[slot.name].requires_grad_(False)
        return
    _shaped(found, shape, what)
    if dtype is None:
        del entry[slot.name]
        numbers = array_of(found.detach().cpu(), what).astype(arithmetic(param.dtype))
        coded = encode_again(np.ascontiguousarray(numbers), unsigned=slot.unsigned)
        entry.update({part: torch.from_numpy(a).to(p.device) for part, a in zip(parts, coded, strict=True)})
        return
    if slot.over is not None:
        entry[slot.name] = found.to(dtype=torch_dtype(dtype), device=p.device).contiguous()
    elif not _is_alike(found, p, _dtype_beside(p, dtype)):
        entry[slot.name] = _filled(p, _dtype_beside(p, dtype), found)


def _dtype_beside(p: torch.Tensor, dtype: np.dtype[Any]) -> torch.dtype:
    """The dtype of state in these real numbers beside a parameter, which may be complex."""
    return p.dtype if p.is_complex() else torch_dtype(dtype)


def _is_alike(found: Any, p: torch.Tensor, dtype: torch.dtype) -> bool:
    return isinstance(found, torch.Tensor) and found.dtype == dtype and found.device == p.device


def _zeros(p: torch.Tensor, dtype: np.dtype[Any]) -> torch.Tensor:
    return torch.zeros_like(
        p, dtype=torch_dtype(dtype), memory_format=torch.preserve_format, requires_grad=False
    )


def _filled(p: torch.Tensor, dtype: torch.dtype, values: torch.Tensor) -> torch.Tensor:
    """A tensor that lies in memory as the parameter does, with these values."""
    made = torch.empty_like(p, dtype=dtype, memory_format=torch.preserve_format, requires_grad=False)
    return made.copy_(values.detach())


def _shaped(found: torch.Tensor, shape: Any, what: str) -> torch.Tensor:
    if not isinstance(found, torch.Tensor):
        raise TypeError(f"{what} is {type(found).__name__}, not a tensor")
    if tuple(local(found).shape) != tuple(shape):
        raise ValueError(f"{what} has shape {tuple(found.shape)}, beside the parameter it is {tuple(shape)}")
    return found


def _new_codes(slot: Slot, first: float, p: torch.Tensor, param: Array) -> tuple[torch.Tensor, torch.Tensor]:
    shape = slot.shape(param.shape)
    blocks = -(-math.prod(shape) // BLOCK)
    codes = torch.zeros(shape, dtype=torch.uint8, device=p.device)
    scales = torch.zeros(blocks, dtype=torch.float32, device=p.device)
    if first:
        code, scale = encode(np.full(1, first, arithmetic(param.dtype)), unsigned=slot.unsigned)
        codes.fill_(int(code[0]))
        scales.fill_(float(scale[0]))
    return codes, scales


def kept_arrays(entry: Mapping[str, Any], active: Active, values: Mapping[str, Any], what: str) -> Kept:
    """A conforming state's arrays for a plan: of what the settings ask for."""

    def array(name: str) -> Array:
        return array_of(local(entry[name]), f"{what}: {name!r}")

    slots: list[State | None] = []
    for slot in active:
        if slot is None:
            slots.append(None)
        elif slot.name not in entry:
            codes, scales = coded_names(slot)
            slots.append(Codes(memory_of(local(entry[codes]), f"{what}: {codes!r}"), array(scales)))
        else:
            slots.append(array(slot.name))
    residual = entry.get(RESIDUAL)
    average = None if values["ema_decay"] is None else array(AVERAGE)
    lost = None if residual is None else memory_of(local(residual), f"{what}: {RESIDUAL!r}")
    return Kept(tuple(slots), lost, average)


def is_complete(entry: Mapping[str, Any], active: Active, values: Mapping[str, Any], param: Array) -> bool:
    """Whether `conform` would find all that it looks for, under the names that the settings ask for."""
    needed = [AVERAGE] if values["ema_decay"] is not None else []
    needed += [RESIDUAL] if residual_dtype(values, param) is not None else []
    for slot in active:
        if slot is not None:
            needed += coded_names(slot) if slot_dtype(slot, values, param) is None else [slot.name]
    return all(name in entry for name in needed)


def names_in(entry: Mapping[str, Any], active: Active) -> list[str]:
    """The names under which a plan's tensors lie in the state."""
    names = [name for slot in active if slot is not None for name in (slot.name, *coded_names(slot))]
    return [name for name in (*names, RESIDUAL, AVERAGE) if name in entry]
