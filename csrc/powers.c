/* Powers and logarithms. What is irrational is computed in pairs of doubles, some 100 bits, and rounded once:
 * that is the number which powers.py rounds from 40 digits, but for one case in 2^40. */
#include "powers.h"

#include <float.h>
#include <math.h>

static double small_power(double base, int64_t n) {
    double result = 1;
    for (; n; n >>= 1) {
        if (n & 1) result *= base;
        base *= base;
    }
    return result;
}

double fgd_power(double base, int64_t n) {
    if (n < 256) return small_power(base, n);
    return small_power(base, n >> 8 << 8) * small_power(base, n & 255);
}

/* ---- Numbers of two doubles, of which the second is below the last place of the first --------------- */

typedef struct pair {
    double high, low;
} pair;

static const pair LN2 = {0x1.62e42fefa39efp-1, 0x1.abc9e3b39803fp-56};

/* a + b for |a| >= |b|, or a = 0 (Dekker 1971). */
static pair ordered_sum(double a, double b) {
    const double high = a + b;
    return (pair){high, b - (high - a)};
}

/* Moeller 1965, Knuth 1969 */
static pair sum(double a, double b) {
    const double high = a + b, of_b = high - a;
    return (pair){high, (a - (high - of_b)) + (b - of_b)};
}

/* Veltkamp's splitting, Dekker's product; below 2^995, so that nothing overflows. */
static pair product(double a, double b) {
    const double split_a = 0x1.0000002p27 * a, split_b = 0x1.0000002p27 * b, high = a * b;
    const double a1 = split_a - (split_a - a), a2 = a - a1;
    const double b1 = split_b - (split_b - b), b2 = b - b1;
    return (pair){high, ((a1 * b1 - high) + a1 * b2 + a2 * b1) + a2 * b2};
}

static pair add(pair a, pair b) {
    const pair high = sum(a.high, b.high), low = sum(a.low, b.low);
    const pair first = ordered_sum(high.high, high.low + low.high);
    return ordered_sum(first.high, first.low + low.low);
}

static pair times(pair a, double b) {
    const pair p = product(a.high, b);
    return ordered_sum(p.high, p.low + a.low * b);
}

static pair multiply(pair a, pair b) {
    const pair p = product(a.high, b.high);
    return ordered_sum(p.high, p.low + (a.high * b.low + a.low * b.high));
}

static pair divide(pair a, pair b) {
    const double first = a.high / b.high;
    const pair rest = add(a, times(b, -first));
    const double second = rest.high / b.high;
    const pair left = add(rest, times(b, -second));
    return add(ordered_sum(first, second), (pair){left.high / b.high, 0});
}

/* ---- Irrational functions ----------------------------------------------------------------------------- */

/* e^x - 1 for |x| < 1/2: by its series at x / 256, which 11 terms give, and
 *   e^2y - 1 = 2 (e^y - 1) + (e^y - 1)^2 */
static pair exponential_minus_1(pair x) {
    const pair part = {x.high / 256, x.low / 256};
    pair result = {0, 0};
    for (int n = 11; n > 0; n--)
        result = divide(multiply(add(result, (pair){1, 0}), part), (pair){n, 0});
    for (int i = 0; i < 8; i++) result = add(times(result, 2), multiply(result, result));
    return result;
}

/* ln(m 2^n) = ln(m) + n ln(2). Of ln(m) comes a guess y, then  y + 2 (m - e^y) / (m + e^y)  (Halley). */
static pair logarithm(double value) {
    int n;
    double m = frexp(value, &n);
    if (m < 0x1.6a09e667f3bcdp-1) m *= 2, n--;
    const double guess = log(m);
    const pair power = exponential_minus_1((pair){guess, 0});
    const pair above = add((pair){m - 1, 0}, (pair){-power.high, -power.low});
    const pair mean = add(power, (pair){m + 1, 0});
    const pair of_m = add((pair){guess, 0}, divide(times(above, 2), mean));
    return add(of_m, times(LN2, n));
}

double fgd_logarithm(double value) { return logarithm(value).high; }

double fgd_real_power(double base, double exponent) {
    if (exponent == floor(exponent) && exponent <= 64) return small_power(base, (int64_t)exponent);
    if (!(base > 0 && base < INFINITY) || base == 1) return base;
    const pair ln = logarithm(base);
    if (fabs(ln.high * exponent) > 1000) return ln.high > 0 ? INFINITY : 0;
    const pair power = times(ln, exponent);
    const int n = (int)rint(power.high / LN2.high);
    const pair rest = add(power, times(LN2, -n));
    const pair result = add(exponential_minus_1(rest), (pair){1, 0});
    if (ldexp(result.high, n) >= DBL_MIN) return ldexp(result.high, n);
    /* the last place of this is that of the result, which so is rounded once */
    const double place = ldexp(1, DBL_MIN_EXP - 1 - n);
    const pair placed = ordered_sum(place, result.high);
    return ldexp(placed.high + (placed.low + result.low) - place, n);
}
