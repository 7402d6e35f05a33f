/* How one number is stored in fewer bits than it is computed in: float32 to and from bfloat16, float16 and
 * 8-bit codes, rounded to nearest or stochastically. Integer operations and exact float32 ones only, so that
 * every instruction set gives the same bits; fastgd/storage.py has the same formulas in Python. */
#ifndef FGD_STORAGE_H
#define FGD_STORAGE_H

#include <string.h>

#include "real.h"

INLINE uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

INLINE float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

#define SIGN_BIT 0x80000000u
#define INFINITE_BITS 0x7f800000u

/* float32 from a REAL on its way to fewer bits. From float64 it is rounded to odd (of its two neighbours to
 * the one whose last bit is 1), so that the rounding that follows is the only one: Boldo and Melquiond 2008,
 * theorem 3. So it is neither 0 nor infinite unless x is. */
INLINE float narrowed(REAL x) {
#if FGD_DOUBLE
    const float nearest = (float)x;
    const double rest = x - (double)nearest; /* NaN for what is infinite or NaN itself */
    const uint32_t bits = bits_of(nearest), outward = (rest > 0) == (x > 0) ? 1 : 0xffffffffu;
    return from_bits((rest < 0 || rest > 0) && !(bits & 1) ? bits + outward : bits);
#else
    return x;
#endif
}

/* ---- Random bits ----------------------------------------------------------------------------------- */

/* 32 bits, of which one array takes the upper and another the lower half: 16 are enough for every rounding.
 * The hash "lowbias32" with the constants of Ettinger's hash-prospector (16 21f0aaad 15 735a2d97 15), keyed
 * before each multiplication. A counter-based generator: no state, any element can be had at once. */
INLINE uint32_t random_bits(uint32_t element, uint32_t key0, uint32_t key1) {
    uint32_t z = element ^ key0;
    z = (z ^ z >> 16) * 0x21f0aaadu;
    z += key1;
    z = (z ^ z >> 15) * 0x735a2d97u;
    return z ^ z >> 15;
}

/* ---- bfloat16: the upper half of a float32 ---------------------------------------------------------- */

INLINE float bf16_decode(uint16_t b) { return from_bits((uint32_t)b << 16); }

/* `below` is what is added before the lower half is cut off: random, or half an ulp less one and ties to
 * even. Magnitudes above that of the quiet NaN, which are other NaNs and would overflow, become it;
 * arithmetic gives no signalling NaN. */
INLINE uint32_t quiet(uint32_t bits) {
    const int32_t positive = (int32_t)bits > 0x7fc00000 ? 0x7fc00000 : (int32_t)bits;
    return (uint32_t)positive > 0xffc00000u ? 0xffc00000u : (uint32_t)positive;
}

INLINE uint16_t bf16_cut(uint32_t bits, uint32_t below) { return (uint16_t)((bits + below) >> 16); }

INLINE uint16_t bf16_nearest(float x) {
    const uint32_t bits = quiet(bits_of(x));
    return bf16_cut(bits, 0x7fff + (bits >> 16 & 1));
}

INLINE uint16_t bf16_stochastic(float x, uint32_t random16) { return bf16_cut(quiet(bits_of(x)), random16); }

/* ---- float16 --------------------------------------------------------------------------------------- */

#define F16_REBIAS (112u << 23)     /* between the exponents' biases, 127 and 15 */
#define F16_MIN_NORMAL (113u << 23) /* 2^-14 */
#define F16_INFINITE 0x7c00u

INLINE float f16_decode(uint16_t h) {
    const uint32_t magnitude = h & 0x7fff, shifted = (magnitude << 13) + F16_REBIAS;
    const float subnormal = (float)(int32_t)magnitude * 0x1p-24f;
    const uint32_t large = magnitude >= F16_INFINITE ? shifted + F16_REBIAS : shifted;
    const uint32_t bits = magnitude < 0x400 ? bits_of(subnormal) : large;
    return from_bits(bits | (uint32_t)(h & 0x8000) << 16);
}

/* From the magnitude's bits and what is added to them, both for normal results and for subnormal ones. */
INLINE uint16_t f16_pack(uint32_t bits, uint32_t normal, uint32_t subnormal) {
    const uint32_t magnitude = bits & ~SIGN_BIT;
    uint32_t h = magnitude < F16_MIN_NORMAL ? subnormal : normal;
    h = magnitude >= 143u << 23 ? F16_INFINITE : h; /* 2^16 and above */
    h = magnitude > INFINITE_BITS ? 0x7e00 : h;
    return (uint16_t)(h | (bits >> 16 & 0x8000));
}

