"""State in 8 bits: what is on a block's grid stays, the rest goes to a neighbour, what divides never to 0."""

from __future__ import annotations

import numpy as np
import pytest

from fastgd.storage import BLOCK, decode, encode

F32, F64 = np.float32, np.float64
either = pytest.mark.parametrize("unsigned", [False, True], ids=["signed", "unsigned"])

#: octaves that the codes of a block reach, the lowest with equal steps; what the highest code stands for
OCTAVES = {False: 16, True: 24}
HIGHEST = {False: F32(1.875 * 2**16 - 2), True: F32(1.9375 * 2**24 - 2)}


def stored(values, unsigned, random=None):
    return decode(*encode(values, unsigned=unsigned, random=random), values.dtype.type, unsigned=unsigned)


def grid(unsigned, scale=1.0):
    """All numbers that codes stand for in a block with this scale, each once, the largest first."""
    codes = np.arange(256, dtype=np.uint8)[::-1]
    numbers = decode(codes, np.full(1, scale, F32), F32, unsigned=unsigned)
    return numbers[np.argsort(-np.abs(numbers), kind="stable")]


def spread(rng, n, octaves, real):
    """Random numbers of both signs, the largest in the topmost of so many octaves."""
    values = np.ldexp(rng.uniform(1, 2, n), rng.integers(1 - octaves, 1, n))
    values[::BLOCK] = 2
    return (values * rng.choice([-1, 1], n)).astype(real)


@either
def test_grids_have_three_or_four_bits_of_fraction_and_equal_steps_at_the_end(unsigned):
    numbers = grid(unsigned).astype(F64)
    assert abs(numbers[0]) == HIGHEST[unsigned]
    positive = np.sort(numbers[numbers >= 0])[not unsigned :]  # of the two zeros one
    assert positive.size == (256 if unsigned else 128)
    if not unsigned:
        np.testing.assert_array_equal(np.sort(-numbers[np.signbit(numbers)]), positive)
    fraction, exponent = np.frexp(positive + 2)
    steps = np.where(exponent > 2 + 16 - 1, 32, 16)
    assert (fraction * steps == np.round(fraction * steps)).all()
    np.testing.assert_array_equal(positive[:9], np.arange(9) / 4)
    octaves, counts = np.unique(exponent, return_counts=True)
    assert octaves.size == OCTAVES[unsigned]
    assert (counts == ([8] * 16 + [16] * 8 if unsigned else 8)).all()


@either
@pytest.mark.parametrize("real", [F32, F64])
def test_what_is_on_the_grid_stays(unsigned, real):
    """But for the last bits, as its scale is taken from its largest number."""
    for scale in np.ldexp(1.37, np.arange(-120, 100, 7)):
        numbers = grid(unsigned, scale).astype(real)
        back = stored(numbers, unsigned)
        np.testing.assert_allclose(back, numbers, rtol=2e-7)
        np.testing.assert_array_equal(np.signbit(back), np.signbit(numbers))


@either
@pytest.mark.parametrize("factor", [0.999, 0.37, 1.6])
def test_averages_that_decay_alike_are_not_rounded(unsigned, factor):
    """The grid goes along with the largest, whatever the random bits."""
    numbers = grid(unsigned, 0.01)
    codes, scales = encode(numbers, unsigned=unsigned)
    for random in (None, np.full(numbers.size, 2**15, np.uint32)):
        changed, rescaled = encode(numbers * F32(factor), unsigned=unsigned, random=random)
        np.testing.assert_array_equal(changed, codes)
        np.testing.assert_allclose(rescaled, scales * F32(factor), rtol=2e-7)


@either
@pytest.mark.parametrize("real", [F32, F64])
def test_how_far_rounding_goes(unsigned, real):
    """A sixteenth or an eighth, half of it in the octaves that have a bit more."""
    rng = np.random.default_rng(0)
    for octaves, error_bits in [(OCTAVES[unsigned] - 6, 4)] + [(8, 5)] * unsigned:
        values = spread(rng, 40 * BLOCK, octaves, real)
        values = np.abs(values) if unsigned else values
        bound = 2.0**-error_bits * 1.02  # the origin, 2^-5 of the least number at most, lies below 0
        error = np.abs(stored(values, unsigned) - values) / np.abs(values)
        assert 0.8 * bound < error.max() <= bound
        chance = np.random.default_rng(1).integers(0, 2**16, values.size, dtype=np.uint32)
        error = np.abs(stored(values, unsigned, chance) - values) / np.abs(values)
        assert 1.6 * bound < error.max() <= 2 * bound


@either
def test_nearest_is_nearest(unsigned):
    numbers = grid(unsigned)
    numbers = np.sort(numbers[numbers > 0])
    middle = (numbers[:-1] + numbers[1:]) / 2
    for factor, expected in [(1 + 1e-5, numbers[1:]), (1 - 1e-5, numbers[:-1])]:
        values = np.concatenate([[numbers[-1]], middle * F32(factor)])
        np.testing.assert_allclose(stored(values, unsigned)[1:], expected, rtol=2e-7)
        if not unsigned:
            np.testing.assert_allclose(stored(-values, unsigned)[1:], -expected, rtol=2e-7)


