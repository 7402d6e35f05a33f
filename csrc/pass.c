/* Pieces of one tensor: brought into the precision computed in, and stored again. */
#include "pass.h"

#include "mixed.h"

/* Which way of storing with loops of its own this is; -1 for none of them. */
static int stored_kind(const pass *w) {
    const int narrow = w->param.dtype == FGD_BF16;
    int state = -1;
    if (!w->param.direct || !w->grad.direct || w->grad.dtype != w->param.dtype) return -1;
    if (!narrow && !w->param.in_place) return -1;
    for (int k = 0; k < w->n_slots; k++) {
        const view *slot = &w->slots[k];
        if (!slot->where.base) continue;
        if (!slot->direct || (state >= 0 && slot->dtype != state)) return -1;
        state = slot->dtype;
    }
    if (narrow) return state < 0 || state == FGD_BF16 ? FGD_ALL_BF16 : -1;
    return state == FGD_BF16 ? FGD_STATE_BF16 : state == FGD_CODES ? FGD_STATE_CODES : -1;
}

static void prepare_update(pass *w) {
    const fgd_tensor *t = w->t;
    const fgd_layout *l = t->layout;
    w->rule = fgd_rule_at(w->group->rule);
    w->n_slots = w->rule->n_slots;
    w->rounding = t->dtype == FGD_BF16 || t->dtype == FGD_F16 ? w->group->rounding : FGD_NEAREST;
    if (w->group->rounding == FGD_STOCHASTIC || w->group->state_rounding == FGD_STOCHASTIC)
        w->key = fgd_mixed(fgd_mixed(w->group->seed) + t->stream) + ((uint64_t)*t->step + 1) * 16;
    if (fgd_is_factored(w->j, t) && t->size > 0) w->moments = fgd_moments_of(w->j, t);
    for (int k = 0; k < w->n_slots; k++) {
        const int is_moment = k == w->rule->row_slot || k == w->rule->col_slot;
        if (is_moment || !fgd_uses_slot(w->rule, w->group, k)) continue;
        view *slot = &w->slots[k];
        *slot = fgd_view_of(t->state[k], t->state_dtype[k], w->real, l, SLOT_ROW + k);
        slot->scales = t->scales[k];
        slot->is_unsigned = w->rule->slot_unsigned[k];
        w->plain &= slot->in_place;
    }
    const int residual_dtype = w->rounding == FGD_MASTER ? FGD_F32 : t->dtype, row = SLOT_ROW + w->n_slots;
    if (w->rounding >= FGD_KAHAN) w->residual = fgd_view_of(t->residual, residual_dtype, w->real, l, row);
    if (t->average) w->average = fgd_view_of(t->average, w->real, w->real, l, row + 1);
    if (t->copy) w->copy = fgd_view_of(t->copy, t->copy_dtype, w->real, l, row + 2);
    const int extras = t->average || t->copy || w->group->cautious || t->rows || fgd_clips_units(w->j);
    const int kind = extras || w->rounding >= FGD_KAHAN ? -1 : stored_kind(w);
    if (kind >= 0 && w->group->rule < FGD_RULE_COUNT)
        w->stored = fgd_stored_for(w->real)->update[kind][w->group->rule];
    w->plain &= !extras && w->moments.count == 0;
    memcpy(w->own, w->group->scalars, sizeof w->own);
    if (w->rule->trust >= 0) w->own[w->rule->trust] = w->factors.trust;
    memcpy(w->step, w->own, sizeof w->step);
    if (w->rule->decay >= 0) w->step[w->rule->decay] = 0;
    w->scalars = w->own;
}

fgd_noise fgd_slot_noise(const pass *w, int slot, int64_t first) {
    return (fgd_noise){fgd_mixed(w->key + (uint64_t)(SLOT_ROW + slot / 2 * 2)), first, slot % 2};
}

fgd_noise fgd_param_noise(const pass *w, int64_t first) {
    return (fgd_noise){fgd_mixed(w->key + PARAM_ROW), first, 0};
}

fgd_prepare fgd_prepared(const job *j, double sign, double coef) {
    fgd_prepare p = fgd_before_norm(j->options);
    /* with no bound in between, one factor: one rounding, and nothing overflows on the way */
    if (isinf(p.bound)) p.unscale *= sign * coef;
    else p.coef = sign * coef;
    return p;
}

