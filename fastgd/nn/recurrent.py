"""RNN, LSTM and GRU: layers that go through sequences step by step, with a state from each to the next."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from fastgd.arrays import Array
from fastgd.nn.activations import Activation
from fastgd.nn.base import Backward, Layer
from fastgd.nn.layers import checked_dtype, checked_size
from fastgd.nn.program import Builder, Shape, Value

OUTPUTS = ("sequence", "last")


class Recurrent(Layer):
    """What all of them have in common."""

    #: blocks of hidden_size rows in each weight
    gates: ClassVar[int]
    #: the states that go from step to step
    states: ClassVar[tuple[str, ...]] = ("h",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        bidirectional: bool,
        output: str,
        carry: bool,
        dtype: Any,
        seed: int | np.random.Generator | None,
    ) -> None:
        self.input_size = checked_size("input_size", input_size)
        self.hidden_size = checked_size("hidden_size", hidden_size)
        self.num_layers = checked_size("num_layers", num_layers)
        self.bias, self.bidirectional, self.carry = bool(bias), bool(bidirectional), bool(carry)
        if output not in OUTPUTS:
            raise ValueError(f'output must be "sequence" or "last", not {output!r}')
        if carry and bidirectional:
            raise ValueError(
                "carry must be False where bidirectional is True: the reverse direction begins at the end"
            )
        self.output, self.dtype = output, checked_dtype(dtype)
        self._parameters: dict[str, Array] = {}
        for k in range(self.num_layers):
            inside = self.input_size if k == 0 else self.hidden_size * self.directions
            for suffix in ("", "_reverse")[: self.directions]:
                rows = self.gates * self.hidden_size
                shapes: dict[str, Shape] = {
                    "weight_ih": (rows, inside),
                    "weight_hh": (rows, self.hidden_size),
                }
                if self.bias:
                    shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
                for name, shape in shapes.items():
                    self._parameters[f"{name}_l{k}{suffix}"] = np.empty(shape, self.dtype)
        #: of a batch of so many rows, for each layer its states
        self._carried: dict[int, list[dict[str, Array]]] = {}
        self.reset_parameters(np.random.default_rng(seed))

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def cell(self) -> str:
        """Its cell's name in csrc/recurrent.def."""
        return type(self).__name__.lower()

    def __repr__(self) -> str:
        options = {
            "num_layers": 1,
            "bias": True,
            "bidirectional": False,
            "output": "sequence",
            "carry": False,
        }
        given = [
            f", {name}={getattr(self, name)!r}"
            for name, usual in options.items()
            if getattr(self, name) != usual
        ]
        return f"{type(self).__name__}({self.input_size}, {self.hidden_size}{''.join(given)})"

    def parameters(self) -> dict[str, Array]:
        return dict(self._parameters)

    def reset_parameters(self, rng: np.random.Generator) -> None:
        bound = 1 / math.sqrt(self.hidden_size)
        for array in self._parameters.values():
            array[...] = rng.uniform(-bound, bound, array.shape)

    def reset_state(self) -> None:
        """Has the next batch begin with a state of 0, where carry is True."""
        for layers in self._carried.values():
            for states in layers:
                for array in states.values():
                    array[...] = 0

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 3 or shape[1] < 1 or shape[2] != self.input_size:
            raise ValueError(f"{self} takes [batch, time, {self.input_size}], not {list(shape)}")
        last = self.hidden_size * self.directions
        return (shape[0], last) if self.output == "last" else (shape[0], shape[1], last)

    def bind(self, to: Builder, x: Value, activation: Activation | None = None) -> tuple[Value, Backward]:
        backwards: list[Backward] = []
        for k in range(self.num_layers):
            x, backward = self._bind_layer(to, x, k)
            backwards.append(backward)

        def all_backward(dy: Value, needs_dx: bool) -> Value | None:
            derivative: Value | None = dy
            for k in range(self.num_layers - 1, -1, -1):
                assert derivative is not None
                derivative = backwards[k](derivative, needs_dx or k > 0)
            return derivative

        return x, all_backward

    def _state(self, batch: int, k: int) -> dict[str, Array]:
        """Layer k's carried state for batches of so many rows; empty where none is carried."""
        if not self.carry:
            return {}
        if batch not in self._carried:
            self._carried[batch] = [
                {name: np.zeros((batch, self.hidden_size), self.dtype) for name in self.states}
                for _ in range(self.num_layers)
            ]
        return self._carried[batch][k]

    def _bind_layer(self, to: Builder, x: Value, k: int) -> tuple[Value, Backward]:
        batch, time, inside = x.shape
        last = self.output == "last" and k == self.num_layers - 1
        width = self.hidden_size * self.directions
        y = to.value((batch, width) if last else (batch, time, width))
        state = self._state(batch, k)
        states = state.get("h"), state.get("c")
        cell, sizes = to.kernels.cell_find(self.cell.encode()), (batch, time, inside, self.hidden_size)
        writes: list[Callable[[Value, Value | None], None]] = []
        for reverse in range(self.directions):
            arrays = self._arrays(k, reverse)
            of = to.kernels.describe("recurrent", cell, reverse, self.directions, last, False)
            saved = to.value((to.kernels.recurrent_saved(of, *sizes),))
            scratch = to.kernels.recurrent_scratch(
                to.kernels.dtype(to.dtype), of, batch, time, self.hidden_size
            )
            before = x, to.lengths, *arrays, *states, y, *states, saved
            to.emit("recurrent_forward", of, sizes, (*before, to.value((scratch,), np.float64)))

            def write(
                dy: Value,
                dx: Value | None,
                reverse: int = reverse,
                saved: Value = saved,
                scratch: int = scratch,
                arrays: tuple[Array | None, ...] = arrays,
            ) -> None:
                # the second direction's dx is added to the first's
                of = to.kernels.describe("recurrent", cell, reverse, self.directions, last, reverse)
                weights, gradients = arrays[:2], [to.gradient(array) for array in arrays]
                memory = saved, to.value((scratch,), np.float64)
                to.emit("recurrent_backward", of, sizes, (to.lengths, *weights, dy, dx, *gradients, *memory))

            writes.append(write)

        def backward(dy: Value, needs_dx: bool) -> Value | None:
            dx = to.value(x.shape) if needs_dx else None
            for write in writes:
                write(dy, dx)
            return dx

        return y, backward

    def _arrays(self, k: int, reverse: int) -> tuple[Array | None, ...]:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return tuple(self._parameters.get(f"{name}_l{k}{'_reverse' if reverse else ''}") for name in names)


class RNN(Recurrent):
    gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        bidirectional: bool = False,
        *,
        output: str = "sequence",
        carry: bool = False,
        dtype: Any = np.float32,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        self.nonlinearity = nonlinearity
        super().__init__(input_size, hidden_size, num_layers, bias, bidirectional, output, carry, dtype, seed)

    @property
    def cell(self) -> str:
        return f"rnn_{self.nonlinearity}"


class LSTM(Recurrent):
    gates = 4
    states = ("h", "c")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        bidirectional: bool = False,
        *,
        output: str = "sequence",
        carry: bool = False,
        forget_bias: float | None = None,
        dtype: Any = np.float32,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        self.forget_bias = forget_bias
        super().__init__(input_size, hidden_size, num_layers, bias, bidirectional, output, carry, dtype, seed)


class GRU(Recurrent):
    gates = 3

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        bidirectional: bool = False,
        *,
        output: str = "sequence",
        carry: bool = False,
        dtype: Any = np.float32,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, bias, bidirectional, output, carry, dtype, seed)
