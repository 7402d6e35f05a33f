"""8-bit state as the numbers that its codes stand for, and back: what others can read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from fastgd.arrays import Array
from fastgd.backends.base import BLOCK
from fastgd.rules import Rule, Slot
from fastgd.state import SCALES
from fastgd.storage import HALF_CODE, decode, decoded, encode, encoded
from fastgd.torch.tensors import local


def coded_names(slot: Slot) -> tuple[str, str]:
    """The names of a slot's codes and scales in the state; under the slot's own others would misread them."""
    return f"{slot.name}_codes", SCALES.format(slot.name)


def decode_state(optimizer: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
    """The state dict of an optimizer of fastgd.torch with 8-bit state as float32 numbers, without codes.

    Optimizers that keep their state in other dtypes can load it, torch.optim's among them, and so can
    `torch.distributed.checkpoint` into any number of ranks. It is a hook: after
    `optimizer.register_state_dict_post_hook(decode_state)` all state dicts are such. Those of optimizers with
    sharded parameters are without it. Loading encodes again, in blocks of 256 elements; where these are the
    same, the numbers are.
    """
    state = {key: decoded_entry(optimizer.rule, entry) for key, entry in state_dict["state"].items()}
    return {**state_dict, "state": state}


def decoded_entry(rule: Rule, entry: Mapping[str, Any]) -> dict[str, Any]:
    """One parameter's state with new float32 tensors for codes, in their shape and on their device."""
    found = dict(entry)
    for slot in rule.slots:
        parts = coded_names(slot)
        if all(part in found for part in parts):
            codes, scales = (local(found.pop(part)) for part in parts)
            on_host = [part.cpu().contiguous().numpy() for part in (codes, scales)]
            numbers = decode(on_host[0], on_host[1], np.float32, unsigned=slot.unsigned)
            found[slot.name] = torch.from_numpy(numbers).to(codes.device)
    return found


def encode_again(numbers: Array, *, unsigned: bool) -> tuple[Array, Array]:
    """(codes, scales) as storage.encode makes them, but what was decoded becomes what it was.

    numbers: float32 or float64, in C order. Stochastic rounding is the reason: now and then the largest
    number of a block has the highest code but one, and the scale is to be found from that.
    """
    codes, scales = encode(numbers, unsigned=unsigned)
    lost = (decode(codes, scales, np.float32, unsigned=unsigned) != numbers) & np.isfinite(numbers)
    blocks = np.unique(np.flatnonzero(lost) // BLOCK)
    at = blocks[:, None] * BLOCK + np.arange(BLOCK)
    within = at < numbers.size
    rows = np.where(within, numbers.reshape(-1)[np.where(within, at, 0)], 0).astype(np.float32)
    highest = encode(np.ones(1, np.float32), unsigned=unsigned)[0].astype(np.uint32)
    last_but_one = decoded(highest - 1, np.ones(1, np.float32), unsigned)
    near = np.abs(rows).max(axis=1, initial=0) / last_but_one
    for scale in (near, np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(np.inf))):
        code = encoded(rows.view(np.uint32), np.float32(1) / scale[:, None], HALF_CODE, unsigned)
        same = (decoded(code.astype(np.uint32), scale[:, None], unsigned) == rows).all(axis=1)
        codes.reshape(-1)[at[same][within[same]]] = code[same][within[same]]
        scales[blocks[same]] = scale[same]
    return codes, scales
