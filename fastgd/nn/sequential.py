"""Sequential: layers one after another, their outputs and gradients, and a training step in one call."""

from __future__ import annotations

import math
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastgd.arrays import DTYPES, Array
from fastgd.lenders import on_device
from fastgd.nn.base import Layer, Loss
from fastgd.nn.compiled import FORWARD, LOSS, TRAIN, Compiled, compiled
from fastgd.nn.kernels import Kernels, OperationFailed, kernels_of
from fastgd.nn.layers import checked_size
from fastgd.nn.model_state import ModelState
from fastgd.nn.parts import check_parts, compiled_in_parts, rows_of_parts
from fastgd.nn.program import Shape
from fastgd.optimizer import Optimizer

# Programs that are kept: training and its last partial batch, validation and its last one, and as many more.
PROGRAMS = 8


class TrainStep(NamedTuple):
    """What train_step did: the loss before the update, and what the optimizer's step returned."""

    loss: float
    report: Any


class Evaluation(NamedTuple):
    """What `evaluate` found."""

    loss: float
    #: the share of labels whose class has the largest output, 0 to 1; None where targets are no labels
    accuracy: float | None


class Sequences(NamedTuple):
    """A batch of sequences that end at different places.

    x: [batch, time, ...], of which layers that go through time see the first lengths[i] steps of row i.
    lengths: integers 1 to time, [batch].
    """

    x: Any
    lengths: Any


def checked_lengths(lengths: Any, shape: Shape) -> Array:
    """lengths as int64 [batch]; TypeError or ValueError unless all are 1 to time."""
    checked = np.asarray(lengths)
    if checked.dtype.kind not in "iu":
        raise TypeError(f"lengths must be integers, not {checked.dtype}")
    if checked.shape != shape[:1]:
        raise ValueError(f"lengths must have shape [{shape[0]}], one for each row, not {list(checked.shape)}")
    outside = (checked < 1) | (checked > shape[1])
    if outside.any():
        row = int(np.argmax(outside))
        raise ValueError(f"lengths[{row}] is {checked[row]}, but sequences have 1 to {shape[1]} steps")
    return np.require(checked, np.int64, requirements=("C", "A"))


