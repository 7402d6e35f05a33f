"""Calls of single kernels on plain arrays: checked input, room for output, and what the way back needs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np

from fastgd.arrays import DTYPES, Array, address, bounds
from fastgd.lenders import on_device
from fastgd.memory import DeviceArray, Memory, check_together, empty_beside, memory_of
from fastgd.nn.base import Loss
from fastgd.nn.compiled import explained
from fastgd.nn.kernels import OperationFailed, kernels_of
from fastgd.nn.program import Builder, Shape


def given_array(name: str, array: Any) -> Array:
    """The array, on a device if it is there; all else becomes one of NumPy's."""
    if type(array) is np.ndarray:
        return array
    placed = on_device(array, name)
    return np.asarray(array) if placed is None else cast(Array, placed)


def checked(
    name: str,
    array: Any,
    dtype: np.dtype[Any] | None = None,
    shape: Sequence[Any] = (...,),
    beside: tuple[str, Array] | None = None,
) -> Array:
    """The array, contiguous; TypeError or ValueError that names it unless it is of this dtype and shape.

    dtype: None for float32 or float64. shape: sizes, names of sizes that may be any, and first perhaps `...`.
    beside: name and array in whose memory it must be.
    """
    given = array if type(array) is np.ndarray else given_array(name, array)
    if beside is not None and not (type(given) is type(beside[1]) is np.ndarray):
        check_together(name, given, *beside)
    if dtype is None and given.dtype not in DTYPES:
        raise TypeError(f"{name} must be float32 or float64, not {given.dtype}")
    if dtype is not None and given.dtype != dtype:
        raise TypeError(f"{name} must be {dtype}, not {given.dtype}: {name}.astype('{dtype}')")
    sizes = [size for size in shape if size is not ...]
    fits = given.ndim == len(sizes) or (len(sizes) < len(shape) and given.ndim > len(sizes))
    last = given.shape[given.ndim - len(sizes) :] if fits else ()
    if not fits or any(isinstance(w, int) and w != n for w, n in zip(sizes, last, strict=True)):
        wanted = ", ".join("..." if size is ... else str(size) for size in shape)
        raise ValueError(f"{name} must have shape [{wanted}], not {list(given.shape)}")
    if not isinstance(given, np.ndarray):
        return given if given.packed else cast(Array, given.copy())
    return given if given.flags.c_contiguous and given.flags.aligned else np.require(given, None, ("C", "A"))


def optional(
    name: str, array: Any, dtype: np.dtype[Any], shape: Sequence[Any], beside: tuple[str, Array]
) -> Array | None:
    return None if array is None else checked(name, array, dtype, shape, beside)


