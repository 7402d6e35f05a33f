"""Minimises a smooth function of a few parameters by gradient descent, to as many digits as there are.

Curvature is used to measure, never to step: it says in which units parameters are comparable, what rate and
momentum are best in these, and how far the minimum still is. The parameters move by gradients only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from fastgd import optim
from fastgd.arrays import Array
from fastgd.optimizer import Optimizer

__all__ = ["Descent", "Objective", "Search", "descend"]

#: steps of the default method between two looks at the curvature: at least, at most, and at most while the
#: minimum is more than a standard error away
SHORTEST, LONGEST, LONGEST_FAR = 20, 2000, 200
#: gradients this much smaller are worth a look
ENOUGH = 0.01
#: momentum is set for curvatures that are at most this far apart
WORST_CONDITION = 1e8
#: a rate this much below the best one moves nothing
SMALLEST_TRUST = 1e-12
#: curvatures that are relatively smaller are rounding
NOTHING = 1e-13
#: with another optimizer: steps between two looks, and the first rate
BLOCK, FIRST_RATE = 100, 0.1


class Objective(Protocol):
    """What is minimised."""

    @property
    def rounding(self) -> float:
        """The decrement sqrt(g' H^-1 g) that rounding may leave at the minimum."""

    def gradient(self, theta: Array) -> tuple[float, Array]:
        """The loss and its gradient; not finite where there is none."""

    def curvature(self, theta: Array) -> Array:
        """The matrix of second derivatives, or the part of it that is never negative (Gauss-Newton)."""

    def size(self, loss: float) -> float:
        """The root of the sum over all rows of squared residuals, whatever these are."""

    def unit(self, loss: float) -> float:
        """The decrement that one standard error in each of the parameters gives."""


@dataclass(frozen=True)
class Search:
    """How the minimum is looked for. optimizer and lr: None for the default method."""

    optimizer: str | None = None
    lr: float | Callable[[int], float] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    max_iterations: int = 100_000
    tol: float = 1e-9


@dataclass(frozen=True)
class Descent:
    """Where a search ended. distance: of the minimum, in standard errors, to second order."""

    theta: Array
    loss: float
    iterations: int
    converged: bool
    distance: float
    message: str


@dataclass(frozen=True)
class Point:
    theta: Array
    loss: float
    gradient: Array

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and bool(np.isfinite(self.gradient).all())


def point(objective: Objective, theta: Array) -> Point:
    return Point(theta, *objective.gradient(theta))


@dataclass(frozen=True)
class Look:
    """Curvature at a point. scales: parameters divided by them have second derivatives 1."""

    scales: Array
    largest: float
    smallest: float
    decrement: float

    @property
    def condition(self) -> float:
        """Infinite where a parameter, or a combination of some, has no influence."""
        known = self.scales.all() and self.smallest > NOTHING * self.largest
        return self.largest / self.smallest if known else math.inf


def look(objective: Objective, at: Point) -> Look | None:
    """None where the curvature is not finite, or there is none."""
    curvature = objective.curvature(at.theta)
    diagonal = np.diag(curvature)
    if not np.isfinite(curvature).all() or not diagonal.any():
        return None
    # a parameter without influence here stays where it is
    scales = 1.0 / np.sqrt(np.where(diagonal > 0, diagonal, np.inf))
    scaled = curvature * np.outer(scales, scales)
    if not np.isfinite(scaled).all():
        return None
    eigenvalues, vectors = np.linalg.eigh(scaled)
    largest = float(eigenvalues[-1])
    floor = NOTHING * largest
    along = vectors.T @ (at.gradient * scales)
    decrement = math.sqrt(float(np.sum(along**2 / np.maximum(eigenvalues, floor))))
    return Look(scales, largest, max(float(eigenvalues[0]), floor), decrement)


def descend(objective: Objective, start: Array, search: Search) -> Descent:
    """Goes from `start`, where the loss is finite, down to a minimum.

    Default: SGD with Nesterov's momentum, rate and momentum from the extreme eigenvalues of the curvature
    (Nesterov 2004, section 2.2.1), in coordinates in which its diagonal is 1. All of this is taken anew from
    time to time; momentum begins anew where it points uphill (O'Donoghue and Candes 2015, section 3.2), and
    the rate is lowered where the loss rises.

    With search.optimizer or search.lr: that optimizer of fastgd's, by default SGD, in the coordinates of the
    start and with the mean squared residual of the start as the unit of the loss. Without search.lr its rate
    begins at 0.1 and is halved whenever 100 steps have not lowered the loss.

    It has converged when sqrt(g' H^-1 g), the distance of the minimum that gradient and curvature tell, is at
    most search.tol standard errors (for least squares the criterion of Bates and Watts 1981), or is rounding.
    """
    method = _accelerated if search.optimizer is None and search.lr is None else _chosen
    with np.errstate(all="ignore"):
        return method(objective, start, search)


def _ended(objective: Objective, at: Point, seen: Look | None, iterations: int, reason: str = "") -> Descent:
    """reason: why it has not converged."""
    distance = math.inf
    if seen:
        unit = objective.unit(at.loss)
        distance = 0.0 if seen.decrement == 0 else seen.decrement / unit if unit > 0 else math.inf
    message = "converged"
    if reason:
        message = f"not converged after {iterations} iterations: {reason}"
        if math.isfinite(distance):
            message += f"; the minimum is about {distance:.2g} standard errors away"
        if seen and WORST_CONDITION < seen.condition < math.inf:
            message += f", and parameters can hardly be told apart (condition number {seen.condition:.0e})"
    return Descent(at.theta, at.loss, iterations, not reason, distance, message)


NOT_FINITE = "derivatives vanish or are not finite there; begin elsewhere"
UNDETERMINED = "not all parameters have an influence there, or not one of their own"
DIVERGED = "the loss is no longer finite; lower lr"
TOO_MANY = "max_iterations were not enough"


def _is_there(objective: Objective, at: Point, seen: Look, tol: float) -> bool:
    return seen.decrement <= max(tol * objective.unit(at.loss), objective.rounding)


def _arrived(objective: Objective, at: Point, seen: Look, iterations: int) -> Descent:
    reason = "" if math.isfinite(seen.condition) else UNDETERMINED
    return _ended(objective, at, seen, iterations, reason)


def _accelerated(objective: Objective, start: Array, search: Search) -> Descent:
    at = point(objective, start.copy())
    iterations, trust = 0, 1.0
    while True:
        seen = look(objective, at)
        if seen is None:
            return _ended(objective, at, seen, iterations, NOT_FINITE)
        if _is_there(objective, at, seen, search.tol):
            return _arrived(objective, at, seen, iterations)
        if iterations >= search.max_iterations:
            return _ended(objective, at, seen, iterations, TOO_MANY)
        if trust < SMALLEST_TRUST:
            return _ended(objective, at, seen, iterations, "no step lowers the loss")
        far = seen.decrement > objective.unit(at.loss)
        most = min(search.max_iterations - iterations, LONGEST_FAR if far else LONGEST)
        at, steps, risen = _stage(objective, at, seen, trust, most)
        iterations += steps
        trust = trust / 4 if risen else min(1.0, 2 * trust)


def _stage(
    objective: Objective, start: Point, seen: Look, trust: float, most: int
) -> tuple[Point, int, bool]:
    """Steps in one system of coordinates: where they lead, how many, and whether the loss rose in the end."""
    largest = seen.largest / trust
    root = math.sqrt(max(seen.smallest, seen.largest / WORST_CONDITION) / largest)
    momentum = (1 - root) / (1 + root)
    u = np.zeros_like(start.theta)
    opt, age = _begun(u, 1 / largest, momentum), 1
    slope = start.gradient * seen.scales
    grads = [slope]
    enough = ENOUGH * float(np.linalg.norm(slope))
    at = lowest = start
    most = min(most, max(SHORTEST, math.ceil(4 / root)))
    for step in range(1, most + 1):
        before = u.copy()
        opt.step(grads)
        age += 1
        if age & (age - 1) == 0:  # at powers of 2: the optimizer has to be told
            opt.param_groups[0]["momentum"] = _grown(age, momentum)
        at = point(objective, start.theta + u * seen.scales)
        if not at.finite or at.loss > start.loss * (1 + 1e-9):
            return lowest, step, True
        lowest = min(lowest, at, key=lambda p: p.loss)
        np.multiply(at.gradient, seen.scales, out=slope)
        if float(np.linalg.norm(slope)) < enough:
            break
        if slope @ (u - before) > 0:
            opt, age = _begun(u, 1 / largest, momentum), 1
    return at, step, False


def _grown(age: int, most: float) -> float:
    """Momentum this many steps after it has begun: small at first, lest it overshoots again at once."""
    return min(most, 1 - 3 / (4 * age + 3))


def _begun(u: Array, lr: float, momentum: float) -> Optimizer:
    return optim.create("sgd", [u], lr=lr, momentum=_grown(1, momentum), nesterov=momentum > 0)


def _chosen(objective: Objective, start: Array, search: Search) -> Descent:
    at = point(objective, start.copy())
    seen = look(objective, at)
    if seen is None:
        return _ended(objective, at, seen, 0, NOT_FINITE)
    size = objective.size(at.loss)
    if _is_there(objective, at, seen, search.tol) or size == 0:
        return _arrived(objective, at, seen, 0)
    scales = size * seen.scales
    u = np.zeros_like(start)
    lr = FIRST_RATE if search.lr is None else search.lr
    opt = optim.create(search.optimizer or "sgd", [u], lr=lr, **search.options)
    best, best_seen, iterations = at, seen, 0
    to_u = scales / size**2
    slope = at.gradient * to_u
    grads = [slope]
    while iterations < search.max_iterations:
        for _ in range(min(BLOCK, search.max_iterations - iterations)):
            opt.step(grads)
            iterations += 1
            at = point(objective, start + u * scales)
            np.multiply(at.gradient, to_u, out=slope)
            if not at.finite:
                return _ended(objective, best, best_seen, iterations, DIVERGED)
        opt.eval()
        learned = point(objective, start + u * scales)
        opt.train()
        seen = look(objective, learned) if learned.finite else None
        if seen and _is_there(objective, learned, seen, search.tol):
            return _arrived(objective, learned, seen, iterations)
        if seen and learned.loss < best.loss:
            best, best_seen = learned, seen
        elif search.lr is None:
            opt.param_groups[0]["lr"] /= 2
    return _ended(objective, best, best_seen, iterations, TOO_MANY)
