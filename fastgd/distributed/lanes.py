"""Which rank owns which parameter, and the flat buffers in which gradients and parameters travel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fastgd.arrays import Array
from fastgd.distributed.communicator import Communicator
from fastgd.storage import arithmetic, load

__all__ = ["Lane", "lanes_of", "owners_of"]


def owners_of(sizes: Sequence[int], ranks: int) -> list[int]:
    """The rank that owns each tensor of these sizes: the largest first, each to whoever has least.

    Tensors stay whole, for rules that look at all of one (LAMB, Muon, Adafactor). The result depends on the
    arguments only. The largest share is at most the mean share and the largest tensor (Graham 1969).
    """
    owners, loads = [0] * len(sizes), [0] * ranks
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        owners[i] = loads.index(min(loads))
        loads[owners[i]] += sizes[i]
    return owners


def lanes_of(arrays: Sequence[Array], owners: Sequence[int], comm: Communicator) -> list[Lane]:
    """One for each dtype that there is."""
    dtypes = dict.fromkeys(array.dtype for array in arrays)
    numbers = [[i for i, array in enumerate(arrays) if array.dtype == dtype] for dtype in dtypes]
    return [Lane({i: arrays[i] for i in own}, owners, comm) for own in numbers]


class Lane:
    """Parameters of one dtype, one behind the other by owner, so that each exchange is one collective call.

    Gradients are in the dtype that their parameters are computed in: float64 for float64, else float32. Their
    buffer carries the parameters afterwards, in the dtype of these.
    """

    def __init__(self, arrays: Mapping[int, Array], owners: Sequence[int], comm: Communicator) -> None:
        """arrays: by their number among all, of one dtype. owners: of all."""
        self._comm, self._owners = comm, owners
        self._arrays = {i: arrays[i] for i in sorted(arrays, key=lambda i: (owners[i], i))}
        own = {i: array for i, array in self._arrays.items() if owners[i] == comm.rank}
        self._counts = [0] * comm.size
        for i, array in arrays.items():
            self._counts[owners[i]] += array.size
        dtype = next(iter(arrays.values())).dtype
        self._flat = np.zeros(sum(self._counts), arithmetic(dtype))
        self._piece = np.zeros(self._counts[comm.rank], self._flat.dtype)
        self._packed = self._flat.view(dtype)[: self._flat.size]
        self._sent = _cut(self._flat, self._arrays)
        self._parameters = _cut(self._packed, self._arrays)
        #: by number, of the parameters that this rank owns: what `reduce` fills
        self.gradients = _cut(self._piece, own)

    def reduce(self, grads: Sequence[Array] | None, factor: float) -> None:
        """Fills `gradients` with the sums over the ranks of factor * gradient.

        grads: of all parameters, in any of the dtypes that can be stored; None: this rank adds nothing.
        """
        if grads is None:
            self._flat[...] = 0
        else:
            real = self._flat.dtype.type
            for i, out in self._sent.items():
                given = grads[i] if grads[i].dtype == real else load(grads[i], real)
                np.multiply(given, real(factor), out=out)
        self._comm.reduce_scatter(self._flat, self._piece, self._counts)

    def spread(self, *, from_first: bool = False) -> None:
        """Gives all ranks the parameters as their owners have them, or as the first rank has all of them."""
        sources = dict.fromkeys(self._arrays, 0) if from_first else dict(enumerate(self._owners))
        counts = [self._flat.size] + [0] * (self._comm.size - 1) if from_first else self._counts
        for i, array in self._arrays.items():
            if sources[i] == self._comm.rank:
                np.copyto(self._parameters[i], array)
        self._comm.allgather_into(self._packed, counts)
        for i, array in self._arrays.items():
            if sources[i] != self._comm.rank:
                np.copyto(array, self._parameters[i])


def _cut(flat: Array, arrays: Mapping[int, Array]) -> dict[int, Array]:
    """Consecutive views, in the shapes of these arrays."""
    pieces, first = {}, 0
    for i, array in arrays.items():
        pieces[i] = flat[first : first + array.size].reshape(array.shape)
        first += array.size
    return pieces
