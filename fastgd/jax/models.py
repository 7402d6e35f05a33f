"""Models of fastgd.nn as functions of JAX: native calls under jit, with a custom_vjp for their gradients."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fastgd._native import ffi, lib
from fastgd.jax._passes import bind
from fastgd.jax.plans import DY, LENGTHS, Contents, NativeCall, Plan, X, Y, gradient_of
from fastgd.nn.base import Layer
from fastgd.nn.sequential import Sequential, check_input

TARGET = "fastgd_passes"

Params = dict[str, Any]


def function(model: Sequential) -> tuple[Callable[..., Any], Params]:
    """(apply, params): the model as a function of its parameters, and these as they are now.

        apply, params = fgd.function(nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)))
        logits = apply(params, x)
        value, grads = jax.value_and_grad(lambda p: loss(apply(p, x), y))(params)

    params: the arrays of model.named_parameters() by name, copied; model.load_state_dict(params) puts others
        back. The model itself is not used any more, nor changed.
    apply(params, x, lengths=None): its output [batch, ...], with the bits of model.forward. x: [batch, ...]
        of the model's dtype, or of any integer dtype for an Embedding. lengths: those of nn.Sequences,
        integers [batch]. A loss the model has is not part of it.

    It works on CPU, under jit, scan and checkpoint; vmap calls it once for each member. For each shape of
    batch the passes are compiled when JAX traces them, into one native call forward and one back, without
    Python or its lock (but for products of matrices that NumPy computes: see fastgd.info()). It can be
    differentiated once, in reverse mode, with respect to params and to x of floats, with the bits of the
    model's own backward pass. The forward pass then also gives what the backward pass needs of activations;
    nothing is computed twice.

    Raises TypeError for what is no Sequential, for a model in float64 where JAX has none, and for layers that
    keep something from pass to pass: Dropout its counter, BatchNorm its running statistics, and recurrent
    layers their state with carry=True. apply raises KeyError, TypeError or ValueError, naming the array, for
    what does not fit; and, when it runs, JAX's error for an index or a length out of range.
    """
    if not isinstance(model, Sequential):
        raise TypeError(f"model must be an nn.Sequential, not {type(model).__name__}")
    for i, layer in enumerate(model.layers):
        for part in _all([layer]):
            if part.keeps:
                raise TypeError(
                    f"layer {i}, {part}, keeps {', '.join(part.keeps)} from pass to pass, "
                    "which a function of params and x cannot"
                )
    passes = _Passes(model)
    return passes.apply, {name: jnp.array(array) for name, array in model.named_parameters()}


def _all(layers: Sequence[Layer]) -> Iterator[Layer]:
    """The layers, the innermost first."""
    for layer in layers:
        yield from _all(layer.inside)
        yield layer


class _Passes:
    """Plans of a model's passes for the shapes it has been given, and the function that runs them."""

    def __init__(self, model: Sequential) -> None:
        self._layers, self._parameters = model.layers, dict(model.named_parameters())
        self._dtype = next((array.dtype for array in self._parameters.values()), None)
        if self._dtype == np.float64 and not _has_64_bits():
            how = "jax.config.update('jax_enable_x64', True)"
            raise TypeError(f"the model is float64, which JAX has only with {how}")
        self._plans: dict[tuple[Contents, bool, bool, bool], Plan] = {}
        self._run = jax.custom_vjp(self._primal)
        self._run.defvjp(self._forward, _backward, symbolic_zeros=True)

    def apply(self, params: Mapping[str, Any], x: Any, lengths: Any = None) -> Any:
        """The model's output for x [batch, ...]. See fastgd.jax.function."""
        params, x = self._checked(params), self._checked_input(x)
        if lengths is not None:
            lengths = jnp.asarray(lengths)
            if not jnp.issubdtype(lengths.dtype, jnp.integer) or lengths.shape != x.shape[:1]:
                wanted = f"integers of shape [{x.shape[0]}], one for each row"
                raise ValueError(f"lengths must be {wanted}, not {lengths.dtype}{list(lengths.shape)}")
        return self._run(params, x, lengths)

    def _checked(self, params: Mapping[str, Any]) -> Params:
        if not isinstance(params, Mapping):
            raise TypeError(f"params must be arrays by name, not {type(params).__name__}")
        missing, unknown = self._parameters.keys() - params.keys(), params.keys() - self._parameters.keys()
        if missing or unknown:
            raise KeyError(f"params lack {sorted(missing)} and have {sorted(unknown)}, which are none here")
        checked = {name: jnp.asarray(params[name]) for name in self._parameters}
        for name, own in self._parameters.items():
            given = checked[name]
            if given.dtype != own.dtype:
                raise TypeError(f"params[{name!r}] is {given.dtype}, but the model computes in {own.dtype}")
            if given.shape != own.shape:
                raise ValueError(f"params[{name!r}] must have shape {own.shape}, not {given.shape}")
        return checked

    def _checked_input(self, x: Any) -> Any:
        x = jnp.asarray(x)
        shape, dtype = self._contents(x)
        check_input(self._layers, np.broadcast_to(np.zeros((), dtype), shape), self._dtype)
        return x

    def _contents(self, x: Any) -> Contents:
        """The shape and dtype that the layers see."""
        wanted = self._layers[0].input_dtype
        if wanted is not None and jnp.issubdtype(x.dtype, jnp.integer):
            return x.shape, wanted
        return x.shape, np.dtype(x.dtype)

    def _plan(self, x: Any, lengths: Any, *, derives: bool, needs_dx: bool) -> Plan:
        contents, has_lengths = self._contents(x), lengths is not None
        key = contents, has_lengths, derives, needs_dx
        if key not in self._plans:
            self._plans[key] = Plan(
                self._layers,
                self._parameters,
                contents,
                self._dtype or contents[1],
                has_lengths=has_lengths,
                derives=derives,
                needs_dx=needs_dx,
            )
        return self._plans[key]

    def _primal(self, params: Params, x: Any, lengths: Any) -> Any:
        plan = self._plan(x, lengths, derives=False, needs_dx=False)
        return _called(plan.forward, _operands(params, x, lengths))[Y]

    def _forward(self, params: Params, x: Any, lengths: Any) -> tuple[Any, _Saved]:
        """Arguments are what custom_vjp gives for arrays: their value, and whether a derivative is wanted."""
        given = {name: one.value for name, one in params.items()}
        ends = None if lengths is None else lengths.value
        plan = self._plan(x.value, ends, derives=True, needs_dx=x.perturbed)
        arrays = _operands(given, x.value, ends)
        arrays |= _called(plan.forward, arrays)
        assert plan.backward is not None
        return arrays[Y], _Saved({name: arrays[name] for name in plan.backward.reads if name != DY}, plan)


