/* The body of each update rule: one element, plain scalar C, in the order of operations that fixes its bits.
 *
 * RULE(name) opens a function of  REAL *p  (the parameter),  REAL g  (its gradient, unscaled and clipped),
 * x  (the state slots),  s  (the scalars)  and  on  (the switches, constants when compiled). Only + - * /
 * and sqrt, which IEEE 754 rounds correctly, so that every instruction set gives the same bits.
 * fastgd/rules/ has the same formulas in Python; a change here is a change there.
 *
 * Every body ends in  *p = s->decay * *p - <the step>;  decay is 1 when nothing decays. Callers rely on it:
 * with decay 0 a kernel leaves exactly minus the step in *p. So the parameter enters the step only where the
 * formula names it, as an L2 weight decay does. Only asgd goes on from there, to average its parameter. */

/* Stochastic gradient descent with momentum as in Sutskever et al. 2013, section 2, in torch's form:
 *   b = momentum b + (1 - dampening) g;   p = p - lr b,   or with Nesterov   p = p - lr (g + momentum b)
 * grad_weight is 1 - dampening, and 1 at the first step, where torch sets b = g. */
RULE(sgd) {
    if (on.weight_decay) g = g + s->weight_decay * *p;
    if (on.momentum) {
        x->momentum_buffer = s->momentum * x->momentum_buffer + s->grad_weight * g;
        g = on.nesterov ? g + s->momentum * x->momentum_buffer : x->momentum_buffer;
    }
    *p = s->decay * *p - s->lr * g;
}

/* ASGD, Polyak and Juditsky 1992: descent that averages its parameters, with Xu's rates of 2011 as in torch:
 *   eta = lr / (1 + lambd lr (step - 1))^alpha;   mu = 1 / max(1, step - 1 - t0)
 *   p = (1 - lambd eta) p - eta g;   ax = ax + mu (p - ax)
 * ax averages the new parameter, so it wants the real decay. */
RULE(asgd) {
    if (on.weight_decay) g = g + s->weight_decay * *p;
    *p = s->decay * *p - s->eta * g;
    x->ax = s->mu < 1 ? x->ax + s->mu * (*p - x->ax) : *p;
}

/* Schedule-free methods, Defazio et al. 2024, algorithm 1. p holds y, where gradients are taken:
 *   y = (1 - beta1) z + beta1 x;   z = z - lr g;   x = (1 - share) x + share z
 * Without x, as in the authors' package:   y = y + share (z - y) - lr (1 - beta1 (1 - share)) g
 * share is the step's weight, step^r (largest lr)^weight_lr_power, over the sum of all weights; step_size is
 * lr (1 - beta1 (1 - share)). At the first step z is y. AdamW is adaptive: g is divided by the root of the
 * corrected average of squares, and then weight_decay y is added. */
RULE(schedule_free) {
    /* both are read before the choice between them: clang vectorises no other */
    const REAL y = *p, kept = x->z, z = s->first > 0 ? y : kept;
    if (on.adaptive) {
        x->exp_avg_sq = s->beta2 * x->exp_avg_sq + s->one_minus_beta2 * (g * g);
        g = g / (SQRT(x->exp_avg_sq) * s->inv_sqrt_bias_correction2 + s->eps);
    }
    if (on.weight_decay) g = g + s->weight_decay * y;
    x->z = z - s->lr * g;
    *p = s->decay * y - (s->share * (y - z) + s->step_size * g);
}

/* Adagrad, Duchi et al. 2011, section 1.1:  v = v + g^2;  p = p - lr g / (sqrt(v) + eps)
 * lr is already decayed: lr / (1 + (step - 1) lr_decay). */
RULE(adagrad) {
    if (on.weight_decay) g = g + s->weight_decay * *p;
    x->sum = x->sum + g * g;
    *p = s->decay * *p - s->lr * (g / (SQRT(x->sum) + s->eps));
}

/* Adadelta, Zeiler 2012, algorithm 1:  v = rho v + (1 - rho) g^2;  d = sqrt(u + eps) / sqrt(v + eps) g;
 *   u = rho u + (1 - rho) d^2;  p = p - lr d   with v in square_avg and u in acc_delta. */
RULE(adadelta) {
    REAL delta;
    if (on.weight_decay) g = g + s->weight_decay * *p;
    x->square_avg = s->rho * x->square_avg + s->one_minus_rho * (g * g);
    delta = SQRT(x->acc_delta + s->eps) / SQRT(x->square_avg + s->eps) * g;
    x->acc_delta = s->rho * x->acc_delta + s->one_minus_rho * (delta * delta);
    *p = s->decay * *p - s->lr * delta;
}