/* Subnormals of float16 are multiples of 2^-24, the last place of numbers from 0.5 to 1. */
INLINE uint16_t f16_nearest(float x) {
    const uint32_t bits = bits_of(x), magnitude = bits & ~SIGN_BIT;
    const float small = magnitude < F16_MIN_NORMAL ? from_bits(magnitude) : 0;
    const uint32_t normal = (magnitude - F16_REBIAS + 0xfff + (magnitude >> 13 & 1)) >> 13;
    return f16_pack(bits, normal, bits_of(small + 0.5f) - bits_of(0.5f));
}

INLINE uint16_t f16_stochastic(float x, uint32_t random16) {
    const uint32_t bits = bits_of(x), magnitude = bits & ~SIGN_BIT, below = random16 >> 3;
    const float small = magnitude < F16_MIN_NORMAL ? from_bits(magnitude) : 0;
    const uint32_t fixed = (uint32_t)(int32_t)(small * 0x1p37f); /* in units of 2^-37 */
    return f16_pack(bits, (magnitude - F16_REBIAS + below) >> 13, (fixed + below) >> 13);
}

/* ---- Split float32: bfloat16 rounded to nearest, and the 16 bits between it and the whole ------------ */

INLINE float split_join(uint16_t high, int16_t low) {
    return from_bits(((uint32_t)high << 16) + (uint32_t)(int32_t)low);
}

/* Half an ulp rounds up, so that the rest is in -2^15 .. 2^15 - 1. NaN has no rest. */
INLINE uint16_t split_high(float x) { return bf16_cut(quiet(bits_of(x)), 0x8000); }
INLINE int16_t split_low(float x) { return (int16_t)(uint16_t)quiet(bits_of(x)); }

/* ---- 8 bits ---------------------------------------------------------------------------------------- */

/* A block of FGD_BLOCK numbers shares a scale, with which its largest magnitude has the highest code. Code k
 * stands for  scale (w(y) - 2),  where w(y) is the float32 with the bits of 2 plus y << 19. So y counts
 * sixteenths of an octave, and the lowest octave has equal steps down to 0. Numbers with a sign have 7 bits
 * beside it and y = 2 k: 16 octaves with 3 bits of fraction. Those that are never negative have all 8 bits
 * and y = min(2 k, k + 128): 24 octaves, the upper 8 with 4 bits. Where k ends in the bits of w, the low byte
 * is k, because that of 2 is 0 there. A block with infinity or NaN is NaN. */
#define CODE_SHIFT 19
#define CODE_ORIGIN 0x40000000u /* the bits of 2 */
#define CODE_KNEE 128

/* What the highest code stands for, in units of the scale: y is 383, or 254. */
INLINE float code_highest(int is_unsigned) { return is_unsigned ? 0x1.fp24f - 2 : 0x1.ep16f - 2; }

/* For a block with this largest magnitude, as bits and finite. Bounded so that no code stands for a subnormal
 * number and the highest not for infinity, by whatever way it is rounded. */
INLINE float block_scale(uint32_t largest, int is_unsigned) {
    const float highest = code_highest(is_unsigned), most = 0x1.fffffp127f / highest;
    const float scale = from_bits(largest) / highest;
    return scale < 0x1p-120f ? 0x1p-120f : scale > most ? most : scale;
}

INLINE float code_decode(uint8_t code, float scale, int is_unsigned) {
    const uint32_t k = is_unsigned ? code : code & 0x7f, coarse = k << 1, fine = k + CODE_KNEE;
    const uint32_t y = is_unsigned && fine < coarse ? fine : coarse;
    const float level = from_bits((y << CODE_SHIFT) + CODE_ORIGIN) - 2;
    return scale * (is_unsigned ? level : from_bits(bits_of(level) | (uint32_t)(code & 0x80) << 24));
}

/* inverse: 1 / scale. below: what is added before the fraction of k, CODE_SHIFT bits, is cut off: random, or
 * half. What is never negative divides, so it is not rounded to 0 either, but for numbers up to 2^-139. */
INLINE uint8_t code_encode(float x, uint32_t below, float inverse, int is_unsigned) {
    const uint32_t bits = bits_of(x), zero = CODE_ORIGIN >> (CODE_SHIFT + 1);
    const float magnitude = is_unsigned ? x : from_bits(bits & ~SIGN_BIT);
    const uint32_t w = bits_of(magnitude * inverse + 2), coarse = w >> 1;
    const uint32_t fine = w - (CODE_ORIGIN >> 1) - (CODE_KNEE << CODE_SHIFT);
    const uint32_t least = bits < zero + 1 ? bits : zero + 1, most = zero + (is_unsigned ? 255 : 127);
    uint32_t k = ((is_unsigned && fine > coarse ? fine : coarse) + below) >> CODE_SHIFT;
    k = is_unsigned && k < least ? least : k;
    k = k > most ? most : k;
    return (uint8_t)(is_unsigned ? k : k | (bits >> 24 & 0x80));
}

#define NEAREST_CODE (1u << (CODE_SHIFT - 1))
INLINE uint32_t stochastic_code(uint32_t random16) { return random16 << (CODE_SHIFT - 16); }

#endif