def _operands(params: Params, x: Any, lengths: Any) -> dict[str, Any]:
    ends = {} if lengths is None else {LENGTHS: _as_int64(lengths)}
    return {**params, **ends, X: _as_int64(x) if jnp.issubdtype(x.dtype, jnp.integer) else x}


@partial(jax.tree_util.register_dataclass, data_fields=["arrays"], meta_fields=["plan"])
@dataclass
class _Saved:
    """What a forward pass leaves for the backward pass."""

    arrays: dict[str, Any]
    plan: Plan


def _backward(saved: _Saved, dy: Any) -> tuple[Params, Any, None]:
    plan = saved.plan
    assert plan.backward is not None
    shape, dtype = plan.y
    if isinstance(dy, jax.custom_derivatives.SymbolicZero):
        dy = jnp.zeros(shape, dtype)
    results = {DY: dy, **_called(plan.backward, {**saved.arrays, DY: dy})}
    gradients = {
        name: results[gradient_of(name)] if gradient_of(name) in results else jnp.zeros(shape, dtype)
        for name, (shape, dtype) in plan.parameters.items()
    }
    return gradients, None if plan.dx is None else results[plan.dx].reshape(plan.x[0]), None


def _as_int64(x: Any) -> Any:
    """Integers as the kernels read them: [..., 2] halves of each where JAX has none of this size."""
    if _has_64_bits():
        return x.astype(jnp.int64)
    halves = x.astype(jnp.int32), jnp.where(x < 0, -1, 0)
    return jnp.stack(halves if sys.byteorder == "little" else halves[::-1], axis=-1)


def _has_64_bits() -> bool:
    return bool(jax.dtypes.canonicalize_dtype(np.float64) == np.float64)


@cache
def _registered() -> str:
    functions = ("fgd_run", "fgd_error_text")
    addresses = [int(ffi.cast("uintptr_t", ffi.addressof(lib, name))) for name in functions]
    handler, refusal = bind(*addresses)
    jax.ffi.register_ffi_target(TARGET, handler, platform="cpu")
    for platform in ("CUDA", "ROCM"):
        jax.ffi.register_ffi_target(TARGET, refusal, platform=platform)
    return TARGET


def _called(call: NativeCall, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """What the call writes, by name."""
    shape_of: Any = jax.ShapeDtypeStruct
    shapes = [shape_of(*contents) for contents in call.writes.values()]
    shapes.append(shape_of((call.scratch,), jnp.uint8))
    names = [*call.writes]
    aliases = {i: names.index(name) for i, name in enumerate(call.reads) if name in call.writes}
    native = jax.ffi.ffi_call(_registered(), shapes, input_output_aliases=aliases, vmap_method="sequential")
    results = native(*(arrays[name] for name in call.reads), program=call.program)
    return dict(zip(names, results, strict=False))
