"""How numbers are stored in fewer bits than they are computed in: the formulas of csrc/storage.h, for arrays.

All is done on bit patterns, so that ties, infinities and NaN come out as in C. A dtype goes by its name:
bfloat16 is none of NumPy's own, and the package that has it is not imported here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
#: an array of uint32: patterns of float32, or random; NumPy's stubs have shifts of it signed
Bits = Any

_MAGNITUDE = 0x7FFFFFFF
_INFINITE_BITS = 0x7F800000


def _float(bits: Bits) -> Array:
    numbers: Array = bits.view(np.float32)
    return numbers


def _uint16(bits: Bits) -> Array:
    low: Array = bits.astype(np.uint16)
    return low


@np.errstate(all="ignore")
def narrowed(values: Array) -> Bits:
    """The bits of the float32 that float32 or float64 values are on their way to fewer bits.

    float64 is rounded to odd: of its two neighbours to the one whose last bit is 1, so that the rounding that
    follows is the only one (Boldo and Melquiond 2008, theorem 3).
    """
    nearest = values.astype(np.float32)
    bits = nearest.view(np.uint32)
    if values.dtype == np.float32:
        return bits
    rest = values - nearest.astype(np.float64)
    outward = (rest > 0) == (values > 0)
    lost_and_even = ((rest < 0) | (rest > 0)) & (bits & 1 == 0)
    return np.where(lost_and_even, np.where(outward, bits + 1, bits - 1), bits)


# ---- Random bits ------------------------------------------------------------------------------------

_GOLDEN = 0x9E3779B97F4A7C15


def _low64(z: int) -> int:
    return z & 0xFFFFFFFFFFFFFFFF


def _avalanche(z: int) -> int:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014)."""
    z = _low64((z ^ z >> 30) * 0xBF58476D1CE4E5B9)
    z = _low64((z ^ z >> 27) * 0x94D049BB133111EB)
    return z ^ z >> 31


def mixed(z: int) -> int:
    """The number that splitmix64 makes of 64 bits."""
    return _avalanche(_low64(z + _GOLDEN))


def noise_key(seed: int, stream: int, step: int, operand: int) -> int:
    """The key to the random bits of a pair of arrays at one step.

    stream: which tensor; step: counted from 1; operand: 0 for the parameter, 2 + k for slots k and k + 1.
    """
    return mixed(mixed(mixed(_low64(seed)) + stream) + step * 16 + operand)


def random_halves(seed: int, stream: int, step: int, operand: int, elements: Array) -> Bits:
    """16 random bits as uint32 for each element: enough for every rounding.

    Operands 2 j and 2 j + 1 share the 32 bits of an element: the former takes the upper half.
    """
    bits = random_bits(noise_key(seed, stream, step, operand & ~1), elements)
    return half(bits, operand)


def random_bits(key: int, elements: Array) -> Bits:
    """uint32 [n] for the elements with these numbers, int64 [n].

    A counter-based generator, so any element can be had at once: the hash "lowbias32" with the constants of
    Ettinger's hash-prospector (16 21f0aaad 15 735a2d97 15), keyed before each multiplication.
    """
    upper, which = np.unique(elements >> 32, return_inverse=True)
    keys = np.array([key_above(key, high) for high in upper.tolist()], np.uint64)[which]
    return hashed(elements.astype(np.uint32), keys.astype(np.uint32), (keys >> 32).astype(np.uint32))


def hashed(low: Bits, first: Bits, second: Bits) -> Bits:
    """The random bits of elements by the lower halves of their numbers and both halves of a key."""
    z: Bits = low ^ first
    z = (z ^ z >> 16) * 0x21F0AAAD + second
    z = (z ^ z >> 15) * 0x735A2D97
    return z ^ z >> 15


def half(bits: Bits, operand: int) -> Bits:
    """The 16 random bits of an operand, of the 32 that it shares with its neighbour."""
    return bits & 0xFFFF if operand & 1 else bits >> 16


