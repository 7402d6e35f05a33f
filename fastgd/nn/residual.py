"""Residual: what some layers make of x is added to x."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fastgd.arrays import Array
from fastgd.nn.activations import Activation, bound
from fastgd.nn.base import Backward, Layer
from fastgd.nn.compiled import chain, copied
from fastgd.nn.program import Builder, Shape, Value


def _checked(layers: Iterable[Any], what: str) -> tuple[Layer, ...]:
    checked = tuple(layers)
    for i, layer in enumerate(checked):
        if not isinstance(layer, Layer):
            raise TypeError(f"{what} {i} of a Residual must be a Layer such as nn.ReLU(), not {layer!r}")
    return checked


def _shape_behind(layers: Iterable[Layer], shape: Shape) -> Shape:
    for layer in layers:
        shape = layer.output_shape(shape)
    return shape


class Residual(Layer):
    """y = f(x) + shortcut(x), with f the layers one after another (He et al. 2016, equations 1 and 2).

    layers: of f, each its own object.
    shortcut: a layer such as Linear, or several one after another, which bring x to the shape of f(x).
        Default None: x itself, which must have the shape of f(x).

    An activation behind it is done with the sum. Parameters and buffers have the names of nested modules:
    "0.weight" of the first layer, "shortcut.weight", or "shortcut.0.weight" where the shortcut has several.
    Raises TypeError for layers that are none, ValueError for one that is there twice, for no layers at all,
    and, when a model is first run, for shapes that do not add.
    """

    fuses_activation = True

    def __init__(self, *layers: Layer, shortcut: Layer | Iterable[Layer] | None = None) -> None:
        self._layers = _checked(layers, "layer")
        if not self._layers:
            raise ValueError("a Residual needs at least one layer")
        one = isinstance(shortcut, Layer)
        several = [shortcut] if one or not isinstance(shortcut, Iterable) else shortcut
        self._shortcut = () if shortcut is None else _checked(several, "shortcut")
        inside = self.inside
        for i, layer in enumerate(inside):
            if any(layer is other for other in inside[:i]):
                raise ValueError(f"{layer} is in a Residual twice; make a layer for each place")
        self._named = {str(i): layer for i, layer in enumerate(self._layers)}
        prefixes = ["shortcut"] if one else [f"shortcut.{i}" for i in range(len(self._shortcut))]
        self._named |= dict(zip(prefixes, self._shortcut, strict=True))

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self._layers

    @property
    def shortcut(self) -> tuple[Layer, ...]:
        """The shortcut's layers; none where it is x itself."""
        return self._shortcut

    @property
    def inside(self) -> tuple[Layer, ...]:
        return self._layers + self._shortcut

    @property
    def input_dtype(self) -> np.dtype[Any] | None:  # type: ignore[override]  # known from its layers only
        return self._layers[0].input_dtype

    def __repr__(self) -> str:
        inside = list(map(str, self._layers))
        if self._shortcut:
            ways = ", ".join(map(str, self._shortcut))
            inside.append(f"shortcut={ways}" if "shortcut" in self._named else f"shortcut=[{ways}]")
        return f"Residual({', '.join(inside)})"

    def parameters(self) -> dict[str, Array]:
        return self._all({prefix: layer.parameters() for prefix, layer in self._named.items()})

    def buffers(self) -> dict[str, Array]:
        return self._all({prefix: layer.buffers() for prefix, layer in self._named.items()})

    def torch_buffers(self) -> dict[str, Array]:
        return self._all({prefix: layer.torch_buffers() for prefix, layer in self._named.items()})

    @staticmethod
    def _all(arrays: Mapping[str, Mapping[str, Array]]) -> dict[str, Array]:
        return {f"{prefix}.{name}": array for prefix, own in arrays.items() for name, array in own.items()}

    def reset_parameters(self, rng: np.random.Generator) -> None:
        for layer in self._named.values():
            layer.reset_parameters(rng)

    def output_shape(self, shape: Shape) -> Shape:
        inner, beside = _shape_behind(self._layers, shape), _shape_behind(self._shortcut, shape)
        if inner != beside:
            how = "" if self._shortcut else "; a shortcut such as nn.Linear can bring it to one shape"
            raise ValueError(f"{self} cannot add {list(inner)} and the shortcut's {list(beside)}{how}")
        return inner

    def bind(self, to: Builder, x: Value, activation: Activation | None = None) -> tuple[Value, Backward]:
        does, saves_input = bound(to.kernels, activation)
        inner, inner_backward = chain(to, self._layers, x)
        beside, beside_backward = chain(to, self._shortcut, x)
        y = to.value(inner.shape)
        z = to.value(y.shape) if saves_input else None
        to.emit("add_forward", does, (y.size,), (inner, beside, z, y))
        saved = z or y
        trained = any(layer.parameters() for layer in self._shortcut)

        def backward(dy: Value, needs_dx: bool) -> Value | None:
            if activation is not None:
                to.emit("activation_backward", does, (dy.size,), (saved, dy, dy))
            if not (needs_dx or trained):
                return inner_backward(dy, False)
            kept = copied(to, dy)
            dx, more = inner_backward(dy, needs_dx), beside_backward(kept, needs_dx)
            if dx is None or more is None:
                return (dx or more) if needs_dx else None
            none = to.kernels.activation("identity")
            to.emit("add_forward", none, (dx.size,), (dx, more, None, dx))
            return dx

        return y, backward
