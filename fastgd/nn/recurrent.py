"""RNN, LSTM and GRU: layers that go through sequences step by step, with a state from each to the next."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from fastgd.arrays import Array
from fastgd.nn.activations import Activation, finite
from fastgd.nn.base import Backward, Layer
from fastgd.nn.layers import checked_dtype, checked_size
from fastgd.nn.program import Builder, Shape, Value

OUTPUTS = ("sequence", "last")
NONLINEARITIES = ("tanh", "relu")
#: of each direction of a layer, in their order
PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")

#: Writes the operation that fills one direction's gradients from dy, and dx unless it is None.
_Pass = Callable[[Value, Value | None], None]


def _checked_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, not {value!r}")
    return str(value)


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
        self.output = _checked_choice("output", output, OUTPUTS)
        if self.carry and self.bidirectional:
            raise ValueError(
                "carry must be False where bidirectional is True: one direction begins at the end"
            )
        self.dtype = checked_dtype(dtype)
        self._parameters = {
            f"{name}_l{k}{suffix}": np.empty(shape, self.dtype)
            for k in range(self.num_layers)
            for suffix in ("", "_reverse")[: self.directions]
            for name, shape in self._shapes(k).items()
        }
        #: of batches of so many rows, for each layer its states
        self._carried: dict[int, list[dict[str, Array]]] = {}
        self.reset_parameters(np.random.default_rng(seed))

    def _shapes(self, k: int) -> dict[str, Shape]:
        """Of the parameters of each direction of layer k."""
        rows = self.gates * self.hidden_size
        inside = self.hidden_size * self.directions if k else self.input_size
        weights = {"weight_ih": (rows, inside), "weight_hh": (rows, self.hidden_size)}
        return {**weights, "bias_ih": (rows,), "bias_hh": (rows,)} if self.bias else {**weights}

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def keeps(self) -> tuple[str, ...]:
        return self.states if self.carry else ()

    @property
    def cell(self) -> str:
        """Its cell's name in csrc/recurrent.def."""
        return type(self).__name__.lower()

    def _options(self) -> dict[str, Any]:
        """Arguments behind hidden_size and what they are when they are not given."""
        return {"num_layers": 1, "bias": True, "bidirectional": False, "output": "sequence", "carry": False}

    def __repr__(self) -> str:
        given = ((name, getattr(self, name), usual) for name, usual in self._options().items())
        options = "".join(f", {name}={value!r}" for name, value, usual in given if value != usual)
        return f"{type(self).__name__}({self.input_size}, {self.hidden_size}{options})"

    def parameters(self) -> dict[str, Array]:
        return dict(self._parameters)

    def reset_parameters(self, rng: np.random.Generator) -> None:
        bound = 1 / math.sqrt(self.hidden_size)
        for array in self._parameters.values():
            array[...] = rng.uniform(-bound, bound, array.shape)

    def reset_state(self) -> None:
        """Has the next batch, of whatever size, begin with a state of 0. For layers with carry=True."""
        for layers in self._carried.values():
            for states in layers:
                for array in states.values():
                    array[...] = 0

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 3 or shape[1] < 1 or shape[2] != self.input_size:
            raise ValueError(f"{self} takes [batch, time, {self.input_size}], not {list(shape)}")
        width = self.hidden_size * self.directions
        return (shape[0], width) if self.output == "last" else (*shape[:2], width)

    def bind(self, to: Builder, x: Value, activation: Activation | None = None) -> tuple[Value, Backward]:
        backwards = []
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

    def _bind_layer(self, to: Builder, x: Value, k: int) -> tuple[Value, Backward]:
        width = self.hidden_size * self.directions
        last = self.output == "last" and k == self.num_layers - 1
        y = to.value((x.shape[0], width) if last else (*x.shape[:2], width))
        directions = [self._bind_direction(to, x, y, k, reverse) for reverse in range(self.directions)]

        def backward(dy: Value, needs_dx: bool) -> Value | None:
            dx = to.value(x.shape) if needs_dx else None
            for direction in directions:
                direction(dy, dx)
            return dx

        return y, backward

    def _bind_direction(self, to: Builder, x: Value, y: Value, k: int, reverse: int) -> _Pass:
        batch, time, inside = x.shape
        sizes = (batch, time, inside, self.hidden_size)
        # the derivative of x that comes of the second direction is added to the first's
        cell, last = to.kernels.cell_find(self.cell.encode()), len(y.shape) == 2
        of = to.kernels.describe("recurrent", cell, reverse, self.directions, last, reverse)
        names = (f"{name}_l{k}{'_reverse' if reverse else ''}" for name in PARAMETERS)
        parameters = [self._parameters.get(name) for name in names]
        states = self.carried_states(batch, k)
        saved = to.value((to.kernels.recurrent_saved(of, *sizes),))
        count = to.kernels.recurrent_scratch(to.kernels.dtype(to.dtype), of, batch, time, self.hidden_size)

        def memory() -> tuple[Value, Value]:
            return saved, to.value((count,), np.float64)

        given = (x, to.lengths, *parameters, *states, y, *states)
        to.emit("recurrent_forward", of, sizes, (*given, *memory()))

        def backward(dy: Value, dx: Value | None) -> None:
            gradients = [to.gradient(parameter) for parameter in parameters]
            given = (to.lengths, *parameters[:2], dy, dx, *gradients)
            to.emit("recurrent_backward", of, sizes, (*given, *memory()))

        return backward

    def carried_states(self, batch: int, k: int) -> tuple[Array | None, Array | None]:
        """h and c that go from batch to batch, where they do, of layer k and batches of so many rows."""
        if self.carry and batch not in self._carried:
            self._carried[batch] = [
                {name: np.zeros((batch, self.hidden_size), self.dtype) for name in self.states}
                for _ in range(self.num_layers)
            ]
        states = self._carried[batch][k] if self.carry else {}
        return states.get("h"), states.get("c")


