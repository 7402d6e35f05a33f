"""State in 8 bits: what is on a block's grid stays, the rest goes to a neighbour, what divides never to 0."""

from __future__ import annotations

import numpy as np
import pytest

from fastgd.storage import BLOCK, decode, encode

F32, F64 = np.float32, np.float64
either = pytest.mark.parametrize("unsigned", [False, True], ids=["signed", "unsigned"])

#: whole binades that the codes of a block reach
RANGE = {False: 15, True: 31}


def stored(values, unsigned, random=None):
    return decode(*encode(values, unsigned=unsigned, random=random), values.dtype.type, unsigned=unsigned)


def grid(exponent, unsigned):
    """All numbers that codes stand for in a block with this exponent, each once, the largest first."""
    codes = np.arange(256, dtype=np.uint8)[::-1]
    numbers = decode(codes, np.full(1, exponent, np.uint8), F32, unsigned=unsigned)
    return numbers[np.argsort(-np.abs(numbers), kind="stable")]


def spread(rng, n, binades, real):
    """Random numbers of both signs, the largest in the topmost of so many binades."""
    values = np.ldexp(rng.uniform(1, 2, n), rng.integers(1 - binades, 1, n))
    values[::BLOCK] = 1.5
    return (values * rng.choice([-1, 1], n)).astype(real)


@either
def test_grids_have_three_bits_of_fraction_and_reach_far(unsigned):
    numbers = grid(127, unsigned)
    assert abs(numbers[0]) == 1.875
    positive = numbers[numbers > 0]
    assert positive.size == (255 if unsigned else 127)
    assert positive[-1] == 2.0 ** -RANGE[unsigned] * 1.125
    if not unsigned:
        np.testing.assert_array_equal(numbers[numbers < 0], -positive)
    fraction, _ = np.frexp(positive)
    assert (fraction * 16 == np.round(fraction * 16)).all()


@either
@pytest.mark.parametrize("real", [F32, F64])
def test_what_is_on_the_grid_stays(unsigned, real):
    with np.errstate(invalid="ignore"):
        numbers = np.concatenate([grid(exponent, unsigned) for exponent in range(256)]).astype(real)
    back = stored(numbers, unsigned)
    np.testing.assert_array_equal(back, numbers)
    if not unsigned:
        np.testing.assert_array_equal(np.signbit(back), np.signbit(numbers))


@either
@pytest.mark.parametrize("factor", [0.5, 2])
def test_it_stays_when_the_largest_halves_or_doubles(unsigned, factor):
    """The shared exponent changes by one. Only the smallest binade falls out of range when it rises."""
    for exponent in (50, 127, 200):
        numbers = grid(exponent, unsigned)
        top = np.abs(numbers) >= np.abs(numbers[0]) / 1.875
        changed = np.where(top, numbers * F32(factor), numbers)
        rest = np.abs(changed) >= np.abs(changed[0]) / 1.875 / 2 ** RANGE[unsigned] * 1.125
        assert np.count_nonzero(rest) >= numbers.size - 18
        np.testing.assert_array_equal(stored(changed, unsigned)[rest], changed[rest])


@either
def test_random_bits_change_nothing_that_is_on_the_grid(unsigned):
    numbers = grid(127, unsigned)
    for random in (0, 2**16 - 1):
        back = stored(numbers, unsigned, np.full(numbers.size, random, np.uint32))
        np.testing.assert_array_equal(back, numbers)


@either
@pytest.mark.parametrize("real", [F32, F64])
def test_nearest_is_off_by_a_sixteenth_at_most(unsigned, real):
    # the largest may be rounded up, into a binade above its own
    values = spread(np.random.default_rng(0), 40 * BLOCK, RANGE[unsigned] - 1, real)
    values = np.abs(values) if unsigned else values
    error = np.abs(stored(values, unsigned) - values) / np.abs(values)
    assert 0.05 < error.max() <= 1 / 16
    chance = np.random.default_rng(1).integers(0, 2**16, values.size, dtype=np.uint32)
    error = np.abs(stored(values, unsigned, chance) - values) / np.abs(values)
    assert 0.1 < error.max() <= 1 / 8


@either
def test_nearest_is_nearest(unsigned):
    """Half way rounds away from 0."""
    numbers = grid(127, unsigned)
    numbers = np.sort(numbers[numbers > 0])
    middle = (numbers[:-1] + numbers[1:]) / 2
    for beside, expected in [
        (middle, numbers[1:]),
        (np.nextafter(middle, F32(0)), numbers[:-1]),
    ]:
        values = np.concatenate([[numbers[-1]], beside])
        np.testing.assert_array_equal(stored(values, unsigned)[1:], expected)
        if not unsigned:
            np.testing.assert_array_equal(stored(-values, unsigned)[1:], -expected)


