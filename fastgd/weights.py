"""The weights of a model as one vector of float64: read, moved in place, and put back bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from fastgd.arrays import Array, as_array, lent, listed, owned_arrays
from fastgd.interrupts import uninterrupted
from fastgd.memory import memory_of, on_host, to_host
from fastgd.storage import load, store

__all__ = ["Weights"]


class Weights:
    """The parameters of a model, which are changed where they are.

    model: a list of arrays or tensors, as an optimizer takes them; or what has them as parameters(), such as
        nn.Sequential or a torch module. The buffers of these (running statistics, counters) are kept as well.

    Raises TypeError or ValueError, naming the parameter, for what is no writable memory of floats, for two
    that share memory, and when there is not one element.
    """

    def __init__(self, model: Any) -> None:
        params, buffers = _of(model)
        self.arrays = owned_arrays(map(_detached, listed(params, "params")), "parameter")
        self.buffers = [lent(_detached(buffer), f"buffer {i}") for i, buffer in enumerate(buffers)]
        self._ends = np.cumsum([array.size for array in self.arrays], dtype=np.int64)
        #: elements of all parameters together
        self.size = int(self._ends[-1]) if self.arrays else 0
        if not self.size:
            raise ValueError("params hold no elements")

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [array.shape for array in self.arrays]

    def vector(self) -> Array:
        """All elements, float64 [size]; a copy."""
        return _joined([load(on_host(array), np.float64) for array in self.arrays])

    def finite_vector(self) -> Array:
        """`vector`; ValueError, naming the parameter, if an element is NaN or infinite."""
        vector = self.vector()
        for i, part in enumerate(self.split(vector)):
            if not np.isfinite(part).all():
                raise ValueError(f"parameter {i} holds NaN or infinity")
        return vector

    def split(self, vector: Array) -> list[Array]:
        """The parts of a vector [size] in the shapes of the parameters; views."""
        parts = np.split(vector, self._ends[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def joined(self, values: Any, what: str) -> Array:
        """A vector of one array or tensor for each parameter, None being zeros; or of another model.

        what: what they are, in the singular. TypeError or ValueError, naming the one that does not fit.
        """
        given = listed(_of(values)[0], f"{what}s")
        if len(given) != len(self.arrays):
            raise ValueError(f"got {len(given)} {what}s for {len(self.arrays)} parameters")
        parts = []
        for i, (value, array) in enumerate(zip(given, self.arrays, strict=True)):
            part = np.zeros(array.shape) if value is None else _numbers(value, f"{what} {i}")
            if part.shape != array.shape:
                raise ValueError(f"{what} {i} has shape {part.shape}, the parameter {array.shape}")
            parts.append(part)
        return _joined(parts)

    @contextmanager
    def moving(self) -> Iterator[Callable[[Array], None]]:
        """Yields what writes a vector [size] into the parameters, each rounded once to its own dtype.

        With every move, buffers are what they were before the block, so that the order of moves does not
        matter. When the block ends, however it does, parameters and buffers are what they were, bit for bit.
        """
        params, buffers = [list(map(to_host, arrays)) for arrays in (self.arrays, self.buffers)]

        def move_to(vector: Array) -> None:
            parts = zip(self.arrays, self.split(vector), strict=True)
            _write(self.arrays, [np.asarray(store(part, array.dtype)) for array, part in parts])
            _write(self.buffers, buffers)

        try:
            yield move_to
        finally:
            with uninterrupted():
                _write(self.arrays + self.buffers, params + buffers)


def _write(arrays: Sequence[Array], values: Sequence[Array]) -> None:
    for array, own in zip(arrays, values, strict=True):
        memory_of(array).write(array, own)


def _of(model: Any) -> tuple[Any, list[Any]]:
    """The parameters of a model, or the list that is given in its place, and its buffers."""
    if not callable(getattr(model, "parameters", None)):
        return model, []
    if callable(getattr(model, "named_buffers", None)):
        buffers = [buffer for _, buffer in model.named_buffers()]
    else:
        buffers = _values(model.buffers()) if hasattr(model, "buffers") else []
    return _values(model.parameters()), buffers


def _values(named: Any) -> list[Any]:
    """Of a layer's arrays by name, or of what has no names."""
    return list(named.values() if isinstance(named, Mapping) else named)


def _detached(value: Any) -> Any:
    """What lends the memory of a tensor that torch records gradients of."""
    return value.detach() if callable(getattr(value, "detach", None)) else value


def _numbers(value: Any, what: str) -> Array:
    """A copy in float64 of an array of real numbers, or of a number as NumPy's functions return them."""
    value = np.asarray(value) if isinstance(value, (np.generic, float)) else _detached(value)
    array = on_host(lent(value, what))
    if array.dtype.kind in "iub":
        return array.astype(np.float64)
    return np.asarray(load(as_array(array, what), np.float64))


def _joined(parts: list[Array]) -> Array:
    return np.concatenate([part.reshape(-1) for part in parts])
