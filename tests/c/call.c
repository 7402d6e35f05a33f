/* Lays a call out in memory, makes it, and looks at everything it may and may not have changed. */
#include "call.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "needs.h"
#include "product.h"
#include "random.h"

/* More is given to no workspace: calls that ask for more are those to be refused. */
enum { MOST_WORKSPACE = 1 << 24 };

typedef struct held {
    need need;
    array array;
    char *before, *after; /* packed */
} held;

int call_overlaps(const call *c) {
    for (int t = 0; t < c->n_tensors; t++)
        for (int o = 0; o < ARRAYS && c->parts[t].ndim > 0; o++)
            if (o != GRAD && c->parts[t].spreads[o].overlap && array_need(c, &c->parts[t], o).item) return 1;
    return 0;
}

/* ---- Numbers ---------------------------------------------------------------------------------------- */

static void fill(const call *c, int t, int o, const need *n, char *packed, const char *params) {
    const part *p = &c->parts[t];
    const int is_gradient = o == GRAD || c->entry == CLIP, sign = is_unsigned(c, p, o);
    const int is_master = o == RESIDUAL && n->kind == FGD_F32 && c->others == TAME;
    const filling how = is_gradient ? c->grads : c->others;
    uint64_t state = mixed_bits(c->seed + (uint64_t)(t * ARRAYS + o));
    const int64_t bad = n->size > 0 ? (int64_t)(random_bits(&state) >> 1) % n->size : 0;
    for (int64_t i = 0; i < n->size; i++) {
        const uint64_t random = random_bits(&state);
        uint64_t bits = number_of(n->kind, how, sign, random);
        if (how == SPOILT && is_gradient && i == bad && random % 4)
            bits = spoilt_number(n->kind, random >> 8);
        if (is_master && random % 4) /* most of them as a step leaves them */
            bits = whole_of(p->t.dtype, (uint16_t)get_bits(params + 2 * i, 2), random >> 8);
        put_bits(packed + i * n->item, bits, n->item);
    }
}

/* ---- Laying out ------------------------------------------------------------------------------------- */

typedef struct memory {
    held arrays[MOST_TENSORS][ARRAYS];
    fgd_group *groups;
    fgd_tensor *tensors;
    fgd_layout *layouts;
    int64_t *shapes[MOST_TENSORS], *strides[MOST_TENSORS], *rows[MOST_TENSORS], *counters[MOST_TENSORS];
    double *norms;
} memory;

static void *exactly(int64_t bytes) {
    void *m = malloc((size_t)bytes);
    if (!m) abort();
    return m;
}

/* Memory that nobody may look at: it begins where its block ends. */
static void *nowhere(uint64_t r) {
    static char *block;
    if (!block) block = exactly(1);
    return r % 2 ? block + 1 : NULL;
}

static array place(const call *c, const part *p, const need *n, int o, int packed) {
    const spread plain = {0}, shifted = {.offset = p->spreads[o].offset};
    const fgd_group *group = group_of(c, p);
    const int is_line = group && slot_of(o) >= 0 && is_line_slot(group, slot_of(o));
    const int by_rows = has_rows(c, p) && c->entry == UPDATE; /* the others use no rows, but the layout */
    if (packed || p->ndim < 0 || o >= SCALES || is_line || by_rows)
        return array_of(n->item, 1, &n->size, packed || o >= SCALES ? &plain : &shifted);
    return array_of(n->item, p->ndim, p->shape, &p->spreads[o]);
}

static void hold(const call *c, int t, int o, held *h, int packed, const held *param) {
    const part *p = &c->parts[t];
    h->need = array_need(c, p, o);
    if (!h->need.item) return;
    const int64_t bytes = h->need.size * h->need.item;
    h->before = exactly(bytes), h->after = exactly(bytes);
    fill(c, t, o, &h->need, h->before, param->before);
    h->array = place(c, p, &h->need, o, 0);
    array_put(&h->array, h->before);
    array_get(&h->array, h->before); /* not what was put there where elements lie over each other */
    if (!packed) return;
    array_close(&h->array, h->after);
    h->array = place(c, p, &h->need, o, 1);
    array_put(&h->array, h->before);
}

