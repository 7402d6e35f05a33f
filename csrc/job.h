/* One call's work: its tensors cut into chunks, its options, and where results go. */
#ifndef FGD_JOB_H
#define FGD_JOB_H

#include "dispatch.h"

/* Elements gathered at a time from memory the kernels cannot use directly. A multiple of FGD_LANES, so
 * that sums take the same order as over contiguous memory. */
#define GATHER 512

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

static inline int64_t fgd_chunks_of(int64_t size) { return size / FGD_CHUNK + (size % FGD_CHUNK != 0); }

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
    fgd_prepare p = {1 / o->grad_scale, o->clip_value, 1};
    return p;
}

/* Fills partial[c] from chunk c; *cursor as in fgd_chunk_at. */
void fgd_measure_chunk(const job *j, int64_t c, int64_t *cursor);

/* From partial results to the report and, unless norms is NULL, the norm of every tensor. */
void fgd_finish_measure(const job *j, double *norms);

#endif
