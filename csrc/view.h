/* One operand of a tensor, loaded into the precision computed in and stored from it, a piece at a time. */
#ifndef FGD_VIEW_H
#define FGD_VIEW_H

#include "dispatch.h"
#include "operand.h"

/* A piece fills this much of the first-level cache for every operand. A multiple of FGD_LANES and of
 * FGD_BLOCK elements in either precision, so that sums take the same order as over one long run. */
enum { PIECE_BYTES = 4096 };

typedef struct view {
    fgd_operand where;
    uint8_t *exponents; /* of FGD_CODES */
    int dtype, real;    /* stored in, computed in */
    int is_unsigned;
    int direct;         /* contiguous and aligned */
    int in_place;       /* kernels may work on its very memory */
} view;

static inline view fgd_view_of(const void *base, int dtype, int real, const fgd_layout *layout, int row) {
    view v = {.where = fgd_operand_of(base, layout, row, fgd_item_size(dtype)), .dtype = dtype, .real = real};
    v.direct = base != NULL && fgd_is_direct(&v.where);
    v.in_place = v.direct && dtype == real;
    return v;
}

static inline int64_t fgd_piece_size(int real) { return PIECE_BYTES / fgd_item_size(real); }

/* The stored numbers as one run: the memory itself, or `packed` with a copy of it. */
static inline void *fgd_run_in(const view *v, int64_t first, int64_t n, void *packed) {
    if (v->direct) return v->where.base + first * v->where.item;
    fgd_gather(&v->where, first, n, packed);
    return packed;
}

/* Where a run of new stored numbers may be written; fgd_run_done then brings it where it belongs. */
static inline void *fgd_run_out(const view *v, int64_t first, void *packed) {
    return v->direct ? v->where.base + first * v->where.item : packed;
}

static inline void fgd_run_done(const view *v, int64_t first, int64_t n, void *packed) {
    if (!v->direct) fgd_scatter(&v->where, first, n, packed);
}

/* Numbers [first, first + n) in the precision computed in: in `buffer`, or where they lie when they can be
 * worked on there and need not be kept. */
static inline void *fgd_load(const view *v, int64_t first, int64_t n, void *buffer, int keep) {
    char packed[PIECE_BYTES] __attribute__((aligned(64)));
    const fgd_storage *s = fgd_storage_for(v->real);
    if (v->in_place && !keep) return v->where.base + first * v->where.item;
    if (v->dtype == v->real) {
        void *run = fgd_run_in(v, first, n, buffer);
        return run == buffer ? run : memcpy(buffer, run, (size_t)(n * v->where.item));
    }
    const void *run = fgd_run_in(v, first, n, packed);
    if (v->dtype == FGD_CODES)
        s->load_codes(n, run, v->exponents + first / FGD_BLOCK, buffer, v->is_unsigned);
    else s->load[v->dtype](n, run, buffer);
    return buffer;
}

/* Stores what fgd_load gave, or any other n numbers. noise NULL: rounded to nearest. */
static inline void fgd_store(const view *v, int64_t first, int64_t n, void *real, const fgd_noise *noise) {
    char packed[PIECE_BYTES] __attribute__((aligned(64)));
    const fgd_storage *s = fgd_storage_for(v->real);
    if (v->dtype == v->real) {
        void *run = fgd_run_out(v, first, real);
        if (run != real) memcpy(run, real, (size_t)(n * v->where.item));
        fgd_run_done(v, first, n, real);
        return;
    }
    void *run = fgd_run_out(v, first, packed);
    if (v->dtype == FGD_CODES)
        s->store_codes(n, real, run, v->exponents + first / FGD_BLOCK, v->is_unsigned, noise);
    else s->store[v->dtype](n, real, run, v->is_unsigned, noise);
    fgd_run_done(v, first, n, packed);
}

#endif
