/* The step: has the gradients measured when needed, then updates or clips, each thread its own part. */
#include <math.h>
#include <stddef.h>
#if defined(__unix__) || defined(__APPLE__)
#include <sched.h>
#elif defined(_WIN32)
#include <windows.h>
#endif

#include "apply.h"
#include "factored.h"
#include "orthogonal.h"
#include "program.h"

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
    if (j->write != WRITE_CLIPPED || j->options->scope != FGD_SCOPE_ALL || !isinf(prepare.bound)) return 0;
    return prepare.unscale * j->report->clip_coef == 1;
}

/* Another thread is waited for, which may need this core. */
static void relax(int64_t turns) {
#if defined(__unix__) || defined(__APPLE__)
    if (turns % 1024 == 1023) sched_yield();
#elif defined(_WIN32)
    if (turns % 1024 == 1023) SwitchToThread();
#endif
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

/* Whether the gradient of tensor t comes; waits for it. */
static int has_come(const arrivals *a, int64_t t) {
    int64_t ready = __atomic_load_n(&a->ready, __ATOMIC_ACQUIRE);
    for (int64_t turns = 0; ready >= 0 && ready <= t; turns++) {
        relax(turns);
        ready = __atomic_load_n(&a->ready, __ATOMIC_ACQUIRE);
    }
    return ready >= 0;
}

/* The calling thread has gradients brought in, then helps the others, who measure chunk after chunk as they
 * come. Where none are to be measured, they only come. */
static void fetch_and_measure(const job *j, int part) {
    arrivals *a = j->arrivals;
    int64_t cursor = 0;
    if (part == 0) {
        const int failed = a->fetch(a->context, &a->ready);
        __atomic_store_n(&a->ready, failed ? -1 : j->n_tensors, __ATOMIC_RELEASE);
    }
    while (j->measure) {
        const int64_t c = __atomic_fetch_add(&a->next, 1, __ATOMIC_RELAXED);
        if (c >= j->n_chunks) break;
        while (j->first_chunk[cursor + 1] <= c) cursor++;
        if (!has_come(a, cursor)) break;
        fgd_measure_chunk(j, c, &cursor);
    }
}

/* Called by one thread alone, or by every thread of a team, each for its own part of the chunks. A part stays
 * with its thread in all passes, so that gradients of middling size are in its cache in the second; but those
 * that are fetched are measured by whoever is free. */
static void run_part(const void *what, int part, int parts) {
    const job *j = what;
    const int64_t from = part_begin(j, part, parts), to = part_begin(j, part + 1, parts);
    int64_t cursor = 0;
    if (j->arrivals) {
        fetch_and_measure(j, part);
        wait_for_all(parts);
        if (j->arrivals->ready < 0) return;
    }
    if (j->measure) {
        const int left = !j->measured && !j->arrivals;
        for (int64_t c = from; c < to && left; c++) fgd_measure_chunk(j, c, &cursor);
        wait_for_all(parts);
        if (part == 0) fgd_finish_measure(j);
        wait_for_all(parts);
    }
    if (j->write == WRITE_NOTHING || j->report->skipped || is_identity(j)) return;
    if (fgd_clips_units(j)) {
        const int64_t units = j->first_unit[j->n_tensors];
        fgd_measure_units(j, units / parts * part, part + 1 == parts ? units : units / parts * (part + 1));
        wait_for_all(parts);
    }
    if (j->factored) {
        fgd_sum_squares(j, from, to);
        wait_for_all(parts);
        fgd_update_moments(j, part, parts);
        wait_for_all(parts);
        fgd_finish_moments(j, from, to);
        wait_for_all(parts);
    }
    if (j->trial) {
        for (int64_t c = from; c < to; c++) fgd_try_chunk(j, c, &cursor);
        wait_for_all(parts);
        if (part == 0) fgd_finish_trial(j);
        wait_for_all(parts);
    }
    for (int64_t c = from; c < to;) {
        chunk run = fgd_chunk_at(j, c, &cursor);
        const int64_t left = run.tensor->size - run.offset, chunks = to - c;
        run.n = left <= chunks * FGD_CHUNK ? left : chunks * FGD_CHUNK;
        fgd_write_run(j, &run);
        c += fgd_chunks_of(run.n);
    }
}

/* Makes the orthogonal steps one after the other: a matrix product has threads of its own. */
static int run_orthogonal(const job *j) {
    const int64_t n = j->orthogonal && !j->report->skipped ? j->n_tensors : 0;
    for (int64_t t = 0; t < n; t++) {
        if (!fgd_is_orthogonal(j, &j->tensors[t])) continue;
        const int code = fgd_orthogonal_step(j, &j->tensors[t]);
        if (code) {
            j->report->error_tensor = t;
            return code;
        }
    }
    return FGD_OK;
}

static void count_steps(const job *j) {
    const int64_t failed = j->report->error_tensor;
    for (int64_t t = 0; !j->report->skipped && t < j->n_tensors; t++) {
        const int made = failed < 0 || t < failed || !fgd_is_orthogonal(j, &j->tensors[t]);
        if (made && j->tensors[t].step) ++*j->tensors[t].step;
    }
}

static int run_update(const job *j) {
    fgd_in_parts(j->threads, run_part, j);
    if (j->arrivals && j->arrivals->ready < 0) return FGD_ERROR_FETCH;
    const int code = run_orthogonal(j);
    count_steps(j);
    for (int64_t u = 0; !j->report->skipped && fgd_clips_units(j) && u < j->first_unit[j->n_tensors]; u++)
        j->report->clip_coef = fgd_smaller(j->report->clip_coef, j->unit_coef[u]);
    return code;
}

/* ---- The step behind a program ----------------------------------------------------------------------- */

/* Whether each tensor's gradient is named once: by ranges that end where the one before begins. */
static int names_all_gradients(const fgd_op *ops, int64_t n_ops, int64_t n_tensors) {
    int64_t end = n_tensors;
    for (int64_t i = 0; i < n_ops; i++) {
        if (ops[i].n_gradients == 0) continue;
        if (ops[i].n_gradients < 0 || ops[i].n_gradients > end) return 0;
        if (ops[i].first_gradient != end - ops[i].n_gradients) return 0;
        end = ops[i].first_gradient;
    }
    return end == 0;
}

static void measure_gradients(const job *j, const fgd_op *op) {
    const int64_t from = j->first_chunk[op->first_gradient];
    const int64_t to = j->first_chunk[op->first_gradient + op->n_gradients];
#pragma omp parallel for num_threads(fgd_threads_for((to - from) * FGD_CHUNK)) schedule(static)
    for (int64_t c = from; c < to; c++) {
        int64_t cursor = op->first_gradient;
        fgd_measure_chunk(j, c, &cursor);
    }
}

int fgd_train(const fgd_op *ops, int64_t n_ops, int64_t *failed, const fgd_group *groups, int64_t n_groups,
              const fgd_tensor *tensors, int64_t n_tensors, const fgd_options *options, void *workspace,
              int64_t workspace_size, fgd_report *report) {
    job j = {.groups = groups, .tensors = tensors, .n_tensors = n_tensors, .options = options,
             .write = WRITE_UPDATE, .report = report};
    int code = fgd_check_ops(ops, n_ops, failed);
    if (!code) code = fgd_prepare_job(&j, n_groups, workspace, workspace_size);
    if (code) return code;
    j.measured = j.measure && names_all_gradients(ops, n_ops, n_tensors);
    for (int64_t i = 0; i < n_ops; i++) {
        code = fgd_run_op(&ops[i]);
        if (code) {
            *failed = i;
            return code;
        }
        if (j.measured && ops[i].n_gradients) measure_gradients(&j, &ops[i]);
    }
    return run_update(&j);
}

/* ---- Entries --------------------------------------------------------------------------------------- */

int fgd_update(const fgd_group *groups, int64_t n_groups, const fgd_tensor *tensors, int64_t n_tensors,
               const fgd_options *options, void *workspace, int64_t workspace_size, fgd_report *report) {
    job j = {.groups = groups, .tensors = tensors, .n_tensors = n_tensors, .options = options,
             .write = WRITE_UPDATE, .report = report};
    const int code = fgd_prepare_job(&j, n_groups, workspace, workspace_size);
    return code ? code : run_update(&j);
}

int fgd_update_fetched(const fgd_group *groups, int64_t n_groups, const fgd_tensor *tensors,
                       int64_t n_tensors, const fgd_options *options, void *workspace,
                       int64_t workspace_size, fgd_report *report, fgd_fetch fetch, void *context) {
    arrivals coming = {.fetch = fetch, .context = context};
    job j = {.groups = groups, .tensors = tensors, .n_tensors = n_tensors, .options = options,
             .write = WRITE_UPDATE, .report = report, .arrivals = &coming};
    if (!fetch) return FGD_ERROR_NULL;
    const int code = fgd_prepare_job(&j, n_groups, workspace, workspace_size);
    return code ? code : run_update(&j);
}

int fgd_measure(const fgd_tensor *tensors, int64_t n_tensors, const fgd_options *options, double *norms,
                void *workspace, int64_t workspace_size, fgd_report *report) {
    job j = {.tensors = tensors, .n_tensors = n_tensors, .options = options, .write = WRITE_NOTHING,
             .norms = norms, .report = report};
    const int code = fgd_prepare_job(&j, 0, workspace, workspace_size);
    if (!code) fgd_in_parts(j.threads, run_part, &j);
    return code;
}

int fgd_clip(const fgd_tensor *tensors, int64_t n_tensors, const fgd_options *options, void *workspace,
             int64_t workspace_size, fgd_report *report) {
    job j = {.tensors = tensors, .n_tensors = n_tensors, .options = options, .write = WRITE_CLIPPED,
             .report = report};
    const int code = fgd_prepare_job(&j, 0, workspace, workspace_size);
    if (!code) fgd_in_parts(j.threads, run_part, &j);
    return code;
}
