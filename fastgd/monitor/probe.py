"""A forward pass that keeps every layer's outputs and leaves the model, its state included, as it was."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastgd.arrays import Array
from fastgd.interrupts import uninterrupted
from fastgd.monitor.units import Flat, flat_of
from fastgd.nn.base import Layer
from fastgd.nn.kernels import Program, kernels_of
from fastgd.nn.program import Builder, Shape, Value
from fastgd.nn.recurrent import RNN, Recurrent
from fastgd.nn.residual import Residual
from fastgd.nn.sequential import Sequences, Sequential, checked_lengths

#: rows of a batch that are looked at, and programs that are kept: of whole batches and of a last, partial one
ROWS, PROGRAMS = 64, 2


class Place(NamedTuple):
    """A layer of a model. name: "0", or "2.1" inside a Residual, as its parameters are named.

    flat: the flat ends of the activation whose outputs the layer gives, if it has any.
    channels_first: whether its units are in dimension 1 of its outputs.
    """

    name: str
    layer: Layer
    flat: Flat | None
    channels_first: bool


def _flat(layer: Layer) -> Flat | None:
    if layer.activation is not None:
        return flat_of(layer.activation.kind, layer.activation.values)
    return flat_of(layer.nonlinearity) if isinstance(layer, RNN) else None


def branches(layer: Layer) -> tuple[tuple[str, Sequence[Layer]], ...]:
    """(prefix of names, layers) of what a Residual has inside."""
    if not isinstance(layer, Residual):
        return ()
    inside = [("", layer.layers)]
    if layer.shortcut:
        inside.append(("shortcut" if "shortcut" in layer._named else "shortcut.", layer.shortcut))
    return tuple(inside)


def places(layers: Sequence[Layer], prefix: str = "", channels_first: bool = False) -> Iterator[Place]:
    """All layers, those inside a Residual before itself."""
    for name, layer in _numbered(layers, prefix):
        for inner, inside in branches(layer):
            yield from places(inside, f"{name}.{inner}", channels_first)
        dims = max((array.ndim for array in layer.parameters().values()), default=1)
        # a convolution's weight has more than two dimensions; a layer without one keeps the order before it
        channels_first = dims > 2 if dims > 1 else channels_first
        yield Place(name, layer, _flat(layer), channels_first)


def _numbered(layers: Sequence[Layer], prefix: str) -> Iterator[tuple[str, Layer]]:
    alone = prefix.endswith("shortcut")  # of one layer, whose name has no number
    for i, layer in enumerate(layers):
        yield prefix if alone else f"{prefix}{i}", layer


def state_of(model: Sequential, rows: int) -> list[Array]:
    """All arrays that a pass over a batch of so many rows may write, beside outputs and gradients."""
    carried = [
        array
        for place in places(model.layers)
        if isinstance(place.layer, Recurrent)
        for k in range(place.layer.num_layers)
        for array in place.layer.carried_states(rows, k)
        if array is not None
    ]
    return [array for _, array in model.named_buffers()] + carried


class Probe:
    """Runs the first rows of a batch through a model as in training, and gives what each layer puts out.

    Batch norm uses the batch's statistics and dropout drops. Buffers and carried states are put back.
    """

    def __init__(self, model: Sequential, rows: int = ROWS) -> None:
        self._model, self._rows = model, rows
        self._kernels = kernels_of(model.backend)
        self._programs: OrderedDict[tuple[Any, ...], tuple[Program, list[tuple[str, Value]]]] = OrderedDict()

    def run(self, x: Any) -> dict[str, Array]:
        """Name of a layer -> its outputs, valid until the next run."""
        lengths = None
        if type(x) is Sequences:
            x, lengths = x
        rows = np.require(np.asarray(x)[: self._rows], requirements=("C", "A"))
        if lengths is not None:
            lengths = checked_lengths(np.asarray(lengths)[: self._rows], rows.shape)
        program, outputs = self._program(rows, lengths is not None)
        state = state_of(self._model, len(rows))
        before = [array.copy() for array in state]
        program.bind("x", rows)
        if lengths is not None:
            program.bind("lengths", lengths)
        try:
            program.run()
        finally:
            with uninterrupted():
                for array, kept in zip(state, before, strict=True):
                    array[...] = kept
        # a model may hand its input through
        return {name: rows if value.storage.name else value.array for name, value in outputs}

    def _program(self, x: Array, has_lengths: bool) -> tuple[Program, list[tuple[str, Value]]]:
        key = x.shape, x.dtype, has_lengths
        if key not in self._programs:
            self._programs[key] = self._compile(x.shape, x.dtype, has_lengths)
            if len(self._programs) > PROGRAMS:
                self._programs.popitem(last=False)
        self._programs.move_to_end(key)
        return self._programs[key]

    def _compile(
        self, shape: Shape, dtype: np.dtype[Any], has_lengths: bool
    ) -> tuple[Program, list[tuple[str, Value]]]:
        parameters = self._model.parameters()
        to = Builder(self._kernels, parameters[0].dtype if parameters else dtype, training=True)
        if has_lengths:
            to.lengths = to.input("lengths", (shape[0],), np.int64)
        outputs: list[tuple[str, Value]] = []

        def keep(name: str, value: Value) -> None:
            if not value.storage.name:
                to.keep(value)
            outputs.append((name, value))

        _chain(to, self._model.layers, to.input("x", shape, dtype), "", keep)
        to.allocate()
        return self._kernels.program(to.ops, [(0, 0)] * len(to.ops)), outputs


def _chain(
    to: Builder, layers: Sequence[Layer], x: Value, prefix: str, keep: Callable[[str, Value], None]
) -> None:
    """Writes the passes of layers one behind the other, and has each one's outputs kept.

    Layers inside a Residual are run twice: by themselves, to be seen, and in the sum.
    """
    for name, layer in _numbered(layers, prefix):
        for inner, inside in branches(layer):
            _chain(to, inside, x, f"{name}.{inner}", keep)
        x, _ = layer.bind(to, x)
        keep(name, x)
