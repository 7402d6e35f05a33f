/* The bodies of the losses of a row: its prediction p against its target y, in double.
 *
 * LOSS(name) opens a function that returns the loss and its derivative with respect to p. All is + - * /,
 * comparisons and elementary.h. fastgd/online/reference_losses.py has the same formulas in Python; a change
 * here is a change there. */

typedef struct measure {
    double loss, slope;
} measure;

#define LOSS(name) static measure name##_of(double p UNUSED, double y UNUSED, double a UNUSED)

/* max(0, threshold - p y), y -1 or 1: of the support vector machine with 1, of the perceptron with 0, whose
 * derivative at the kink is that of the side below (Rosenblatt 1958 updates there, too). */
static measure margin_of(double p, double y, double threshold) {
    const double z = p * y;
    return z <= threshold ? (measure){threshold - z, -y} : (measure){0, 0};
}
LOSS(hinge) { return margin_of(p, y, 1); }
LOSS(perceptron) { return margin_of(p, y, 0); }

/* max(0, 1 - p y)^2 */
LOSS(squared_hinge) {
    const double z = 1 - p * y;
    return z > 0 ? (measure){z * z, -2 * y * z} : (measure){0, 0};
}

/* Zhang 2004, "Solving large scale linear prediction problems using stochastic gradient descent algorithms":
 * max(0, 1 - p y)^2, and -4 p y where p y < -1. */
LOSS(modified_huber) {
    const double z = p * y;
    if (z >= 1) return (measure){0, 0};
    return z >= -1 ? (measure){(1 - z) * (1 - z), -2 * (1 - z) * y} : (measure){-4 * z, -4 * y};
}

/* log(1 + e^p) - y p, y 0 or 1;  derivative 1 / (1 + e^-p) - y, which cancels nowhere in this form. */
LOSS(log_loss) {
    const double e = exp_of(-magnitude_of(p)), sum = 1 + e, loss = log1p_of(e);
    return p > 0 ? (measure){loss + (1 - y) * p, ((1 - y) - y * e) / sum}
                 : (measure){loss - y * p, ((1 - y) * e - y) / sum};
}

/* (p - y)^2 / 2 */
LOSS(squared_error) {
    const double d = p - y;
    return (measure){0.5 * (d * d), d};
}

/* Huber 1964, section 4, with d = p - y:  d^2 / 2, and a (|d| - a / 2) where |d| > a. */
LOSS(huber) {
    const double d = p - y, size = magnitude_of(d);
    return size <= a ? (measure){0.5 * (d * d), d} : (measure){a * (size - 0.5 * a), d > 0 ? a : -a};
}

/* max(0, |p - y| - a), Vapnik 1995, section 6.1; and its square. */
LOSS(epsilon_insensitive) {
    const double d = p - y, beyond = magnitude_of(d) - a;
    return beyond > 0 ? (measure){beyond, d > 0 ? 1 : -1} : (measure){0, 0};
}
LOSS(squared_epsilon_insensitive) {
    const double d = p - y, beyond = magnitude_of(d) - a;
    return beyond > 0 ? (measure){beyond * beyond, d > 0 ? 2 * beyond : -2 * beyond} : (measure){0, 0};
}