class Sequential(ModelState):
    """Layers applied one after another to [batch, ...], with a loss behind them.

    layers: each its own object; an activation behind a Linear is done in the Linear's pass.
    loss: what loss_and_grad and train_step minimise. Default None: the model is only run forward.
    seed: an integer or numpy Generator to draw all parameters anew with, in order. Default None: they stay.
    backend: "auto" (default), "native" or "reference" (NumPy; the same bits but for matrix products).
    parts: how many parts, of 32 rows or more each, a batch is cut into by loss_and_grad and train_step, to be
        computed on a thread each. For small models, whose operations are too short to be shared by threads:
        see docs/models.md. Gradients are added in the order of the parts, whatever the number of threads. It
        needs a loss with reduction="sum", and layers that keep nothing, as BatchNorm and Dropout do. Default
        1: operations are computed for all rows, by all threads.

    Passes are compiled once for each shape of batch: into operations that run in one native call, over one
    arena of memory. The last eight programs are kept. A model is not to be used by two threads at once.

    Raises TypeError or ValueError for layers that are none, stand twice in the model or differ in dtype.
    """

    def __init__(
        self,
        *layers: Layer,
        loss: Loss | None = None,
        seed: int | np.random.Generator | None = None,
        backend: str = "auto",
        parts: int = 1,
    ) -> None:
        for i, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"layer {i} must be a Layer such as nn.ReLU(), not {layer!r}")
            if any(layer is other for other in layers[:i]):
                raise ValueError(f"layer {i}, {layer}, is in the model twice; make a layer for each place")
        if not layers:
            raise ValueError("a model needs at least one layer")
        if loss is not None and not isinstance(loss, Loss):
            raise TypeError(f"loss must be a Loss such as nn.MSELoss(), not {loss!r}")
        self._parts = checked_size("parts", parts)
        if self._parts > 1:
            check_parts(layers, loss)
        self._layers = layers
        self._loss = loss
        self._kernels: Kernels = kernels_of(backend)
        super().__init__(layers)
        names: dict[int, str] = {}
        for name, array in self._named:
            other = names.setdefault(id(array), name)
            if other != name:
                raise ValueError(f"{name} is {other}: a layer is in the model twice; make one for each place")
        dtypes = {array.dtype for array in self._parameters}
        if len(dtypes) > 1:
            found = ", ".join(f"{name} {array.dtype}" for name, array in self._named)
            raise TypeError(f"all parameters must have one dtype, but these differ: {found}")
        self._dtype = dtypes.pop() if dtypes else None
        self._gradients = [np.zeros_like(array) for array in self._parameters]
        # the optimizer that train_step has last found to be this model's
        self._optimizer: Callable[[], Optimizer | None] = lambda: None
        self._programs: OrderedDict[tuple[Shape, np.dtype[Any], str, bool], Compiled] = OrderedDict()
        if seed is not None:
            rng = np.random.default_rng(seed)
            for layer in layers:
                layer.reset_parameters(rng)

    def __reduce__(self) -> tuple[Any, ...]:
        """For copy.deepcopy and pickle: the layers with their parameters; programs are compiled anew."""
        return _restored, (self._layers, self._loss, self.backend, self._parts)

    def __repr__(self) -> str:
        inside = [str(layer) for layer in self._layers] + ([f"loss={self._loss}"] if self._loss else [])
        return f"Sequential({', '.join(inside)})"

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self._layers

    @property
    def loss_function(self) -> Loss | None:
        """What is minimised, if anything is."""
        return self._loss

    @property
    def backend(self) -> str:
        """The backend in use: "native" or "reference"."""
        return self._kernels.name

    # ---- Running

    def forward(self, x: Any, *, out: Array | None = None) -> Array:
        """The output [batch, ...] for x [batch, ...] of the model's dtype, as a new array or in `out`.

        x: or Sequences(x, lengths) where the sequences of a batch have lengths of their own. Layers behave as
            they do after training: dropout keeps everything.

        Raises TypeError when x or out has another dtype, and ValueError when x has no rows or a shape that a
        layer does not take, or out another shape.
        """
        x, lengths, compiled = self._prepare(x, FORWARD)
        assert compiled.output is not None
        result = compiled.output.array
        if out is not None and not isinstance(out, np.ndarray):
            raise TypeError(f"out must be a NumPy array, not {type(out).__name__}")
        if out is not None and (out.dtype != result.dtype or out.shape != result.shape):
            what = f"{result.dtype} of shape {list(result.shape)}, not {out.dtype} of shape {list(out.shape)}"
            raise (TypeError if out.dtype != result.dtype else ValueError)(f"out must be {what}")
        compiled.run(x, lengths)
        if out is None:
            return result.copy()
        np.copyto(out, result)
        return out

    def loss(self, x: Any, y: Any) -> float:
        """The loss of x against y, with no gradients. Arguments and errors as loss_and_grad's.

        Layers behave as they do after training: dropout keeps everything.
        """
        x, lengths, compiled = self._prepare(x, LOSS)
        return compiled.run_loss(x, lengths, self._target(compiled, y))

    def predict(self, x: Any, *, batch_size: int = 1024) -> Array:
        """forward of many rows, batch_size at a time, as one new array. Arguments and errors as forward's."""
        x, lengths, rows = _rows_of(x)
        out: Array | None = None
        for first, part in _batches(x, lengths, rows, batch_size):
            output = self.forward(part)
            if out is None:
                out = np.empty((rows, *output.shape[1:]), output.dtype)
            out[first : first + len(output)] = output
        return self.forward(x) if out is None else out  # no rows are refused there

    def evaluate(self, x: Any, y: Any, *, batch_size: int = 1024) -> Evaluation:
        """The loss over many rows, batch_size at a time, and for class labels the accuracy.

        The loss is what `loss` would give for all rows at once, but for the rounding of their sum. Arguments
        and errors as loss's.
        """
        x, lengths, rows = _rows_of(x)
        y = _on_host("y", y)
        totals, adds_up = np.zeros(4), False
        for first, part in _batches(x, lengths, rows, batch_size):
            inputs, own_lengths, program = self._prepare(part, LOSS)
            target = self._target(program, y[first : first + len(inputs)])
            value = program.run_loss(inputs, own_lengths, target)
            assert program.loss is not None and program.output is not None
            weight = program.loss.weight(target)
            adds_up = weight is None
            hits = program.loss.hits(program.output.array, target)
            # the mean over no labels at all is NaN
            counted = value if weight is None else value * weight if weight else 0.0
            totals += (counted, weight or 0.0, *hits)
        if not rows or len(y) != rows:
            self.loss(x, y)  # says what is wrong
        sums, weights, correct, labels = totals.tolist()
        mean = sums / weights if weights else math.nan
        return Evaluation(sums if adds_up else mean, correct / labels if labels else None)

    def loss_and_grad(self, x: Any, y: Any) -> tuple[float, list[Array]]:
        """The loss of x against y and its gradients with respect to parameters(), in that order.

        x: [batch, ...] of the model's dtype, or Sequences(x, lengths).
        y: what the loss takes: class labels [batch], or targets of the output's shape and dtype.

        The gradients are the same list of the same arrays every time, filled anew; nothing is accumulated.
        Raises RuntimeError when the model has no loss, TypeError for a wrong dtype, and ValueError for a
        wrong shape, an empty batch or a label out of range; parameters are then as they were.
        """
        x, lengths, compiled = self._prepare(x, TRAIN)
        return compiled.run_loss(x, lengths, self._target(compiled, y)), self._gradients

    def train_step(self, x: Any, y: Any, opt: Any, **options: Any) -> TrainStep:
        """loss_and_grad, then opt.step(gradients, **options). Returns (loss, what opt.step returned).

        Where opt is an optimizer of fastgd's, all of it is one call of native code. opt holds this model's
        parameters() in their order; ValueError when a fastgd optimizer does not. Other errors as
        loss_and_grad's and opt.step's.
        """
        if self._optimizer() is not opt:
            self._check_optimizer(opt)
        if not isinstance(opt, Optimizer):
            value, gradients = self.loss_and_grad(x, y)
            return TrainStep(value, opt.step(gradients, **options))
        x, lengths, compiled = self._prepare(x, TRAIN)
        target = self._target(compiled, y)
        loss = compiled.bind(x, lengths, target)
        try:
            report = opt.step_behind(compiled.program, self._gradients, **options)
        except OperationFailed as failed:
            raise compiled.refusal(failed, x, lengths, target) from None
        return TrainStep(float(loss.value[0]), report)

    def memory_bytes(self, x: Any, y: Any) -> int:
        """Bytes that a training step on such a batch takes: its arena, and the gradients.

        All that lies between the batch and the update: activations, derivatives and scratch memory share the
        arena. Not in it are parameters, the optimizer's state, and what a matrix product's library takes for
        itself. Errors as loss_and_grad's.
        """
        x, _, program = self._prepare(x, TRAIN)
        self._target(program, y)
        return program.arena_bytes + sum(gradient.nbytes for gradient in self._gradients)

    def _check_optimizer(self, opt: Any) -> None:
        """Refuses an optimizer of fastgd's that would update something else with these gradients."""
        if not isinstance(opt, Optimizer):
            return
        held = opt.parameters()
        same = len(held) == len(self._parameters)
        if not same or any(a is not b for a, b in zip(held, self._parameters, strict=True)):
            raise ValueError(
                "the optimizer does not hold this model's parameters, or not in this order: "
                "make it from model.named_parameters()"
            )
        self._optimizer = weakref.ref(opt)

    def _prepare(self, x: Any, purpose: str) -> tuple[Array, Array | None, Compiled]:
        """x checked and contiguous, the lengths of its sequences if they differ, and the program for it."""
        lengths = None
        if type(x) is Sequences:
            x, lengths = x
        if type(x) is not np.ndarray:
            x = _on_host("x", x)
        key = x.shape, x.dtype, purpose, lengths is not None
        program = self._programs.get(key)
        if program is None:
            program = self._compile(x, purpose, lengths is not None)
            self._programs[key] = program
            if len(self._programs) > PROGRAMS:
                self._programs.popitem(last=False)
        else:
            self._programs.move_to_end(key)
        if lengths is not None:
            lengths = checked_lengths(lengths, x.shape)
        if not x.flags.carray:
            x = np.require(x, requirements=("C", "A"))
        return x, lengths, program

    @staticmethod
    def _target(compiled: Compiled, y: Any) -> Array:
        if compiled.loss is None:
            raise RuntimeError("the model has no loss: Sequential(..., loss=nn.CrossEntropyLoss())")
        return compiled.loss.target(y if type(y) is np.ndarray else _on_host("y", y))

    def _compile(self, x: Array, purpose: str, has_lengths: bool) -> Compiled:
        check_input(self._layers, x, self._dtype)
        of = self._kernels, (x.shape, x.dtype), self._dtype or x.dtype
        arrays = self._parameters, self._gradients
        rows = rows_of_parts(len(x), self._parts)
        if purpose == TRAIN and len(rows) > 1 and self._loss is not None:
            return compiled_in_parts(self._layers, self._loss, *of, *arrays, has_lengths, rows)
        return compiled(self._layers, self._loss, *of, purpose, *arrays, has_lengths)

    def gradients(self) -> list[Array]:
        """The list that loss_and_grad fills and returns, one array for each of parameters()."""
        return self._gradients


