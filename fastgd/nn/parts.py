"""Passes of a batch in parts: each part's rows go through the layers on a thread of their own.

A small model's operations are too short to be shared among threads, which would wait for each other behind
each of them. Parts of the batch meet once, where their gradients are added, in the order of the rows: so the
bits do not depend on the number of threads.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from fastgd.arrays import Array
from fastgd.nn.base import Layer, Loss, LossPass
from fastgd.nn.compiled import LOSS, TRAIN, Compiled, compiled
from fastgd.nn.kernels import Kernels, Program
from fastgd.nn.program import Builder, Shape

#: a part has as many rows at least: with fewer, matrix products take longer for each of them
LEAST_ROWS = 32


class PartsProgram(Program):
    """Programs of some rows each, and behind them one that adds their gradients."""

    def __init__(
        self,
        kernels: Kernels,
        rows: Sequence[slice],
        parts: Sequence[Compiled],
        behind: Program,
        total: Array,
    ) -> None:
        """total: float64 [1], receives the loss."""
        programs = [part.program for part in parts]
        self._parts = list(zip(rows, programs, strict=True))
        self._together, self._behind = kernels.together(programs), behind
        self._losses, self._total = [part.loss.value for part in parts if part.loss is not None], total

    def bind(self, name: str, array: Array) -> None:
        for rows, program in self._parts:
            program.bind(name, array[rows])

    def run(self) -> None:
        self._run_parts()
        self._behind.run()

    def then(self, update: Callable[..., int], *arguments: Any) -> int:
        self._run_parts()
        return self._behind.then(update, *arguments)

    def _run_parts(self) -> None:
        self._together()
        self._total[0] = sum([loss[0] for loss in self._losses])


def check_parts(layers: Sequence[Layer], loss: Loss | None) -> None:
    """ValueError unless the rows of a batch have nothing to do with each other."""
    for i, layer in enumerate(layers):
        if layer.mixes_rows:
            raise ValueError(f"parts: layer {i}, {layer}, makes of each row something that depends on others")
        kept = [name for one in _with_inside(layer) for name in one.keeps]
        if kept:
            raise ValueError(f"parts: layer {i}, {layer}, has {', '.join(kept)}, which all parts would share")
    if loss is not None and not loss.adds_up:
        raise ValueError(f'parts: {loss} is no sum over rows; give it reduction="sum"')


def _with_inside(layer: Layer) -> Iterator[Layer]:
    yield layer
    for inside in layer.inside:
        yield from _with_inside(inside)


def rows_of_parts(rows: int, parts: int) -> list[slice]:
    """The rows of at most so many parts, as even as can be; of several, each has LEAST_ROWS or more."""
    count = max(1, min(parts, rows // LEAST_ROWS))
    ends = [rows * k // count for k in range(count + 1)]
    return [slice(first, end) for first, end in itertools.pairwise(ends)]


def compiled_in_parts(
    layers: Sequence[Layer],
    loss: Loss,
    kernels: Kernels,
    x: tuple[Shape, np.dtype[Any]],
    dtype: np.dtype[Any],
    parameters: Sequence[Array],
    gradients: Sequence[Array],
    has_lengths: bool,
    rows: Sequence[slice],
) -> Compiled:
    """The program that leaves the gradients of inputs x of this shape and dtype, in parts of these rows."""
    shape, input_dtype = x
    parts: list[Compiled] = []
    all_gradients: list[list[Array]] = []
    for part in rows:
        # the first part's are the model's own, to which the others' are added
        own = list(gradients) if not parts else [np.zeros_like(gradient) for gradient in gradients]
        inputs = (part.stop - part.start, *shape[1:]), input_dtype
        given = layers, loss, kernels, inputs, dtype, TRAIN, parameters, own, has_lengths
        parts.append(compiled(*given))
        all_gradients.append(own)
    behind = Builder(kernels, dtype)
    nothing = kernels.activation("identity")
    for first, *others in zip(*all_gradients, strict=True):
        for other in others:
            behind.emit("add_forward", nothing, (first.size,), (first, other, None, first))

    def whole() -> Compiled:
        return compiled(layers, loss, kernels, x, dtype, LOSS, parameters, (), has_lengths)

    program = kernels.program(behind.ops, behind.gradient_ranges(gradients))
    loss_pass = SummedLoss(_bound(loss, kernels, layers, shape, dtype))
    in_parts = PartsProgram(kernels, rows, parts, program, loss_pass.value)
    beside = sum(gradient.nbytes for own in all_gradients[1:] for gradient in own)
    arena_bytes = beside + sum(part.arena_bytes for part in parts)
    return Compiled(in_parts, loss_pass, None, arena_bytes, behind.ops, whole)


def _bound(
    loss: Loss, kernels: Kernels, layers: Sequence[Layer], shape: Shape, dtype: np.dtype[Any]
) -> LossPass:
    """The loss as it is bound to what the layers make of inputs of this shape."""
    for layer in layers:
        shape = layer.output_shape(shape)
    to = Builder(kernels, dtype)
    return loss.bind(to, to.value(shape))


class SummedLoss(LossPass):
    """A loss that is computed in parts: it takes targets for all rows."""

    dy = None

    def __init__(self, whole: LossPass) -> None:
        """whole: the loss bound to all rows."""
        self.value = np.empty(1)
        self._whole = whole

    def target(self, y: Any) -> Array:
        return self._whole.target(y)

    def weight(self, target: Array) -> float | None:
        return self._whole.weight(target)

    def hits(self, prediction: Array, target: Array) -> tuple[int, int]:
        return self._whole.hits(prediction, target)
