"""Sparse gradients: as rows where that is the same step, dense where not; refused where torch refuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from fastgd.arrays import Array
from fastgd.backends.base import Options
from fastgd.rules import Rule
from fastgd.settings import DEFAULTS
from fastgd.torch.conventions import convention
from fastgd.torch.tensors import array_of


def rows_of(
    grad: torch.Tensor, param: Array, rule: Rule, values: Mapping[str, Any], options: Options, what: str
) -> tuple[Array | None, Array]:
    """(numbers of rows, their gradients) or (None, the whole gradient) of one that is not dense.

    RuntimeError where the rule does not take it.
    """
    own = convention(rule)
    reason = own.sparse(rule, values)
    if reason is not None:
        raise RuntimeError(reason)
    plain = all(values[name] == default for name, default in DEFAULTS.items())
    by_rows = own.by_rows(values) and plain and not options.clips_units
    if grad.layout != torch.sparse_coo or not by_rows or grad.sparse_dim() != 1 or grad.is_complex():
        return None, array_of(grad.to_dense(), what)
    if not param.flags.c_contiguous:
        return None, array_of(grad.to_dense(), what)
    grad = grad.coalesce()
    indices: Array = np.ascontiguousarray(grad.indices()[0].cpu().numpy())
    return indices, array_of(grad.values().contiguous(), what)
