/* Exponential, logarithm and normal distribution: one number, plain scalar C, in a fixed order.
 *
 * Only + - * /, comparisons and integer operations on bits, so that every instruction set gives the same
 * bits; no call into libm. fastgd/nn/elementary.py has the same formulas in Python; a change here is a change
 * there. */
#ifndef FGD_ELEMENTARY_H
#define FGD_ELEMENTARY_H

#include <string.h>

#include "real.h"

/* Adding and subtracting ROUNDER rounds to the nearest integer and leaves it in the lowest bits. LN2_HIGH
 * ends in zeros, so that its product with any exponent is exact. Past EXP_MAX exp is infinite, past EXP_MIN
 * 0; from TANH_MAX on tanh is 1; from NORMAL_MAX on the normal distribution's tail is 0. */
#if FGD_DOUBLE
#define MANTISSA_BITS 52
#define EXPONENT_BIAS 1023
#define ROUNDER 0x1.8p52
#define LN2_HIGH 0x1.62e42feep-1
#define LN2_LOW 0x1.a39ef35793c76p-33
#define EXP_MAX 710.0
#define EXP_MIN -746.0
#define TANH_MAX 22.0
#define NORMAL_MAX 38.6
#else
#define MANTISSA_BITS 23
#define EXPONENT_BIAS 127
#define ROUNDER 0x1.8p23f
#define LN2_HIGH 0x1.62e4p-1f
#define LN2_LOW 0x1.7f7d1cp-20f
#define EXP_MAX 89.0f
#define EXP_MIN -104.0f
#define TANH_MAX 10.0f
#define NORMAL_MAX 14.4f
#endif

/* e^x = (1 + series) * half * other_half, the halves powers of two. Two of them, because 2^n itself is no
 * normal number where e^x is just below overflow or below the normal numbers. */
typedef struct exponential {
    REAL series, half, other_half;
} exponential;

/* Cody and Waite 1980, chapter 6: x = n ln 2 + r with |r| <= ln 2 / 2, then  e^r - 1 = r + r^2/2! + r^3/3!
 * and so on up to r^7 in float32 and r^13 in float64. Unsigned bits, because SSE2 and AVX2 have no signed
 * 64-bit shift. */
INLINE exponential exponential_of_rest(REAL shifted, REAL r) {
    const REAL rounder = ROUNDER;
    UBITS bits, zero, half, other_half;
    exponential e;
#if FGD_DOUBLE
    REAL q = 1.0 / 6227020800;
    q = 1.0 / 479001600 + r * q;
    q = 1.0 / 39916800 + r * q;
    q = 1.0 / 3628800 + r * q;
    q = 1.0 / 362880 + r * q;
    q = 1.0 / 40320 + r * q;
    q = 1.0 / 5040 + r * q;
#else
    REAL q = (REAL)(1.0 / 5040);
#endif
    q = (REAL)(1.0 / 720) + r * q;
    q = (REAL)(1.0 / 120) + r * q;
    q = (REAL)(1.0 / 24) + r * q;
    q = (REAL)(1.0 / 6) + r * q;
    q = (REAL)0.5 + r * q;
    e.series = r + (r * r) * q;
    memcpy(&bits, &shifted, sizeof bits);
    memcpy(&zero, &rounder, sizeof zero);
    bits = bits - zero + 2 * (EXPONENT_BIAS + 1);
    half = bits >> 1;
    other_half = (bits - half - 1) << MANTISSA_BITS;
    half = (half - 1) << MANTISSA_BITS;
    memcpy(&e.half, &half, sizeof half);
    memcpy(&e.other_half, &other_half, sizeof other_half);
    return e;
}

INLINE exponential exponential_of(REAL x) {
    const REAL shifted = x * (REAL)0x1.71547652b82fep0 + ROUNDER, n = shifted - ROUNDER;
    return exponential_of_rest(shifted, (x - n * LN2_HIGH) - n * LN2_LOW);
}

