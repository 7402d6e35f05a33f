"""Sequential: layers one after another, their gradients, and a training step."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fastgd.arrays import DTYPES, Array
from fastgd.nn.base import Layer, Loss, LossPass, Pass, Shape
from fastgd.nn.kernels import Kernels, kernels_of
from fastgd.optimizer import Optimizer

# Shapes of batch whose buffers are kept: training, its last partial batch, validation and its last one.
PLANS = 4


class TrainStep(NamedTuple):
    """What train_step did: the loss before the update, and what the optimizer's step returned."""

    loss: float
    report: Any


class _Plan(NamedTuple):
    passes: tuple[Pass, ...]
    backward: tuple[Pass, ...]  # those that lead to a parameter, last first
    loss: LossPass | None


class Sequential:
    """Layers applied one after another to [batch, ...], with a loss behind them.

    layers: each its own object; an activation behind a Linear is done in the Linear's pass.
    loss: what loss_and_grad and train_step minimise. Default None: the model is only run forward.
    seed: an integer or numpy Generator to draw all parameters anew with, in order. Default None: they stay.
    backend: "auto" (default), "native" or "reference" (NumPy; the same bits but for matrix products).

    Buffers are planned once for each shape of batch, and those of the last four shapes are kept. A model is
    not to be used by two threads at once. Raises TypeError or ValueError for layers that are none, stand
    twice in the model or differ in dtype.
    """

    def __init__(
        self,
        *layers: Layer,
        loss: Loss | None = None,
        seed: int | np.random.Generator | None = None,
        backend: str = "auto",
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
        self._layers = layers
        self._loss = loss
        self._kernels: Kernels = kernels_of(backend)
        self._named = [
            (f"{i}.{name}", array)
            for i, layer in enumerate(layers)
            for name, array in layer.parameters().items()
        ]
        dtypes = {array.dtype for _, array in self._named}
        if len(dtypes) > 1:
            found = ", ".join(f"{name} {array.dtype}" for name, array in self._named)
            raise TypeError(f"all parameters must have one dtype, but these differ: {found}")
        self._dtype = dtypes.pop() if dtypes else None
        self._parameters = [array for _, array in self._named]
        self._gradients = [np.zeros_like(array) for array in self._parameters]
        # the optimizer that train_step has last found to be this model's
        self._optimizer: Callable[[], Optimizer | None] = lambda: None
        self._plans: OrderedDict[tuple[Shape, np.dtype[Any]], _Plan] = OrderedDict()
        if seed is not None:
            rng = np.random.default_rng(seed)
            for layer in layers:
                layer.reset_parameters(rng)

    def __reduce__(self) -> tuple[Any, ...]:
        """For copy.deepcopy and pickle: the layers with their parameters; buffers are planned anew."""
        return _restored, (self._layers, self._loss, self.backend)

    def __repr__(self) -> str:
        inside = [str(layer) for layer in self._layers] + ([f"loss={self._loss}"] if self._loss else [])
        return f"Sequential({', '.join(inside)})"

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self._layers

    @property
    def backend(self) -> str:
        """The backend in use: "native" or "reference"."""
        return self._kernels.name

    # ---- Running

    def forward(self, x: Any, *, out: Array | None = None) -> Array:
        """The output [batch, ...] for x [batch, ...] of the model's dtype, as a new array or in `out`.

        Raises TypeError when x or out has another dtype, and ValueError when x has no rows or a shape that a
        layer does not take, or out another shape.
        """
        x, plan = self._prepare(x)
        result = plan.passes[-1].output
        if out is not None and not isinstance(out, np.ndarray):
            raise TypeError(f"out must be a NumPy array, not {type(out).__name__}")
        if out is not None and (out.dtype != result.dtype or out.shape != result.shape):
            what = f"{result.dtype} of shape {list(result.shape)}, not {out.dtype} of shape {list(out.shape)}"
            raise (TypeError if out.dtype != result.dtype else ValueError)(f"out must be {what}")
        self._forward(plan, x, training=False)
        if out is None:
            return result.copy()
        np.copyto(out, result)
        return out

    def loss(self, x: Any, y: Any) -> float:
        """The loss of x against y, with no gradients. Arguments and errors as loss_and_grad's."""
        x, plan = self._prepare(x)
        loss = self._loss_of(plan)
        target = loss.target(y)
        return loss.loss(self._forward(plan, x, training=False), target, False)

    def loss_and_grad(self, x: Any, y: Any) -> tuple[float, list[Array]]:
        """The loss of x against y and its gradients with respect to parameters(), in that order.

        x: [batch, ...] of the model's dtype.
        y: what the loss takes: class labels [batch], or targets of the output's shape and dtype.

        The gradients are the same list of the same arrays every time, filled anew; nothing is accumulated.
        Raises RuntimeError when the model has no loss, TypeError for a wrong dtype, and ValueError for a
        wrong shape, an empty batch or a label out of range; gradients and parameters are then as they were.
        """
        x, plan = self._prepare(x)
        loss = self._loss_of(plan)
        target = loss.target(y)
        value = loss.loss(self._forward(plan, x, training=True), target, True)
        dy = loss.dy
        for part in plan.backward:
            dy = part.backward(dy)
        return value, self._gradients

    def train_step(self, x: Any, y: Any, opt: Any, **options: Any) -> TrainStep:
        """loss_and_grad, then opt.step(gradients, **options). Returns (loss, what opt.step returned).

        opt holds this model's parameters() in their order; ValueError when a fastgd optimizer does not. Other
        errors as loss_and_grad's and opt.step's.
        """
        if self._optimizer() is not opt:
            self._check_optimizer(opt)
        value, gradients = self.loss_and_grad(x, y)
        return TrainStep(value, opt.step(gradients, **options))

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

    def _prepare(self, x: Any) -> tuple[Array, _Plan]:
        """x checked and contiguous, and the plan for its shape."""
        if type(x) is not np.ndarray:
            x = np.asarray(x)
        plan = self._plans.get((x.shape, x.dtype))
        if plan is None:
            plan = self._make_plan(x)
        else:
            self._plans.move_to_end((x.shape, x.dtype))
        if not x.flags.carray:
            x = np.require(x, requirements=("C", "A"))
        return x, plan

    def _forward(self, plan: _Plan, x: Array, training: bool) -> Any:
        handle = self._kernels.handle(x)
        for part in plan.passes:
            handle = part.forward(handle, training)
        return handle

    @staticmethod
    def _loss_of(plan: _Plan) -> LossPass:
        if plan.loss is None:
            raise RuntimeError("the model has no loss: Sequential(..., loss=nn.CrossEntropyLoss())")
        return plan.loss

    # ---- Planning

    def _make_plan(self, x: Array) -> _Plan:
        if x.dtype != (self._dtype or x.dtype) or x.dtype not in DTYPES:
            wanted = self._dtype or "float32 or float64"
            how = f"x.astype('{self._dtype or DTYPES[0]}')"
            raise TypeError(f"x is {x.dtype} but the model computes in {wanted}: {how}")
        if x.ndim < 2:
            raise ValueError(f"x must have shape [batch, ...], not {list(x.shape)}")
        if x.shape[0] == 0:
            raise ValueError(f"x holds no rows (shape {list(x.shape)})")
        shapes = [x.shape]
        for i, layer in enumerate(self._layers):
            try:
                shapes.append(layer.output_shape(shapes[-1]))
            except ValueError as error:
                where = "x" if i == 0 else "its input"
                raise ValueError(f"{where} has a shape that layer {i} does not take: {error}") from None
        loss = self._loss.bind(self._kernels, shapes[-1], x.dtype) if self._loss else None
        passes, backward = self._bind(shapes, x.dtype)
        plan = _Plan(tuple(passes), tuple(reversed(backward)), loss)
        self._plans[x.shape, x.dtype] = plan
        if len(self._plans) > PLANS:
            self._plans.popitem(last=False)
        return plan

    def _bind(self, shapes: list[Shape], dtype: np.dtype[Any]) -> tuple[list[Pass], list[Pass]]:
        passes: list[Pass] = []
        backward: list[Pass] = []
        gradients = iter(self._gradients)
        i = 0
        while i < len(self._layers):
            layer = self._layers[i]
            own = {name: next(gradients) for name in layer.parameters()}
            follower = self._layers[i + 1].activation if i + 1 < len(self._layers) else None
            fused = follower if layer.fuses_activation else None
            bound = layer.bind(
                self._kernels, shapes[i], dtype, own, needs_dx=bool(backward), activation=fused
            )
            passes.append(bound)
            if own or backward:
                backward.append(bound)
            i += 2 if fused else 1
        return passes, backward

    # ---- Parameters

    def parameters(self) -> list[Array]:
        """The trainable arrays themselves, in the order of the layers. Change them in place."""
        return list(self._parameters)

    def gradients(self) -> list[Array]:
        """The list that loss_and_grad fills and returns, one array for each of parameters()."""
        return self._gradients

    def named_parameters(self) -> list[tuple[str, Array]]:
        """(name, array) for each parameter, with torch's names: "0.weight", "0.bias", "2.weight" ..."""
        return list(self._named)

    def state_dict(self) -> dict[str, Array]:
        """Name -> copy of each parameter."""
        return {name: array.copy() for name, array in self._named}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Copies each array into the parameter of its name.

        Raises KeyError for a name that is missing or unknown, TypeError for an array of another dtype than
        its parameter's and ValueError for one of another shape; nothing has changed then.
        """
        names = {name for name, _ in self._named}
        missing, unknown = sorted(names - set(state)), sorted(set(state) - names)
        if missing or unknown:
            raise KeyError(
                f"state lacks the parameters {missing} and has {unknown}, which the model does not"
            )
        loaded = []
        for name, array in self._named:
            new = np.asarray(state[name])
            if new.dtype != array.dtype:
                raise TypeError(f"{name} is {new.dtype} in state but {array.dtype} in the model")
            if new.shape != array.shape:
                shapes = f"{list(new.shape)} in state but {list(array.shape)} in the model"
                raise ValueError(f"{name} has shape {shapes}")
            loaded.append(new)
        for (_, array), new in zip(self._named, loaded, strict=True):
            array[...] = new

    def save(self, path: Any) -> None:
        """Writes state_dict() to a safetensors file, beside the old one and then renamed over it.

        However the process ends, `path` is the old file or all of the new; what a killed one leaves is
        removed by the next save. Raises fastgd.checkpoint.CheckpointError when it cannot be written.
        """
        from fastgd.checkpoint import save_file

        save_file(path, self.state_dict(), {})

    def load(self, path: Any) -> None:
        """load_state_dict from a safetensors file, its own or another framework's with the same names."""
        from fastgd.checkpoint import load_file

        self.load_state_dict(load_file(path)[0])


def _restored(layers: tuple[Layer, ...], loss: Loss | None, backend: str) -> Sequential:
    return Sequential(*layers, loss=loss, backend=backend)
