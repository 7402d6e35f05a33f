/* The coefficients that units are clipped by: each limits a gradient's norm by that of its parameter. */
#include "apply.h"
#include "pass.h"

/* The coefficient of elements [from, to): sums are taken in chunks that begin at the unit. */
static double unit_coef(const pass *w, int64_t from, int64_t to, buffers *b) {
    double params = 0, grads = 0;
    for (int64_t start = from; start < to; start += FGD_CHUNK) {
        const int64_t end = to - start < FGD_CHUNK ? to : start + FGD_CHUNK;
        double x_lanes[FGD_LANES] = {0}, g_lanes[FGD_LANES] = {0};
        for (int64_t at = start; at < end;) {
            const piece a = fgd_next_piece(w, &at, end);
            const void *g = fgd_load(&w->grad, a.grad, a.n, b->grad.bytes, 0);
            w->kernels->clip(a.n, b->prepared.bytes, g, &w->prepare);
            w->kernels->sumsq(a.n, b->prepared.bytes, g_lanes);
            w->kernels->sumsq(a.n, fgd_load_param(w, a, b, 1), x_lanes);
        }
        params += fgd_fold_lanes(x_lanes);
        grads += fgd_fold_lanes(g_lanes);
    }
    const fgd_options *o = w->j->options;
    const double param_norm = sqrt(params), grad_norm = sqrt(grads);
    const double limit = o->clip_unit * (param_norm > o->unit_eps ? param_norm : o->unit_eps);
    return grad_norm <= limit ? 1 : limit / grad_norm;
}

void fgd_measure_units(const job *j, int64_t from, int64_t to) {
    int64_t i = 0;
    pass w;
    buffers b;
    for (const fgd_tensor *prepared = NULL; from < to; from++) {
        while (j->first_unit[i + 1] <= from) i++;
        const fgd_tensor *t = &j->tensors[i];
        const int64_t unit = t->unit > 0 ? t->unit : t->size, k = from - j->first_unit[i];
        if (t != prepared) fgd_prepare_pass(&w, j, prepared = t);
        j->unit_coef[from] = unit_coef(&w, k * unit, (k + 1) * unit, &b);
    }
}