/* Of x + low, where low is at most 0.1 and lies mostly below the last place of x. */
INLINE exponential exponential_of_sum(REAL x, REAL low) {
    const REAL shifted = x * (REAL)0x1.71547652b82fep0 + ROUNDER, n = shifted - ROUNDER;
    return exponential_of_rest(shifted, ((x - n * LN2_HIGH) - n * LN2_LOW) + low);
}

INLINE REAL exp_of(REAL x) {
    x = x > EXP_MAX ? EXP_MAX : x;
    x = x < EXP_MIN ? EXP_MIN : x;
    const exponential e = exponential_of(x);
    return ((1 + e.series) * e.half) * e.other_half;
}

/* e^x - 1 of what is not above 0, without cancellation near it. */
INLINE REAL expm1_of(REAL x) {
    x = x < EXP_MIN ? EXP_MIN : x;
    const exponential e = exponential_of(x);
    const REAL scale = e.half * e.other_half;
    return e.series * scale + (scale - 1);
}

/* log(1 + x) for x from 0 to 1:  2 s (1 + s^2/3 + s^4/5 + ...)  with  s = x / (2 + x)  up to 1/3. */
INLINE REAL log1p_of(REAL x) {
    const REAL s = x / (2 + x), s2 = s * s;
#if FGD_DOUBLE
    REAL q = 1.0 / 33;
    q = 1.0 / 31 + s2 * q;
    q = 1.0 / 29 + s2 * q;
    q = 1.0 / 27 + s2 * q;
    q = 1.0 / 25 + s2 * q;
    q = 1.0 / 23 + s2 * q;
    q = 1.0 / 21 + s2 * q;
    q = 1.0 / 19 + s2 * q;
    q = 1.0 / 17 + s2 * q;
    q = 1.0 / 15 + s2 * q;
#else
    REAL q = (REAL)(1.0 / 15);
#endif
    q = (REAL)(1.0 / 13) + s2 * q;
    q = (REAL)(1.0 / 11) + s2 * q;
    q = (REAL)(1.0 / 9) + s2 * q;
    q = (REAL)(1.0 / 7) + s2 * q;
    q = (REAL)(1.0 / 5) + s2 * q;
    q = (REAL)(1.0 / 3) + s2 * q;
    return 2 * s + (2 * s) * (s2 * q);
}

/* x without its sign, and with the sign of another number. */
INLINE REAL magnitude_of(REAL x) { return x < 0 ? -x : x; }

INLINE REAL with_sign_of(REAL magnitude, REAL sign) {
    const UBITS top = (UBITS)1 << (8 * sizeof(UBITS) - 1);
    UBITS bits, sign_bits;
    memcpy(&bits, &magnitude, sizeof bits);
    memcpy(&sign_bits, &sign, sizeof sign_bits);
    bits = (bits & ~top) | (sign_bits & top);
    memcpy(&magnitude, &bits, sizeof bits);
    return magnitude;
}

/* The natural logarithm of a normal number above 0, in double in both precisions: x = 2^n m with m in
 * [sqrt(1/2), sqrt 2),  s = (m - 1) / (m + 1),  log m = 2 s (1 + s^2/3 + s^4/5 + ...)  up to s^20. NaN
 * stays. */
INLINE double log_of(double x) {
    const uint64_t one = (uint64_t)1023 << 52, mask = ((uint64_t)1 << 52) - 1;
    const uint64_t sqrt_half = 0x3fe6a09e667f3bcdu;
    uint64_t bits;
    double m;
    memcpy(&bits, &x, sizeof bits);
    bits += one - sqrt_half;
    const double n = (double)((int64_t)(bits >> 52) - 1023);
    bits = (bits & mask) + sqrt_half;
    memcpy(&m, &bits, sizeof m);
    const double s = (m - 1) / (m + 1), s2 = s * s;
    double q = 1.0 / 21;
    q = 1.0 / 19 + s2 * q;
    q = 1.0 / 17 + s2 * q;
    q = 1.0 / 15 + s2 * q;
    q = 1.0 / 13 + s2 * q;
    q = 1.0 / 11 + s2 * q;
    q = 1.0 / 9 + s2 * q;
    q = 1.0 / 7 + s2 * q;
    q = 1.0 / 5 + s2 * q;
    q = 1.0 / 3 + s2 * q;
    q = 2 * s + (2 * s) * (s2 * q);
    return x == x ? n * 0x1.62e42feep-1 + (q + n * 0x1.a39ef35793c76p-33) : x;
}