void fgd_prepare_pass(pass *w, const job *j, const fgd_tensor *t) {
    memset(w, 0, sizeof *w);
    w->j = j, w->t = t;
    w->group = j->write == WRITE_UPDATE ? &j->groups[t->group] : NULL;
    w->real = fgd_gradient_real(j, t);
    w->kernels = fgd_kernels_for(w->real), w->storage = fgd_storage_for(w->real);
    w->factors = (factors){1, 1, 1};
    if (j->options->scope != FGD_SCOPE_ALL || j->trial) w->factors = j->factors[t - j->tensors];
    w->param = fgd_view_of(t->param, t->dtype, w->real, t->layout, PARAM_ROW);
    w->grad = fgd_view_of(t->grad, t->grad_dtype, w->real, t->layout, GRAD_ROW);
    w->plain = w->param.in_place && w->grad.in_place;
    if (w->group) prepare_update(w);

    const double norm_coef = j->options->scope == FGD_SCOPE_ALL ? j->report->clip_coef : w->factors.coef;
    const double coef = fgd_clips_units(j) ? 1 : norm_coef;
    w->prepare = fgd_prepared(j, w->group && w->group->maximize ? -1 : 1, coef);
}

piece fgd_next_piece(const pass *w, int64_t *at, int64_t end) {
    const fgd_tensor *t = w->t;
    piece a = {*at, *at, end - *at};
    if (t->rows) {
        const int64_t row = *at / t->width, column = *at % t->width;
        a.first = t->rows[row] * t->width + column;
        if (a.n > t->width - column) a.n = t->width - column;
        if (a.n > fgd_noise_left(a.first)) a.n = fgd_noise_left(a.first);
    }
    if (a.n > PIECE) a.n = PIECE;
    *at += a.n;
    return a;
}

/* ---- The gradient ----------------------------------------------------------------------------------- */

/* Multiplies a piece of prepared gradients by the coefficients of its units. */
static void scale_units(const pass *w, piece a, const void *prepared, void *out) {
    const int64_t item = fgd_item_size(w->real), unit = w->t->unit > 0 ? w->t->unit : w->t->size;
    const double *coef = w->j->unit_coef + w->j->first_unit[w->t - w->j->tensors];
    for (int64_t i = 0; i < a.n;) {
        const int64_t in_unit = (a.first + i) % unit, left = unit - in_unit;
        const int64_t n = left < a.n - i ? left : a.n - i;
        const fgd_prepare times = {coef[(a.first + i) / unit], INFINITY, 1, 0};
        w->kernels->clip(n, (char *)out + i * item, (const char *)prepared + i * item, &times);
        i += n;
    }
}

const void *fgd_load_gradient(const pass *w, piece a, buffers *b, fgd_prepare *left) {
    const void *g = fgd_load(&w->grad, a.grad, a.n, b->grad.bytes, 0);
    *left = w->prepare;
    if (!fgd_clips_units(w->j)) return g;
    w->kernels->clip(a.n, b->prepared.bytes, g, &w->prepare);
    scale_units(w, a, b->prepared.bytes, b->grad.bytes);
    *left = (fgd_prepare){1, INFINITY, 1, 0};
    return b->grad.bytes;
}

/* ---- The parameter ---------------------------------------------------------------------------------- */

