"""The course of csrc/online.c and online_kernels.c in NumPy: the same order of operations, the same bits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastgd.arrays import Array
from fastgd.backends.reference_norms import LANES
from fastgd.nn.elementary import exp, log
from fastgd.online.problem import Rows, Settings
from fastgd.online.reference_losses import LOSSES, Measure

MOST_SLOPE = 1e12
LEAST_RATE = 1e-6
MOST_PRODUCT = 2.0**1000
LEAST_SCALE = {np.dtype(np.float32): 1e-6, np.dtype(np.float64): 1e-9}
PASSIVE = ("pa1", "pa2")


@dataclass
class State:
    """The fields of fgd_online_state."""

    intercept: float
    average_intercept: float
    t: float
    eta: float
    scale: float = 1.0
    squares: float = 0.0
    absolutes: float = 0.0
    share: float = 0.0
    divisor: float = 1.0
    cut: float = 0.0
    t0: float = 0.0
    loss: float = 0.0
    objective: float = 0.0
    best: float = math.inf
    without_gain: int = 0
    epochs: int = 0
    rows: int = 0
    ended: int = 0


def add_up(terms: Array, is_sparse: bool = False) -> float:
    """In float64: over LANES lanes, then four, the last ones in order; of sparse rows over four at once."""
    wide = terms.astype(np.float64)
    whole = 0 if is_sparse else len(wide) // LANES * LANES
    four = np.zeros(4)
    if whole:
        lanes = np.add.accumulate(wide[:whole].reshape(-1, LANES))[-1]
        four = (lanes[:4] + lanes[8:12]) + (lanes[4:8] + lanes[12:])
    fours = len(wide) // 4 * 4
    for terms_of_four in wide[whole:fours].reshape(-1, 4):
        four = four + terms_of_four
    total = (four[0] + four[2]) + (four[1] + four[3])
    for term in wide[fours:]:
        total = total + term
    return float(total)


def squares_of(x: Array) -> Array:
    return np.square(x, dtype=np.float64)


def log_of(x: float) -> float:
    return float(log(np.array([x]))[0])


def ratio(a: float, b: float) -> float:
    """a / b as C has it, infinite or NaN where b is 0."""
    return float(np.float64(a) / np.float64(b))


def shuffle(order: Array, seed: int) -> None:
    """Fisher and Yates's, by 31 bits of Marsaglia's xorshift."""
    bits, n = seed or 1, len(order)
    for i in range(n - 1):
        bits ^= bits << 13 & 0xFFFFFFFF
        bits ^= bits >> 17
        bits ^= bits << 5 & 0xFFFFFFFF
        other = i + (bits & 0x7FFFFFFF) % (n - i)
        order[[i, other]] = order[[other, i]]


def inverse_power(t: float, power: float) -> float:
    if power == 0.5:
        return 1 / math.sqrt(t)
    if power == 0.25:
        return 1 / math.sqrt(math.sqrt(t))
    return float(exp(np.array([-power * log_of(t)]))[0])


class Descent:
    """As fastgd.online.native.Descent."""

    def __init__(
        self,
        settings: Settings,
        rows: Rows,
        weights: Array,
        intercept: float,
        *,
        t: float = 1.0,
        averages: Array | None = None,
        average_intercept: float = 0.0,
    ) -> None:
        self._of, self._rows, self._weights, self._averages = settings, rows, weights, averages
        self._loss = LOSSES[settings.loss]
        self._cuts = np.zeros_like(weights)
        self._order = np.arange(len(rows.targets), dtype=np.int32)
        self._real: Any = weights.dtype.type
        self._passive = settings.rate in PASSIVE
        s = self.state = State(intercept, average_intercept, t, settings.eta0)
        s.squares, s.absolutes = add_up(squares_of(weights)), add_up(np.abs(weights))
        if settings.rate == "optimal":
            typical = math.sqrt(1 / math.sqrt(settings.alpha))
            slope = self._loss(-typical, 1.0, settings.a).slope
            s.t0 = 1 / (typical / (slope if slope > 1 else 1.0) * settings.alpha)

    def _row(self, row: int) -> tuple[Array, Any]:
        """The numbers of a row, and where they belong."""
        if self._rows.columns is None or self._rows.starts is None:
            return self._rows.x[row], slice(None)
        part = slice(*self._rows.starts[row : row + 2])
        return self._rows.x[part], self._rows.columns[part]

    def _add(self, step: float, x: Array, columns: Any, into: Array) -> None:
        np.add.at(into, columns, self._real(step) * x)

    def _settle(self) -> None:
        s = self.state
        if self._of.average > 0 and self._averages is not None:
            self._add(s.share, self._weights, slice(None), self._averages)
            self._averages *= self._real(1 / s.divisor)
            s.share, s.divisor = 0.0, 1.0
        self._weights *= self._real(s.scale)
        s.scale = 1.0

    def _decay(self) -> None:
        s = self.state
        left = 1 - s.eta * self._of.l2
        by = left if left > 0 else 0.0
        s.scale *= by
        s.squares *= by * by
        s.absolutes *= by
        if s.scale < LEAST_SCALE[self._weights.dtype]:
            self._settle()

    def _update(self, x: Array, columns: Any, update: float) -> None:
        s, of = self.state, self._of
        measured, is_sparse = of.measured and not self._passive, self._rows.columns is not None
        if measured and of.l2 > 0 and is_sparse:
            s.squares = self._add_squares(update / s.scale, x, columns) * (s.scale * s.scale)
        else:
            self._add(update / s.scale, x, columns, self._weights)
            if measured and of.l2 > 0:
                s.squares = add_up(squares_of(self._weights)) * (s.scale * s.scale)
        if measured and of.l1 > 0:
            s.absolutes = add_up(np.abs(self._weights[columns]), is_sparse) * s.scale

    def _add_squares(self, step: float, x: Array, columns: Array) -> float:
        """A column that is there twice is squared after each time."""
        after = np.empty_like(x)
        for i, column in enumerate(columns):
            self._weights[column] += self._real(step) * x[i]
            after[i] = self._weights[column]
        return add_up(squares_of(after), is_sparse=True)

    def _average(self, x: Array, columns: Any, update: float, k: float) -> None:
        s, part = self.state, 1 / k
        if update and self._averages is not None:
            self._add(s.share * (-update / s.scale), x, columns, self._averages)
        if k > 1:
            s.divisor /= 1 - part
        s.share += part * s.divisor * s.scale
        s.average_intercept += (s.intercept - s.average_intercept) / k

    def _step_size(self, x: Array, at: Measure) -> float:
        if not self._passive:
            return self.state.eta
        squares, eta0, loss = add_up(squares_of(x)), self._of.eta0, at.loss + log_of(at.factor)
        if self._of.rate == "pa2":
            return ratio(loss, squares + ratio(0.5, eta0))
        if squares == 0:
            return -1.0
        return ratio(loss, squares) if ratio(loss, squares) < eta0 else eta0

    def _truncate(self, columns: Any) -> None:
        s = self.state
        if self._rows.columns is None:
            self._truncate_some(s.scale, s.cut, columns)
        else:  # a column may be there twice
            for column in columns:
                self._truncate_some(s.scale, s.cut, slice(column, column + 1))

    def _truncate_some(self, scale: float, cut: float, columns: Any) -> None:
        before, noted = (part[columns].astype(np.float64) for part in (self._weights, self._cuts))
        inverse = 1 / scale
        lower, higher = before - (cut + noted) * inverse, before + (cut - noted) * inverse
        after = np.where(before > 0, np.where(lower > 0, lower, 0), np.where(higher < 0, higher, 0))
        self._weights[columns] = np.where((before > 0) | (before < 0), after, before)
        self._cuts[columns] = noted + scale * (self._weights[columns].astype(np.float64) - before)

    def _rate(self) -> float:
        s, of = self.state, self._of
        if of.rate == "optimal":
            return 1 / (of.alpha * (s.t0 + s.t - 1))
        return of.eta0 * inverse_power(s.t, of.power_t) if of.rate == "invscaling" else s.eta

    def _learn(self, row: int) -> float:
        """Returns the factor of the row's loss."""
        s, of = self.state, self._of
        x, columns = self._row(row)
        y = float(self._rows.targets[row])
        p = s.scale * add_up(self._weights[columns] * x, self._rows.columns is not None) + s.intercept
        at = self._loss(p, y, of.a)
        s.eta = self._rate()
        s.loss += at.loss
        if not self._passive:
            s.objective += 0.5 * of.l2 * s.squares + of.l1 * s.absolutes
        size = self._step_size(x, at)
        if size < 0:
            return at.factor
        slope = MOST_SLOPE if at.slope > MOST_SLOPE else -MOST_SLOPE if at.slope < -MOST_SLOPE else at.slope
        given = 1.0 if self._rows.weights is None else float(self._rows.weights[row])
        update = -size * slope * ((of.positive if y > 0 else of.negative) * given)
        if of.l2 > 0:
            self._decay()
        if update != 0:
            self._update(x, columns, update)
        if of.intercept_factor > 0:
            s.intercept += update * of.intercept_factor
        if 0 < of.average <= s.t:
            self._average(x, columns, update, s.t - of.average + 1)
        if of.l1 > 0:
            s.cut += of.l1 * s.eta
            self._truncate(columns)
        s.t += 1
        s.rows += 1
        return at.factor

    def judge(self, value: float) -> None:
        s, of = self.state, self._of
        without_gain = of.tol > -math.inf and value > s.best - of.tol
        s.without_gain = s.without_gain + 1 if without_gain else 0
        s.best = value if value < s.best else s.best
        if s.without_gain < of.patience:
            return
        if of.rate == "adaptive" and s.eta > LEAST_RATE:
            s.eta /= 5
            s.without_gain = 0
        else:
            s.ended = 1

    def _epoch(self) -> None:
        s, held_out = self.state, self._rows.held_out
        s.loss = s.objective = learned = 0.0
        product = 1.0
        if self._of.shuffled:
            shuffle(self._order, self._of.seed)
        for row in self._order:
            if held_out is None or not held_out[row]:
                product *= self._learn(int(row))
                if product > MOST_PRODUCT:
                    s.loss += log_of(product)
                    product = 1.0
                learned += 1
        s.loss += log_of(product)
        s.objective = ratio(s.objective + s.loss, learned) if self._of.measured else 0.0
        s.loss = ratio(s.loss, learned) if self._of.measured else 0.0
        s.epochs += 1
        if not (math.isfinite(s.intercept) and np.isfinite(self._weights).all()):
            s.ended = 2
        elif self._of.judged:
            self.judge(s.objective)

    def run(self, epochs: int) -> None:
        with np.errstate(all="ignore"):
            for _ in range(epochs):
                if not self.state.ended:
                    self._epoch()

    def finish(self) -> None:
        self._settle()