/* RMSprop, Tieleman and Hinton 2012, lecture 6.5; centered as in Graves 2013, section 4.2.
 * The centered variance is kept at 0 or above, where rounding would make its root NaN. */
RULE(rmsprop) {
    REAL variance, update;
    if (on.weight_decay) g = g + s->weight_decay * *p;
    x->square_avg = s->alpha * x->square_avg + s->one_minus_alpha * (g * g);
    variance = x->square_avg;
    if (on.centered) {
        x->grad_avg = x->grad_avg + s->one_minus_alpha * (g - x->grad_avg);
        variance = variance - x->grad_avg * x->grad_avg;
        variance = variance < 0 ? 0 : variance;
    }
    update = g / (SQRT(variance) + s->eps);
    if (on.momentum) update = x->momentum_buffer = s->momentum * x->momentum_buffer + update;
    *p = s->decay * *p - s->lr * update;
}

/* Adam, Kingma and Ba 2015, algorithm 1; AdamW, Loshchilov and Hutter 2019, algorithm 2; amsgrad, Reddi et
 * al. 2018, algorithm 2. AdamW's decay is 1 - lr weight_decay, with the switch off.
 * step_size is lr / (1 - beta1^step), inv_sqrt_bias_correction2 is 1 / sqrt(1 - beta2^step). */
RULE(adam) {
    REAL second;
    if (on.weight_decay) g = g + s->weight_decay * *p;
    x->exp_avg = x->exp_avg + s->one_minus_beta1 * (g - x->exp_avg);
    x->exp_avg_sq = s->beta2 * x->exp_avg_sq + s->one_minus_beta2 * (g * g);
    second = x->exp_avg_sq;
    if (on.amsgrad) {
        second = x->max_exp_avg_sq > second ? x->max_exp_avg_sq : second;
        x->max_exp_avg_sq = second;
    }
    *p = s->decay * *p - s->step_size * (x->exp_avg / (SQRT(second) * s->inv_sqrt_bias_correction2 + s->eps));
}

/* LAMB, You et al. 2020, algorithm 2. trust is the trust ratio of the tensor (trust.c):
 *   u = m_hat / (sqrt(v_hat) + eps) + weight_decay p;   p = p - lr trust u */
RULE(lamb) {
    REAL update;
    if (!on.resume) {
        x->exp_avg = x->exp_avg + s->one_minus_beta1 * (g - x->exp_avg);
        x->exp_avg_sq = s->beta2 * x->exp_avg_sq + s->one_minus_beta2 * (g * g);
    }
    update = x->exp_avg / (SQRT(x->exp_avg_sq) * s->inv_sqrt_bias_correction2 + s->eps);
    update = s->inv_bias_correction1 * update;
    if (on.weight_decay) update = update + s->weight_decay * *p;
    *p = s->decay * *p - s->lr * (s->trust * update);
}

/* LARS, You, Gitman and Ginsburg 2017, algorithm 1:
 *   b = momentum b + lr trust (g + weight_decay p);   p = p - b
 * or with Nesterov  p = p - (momentum b + lr trust (g + weight_decay p)). */
RULE(lars) {
    REAL update = on.weight_decay ? g + s->weight_decay * *p : g;
    update = s->lr * (s->trust * update);
    if (on.momentum) {
        x->momentum_buffer = s->momentum * x->momentum_buffer + update;
        update = on.nesterov ? update + s->momentum * x->momentum_buffer : x->momentum_buffer;
    }
    *p = s->decay * *p - update;
}

/* Adamax, Kingma and Ba 2015, algorithm 2:  m as Adam's;  u = max(beta2 u, |g| + eps);
 *   p = p - lr / (1 - beta1^step) m / u   with eps where torch has it. */
RULE(adamax) {
    REAL size, before;
    if (on.weight_decay) g = g + s->weight_decay * *p;
    x->exp_avg = x->exp_avg + s->one_minus_beta1 * (g - x->exp_avg);
    size = (g < 0 ? -g : g) + s->eps;
    before = s->beta2 * x->exp_inf;
    x->exp_inf = before > size ? before : size;
    *p = s->decay * *p - s->step_size * (x->exp_avg / x->exp_inf);
}