static void set_layout(const call *c, memory *m, int t) {
    const part *p = &c->parts[t];
    const fgd_group *group = group_of(c, p);
    const int slots = group ? fgd_rule_at(group->rule)->n_slots : 0;
    const int n_rows = c->entry == UPDATE ? SLOT + slots + 3 : SLOT;
    m->shapes[t] = exactly(8 * p->ndim), m->strides[t] = exactly(8 * n_rows * p->ndim);
    memcpy(m->shapes[t], p->shape, (size_t)(8 * p->ndim));
    for (int row = 0; row < n_rows; row++) {
        const int o = row < SLOT + slots ? row : RESIDUAL + row - SLOT - slots;
        const held *h = &m->arrays[t][o == GRAD && c->entry == CLIP ? PARAM : o];
        for (int d = 0; d < p->ndim; d++)
            m->strides[t][row * p->ndim + d] = d < h->array.ndim ? h->array.strides[d] : INT64_MIN + d;
    }
    m->layouts[t] = (fgd_layout){p->ndim, m->shapes[t], m->strides[t]};
    if (c->fault == NULL_SHAPES) m->layouts[t].shape = NULL;
    if (c->fault == NULL_STRIDES) m->layouts[t].strides = NULL;
    m->tensors[t].layout = &m->layouts[t];
}

static void set_rows(const call *c, memory *m, int t) {
    const part *p = &c->parts[t];
    const int64_t n = p->t.n_rows;
    m->tensors[t].rows = nowhere(1);
    if (c->entry != UPDATE || n < 0) return;
    m->rows[t] = exactly(8 * n);
    for (int64_t r = 0; r < n; r++) {
        m->rows[t][r] = p->table_rows > 0 ? (p->first_row + r * p->row_step) % p->table_rows : 0;
        if (c->fault == NEGATIVE_ROWS && r == n - 1) m->rows[t][r] = -1 - p->first_row;
    }
    m->tensors[t].rows = m->rows[t];
}

static void set_tensor(const call *c, memory *m, int t, int packed) {
    const part *p = &c->parts[t];
    fgd_tensor *to = &m->tensors[t];
    void *at[ARRAYS];
    *to = p->t;
    to->step = NULL, to->rows = NULL, to->layout = NULL;
    for (int o = 0; o < ARRAYS; o++) {
        held *h = &m->arrays[t][o];
        hold(c, t, o, h, packed, &m->arrays[t][PARAM]);
        at[o] = h->need.item ? h->array.base : o == AVERAGE || o == COPY ? NULL : nowhere(c->seed >> (t + o));
        if (o == GRAD && c->entry == CLIP) at[o] = at[PARAM];
        if (p->nulls >> o & 1) at[o] = NULL;
    }
    to->param = at[PARAM], to->grad = at[GRAD];
    to->residual = at[RESIDUAL], to->average = at[AVERAGE], to->copy = at[COPY];
    for (int k = 0; k < FGD_MAX_SLOTS; k++) to->state[k] = at[SLOT + k], to->scales[k] = at[SCALES + k];
    if (p->has_counter) {
        m->counters[t] = to->step = exactly(8);
        *to->step = p->counter;
    }
    if (has_rows(c, p)) set_rows(c, m, t);
    if (p->ndim >= 0 && !packed) set_layout(c, m, t);
}

static memory memory_of(const call *c, int packed) {
    const int64_t n_groups = c->n_groups > 0 ? c->n_groups : 0, n = c->n_tensors > 0 ? c->n_tensors : 0;
    memory m = {0};
    m.groups = exactly(n_groups * (int64_t)sizeof *m.groups);
    m.tensors = exactly(n * (int64_t)sizeof *m.tensors);
    m.layouts = exactly(n * (int64_t)sizeof *m.layouts);
    m.norms = c->entry == MEASURE && (c->seed >> 60) % 2 ? exactly(8 * n) : NULL;
    if (m.norms) memset(m.norms, 0, (size_t)(8 * n));
    memcpy(m.groups, c->groups, (size_t)n_groups * sizeof *m.groups);
    for (int t = 0; t < n; t++) set_tensor(c, &m, t, packed);
    return m;
}

static void memory_free(const call *c, memory *m) {
    for (int t = 0; t < c->n_tensors; t++) {
        for (int o = 0; o < ARRAYS; o++) free(m->arrays[t][o].before), free(m->arrays[t][o].after);
        free(m->shapes[t]), free(m->strides[t]), free(m->rows[t]), free(m->counters[t]);
    }
    free(m->groups), free(m->tensors), free(m->layouts), free(m->norms);
}

