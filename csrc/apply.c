/* A run of one tensor's elements: brought into the precision computed in, updated, and stored again. */
#include "apply.h"

#include "trust.h"
#include "view.h"

/* What is known of a tensor before its elements are looked at. */
typedef struct pass {
    const job *j;
    const fgd_tensor *t;
    const fgd_group *group; /* NULL when clipping */
    const fgd_rule *rule;
    const fgd_kernels *kernels;
    const fgd_storage *storage;
    factors factors;
    fgd_prepare prepare;   /* all that happens to gradients, unless units have coefficients of their own */
    const double *scalars; /* the group's, or `own` with the tensor's trust ratio */
    double own[FGD_MAX_SCALARS], step[FGD_MAX_SCALARS];
    int real, n_slots, rounding;
    view param, grad, slots[FGD_MAX_SLOTS], residual, average, copy;
    uint64_t key;             /* of the random bits */
    int plain;                /* kernels can work on the memory of every operand, and that is all */
    fgd_stored_kernel stored; /* or a kernel that converts on the way can; else NULL */
} pass;

/* Elements [first, first + n) of the parameter and its state, and where the gradient of the first lies. */
typedef struct piece {
    int64_t first, grad, n;
} piece;

/* A piece of every operand in the precision computed in. */
typedef struct buffers {
    struct row {
        char bytes[PIECE_BYTES];
    } param, grad, prepared, spare, change, average, slots[FGD_MAX_SLOTS];
} __attribute__((aligned(64))) buffers;

static int slot_is_used(const fgd_rule *rule, const fgd_group *group, int slot) {
    const int needs = rule->slot_switch[slot];
    return needs < 0 || (group->switches >> needs & 1);
}

/* The finaliser of splitmix64 (Steele, Lea and Flood 2014). */
static uint64_t mixed(uint64_t z) {
    z += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

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
        w->key = mixed(mixed(w->group->seed) + t->stream) + ((uint64_t)*t->step + 1) * 16;
    for (int k = 0; k < w->n_slots; k++) {
        if (!slot_is_used(w->rule, w->group, k)) continue;
        view *slot = &w->slots[k];
        *slot = fgd_view_of(t->state[k], t->state_dtype[k], w->real, l, SLOT_ROW + k);
        slot->exponents = t->exponents[k];
        slot->is_unsigned = w->rule->slot_unsigned[k];
        w->plain &= slot->in_place;
    }
    const int residual_dtype = w->rounding == FGD_MASTER ? FGD_F32 : t->dtype, row = SLOT_ROW + w->n_slots;
    if (w->rounding >= FGD_KAHAN) w->residual = fgd_view_of(t->residual, residual_dtype, w->real, l, row);
    if (t->average) w->average = fgd_view_of(t->average, w->real, w->real, l, row + 1);
    if (t->copy) w->copy = fgd_view_of(t->copy, t->copy_dtype, w->real, l, row + 2);
    const int extras = t->average || t->copy || w->group->cautious || t->rows || fgd_clips_units(w->j);
    const int kind = extras || w->rounding >= FGD_KAHAN ? -1 : stored_kind(w);
    if (kind >= 0) w->stored = fgd_stored_for(w->real)->update[kind][w->group->rule];
    w->plain &= !extras;
    memcpy(w->own, w->group->scalars, sizeof w->own);
    if (w->rule->trust >= 0) w->own[w->rule->trust] = w->factors.trust;
    memcpy(w->step, w->own, sizeof w->step);
    w->step[w->rule->decay] = 0;
    w->scalars = w->own;
}

/* Two neighbouring slots share the 32 random bits of an element. */
static fgd_noise slot_noise(const pass *w, int slot, int64_t first) {
    return (fgd_noise){mixed(w->key + (uint64_t)(SLOT_ROW + slot / 2 * 2)), first, slot % 2};
}

static fgd_noise param_noise(const pass *w, int64_t first) {
    return (fgd_noise){mixed(w->key + PARAM_ROW), first, 0};
}

/* All that happens to a gradient. */
static fgd_prepare prepared(const job *j, double sign, double coef) {
    fgd_prepare p = fgd_before_norm(j->options);
    /* with no bound in between, one factor: one rounding, and nothing overflows on the way */
    if (isinf(p.bound)) p.unscale *= sign * coef;
    else p.coef = sign * coef;
    return p;
}

static void prepare_pass(pass *w, const job *j, const fgd_tensor *t) {
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
    w->prepare = prepared(j, w->group && w->group->maximize ? -1 : 1, fgd_clips_units(j) ? 1 : norm_coef);
}

