"""A model's passes compiled for one shape of batch: layers, loss and gradients as one program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastgd.arrays import Array
from fastgd.nn.base import Backward, Layer, Loss, LossPass
from fastgd.nn.kernels import Kernels, OperationFailed, Program
from fastgd.nn.program import Argument, Builder, Op, Shape, Value

#: what a program is for: outputs, the loss alone, the loss and its gradients, or what training's forward pass
#: leaves in buffers
FORWARD, LOSS, TRAIN, BUFFERS = "forward", "loss", "train", "buffers"


class Compiled(NamedTuple):
    """A program, and where it leaves what it computes."""

    program: Program
    loss: LossPass | None
    #: the model's output, which programs for gradients do not keep
    output: Value | None
    #: bytes of memory for everything between the input and the gradients
    arena_bytes: int
    #: the program's operations
    ops: Sequence[Op]
    #: makes the program that takes all rows at once where this one takes them in parts: its errors tell which
    #: row they are about
    whole: Callable[[], Compiled] | None = None

    def run(self, x: Array, lengths: Array | None = None) -> None:
        """Runs a program that has no loss."""
        self._bind(x, lengths)
        try:
            self.program.run()
        except OperationFailed as failed:
            raise self.refusal(failed, x, lengths) from None

    def run_loss(self, x: Array, lengths: Array | None, target: Array) -> float:
        """Runs a program that has one, and returns it."""
        loss = self.bind(x, lengths, target)
        try:
            self.program.run()
        except OperationFailed as failed:
            raise self.refusal(failed, x, lengths, target) from None
        return float(loss.value[0])

    def refusal(
        self, failed: OperationFailed, x: Array, lengths: Array | None, target: Array | None = None
    ) -> Exception:
        """What to raise: what the operation says itself, or else what there is."""
        if self.whole is not None and target is not None:
            try:
                self.whole().run_loss(x, lengths, target)
            except Exception as error:
                return error
            return failed
        return explained(failed, self.ops, {"x": x, "lengths": lengths, "target": target})

    def bind(self, x: Array, lengths: Array | None, target: Array) -> LossPass:
        """Sets the inputs of the next run, which must be kept until then."""
        assert self.loss is not None
        self._bind(x, lengths)
        self.program.bind("target", target)
        return self.loss

    def _bind(self, x: Array, lengths: Array | None) -> None:
        self.program.bind("x", x)
        if lengths is not None:
            self.program.bind("lengths", lengths)


def explained(failed: OperationFailed, ops: Sequence[Op], inputs: Mapping[str, Array | None]) -> Exception:
    """What the operation that failed says about its arguments, or else the failure itself."""
    op = ops[failed.op]
    own = op.refusal(failed.code, [_array_of(a, inputs) for a in op.arguments]) if op.refusal else None
    return own or failed


def _array_of(argument: Argument, inputs: Mapping[str, Array | None]) -> Array | None:
    if not isinstance(argument, Value):
        return argument
    given = inputs.get(argument.storage.name) if argument.storage.name else argument.array
    return None if given is None else given.reshape(argument.shape)


def chain(to: Builder, layers: Sequence[Layer], x: Value) -> tuple[Value, Backward]:
    """Binds layers one behind the other, as Layer.bind does one; activations go with the layer before."""
    passes: list[tuple[bool, Backward]] = []
    y, i = x, 0
    while i < len(layers):
        layer = layers[i]
        follower = layers[i + 1].activation if i + 1 < len(layers) else None
        fused = follower if layer.fuses_activation else None
        y, backward = layer.bind(to, y, fused)
        passes.append((bool(layer.parameters()), backward))
        i += 2 if fused else 1
    trained = [has for has, _ in passes]

    def all_backward(dy: Value, needs_dx: bool) -> Value | None:
        derivative: Value | None = dy
        for k in range(len(passes) - 1, -1, -1):
            leads_on = needs_dx or any(trained[:k])
            if derivative is None or not (leads_on or trained[k]):
                return None
            derivative = passes[k][1](derivative, leads_on)
        return derivative

    return y, all_backward


def compiled(
    layers: Sequence[Layer],
    loss: Loss | None,
    kernels: Kernels,
    x: tuple[Shape, np.dtype[Any]],
    dtype: np.dtype[Any],
    purpose: str,
    parameters: Sequence[Array],
    gradients: Sequence[Array],
    has_lengths: bool = False,
) -> Compiled:
    """The program for inputs x of this shape and dtype. Without a loss, for outputs only.

    purpose: FORWARD, LOSS, TRAIN or BUFFERS. gradients: where TRAIN leaves those of the parameters.
    """
    ids = {id(p): g for p, g in zip(parameters, gradients, strict=True)} if purpose == TRAIN else {}
    to = Builder(kernels, dtype, training=purpose in (TRAIN, BUFFERS), gradients=ids)
    if has_lengths:
        to.lengths = to.input("lengths", (x[0][0],), np.int64)
    inputs = to.input("x", *x)
    output, backward = chain(to, layers, inputs)
    if output.storage is inputs.storage:
        output = copied(to, output)
    loss_pass = None
    if purpose in (FORWARD, BUFFERS) or loss is None:
        to.keep(output)
    else:
        loss_pass = loss.bind(to, output)
        if loss_pass.dy is not None:
            backward(loss_pass.dy, False)
        else:
            to.keep(output)
    size = to.allocate()
    program = kernels.program(to.ops, to.gradient_ranges(gradients))
    return Compiled(program, loss_pass, None if to.with_gradients else output, size, to.ops)


class LayerPasses:
    """One layer's passes, forward and backward, as a program of its own: to time it and to test it.

    x: the shape and dtype of its input. needs_dx: whether its derivative is asked for, where it has the
    layer's dtype. Runs overwrite dy where the layer's backward pass does.
    """

    def __init__(
        self,
        layer: Layer,
        kernels: Kernels,
        x: tuple[Shape, np.dtype[Any]],
        dtype: Any,
        needs_dx: bool = True,
    ) -> None:
        parameters = list(layer.parameters().values())
        self.gradients = {name: np.zeros_like(array) for name, array in layer.parameters().items()}
        pairs = zip(parameters, self.gradients.values(), strict=True)
        to = Builder(kernels, np.dtype(dtype), training=True, gradients={id(p): g for p, g in pairs})
        self._y, backward = layer.bind(to, to.input("x", *x))
        to.keep(self._y)
        dx = backward(to.input("dy", self._y.shape, self._y.dtype), needs_dx and x[1] == to.dtype)
        if dx is not None and not dx.storage.name:
            to.keep(dx)
        to.allocate()
        self._dx = dx
        self._program = kernels.program(to.ops, [(0, 0)] * len(to.ops))

    def bind(self, x: Array, dy: Array) -> None:
        """Sets the inputs, which are not copied."""
        self._x, self._dy = x, dy
        self._program.bind("x", x)
        self._program.bind("dy", dy)

    def run(self) -> None:
        self._program.run()

    @property
    def y(self) -> Array:
        return self._y.array

    @property
    def dx(self) -> Array | None:
        if self._dx is None:
            return None
        return self._dy.reshape(self._dx.shape) if self._dx.storage.name else self._dx.array


def copied(to: Builder, x: Value) -> Value:
    """The same elements in memory of their own."""
    copy = to.value(x.shape)
    to.emit("activation_forward", to.kernels.activation("identity"), (x.size,), (x, copy))
    return copy
