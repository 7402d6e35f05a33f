/* The body of each update rule: one element, plain scalar C, in the order of operations that fixes its bits.
 *
 * RULE(name) opens a function of  REAL *p  (the parameter),  REAL g  (its gradient, unscaled and clipped),
 * x  (the state slots),  s  (the scalars)  and  on  (the switches, constants when compiled). Only + - * /
 * and sqrt, which IEEE 754 rounds correctly, so that every instruction set gives the same bits.
 * fastgd/rules/ has the same formulas in Python; a change here is a change there.
 *
 * Every body ends in  *p = s->decay * *p - <the step>;  decay is 1 when nothing decays. Callers rely on it: with
 * decay 0 a kernel leaves exactly minus the step in *p. So the parameter enters the step only where the formula
 * names it, as an L2 weight decay does. */

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

/* Adagrad, Duchi et al. 2011, section 1.1:  v = v + g^2;  p = p - lr g / (sqrt(v) + eps)
 * lr is already decayed: lr / (1 + (step - 1) lr_decay). */
RULE(adagrad) {
    if (on.weight_decay) g = g + s->weight_decay * *p;
    x->sum = x->sum + g * g;
    *p = s->decay * *p - s->lr * (g / (SQRT(x->sum) + s->eps));
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

/* LARS, You, Gitman and Ginsburg 2017, algorithm 1:  b = momentum b + lr trust (g + weight_decay p);  p = p - b
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

/* Adafactor, Shazeer and Stern 2018, algorithms 4 and 5, with eps1 as torch has it:
 *   v = v + (1 - beta2) (g^2 - v),  or for matrices  v = R C / mean(R)  (factored.c)
 *   u = g / max(sqrt(v), eps1);   p = decay p - trust u
 * Factored, row_var is sqrt(R / mean(R)) and col_var sqrt(C). trust limits the norm of u and takes the size of
 * p as the unit of its length (trust.c). */
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