/* ---- Making the call -------------------------------------------------------------------------------- */

static int enter(const call *c, const memory *m, void *workspace, int64_t bytes, fgd_report *report) {
    const fgd_group *groups = c->fault == NULL_GROUPS ? NULL : m->groups;
    const fgd_tensor *tensors = c->fault == NULL_TENSORS ? NULL : m->tensors;
    const fgd_options *options = c->fault == NULL_OPTIONS ? NULL : &c->options;
    if (c->fault == NULL_REPORT) report = NULL;
    switch (c->entry) {
        case UPDATE:
            return fgd_update(groups, c->n_groups, tensors, c->n_tensors, options, workspace, bytes, report);
        case MEASURE: return fgd_measure(tensors, c->n_tensors, options, m->norms, workspace, bytes, report);
        default: return fgd_clip(tensors, c->n_tensors, options, workspace, bytes, report);
    }
}

static int is_too_large(const call *c) {
    for (int t = 0; t < c->n_tensors; t++)
        if (c->parts[t].t.size > MOST_ELEMENTS) return 1;
    return 0;
}

/* With a workspace of the size asked for, but for tensors that there is no memory for, so that nobody looks
 * for it. The numbers in it differ from manner to manner. */
static const char *make(const call *c, const memory *m, manner how, outcome *o) {
    const int64_t asked = fgd_workspace_size(m->tensors, c->n_tensors);
    if (asked < 16) return "the size of the workspace";
    int64_t bytes = asked > MOST_WORKSPACE ? MOST_WORKSPACE : asked;
    if (c->fault == SHORT_WORKSPACE || is_too_large(c)) bytes--;
    char *block = exactly(bytes + 4), *workspace = block + (c->fault == ODD_WORKSPACE ? 4 : 0);
    const fgd_options options = c->options;
    if (c->fault != ODD_WORKSPACE) block = workspace = realloc(block, (size_t)bytes);
    memset(workspace, 0x41 + 3 * how.isa + how.threads, (size_t)bytes);
    memset(&o->report, 0x55, sizeof o->report);
    fgd_set_isa(how.isa);
    fgd_set_num_threads(how.threads);
    set_products(c->products);
    o->code = enter(c, m, c->fault == NULL_WORKSPACE ? NULL : workspace, bytes, &o->report);
    free(block);
    if (memcmp(&options, &c->options, sizeof options)) return "options are only read";
    return o->code > 0 ? "an error code is negative" : NULL;
}

/* ---- Looking at what is left ------------------------------------------------------------------------ */

/* Rows that no gradient row is for are left alone. */
static int other_rows_changed(const part *p, const held *h) {
    const int64_t bytes = p->t.width * h->need.item;
    for (int64_t row = 0; row < p->table_rows; row++) {
        int is_named = 0;
        for (int64_t r = 0; r < p->t.n_rows && !is_named; r++)
            is_named = (p->first_row + r * p->row_step) % p->table_rows == row;
        if (!is_named && memcmp(h->before + row * bytes, h->after + row * bytes, (size_t)bytes)) return 1;
    }
    return 0;
}

/* Whether tensor t has been written. A product that fails has the steps before it made, and all that need
 * none. */
static int is_changed(const call *c, const outcome *o, int t) {
    if (c->entry == MEASURE || o->report.skipped) return 0;
    if (o->code != FGD_ERROR_GEMM || c->products == NO_PRODUCTS) return o->code == FGD_OK;
    return t < o->report.error_tensor || !is_orthogonal(group_of(c, &c->parts[t]));
}

static const char *look_at_arrays(const call *c, memory *m, const outcome *made) {
    const char *broken = NULL;
    for (int t = 0; t < c->n_tensors; t++) {
        const part *p = &c->parts[t];
        const int changed = is_changed(c, made, t);
        for (int o = 0; o < ARRAYS; o++) {
            held *h = &m->arrays[t][o];
            if (!h->need.item) continue;
            if (!array_close(&h->array, h->after)) broken = "bytes between elements are left alone";
            const int same = !memcmp(h->before, h->after, (size_t)(h->need.size * h->need.item));
            if (!same && o == GRAD) broken = "gradients are only read";
            if (!same && !changed) broken = "an error, a skipped step or a measurement changes nothing";
            if (!same && has_rows(c, p) && other_rows_changed(p, h)) broken = "other rows are left alone";
        }
        const uint64_t counted = m->counters[t] ? (uint64_t)*m->counters[t] - (uint64_t)p->counter : 0;
        if (counted != (m->counters[t] && c->entry == UPDATE && changed))
            broken = "a step that was made is counted once";
    }
    return broken;
}

