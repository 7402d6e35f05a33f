"""A layer's passes run at once on given arrays: functions of nn.functional made of what `bind` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeVar, cast

import numpy as np

from fastgd.arrays import Array
from fastgd.memory import bytes_of
from fastgd.nn.activations import Activation
from fastgd.nn.base import Layer, Loss
from fastgd.nn.calls import Call, Pair, checked, room
from fastgd.nn.program import Argument, Builder, Refusal, Shape, Storage, Value

L = TypeVar("L", bound=Layer)


@cache
def undrawn(cls: type[L]) -> type[L]:
    """The class, whose parameters are not drawn: given arrays stand for them."""
    return cast(type[L], type(cls.__name__, (cls,), {"reset_parameters": lambda self, rng: None}))


def held(array: Array) -> Value:
    """The array as a value."""
    storage = Storage(array.nbytes)
    storage.memory = bytes_of(array)
    return Value(array.shape, array.dtype, storage)


class Eager(Builder):
    """A program whose operations run when they are written, and whose values have memory of their own.

    stands_for: id of an array that a layer has -> the array that is taken in its place.
    spares: whether the backward pass gets copies of what the forward pass has left.
    """

    def __init__(
        self, call: Call, stands_for: Mapping[int, Array], spares: bool, *, training: bool = True
    ) -> None:
        super().__init__(call.kernels, call.real, training=training)
        self._call, self._stands_for, self._spares = call, stands_for, spares
        self._forward = True
        #: what comes in by name
        self.inputs: dict[str, Value] = {}

    def value(self, shape: Shape, dtype: Any = None) -> Value:
        value = held(self._call.empty(shape, dtype))
        value.storage.kept = self._forward
        return value

    def emit(
        self,
        entry: str,
        of: Any,
        sizes: Sequence[int],
        arguments: Sequence[Argument],
        refusal: Refusal | None = None,
    ) -> None:
        self._call(entry, of, sizes, [self._array(argument) for argument in arguments])

    def _array(self, argument: Argument) -> Array | None:
        if not isinstance(argument, Value):
            return self.instead(argument)
        spared = self._spares and argument.storage.kept and not self._forward
        return self._call.copy(argument.array) if spared else argument.array

    def input(self, name: str, shape: Shape, dtype: Any) -> Value:
        return self.inputs[name].reshaped(shape)

    def emit_first(
        self, entry: str, of: Any, sizes: Sequence[int], arguments: Sequence[Argument], refusal: Refusal
    ) -> None:
        self.emit(entry, of, sizes, arguments, refusal)

    def result(self) -> Array:
        return self._call.empty((1,), np.float64)

    def instead(self, array: Array | None) -> Array | None:
        """What is taken for an array of a layer's."""
        return self._stands_for.get(id(array), array)

    def turn(self, gradients: dict[int, Array]) -> None:
        """What comes is a backward pass, with gradients put here by the ids of a layer's parameters."""
        self._gradients, self._forward = gradients, False


def passes(
    function: str,
    layer: Layer,
    x: Array,
    parameters: Mapping[str, Any],
    out: Any,
    backend: str,
    *,
    activation: Activation | None = None,
    lengths: Array | None = None,
    states: Mapping[str, tuple[Array, Any]] | None = None,
    spares: bool = False,
) -> Pair:
    """y of a layer's forward pass, and what its backward pass needs, for the function of this name.

    parameters: what stands for the layer's, in their order, by the names of the function's arguments; None
        for those that it does not have.
    states: the layer's own by the names of arguments, and what stands for them and is changed in place.
    spares: as Eager's; for layers whose backward pass changes what it reads.

    Raises TypeError or ValueError that names the argument that does not fit the layer.
    """
    if not x.size:
        raise ValueError(f"x holds nothing (shape {list(x.shape)})")
    try:
        shape = layer.output_shape(x.shape)
    except ValueError as error:
        raise ValueError(f"x has a shape that {function} does not take: {error}") from None
    names = [name for name, array in parameters.items() if array is not None]
    own = dict(zip(names, layer.parameters().values(), strict=True))
    given = {
        name: checked(name, parameters[name], x.dtype, mine.shape, ("x", x)) for name, mine in own.items()
    }
    stands_for = {id(own[name]): array for name, array in given.items()}
    call, apart = Call(backend, x), [x, *given.values()]
    for name, (mine, state) in (states or {}).items():
        stands_for[id(mine)] = room(name, state, mine.shape, ("x", x), apart)
        apart.append(stands_for[id(mine)])
    into = None if out is None else room("out", out, shape, ("x", x), apart)
    to = Eager(call, stands_for, spares)
    to.lengths = None if lengths is None else held(lengths)
    made, derive = layer.bind(to, held(x), activation)
    y = made.array
    if into is not None:
        call.move(into, y)
        y = into

    def backward(dy: Array, dx: Array | None, *gradients: Array | None) -> None:
        by_name = zip(parameters, gradients, strict=True)
        to.turn({id(own[name]): array for name, array in by_name if array is not None})
        derivative = derive(held(call.copy(dy)), dx is not None)
        if dx is not None:
            assert derivative is not None
            call.move(dx, derivative.array)

    inputs = {"dx": x, **{f"d{name}": given.get(name) for name in parameters}}
    kept = [x, *given.values(), made.array]
    return y, call.saved(function, y, inputs, kept, backward, in_place=True)


def loss_on_device(
    loss: Loss, call: Call, prediction: Array, target: Array, grad: Array
) -> tuple[Array, Array]:
    """The loss, float64 [] on the device, and its gradient there."""
    to = Eager(call, {}, spares=False)
    to.inputs = {"prediction": held(prediction), "target": held(target)}
    to.turn({id(prediction): grad})
    bound = loss.bind(to, to.input("prediction", prediction.shape, prediction.dtype))
    assert bound.dy is not None
    call.move(grad, bound.dy.array)
    return bound.value.reshape(()), grad
