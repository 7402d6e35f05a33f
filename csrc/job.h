/* One call's work: its tensors cut into chunks, its options, and where results go. */
#ifndef FGD_JOB_H
#define FGD_JOB_H

#include <math.h>

#include "dispatch.h"

enum { WRITE_NOTHING, WRITE_UPDATE, WRITE_CLIPPED };

/* What is summed over a tensor before its rule is applied: squares of the parameter, squares of the other
 * vector of its trust ratio, and elements whose step descends. */
enum { SUM_PARAM, SUM_OTHER, SUM_DESCENDING, SUMS };

/* What one tensor's elements are multiplied by. */
typedef struct factors {
    double coef;  /* the gradient, by a norm of its own: scopes other than FGD_SCOPE_ALL */
    double trust; /* the trust ratio */
    double scale; /* the steps that a cautious group keeps */
} factors;

/* Gradients that are being brought in while others are measured. */
typedef struct arrivals {
    fgd_fetch fetch;
    void *context;
    int64_t ready; /* tensors whose gradient is there, from the first on; -1: they do not come */
    int64_t next;  /* the first chunk that no thread measures yet */
} arrivals;

typedef struct job {
    const fgd_group *groups;
    const fgd_tensor *tensors;
    int64_t n_tensors, n_chunks;
    const fgd_options *options;
    int write, measure, trial, threads; /* trial: some group needs SUMS */
    int streams;                        /* state is left out of the caches */
    int measured;                       /* partial is filled already */
    arrivals *arrivals;                 /* NULL: all gradients are there */
    int factored, orthogonal;           /* some group's rule is */
    int64_t *first_chunk;               /* n_tensors + 1 */
    int64_t *first_unit;                /* n_tensors + 1 */
    int64_t *first_moment;              /* n_tensors + 1: words of 8 bytes; only when factored */
    double *partial;                    /* n_chunks */
    double *sums;                       /* n_chunks * SUMS */
    factors *factors;                   /* n_tensors */
    double *unit_coef;                  /* one for each unit */
    double *moments;                    /* second moments of rows and columns */
    char *matrices;                     /* room for one orthogonal step at a time */
    double *norms; /* n_tensors, or NULL */
    fgd_report *report;
} job;

/* A piece of work: up to FGD_CHUNK elements of one tensor. */
typedef struct chunk {
    const fgd_tensor *tensor;
    int64_t offset, n;
} chunk;

static inline int64_t fgd_chunks_of(int64_t size) { return size / FGD_CHUNK + (size % FGD_CHUNK != 0); }

/* Whether a group of this rule has this slot under its switches. */
static inline int fgd_uses_slot(const fgd_rule *rule, const fgd_group *group, int slot) {
    const int needs = rule->slot_switch[slot];
    return needs < 0 || (group->switches >> needs & 1);
}

static inline int64_t fgd_units_of(const fgd_tensor *t) {
    return t->size <= 0 ? 0 : t->unit > 0 ? t->size / t->unit : 1;
}

/* Finds chunk c; *tensor is a cursor that is near when chunks are asked for one after the other. */
static inline chunk fgd_chunk_at(const job *j, int64_t c, int64_t *tensor) {
    while (j->first_chunk[*tensor] > c) --*tensor;
    while (j->first_chunk[*tensor + 1] <= c) ++*tensor;
    const fgd_tensor *t = &j->tensors[*tensor];
    const int64_t offset = (c - j->first_chunk[*tensor]) * FGD_CHUNK, left = t->size - offset;
    chunk piece = {t, offset, left < FGD_CHUNK ? left : FGD_CHUNK};
    return piece;
}

/* What a gradient goes through up to the point where the norm is taken. */
static inline fgd_prepare fgd_before_norm(const fgd_options *o) {
    fgd_prepare p = {1 / o->grad_scale, o->clip_value, 1, 0};
    return p;
}

/* What the gradients of a tensor are computed in. */
static inline int fgd_gradient_real(const job *j, const fgd_tensor *t) {
    return fgd_real_of(j->write == WRITE_UPDATE ? t->dtype : t->grad_dtype);
}

/* NaN when one of them is, whatever their order. */
static inline double fgd_smaller(double a, double b) { return b < a || isnan(b) ? b : a; }

static inline int fgd_clips_units(const job *j) { return !isinf(j->options->clip_unit); }

/* check.c: checks all arguments and lays the job out in the workspace. */
int fgd_prepare_job(job *j, int64_t n_groups, void *workspace, int64_t workspace_size);

/* measure.c: fills partial[c] from chunk c; *cursor as in fgd_chunk_at. */
void fgd_measure_chunk(const job *j, int64_t c, int64_t *cursor);

/* measure.c: from partial results to the report, the coefficients and, unless norms is NULL, the norm of
 * every tensor. Without a measurement, from options->total_norm to the coefficient. */
void fgd_finish_measure(const job *j);

#endif
