"""Random bits: those of the published generators, even, and unrelated between elements, steps and arrays."""

from __future__ import annotations

import numpy as np
import pytest

from fastgd.storage import mixed, noise_key, random_bits

N = 2**18
ELEMENTS = np.arange(N)
#: arrays and steps that are as alike as can be
NEIGHBOURS = [
    (0, 0, 1, 0),
    (1, 0, 1, 0),
    (0, 1, 1, 0),
    (0, 0, 2, 0),
    (0, 0, 1, 2),
    (0, 0, 1, 3),
    (0, 2**40, 1, 0),
]


def drawn(*key, elements=ELEMENTS):
    return random_bits(noise_key(*key), elements)


def correlation(a, b):
    a, b = (x.astype(np.float64) - 2.0**31 for x in (a, b))
    return float(np.mean(a * b)) / 2.0**64 * 12


def test_mixed_is_splitmix64():
    """Its first five numbers from the seed 1234567, as in the collection of Rosetta Code."""
    golden = 0x9E3779B97F4A7C15
    assert [mixed(1234567 + k * golden & 2**64 - 1) for k in range(5)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def plainly(key, element):
    """The same in whole numbers of Python."""
    z = key + (element >> 32) * 0x9E3779B97F4A7C15 & 2**64 - 1
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & 2**64 - 1
    z = (z ^ z >> 27) * 0x94D049BB133111EB & 2**64 - 1
    z ^= z >> 31
    x = element & 2**32 - 1 ^ z & 2**32 - 1
    x = (x ^ x >> 16) * 0x21F0AAAD + (z >> 32) & 2**32 - 1
    x = (x ^ x >> 15) * 0x735A2D97 & 2**32 - 1
    return x ^ x >> 15


def test_random_bits_are_the_formula():
    elements = np.array([0, 1, 77, 2**32 - 1, 2**32, 2**32 + 77, 5 * 2**32 + 3, 2**62])
    for key in (0, 1, noise_key(3, 4, 5, 2), 2**64 - 1):
        assert random_bits(key, elements).tolist() == [plainly(key, int(e)) for e in elements]


def test_keys_differ_for_all_that_is_different():
    keys = {noise_key(*key) for key in NEIGHBOURS}
    assert len(keys) == len(NEIGHBOURS)
    assert noise_key(2**64 - 1, 0, 1, 0) == noise_key(-1, 0, 1, 0)


def test_any_element_can_be_had_at_once():
    chosen = np.array([5, 3, 2**32 + 3, 3, N - 1])
    whole = drawn(*NEIGHBOURS[0])
    np.testing.assert_array_equal(
        drawn(*NEIGHBOURS[0], elements=chosen)[[0, 1, 3, 4]], whole[[5, 3, 3, N - 1]]
    )
    assert drawn(*NEIGHBOURS[0], elements=chosen)[2] != whole[3]
    assert drawn(*NEIGHBOURS[0], elements=chosen[:0]).shape == (0,)


@pytest.mark.parametrize("key", NEIGHBOURS, ids=str)
def test_each_bit_is_set_half_of_the_time(key):
    bits = drawn(*key)
    for k in range(32):
        ones = int(np.count_nonzero(bits >> k & 1))
        assert abs(ones - N / 2) < 5 * np.sqrt(N / 4), k


@pytest.mark.parametrize("shift", [0, 8, 16, 24])
@pytest.mark.parametrize("key", NEIGHBOURS, ids=str)
def test_bytes_are_even(key, shift):
    """Chi-square with 255 degrees of freedom: mean 255, standard deviation 22.6."""
    counts = np.bincount(drawn(*key) >> shift & 255, minlength=256)
    chi_square = float(np.sum((counts - N / 256) ** 2) / (N / 256))
    assert 150 < chi_square < 370


def test_pairs_of_neighbours_are_even():
    """The upper four bits of an element and of the next: chi-square with 255 degrees of freedom."""
    upper = drawn(*NEIGHBOURS[0]) >> 28
    counts = np.bincount(upper[:-1] * 16 + upper[1:], minlength=256)
    assert 150 < float(np.sum((counts - (N - 1) / 256) ** 2) / ((N - 1) / 256)) < 370


@pytest.mark.parametrize("apart", [1, 2, 3, 16, 256, 1000, 1024, 4096, 16384])
def test_elements_are_unrelated(apart):
    # two multiplications mix well, not perfectly: at these two distances some keys leave a little
    bound = {4096: 0.04, 16384: 0.02}.get(apart, 5 / np.sqrt(N - apart))
    for key in NEIGHBOURS:
        bits = drawn(*key)
        assert abs(correlation(bits[:-apart], bits[apart:])) < bound


@pytest.mark.parametrize("other", NEIGHBOURS[1:], ids=str)
def test_steps_streams_seeds_and_slots_are_unrelated(other):
    a, b = drawn(*NEIGHBOURS[0]), drawn(*other)
    assert abs(correlation(a, b)) < 5 / np.sqrt(N)
    assert abs(int(np.count_nonzero((a ^ b) >> 31)) - N / 2) < 5 * np.sqrt(N / 4)


def test_the_same_element_is_unrelated_from_step_to_step():
    """What a parameter is rounded by through a training: one element over many steps."""
    draws = np.array([drawn(0, 0, step, 0, elements=np.arange(4)) for step in range(1, 4097)])
    for element in draws.T:
        assert abs(correlation(element[:-1], element[1:])) < 5 / np.sqrt(4095)
        assert abs(int(np.count_nonzero(element >> 31)) - 2048) < 5 * 32


def test_a_run_of_elements_above_two_to_the_32_is_another():
    low, high = drawn(*NEIGHBOURS[0]), drawn(*NEIGHBOURS[0], elements=ELEMENTS + 2**32)
    assert abs(correlation(low, high)) < 5 / np.sqrt(N)
