"""The monitor for torch: hooks on a module and on its optimizer, torch's own or fastgd's."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from fastgd.arrays import Array
from fastgd.checks import limit, named
from fastgd.monitor.records import Look
from fastgd.monitor.spoiled import Place, first, locate
from fastgd.monitor.units import Flat, Outputs, Units, flat_of
from fastgd.monitor.watch import MOST_SPOILED, Watch, joined, layer_seen

#: class of torch.nn -> (name in csrc/layers.def, its attributes that are the activation's parameters)
ACTIVATIONS: dict[type[Any], tuple[str, tuple[str, ...]]] = {
    torch.nn.ReLU: ("relu", ()),
    torch.nn.Tanh: ("tanh", ()),
    torch.nn.Sigmoid: ("sigmoid", ()),
    torch.nn.ELU: ("elu", ("alpha",)),
    torch.nn.SELU: ("selu", ()),
    torch.nn.GELU: ("gelu", ()),
    torch.nn.SiLU: ("silu", ()),
    torch.nn.Mish: ("mish", ()),
    torch.nn.Softplus: ("softplus", ("beta", "threshold")),
    torch.nn.LogSigmoid: ("logsigmoid", ()),
    torch.nn.Hardtanh: ("hardtanh", ("min_val", "max_val")),
    torch.nn.ReLU6: ("hardtanh", ("min_val", "max_val")),
    torch.nn.Hardsigmoid: ("hardsigmoid", ()),
    torch.nn.Hardswish: ("hardswish", ()),
}

#: layers that take inputs of any size
NORMALISING = (torch.nn.modules.batchnorm._BatchNorm, torch.nn.LayerNorm, torch.nn.GroupNorm)

#: steps that wait at most until the history is brought up to them; losses on another device are fetched then
PENDING = 64

#: seconds, most of them torch's, for calling hooks
NOTING = 25e-6

#: no loss and target, no norm and coefficient
UNTOLD, UNCLIPPED = (None, None), (None, 1.0)


def watch_torch(
    module: torch.nn.Module,
    opt: torch.optim.Optimizer,
    loss_function: Callable[[Any, Any], torch.Tensor] | None = None,
    *,
    every: int | str = "auto",
    budget: float = 0.035,
    rows: int = 64,
) -> TorchMonitor:
    """Watches the training of a torch module by hooks; the loop stays as it is, but for a line.

        watch = monitor.watch_torch(module, opt)
        for x, y in loader:
            loss = torch.nn.functional.cross_entropy(module(x), y)
            watch.loss(loss, y)                     # after the forward pass; the target may be left out
            opt.zero_grad()
            loss.backward()
            opt.step()
        watch.print()
        watch.close()                               # removes the hooks

    module: its submodules are looked at: F.relu is not seen, torch.nn.ReLU is. One that is called several
        times in a pass is looked at when it is first called.
    opt: over its parameters, from torch.optim or fastgd.torch.
    loss_function: of the module's output and the target told; with it, the curvature of a flat loss can be
        measured, on the CPU. Default None.
    every, budget, rows: as Monitor's.

    Raises TypeError for what is no module or optimizer, and ValueError when they share no parameter.
    """
    return TorchMonitor(module, opt, loss_function, every, budget, rows)


class TorchMonitor(Watch):
    """What `watch_torch` returns: a Watch that hooks fill. As a context manager, it closes at the end."""

    NOTING = NOTING

    def __init__(
        self,
        module: torch.nn.Module,
        opt: torch.optim.Optimizer,
        loss_function: Callable[[Any, Any], torch.Tensor] | None,
        every: int | str,
        budget: float,
        rows: int,
    ) -> None:
        if not isinstance(module, torch.nn.Module):
            raise TypeError(f"module must be a torch.nn.Module, not {type(module).__name__}")
        if not isinstance(opt, torch.optim.Optimizer):
            raise TypeError(f"opt must be a torch.optim.Optimizer, not {type(opt).__name__}")
        if loss_function is not None and not callable(loss_function):
            raise TypeError(f"loss_function must be a function, not {type(loss_function).__name__}")
        super().__init__(every, budget, rows)
        held = {id(p) for group in opt.param_groups for p in group["params"]}
        own = [(name, p) for name, p in module.named_parameters() if id(p) in held]
        if not own:
            raise ValueError("opt holds no parameter of module")
        self.module, self.opt, self._loss_function = module, opt, loss_function
        self._names, self._parameters = [name for name, _ in own], [p for _, p in own]
        self._places = {place.name: place for place in _places(module)}
        self._units = {name: Units(place.flat, place.channels_first) for name, place in self._places.items()}
        first = next((place.module for place in self._places.values() if place.leaf), module)
        self._history.normalises = isinstance(first, NORMALISING)
        self._inputs: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        #: loss and target of the step to come, and the target of the last one
        self._told: tuple[Any, Any] = UNTOLD
        self._target: Any = None
        self._clip: tuple[float | None, float] = UNCLIPPED
        self._reports = hasattr(opt, "report")
        self._looking: _Look | None = None
        #: so many steps may be pending before there is more to do than to note one
        self._room = 0
        #: seconds since the last step that were spent on looking
        self._spent = 0.0
        self._handles: list[Any] = [
            module.register_forward_pre_hook(self._see_input, with_kwargs=True),
            opt.register_step_post_hook(self._after_step),
        ]
        self._plan()

    # ---- what the loop tells ----

    def loss(self, value: Any, target: Any = None) -> None:
        """Tells the loss of the step to come, a tensor or number, and the batch's target to be looked at.

        Where batches are accumulated, tell the mean of their losses.
        """
        if not isinstance(value, torch.Tensor):
            value = named("value", float, value)
        else:
            value = value.item() if value.is_cpu else value.detach()
        if isinstance(target, torch.Tensor) and target.requires_grad:
            target = target.detach()
        self._told = value, target

    def clip(self, total_norm: Any, max_norm: float) -> None:
        """Tells what torch.nn.utils.clip_grad_norm_ returned, and its limit; fastgd.torch tells by itself."""
        most, norm = named("max_norm", limit, max_norm), float(total_norm)
        self._clip = norm, min(1.0, most / (norm + 1e-6))

    def close(self) -> None:
        """Removes all hooks. What was seen stays."""
        for handle in [*self._handles, *([self._looking] if self._looking else ())]:
            handle.remove()
        self._handles, self._looking = [], None

    def __enter__(self) -> TorchMonitor:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    # ---- hooks ----

    def _plan(self) -> None:
        """Behind the last step of the history: whether the next is looked at, and else when to ask again."""
        done = self._history.count
        if self.sampling.due(done):
            self._looking, self._room = _Look(self), 1
        else:
            self._looking, self._room = None, self.sampling.until(done, PENDING) - done

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._spent += time.perf_counter() - began

    def _see_input(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if module.training and torch.is_grad_enabled():
            self._inputs = args, kwargs

    def _after_step(self, opt: Any, args: Any, kwargs: Any) -> None:
        loss, self._target = self._told
        norm, coef = self._clip
        skipped = False
        if self._reports:
            report = opt.report
            skipped = report.skipped
            if norm is None:
                norm, coef = report.grad_norm, report.clip_coef
        self._told, self._clip = UNTOLD, UNCLIPPED
        pending = self._pending
        pending.append((loss, norm, coef, skipped))
        if len(pending) >= self._room or not _sound(loss if type(loss) is float else None, norm, skipped):
            self._attend()

    def _attend(self) -> None:
        """What is done behind a step that is looked at, or is not finite, or when many are pending."""
        looking = self._looking
        with self._timed():
            self._settle()
            if looking is not None:
                looking.after_step()
        self.sampling.passed(self._spent)
        if looking is not None:
            self.sampling.looked(self._count - 1, self._spent)
        self._spent = 0.0
        with self._timed():
            self._plan()

    def _settle(self) -> None:
        """Fetches losses, and looks into those that are not finite."""
        if not self._pending:
            return
        told, norms, coefs, skipped = zip(*self._pending, strict=True)
        self._room -= len(told)
        self._pending = []
        losses = [None if value is None else float(value) for value in told]
        self._history.add(losses, norms, coefs, skipped)
        first = self._history.count - len(losses) + 1
        for count, (loss, norm, skip) in enumerate(zip(losses, norms, skipped, strict=True), first):
            if not _sound(loss, norm, skip):
                self._note_nonfinite(count, loss, skip)

    def _note_nonfinite(self, count: int, loss: float | None, skipped: bool) -> None:
        history, before = self._history, self._looking
        history.nonfinite += 1
        if len(history.spoiled) == MOST_SPOILED:
            return
        args, kwargs = self._inputs or ((), {})
        known = before.parameters if before else self._parameters if skipped else None
        gradients = [p.grad for p in self._parameters]
        history.spoiled.append(
            locate(
                count,
                loss,
                inputs=_named(
                    [f"x{i}" if i else "x" for i in range(len(args))] + list(kwargs),
                    [*args, *kwargs.values()],
                ),
                targets=_named(["y"], [self._target]),
                before=None if known is None else _named(self._names, known),
                now=_named(self._names, self._parameters),
                outputs=before.nonfinite if before else None,
                gradients=_named(self._names, gradients),
            )
        )

    # ---- curvature ----

    def _gradients_here(self) -> tuple[Any, Callable[[], Sequence[Any]], list[Array]] | None:
        loss_function, inputs, target = self._loss_function, self._inputs, self._target
        tensors = [*self._parameters, *self.module.buffers()]
        if not (loss_function and inputs) or any(t.device.type != "cpu" for t in tensors):
            return None
        buffers = [buffer.detach() for buffer in self.module.buffers()]
        kept = [buffer.clone() for buffer in buffers]

        def gradients() -> Sequence[Any]:
            for buffer, before in zip(buffers, kept, strict=True):
                buffer.copy_(before)
            # each call sees the same masks, and the caller's random numbers go on as if there had been none
            with torch.random.fork_rng(devices=[]), torch.enable_grad():
                torch.manual_seed(0)
                value = loss_function(self.module(*inputs[0], **inputs[1]), target)
                found: Sequence[Any] = torch.autograd.grad(value, self._parameters, allow_unused=True)
                return found

        return self._parameters, gradients, [buffer.numpy() for buffer in buffers]


class _Place:
    """A submodule that is looked at."""

    def __init__(self, name: str, module: torch.nn.Module, channels_first: bool) -> None:
        self.name, self.module, self.channels_first = name, module, channels_first
        self.leaf = not list(module.children())
        kind, values = ACTIVATIONS.get(type(module), (None, ()))
        self.flat: Flat | None = flat_of(kind, [float(getattr(module, value)) for value in values])
        if isinstance(module, torch.nn.RNN):
            self.flat = flat_of(module.nonlinearity)


def _places(module: torch.nn.Module) -> Iterator[_Place]:
    """The submodules that have parameters of their own, or nothing inside, in the order they were made."""
    channels_first = False
    for name, part in module.named_modules():
        dims = max((p.ndim for p in part.parameters(recurse=False)), default=0)
        channels_first = dims > 2 if dims > 1 else channels_first
        if dims or not list(part.children()):
            yield _Place(name, part, channels_first)


class _Look:
    """All that is looked at in one step: outputs in its forward pass, and parameters before and behind it."""

    def __init__(self, watch: TorchMonitor) -> None:
        self.watch = watch
        self.outputs: dict[str, Outputs] = {}
        self.parameters: list[torch.Tensor] = []
        self.norms: list[float] = []
        self.gradients: list[float] = []
        self.nonfinite: Place | None = None
        self.layer_handles = [
            place.module.register_forward_hook(self._hook(name))
            for name, place in watch._places.items()
            if place.leaf
        ]
        self.step_handle = watch.opt.register_step_pre_hook(self._before_step)

    def remove(self) -> None:
        for handle in (*self.layer_handles, self.step_handle):
            handle.remove()

    def _hook(self, name: str) -> Callable[[Any, Any, Any], None]:
        def see(module: Any, args: Any, output: Any) -> None:
            y = output[0] if isinstance(output, tuple) and output else output
            seen = not module.training or not torch.is_grad_enabled() or name in self.outputs
            if seen or not isinstance(y, torch.Tensor) or not y.is_floating_point():
                return
            with self.watch._timed():
                self._measure(name, _array(y[: self.watch.rows] if y.ndim else y))

        return see

    def _measure(self, name: str, y: Array) -> None:
        self.outputs[name] = self.watch._units[name].measure(y)
        if self.nonfinite is None and not math.isfinite(self.outputs[name].rms):
            self.nonfinite = first([(name, y)])

    def _before_step(self, opt: Any, args: Any, kwargs: Any) -> None:
        with self.watch._timed():
            self._measure_before()

    def _measure_before(self) -> None:
        # the step's own hook stays until torch has gone through all of them
        for handle in self.layer_handles:
            handle.remove()
        watch = self.watch
        given = watch._inputs[0] if watch._inputs else ()
        history = watch._history
        seen = (history.inputs, given[0] if given else None), (history.targets, watch._told[1])
        for facts, value in seen:
            if isinstance(value, (torch.Tensor, np.ndarray)):
                facts.add(_array(value) if isinstance(value, torch.Tensor) else value)
        self.parameters = [p.detach().clone() for p in watch._parameters]
        self.norms = [_norm(p) for p in self.parameters]
        self.gradients = [0.0 if p.grad is None else _norm(p.grad) for p in watch._parameters]

    def after_step(self) -> None:
        self.remove()
        watch, history = self.watch, self.watch._history
        if not (math.isfinite(sum(self.gradients)) or history.spoiled):
            watch._note_nonfinite(watch._count, None, False)
        changes = [_norm(p.detach() - old) for p, old in zip(watch._parameters, self.parameters, strict=True)]
        gradients, sizes = joined(watch._names, self.gradients), joined(watch._names, self.norms)
        changed = joined(watch._names, changes)
        layers = []
        for name, place in watch._places.items():
            own = [p.detach() for p in place.module.parameters(recurse=False)]
            norms = gradients.get(name), sizes.get(name), changed.get(name)
            kind = type(place.module).__name__
            layers.append(layer_seen(name, kind, own, norms, self.outputs.get(name), place.flat))
        history.looks.append(Look(watch._count, tuple(layers), float(watch.opt.param_groups[0]["lr"])))


def _sound(loss: float | None, norm: float | None, skipped: bool) -> bool:
    """Whether a step is finite, as far as it was told; the difference is NaN of what is NaN or infinite."""
    return not (skipped or (loss and loss - loss) or (norm and norm - norm))


def _array(tensor: torch.Tensor) -> Array:
    """A copy on the host; what NumPy has no dtype for as float32."""
    here = tensor.detach().cpu()
    wide = here.float() if here.dtype in (torch.bfloat16, torch.float16) else here
    array: Array = wide.numpy()
    return array


def _norm(tensor: torch.Tensor) -> float:
    values = tensor.coalesce().values() if tensor.is_sparse else tensor
    wide = torch.float64 if values.dtype == torch.float64 else torch.float32
    return float(torch.linalg.vector_norm(values, dtype=wide))


def _named(names: Sequence[str], values: Sequence[Any]) -> Iterator[tuple[str, Array]]:
    """Those that are dense tensors of floats, one after the other, as arrays on the host."""
    for name, value in zip(names, values, strict=True):
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.layout == torch.strided:
            yield name, _array(value)
