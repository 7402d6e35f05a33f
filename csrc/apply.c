/* The passes over a run of one tensor's elements: trying what its factors follow from, updating, clipping. */
#include "apply.h"

#include "orthogonal.h"
#include "pass.h"
#include "trust.h"

/* ---- Updating --------------------------------------------------------------------------------------- */

static void update_piece(const pass *w, piece a, buffers *b) {
    fgd_prepare prepare;
    void *slots[FGD_MAX_SLOTS], *x = fgd_load_param(w, a, b, 0);
    const void *g = fgd_load_gradient(w, a, b, &prepare);
    fgd_load_slots(w, a, b, slots, 0);
    if (w->group->cautious) {
        void *change = memcpy(b->change.bytes, x, (size_t)(a.n * fgd_item_size(w->real)));
        fgd_call_rule(w, a.n, change, g, slots, w->step, &prepare);
        w->kernels->clip(a.n, b->prepared.bytes, g, &prepare);
        w->storage->descending(a.n, change, b->prepared.bytes);
        w->storage->apply(a.n, x, change, w->scalars[w->rule->decay], w->factors.scale);
    } else {
        fgd_call_rule(w, a.n, x, g, slots, w->scalars, &prepare);
    }
    fgd_store_update(w, a, x, slots, b);
}

static void clip_piece(const pass *w, piece a, buffers *b) {
    void *g = fgd_load(&w->param, a.first, a.n, b->grad.bytes, 0);
    w->kernels->clip(a.n, g, g, &w->prepare);
    fgd_store(&w->param, a.first, a.n, g, NULL);
}

static void slot_runs(const pass *w, int64_t first, int64_t n, void **slots, float **scales) {
    for (int k = 0; k < w->n_slots; k++) {
        const view *slot = &w->slots[k];
        slots[k] = slot->where.base ? fgd_run_in(slot, first, n, NULL) : NULL;
        scales[k] = slot->scales ? slot->scales + first / FGD_BLOCK : NULL;
    }
}

/* No detour through buffers: one pass over the memory of every operand. */
static void stream_run(const pass *w, int64_t first, int64_t n) {
    fgd_noise noise[FGD_NOISES] = {fgd_param_noise(w, first)};
    void *slots[FGD_MAX_SLOTS];
    float *scales[FGD_MAX_SLOTS];
    slot_runs(w, first, n, slots, scales);
    void *x = fgd_run_in(&w->param, first, n, NULL);
    const void *g = fgd_run_in(&w->grad, first, n, NULL);
    if (!w->stored) {
        fgd_prepare prepare = w->prepare;
        prepare.streams = w->j->streams;
        if (w->rule->trust < 0) fgd_call_rule(w, n, x, g, slots, w->scalars, &prepare);
        else w->kernels->resume[w->group->rule](n, x, g, slots, w->scalars, w->group->switches, &prepare);
        return;
    }
    const int random_param = w->rounding == FGD_STOCHASTIC ? FGD_RANDOM_PARAM : 0;
    const int random_state = w->group->state_rounding == FGD_STOCHASTIC ? FGD_RANDOM_STATE : 0;
    for (int k = 0; k < w->n_slots; k += 2) noise[1 + k / 2] = fgd_slot_noise(w, k, first);
    w->stored(n, x, g, slots, scales, w->scalars, w->group->switches, &w->prepare,
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
        slots[k] = fgd_uses_slot(rule, group, k) ? (char *)t->state[k] + offset : NULL;
        fits &= !slots[k] || (t->state_dtype[k] == t->dtype && is_aligned(t->state[k], item));
    }
    if (!fits) return 0;
    fgd_prepare prepare = fgd_prepared(j, group->maximize ? -1 : 1, j->report->clip_coef);
    prepare.streams = j->streams;
    void *x = (char *)t->param + offset;
    const void *g = (const char *)t->grad + offset;
    const fgd_update_kernel update = fgd_update_for(fgd_kernels_for(t->dtype), t->dtype, group->rule);
    update(run->n, x, g, slots, group->scalars, group->switches, &prepare);
    return 1;
}

void fgd_write_run(const job *j, const chunk *run) {
    const int64_t end = run->offset + run->n;
    pass w;
    buffers b;
    if (fgd_is_orthogonal(j, run->tensor) || write_simple(j, run)) return;
    fgd_prepare_pass(&w, j, run->tensor);
    if (w.group && (w.plain || w.stored)) {
        for (int64_t at = run->offset, n; at < end; at += n) {
            n = fgd_noise_left(at) < end - at ? fgd_noise_left(at) : end - at;
            stream_run(&w, at, n);
        }
        return;
    }
    for (int64_t at = run->offset; at < end;) {
        const piece a = fgd_next_piece(&w, &at, end);
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
    void *slots[FGD_MAX_SLOTS], *x = fgd_load_param(w, a, b, 1);
    const void *g = fgd_load_gradient(w, a, b, &prepare);
    w->kernels->clip(a.n, b->prepared.bytes, g, &prepare);
    if (w->rule->trust >= 0) w->kernels->sumsq(a.n, x, sum->of[SUM_PARAM]);
    if (of == FGD_TRUST_GRADIENT)
        w->kernels->sumsq(a.n, b->prepared.bytes, sum->of[SUM_OTHER]);
    if (of != FGD_TRUST_STEP && !w->group->cautious) return;
    fgd_load_slots(w, a, b, slots, 1);
    fgd_call_rule(w, a.n, x, g, slots, w->step, &prepare);
    if (of == FGD_TRUST_STEP) w->kernels->sumsq(a.n, x, sum->of[SUM_OTHER]);
    if (w->group->cautious)
        sum->of[SUM_DESCENDING][0] += (double)w->storage->descending(a.n, x, b->prepared.bytes);
}

static int is_tried(const job *j, const fgd_tensor *t) {
    const fgd_group *group = &j->groups[t->group];
    return !fgd_is_orthogonal(j, t) && (group->cautious || fgd_rule_at(group->rule)->trust >= 0);
}

void fgd_try_chunk(const job *j, int64_t c, int64_t *cursor) {
    const chunk run = fgd_chunk_at(j, c, cursor);
    const int64_t end = run.offset + run.n;
    pass w;
    buffers b;
    lanes sum = {{{0}}};
    if (!is_tried(j, run.tensor)) return;
    fgd_prepare_pass(&w, j, run.tensor);
    if (w.rule->trust >= 0) w.step[w.rule->trust] = 1;
    if (w.plain) {
        void *slots[FGD_MAX_SLOTS];
        float *scales[FGD_MAX_SLOTS];
        slot_runs(&w, run.offset, run.n, slots, scales);
        w.kernels->begin[w.group->rule](run.n, fgd_run_in(&w.param, run.offset, run.n, NULL),
                                        fgd_run_in(&w.grad, run.offset, run.n, NULL), slots, w.step,
                                        w.group->switches, &w.prepare, sum.of[SUM_PARAM], sum.of[SUM_OTHER]);
    }
    for (int64_t at = run.offset; at < end && !w.plain;) {
        const piece a = fgd_next_piece(&w, &at, end);
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
        j->factors[i].trust = 
            fgd_trust_ratio(group, sqrt(total[SUM_PARAM]), sqrt(total[SUM_OTHER]), t->size);
    }
}