@either
def test_stochastic_rounding_goes_up_as_often_as_the_rest_is_large(unsigned):
    """Exactly so, over all the random bits there are."""
    random = np.arange(2**16, dtype=np.uint32)
    for bits in (0x3F912345, 0x3F8FFFFF, 0x3F800001, 0x00054321):
        x = np.full(random.size, bits, np.uint32).view(F32)
        below, above = np.array([bits >> 20 << 20, (bits >> 20) + 1 << 20], np.uint32).view(F32)
        back = stored(x, unsigned, random)
        up = (bits & 0xFFFFF) >> 4  # 16 bits of the 20 that are cut off
        if unsigned and below == 0:  # would be 0
            assert (back == above).all()
            continue
        assert np.count_nonzero(back == above) == up
        assert np.count_nonzero(back == below) == random.size - up


@either
def test_a_rounding_that_carries_into_the_next_binade_stays_finite(unsigned):
    """The shared exponent is that of the largest magnitude rounded up."""
    largest = np.nextafter(F32(2), F32(0))
    for random in (None, np.full(1, 2**16 - 1, np.uint32)):
        assert stored(np.array([largest]), unsigned, random) == 2
    assert stored(np.array([largest]), unsigned, np.zeros(1, np.uint32)) == 1.875


@either
@pytest.mark.parametrize("real", [F32, F64])
def test_zero_stays_zero_and_what_is_unsigned_becomes_it_only_from_it(unsigned, real):
    tiny = np.finfo(real).smallest_subnormal
    values = np.array([0, -0.0, tiny, 1e-30, 1e30], real)
    for random in (None, np.zeros(5, np.uint32), np.full(5, 2**16 - 1, np.uint32)):
        back = stored(values, unsigned, random)
        np.testing.assert_array_equal(back[:4] != 0, [False, False, unsigned, unsigned])
        assert not stored(np.zeros(3, real), unsigned, np.full(3, 2**16 - 1, np.uint32)).any()


@either
def test_infinity_and_nan_are_kept(unsigned):
    values = np.array([np.inf, np.nan, 3e38, 1.0], F32)
    values = values if unsigned else np.concatenate([values, -values])
    for random in (None, np.zeros(values.size, np.uint32), np.full(values.size, 2**16 - 1, np.uint32)):
        back = stored(values, unsigned, random)
        np.testing.assert_array_equal(np.isnan(back), np.isnan(values))
        np.testing.assert_array_equal(np.isinf(back)[values == np.inf], True)
        np.testing.assert_array_equal(back[np.isinf(values)], values[np.isinf(values)])


@either
def test_the_smallest_floats_are_on_a_grid_of_equal_steps(unsigned):
    step = 2.0**-129
    values = (np.random.default_rng(2).uniform(1, 100, BLOCK) * step).astype(F32)
    values = np.where(values < 2.0**-126, values, F32(0))
    assert np.abs(stored(values, unsigned).astype(F64) - values).max() <= step / 2


@either
def test_blocks_know_nothing_of_each_other(unsigned):
    rng = np.random.default_rng(3)
    pieces = [spread(rng, n, 10, F32) * F32(10.0**k) for k, n in enumerate((BLOCK, BLOCK, BLOCK, 17))]
    pieces = [np.abs(p) for p in pieces] if unsigned else pieces
    codes, exponents = encode(np.concatenate(pieces), unsigned=unsigned)
    apart = [encode(p, unsigned=unsigned) for p in pieces]
    np.testing.assert_array_equal(codes, np.concatenate([c for c, _ in apart]))
    np.testing.assert_array_equal(exponents, np.concatenate([e for _, e in apart]))


@pytest.mark.parametrize("shape", [(0,), (), (1,), (BLOCK - 1,), (BLOCK + 1,), (3, 0), (2, 3, 50)])
def test_codes_have_the_shape_and_exponents_one_for_each_block(shape):
    values = np.full(shape, 0.5, F32)
    codes, exponents = encode(values)
    assert (codes.shape, codes.dtype) == (shape, np.uint8)
    assert (exponents.shape, exponents.dtype) == ((-(-values.size // BLOCK),), np.uint8)
    np.testing.assert_array_equal(decode(codes, exponents, F32), values)