/* The normal distribution at -a for a from 0 to NORMAL_MAX: tail = Phi(-a), and e^(-a^2 / 2) for its density.
 *
 *   Phi(-a) = e^(-a^2 / 2) t P(t),   t = 4.25 / (4.25 + a)
 *
 * where P interpolates in Chebyshev's points, in powers of t - 9/16, within 2^-27 in float32 and 2^-55 in
 * float64: the scaled complementary error function, as smooth as it is in 1 / (c + a), needs no cases
 * (Schonfelder 1978). a^2 is exact in two parts, so that the tail keeps its relative accuracy. */
typedef struct normal {
    REAL tail, exponential;
} normal;

INLINE normal normal_of(REAL a) {
    UBITS bits;
    REAL high;
    normal d;
    memcpy(&bits, &a, sizeof bits);
    bits &= ~(((UBITS)1 << (MANTISSA_BITS / 2 + 1)) - 1);
    memcpy(&high, &bits, sizeof high);
    const REAL low = (a - high) * (a + high);
    const exponential e = exponential_of_sum((REAL)-0.5 * (high * high), (REAL)-0.5 * low);
    const REAL t = (REAL)4.25 / ((REAL)4.25 + a), v = t - (REAL)0.5625;
#if FGD_DOUBLE
    REAL q = -0x1.2104e6bca4e35p-10;
    q = 0x1.7debe319044c9p-11 + v * q;
    q = 0x1.289a550597f7fp-9 + v * q;
    q = -0x1.3a1ab64ac5cc9p-9 + v * q;
    q = -0x1.25603bc1f89b6p-9 + v * q;
    q = 0x1.2b3f71c8351b6p-8 + v * q;
    q = 0x1.d761c0a4918e8p-11 + v * q;
    q = -0x1.cc735b5666344p-8 + v * q;
    q = 0x1.9599e6a798377p-10 + v * q;
    q = 0x1.52d96d471b689p-7 + v * q;
    q = -0x1.4d6124d52f23bp-8 + v * q;
    q = -0x1.10813758af931p-6 + v * q;
    q = 0x1.325e9aa278a4fp-7 + v * q;
    q = 0x1.07a09f2cad09ap-5 + v * q;
    q = -0x1.174c69531bf9dp-7 + v * q;
    q = -0x1.2bb305260ca8p-4 + v * q;
    q = -0x1.55713c28ed8ep-5 + v * q;
    q = 0x1.166ea354b3e7bp-3 + v * q;
    q = 0x1.761b8c6c5773ap-2 + v * q;
    q = 0x1.007c45878085fp-1 + v * q;
    q = 0x1.ead5c1e54eb3p-2 + v * q;
    q = 0x1.64efbf0e67b78p-2 + v * q;
    q = 0x1.97099a5c514cep-3 + v * q;
#else
    REAL q = 0x1.d58198p-6f;
    q = -0x1.990f2p-8f + v * q;
    q = -0x1.2ab606p-4f + v * q;
    q = -0x1.571512p-5f + v * q;
    q = 0x1.166cbap-3f + v * q;
    q = 0x1.761d5p-2f + v * q;
    q = 0x1.007c42p-1f + v * q;
    q = 0x1.ead5bep-2f + v * q;
    q = 0x1.64efcp-2f + v * q;
    q = 0x1.97099ap-3f + v * q;
#endif
    d.exponential = ((1 + e.series) * e.half) * e.other_half;
    d.tail = (t * q) * d.exponential;
    return d;
}

#endif