def check_input(layers: Sequence[Layer], x: Array, dtype: np.dtype[Any] | None) -> None:
    """TypeError or ValueError for an x that layers of this dtype, if they have one, do not take."""
    wanted = layers[0].input_dtype or dtype
    if x.dtype != (wanted or x.dtype) or (wanted is None and x.dtype not in DTYPES):
        how = f"x.astype('{wanted or DTYPES[0]}')"
        raise TypeError(f"x is {x.dtype} but the model computes in {wanted or 'float32 or float64'}: {how}")
    if x.ndim < 2:
        raise ValueError(f"x must have shape [batch, ...], not {list(x.shape)}")
    if x.shape[0] == 0:
        raise ValueError(f"x holds no rows (shape {list(x.shape)})")
    shape = x.shape
    for i, layer in enumerate(layers):
        try:
            shape = layer.output_shape(shape)
        except ValueError as error:
            where = "x" if i == 0 else "its input"
            raise ValueError(f"{where} has a shape that layer {i} does not take: {error}") from None


def _on_host(name: str, value: Any) -> Array:
    """As an array of NumPy's; TypeError for one on a device."""
    if on_device(value, name) is not None:
        raise TypeError(
            f"{name} is on a device, but a Sequential computes on the host: give a copy there, or take "
            "nn.OnDevice(model), or the functions of nn.functional"
        )
    return np.asarray(value)


def _rows_of(x: Any) -> tuple[Any, Any, int]:
    """x as an array, its lengths or None, and how many rows it has."""
    lengths = None
    if type(x) is Sequences:
        x, lengths = x.x, np.asarray(x.lengths)
    x = _on_host("x", x)
    return x, lengths, len(x) if x.ndim else 0


def _batches(x: Array, lengths: Array | None, rows: int, size: int) -> Iterator[tuple[int, Any]]:
    """(first row, what `forward` takes) of one batch after the other."""
    size = checked_size("batch_size", size)
    for first in range(0, rows, size):
        part = x[first : first + size]
        yield first, part if lengths is None else Sequences(part, lengths[first : first + size])


def _restored(layers: tuple[Layer, ...], loss: Loss | None, backend: str, parts: int = 1) -> Sequential:
    return Sequential(*layers, loss=loss, backend=backend, parts=parts)
