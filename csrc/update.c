/* The step: checks everything, measures the gradients chunk by chunk, then updates or clips. */
#include <float.h>
#include <math.h>
#include <stddef.h>

#include "dispatch.h"
#include "operand.h"

/* Elements gathered at a time from memory the kernels cannot use directly. A multiple of FGD_LANES, so
 * that sums take the same order as over contiguous memory. */
#define GATHER 512

/* Squares of float64 may overflow, or lose bits below this sum; then they are taken again, scaled. */
#define TINY_SUM 1e-280

enum { PARAM_ROW = 0, GRAD_ROW = 1, SLOT_ROW = 2 };
enum { WRITE_NOTHING, WRITE_UPDATE, WRITE_CLIPPED };

typedef struct job {
    const fgd_group *groups;
    const fgd_tensor *tensors;
    int64_t n_tensors, n_chunks;
    const fgd_options *options;
    int write, measure, threads;
    int64_t *first_chunk; /* n_tensors + 1 */
    double *partial;      /* n_chunks */
    fgd_report *report;
} job;

/* A piece of work: up to FGD_CHUNK elements of one tensor. */
typedef struct chunk {
    const fgd_tensor *tensor;
    int64_t offset, n;
} chunk;

static int64_t chunks_of(int64_t size) { return size / FGD_CHUNK + (size % FGD_CHUNK != 0); }

/* Finds chunk c; *tensor is a cursor that only moves forward. */
static chunk chunk_at(const job *j, int64_t c, int64_t *tensor) {
    while (j->first_chunk[*tensor + 1] <= c) ++*tensor;
    const fgd_tensor *t = &j->tensors[*tensor];
    const int64_t offset = (c - j->first_chunk[*tensor]) * FGD_CHUNK, left = t->size - offset;
    chunk piece = {t, offset, left < FGD_CHUNK ? left : FGD_CHUNK};
    return piece;
}

/* ---- Measuring ------------------------------------------------------------------------------------- */

typedef enum measurement { SUMSQ, SUMSQ_PREPARED, MAXABS } measurement;

static double measure_run(const fgd_kernels *k, measurement what, int64_t n, const void *g,
                          const fgd_prepare *prepare, double scale, double *lanes, double largest) {
    switch (what) {
        case SUMSQ: k->sumsq(n, g, lanes); return 0;
        case SUMSQ_PREPARED: k->sumsq_prepared(n, g, prepare, scale, lanes); return 0;
        case MAXABS: break;
    }
    const double m = k->maxabs(n, g);
    return m > largest || isnan(m) ? m : largest;
}