void *fgd_load_param(const pass *w, piece a, buffers *b, int keep) {
    char high[PIECE_BYTES] __attribute__((aligned(64))), low[PIECE_BYTES] __attribute__((aligned(64)));
    const int64_t first = a.first, n = a.n;
    const fgd_storage *s = w->storage;
    void *x, *stored, *lost;
    switch (w->rounding) {
        case FGD_KAHAN:
            /* where half of what was lost reaches beyond the rounding, the parameter has been set since */
            x = fgd_load(&w->param, first, n, b->param.bytes, 1);
            stored = fgd_load(&w->param, first, n, b->change.bytes, 1);
            lost = fgd_load(&w->residual, first, n, b->spare.bytes, 1);
            s->add(n, x, lost, x);
            s->apply(n, lost, stored, 0.5, 1);
            s->store[w->param.dtype](n, lost, high, 0, NULL);
            s->load[w->param.dtype](n, high, lost);
            s->follow(n, stored, lost, x);
            return x;
        case FGD_MASTER:
            x = fgd_load(&w->residual, first, n, b->param.bytes, keep);
            s->store[w->param.dtype](n, x, high, 0, NULL);
            s->load[w->param.dtype](n, high, b->change.bytes);
            s->follow(n, fgd_load(&w->param, first, n, b->spare.bytes, 1), b->change.bytes, x);
            return x;
        case FGD_SPLIT:
            s->load_split(n, fgd_run_in(&w->param, first, n, high), fgd_run_in(&w->residual, first, n, low),
                          b->param.bytes);
            return b->param.bytes;
        default: return fgd_load(&w->param, first, n, b->param.bytes, keep);
    }
}

static void store_param(const pass *w, piece a, void *x, buffers *b) {
    char high[PIECE_BYTES] __attribute__((aligned(64))), low[PIECE_BYTES] __attribute__((aligned(64)));
    const int64_t first = a.first, n = a.n;
    const fgd_noise noise = fgd_param_noise(w, first);
    switch (w->rounding) {
        case FGD_KAHAN:
            fgd_store(&w->param, first, n, x, NULL);
            w->storage->subtract(n, x, fgd_load(&w->param, first, n, b->spare.bytes, 1), b->spare.bytes);
            fgd_store(&w->residual, first, n, b->spare.bytes, NULL);
            break;
        case FGD_MASTER:
            fgd_store(&w->param, first, n, x, NULL);
            fgd_store(&w->residual, first, n, x, NULL);
            break;
        case FGD_SPLIT:
            w->storage->store_split(n, x, fgd_run_out(&w->param, first, high),
                                    fgd_run_out(&w->residual, first, low));
            fgd_run_done(&w->param, first, n, high);
            fgd_run_done(&w->residual, first, n, low);
            break;
        default: fgd_store(&w->param, first, n, x, w->rounding == FGD_STOCHASTIC ? &noise : NULL);
    }
}

/* ---- State ------------------------------------------------------------------------------------------ */

void fgd_load_slots(const pass *w, piece a, buffers *b, void **at, int keep) {
    for (int k = 0; k < w->n_slots; k++) {
        const view *slot = &w->slots[k];
        at[k] = slot->where.base ? fgd_load(slot, a.first, a.n, b->slots[k].bytes, keep) : NULL;
    }
    if (w->moments.count > 0) {
        const moments *m = &w->moments;
        const int row = w->rule->row_slot, col = w->rule->col_slot;
        at[row] = b->slots[row].bytes, at[col] = b->slots[col].bytes;
        w->kernels->spread(a.first, a.n, m->rows, m->cols, m->row_factors, m->col_factors, at[row], at[col]);
    }
}

static void store_slots(const pass *w, piece a, void *const *at) {
    for (int k = 0; k < w->n_slots; k++) {
        const fgd_noise noise = fgd_slot_noise(w, k, a.first);
        const int stochastic = w->group->state_rounding == FGD_STOCHASTIC;
        if (!w->slots[k].where.base) continue;
        fgd_store(&w->slots[k], a.first, a.n, at[k], stochastic ? &noise : NULL);
    }
}

/* ---- Updating --------------------------------------------------------------------------------------- */

void fgd_call_rule(const pass *w, int64_t n, void *x, const void *g, void *const *slots,
                   const double *scalars, const fgd_prepare *prepare) {
    const fgd_update_kernel update = fgd_update_for(w->kernels, w->real, w->group->rule);
    update(n, x, g, slots, scalars, w->group->switches, prepare);
}

void fgd_store_update(const pass *w, piece a, void *x, void *const *slots, buffers *b) {
    if (w->t->average) {
        void *average = fgd_load(&w->average, a.first, a.n, b->average.bytes, 0);
        w->storage->average(a.n, average, x, w->group->average_weight);
        fgd_store(&w->average, a.first, a.n, average, NULL);
    }
    if (w->t->copy) fgd_store(&w->copy, a.first, a.n, x, NULL);
    store_param(w, a, x, b);
    store_slots(w, a, slots);
}