/* The next piece of [*at, end): it fits the buffers, and lies in one row where only some rows are updated. */
static piece next_piece(const pass *w, int64_t *at, int64_t end) {
    const fgd_tensor *t = w->t;
    piece a = {*at, *at, end - *at};
    if (t->rows) {
        const int64_t row = *at / t->width, column = *at % t->width;
        a.first = t->rows[row] * t->width + column;
        if (a.n > t->width - column) a.n = t->width - column;
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
        const fgd_prepare times = {coef[(a.first + i) / unit], INFINITY, 1};
        w->kernels->clip(n, (char *)out + i * item, (const char *)prepared + i * item, &times);
        i += n;
    }
}

/* The gradient, and what is still to happen to it in *left: all of it, or nothing where units are clipped. */
static const void *load_gradient(const pass *w, piece a, buffers *b, fgd_prepare *left) {
    const void *g = fgd_load(&w->grad, a.grad, a.n, b->grad.bytes, 0);
    *left = w->prepare;
    if (!fgd_clips_units(w->j)) return g;
    w->kernels->clip(a.n, b->prepared.bytes, g, &w->prepare);
    scale_units(w, a, b->prepared.bytes, b->grad.bytes);
    *left = (fgd_prepare){1, INFINITY, 1};
    return b->grad.bytes;
}

/* ---- The parameter ---------------------------------------------------------------------------------- */

