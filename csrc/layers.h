/* The bodies of the activations, forward and backward: one element, plain scalar C, in a fixed order.
 *
 * FORWARD(name) opens a function of  REAL z  that returns y = f(z). Its derivative comes of what layers.def
 * says is saved: BACKWARD_BY_OUTPUT(name) opens one of  REAL y, BACKWARD_BY_INPUT(name) one of  REAL z, and
 * of  REAL dy, the loss's derivative with respect to y; they return the one with respect to z. s.a and s.b
 * are the activation's parameters. Only + - * /, comparisons and elementary.h, so that every instruction set
 * gives the same bits. fastgd/nn/reference_activations.py has the same formulas in Python; a change here is a
 * change there. */
#include "elementary.h"

FORWARD(identity) { return z; }
BACKWARD_BY_OUTPUT(identity) { return dy; }

/* Rectified linear unit, Nair and Hinton 2010, section 2:  y = max(z, 0).  NaN stays NaN. */
FORWARD(relu) { return z < 0 ? 0 : z; }
BACKWARD_BY_OUTPUT(relu) { return y <= 0 ? 0 : dy; }

/* tanh |z| = -t / (2 + t)  with  t = e^(-2 |z|) - 1, which neither cancels near 0 nor overflows;
 * dz = dy (1 - y^2). */
FORWARD(tanh) {
    REAL a = magnitude_of(z);
    a = a > TANH_MAX ? TANH_MAX : a;
    const exponential e = exponential_of(-2 * a);
    const REAL scale = e.half * e.other_half, t = e.series * scale + (scale - 1);
    return with_sign_of(t / (2 + t), z);
}
BACKWARD_BY_OUTPUT(tanh) { return dy * (1 - y * y); }

/* 1 / (1 + e^-z), with the exponential of -|z| only, which does not overflow;  dz = dy y (1 - y). */
INLINE REAL logistic_of(REAL z) {
    const REAL e = exp_of(-magnitude_of(z));
    return (z < 0 ? e : 1) / (1 + e);
}
FORWARD(sigmoid) { return logistic_of(z); }
BACKWARD_BY_OUTPUT(sigmoid) { return dy * (y * (1 - y)); }

/* Leaky ReLU, Maas et al. 2013, section 2:  y = z, or a z below 0, with a >= 0, so that y has z's sign. */
FORWARD(leaky_relu) { return z < 0 ? s.a * z : z; }
BACKWARD_BY_OUTPUT(leaky_relu) { return y <= 0 ? s.a * dy : dy; }

/* Exponential linear unit, Clevert et al. 2016, equation 15:  y = z, or a (e^z - 1) below 0. */
FORWARD(elu) { return z < 0 ? s.a * expm1_of(z) : z; }
BACKWARD_BY_INPUT(elu) { return z > 0 ? dy : dy * (s.a * exp_of(z)); }

/* Scaled ELU, Klambauer et al. 2017, equation 2, with their alpha and lambda. */
#define SELU_ALPHA ((REAL)1.6732632423543772)
#define SELU_LAMBDA ((REAL)1.0507009873554805)
FORWARD(selu) { return SELU_LAMBDA * (z < 0 ? SELU_ALPHA * expm1_of(z) : z); }
BACKWARD_BY_INPUT(selu) { return SELU_LAMBDA * (z > 0 ? dy : dy * (SELU_ALPHA * exp_of(z))); }

/* Where a function falls to 0 for z towards -infinity as z e^z does, z is bounded, so that -infinity times 0
 * is not asked for. */
INLINE REAL bounded_below(REAL z, REAL bound) { return z < -bound ? -bound : z; }

/* Gaussian error linear unit, Hendrycks and Gimpel 2016, section 2:  y = z Phi(z);
 * dz = dy (Phi(z) + z phi(z)). */
INLINE REAL phi_of(REAL z, const normal *d) { return z < 0 ? d->tail : 1 - d->tail; }
INLINE normal normal_at(REAL z) {
    const REAL a = magnitude_of(z);
    return normal_of(a > NORMAL_MAX ? NORMAL_MAX : a);
}
FORWARD(gelu) {
    const normal d = normal_at(z);
    return bounded_below(z, NORMAL_MAX) * phi_of(z, &d);
}
BACKWARD_BY_INPUT(gelu) {
    const normal d = normal_at(z);
    REAL near = bounded_below(z, NORMAL_MAX);
    near = near > NORMAL_MAX ? NORMAL_MAX : near;
    return dy * (phi_of(z, &d) + near * ((REAL)0.3989422804014327 * d.exponential));
}