def room(
    name: str, out: Any, shape: Shape, beside: tuple[str, Array], apart: Sequence[Array | None]
) -> Array:
    """A new array, or `out` if it can be written and shares no memory with the arrays `apart`.

    beside: name and array whose dtype it has, and in whose memory it is.
    """
    like = beside[1]
    if out is None:
        return np.empty(shape, like.dtype) if type(like) is np.ndarray else empty_beside(like, shape)
    if isinstance(like, np.ndarray) and not isinstance(out, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, not {type(out).__name__}")
    into = checked(name, out, like.dtype, shape, beside)
    own = given_array(name, out)
    usable = own.packed and own.flags.writeable if isinstance(own, DeviceArray) else own.flags.carray
    if not usable:
        raise ValueError(f"{name} must be contiguous, aligned and writeable")
    if any(other is not None and _touch(into, other) for other in apart):
        raise ValueError(f"{name} shares memory with an array that is still needed")
    return into


def _touch(a: Array, b: Array) -> bool:
    """Whether two arrays may share memory."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return np.may_share_memory(a, b)
    if memory_of(a) is not memory_of(b):
        return False
    (first, end), (other, other_end) = bounds(a), bounds(b)
    return first < other_end and other < end


F = TypeVar("F", bound=Callable[..., Any])


def presented(function: F, name: str, cls: type) -> F:
    """The function by its name, with a class's documentation, and its parameters for *parameters."""
    own = inspect.signature(function).parameters.values()
    first = [p for p in own if p.kind is p.POSITIONAL_OR_KEYWORD]
    last = [p for p in own if p.kind is p.KEYWORD_ONLY]
    chosen = [*first, *inspect.signature(cls).parameters.values(), *last]
    function.__signature__ = inspect.Signature(chosen)  # type: ignore[attr-defined]  # for help()
    function.__name__ = function.__qualname__ = name
    function.__doc__ = cls.__doc__
    return function


class Saved(NamedTuple):
    """What a forward pass leaves for the backward pass of its function: to be handed over as it is.

    It refers to arrays that went in and came out, which must stay as they are until then.
    """

    function: str
    #: of y
    shape: Shape
    dtype: np.dtype[Any]
    #: the gradients by name, and their shapes; None for what was not given
    gradients: Mapping[str, Shape | None]
    kept: Sequence[Array | None]
    #: fills the gradients, which it gets behind dy
    run: Callable[..., None]
    #: whether dx may lie where dy does
    in_place: bool
    #: where dy must be
    memory: Memory

    def __repr__(self) -> str:
        return f"Saved({self.function}, y {self.dtype} {list(self.shape)})"


#: what a function returns
Pair = tuple[Array, Saved]


class Call:
    """Calls of one backend's kernels for numbers of one dtype."""

    def __init__(self, backend: str, array: Array, dtype: np.dtype[Any] | None = None) -> None:
        """array: in whose memory is computed, and in whose dtype unless another is given."""
        self.kernels, self._beside = kernels_of(backend, memory_of(array)), array
        self.real: np.dtype[Any] = array.dtype if dtype is None else dtype
        self._dtype = self.kernels.dtype(self.real)

    def empty(self, shape: Sequence[int], dtype: Any = None) -> Array:
        """A new array with anything in it, of the dtype that is computed in unless another is given."""
        return empty_beside(self._beside, shape, self.real if dtype is None else dtype)

    def copy(self, array: Array) -> Array:
        """A new array with the same elements."""
        if isinstance(array, np.ndarray):
            return array.copy()
        new = empty_beside(array, array.shape)
        self.move(new, array)
        return new

    def move(self, to: Array, array: Array) -> None:
        """Puts the elements of an array into another."""
        if isinstance(to, np.ndarray):
            np.copyto(to, array)
        else:
            self.kernels.check(self.kernels.copy(self._dtype, None, array.size, array, to))

    def __call__(self, entry: str, of: Any, sizes: Sequence[int], arrays: Sequence[Array | None]) -> None:
        handles = [self.kernels.null if a is None else self.kernels.handle(a) for a in arrays]
        self.kernels.check(getattr(self.kernels, entry)(self._dtype, of, *sizes, *handles))

    def saved(
        self,
        function: str,
        y: Array,
        gradients: Mapping[str, Array | None],
        kept: Sequence[Array | None],
        run: Callable[..., None],
        in_place: bool = False,
    ) -> Saved:
        """gradients: by name the arrays that they are the derivatives with respect to."""
        shapes = {name: None if of is None else of.shape for name, of in gradients.items()}
        return Saved(function, y.shape, self.real, shapes, kept, run, in_place, memory_of(y))


def _places(out: Any, names: Sequence[str]) -> Mapping[str, Any]:
    """Where each gradient of these names is to be put, by name, if anywhere."""
    if out is None:
        return {}
    if len(names) == 1 and not isinstance(out, dict):
        return {names[0]: out}
    if not isinstance(out, dict) or set(out) - set(names):
        given = sorted(out) if isinstance(out, dict) else type(out).__name__
        raise TypeError(f"out must be a dict with arrays for some of {[*names]}, not {given}")
    return out


def _same(into: Any, array: Array) -> bool:
    """Whether that is the array, whoever lends it."""
    if into is None or into is array or isinstance(array, np.ndarray):
        return into is array
    own = on_device(into, "out")
    return own is not None and (own.pointer, own.shape) == (address(array), array.shape)


def backward_of(function: str, gradients: str) -> Callable[..., Any]:
    """The backward pass of a function; gradients: what it returns, for its documentation."""

    def backward(dy: Any, saved: Saved, *, out: Any = None, needs_dx: bool = True) -> Any:
        if not isinstance(saved, Saved) or saved.function != function:
            given = f"{saved.function}'s" if isinstance(saved, Saved) else type(saved).__name__
            raise TypeError(f"saved must be what {function} gave beside y, not {given}")
        dy = checked("dy", dy, saved.dtype, saved.shape)
        if memory_of(dy) is not saved.memory:
            raise ValueError(f"dy is on {memory_of(dy).name}, y on {saved.memory.name}")
        made: list[Array | None] = []
        places = _places(out, [*saved.gradients])
        for name, shape in saved.gradients.items():
            into = places.get(name)
            apart = [*saved.kept, *made, *([] if saved.in_place and _same(into, dy) else [dy])]
            wanted = shape is not None and (needs_dx or name != "dx")
            made.append(room(f"out of {name}", into, shape or (), ("dy", dy), apart) if wanted else None)
        saved.run(dy, *made)
        return made[0] if len(made) == 1 else tuple(made)

    backward.__name__ = backward.__qualname__ = f"{function}_backward"
    backward.__doc__ = f"""{gradients} of `{function}`, from dy and what it gave beside y.

    dy: the loss's derivative with respect to y, of its shape and dtype. It stays as it is.
    out: where to put gradients, a dict by their names, or an array where there is just one; dx may be put
        where dy is if y has its shape, but for linear. Default: new arrays.
    needs_dx: False when dx is not needed; it is None then.

    What was not given has None for a gradient. Raises TypeError or ValueError for arguments that are none.
    """
    return backward


def loss_and_grad(loss: Loss, prediction: Any, y: Any, out: Any, backend: str) -> tuple[Any, Array]:
    """The loss of a prediction against y, and its gradient with respect to the prediction."""
    given = checked("prediction", prediction)
    grad = room("out", out, given.shape, ("prediction", given), [given])
    kernels = kernels_of(backend, memory_of(given))
    target = given_array("y", y)
    check_together("y", target, "prediction", given)
    to = Builder(kernels, given.dtype, gradients={id(given): grad})
    bound = loss.bind(to, to.input("prediction", given.shape, given.dtype))
    assert bound.dy is not None
    to.keep(bound.dy)
    target = bound.target(y if isinstance(target, np.ndarray) else target)
    if not isinstance(given, np.ndarray):
        from fastgd.nn.eager import loss_on_device

        return loss_on_device(loss, Call(backend, given), given, target, grad)
    to.allocate()
    program = to.kernels.program(to.ops, [(0, 0)] * len(to.ops))
    program.bind("prediction", given)
    program.bind("target", target)
    try:
        program.run()
    except OperationFailed as failed:
        raise explained(failed, to.ops, {"prediction": given, "target": target}) from None
    np.copyto(grad, bound.dy.array)
    return float(bound.value[0]), grad