def key_above(key: Any, high: Any) -> Any:
    """The key of the elements whose numbers have this upper half: 64 bits, low32 and high32 used apart."""
    return _avalanche(_low64(key + high * _GOLDEN))


# ---- bfloat16: the upper half of a float32 ----------------------------------------------------------


def _bf16_decode(stored: Array) -> Array:
    return _float(stored.astype(np.uint32) << 16)


def _bf16_cut(bits: Bits, below: Bits | int) -> Array:
    """`below` is added before the lower half is cut off: random, or half an ulp less one and ties to even."""
    nan = bits >> 16 & 0x8000 | 0x7FC0
    upper: Bits = np.where(bits & _MAGNITUDE > _INFINITE_BITS, nan, bits + below >> 16)
    return _uint16(upper)


def _bf16_nearest(bits: Bits) -> Array:
    return _bf16_cut(bits, 0x7FFF + (bits >> 16 & 1))


def _bf16_stochastic(bits: Bits, random: Bits) -> Array:
    return _bf16_cut(bits, random)


# ---- float16 ----------------------------------------------------------------------------------------

#: between the exponents' biases, 127 and 15
_F16_REBIAS = 112 << 23
#: 2^-14, and 2^16
_F16_MIN_NORMAL, _F16_BEYOND = 113 << 23, 143 << 23
_F16_INFINITE = 0x7C00


def _f16_decode(stored: Array) -> Array:
    magnitude = stored.astype(np.uint32) & 0x7FFF
    normal = (magnitude << 13) + _F16_REBIAS
    large = np.where(magnitude >= _F16_INFINITE, normal + _F16_REBIAS, normal)
    subnormal = (magnitude.astype(np.float32) * np.float32(2.0**-24)).view(np.uint32)
    sign = (stored.astype(np.uint32) & 0x8000) << 16
    return _float(np.where(magnitude < 0x400, subnormal, large) | sign)


def _f16_pack(bits: Bits, normal: Bits, subnormal: Bits) -> Array:
    """From what the magnitude is if it is normal, and if it is not."""
    magnitude = bits & _MAGNITUDE
    h: Bits = np.where(magnitude < _F16_MIN_NORMAL, subnormal, normal)
    h = np.where(magnitude >= _F16_BEYOND, _F16_INFINITE, h)
    h = np.where(magnitude > _INFINITE_BITS, 0x7E00, h)
    return _uint16(h | bits >> 16 & 0x8000)


def _f16_parts(bits: Bits) -> tuple[Bits, Array]:
    """The magnitude with float16's bias if it is normal, and as a float32 if it is not, which else is 0."""
    magnitude = bits & _MAGNITUDE
    small = np.where(magnitude < _F16_MIN_NORMAL, magnitude, np.uint32(0))
    return magnitude - _F16_REBIAS, _float(small)


def _f16_nearest(bits: Bits) -> Array:
    magnitude, small = _f16_parts(bits)
    # subnormals of float16 are multiples of 2^-24, the last place of numbers from 0.5 to 1
    half = np.float32(0.5)
    subnormal = (small + half).view(np.uint32) - half.view(np.uint32)
    return _f16_pack(bits, magnitude + 0xFFF + (bits >> 13 & 1) >> 13, subnormal)


def _f16_stochastic(bits: Bits, random: Bits) -> Array:
    magnitude, small = _f16_parts(bits)
    below = random >> 3
    fixed = (small * np.float32(2.0**37)).astype(np.uint32)  # in units of 2^-37
    return _f16_pack(bits, magnitude + below >> 13, fixed + below >> 13)


# ---- Floats of any size -----------------------------------------------------------------------------


class _Format(NamedTuple):
    """A format of 16 bits, as functions between patterns of uint16 and numbers of float32."""

    decode: Callable[[Array], Array]
    #: of the bits of float32
    nearest: Callable[[Bits], Array]
    #: of the bits of float32, and 16 random ones
    stochastic: Callable[[Bits, Bits], Array]
    #: what a positive number becomes that would be rounded to 0 and must not
    least: int