class RNN(Recurrent):
    """h_t = tanh(x_t W_ih' + b_ih + h_(t-1) W_hh' + b_hh), for x [batch, time, input_size] (Elman 1990).

    input_size, hidden_size: sizes of x_t and h_t, 1 or more.
    num_layers: so many layers on each other, each with the one below's h as its x. Default 1.
    nonlinearity: "tanh" (default) or "relu".
    bias: whether there are b_ih and b_hh. Default True.
    bidirectional: whether a second layer goes from the last step to the first; the output is then
        [h, that layer's h], 2 hidden_size numbers, in every layer. Default False.
    output: "sequence" (default) for all h of the highest layer, [batch, time, hidden_size], or "last" for
        that behind a row's last step, [batch, hidden_size], for the second direction behind its first.
    carry: whether the state behind a batch is where the next batch of as many rows begins, whatever it is
        run for; gradients end at a batch's begin (truncated back-propagation through time, Williams and
        Peng 1990). Each number of rows has a state of its own, which is 0 at first and after reset_state().
        It is no part of a state_dict. Default False: every batch begins with 0.
    dtype: of parameters and activations, float32 (default) or float64.
    seed: an integer or a numpy Generator the parameters are drawn with. Default None: differently each time.

    Where x comes with the lengths of its sequences, as nn.Sequences(x, lengths), h is 0 behind a row's end,
    and its state is that at the end.

    Parameters are fixed arrays, named as torch.nn.RNN's and laid out as they are: for layer k weight_ih_lk
    [hidden_size, its input's size], weight_hh_lk [hidden_size, hidden_size], bias_ih_lk and bias_hh_lk
    [hidden_size], and the same with _reverse. All start uniform in +-1 / sqrt(hidden_size).

    Raises TypeError or ValueError for arguments that are none, and ValueError for carry with bidirectional.
    """

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
        self.nonlinearity = _checked_choice("nonlinearity", nonlinearity, NONLINEARITIES)
        super().__init__(input_size, hidden_size, num_layers, bias, bidirectional, output, carry, dtype, seed)

    @property
    def cell(self) -> str:
        return f"rnn_{self.nonlinearity}"

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "nonlinearity": "tanh"}


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber 1997; Gers, Schmidhuber and Cummins 2000).

        i, f, g, o = sigmoid(a_i), sigmoid(a_f), tanh(a_g), sigmoid(a_o)
        c_t = f c_(t-1) + i g,   h_t = o tanh(c_t)

    with a = x_t W_ih' + b_ih + h_(t-1) W_hh' + b_hh, whose rows are those of i, f, g and o one after the
    other: weight_ih_l0 is [4 hidden_size, input_size] and so on.

    forget_bias: what a_f begins with: that part of each bias_ih starts as this and of each bias_hh as 0
        (Jozefowicz, Zaremba and Sutskever 2015 recommend 1). Default None: as all parameters.

    Other arguments, what comes out, and errors are RNN's.
    """

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
        self.forget_bias = None if forget_bias is None else finite("forget_bias", forget_bias)
        if self.forget_bias is not None and not bias:
            raise ValueError("forget_bias must be None where bias is False")
        super().__init__(input_size, hidden_size, num_layers, bias, bidirectional, output, carry, dtype, seed)

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "forget_bias": None}

    def reset_parameters(self, rng: np.random.Generator) -> None:
        super().reset_parameters(rng)
        if self.forget_bias is not None:
            starts = {"bias_ih": self.forget_bias, "bias_hh": 0.0}
            for name, array in self._parameters.items():
                if name[:7] in starts:
                    array[self.hidden_size : 2 * self.hidden_size] = starts[name[:7]]


class GRU(Recurrent):
    """Gated recurrent unit (Cho et al. 2014), with the reset gate behind the product, as in torch.nn.GRU.

        r, z = sigmoid(a_r), sigmoid(a_z),   n = tanh(x_t W_in' + b_in + r (h_(t-1) W_hn' + b_hn))
        h_t = (1 - z) n + z h_(t-1)

    with a = x_t W_ih' + b_ih + h_(t-1) W_hh' + b_hh. The rows of the parameters are those of r, z and n one
    after the other: weight_ih_l0 is [3 hidden_size, input_size] and so on.

    Arguments, what comes out, and errors are RNN's.
    """

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