static int is_measured(const call *c) {
    const fgd_options *o = &c->options;
    const int limits = isfinite(o->clip_norm) && o->total_norm < 0;
    return c->entry == MEASURE || o->measure || o->skip_nonfinite || limits;
}

static const char *look_at_report(const call *c, const memory *m, const fgd_report *r) {
    int64_t tensor = -1, element = -1;
    for (int t = 0; t < c->n_tensors && tensor < 0 && is_measured(c); t++) {
        const part *p = &c->parts[t];
        const held *h = &m->arrays[t][c->entry == CLIP ? PARAM : GRAD];
        const int real = c->entry == UPDATE ? p->t.dtype : p->t.grad_dtype;
        for (int64_t i = 0; i < h->need.size && tensor < 0; i++)
            if (!is_finite_in(real, h->need.kind, h->before + i * h->need.item)) tensor = t, element = i;
    }
    if (r->nonfinite_tensor != tensor || r->nonfinite_element != element)
        return "the first element that is not finite is reported";
    if (r->skipped != (c->options.skip_nonfinite && (tensor >= 0 || !isfinite(r->norm))))
        return "a step is skipped where something is not finite, when that is asked for";
    return r->error_tensor == -1 ? NULL : "without an error there is no tensor that it is about";
}

static void report_alike(fgd_report *r) {
    double *numbers[] = {&r->norm, &r->sumsq, &r->clip_coef};
    for (int i = 0; i < 3; i++)
        if (isnan(*numbers[i])) *numbers[i] = NAN;
}

static void keep(const call *c, memory *m, outcome *o) {
    const int64_t norms = m->norms && c->n_tensors > 0 ? 8 * c->n_tensors : 0;
    int64_t size = norms;
    for (int t = 0; t < c->n_tensors; t++, size += 8)
        for (int k = 0; k < ARRAYS; k++) size += m->arrays[t][k].need.item * m->arrays[t][k].need.size;
    char *to = o->bytes = exactly(o->size = size);
    for (int t = 0; t < c->n_tensors; t++, to += 8) {
        for (int k = 0; k < ARRAYS; k++) {
            held *h = &m->arrays[t][k];
            if (!h->need.item) continue;
            make_nans_alike(h->need.kind, h->need.size, h->after);
            memcpy(to, h->after, (size_t)(h->need.item * h->need.size));
            to += h->need.item * h->need.size;
        }
        memset(to, 0, 8);
        if (m->counters[t]) memcpy(to, m->counters[t], 8);
    }
    for (int t = 0; t < c->n_tensors && m->norms; t++, to += 8) {
        if (isnan(m->norms[t])) m->norms[t] = NAN;
        memcpy(to, &m->norms[t], 8);
    }
}

outcome call_run(const call *c, manner how) {
    memory m = memory_of(c, how.packed);
    const fgd_report unset = {.error_tensor = -1};
    outcome o = {0};
    const char *made = make(c, &m, how, &o);
    if (c->fault == NULL_REPORT) o.report = unset;
    o.broken = look_at_arrays(c, &m, &o);
    if (!o.broken && o.code == FGD_OK) o.broken = look_at_report(c, &m, &o.report);
    const int64_t about = o.report.error_tensor;
    if (!o.broken && about != -1 && (about < 0 || about >= c->n_tensors))
        o.broken = "an error is about a tensor that there is";
    if (!o.broken) o.broken = made;
    report_alike(&o.report);
    keep(c, &m, &o);
    memory_free(c, &m);
    return o;
}

void outcome_free(outcome *o) { free(o->bytes); }

const char *outcome_difference(const outcome *a, const outcome *b) {
    if (a->code != b->code) return "the error code";
    if (memcmp(&a->report, &b->report, sizeof a->report)) return "the report";
    return a->size == b->size && !memcmp(a->bytes, b->bytes, (size_t)a->size) ? NULL : "the arrays";
}