_16_BITS = {
    "bfloat16": _Format(_bf16_decode, _bf16_nearest, _bf16_stochastic, 0),
    "float16": _Format(_f16_decode, _f16_nearest, _f16_stochastic, 1),
}

#: names of the dtypes that hold one number in each element, in the order of fgd_dtype in csrc/fastgd.h
FORMATS = ("float32", "float64", *_16_BITS)


def arithmetic(dtype: Any) -> Any:
    """What numbers of a dtype are computed in: float64 for float64, float32 for all others."""
    return np.float64 if dtype.name == "float64" else np.float32


@np.errstate(all="ignore")
def load(stored: Array, real: Any) -> Array:
    """The numbers of an array in one of the FORMATS as float32 or float64; a new array."""
    narrow = _16_BITS.get(stored.dtype.name)
    numbers = stored if narrow is None else narrow.decode(stored.view(np.uint16))
    return numbers.astype(real)


@np.errstate(all="ignore")
def store(values: Array, dtype: Any, *, unsigned: bool = False, random: Bits | None = None) -> Array:
    """float32 or float64 values in one of the FORMATS, rounded once; a new array.

    unsigned: what is not 0 does not become 0 in float16; bfloat16 has the range of float32.
    random: 16 bits as uint32 for each value, to round to 16 bits stochastically; None: to nearest, ties to
        even.
    """
    narrow = _16_BITS.get(dtype.name)
    if narrow is None:
        return values.astype(dtype)
    bits = narrowed(values)
    stored = narrow.nearest(bits) if random is None else narrow.stochastic(bits, random)
    if unsigned:
        stored = np.where((stored == 0) & (bits > 0), np.uint16(narrow.least), stored)
    return stored.view(dtype)


# ---- Split float32: bfloat16 rounded to nearest, and the 16 bits between it and the whole ----------


def split_join(high: Array, low: Array) -> Array:
    """float32 from the bfloat16 and the int16 that `split` made of it."""
    return _float((high.view(np.uint16).astype(np.uint32) << 16) + low.astype(np.uint32))


def split(values: Array, dtype: Any) -> tuple[Array, Array]:
    """(bfloat16, int16) that together are the float32 values, NaN for NaN. dtype: bfloat16's."""
    bits = values.view(np.uint32)
    low = np.where(np.isnan(values), 0, bits).astype(np.uint16)
    # half an ulp rounds up, so that the rest is in -2^15 .. 2^15 - 1
    return _bf16_cut(bits, 0x8000).view(dtype), low.view(np.int16)


# ---- 8 bits -----------------------------------------------------------------------------------------

#: elements that share a scale: FGD_BLOCK in csrc/fastgd.h
BLOCK = 256

#: bits of a code's fraction when it is rounded; where codes go from 3 bits of fraction to 4
_CODE_SHIFT, _KNEE = 19, 128
#: w(0) of `decode`, and what k counts from in the bits of w
_ORIGIN = np.float32(2)
_ZERO = int(_ORIGIN.view(np.uint32)) >> _CODE_SHIFT + 1
#: less would have codes stand for subnormal numbers, more the highest one for infinity
_LEAST_SCALE, _MOST = np.float32(2.0**-120), np.float32((2 - 2.0**-20) * 2.0**127)

#: unsigned -> the highest code, and what it stands for, in units of the scale
_HIGHEST = {
    True: (255, np.float32(2.0**24 * 1.9375) - _ORIGIN),
    False: (127, np.float32(2.0**16 * 1.875) - _ORIGIN),
}


