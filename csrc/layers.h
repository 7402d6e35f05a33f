/* The bodies of the forward and backward kernels: one element, plain scalar C, in a fixed order.
 *
 * FORWARD(name) opens a function of  REAL z  that returns y; BACKWARD(name) one of  REAL y  and  REAL dy, the
 * loss's derivative with respect to y, that returns the one with respect to z. Only + - * /, comparisons and
 * integer operations on bits, so that every instruction set gives the same bits; no call into libm.
 * fastgd/nn/reference.py has the same formulas in Python; a change here is a change there. */

/* Adding and subtracting ROUNDER rounds to the nearest integer and leaves it in the lowest bits. LN2_HIGH
 * ends in zeros, so that its product with any exponent is exact. Past EXP_MAX exp is infinite, past EXP_MIN
 * 0; from TANH_MAX on tanh is 1. */
#if FGD_DOUBLE
#define MANTISSA_BITS 52
#define EXPONENT_BIAS 1023
#define ROUNDER 0x1.8p52
#define LN2_HIGH 0x1.62e42feep-1
#define LN2_LOW 0x1.a39ef35793c76p-33
#define EXP_MAX 710.0
#define EXP_MIN -746.0
#define TANH_MAX 22.0
#else
#define MANTISSA_BITS 23
#define EXPONENT_BIAS 127
#define ROUNDER 0x1.8p23f
#define LN2_HIGH 0x1.62e4p-1f
#define LN2_LOW 0x1.7f7d1cp-20f
#define EXP_MAX 89.0f
#define EXP_MIN -104.0f
#define TANH_MAX 10.0f
#endif

/* e^x = (1 + series) * half * other_half, the halves powers of two. Two of them, because 2^n itself is no
 * normal number where e^x is just below overflow or below the normal numbers. */
typedef struct exponential {
    REAL series, half, other_half;
} exponential;

/* Cody and Waite 1980, chapter 6: x = n ln 2 + r with |r| <= ln 2 / 2, then  e^r - 1 = r + r^2/2! + r^3/3!
 * and so on up to r^7 in float32 and r^13 in float64. Unsigned bits, because SSE2 and AVX2 have no signed
 * 64-bit shift. */
INLINE exponential exponential_of(REAL x) {
    const REAL shifted = x * (REAL)0x1.71547652b82fep0 + ROUNDER, n = shifted - ROUNDER;
    const REAL r = (x - n * LN2_HIGH) - n * LN2_LOW, rounder = ROUNDER;
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

INLINE REAL exp_of(REAL x) {
    x = x > EXP_MAX ? EXP_MAX : x;
    x = x < EXP_MIN ? EXP_MIN : x;
    const exponential e = exponential_of(x);
    return ((1 + e.series) * e.half) * e.other_half;
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

FORWARD(identity) { return z; }
BACKWARD(identity) { return dy; }

/* Rectified linear unit, Nair and Hinton 2010, section 2:  y = max(z, 0).  NaN stays NaN. */
FORWARD(relu) { return z < 0 ? 0 : z; }
BACKWARD(relu) { return y <= 0 ? 0 : dy; }

/* tanh |z| = -t / (2 + t)  with  t = e^(-2 |z|) - 1, which neither cancels near 0 nor overflows;
 * dz = dy (1 - y^2). */
FORWARD(tanh) {
    REAL a = magnitude_of(z);
    a = a > TANH_MAX ? TANH_MAX : a;
    const exponential e = exponential_of(-2 * a);
    const REAL scale = e.half * e.other_half, t = e.series * scale + (scale - 1);
    return with_sign_of(t / (2 + t), z);
}
BACKWARD(tanh) { return dy * (1 - y * y); }

/* 1 / (1 + e^-z), with the exponential of -|z| only, which does not overflow;  dz = dy y (1 - y). */
FORWARD(sigmoid) {
    const REAL e = exp_of(-magnitude_of(z));
    return (z < 0 ? e : 1) / (1 + e);
}
BACKWARD(sigmoid) { return dy * (y * (1 - y)); }

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
