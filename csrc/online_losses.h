/* The bodies of the losses of a row: its prediction p against its target y, in double.
 *
 * LOSS(name) opens a function that returns the loss, in two parts, and its derivative with respect to p. All
 * is + - * / and comparisons. fastgd/online/reference_losses.py has the same formulas in Python; a change
 * here is a change there. */

/* The whole loss is  loss + log(factor)  with a factor from 1 to 2: the logarithm of many rows' factors is
 * that of their product. */
typedef struct measure {
    double loss, slope, factor;
} measure;

#define LOSS(name) static measure name##_of(double p UNUSED, double y UNUSED, double a UNUSED)

static measure measure_of(double loss, double slope) { return (measure){loss, slope, 1}; }

/* max(0, threshold - p y), y -1 or 1: of the support vector machine with 1, of the perceptron with 0, whose
 * derivative at the kink is that of the side below (Rosenblatt 1958 updates there, too). */
static measure margin_of(double p, double y, double threshold) {
    const double z = p * y;
    return z <= threshold ? measure_of(threshold - z, -y) : measure_of(0, 0);
}
LOSS(hinge) { return margin_of(p, y, 1); }
LOSS(perceptron) { return margin_of(p, y, 0); }

/* max(0, 1 - p y)^2 */
LOSS(squared_hinge) {
    const double z = 1 - p * y;
    return z > 0 ? measure_of(z * z, -2 * y * z) : measure_of(0, 0);
}

/* Zhang 2004, "Solving large scale linear prediction problems using stochastic gradient descent algorithms":
 * max(0, 1 - p y)^2, and -4 p y where p y < -1. */
LOSS(modified_huber) {
    const double z = p * y;
    if (z >= 1) return measure_of(0, 0);
    return z >= -1 ? measure_of((1 - z) * (1 - z), -2 * (1 - z) * y) : measure_of(-4 * z, -4 * y);
}

/* e^x of what is not above 0, as exp_of in elementary.h but by Estrin's scheme (1960), in which few
 * operations wait for others: the next row waits for this number. From -708 down it stays e^-708. */
static double exp_below_0(double x) {
    const double rounder = ROUNDER, least = -708;
    if (x != x) return x;
    x = x < least ? least : x;
    const double shifted = x * 0x1.71547652b82fep0 + rounder, n = shifted - rounder;
    const double r = (x - n * LN2_HIGH) - n * LN2_LOW, r2 = r * r, r4 = r2 * r2, r8 = r4 * r4;
    const double low = (1.0 / 2 + r * (1.0 / 6)) + r2 * (1.0 / 24 + r * (1.0 / 120));
    const double middle = (1.0 / 720 + r * (1.0 / 5040)) + r2 * (1.0 / 40320 + r * (1.0 / 362880));
    const double last = 1.0 / 479001600 + r * (1.0 / 6227020800);
    const double high = (1.0 / 3628800 + r * (1.0 / 39916800)) + r2 * last;
    const double series = r + r2 * ((low + r4 * middle) + r8 * high);
    const uint64_t bits = (uint64_t)((int64_t)n + EXPONENT_BIAS) << MANTISSA_BITS;
    double power;
    memcpy(&power, &bits, sizeof power);
    return (1 + series) * power;
}

/* log(1 + e^p) - y p, y 0 or 1;  derivative 1 / (1 + e^-p) - y, which cancels nowhere in this form. */
LOSS(log_loss) {
    const double e = exp_below_0(-magnitude_of(p)), sum = 1 + e;
    return p > 0 ? (measure){(1 - y) * p, ((1 - y) - y * e) / sum, sum}
                 : (measure){-y * p, ((1 - y) * e - y) / sum, sum};
}

/* (p - y)^2 / 2 */
LOSS(squared_error) {
    const double d = p - y;
    return measure_of(0.5 * (d * d), d);
}

/* Huber 1964, section 4, with d = p - y:  d^2 / 2, and a (|d| - a / 2) where |d| > a. */
LOSS(huber) {
    const double d = p - y, size = magnitude_of(d);
    return size <= a ? measure_of(0.5 * (d * d), d) : measure_of(a * (size - 0.5 * a), d > 0 ? a : -a);
}

/* max(0, |p - y| - a), Vapnik 1995, section 6.1; and its square. */
LOSS(epsilon_insensitive) {
    const double d = p - y, beyond = magnitude_of(d) - a;
    return beyond > 0 ? measure_of(beyond, d > 0 ? 1 : -1) : measure_of(0, 0);
}
LOSS(squared_epsilon_insensitive) {
    const double d = p - y, beyond = magnitude_of(d) - a;
    return beyond > 0 ? measure_of(beyond * beyond, d > 0 ? 2 * beyond : -2 * beyond) : measure_of(0, 0);
}
