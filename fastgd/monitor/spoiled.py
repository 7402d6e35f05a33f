"""Where a step's values begin not to be finite, in the order in which they are computed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from fastgd.arrays import Array

#: (name, array) of some tensors
Named = Iterable[tuple[str, Array]]


class Place(NamedTuple):
    """An element that is NaN or infinite: its tensor, and its index there; None where it has none."""

    name: str
    element: tuple[int, ...] | None
    value: float


#: what -> how it is told; others are "input x" and so on
_WORDS = {"output": "outputs of layer {name}", "loss": "the loss", "gradient": "gradient of {name}"}


class Spoiled(NamedTuple):
    """The first value of a step that is not finite.

    what: "input", "target", "parameter", "output", "loss" or "gradient". known: whether all that comes before
    it has been seen to be finite.
    """

    step: int
    what: str
    place: Place
    known: bool = True

    @property
    def where(self) -> str:
        """What is not finite, in words."""
        return _WORDS.get(self.what, "{what} {name}").format(what=self.what, name=self.place.name)

    def __str__(self) -> str:
        at = "" if self.place.element is None else f" at {list(self.place.element)}"
        return f"{self.where}{at} is {self.place.value}"


def first(tensors: Named) -> Place | None:
    """The first element of the first tensor that is not finite, in C order; None where all are."""
    for name, array in tensors:
        # integers are finite; V are dtypes that NumPy does not know, such as bfloat16
        if array.dtype.kind not in "fV":
            continue
        bad = ~np.isfinite(array)
        if bad.any():
            element = tuple(map(int, np.unravel_index(int(np.argmax(bad)), array.shape)))
            return Place(name, element, float(array[element]))
    return None


def locate(
    step: int,
    loss: float | None,
    *,
    inputs: Named,
    targets: Named,
    before: Named | None,
    now: Named,
    outputs: Place | None,
    gradients: Named,
) -> Spoiled:
    """The first of a step that is known not to be finite.

    before: the parameters as they were before the step; None when nobody has kept them. now: as they are
    behind it. outputs: what was seen of the layers' outputs.
    """
    for what, tensors in (("input", inputs), ("target", targets), ("parameter", before or ())):
        found = first(tensors)
        if found:
            return Spoiled(step, what, found)
    if outputs:
        return Spoiled(step, "output", outputs)
    # NaN stays NaN: parameters that are finite behind a step were so before it
    known = before is not None or first(now) is None
    if loss is not None and not math.isfinite(loss):
        return Spoiled(step, "loss", Place("loss", None, loss), known)
    return Spoiled(step, "gradient", first(gradients) or Place("all parameters", None, math.inf), known)
