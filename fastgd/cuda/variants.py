"""From a tensor of a step and the step's options to the variant of kernels that it is for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastgd.arrays import dtype_named
from fastgd.backends.base import Block, Codes, Item, Options
from fastgd.cuda.element import Variant
from fastgd.rules import label_of
from fastgd.settings import CODED, state_rounding
from fastgd.storage import arithmetic


def real_name(dtype: str) -> str:
    """What numbers in a dtype are computed in."""
    return str(np.dtype(arithmetic(dtype_named(dtype))).name)


def _stored(state: Any) -> str | None:
    if state is None:
        return None
    return CODED if isinstance(state, Codes) else str(state.dtype.name)


def variant_of(item: Item, grad: str, layout: str, block: Block, options: Options) -> Variant:
    """What its step does with an element. grad: the gradient's dtype; layout: of element.LAYOUTS."""
    values = block.values
    return Variant(
        rule=label_of(block.rule),
        on=tuple(block.rule.active(values).values()),
        param=item.param.dtype.name,
        grad=grad,
        state=tuple(_stored(state) for state in item.state),
        rounding=values["rounding"],
        state_rounding=state_rounding(values),
        maximize=values["maximize"],
        bounded=not math.isinf(options.clip_value),
        cautious=values["cautious"],
        average=item.average is not None,
        copy=item.copy.dtype.name if item.copy is not None else None,
        units=options.clips_units,
        layout=layout if item.rows is None else "rows",
    )
