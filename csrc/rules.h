/* The body of each update rule: one element, plain scalar C, in the order of operations that fixes its bits.
 *
 * RULE(name) opens a function of  REAL *p  (the parameter),  REAL g  (its gradient, unscaled and clipped),
 * x  (the state slots),  s  (the scalars)  and  on  (the switches, constants when compiled). Only + - * /
 * and sqrt, which IEEE 754 rounds correctly, so that every instruction set gives the same bits.
 * fastgd/rules.py has the same formulas in Python; a change here is a change there.
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