/* NAdam, Dozat 2016, algorithm 2, with  mu(t) = beta1 (1 - 0.96^(t momentum_decay) / 2)  and M(t) the product
 * of mu(1) .. mu(t);   m and v as Adam's;
 *   p = p - lr ((1 - mu(t)) / (1 - M(t)) g + mu(t + 1) / (1 - M(t + 1)) m) / (sqrt(v / (1 - beta2^t)) + eps)
 * grad_size and step_size are the factors of g and m. */
RULE(nadam) {
    REAL denominator;
    if (on.weight_decay) g = g + s->weight_decay * *p;
    x->exp_avg = x->exp_avg + s->one_minus_beta1 * (g - x->exp_avg);
    x->exp_avg_sq = s->beta2 * x->exp_avg_sq + s->one_minus_beta2 * (g * g);
    denominator = SQRT(x->exp_avg_sq) * s->inv_sqrt_bias_correction2 + s->eps;
    *p = s->decay * *p - (s->grad_size * g + s->step_size * x->exp_avg) / denominator;
}

/* RAdam, Liu et al. 2020, algorithm 2. step_size is lr / (1 - beta1^step), and when the length of the average
 * of squares, rho, is above 5 (rectified), times sqrt(1 - beta2^step) and
 *   sqrt((rho - 4) (rho - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho)) */
RULE(radam) {
    REAL denominator;
    if (on.weight_decay) g = g + s->weight_decay * *p;
    x->exp_avg = x->exp_avg + s->one_minus_beta1 * (g - x->exp_avg);
    x->exp_avg_sq = s->beta2 * x->exp_avg_sq + s->one_minus_beta2 * (g * g);
    denominator = s->rectified > 0 ? SQRT(x->exp_avg_sq) + s->eps : 1;
    *p = s->decay * *p - s->step_size * (x->exp_avg / denominator);
}

/* AdaBelief, Zhuang et al. 2020, algorithm 2: Adam with
 *   v = beta2 v + (1 - beta2) (g - m)^2 + eps;   amsgrad as in the authors' package. */
RULE(adabelief) {
    REAL residual, second;
    if (on.weight_decay) g = g + s->weight_decay * *p;
    x->exp_avg = x->exp_avg + s->one_minus_beta1 * (g - x->exp_avg);
    residual = g - x->exp_avg;
    x->exp_avg_var = s->beta2 * x->exp_avg_var + s->one_minus_beta2 * (residual * residual) + s->eps;
    second = x->exp_avg_var;
    if (on.amsgrad) {
        second = x->max_exp_avg_var > second ? x->max_exp_avg_var : second;
        x->max_exp_avg_var = second;
    }
    *p = s->decay * *p - s->step_size * (x->exp_avg / (SQRT(second) * s->inv_sqrt_bias_correction2 + s->eps));
}

/* The sign of a number: 1, -1, or the number itself when it is 0 or NaN, which so stays visible. */
#define SIGN(a) ((a) > 0 ? 1 : (a) < 0 ? -1 : (a))

/* Yogi, Zaheer et al. 2018, algorithm 2: Adam with  v = v - (1 - beta2) sign(v - g^2) g^2 */
RULE(yogi) {
    REAL square, surplus;
    if (on.weight_decay) g = g + s->weight_decay * *p;
    square = g * g;
    x->exp_avg = x->exp_avg + s->one_minus_beta1 * (g - x->exp_avg);
    surplus = x->exp_avg_sq - square;
    x->exp_avg_sq = x->exp_avg_sq - s->one_minus_beta2 * (SIGN(surplus) * square);
    *p = s->decay * *p -
         s->step_size * (x->exp_avg / (SQRT(x->exp_avg_sq) * s->inv_sqrt_bias_correction2 + s->eps));
}

/* Adan, Xie et al. 2022, algorithm 1, with betas that say what is kept and d = g - prev, 0 at the first step:
 *   m = beta1 m + (1 - beta1) g;   v = beta2 v + (1 - beta2) d;   n = beta3 n + (1 - beta3) (g + beta2 d)^2
 *   p = (p - lr (m^ + beta2 v^) / (sqrt(n^) + eps)) / (1 + lr weight_decay)   with ^ for corrected bias.
 * decay and both sizes hold the last factor; with no_prox decay is 1 - lr weight_decay alone. */
