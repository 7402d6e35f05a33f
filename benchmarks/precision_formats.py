"""Formats that optimizer state could have in 8 bits, in NumPy: fastgd's, and those it was chosen from.

A format cuts an array into blocks, divides the magnitudes of each by a scale, and rounds the quotients, which
are from 0 to 1, to its levels. To try one, state is kept in float32 and rounded after every step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

import fastgd
from fastgd.arrays import Array
from fastgd.storage import BLOCK

# ---- Levels: what the codes of a format stand for, in ascending order, 0 first -----------------------

#: unsigned -> levels: 256 for what is never negative, and 128 where a bit is the sign
Levels = Callable[[bool], Array]


def floats(*parts: tuple[int, int]) -> Levels:
    """Floating point: so many octaves with so many bits of fraction, from the largest numbers down.

    The octaves are those of what is never negative; half of them where a bit is the sign. The least number is
    taken from all, so that the last octave has equal steps down to 0.
    """

    def levels(unsigned: bool) -> Array:
        fractions = [bits for octaves, bits in parts for _ in range(octaves if unsigned else octaves // 2)]
        magnitudes = np.sort(
            [
                (1 + i / 2**bits) * 2.0 ** -(1 + octave)
                for octave, bits in enumerate(fractions)
                for i in range(2**bits)
            ]
        )
        return magnitudes - magnitudes[0]

    return levels


def by_sign(unsigned: Levels, signed: Levels) -> Levels:
    """One format for what is never negative, and another for all else."""
    return lambda is_unsigned: (unsigned if is_unsigned else signed)(is_unsigned)


def powers(exponent: float) -> Levels:
    """Evenly spaced, then raised to a power: 1 is linear, 2 what a linear format of square roots gives."""
    return lambda unsigned: np.linspace(0, 1, 256 if unsigned else 128) ** exponent


def dynamic_tree(unsigned: bool) -> Array:
    """Seven decades, each with twice the levels of the one below, the middles of equal parts of it, and 1.

    Dettmers et al. 2022, section 1.3, as in their package.
    """
    levels = [0.0, 1.0]
    for decade in range(7):
        edges = np.linspace(0.1, 1, (2 if unsigned else 1) * 2**decade + 1)
        levels += ((edges[:-1] + edges[1:]) / 2 * 10.0 ** (decade - 6)).tolist()
    return np.sort(levels)


# ---- Formats -----------------------------------------------------------------------------------------


class Format(NamedTuple):
    levels: Levels = by_sign(floats((8, 4), (16, 3)), floats((32, 3)))
    #: elements that share a scale; None: the whole array
    block: int | None = BLOCK
    stochastic: bool = True
    #: whether the scale is a power of two, or the largest magnitude itself
    power_of_two: bool = False

    def rounded(self, values: Array, unsigned: bool, random: Array) -> Array:
        """float32 values as they come back from 8 bits; what is unsigned and not 0 does not become 0.

        random: float32 from 0 to 1 for each of them, of which rounding to nearest makes no use.
        """
        magnitude = blocks(np.abs(values), self.block)
        grid = lookup(self.levels, unsigned)
        levels = grid.levels
        scale = self.scale(magnitude.max(axis=1, keepdims=True), levels[-1])
        share = magnitude / scale
        k = grid.below(share)
        low, high = levels.take(k), levels.take(grid.after(k))
        way = np.divide(share - low, high - low, out=np.zeros_like(share), where=high > low)
        way += blocks(random, self.block) if self.stochastic else np.float32(0.5)
        k = np.where(way >= 1, grid.after(k), k)
        if unsigned:
            k = np.maximum(k, share > 0)
        rounded = (levels.take(k) * scale).reshape(-1)[: values.size].reshape(values.shape)
        return np.copysign(rounded, values)

    def scale(self, largest: Array, highest: Any) -> Array:
        """float32, at least the largest magnitude over the highest level; 1 where all is 0."""
        if not self.power_of_two:
            return np.where(largest > 0, largest / highest, np.float32(1))
        fraction, exponent = np.frexp(largest)
        return np.ldexp(np.float32(1), exponent + (fraction > highest))


def blocks(values: Array, size: int | None) -> Array:
    """[blocks, size], the last one filled up with 0."""
    size = size or max(values.size, 1)
    padded = np.zeros((-(-values.size // size), size), values.dtype)
    padded.reshape(-1)[: values.size] = values.reshape(-1)
    return padded


class Lookup(NamedTuple):
    """Finds levels by the upper 16 bits of a number, some times faster than a search."""

    #: float32, ascending
    levels: Array
    #: the level at or below the least number with these upper 16 bits, up to those of 1
    first: Array

    def below(self, share: Array) -> Array:
        """Which level is the last at or below each number."""
        k = self.first.take(share.view(np.uint32) >> 16)
        return np.minimum(k + (share >= self.levels.take(self.after(k))), len(self.levels) - 1)

    def after(self, k: Array) -> Array:
        return np.minimum(k + 1, len(self.levels) - 1)


@functools.cache
def lookup(of: Levels, unsigned: bool) -> Lookup:
    levels = of(unsigned).astype(np.float32)
    numbers = (np.arange(0x3F82, dtype=np.uint32) << 16).view(np.float32)
    first = np.searchsorted(levels, numbers, side="right") - 1
    last = np.searchsorted(levels, numbers[1:], side="left") - 1
    assert (last - first[:-1]).max() <= 1, "two levels have the same upper 16 bits"
    return Lookup(levels, first.astype(np.int16))


# ---- Trying them -------------------------------------------------------------------------------------


class Trial(NamedTuple):
    name: str
    #: of the slots that are rounded
    formats: Mapping[str, Format]
    #: the rate, as a multiple of that of the other trials
    rate: float = 1.0

    def after_step(self, seed: int) -> Callable[[int, fastgd.optim.Optimizer], None] | None:
        """What rounds the state of an optimizer that keeps it in float32."""
        rng = np.random.default_rng(seed)

        def round_state(step: int, opt: fastgd.optim.Optimizer) -> None:
            state = opt.state_dict()
            unsigned = {slot.name: slot.unsigned for slot in opt.rule.slots}
            for entry in state["state"].values():
                for slot, form in self.formats.items():
                    random = rng.random(entry[slot].shape, np.float32)
                    entry[slot] = form.rounded(entry[slot], unsigned[slot], random)
            opt.load_state_dict(state)

        return round_state if self.formats else None


def both(name: str, form: Format) -> Trial:
    return Trial(name, {"exp_avg": form, "exp_avg_sq": form})


UNCHANGED = Trial("float32", {})

CHOSEN = Format()
#: on a grid that stays where it is
FIXED = CHOSEN._replace(power_of_two=True)

TRIALS = (
    UNCHANGED,
    Trial("float32, at a rate 3 % higher", {}, rate=1.03),
    Trial("float32, at a rate 25 % higher", {}, rate=1.25),
    both("**chosen**", CHOSEN),
    Trial("only `exp_avg`", {"exp_avg": CHOSEN}),
    Trial("only `exp_avg_sq`", {"exp_avg_sq": CHOSEN}),
    both("to nearest", CHOSEN._replace(stochastic=False)),
    both("blocks of 32", CHOSEN._replace(block=32)),
    both("blocks of 2048", CHOSEN._replace(block=2048)),
    both("scaled by a power of two", FIXED),
    both("scaled by a power of two, to nearest", FIXED._replace(stochastic=False)),
    both("2 bits of fraction", CHOSEN._replace(levels=floats((64, 2)))),
    both("3 bits of fraction", CHOSEN._replace(levels=floats((32, 3)))),
    both("3 bits of fraction, scaled by a power of two", FIXED._replace(levels=floats((32, 3)))),
    both("4 bits of fraction", CHOSEN._replace(levels=floats((16, 4)))),
    both("4, 3 and 2 bits of fraction", CHOSEN._replace(levels=floats((8, 4), (12, 3), (8, 2)))),
    both("5, 4, 3 and 2 bits of fraction", CHOSEN._replace(levels=floats((4, 5), (4, 4), (4, 3), (8, 2)))),
    both("linear", CHOSEN._replace(levels=powers(1))),
    both("linear, to nearest", CHOSEN._replace(levels=powers(1), stochastic=False)),
    both("linear in the root", CHOSEN._replace(levels=powers(2))),
    both("linear in the root, to nearest", CHOSEN._replace(levels=powers(2), stochastic=False)),
    both("dynamic tree", CHOSEN._replace(levels=dynamic_tree)),
    both("dynamic tree, to nearest", CHOSEN._replace(levels=dynamic_tree, stochastic=False)),
)