@either
def test_stochastic_rounding_goes_up_as_often_as_the_rest_is_large(unsigned):
    """Over all the random bits there are, the mean is the number itself, in every octave and between two."""
    numbers = np.unique(np.abs(grid(unsigned)).astype(F64))
    bits = np.zeros((258, BLOCK), np.uint32)  # beside the largest of each block
    bits[:, 1:].flat[: 2**16] = np.arange(2**16)
    for k in (1, 2, 7, 8, 9, 60, 100, *((126, 127, 128, 129, 200, 253) if unsigned else (125,))):
        for share in (0.1, 0.5, 0.9):
            values = np.full(bits.shape, numbers[k] + share * (numbers[k + 1] - numbers[k]), F32)
            values[:, 0] = HIGHEST[unsigned]
            back = stored(values, unsigned, bits)[:, 1:].flat[: 2**16]
            up = back > (numbers[k] + numbers[k + 1]) / 2
            np.testing.assert_allclose(back, np.where(up, numbers[k + 1], numbers[k]), rtol=2e-7)
            assert abs(up.mean() - share) < 1e-4


@either
def test_the_largest_is_what_it_was(unsigned):
    rng = np.random.default_rng(4)
    for exponent in range(-94, 127, 3):
        values = np.abs(rng.standard_normal(BLOCK).astype(F32)) * F32(2.0**exponent)
        for random in (None, rng.integers(0, 2**16, BLOCK, dtype=np.uint32)):
            largest = stored(values, unsigned, random).max()
            np.testing.assert_allclose(largest, values.max(), rtol=2e-7)


@either
@pytest.mark.parametrize("real", [F32, F64])
def test_zero_stays_zero_and_what_is_unsigned_becomes_it_only_from_it(unsigned, real):
    """Up to 2^-139 a number counts as 0."""
    tiny = 2.0**-138
    values = np.array([0, 2.0**-139 if unsigned else -0.0, tiny, 1e-30, 1e30], real)
    for random in (None, np.zeros(5, np.uint32), np.full(5, 2**16 - 1, np.uint32)):
        back = stored(values, unsigned, random)
        np.testing.assert_array_equal(back[:4] != 0, [False, False, unsigned, unsigned])
        alone = stored(values[2:3], unsigned, None if random is None else random[:1])
        assert not unsigned or alone[0] > 0
        assert not stored(np.zeros(3, real), unsigned, np.full(3, 2**16 - 1, np.uint32)).any()


@either
@pytest.mark.parametrize("broken", [np.inf, np.nan, -np.inf])
def test_a_block_with_infinity_or_nan_is_nan(unsigned, broken):
    values = np.ones(3 * BLOCK, F32)
    values[BLOCK + 7] = abs(broken) if unsigned else broken
    for random in (None, np.full(values.size, 2**16 - 1, np.uint32)):
        codes, scales = encode(values, unsigned=unsigned, random=random)
        assert not codes[BLOCK : 2 * BLOCK].any()
        back = decode(codes, scales, F32, unsigned=unsigned)
        np.testing.assert_array_equal(np.isnan(back), np.repeat([False, True, False], BLOCK))


@either
def test_the_largest_floats_stay_finite(unsigned):
    values = np.full(3, np.finfo(F32).max)
    for random in (None, np.full(3, 2**16 - 1, np.uint32)):
        np.testing.assert_allclose(stored(values, unsigned, random), values, rtol=1e-6)


@either
def test_the_smallest_floats_are_on_a_grid_of_their_own(unsigned):
    """The scale is 2^-120 at least, and no code stands for a subnormal number."""
    smallest = 2.0**-122
    values = (np.random.default_rng(2).uniform(0, 8, BLOCK) * smallest).astype(F32)
    error = np.abs(stored(values, unsigned).astype(F64) - values)
    assert error.max() <= (smallest if unsigned else smallest / 2)


@either
def test_blocks_know_nothing_of_each_other(unsigned):
    rng = np.random.default_rng(3)
    pieces = [spread(rng, n, 10, F32) * F32(10.0**k) for k, n in enumerate((BLOCK, BLOCK, BLOCK, 17))]
    pieces = [np.abs(p) for p in pieces] if unsigned else pieces
    codes, scales = encode(np.concatenate(pieces), unsigned=unsigned)
    apart = [encode(p, unsigned=unsigned) for p in pieces]
    np.testing.assert_array_equal(codes, np.concatenate([c for c, _ in apart]))
    np.testing.assert_array_equal(scales, np.concatenate([e for _, e in apart]))


@pytest.mark.parametrize("shape", [(0,), (), (1,), (BLOCK - 1,), (BLOCK + 1,), (3, 0), (2, 3, 50)])
def test_codes_have_the_shape_and_scales_one_for_each_block(shape):
    values = np.full(shape, 0.5, F32)
    codes, scales = encode(values)
    assert (codes.shape, codes.dtype) == (shape, np.uint8)
    assert (scales.shape, scales.dtype) == ((-(-values.size // BLOCK),), F32)
    np.testing.assert_allclose(decode(codes, scales, F32), values, rtol=1e-7)
