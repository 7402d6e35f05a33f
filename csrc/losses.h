/* The bodies of the losses of one element: a prediction p against a target t.
 *
 * LOSS(name) opens a function that returns the loss in double, and SLOPE(name) one that returns its
 * derivative with respect to p, but for the factor that losses.def gives. s.a is the loss's parameter. As in
 * layers.h, all is + - * /, comparisons and elementary.h. fastgd/nn/reference_losses.py has the same formulas
 * in Python; a change here is a change there. */

/* Squared error, (p - t)^2;  derivative 2 (p - t). */
LOSS(squared) {
    const double d = (double)(p - t);
    return d * d;
}
SLOPE(squared) { return p - t; }

/* Absolute error, |p - t|;  derivative its sign, 0 at 0. NaN stays. */
LOSS(absolute) { return (double)magnitude_of(p - t); }
SLOPE(absolute) {
    const REAL d = p - t;
    return d > 0 ? 1 : d < 0 ? -1 : d;
}

/* Huber 1964, section 4, with d = p - t:  d^2 / 2, and a (|d| - a / 2) where |d| > a;  derivative d, at most
 * a. */
LOSS(huber) {
    const double d = (double)magnitude_of(p - t), a = (double)s.a;
    return d > a ? a * (d - 0.5 * a) : 0.5 * (d * d);
}
SLOPE(huber) {
    const REAL d = p - t;
    return d > s.a ? s.a : d < -s.a ? -s.a : d;
}

/* Huber's loss over a, Girshick 2015, equation 3 (there a = 1):  d^2 / (2 a), and |d| - a / 2 from |d| = a
 * on. */
LOSS(smooth_absolute) {
    const double d = (double)magnitude_of(p - t), a = (double)s.a;
    return d < a ? 0.5 * (d * d) / a : d - 0.5 * a;
}
SLOPE(smooth_absolute) {
    const REAL d = p - t, size = magnitude_of(d);
    return size < s.a ? d / s.a : d > 0 ? 1 : d < 0 ? -1 : d;
}

/* Binary cross-entropy of the logit p, where the positive class counts a times:
 *   (1 - t) p + (1 + (a - 1) t) log(1 + e^-p);   derivative (1 + (a - 1) t) / (1 + e^-p) - a t
 * which neither overflows nor cancels for logits of any size. */
LOSS(binary_cross_entropy) {
    const double share = 1 + ((double)s.a - 1) * (double)t;
    return (1 - (double)t) * (double)p + share * (double)log1p_exp_of(-p);
}
SLOPE(binary_cross_entropy) { return (1 + (s.a - 1) * t) * logistic_of(p) - s.a * t; }
