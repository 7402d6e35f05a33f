/* The step: checks everything, has the gradients measured when needed, then updates or clips. */
#include <math.h>
#include <stddef.h>

#include "job.h"
#include "operand.h"

#ifdef _OPENMP
#include <omp.h>
#endif

/* ---- Writing --------------------------------------------------------------------------------------- */

static void write_direct(const job *j, const fgd_tensor *t, const fgd_kernels *k, int64_t n,
                         char *const *at) {
    const fgd_group *group = j->write == WRITE_UPDATE ? &j->groups[t->group] : NULL;
    const double coef = group && group->maximize ? -j->report->clip_coef : j->report->clip_coef;
    fgd_prepare prepare = fgd_before_norm(j->options);
    /* with no bound in between, one factor: one rounding, and nothing overflows on the way */
    if (isinf(prepare.bound)) prepare.unscale *= coef;
    else prepare.coef = coef;
    if (!group) {
        k->clip(n, at[PARAM_ROW], at[GRAD_ROW], &prepare);
        return;
    }
    k->update[group->rule](n, at[PARAM_ROW], at[GRAD_ROW], (void *const *)(at + SLOT_ROW), group->scalars,
                           group->switches, &prepare);
}

/* Writes a run of chunks of one tensor. */
static void write_run(const job *j, const chunk *c) {
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
        write_direct(j, t, k, c->n, at);
        return;
    }
    double packed[SLOT_ROW + FGD_MAX_SLOTS][GATHER];
    for (int64_t i = 0; i < c->n; i += GATHER) {
        const int64_t n = c->n - i < GATHER ? c->n - i : GATHER;
        for (int o = 0; o < n_operands; o++) {
            if (!direct[o]) fgd_gather(&operand[o], c->offset + i, n, at[o] = (char *)packed[o]);
        }
        write_direct(j, t, k, n, at);
        for (int o = 0; o < n_operands; o++) {
            if (direct[o] && at[o]) at[o] += n * item;
            if (!direct[o] && o != GRAD_ROW) fgd_scatter(&operand[o], c->offset + i, n, packed[o]);
        }
    }
}

/* ---- Running over all chunks ------------------------------------------------------------------------ */

/* What a chunk costs beside its elements, in elements. */
enum { CHUNK_COST = 256 };

static int64_t cost_of(int64_t size) { return size + CHUNK_COST * fgd_chunks_of(size); }

/* The first chunk of part k of n parts that cost about the same. */
static int64_t part_begin(const job *j, int64_t k, int64_t n) {
    int64_t total = 0, before = 0, t = 0;
    for (t = 0; t < j->n_tensors; t++) total += cost_of(j->tensors[t].size);
    const int64_t target = total / n * k;
    for (t = 0; t < j->n_tensors && before + cost_of(j->tensors[t].size) <= target; t++)
        before += cost_of(j->tensors[t].size);
    return k == n ? j->n_chunks : j->first_chunk[t] + (target - before) / (FGD_CHUNK + CHUNK_COST);
}

/* Waits for the other threads of run's team. A barrier reached with no team of our own would be one of the
 * caller's team, whose other threads need not come. */
static void wait_for_all(int parts) {
    if (parts > 1) {
#pragma omp barrier
    }
}

/* Whether clipping would write every element as it is: gradients within the limit cost one read. */
static int is_identity(const job *j) {
    const fgd_prepare prepare = fgd_before_norm(j->options);
    return j->write == WRITE_CLIPPED && prepare.unscale * j->report->clip_coef == 1 && isinf(prepare.bound);
}

/* Called by one thread alone, or by every thread of a team, each for its own part of the chunks. A part stays
 * with its thread in both passes, so that gradients of middling size are in its cache in the second. */
static void run_part(const job *j, double *norms, int part, int parts) {
    const int64_t from = part_begin(j, part, parts), to = part_begin(j, part + 1, parts);
    int64_t cursor = 0;
    if (j->measure) {
        for (int64_t c = from; c < to; c++) fgd_measure_chunk(j, c, &cursor);
        wait_for_all(parts);
        if (part == 0) fgd_finish_measure(j, norms);
        wait_for_all(parts);
    }
    if (j->write == WRITE_NOTHING || j->report->skipped || is_identity(j)) return;
    for (int64_t c = from; c < to;) {
        chunk run = fgd_chunk_at(j, c, &cursor);
        const int64_t left = run.tensor->size - run.offset, chunks = to - c;
        run.n = left <= chunks * FGD_CHUNK ? left : chunks * FGD_CHUNK;
        write_run(j, &run);
        c += fgd_chunks_of(run.n);
    }
}

static void run(const job *j, double *norms) {
#ifdef _OPENMP
    if (j->threads > 1) {
#pragma omp parallel num_threads(j->threads)
        run_part(j, norms, omp_get_thread_num(), omp_get_num_threads());
        return;
    }
#endif
    run_part(j, norms, 0, 1);
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
    *j->report = (fgd_report){
        .clip_coef = 1, .nonfinite_tensor = -1, .nonfinite_element = -1, .error_tensor = -1};
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
    if (!workspace || (uintptr_t)workspace % 8) return FGD_ERROR_WORKSPACE;
    if (workspace_size < fgd_workspace_size(j->tensors, j->n_tensors)) return FGD_ERROR_WORKSPACE;
    j->first_chunk = workspace;
    j->first_chunk[0] = 0;
    for (int64_t t = 0; t < j->n_tensors; t++) {
        j->first_chunk[t + 1] = j->first_chunk[t] + fgd_chunks_of(j->tensors[t].size);
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
    for (int64_t t = 0; tensors && t < n_tensors; t++)
        words += 1 + (tensors[t].size > 0 ? fgd_chunks_of(tensors[t].size) : 0);
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