def _blocks(values: Array) -> Array:
    """[blocks, BLOCK], the last block filled up with 0."""
    flat = values.reshape(-1)
    padded = np.zeros((-(-flat.size // BLOCK), BLOCK), flat.dtype)
    padded.reshape(-1)[: flat.size] = flat
    return padded


@np.errstate(all="ignore")
def decode(codes: Array, scales: Array, real: Any, *, unsigned: bool = False) -> Array:
    """The numbers that 8-bit codes stand for, in their shape, as float32 or float64.

    codes: uint8, any shape, elements in C order; scales: float32, one for each BLOCK of them.

    Code k stands for scale (w(y) - w(0)), where w(y) is the float32 with the bits of 2 plus y << 19. So y
    counts sixteenths of an octave, and the lowest octave has equal steps down to 0. Numbers with a sign have
    7 bits beside it and y = 2 k: 16 octaves with 3 bits of fraction. Those that are never negative have all 8
    bits and y = min(2 k, k + 128): 24 octaves, the upper 8 with 4 bits.
    """
    numbers = decoded(_blocks(codes).astype(np.uint32), scales[:, None], unsigned)
    return numbers.reshape(-1)[: codes.size].reshape(codes.shape).astype(real)


def decoded(code: Bits, scale: Array, unsigned: bool) -> Array:
    """float32: what codes, as uint32, stand for."""
    k = code if unsigned else code & 0x7F
    w = _float((np.minimum(2 * k, k + _KNEE) << _CODE_SHIFT) + _ORIGIN.view(np.uint32))
    signs = 0 if unsigned else (code & 0x80) << 24
    return scale * _float((w - _ORIGIN).view(np.uint32) | signs)


@np.errstate(all="ignore")
def encode(values: Array, *, unsigned: bool = False, random: Bits | None = None) -> tuple[Array, Array]:
    """(codes, scales) as `decode` reads them, of float32 or float64 values in C order.

    The scale of a block is such that its largest magnitude has the highest code. One with infinity or NaN
    becomes NaN.

    unsigned: numbers are never negative; what is not 0 does not become 0, but for numbers up to 2^-139.
    random: 16 bits as uint32 for each value, to round stochastically; None: to nearest.
    """
    bits = _blocks(narrowed(values))
    largest = (bits & _MAGNITUDE).max(axis=1, initial=0)
    below = HALF_CODE if random is None else random_below(_blocks(random))
    code = encoded(bits, inverse_scale(largest, unsigned)[:, None], below, unsigned)
    code = np.where(is_broken(largest)[:, None], np.uint8(0), code)
    return code.reshape(-1)[: values.size].reshape(values.shape), scale_of(largest, unsigned)


def is_broken(largest: Bits) -> Any:
    """Whether the largest magnitude of a block, as bits, is no finite number."""
    return largest >= _INFINITE_BITS


def _finite_scale(largest: Bits, unsigned: bool) -> Array:
    highest = _HIGHEST[unsigned][1]
    scales: Array = np.clip(_float(largest) / highest, _LEAST_SCALE, _MOST / highest)
    return scales


def scale_of(largest: Bits, unsigned: bool) -> Array:
    """float32: the scale of a block whose largest magnitude has these bits."""
    return np.where(is_broken(largest), np.float32(np.nan), _finite_scale(largest, unsigned))


def inverse_scale(largest: Bits, unsigned: bool) -> Array:
    """What the numbers of such a block are multiplied by before they are encoded."""
    return np.float32(1) / _finite_scale(largest, unsigned)


#: what rounds codes to nearest
HALF_CODE = 1 << _CODE_SHIFT - 1


def random_below(halves: Bits) -> Bits:
    """What rounds codes stochastically, of 16 random bits each."""
    return halves << _CODE_SHIFT - 16


def encoded(bits: Bits, inverse: Array, below: Bits | int, unsigned: bool) -> Array:
    """uint8: the codes of numbers with the bits of float32, by the inverse of their block's scale.

    below: what is added before the bits past a code's are cut off: half a unit, or random bits.
    """
    most = _HIGHEST[unsigned][0]
    share = _float(bits if unsigned else bits & _MAGNITUDE) * inverse
    w: Bits = (share + _ORIGIN).view(np.uint32)
    k = w >> 1
    if unsigned:
        k = np.maximum(k, w - (_ZERO + _KNEE << _CODE_SHIFT))
    k = np.minimum(k + below >> _CODE_SHIFT, _ZERO + most)
    if unsigned:
        k = np.maximum(k, np.minimum(bits, _ZERO + 1))
    code: Array = (k if unsigned else k | bits >> 24 & 0x80).astype(np.uint8)
    return code
