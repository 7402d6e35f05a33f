"""Descent with chance: annealed noise on gradients, batches that grow, and restarts from several points."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fastgd.arrays import Array, listed, owned_arrays
from fastgd.checks import entry, named, number, optional, whole
from fastgd.memory import memory_of, on_host
from fastgd.restarts import Restart, restarts
from fastgd.rules.powers import power, real_power
from fastgd.storage import arithmetic, load, store

__all__ = ["GradientNoise", "GrowingBatches", "Restart", "add_noise_", "restarts"]


def add_noise_(
    grads: Iterable[Any],
    step: int,
    eta: float = 0.3,
    gamma: float = 0.55,
    *,
    rng: int | np.random.Generator,
) -> None:
    """Adds normal noise of variance eta / (1 + step)^gamma to every element of the gradients, in place.

    Neelakantan et al. 2015, whose eta is one of 0.01, 0.3 and 1. Unlike the optimizers' gradients
    these are written.

    grads: arrays in float32, float64, bfloat16 or float16, of any shapes; None is left out. The sum is taken
        in float64 or float32, and rounded to nearest.
    step: steps made so far, 0 or more. eta: 0 or more. gamma: 0 (no annealing) or more.
    rng: a Generator that the numbers are drawn from, tensor after tensor, or a seed: the noise of a tensor is
        then a function of the seed, the step and the tensor's place in the list.

    TypeError or ValueError, naming the argument, before anything is changed.
    """
    step = named("step", whole(0), step)
    deviation = _deviation(step, named("eta", number(0), eta), named("gamma", number(0), gamma))
    if not isinstance(rng, np.random.Generator):
        rng = named("rng", whole(0), rng)
    given = listed(grads, "grads")
    places = [i for i, grad in enumerate(given) if grad is not None]
    arrays = owned_arrays([given[i] for i in places], "gradient")
    for place, array in zip(places, arrays, strict=True):
        own = rng if isinstance(rng, np.random.Generator) else np.random.default_rng((rng, step, place))
        _add_noise(array, deviation, own)


def _deviation(step: int, eta: float, gamma: float) -> float:
    return math.sqrt(eta / real_power(1.0 + step, gamma))


def _add_noise(array: Array, deviation: float, rng: np.random.Generator) -> None:
    real = arithmetic(array.dtype)
    noise = rng.standard_normal(array.shape, real)
    noise *= real(deviation)
    noise += load(on_host(array), real)
    memory_of(array).write(array, store(noise, array.dtype))


class GradientNoise:
    """`add_noise_` that counts its steps: each call adds the noise of the next one.

        noise = fastgd.chance.GradientNoise(eta=0.3, seed=0)
        loss, grads = model.loss_and_grad(x, y)
        fastgd.clip_grad_norm_(grads, 5.0)  # before the noise, which would be made smaller by it
        noise(grads)
        opt.step(grads)

    eta, gamma: as `add_noise_`'s. seed: 0 or more. Two with the same seed give the same noise, whatever the
    gradients, and a tensor's does not depend on the others'. `state_dict` lets a run go on where it was.
    """

    def __init__(self, eta: float = 0.3, gamma: float = 0.55, seed: int = 0) -> None:
        self.eta = named("eta", number(0), eta)
        self.gamma = named("gamma", number(0), gamma)
        self.seed = named("seed", whole(0), seed)
        #: steps so far
        self.step = 0

    @property
    def deviation(self) -> float:
        """The standard deviation of the next call's noise."""
        return _deviation(self.step, self.eta, self.gamma)

    def __call__(self, grads: Iterable[Any]) -> None:
        """Adds a step's noise in place. Arguments and errors as `add_noise_`'s; a refused call is no step."""
        add_noise_(grads, self.step, self.eta, self.gamma, rng=self.seed)
        self.step += 1

    def state_dict(self) -> dict[str, Any]:
        """`{"step", "seed"}`."""
        return {"step": self.step, "seed": self.seed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` gave; ValueError or TypeError, and no change, when it does not fit."""
        step = named("step", whole(0), entry(state, "step"))
        self.seed, self.step = named("seed", whole(0), entry(state, "seed")), step


class GrowingBatches:
    """The size of an epoch's batches, which grows where a rate would be lowered.

    Smith et al. 2018: the noise of a step is in proportion to rate / batch size, so that growing the one does
    what lowering the other does, in fewer steps. Where memory ends the growth, the rate takes over, as in
    their hybrid schedule: multiply it by `rate_scale`.

        size = fastgd.chance.GrowingBatches(32, milestones=(30, 60, 80), factor=5, most=1024)
        for epoch in range(90):
            opt.param_groups[0]["lr"] = 0.1 * size.rate_scale(epoch)
            for rows in fastgd.data.batches(len(x), size(epoch), rng):
                ...

    size: of the first batches, 1 or more. milestones: the epochs, counted from 0, from which on it is larger
    by `factor`, 1 or more, once for each; sizes are rounded to the nearest whole number. most: the largest
    size. Default None: no limit. TypeError or ValueError for arguments that are none.
    """

    def __init__(
        self, size: int, milestones: Iterable[int], factor: float = 2.0, most: int | None = None
    ) -> None:
        self.size = named("size", whole(1), size)
        self.milestones = tuple([named("a milestone", whole(0), epoch) for epoch in milestones])
        self.factor = named("factor", number(1), factor)
        self.most = named("most", optional(whole(self.size)), most)
        self._most = math.inf if self.most is None else self.most

    def __call__(self, epoch: int) -> int:
        """The batch size of an epoch."""
        return int(min(self._wanted(epoch), self._most) + 0.5)

    def rate_scale(self, epoch: int) -> float:
        """What the rate is to be multiplied by for the part of the growth that `most` cuts off, 1 at most."""
        return min(1.0, self._most / self._wanted(epoch))

    def _wanted(self, epoch: int) -> float:
        epoch = named("epoch", whole(0), epoch)
        return self.size * power(self.factor, sum(start <= epoch for start in self.milestones))
