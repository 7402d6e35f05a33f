"""Numbers in 16 bits: decoded as everybody does, rounded once, to nearest or by chance, and split exactly."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from fastgd.storage import load, random_halves, split, split_join, store

BF16, F16 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)
F32, F64 = np.dtype(np.float32), np.dtype(np.float64)

narrow = pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
wide = pytest.mark.parametrize("real", [F32, F64], ids=str)

#: bits that a float32 has and the format has not, so many of them as are random when it is rounded
LOST = {BF16: 16, F16: 13}


def patterns(numbers):
    return numbers.view({2: np.uint16, 4: np.uint32, 8: np.uint64}[numbers.dtype.itemsize])


def same_numbers(a, b):
    """Equal bits, where NaN need only be NaN."""
    nan = np.isnan(a)
    np.testing.assert_array_equal(nan, np.isnan(b))
    np.testing.assert_array_equal(patterns(a)[~nan], patterns(b)[~nan])


def finite(dtype):
    """All numbers that are finite and not negative, in order: number k has the pattern k."""
    numbers = np.arange(32768, dtype=np.uint16).view(dtype).astype(F32)
    return numbers[np.isfinite(numbers)].astype(F64)


def floats(rng, n):
    """float32 of every kind: random patterns, and random numbers of sizes that float16 can hold."""
    any_bits = rng.integers(0, 2**32, n, dtype=np.uint32)
    middling = rng.integers(0, 2**23, n, dtype=np.uint32) | rng.integers(100, 145, n, dtype=np.uint32) << 23
    special = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 1.1754942e-38, 3.4028235e38], F32)
    return np.concatenate([any_bits.view(F32), middling.view(F32), special])


@wide
@narrow
def test_every_pattern_is_loaded_as_numpy_and_ml_dtypes_do(dtype, real):
    stored = np.arange(65536, dtype=np.uint16).view(dtype)
    loaded = load(stored, real)
    assert loaded.dtype == real
    with np.errstate(invalid="ignore"):  # of NaN that signal
        same_numbers(loaded, stored.astype(F32).astype(real))
    np.testing.assert_array_equal(np.signbit(loaded), patterns(stored) >= 0x8000)


@narrow
def test_a_stored_number_is_loaded_and_stored_as_it_is(dtype):
    stored = np.arange(65536, dtype=np.uint16).view(dtype)
    stored = stored[~np.isnan(stored.astype(F32))]
    for real in (F32, F64):
        for random in (None, np.full(stored.size, 2**16 - 1, np.uint32), np.zeros(stored.size, np.uint32)):
            assert store(load(stored, real), dtype, random=random).tobytes() == stored.tobytes()


@narrow
def test_nearest_is_what_numpy_and_ml_dtypes_round_to(dtype):
    values = floats(np.random.default_rng(0), 2_000_000)
    with np.errstate(all="ignore"):
        expected = values.astype(dtype)
    same_numbers(store(values, dtype), expected)


@wide
@narrow
def test_nearest_at_and_beside_every_midpoint(dtype, real):
    """In float64 the number beside a midpoint is so near that float32 would take it for the midpoint."""
    lower = finite(dtype)
    k = np.arange(lower.size)
    upper = np.append(lower[1:], 2 * lower[-1] - lower[-2])  # what the number after the largest would be
    middle = ((lower + upper) / 2).astype(real)
    assert (middle.astype(F64) * 2 == lower + upper).all()
    for sign, bit in ((1, 0), (-1, 0x8000)):
        for beside, expected in [
            (middle, k + k % 2),
            (np.nextafter(middle, real.type(0)), k),
            (np.nextafter(middle, real.type(np.inf)), k + 1),
        ]:
            rounded = patterns(store((sign * beside).astype(real), dtype))
            np.testing.assert_array_equal(rounded, expected | bit)


@wide
@narrow
def test_nan_stays_nan_quiet_and_of_its_sign(dtype, real):
    payloads = np.array([0x7FC00000, 0x7FC00001, 0x7FFFFFFF, 0xFFC00000, 0xFFFFFFFF], np.uint32).view(F32)
    quiet = {BF16: 0x7FC0, F16: 0x7E00}[dtype]
    for random in (None, np.full(5, 2**16 - 1, np.uint32)):
        stored = patterns(store(payloads.astype(real), dtype, random=random))
        assert stored.tolist() == [quiet] * 3 + [quiet | 0x8000] * 2


@narrow
def test_stochastic_rounding_goes_up_as_often_as_the_rest_is_large(dtype):
    """Exactly so, over all random bits there are."""
    lost = LOST[dtype]
    random = np.arange(2**lost, dtype=np.uint32) << 16 - lost
    rng = np.random.default_rng(1)
    low, high = {BF16: (1, 254), F16: (113, 142)}[dtype]
    for bits in rng.integers(low << 23, high << 23, 50, dtype=np.uint32):
        x = np.full(random.size, bits, np.uint32).view(F32)
        up = patterns(store(x, dtype, random=random)) - patterns(store(x[:1], dtype, random=random[:1]))
        assert set(up.tolist()) <= {0, 1}
        assert np.count_nonzero(up) == bits & (2**lost - 1)
        down = patterns(store(-x, dtype, random=random)) - patterns(store(-x[:1], dtype, random=random[:1]))
        np.testing.assert_array_equal(down, up)


def test_stochastic_rounding_of_float16_below_its_normal_numbers():
    """Multiples of 2^-24, and a rest of 13 bits."""
    random = np.arange(2**13, dtype=np.uint32) << 3
    for x in np.random.default_rng(2).uniform(0, 2**-14, 50).astype(F32):
        whole, rest = divmod(math.floor(float(x) * 2**37), 2**13)
        stored = patterns(store(np.full(random.size, x), F16, random=random))
        assert np.count_nonzero(stored == whole) == 2**13 - rest
        assert np.count_nonzero(stored == whole + 1) == rest


@wide
@narrow
def test_stochastic_rounding_is_right_in_the_mean(dtype, real):
    rng = np.random.default_rng(3)
    x = (rng.standard_normal(400) * 10 ** rng.uniform(-4, 4, 400)).astype(real)
    lower, upper = neighbours(x, dtype)
    total, keys = np.zeros(x.size), 1000
    for step in range(1, keys + 1):
        stored = store(x, dtype, random=random_halves(5, 1, step, 0, np.arange(x.size))).astype(F64)
        assert ((stored == lower) | (stored == upper)).all()
        total += stored
    share = (x - lower) / (upper - lower)
    # six standard deviations of the mean, and what of the rest is less than the random bits can tell
    bound = 6 * np.sqrt(share * (1 - share) / keys) + 2.0 ** -LOST[dtype]
    assert (np.abs(total / keys - x) <= bound * (upper - lower)).all()


def neighbours(x, dtype):
    """The largest number that is not above x, and the smallest above it."""
    grid = finite(dtype)
    grid = np.concatenate([-grid[:0:-1], grid])
    at = np.searchsorted(grid, x.astype(F64), side="right")
    return grid[at - 1], grid[at]


@wide
@narrow
def test_what_is_unsigned_becomes_zero_in_float16_only_from_zero(dtype, real):
    tiny = np.array([0, np.finfo(real).smallest_subnormal, 1e-44, 1e-30, 1e-9, 1], real)
    for random in (None, np.zeros(tiny.size, np.uint32), np.full(tiny.size, 2**16 - 1, np.uint32)):
        signed, unsigned = (store(tiny, dtype, unsigned=u, random=random) for u in (False, True))
        assert patterns(unsigned)[0] == 0
        # bfloat16 has the range of float32, and its least number would be no help
        least = 1 if dtype == F16 else 0
        np.testing.assert_array_equal(patterns(unsigned)[1:], np.maximum(patterns(signed)[1:], least))
        assert patterns(store(-tiny, dtype, unsigned=True, random=random))[0] == 0x8000


def test_float32_and_float64_are_cast():
    x = np.array([1.1, -1e300, 1e-300, np.inf, np.nan, 0.1 + 2**-40])
    with np.errstate(all="ignore"):
        single = x.astype(F32)
    same_numbers(store(x, F32, unsigned=True, random=np.zeros(6, np.uint32)), single)
    same_numbers(load(x, F32), single)
    same_numbers(load(single, F64), single.astype(F64))
    same_numbers(store(x, F64), x)


@narrow
def test_float64_beyond_float32_becomes_infinite(dtype):
    same_numbers(store(np.array([1e39, -1e300]), dtype), np.array([np.inf, -np.inf]).astype(dtype))


def test_split_loses_nothing_of_any_float32():
    x = floats(np.random.default_rng(4), 2_000_000)
    high, low = split(x, BF16)
    assert (high.dtype, low.dtype) == (BF16, np.int16)
    same_numbers(split_join(high, low), x)
    assert not low[np.isnan(x)].any()


def test_the_upper_part_of_a_split_is_a_nearest_bfloat16():
    x = floats(np.random.default_rng(5), 100_000)
    x = x[np.abs(x) < 3e38].astype(F64)
    high = split(x.astype(F32), BF16)[0].astype(F64)
    nearest = store(x, BF16).astype(F64)
    np.testing.assert_array_equal(np.abs(high - x), np.abs(nearest - x))