static double measure_chunk(const chunk *c, measurement what, const fgd_prepare *prepare, double scale) {
    const fgd_kernels *k = fgd_kernels_for(c->tensor->dtype);
    const int64_t item = fgd_item_size(c->tensor->dtype);
    const fgd_operand g = fgd_operand_of(c->tensor->grad, c->tensor->layout, GRAD_ROW, item);
    double lanes[FGD_LANES] = {0}, largest = 0;
    if (fgd_is_direct(&g)) {
        largest = measure_run(k, what, c->n, g.base + c->offset * item, prepare, scale, lanes, largest);
    } else {
        double packed[GATHER];
        for (int64_t i = 0; i < c->n && !isnan(largest); i += GATHER) {
            const int64_t n = c->n - i < GATHER ? c->n - i : GATHER;
            fgd_gather(&g, c->offset + i, n, packed);
            largest = measure_run(k, what, n, packed, prepare, scale, lanes, largest);
        }
    }
    if (what == MAXABS) return largest;
    for (int width = FGD_LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
    return lanes[0];
}

static measurement what_to_measure(const fgd_options *o) {
    if (o->norm == FGD_NORM_INF) return MAXABS;
    return isinf(o->clip_value) ? SUMSQ : SUMSQ_PREPARED;
}

/* The gradients' way up to the point where the norm is taken. */
static fgd_prepare before_norm(const fgd_options *o) {
    fgd_prepare p = {1 / o->grad_scale, o->clip_value, 1};
    return p;
}

/* Partial results of chunks [from, to) put together in order. */
static double fold(const double *partial, int64_t from, int64_t to, measurement what) {
    double total = 0;
    for (int64_t c = from; c < to; c++) {
        if (what != MAXABS) total += partial[c];
        else if (partial[c] > total || isnan(partial[c])) total = partial[c];
        if (what == MAXABS && isnan(total)) break;
    }
    return total;
}

/* The first element that is not finite in chunks [from, to), in memory order; 0 when there is none. */
static int find_nonfinite(const job *j, int64_t from, int64_t to, int64_t *tensor, int64_t *element) {
    int64_t cursor = 0;
    for (int64_t at = from; at < to; at++) {
        if (isfinite(j->partial[at])) continue;
        const chunk c = chunk_at(j, at, &cursor);
        const int64_t item = fgd_item_size(c.tensor->dtype);
        const fgd_operand g = fgd_operand_of(c.tensor->grad, c.tensor->layout, GRAD_ROW, item);
        for (int64_t i = 0; i < c.n; i++) {
            double value;
            float narrow;
            if (item == 8) {
                fgd_gather(&g, c.offset + i, 1, &value);
            } else {
                fgd_gather(&g, c.offset + i, 1, &narrow);
                value = (double)narrow;
            }
            if (!isfinite(value)) {
                *tensor = cursor;
                *element = c.offset + i;
                return 1;
            }
        }
    }
    return 0;
}

/* Sums the squares of chunks [from, to) again, scaled by a power of two that brings the largest element
 * near 1: needed only where plain squares overflow or underflow. */
static double scaled_norm(const job *j, int64_t from, int64_t to, double *sumsq) {
    const fgd_prepare plain = {1, INFINITY, 1}, prepare = before_norm(j->options);
    double largest = 0, total = 0;
    int64_t cursor = 0;
    for (int64_t c = from; c < to; c++) {
        const chunk piece = chunk_at(j, c, &cursor);
        const double m = measure_chunk(&piece, MAXABS, &plain, 1);
        largest = m > largest ? m : largest;
    }
    largest = fmin(largest * prepare.unscale, prepare.bound);
    if (largest == 0) return *sumsq = 0;
    int exponent = isinf(largest) ? DBL_MAX_EXP : ilogb(largest);
    if (exponent < -1000) exponent = -1000;
    cursor = 0;
    for (int64_t c = from; c < to; c++) {
        const chunk piece = chunk_at(j, c, &cursor);
        total += measure_chunk(&piece, SUMSQ_PREPARED, &prepare, ldexp(1, -exponent));
    }
    *sumsq = ldexp(total, 2 * exponent);
    return ldexp(sqrt(total), exponent);
}

/* The norm of chunks [from, to) given their folded partial results. */
static double norm_of(const job *j, int64_t from, int64_t to, double folded, int finite, double *sumsq) {
    const fgd_prepare prepare = before_norm(j->options);
    const measurement what = what_to_measure(j->options);
    if (what == MAXABS) {
        const double m = folded * prepare.unscale, norm = m > prepare.bound ? prepare.bound : m;
        *sumsq = norm * norm;
        return norm;
    }
    if (finite && (!isfinite(folded) || folded < TINY_SUM)) return scaled_norm(j, from, to, sumsq);
    const double unscale = what == SUMSQ ? prepare.unscale : 1;
    *sumsq = folded * unscale * unscale;
    return sqrt(folded) * unscale;
}

/* From partial results to the report, and, when wanted, the norm of every tensor. */
static void finish_measure(const job *j, double *norms) {
    fgd_report *r = j->report;
    const measurement what = what_to_measure(j->options);
    const double folded = fold(j->partial, 0, j->n_chunks, what);
    r->measured = 1;
    if (!isfinite(folded)) find_nonfinite(j, 0, j->n_chunks, &r->nonfinite_tensor, &r->nonfinite_element);
    r->norm = norm_of(j, 0, j->n_chunks, folded, r->nonfinite_tensor < 0, &r->sumsq);
    if (!isinf(j->options->clip_norm)) {
        const double coef = j->options->clip_norm / (r->norm + 1e-6);
        r->clip_coef = coef > 1 ? 1 : coef;
    }
    r->skipped = j->options->skip_nonfinite && r->nonfinite_tensor >= 0;
    for (int64_t t = 0; norms && t < j->n_tensors; t++) {
        const int64_t from = j->first_chunk[t], to = j->first_chunk[t + 1];
        const double own = fold(j->partial, from, to, what);
        int64_t tensor, element;
        double sumsq;
        const int finite = isfinite(own) || !find_nonfinite(j, from, to, &tensor, &element);
        norms[t] = norm_of(j, from, to, own, finite, &sumsq);
    }
}

/* ---- Writing --------------------------------------------------------------------------------------- */

static void write_run(const job *j, const fgd_tensor *t, const fgd_kernels *k, int64_t n, char *const *at) {
    fgd_prepare prepare = before_norm(j->options);
    prepare.coef = j->report->clip_coef;
    if (j->write == WRITE_CLIPPED) {
        k->clip(n, at[PARAM_ROW], at[GRAD_ROW], &prepare);
        return;
    }
    const fgd_group *group = &j->groups[t->group];
    if (group->maximize) prepare.coef = -prepare.coef;
    k->update[group->rule](n, at[PARAM_ROW], at[GRAD_ROW], (void *const *)(at + SLOT_ROW), group->scalars,
                           group->switches, &prepare);
}

static void write_chunk(const job *j, const chunk *c) {
    const fgd_tensor *t = c->tensor;
    const fgd_kernels *k = fgd_kernels_for(t->dtype);
    const int64_t item = fgd_item_size(t->dtype);
    const int n_slots = j->write == WRITE_UPDATE ? fgd_rule_at(j->groups[t->group].rule)->n_slots : 0;
    const int n_operands = SLOT_ROW + n_slots;
    fgd_operand operand[SLOT_ROW + FGD_MAX_SLOTS];
    char *at[SLOT_ROW + FGD_MAX_SLOTS];
    int direct[SLOT_ROW + FGD_MAX_SLOTS], all_direct = 1;
    for (int o = 0; o < n_operands; o++) {
        const void *base = o == PARAM_ROW ? t->param : o == GRAD_ROW ? t->grad : t->state[o - SLOT_ROW];
        operand[o] = fgd_operand_of(base, t->layout, o, item);
        direct[o] = base == NULL || fgd_is_direct(&operand[o]);
        all_direct &= direct[o];
        at[o] = base && direct[o] ? operand[o].base + c->offset * item : NULL;
    }
    if (all_direct) {
        write_run(j, t, k, c->n, at);
        return;
    }
    double packed[SLOT_ROW + FGD_MAX_SLOTS][GATHER];
    for (int64_t i = 0; i < c->n; i += GATHER) {
        const int64_t n = c->n - i < GATHER ? c->n - i : GATHER;
        for (int o = 0; o < n_operands; o++) {
            if (!direct[o]) fgd_gather(&operand[o], c->offset + i, n, at[o] = (char *)packed[o]);
        }
        write_run(j, t, k, n, at);
        for (int o = 0; o < n_operands; o++) {
            if (direct[o] && at[o]) at[o] += n * item;
            if (!direct[o] && o != GRAD_ROW) fgd_scatter(&operand[o], c->offset + i, n, packed[o]);
        }
    }
}

/* ---- Running over all chunks ------------------------------------------------------------------------ */

static void do_chunk(const job *j, int64_t c, int64_t *cursor, int writing) {
    const chunk piece = chunk_at(j, c, cursor);
    if (writing) {
        write_chunk(j, &piece);
    } else {
        const fgd_prepare prepare = before_norm(j->options);
        j->partial[c] = measure_chunk(&piece, what_to_measure(j->options), &prepare, 1);
    }
}

/* Called by one thread alone or by every thread of a team; returns when all chunks are done. */
static void do_chunks(const job *j, int writing) {
    int64_t cursor = 0;
    if (j->threads == 1) {
        for (int64_t c = 0; c < j->n_chunks; c++) do_chunk(j, c, &cursor, writing);
    } else {
/* the cursor needs each thread's chunks in rising order, which `guided` alone does not promise */
#pragma omp for schedule(monotonic : guided)
        for (int64_t c = 0; c < j->n_chunks; c++) do_chunk(j, c, &cursor, writing);
    }
}

static void run_team(const job *j, double *norms) {
    if (j->measure) {
        do_chunks(j, 0);
#pragma omp single
        finish_measure(j, norms);
    }
    if (j->write != WRITE_NOTHING && !j->report->skipped) do_chunks(j, 1);
}

static void run(const job *j, double *norms) {
    if (j->threads == 1) {
        run_team(j, norms);
        return;
    }
#pragma omp parallel num_threads(j->threads)
    run_team(j, norms);
}

/* ---- Checking -------------------------------------------------------------------------------------- */

static int check_options(const fgd_options *o) {
    if (!o) return FGD_ERROR_NULL;
    if (!(o->grad_scale > 0) || isinf(o->grad_scale) || isinf(1 / o->grad_scale)) return FGD_ERROR_OPTION;
    if (!(o->clip_value >= 0) || !(o->clip_norm >= 0)) return FGD_ERROR_OPTION;
    if (o->norm != FGD_NORM_2 && o->norm != FGD_NORM_INF) return FGD_ERROR_OPTION;
    return FGD_OK;
}

static int check_group(const fgd_group *g) {
    const fgd_rule *rule = fgd_rule_at(g->rule);
    if (!rule) return FGD_ERROR_RULE;
    return g->switches >> rule->n_switches ? FGD_ERROR_SWITCHES : FGD_OK;
}

static int check_layout(const fgd_layout *l, int64_t size) {
    int64_t product = 1;
    int empty = 0;
    if (l->ndim < 0 || l->ndim > FGD_MAX_DIMS) return FGD_ERROR_LAYOUT;
    if (l->ndim > 0 && (!l->shape || !l->strides)) return FGD_ERROR_NULL;
    for (int d = 0; d < l->ndim; d++) {
        if (l->shape[d] < 0) return FGD_ERROR_LAYOUT;
        empty |= l->shape[d] == 0;
    }
    for (int d = 0; d < l->ndim && !empty; d++) {
        if (product > INT64_MAX / l->shape[d]) return FGD_ERROR_LAYOUT;
        product *= l->shape[d];
    }
    return (empty ? 0 : product) == size ? FGD_OK : FGD_ERROR_LAYOUT;
}

static int check_tensor(const fgd_tensor *t, const fgd_group *groups, int64_t n_groups, int write) {
    if (t->size < 0) return FGD_ERROR_SIZE;
    if (t->dtype != FGD_F32 && t->dtype != FGD_F64) return FGD_ERROR_DTYPE;
    if (write == WRITE_UPDATE && (t->group < 0 || t->group >= n_groups)) return FGD_ERROR_GROUP;
    if (t->layout) {
        const int code = check_layout(t->layout, t->size);
        if (code) return code;
    }
    if (t->size == 0) return FGD_OK;
    if (!t->grad || (write != WRITE_NOTHING && !t->param)) return FGD_ERROR_NULL;
    if (write == WRITE_UPDATE) {
        const fgd_rule *rule = fgd_rule_at(groups[t->group].rule);
        for (int i = 0; i < rule->n_slots; i++) {
            const int needs = rule->slot_switch[i];
            const int used = needs < 0 || (groups[t->group].switches >> needs & 1);
            if (used && !t->state[i]) return FGD_ERROR_SLOT;
        }
    }
    return FGD_OK;
}

/* Checks all arguments and lays the job out in the workspace. */
static int prepare_job(job *j, int64_t n_groups, void *workspace, int64_t workspace_size) {
    int64_t elements = 0;
    if (!j->report) return FGD_ERROR_NULL;
    *j->report = (fgd_report){.clip_coef = 1, .nonfinite_tensor = -1, .nonfinite_element = -1, .error_tensor = -1};
    if (j->n_tensors < 0 || n_groups < 0) return FGD_ERROR_SIZE;
    if ((j->n_tensors && !j->tensors) || (n_groups && !j->groups)) return FGD_ERROR_NULL;
    int code = check_options(j->options);
    for (int64_t g = 0; !code && g < n_groups; g++) code = check_group(&j->groups[g]);
    if (code) return code;
    for (int64_t t = 0; t < j->n_tensors; t++) {
        code = check_tensor(&j->tensors[t], j->groups, n_groups, j->write);
        if (code) {
            j->report->error_tensor = t;
            return code;
        }
    }
    if (!workspace || (uintptr_t)workspace % 8 || workspace_size < fgd_workspace_size(j->tensors, j->n_tensors))
        return FGD_ERROR_WORKSPACE;
    j->first_chunk = workspace;
    j->first_chunk[0] = 0;
    for (int64_t t = 0; t < j->n_tensors; t++) {
        j->first_chunk[t + 1] = j->first_chunk[t] + chunks_of(j->tensors[t].size);
        elements += j->tensors[t].size;
    }
    j->n_chunks = j->first_chunk[j->n_tensors];
    j->partial = (double *)(j->first_chunk + j->n_tensors + 1);
    j->threads = fgd_threads_for(elements);
    return FGD_OK;
}

/* ---- Entries --------------------------------------------------------------------------------------- */

int64_t fgd_workspace_size(const fgd_tensor *tensors, int64_t n_tensors) {
    int64_t words = 1;
    for (int64_t t = 0; tensors && t < n_tensors; t++) words += 1 + (tensors[t].size > 0 ? chunks_of(tensors[t].size) : 0);
    return words * 8;
}

int fgd_update(const fgd_group *groups, int64_t n_groups, const fgd_tensor *tensors, int64_t n_tensors,
               const fgd_options *options, void *workspace, int64_t workspace_size, fgd_report *report) {
    job j = {.groups = groups, .tensors = tensors, .n_tensors = n_tensors, .options = options,
             .write = WRITE_UPDATE, .report = report};
    const int code = prepare_job(&j, n_groups, workspace, workspace_size);
    if (code) return code;
    j.measure = options->measure || options->skip_nonfinite || !isinf(options->clip_norm);
    run(&j, NULL);
    for (int64_t t = 0; !report->skipped && t < n_tensors; t++)
        if (tensors[t].step) ++*tensors[t].step;
    return FGD_OK;
}

int fgd_measure(const fgd_tensor *tensors, int64_t n_tensors, const fgd_options *options, double *norms,
                void *workspace, int64_t workspace_size, fgd_report *report) {
    job j = {.tensors = tensors, .n_tensors = n_tensors, .options = options, .write = WRITE_NOTHING,
             .measure = 1, .report = report};
    const int code = prepare_job(&j, 0, workspace, workspace_size);
    if (!code) run(&j, norms);
    return code;
}

int fgd_clip(const fgd_tensor *tensors, int64_t n_tensors, const fgd_options *options, void *workspace,
             int64_t workspace_size, fgd_report *report) {
    job j = {.tensors = tensors, .n_tensors = n_tensors, .options = options, .write = WRITE_CLIPPED,
             .report = report};
    const int code = prepare_job(&j, 0, workspace, workspace_size);
    if (code) return code;
    j.measure = options->measure || options->skip_nonfinite || !isinf(options->clip_norm);
    run(&j, NULL);
    return FGD_OK;
}
