/* One operand of a tensor, loaded into the precision computed in and stored from it, a piece at a time. */
#ifndef FGD_VIEW_H
#define FGD_VIEW_H

#include "dispatch.h"
#include "operand.h"

/* Elements of a piece. More would take fewer calls and let less of the memory's time pass behind the
 * arithmetic: 512 and 1024 were 15 to 40 % slower. A multiple of FGD_LANES, so that sums take the same
 * order as over one long run, and of FGD_BLOCK. */
enum { PIECE = FGD_BLOCK, PIECE_BYTES = PIECE * 8 };

static inline int64_t fgd_pieces_of(int64_t n) { return n / PIECE + (n % PIECE != 0); }

typedef struct view {
    fgd_operand where;
    float *scales;   /* of FGD_CODES */
    int dtype, real; /* stored in, computed in */
    int is_unsigned;
    int direct;      /* contiguous and aligned */
    int in_place;    /* kernels may work on its very memory */
} view;

/* Rows of a layout's strides; those after the slots' are the residual's, the average's and the copy's. */
enum { PARAM_ROW = 0, GRAD_ROW = 1, SLOT_ROW = 2 };

static inline view fgd_view_of(const void *base, int dtype, int real, const fgd_layout *layout, int row) {
    view v = {.where = fgd_operand_of(base, layout, row, fgd_item_size(dtype)), .dtype = dtype, .real = real};
    v.direct = base != NULL && fgd_is_direct(&v.where);
    v.in_place = v.direct && dtype == real;
    return v;
}

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
void *fgd_load(const view *v, int64_t first, int64_t n, void *buffer, int keep);

/* Stores what fgd_load gave, or any other n numbers. noise NULL: rounded to nearest. */
void fgd_store(const view *v, int64_t first, int64_t n, void *real, const fgd_noise *noise);

#endif
