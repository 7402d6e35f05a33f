"""Second derivatives of a loss from its gradients: Hessian-vector products, and the eigenvalues at the ends.

The largest eigenvalue at a minimum is its sharpness; a negative one tells a saddle from a minimum.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fastgd.arrays import Array
from fastgd.checks import named, number, one_of, optional, real, whole
from fastgd.weights import Weights

__all__ = ["eigenvalues", "hessian_vector_product"]

#: which eigenvalues -> what ARPACK calls them, and the sign by which they are sorted
WHICH = {"largest": ("LA", -1), "smallest": ("SA", 1)}

#: up to so many elements, the whole Hessian takes no more products than ARPACK's first subspace
SMALL = 20

Gradients = Callable[[], Any]


def hessian_vector_product(
    params: Any, gradients: Gradients, vector: Any, eps: float | None = None
) -> list[Array]:
    """H v, the change of the gradients along a vector, by central differences; float64, shaped as params.

    H v = (g(w + eps v) - g(w - eps v)) / (2 eps), two gradients for an error in the order of eps^2.

    Where gradients jump, as at the kinks of ReLU and of maxima, the jumps that a step crosses count as well.
    In float64 it is too short to meet many by chance, but a unit that is at the kink itself, such
    as a dead one without a bias, is met by every step. In float32 eigenvalues of such models may be several
    times too large. Smooth activations, GELU or SiLU in place of ReLU, have exact ones in both.

    params: arrays, tensors, nn.Sequential or a torch module, float32 or float64. They are moved in place
        while gradients are taken, and put back bit for bit.
    gradients: takes no arguments and returns one gradient for each parameter where they are now, None for
        zeros: `lambda: model.loss_and_grad(x, y)[1]`. Every call must see the same data; with an
        nn.Sequential as params, its dropout draws the same masks, and running statistics do not drift.
    vector: one array for each parameter.
    eps: Default: sqrt(u) (1 + |w|) / |v|, where u is the rounding error of the least precise parameter. The
        u^(1/3) of smooth functions (Nocedal and Wright 2006, section 8.1) would cross more kinks.

    Raises TypeError for parameters of 16 bits, whose rounding hides the difference, and ValueError for a
    vector that does not fit, and for gradients or parameters that are not finite.
    """
    hessian = _Hessian(params, gradients)
    direction = hessian.weights.joined(vector, "vector")
    if not np.isfinite(direction).all():
        raise ValueError("vector holds NaN or infinity")
    eps = named("eps", optional(_positive), eps)
    with hessian.weights.moving() as move_to:
        return hessian.weights.split(hessian.times(move_to, direction, eps))


def eigenvalues(
    params: Any,
    gradients: Gradients,
    k: int = 1,
    which: str = "largest",
    seed: int = 0,
    *,
    tol: float = 1e-3,
    max_restarts: int = 100,
) -> tuple[Array, list[list[Array]]]:
    """The k largest or smallest eigenvalues of the Hessian and their eigenvectors, by the Lanczos method.

    Returns (values, vectors): float64 [k], the most extreme first, and for each of them an eigenvector of
    length 1 as a list of arrays shaped as params: a direction for `fastgd.landscape`.

    params, gradients: as `hessian_vector_product`'s, where it also says what float32 and ReLU do to it.
    which: "largest" (default) or "smallest", by value and not by magnitude.
    seed: of the vector that the method begins with. Default 0.
    tol: relative accuracy. Default 1e-3; differences of float32 gradients seldom allow less than 1e-4.
    max_restarts: of ARPACK (Lehoucq, Sorensen and Yang 1998), some 20 products each. Default 100.

    Up to 20 parameters, the whole Hessian is taken, and SciPy is not needed. Raises ModuleNotFoundError
    without it for more, RuntimeError when the method does not converge, and errors as
    `hessian_vector_product` does.
    """
    hessian = _Hessian(params, gradients)
    size = hessian.weights.size
    k = named("k", whole(1), k)
    if k > size:
        raise ValueError(f"k must be at most the number of parameters, {size}, not {k}")
    end, sign = WHICH[named("which", one_of(*WHICH), which)]
    seed = named("seed", whole(0), seed)
    tol = named("tol", number(0), tol)
    max_restarts = named("max_restarts", whole(1), max_restarts)
    with hessian.weights.moving() as move_to:
        times = partial(hessian.times, move_to)
        if size <= max(SMALL, 2 * k + 1):
            values, vectors = _dense(times, size)
        else:
            start = np.random.default_rng(seed).standard_normal(size)
            values, vectors = _lanczos(times, k, end, start, tol, max_restarts)
    order = np.argsort(sign * values, kind="stable")[:k]
    return values[order], [hessian.weights.split(vectors[:, i].copy()) for i in order]


class _Hessian:
    """The Hessian at the weights as they were when it was made."""

    def __init__(self, params: Any, gradients: Gradients) -> None:
        self.weights = Weights(params)
        for i, array in enumerate(self.weights.arrays):
            if array.dtype.itemsize < 4:
                raise TypeError(
                    f"parameter {i} is {array.dtype}, too coarse for differences of gradients: "
                    "use a float32 copy of the model"
                )
        if not callable(gradients):
            raise TypeError(f"gradients must be a function of no arguments, not {type(gradients).__name__}")
        self.gradients = gradients
        self.at = self.weights.finite_vector()
        rounding = max(float(np.finfo(array.dtype).eps) for array in self.weights.arrays)
        #: the length of a step
        self.length = rounding**0.5 * (1 + float(np.linalg.norm(self.at)))

    def times(self, move_to: Callable[[Array], None], vector: Array, eps: float | None = None) -> Array:
        """H v. move_to: of the weights, which are left elsewhere."""
        norm = float(np.linalg.norm(vector))
        if norm == 0:
            return np.zeros_like(vector)
        step = self.length / norm if eps is None else eps
        move_to(self.at + step * vector)
        ahead = self._gradient()
        move_to(self.at - step * vector)
        return (ahead - self._gradient()) / (2 * step)

    def _gradient(self) -> Array:
        gradient = self.weights.joined(self.gradients(), "gradient")
        for i, part in enumerate(self.weights.split(gradient)):
            if not np.isfinite(part).all():
                raise ValueError(f"gradient {i} is NaN or infinite near these weights")
        return gradient


def _dense(times: Callable[[Array], Array], size: int) -> tuple[Array, Array]:
    """All eigenvalues and, as columns, eigenvectors."""
    rows = np.array([times(unit) for unit in np.eye(size)])
    values, vectors = np.linalg.eigh((rows + rows.T) / 2)
    return values, vectors


def _lanczos(
    times: Callable[[Array], Array], k: int, end: str, start: Array, tol: float, restarts: int
) -> tuple[Array, Array]:
    """k eigenvalues at that end and, as columns, eigenvectors."""
    try:
        from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"eigenvalues of more than {SMALL} parameters need SciPy: pip install scipy", name=error.name
        ) from None
    operator = LinearOperator((len(start), len(start)), matvec=times, dtype=np.float64)
    try:
        values, vectors = eigsh(operator, k, which=end, v0=start, tol=tol, maxiter=restarts)
    except ArpackNoConvergence as error:
        raise RuntimeError(
            f"{len(error.eigenvalues)} of {k} eigenvalues converged in {restarts} restarts: raise tol or "
            "max_restarts, and see that every call of gradients sees the same data"
        ) from None
    return values, vectors


def _positive(value: Any) -> float:
    result = real(value)
    if not 0 < result < math.inf:
        raise ValueError(f"must be above 0 and finite, not {result!r}")
    return result
