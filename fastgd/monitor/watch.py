"""What every monitor can do: keep a history, judge it, and give it to the terminal, files and pictures."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from fastgd.arrays import Array
from fastgd.checks import flag, named, whole
from fastgd.monitor.findings import Finding, judge
from fastgd.monitor.records import History, Layer
from fastgd.monitor.sampling import Sampling
from fastgd.monitor.units import Flat, Outputs

#: how many steps that are not finite are looked into
MOST_SPOILED = 3


class Watch:
    """A history and what is made of it. `Monitor` and `TorchMonitor` fill it."""

    #: seconds in which a step is noted that is not looked at
    NOTING = 0.0

    def __init__(self, every: int | str, budget: float, rows: int) -> None:
        self.sampling = Sampling(every, budget, self.NOTING)
        self.rows = named("rows", whole(1), rows)
        self._history = History()
        #: steps that are not in the history yet
        self._pending: list[Any] = []
        self._curvatures: tuple[int, float | None] = (-1, None)

    @property
    def history(self) -> History:
        """What was seen up to now."""
        self._settle()
        return self._history

    @property
    def _count(self) -> int:
        """Steps so far."""
        return self._history.count + len(self._pending)

    def _settle(self) -> None:
        """Brings the history up to the last step."""

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is done inside does not count as time of training, of which looks take their share.

        with watch.paused():
            accuracy = model.evaluate(x, y).accuracy
        """
        self.sampling.passed()
        try:
            yield
        finally:
            self.sampling.restarted()

    def findings(self, *, curvature: bool = True) -> list[Finding]:
        """What is wrong with the training so far, the cause before what follows of it; empty if nothing is.

        curvature: whether, where the loss is flat and gradients are small, the smallest eigenvalue of the
            Hessian is looked for, on the last batch: some 20 to 100 gradients. Default True. The model is
            afterwards what it was, bit for bit.
        """
        measure = self._curvature if named("curvature", flag, curvature) else None
        return judge(self.history, measure)

    def _curvature(self) -> float | None:
        """The smallest eigenvalue over the magnitude of the gradient's change; see `curvature.measured`."""
        step, known = self._curvatures
        if step != self._count:
            from fastgd.monitor.curvature import smallest

            given = self._gradients_here()
            known = smallest(*given) if given else None
            self._curvatures = self._count, known
        return known

    def _gradients_here(self) -> tuple[Any, Callable[[], Sequence[Any]], list[Array]] | None:
        """The model, its gradients on the last batch, and what else these write; None when not to be had."""
        return None

    # ---- output ----

    def print(self, file: Any = None) -> None:
        """Prints a table of the layers as they were last seen, and the findings in words.

        file: a text file. Default: the terminal. Raises ModuleNotFoundError without rich (extra `cli`).
        """
        from fastgd.monitor.terminal import show

        show(self.history, self.findings(), file)

    def save_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes a row for each step, in which "layer" is empty, and one for each layer at each look."""
        from fastgd.monitor.files import save_csv

        save_csv(path, self.history)

    def save_tensorboard(self, folder: str | os.PathLike[str]) -> None:
        """Writes an event file for TensorBoard into a folder, with the findings as text.

        Raises ModuleNotFoundError without tensorboardX (extra `tensorboard`).
        """
        from fastgd.monitor.files import save_tensorboard

        save_tensorboard(folder, self.history, self.findings())

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draws loss, gradient norms, update ratios, and dead and saturated shares by layer over the steps.

        path: its suffix chooses the format (.png, .svg, .pdf); 1000 pixels wide. Raises ModuleNotFoundError
        without matplotlib (extra `cli`), and ValueError for an unknown suffix or when no layer was looked at.
        """
        from fastgd.monitor.pictures import save_plot

        save_plot(path, self.history)


def joined(names: Sequence[str], norms: Sequence[float]) -> dict[str, float]:
    """Name of a layer -> the norm of all its tensors, from "0.weight" and so on and the norm of each."""
    squares: dict[str, list[float]] = {}
    for name, norm in zip(names, norms, strict=True):
        squares.setdefault(name.rpartition(".")[0], []).append(norm)
    return {name: float(np.hypot.reduce(parts)) for name, parts in squares.items()}


def layer_seen(
    name: str,
    kind: str,
    parameters: Iterable[Any],
    norms: tuple[float | None, float | None, float | None],
    outputs: Outputs | None,
    flat: Flat | None,
) -> Layer:
    """One layer's record. norms: of its gradient, of its parameters before the step, and of their change."""
    own = list(parameters)
    gradient, size, change = norms
    return Layer(
        name,
        kind,
        any(array.ndim > 1 for array in own),
        grad_norm=gradient,
        param_norm=size,
        update_ratio=None if change is None or not size else change / size,
        output_rms=outputs.rms if outputs else None,
        zeros=outputs.zeros if outputs else None,
        dead=outputs.dead if outputs else None,
        saturated=outputs.saturated if outputs else None,
        two_sided=flat.two_sided if flat else None,
        symmetric=symmetric(own),
    )


def symmetric(parameters: Iterable[Any]) -> bool:
    """Whether the rows of each weight, of two or more rows, are the same. Arrays or tensors."""
    weights = [array for array in parameters if array.ndim > 1 and len(array) > 1]
    return bool(weights) and all(
        # the second comparison is for the few that pass the first
        bool((array[0] == array[-1]).all()) and bool((array == array[0]).all())
        for array in weights
    )
