"""Times the matrix products that are there: every provider on the shapes of a multilayer perceptron."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import fastgd
from fastgd import gemm
from fastgd._native import ffi, lib
from fastgd.arrays import DTYPE_CODES, DTYPES
from fastgd.bench import timed


class Shape(NamedTuple):
    """c [m, n] = op(a) [m, k] op(b) [k, n]; "N": as it is, "T": transposed."""

    forms: str
    m: int
    n: int
    k: int


#: forward, derivative of the input and derivative of the weights of a layer, each for a small and a large one
SHAPES = tuple(
    Shape(forms, *sizes)
    for batch, inside, outside in ((32, 256, 256), (256, 1024, 1024))
    for forms, sizes in (
        ("NT", (batch, outside, inside)),
        ("NN", (batch, inside, outside)),
        ("TN", (outside, inside, batch)),
    )
)


def product(shape: Shape, dtype: np.dtype[Any]) -> Callable[[], object]:
    """One product of this shape, by what is in use."""
    rng = np.random.default_rng(0)
    _, m, n, k = shape
    sizes = (m * k, k * n, m * n)
    at = [ffi.from_buffer(rng.standard_normal(size).astype(dtype)) for size in sizes]
    first, second = shape.forms[0], shape.forms[1]
    lda, ldb = (m if first == "T" else k), (k if second == "T" else n)
    head = (DTYPE_CODES[dtype], first.encode(), second.encode(), m, n, k)
    arguments = (*head, at[0], lda, at[1], ldb, 0, at[2], n)
    return lambda: lib.fgd_gemm(*arguments)


def run(
    *,
    shapes: tuple[Shape, ...] = SHAPES,
    threads: int | None = None,
    rounds: int = 15,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Times every product of every provider and returns {"threads", "rounds", "products"}.

    A product has its dtype, shape, and operations a second (2 m n k of them) by provider; medians over rounds
    in which the providers take turns. Afterwards the best provider there is is in use.
    """
    threads = threads or fastgd.get_num_threads()
    fastgd.set_num_threads(threads)
    results = []
    for dtype in DTYPES:
        providers = gemm.info()[dtype.name]["available"]
        for shape in shapes:
            forms, m, n, k = shape
            progress(f"products {forms} {m} x {n} x {k}, {dtype.name}")
            step, operations = product(shape, dtype), 2 * m * n * k
            repeats = max(1, round(2e8 / operations))
            taken: dict[str, list[float]] = {provider: [] for provider in providers}
            for turn in range(rounds + 1):
                for provider in providers:
                    gemm.use(provider)
                    gemm.ensure(dtype.name)
                    seconds = timed(step, repeats)
                    if turn:  # the first one warms up
                        taken[provider].append(seconds)
            rates = {name: operations / statistics.median(seconds) for name, seconds in taken.items()}
            results.append({"dtype": dtype.name, "forms": forms, "m": m, "n": n, "k": k, "rates": rates})
    gemm.use(None)
    return {"threads": threads, "rounds": rounds, "products": results}
