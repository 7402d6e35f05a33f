"""Compares everything that can compute on this machine: backends, instruction sets and thread counts, bit for
bit with each other, and in value with the float64 oracle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from fastgd import backends, machine, optim
from fastgd.arrays import DTYPES, Array
from fastgd.backends import AUTO
from fastgd.memory import HOST, kind_of, on_host, open_device, placed
from fastgd.oracle import ORACLE, trajectory
from fastgd.report import StepReport
from fastgd.rules import RULES, Rule

#: sizes around the vector widths (4, 8, 16 elements), the lanes of sums (16) and the chunk (16384)
SIZES = (0, 1, 3, 4, 5, 15, 16, 17, 31, 33, 100, 16383, 16384, 16385, 40000)
THREADS = (1, 2, 3, 8)

#: largest accepted difference from the oracle in the end, relative to the largest parameter: a few roundings
#: of the dtype a step
TOLERANCE = {np.dtype(np.float32): 1e-6, np.dtype(np.float64): 2e-15}


class Runner(NamedTuple):
    """A way to compute: a backend, and for the native one an instruction set and a number of threads."""

    backend: str
    instruction_set: str | None = None
    threads: int = 1

    def __str__(self) -> str:
        if self.instruction_set is None:
            return self.backend
        return f"{self.backend} {self.instruction_set}, threads {self.threads}"

    @contextmanager
    def active(self) -> Iterator[None]:
        before = machine.get_instruction_set(), machine.get_num_threads()
        machine.set_instruction_set(self.instruction_set or before[0])
        machine.set_num_threads(self.threads)
        try:
            yield
        finally:
            machine.set_instruction_set(before[0])
            machine.set_num_threads(before[1])

    def holds(self, values: Array) -> Array:
        """The values where this way to compute has its arrays."""
        kind = backends.get(self.backend).memory
        return values if kind == kind_of(HOST) else placed(open_device(kind, 0), values)


def runners() -> list[Runner]:
    """Every way to compute on this machine; the reference first. ImportError when there is no native one."""
    backends.get("native")
    usable = [name for name, ok in machine.instruction_sets().items() if ok]
    native = [Runner("native", name, threads) for name in usable for threads in THREADS]
    gpu = [Runner(AUTO["cuda"])] if backends.unavailable(AUTO["cuda"]) is None else []
    return [Runner("reference"), *native, *gpu]


def _shape(rule: Rule, size: int, turn: int) -> tuple[int, ...]:
    """A shape with so many elements in which the rule is at home; another one with every turn."""
    if rule.factored is None and rule.ndim is None:
        return (size,)
    short = max(d for d in range(1, math.isqrt(size) + 1) if size % d == 0) if size else 0
    long = size // short if size else 3
    third = next((d for d in (2, 3, 5) if short % d == 0 and size), 1)
    matrices = [(short, long), (long, short)]
    others = [(size,), (third, short // third, long), (long, third, short // third)]
    shapes: list[tuple[int, ...]] = [*matrices, *([] if rule.ndim else others)]
    return shapes[turn % len(shapes)]


class Case(NamedTuple):
    """One training run of a few steps on random data."""

    rule: str
    settings: dict[str, Any]
    dtype: Any
    params: list[Array]
    #: a list for each step
    grads: list[list[Array]]
    clip_norm: float | None

    @property
    def hyperparameters(self) -> dict[str, Any]:
        return {**RULES[self.rule].defaults, **self.settings}


def cases(rule: str, dtype: Any, sizes: Sequence[int] = SIZES, seed: int = 0) -> Iterator[Case]:
    """A case for each setting of the oracle's table; every other one clips by the global norm."""
    for k, settings in enumerate(ORACLE[rule].settings):
        rng = np.random.default_rng([seed, k])
        shapes = [_shape(RULES[rule], n, i + k) for i, n in enumerate(sizes)]
        params = [rng.standard_normal(s).astype(dtype) for s in shapes]
        grads = [[rng.standard_normal(s).astype(dtype) for s in shapes] for _ in range(ORACLE[rule].steps)]
        yield Case(rule, settings, dtype, params, grads, 1.5 if k % 2 else None)