/* GELU by tanh, ibid.:  y = z (1 + tanh u) / 2 = z / (1 + e^(-2 u)),  u = sqrt(2 / pi) (z + 0.044715 z^3);
 * dz = dy (p + 2 z p (1 - p) u')  with  p = 1 / (1 + e^(-2 u)). From GELU_MAX on u is bounded: p is 0 or 1.
 */
#define GELU_MAX (FGD_DOUBLE ? 25 : 12)
INLINE REAL gelu_bounded(REAL z) {
    z = bounded_below(z, GELU_MAX);
    return z > GELU_MAX ? GELU_MAX : z;
}
INLINE REAL gelu_twice_u(REAL z) {
    return (REAL)1.5957691216057308 * (z + (REAL)0.044715 * (z * z * z));
}
FORWARD(gelu_tanh) { return bounded_below(z, GELU_MAX) * logistic_of(gelu_twice_u(gelu_bounded(z))); }
BACKWARD_BY_INPUT(gelu_tanh) {
    const REAL near = gelu_bounded(z), p = logistic_of(gelu_twice_u(near));
    const REAL slope = (REAL)1.5957691216057308 * (1 + (REAL)0.134145 * (near * near));
    return dy * (p + near * (p * (1 - p)) * slope);
}

/* Sigmoid linear unit (swish), Elfwing et al. 2018, equation 4:  y = z p,  p = 1 / (1 + e^-z);
 * dz = dy p (1 + z (1 - p)). */
FORWARD(silu) { return bounded_below(z, -EXP_MIN) * logistic_of(z); }
BACKWARD_BY_INPUT(silu) {
    REAL near = bounded_below(z, -EXP_MIN);
    near = near > EXP_MAX ? EXP_MAX : near;
    const REAL p = logistic_of(near);
    return dy * (p * (1 + near * (1 - p)));
}

/* Mish, Misra 2020, section 2:  y = z w,  w = tanh(log(1 + e^z)) = n / (n + 2),  n = e^z (e^z + 2), or with
 * e = e^-|z| above 0  w = (1 + 2 e) / (1 + 2 e + 2 e^2);  dz = dy (w + z (1 - w^2) / (1 + e^-z)). */
INLINE REAL mish_weight(REAL z) {
    const REAL e = exp_of(-magnitude_of(z)), below = e * (e + 2), above = 1 + 2 * e;
    return z < 0 ? below / (below + 2) : above / (above + 2 * (e * e));
}
FORWARD(mish) { return bounded_below(z, -EXP_MIN) * mish_weight(z); }
BACKWARD_BY_INPUT(mish) {
    REAL near = bounded_below(z, -EXP_MIN);
    near = near > EXP_MAX ? EXP_MAX : near;
    const REAL w = mish_weight(near);
    return dy * (w + near * ((1 - w * w) * logistic_of(near)));
}

/* Softplus, Dugas et al. 2001, section 3:  y = log(1 + e^(a z)) / a, and z where a z > b, as in torch;
 * dz = dy / (1 + e^(-a z)). */
INLINE REAL log1p_exp_of(REAL x) { return (x < 0 ? 0 : x) + log1p_of(exp_of(-magnitude_of(x))); }
FORWARD(softplus) {
    const REAL x = s.a * z;
    return x > s.b ? z : log1p_exp_of(x) / s.a;
}
BACKWARD_BY_INPUT(softplus) {
    const REAL x = s.a * z;
    return x > s.b ? dy : dy * logistic_of(x);
}

/* log(1 / (1 + e^-z)) = -log(1 + e^-z);  dz = dy / (1 + e^z). */
FORWARD(logsigmoid) { return -log1p_exp_of(-z); }
BACKWARD_BY_INPUT(logsigmoid) { return dy * logistic_of(-z); }

/* y = min(max(z, a), b);  dz = dy between the two. NaN stays NaN. */
FORWARD(hardtanh) { return z < s.a ? s.a : z > s.b ? s.b : z; }
BACKWARD_BY_OUTPUT(hardtanh) { return y <= s.a || y >= s.b ? 0 : dy; }

/* Howard et al. 2019, section 5.2:  sigmoid by  h = min(max(z + 3, 0), 6) / 6,  and silu by  z h. */
INLINE REAL hard_step(REAL z) {
    const REAL x = z + 3;
    return x < 0 ? 0 : x > 6 ? 6 : x;
}
FORWARD(hardsigmoid) { return hard_step(z) / 6; }
BACKWARD_BY_INPUT(hardsigmoid) { return z <= -3 || z >= 3 ? 0 : dy / 6; }
FORWARD(hardswish) { return bounded_below(z, 4) * (hard_step(z) / 6); }
BACKWARD_BY_INPUT(hardswish) { return z < -3 ? 0 : z > 3 ? dy : dy * (z / 3 + (REAL)0.5); }