RULE(adan) {
    const REAL difference = s->has_prev > 0 ? g - x->prev : 0, ahead = g + s->beta2 * difference;
    REAL denominator;
    x->exp_avg = x->exp_avg + s->one_minus_beta1 * (g - x->exp_avg);
    x->exp_avg_diff = x->exp_avg_diff + s->one_minus_beta2 * (difference - x->exp_avg_diff);
    x->exp_avg_sq = s->beta3 * x->exp_avg_sq + s->one_minus_beta3 * (ahead * ahead);
    x->prev = g;
    denominator = SQRT(x->exp_avg_sq) * s->inv_sqrt_bias_correction3 + s->eps;
    *p = s->decay * *p - (s->step_size * x->exp_avg + s->diff_size * x->exp_avg_diff) / denominator;
}

/* AdEMAMix, Pagliardini et al. 2024, algorithm 1: AdamW with m^ + alpha (slow average) for m^, where the slow
 * average is not corrected. step_size is lr / (1 - beta1^step), slow_size is lr alpha. */
RULE(ademamix) {
    REAL denominator;
    x->exp_avg_fast = x->exp_avg_fast + s->one_minus_beta1 * (g - x->exp_avg_fast);
    x->exp_avg_slow = x->exp_avg_slow + s->one_minus_beta3 * (g - x->exp_avg_slow);
    x->exp_avg_sq = s->beta2 * x->exp_avg_sq + s->one_minus_beta2 * (g * g);
    denominator = SQRT(x->exp_avg_sq) * s->inv_sqrt_bias_correction2 + s->eps;
    *p = s->decay * *p - (s->step_size * x->exp_avg_fast + s->slow_size * x->exp_avg_slow) / denominator;
}

/* Lion, Chen et al. 2023, algorithm 2:  p = p - lr sign(beta1 m + (1 - beta1) g),  then
 *   m = beta2 m + (1 - beta2) g
 * Signum, Bernstein et al. 2018, algorithm 2, has one momentum for both. */
RULE(lion) {
    const REAL update = s->beta1 * x->exp_avg + s->one_minus_beta1 * g;
    x->exp_avg = s->beta2 * x->exp_avg + s->one_minus_beta2 * g;
    *p = s->decay * *p - s->lr * SIGN(update);
}

/* Rprop, Riedmiller and Braun 1993, in the form iRprop- of Igel and Huesken 2000: an element's step size
 * grows by eta_plus while its gradient keeps its sign; when the sign turns it shrinks by eta_minus and the
 * step is left out. */
RULE(rprop) {
    const REAL agreement = g * x->prev;
    REAL size = x->step_size * (agreement > 0 ? s->eta_plus : agreement < 0 ? s->eta_minus : 1);
    size = size < s->smallest ? s->smallest : size;
    size = size > s->largest ? s->largest : size;
    g = agreement < 0 ? 0 : g;
    x->step_size = size;
    x->prev = g;
    *p = s->decay * *p - SIGN(g) * size;
}

/* Adafactor, Shazeer and Stern 2018, algorithms 4 and 5, with eps1 as torch has it:
 *   v = v + (1 - beta2) (g^2 - v),  or for matrices  v = R C / mean(R)  (factored.c)
 *   u = g / max(sqrt(v), eps1);   p = decay p - trust u
 * Factored, row_var is sqrt(R / mean(R)) and col_var sqrt(C). trust limits the norm of u and takes the size
 * of p as the unit of its length (trust.c). */
RULE(adafactor) {
    REAL root = s->eps1;
    if (on.factored) root = x->row_var * x->col_var;
    if (on.full) {
        if (!on.resume) x->variance = x->variance + s->one_minus_beta2 * (g * g - x->variance);
        root = SQRT(x->variance);
    }
    root = root < s->eps1 ? s->eps1 : root;
    *p = s->decay * *p - s->trust * (g / root);
}

/* Muon, Jordan et al. 2024, in torch's form:  b = b + (1 - momentum) (g - b),  and once more so towards b for
 * Nesterov's step. What is made of the step, and times lr, stands in orthogonal.c. */
RULE(muon) {
    REAL step;
    x->momentum_buffer = x->momentum_buffer + s->one_minus_momentum * (g - x->momentum_buffer);
    step = x->momentum_buffer;
    if (on.nesterov) step = step + s->one_minus_momentum * (g - step);
    *p = s->decay * *p - step;
}

/* An average takes in what stands in place of the gradient:  p = p + weight (g - p)
 * From the nearer end, so that weight 1 gives g exactly: past one half decay is 0 and  p = g - rest (g - p)
 * with rest = 1 - weight. */
RULE(lerp) {
    const REAL back = on.past_half ? s->rest * (g - *p) - g : s->weight * (*p - g);
    *p = s->decay * *p - back;
}
