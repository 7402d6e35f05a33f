/* What a compiled set of kernels for recurrent layers looks like. */
#ifndef FGD_RECURRENT_KERNELS_H
#define FGD_RECURRENT_KERNELS_H

#include "kernels.h"
#include "recurrent.def"

enum {
#define FGD_CELL_INDEX(name, gates, shared, has_cell) FGD_CELL_##name,
    FGD_CELLS(FGD_CELL_INDEX)
#undef FGD_CELL_INDEX
    FGD_CELL_COUNT
};

/* One step of some rows. Arrays are [rows, hidden] unless a shape is given. Gates that are not shared have
 * two columns of numbers: columns = gates + (gates - shared). */
typedef struct fgd_cell_step {
    int64_t rows, hidden;
    /* [rows, columns, hidden]. Forward: from x W_ih' in the first `gates` columns to what backward needs.
     * Backward: from that to the loss's derivatives with respect to what the state gave, in the first `gates`
     * columns, and to what the input gave where that is not shared. */
    void *gates;
    const void *h_before, *c_before;
    const void *product;           /* forward: h_before W_hh' [rows, gates, hidden] */
    const void *bias_ih, *bias_hh; /* forward: [gates, hidden] */
    void *h, *c;                   /* forward: the new state; backward: the same c */
    const void *dh, *dy;           /* backward: of the new h, from the next step's gates and the output */
    void *carry; /* backward: what else the next step leaves to this one, and this one to that before */
} fgd_cell_step;

typedef struct fgd_recurrents {
    void (*forward[FGD_CELL_COUNT])(const fgd_cell_step *at);
    void (*backward[FGD_CELL_COUNT])(const fgd_cell_step *at);
    /* out [cols, rows] from rows [from, to) of in [rows, cols] */
    void (*transpose)(int64_t from, int64_t to, int64_t rows, int64_t cols, const void *in, void *out);
    void (*add)(int64_t n, const void *x, void *to);
    /* of at most FGD_COLUMNS columns, in double from the first row to the last */
    void (*sum_columns)(int64_t rows, int64_t cols, int64_t stride, const void *in, void *out);
} fgd_recurrents;

#endif