/* The parameter as it would be with nothing lost, in memory that may be written; in b->param with keep. */
static void *load_param(const pass *w, piece a, buffers *b, int keep) {
    char high[PIECE_BYTES], low[PIECE_BYTES];
    const int64_t first = a.first, n = a.n;
    const fgd_storage *s = w->storage;
    void *x;
    switch (w->rounding) {
        case FGD_KAHAN:
            x = fgd_load(&w->param, first, n, b->param.bytes, 1);
            s->add(n, x, fgd_load(&w->residual, first, n, b->spare.bytes, 1), x);
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
    char high[PIECE_BYTES], low[PIECE_BYTES];
    const int64_t first = a.first, n = a.n;
    const fgd_noise noise = param_noise(w, first);
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

/* ---- Updating --------------------------------------------------------------------------------------- */

static void load_slots(const pass *w, piece a, buffers *b, void **at, int keep) {
    for (int k = 0; k < w->n_slots; k++) {
        const view *slot = &w->slots[k];
        at[k] = slot->where.base ? fgd_load(slot, a.first, a.n, b->slots[k].bytes, keep) : NULL;
    }
}

static void store_slots(const pass *w, piece a, void *const *at) {
    for (int k = 0; k < w->n_slots; k++) {
        const fgd_noise noise = slot_noise(w, k, a.first);
        const int stochastic = w->group->state_rounding == FGD_STOCHASTIC;
        if (at[k]) fgd_store(&w->slots[k], a.first, a.n, at[k], stochastic ? &noise : NULL);
    }
}

static void call_rule(const pass *w, int64_t n, void *x, const void *g, void *const *slots,
                      const double *scalars, const fgd_prepare *prepare) {
    w->kernels->update[w->group->rule](n, x, g, slots, scalars, w->group->switches, prepare);
}

static void update_piece(const pass *w, piece a, buffers *b) {
    fgd_prepare prepare;
    void *slots[FGD_MAX_SLOTS], *x = load_param(w, a, b, 0);
    const void *g = load_gradient(w, a, b, &prepare);
    load_slots(w, a, b, slots, 0);
    if (w->group->cautious) {
        void *change = memcpy(b->change.bytes, x, (size_t)(a.n * fgd_item_size(w->real)));
        call_rule(w, a.n, change, g, slots, w->step, &prepare);
        w->kernels->clip(a.n, b->prepared.bytes, g, &prepare);
        w->storage->descending(a.n, change, b->prepared.bytes);
        w->storage->apply(a.n, x, change, w->scalars[w->rule->decay], w->factors.scale);
    } else {
        call_rule(w, a.n, x, g, slots, w->scalars, &prepare);
    }
    if (w->t->average) {
        void *average = fgd_load(&w->average, a.first, a.n, b->average.bytes, 0);
        w->storage->average(a.n, average, x, w->group->average_weight);
        fgd_store(&w->average, a.first, a.n, average, NULL);
    }
    if (w->t->copy) fgd_store(&w->copy, a.first, a.n, x, NULL);
    store_param(w, a, x, b);
    store_slots(w, a, slots);
}

static void clip_piece(const pass *w, piece a, buffers *b) {
    void *g = fgd_load(&w->param, a.first, a.n, b->grad.bytes, 0);
    w->kernels->clip(a.n, g, g, &w->prepare);
    fgd_store(&w->param, a.first, a.n, g, NULL);
}

static void slot_runs(const pass *w, int64_t first, int64_t n, void **slots, uint8_t **exponents) {
    for (int k = 0; k < w->n_slots; k++) {
        const view *slot = &w->slots[k];
        slots[k] = slot->where.base ? fgd_run_in(slot, first, n, NULL) : NULL;
        exponents[k] = slot->exponents ? slot->exponents + first / FGD_BLOCK : NULL;
    }
}

/* No detour through buffers: one pass over the memory of every operand. */
static void stream_run(const pass *w, int64_t first, int64_t n) {
    fgd_noise noise[FGD_NOISES] = {param_noise(w, first)};
    void *slots[FGD_MAX_SLOTS];
    uint8_t *exponents[FGD_MAX_SLOTS];
    slot_runs(w, first, n, slots, exponents);
    void *x = fgd_run_in(&w->param, first, n, NULL);
    const void *g = fgd_run_in(&w->grad, first, n, NULL);
    if (!w->stored) {
        const fgd_update_kernel *kernels = w->rule->trust < 0 ? w->kernels->update : w->kernels->resume;
        kernels[w->group->rule](n, x, g, slots, w->scalars, w->group->switches, &w->prepare);
        return;
    }
    const int random_param = w->rounding == FGD_STOCHASTIC ? FGD_RANDOM_PARAM : 0;
    const int random_state = w->group->state_rounding == FGD_STOCHASTIC ? FGD_RANDOM_STATE : 0;
    for (int k = 0; k < w->n_slots; k += 2) noise[1 + k / 2] = slot_noise(w, k, first);
    w->stored(n, x, g, slots, exponents, w->scalars, w->group->switches, &w->prepare,
              random_param | random_state, noise);
}

static int is_aligned(const void *p, int64_t item) { return ((uintptr_t)p & (uintptr_t)(item - 1)) == 0; }

/* The common case by a short way, because a small tensor's elements take less time than to prepare a pass:
 * every operand in the precision computed in, contiguous and aligned, and nothing beside the rule. */
static int write_simple(const job *j, const chunk *run) {
    const fgd_tensor *t = run->tensor;
    const fgd_options *o = j->options;
    if (j->write != WRITE_UPDATE || t->dtype > FGD_F64 || t->grad_dtype != t->dtype || t->layout) return 0;
    if (t->average || t->copy || t->rows || o->scope != FGD_SCOPE_ALL || fgd_clips_units(j)) return 0;
    const fgd_group *group = &j->groups[t->group];
    const fgd_rule *rule = fgd_rule_at(group->rule);
    const int64_t item = fgd_item_size(t->dtype), offset = run->offset * item;
    if (group->cautious || rule->trust >= 0) return 0;
    void *slots[FGD_MAX_SLOTS];
    int fits = is_aligned(t->param, item) && is_aligned(t->grad, item);
    for (int k = 0; k < rule->n_slots; k++) {
        slots[k] = slot_is_used(rule, group, k) ? (char *)t->state[k] + offset : NULL;
        fits &= !slots[k] || (t->state_dtype[k] == t->dtype && is_aligned(t->state[k], item));
    }
    if (!fits) return 0;
    const fgd_prepare prepare = prepared(j, group->maximize ? -1 : 1, j->report->clip_coef);
    void *x = (char *)t->param + offset;
    const void *g = (const char *)t->grad + offset;
    fgd_kernels_for(t->dtype)->update[group->rule](run->n, x, g, slots, group->scalars, group->switches, &prepare);
    return 1;
}

void fgd_write_run(const job *j, const chunk *run) {
    const int64_t end = run->offset + run->n;
    pass w;
    buffers b;
    if (write_simple(j, run)) return;
    prepare_pass(&w, j, run->tensor);
    if (w.group && (w.plain || w.stored)) {
        stream_run(&w, run->offset, run->n);
        return;
    }
    for (int64_t at = run->offset; at < end;) {
        const piece a = next_piece(&w, &at, end);
        if (w.group) update_piece(&w, a, &b);
        else clip_piece(&w, a, &b);
    }
}

/* ---- Trying: what the factors of a tensor follow from ------------------------------------------------ */

typedef struct lanes {
    double of[SUMS][FGD_LANES];
} lanes;

static void try_piece(const pass *w, piece a, buffers *b, lanes *sum) {
    const int of = fgd_trust_of(w->group->rule);
    fgd_prepare prepare;
    void *slots[FGD_MAX_SLOTS], *x = load_param(w, a, b, 1);
    const void *g = load_gradient(w, a, b, &prepare);
    w->kernels->clip(a.n, b->prepared.bytes, g, &prepare);
    if (w->rule->trust >= 0) w->kernels->sumsq(a.n, x, sum->of[SUM_PARAM]);
    if (of == FGD_TRUST_GRADIENT)
        w->kernels->sumsq(a.n, b->prepared.bytes, sum->of[SUM_OTHER]);
    if (of != FGD_TRUST_STEP && !w->group->cautious) return;
    load_slots(w, a, b, slots, 1);
    call_rule(w, a.n, x, g, slots, w->step, &prepare);
    if (of == FGD_TRUST_STEP) w->kernels->sumsq(a.n, x, sum->of[SUM_OTHER]);
    if (w->group->cautious)
        sum->of[SUM_DESCENDING][0] += (double)w->storage->descending(a.n, x, b->prepared.bytes);
}

static int is_tried(const job *j, const fgd_tensor *t) {
    const fgd_group *group = &j->groups[t->group];
    return group->cautious || fgd_rule_at(group->rule)->trust >= 0;
}

void fgd_try_chunk(const job *j, int64_t c, int64_t *cursor) {
    const chunk run = fgd_chunk_at(j, c, cursor);
    const int64_t end = run.offset + run.n;
    pass w;
    buffers b;
    lanes sum = {{{0}}};
    if (!is_tried(j, run.tensor)) return;
    prepare_pass(&w, j, run.tensor);
    if (w.rule->trust >= 0) w.step[w.rule->trust] = 1;
    if (w.plain) {
        void *slots[FGD_MAX_SLOTS];
        uint8_t *exponents[FGD_MAX_SLOTS];
        slot_runs(&w, run.offset, run.n, slots, exponents);
        w.kernels->begin[w.group->rule](run.n, fgd_run_in(&w.param, run.offset, run.n, NULL),
                                        fgd_run_in(&w.grad, run.offset, run.n, NULL), slots, w.step,
                                        w.group->switches, &w.prepare, sum.of[SUM_PARAM], sum.of[SUM_OTHER]);
    }
    for (int64_t at = run.offset; at < end && !w.plain;) {
        const piece a = next_piece(&w, &at, end);
        try_piece(&w, a, &b, &sum);
    }
    for (int k = 0; k < SUMS; k++) j->sums[c * SUMS + k] = fgd_fold_lanes(sum.of[k]);
}

void fgd_finish_trial(const job *j) {
    for (int64_t i = 0; i < j->n_tensors; i++) {
        const fgd_tensor *t = &j->tensors[i];
        const fgd_group *group = &j->groups[t->group];
        double total[SUMS] = {0};
        if (!is_tried(j, t) || t->size == 0) continue;
        for (int64_t c = j->first_chunk[i]; c < j->first_chunk[i + 1]; c++)
            for (int k = 0; k < SUMS; k++) total[k] += j->sums[c * SUMS + k];
        const double share = total[SUM_DESCENDING] / (double)t->size;
        j->factors[i].scale = 1 / (share < 1e-3 ? 1e-3 : share);
        j->factors[i].trust = fgd_trust_ratio(group, sqrt(total[SUM_PARAM]), sqrt(total[SUM_OTHER]));
    }
}

/* ---- Units ------------------------------------------------------------------------------------------ */

/* The coefficient of elements [from, to): sums are taken in chunks that begin at the unit. */
static double unit_coef(const pass *w, int64_t from, int64_t to, buffers *b) {
    double params = 0, grads = 0;
    for (int64_t start = from; start < to; start += FGD_CHUNK) {
        const int64_t end = to - start < FGD_CHUNK ? to : start + FGD_CHUNK;
        double x_lanes[FGD_LANES] = {0}, g_lanes[FGD_LANES] = {0};
        for (int64_t at = start; at < end;) {
            const piece a = next_piece(w, &at, end);
            const void *g = fgd_load(&w->grad, a.grad, a.n, b->grad.bytes, 0);
            w->kernels->clip(a.n, b->prepared.bytes, g, &w->prepare);
            w->kernels->sumsq(a.n, b->prepared.bytes, g_lanes);
            w->kernels->sumsq(a.n, load_param(w, a, b, 1), x_lanes);
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
        if (t != prepared) prepare_pass(&w, j, prepared = t);
        j->unit_coef[from] = unit_coef(&w, k * unit, (k + 1) * unit, &b);
    }
}