class Outcome(NamedTuple):
    """What a run left behind."""

    params: list[Array]
    #: slot name -> array, and name -> number where the rule carries one, for each parameter
    state: list[dict[str, Array]]
    reports: list[StepReport]

    def same_bits(self, other: Outcome) -> bool:
        mine, others = self._flat(), other._flat()
        return self.reports == other.reports and all(
            a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in zip(mine, others, strict=True)
        )

    def _flat(self) -> list[Array]:
        return self.params + [entry[name] for entry in self.state for name in sorted(entry)]


def compute(case: Case, runner: Runner, place: Callable[[Array], Array] = np.copy) -> Outcome:
    """Runs the case that way, on copies; ``place`` makes them and decides where their elements lie."""
    with runner.active():
        params = [runner.holds(place(p)) for p in case.params]
        opt = optim.create(case.rule, params, backend=runner.backend, **case.settings)
        reports = [
            opt.step([runner.holds(place(g)) for g in grads], clip_norm=case.clip_norm)
            for grads in case.grads
        ]
        entries = opt.state_dict()["state"].values()
        state = [{k: np.asarray(v) for k, v in entry.items() if k != "step"} for entry in entries]
    return Outcome([on_host(p) for p in params], state, reports)


def right(case: Case) -> list[Array]:
    """The parameters that the oracle ends with, in float64."""
    coefs = [1.0] * len(case.grads)
    if case.clip_norm is not None:
        for t, grads in enumerate(case.grads):
            square = sum(float(np.sum(np.square(g.astype(np.longdouble)))) for g in grads)
            coefs[t] = min(1.0, case.clip_norm / (square**0.5 + 1e-6))
    return trajectory(case.rule, case.params, case.grads, case.hyperparameters, coefs)


def oracle_error(expected: list[Array], outcome: Outcome) -> float:
    """Largest difference from what is `right`, relative to the largest parameter."""
    scale = max(float(np.abs(r).max()) for r in expected if r.size)
    errors = [
        float(np.abs(r - p.astype(np.float64)).max())
        for r, p in zip(expected, outcome.params, strict=True)
        if r.size
    ]
    return max(errors) / scale


class Verdict(NamedTuple):
    """The result for one rule in one dtype."""

    rule: str
    dtype: str
    #: largest error of any runner against the oracle, relative to the largest parameter
    error: float
    tolerance: float
    #: the runners that were compared, and those whose bits differ from the reference
    runners: list[str]
    different: list[str]

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance and not self.different


def verify(rules: Sequence[str] | None = None) -> list[Verdict]:
    """Runs every rule in every dtype on every backend, instruction set and thread count of this machine.

    Each verdict says how far from the float64 oracle the results are and which runners, if any, did not give
    the bits of the reference backend; rules that take matrix products do not promise these. Takes a second or
    two for each rule. rules: names; default all. ValueError for one that does not exist.
    """
    names = list(RULES) if rules is None else list(rules)
    unknown = [name for name in names if name not in RULES]
    if unknown:
        raise ValueError(f"there is no rule {unknown[0]!r}; there are {', '.join(RULES)}")
    verdicts = []
    for rule in names:
        for dtype in DTYPES:
            error, different = 0.0, set()
            for case in cases(rule, dtype):
                outcomes = {str(runner): compute(case, runner) for runner in runners()}
                reference = next(iter(outcomes.values()))
                expected = right(case)
                error = max(error, *(oracle_error(expected, outcome) for outcome in outcomes.values()))
                if RULES[rule].exact:
                    different |= {name for name, o in outcomes.items() if not o.same_bits(reference)}
            compared = [str(runner) for runner in runners()]
            verdicts.append(Verdict(rule, dtype.name, error, TOLERANCE[dtype], compared, sorted(different)))
    return verdicts
