"""A model's passes on a CUDA device: its layers write the operations, which run there at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastgd.arrays import DTYPES, Array
from fastgd.lenders import LEGACY_STREAM, owner_stream
from fastgd.memory import DeviceArray, check_together, open_device, placed
from fastgd.nn.base import LossPass
from fastgd.nn.calls import Call, given_array
from fastgd.nn.compiled import chain
from fastgd.nn.eager import Eager, held
from fastgd.nn.kernels import kernels_of
from fastgd.nn.model_state import Named
from fastgd.nn.program import Builder, Shape, Value
from fastgd.nn.sequential import Sequences, Sequential, TrainStep, check_input, checked_lengths
from fastgd.optimizer import Optimizer


class _Passes(Eager):
    """Operations that run on the device, where what layers have in floating point is copied to."""

    def __init__(self, call: Call, copies: Callable[[Array], Array], training: bool) -> None:
        super().__init__(call, {}, spares=False, training=training)
        self._copies = copies

    def take(self, gradients: dict[int, Array]) -> None:
        """Has a backward pass follow, with gradients put here by the ids of parameters."""
        self._gradients = gradients

    def instead(self, array: Array | None) -> Array | None:
        own = isinstance(array, np.ndarray) and array.dtype in DTYPES
        return self._copies(array) if own and array is not None else array


class OnDevice:
    """A Sequential on a CUDA device: copies of its parameters lie there, and its passes run there.

    model: whose layers and loss these are. Its own arrays stay as they are until `to_model`; counters of
        dropout's masks and of batches are the model's own, on the host.
    device: "cuda" (default), or "cuda:1" for the second device.

        on_device = nn.OnDevice(model)
        opt = fastgd.AdamW(on_device.named_parameters())
        loss, report = on_device.train_step(x, y, opt)  # x and y on the device

    Passes have the bits of the CPU's but for matrix products, which are torch's or CuPy's. They run on the
    legacy default stream, and nothing waits for them: a loss is a DeviceArray, float64 [], read by host().
    Convolutions, pooling and attention have no kernels there. The state that recurrent layers with carry=True
    hand from batch to batch is one of the device's own.

    Raises TypeError or ValueError for what is no such model or device, and ImportError, with the remedy,
    where CUDA cannot be used.
    """

    def __init__(self, model: Sequential, device: str = "cuda") -> None:
        if not isinstance(model, Sequential):
            raise TypeError(f"model must be a Sequential, not {type(model).__name__}")
        kind, _, number = str(device).partition(":")
        if kind != "cuda" or not (number or "0").isdecimal():
            raise ValueError(f"device must be 'cuda', or 'cuda:1' and so on, not {device!r}")
        self._memory = open_device(kind, int(number or 0))
        self._kernels = kernels_of("auto", self._memory)
        self._model, self._loss = model, model.loss_function
        #: id of an array of a layer's -> it, which keeps the id its own, and the copy on the device
        self._copies: dict[int, tuple[Array, Array]] = {}
        self._named = [(name, self._copy(array)) for name, array in model.named_parameters()]
        self._parameters = [array for _, array in self._named]
        self._gradients: list[Array] = [self._memory.zeros(a.shape, a.dtype) for a in self._parameters]
        self._dtype = self._parameters[0].dtype if self._parameters else None
        #: what batches have been found to fit, and how their targets are checked
        self._fitting: dict[tuple[Shape, np.dtype[Any], bool, bool], LossPass | None] = {}

    def __repr__(self) -> str:
        return f"OnDevice({self._model!r}, {self._memory.name!r})"

    def _copy(self, array: Array) -> Array:
        """The copy on the device of an array of a layer's, made when it is first asked for."""
        known = self._copies.get(id(array))
        if known is None:
            known = self._copies[id(array)] = array, placed(self._memory, array)
        return known[1]

    # ---- What there is

    def parameters(self) -> list[Array]:
        """The trainable arrays on the device, in the order of the layers."""
        return list(self._parameters)

    def named_parameters(self) -> Named:
        """(name, array) for each parameter, with torch's names."""
        return list(self._named)

    def gradients(self) -> list[Array]:
        """The list that loss_and_grad fills and returns, one array for each of parameters()."""
        return self._gradients

    def to_model(self) -> Sequential:
        """Copies parameters and running statistics back into the model, when all work is done; gives it."""
        for array, copy in self._copies.values():
            array[...] = self._memory.to_host(copy)
        return self._model

    # ---- Running

    def forward(self, x: Any) -> Array:
        """The output [batch, ...] on the device, for x [batch, ...] there, as after training.

        x: or Sequences(x, lengths) with the lengths on the host. Raises TypeError or ValueError for an x of
        another memory, dtype or shape, and NotImplementedError for layers that have no kernels on CUDA.
        """
        _, output, _ = self._forward(x, None, training=False)
        return output.array

    def loss(self, x: Any, y: Any) -> Array:
        """The loss of x against y, float64 [] on the device, with no gradients. Errors as loss_and_grad's."""
        to, output, _ = self._forward(x, y, training=False)
        return self._loss_of(to, output).value.reshape(())

    def loss_and_grad(self, x: Any, y: Any) -> tuple[Array, list[Array]]:
        """The loss, float64 [] on the device, and the gradients with respect to parameters().

        y: on the device, what the model's loss takes. The gradients are the same arrays every time.

        Raises RuntimeError when the model has no loss, and else what forward does. A label out of range gives
        NaN, for nobody waits to look at labels.
        """
        to, output, backward = self._forward(x, y, training=True)
        bound = self._loss_of(to, output)
        assert bound.dy is not None
        backward(bound.dy, False)
        return bound.value.reshape(()), self._gradients

    def train_step(self, x: Any, y: Any, opt: Any, **options: Any) -> TrainStep:
        """loss_and_grad, then opt.step(gradients, **options). Returns (loss, what opt.step returned).

        opt holds these parameters() in their order; ValueError when an optimizer of fastgd's does not.
        """
        if isinstance(opt, Optimizer):
            own = opt.parameters()
            if len(own) != len(self._parameters) or any(
                a is not b for a, b in zip(own, self._parameters, strict=True)
            ):
                raise ValueError(
                    "the optimizer does not hold these parameters, or not in this order: make it from "
                    "named_parameters() of the OnDevice"
                )
        loss, gradients = self.loss_and_grad(x, y)
        return TrainStep(loss, opt.step(gradients, **options))  # type: ignore[arg-type]  # a number there

    # ---- Passes

    def _forward(self, x: Any, y: Any, *, training: bool) -> tuple[_Passes, Value, Any]:
        """Runs the layers: what runs more, their output, and what runs them backward."""
        lengths = None
        if type(x) is Sequences:
            x, lengths = x
        x = self._given("x", x)
        if lengths is not None:
            lengths = checked_lengths(lengths, x.shape)
        target = self._fits(x, y, training, lengths)
        to = _Passes(Call("auto", x, self._dtype or x.dtype), self._copy, training)
        if training:
            pairs = zip(self._model.parameters(), self._gradients, strict=True)
            to.take({id(parameter): gradient for parameter, gradient in pairs})
        if lengths is not None:
            to.lengths = held(lengths)
        if target is not None:
            to.inputs["target"] = held(target)
        output, backward = chain(to, self._model.layers, held(x))
        return to, output, backward

    def _loss_of(self, to: _Passes, output: Value) -> LossPass:
        assert self._loss is not None
        return self._loss.bind(to, output)

    def _given(self, name: str, value: Any) -> Array:
        """An array on this device, in C order, whose stream is the default one."""
        array: Any = given_array(name, value)
        beside: Any = DeviceArray(self._memory, 0, (), None, np.dtype(np.uint8), None)
        check_together(name, array, "the model", beside)
        if not array.packed:
            array = array.copy()
        if owner_stream(array) not in (None, 0, LEGACY_STREAM):
            # another stream may still be at work on it
            memory: Any = self._memory
            with memory.device.current():
                memory.device.wait()
        here = array.memory, array.pointer, array.shape, None, array.dtype
        return DeviceArray(*here, _Kept(array))  # type: ignore[return-value]  # under the type of NumPy's

    def _fits(self, x: Array, y: Any, training: bool, lengths: Array | None) -> Array | None:
        """The target for the loss, checked as x is, before anything runs."""
        key = x.shape, x.dtype, training, lengths is not None
        with_loss = y is not None or training
        if with_loss and self._loss is None:
            raise RuntimeError("the model has no loss: Sequential(..., loss=nn.CrossEntropyLoss())")
        if key not in self._fitting:
            self._fitting[key] = self._tried(x, training, lengths is not None)
        bound = self._fitting[key]
        return bound.target(self._given("y", y)) if with_loss and bound is not None else None

    def _tried(self, x: Array, training: bool, has_lengths: bool) -> LossPass | None:
        """Writes the operations without running them, to see that there are kernels for all."""
        check_input(self._model.layers, x, self._dtype)
        pairs = zip(self._model.parameters(), self._gradients, strict=True)
        ids = {id(parameter): gradient for parameter, gradient in pairs} if training else {}
        to = Builder(self._kernels, self._dtype or x.dtype, training=training, gradients=ids)
        if has_lengths:
            to.lengths = to.input("lengths", x.shape[:1], np.int64)
        output, backward = chain(to, self._model.layers, to.input("x", x.shape, x.dtype))
        bound = None
        if self._loss is not None:
            bound = self._loss.bind(to, output)
            if bound.dy is not None:
                backward(bound.dy, False)
        for op in to.ops:
            getattr(self._kernels, op.entry)
        return bound


class _Kept:
    """Keeps what owns memory, and does not say on which stream that owner works."""

    def __init__(self, array: Any) -> None:
        self.array = array
