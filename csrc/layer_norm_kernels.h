/* What a compiled set of kernels that normalise rows looks like. */
#ifndef FGD_LAYER_NORM_KERNELS_H
#define FGD_LAYER_NORM_KERNELS_H

#include "kernels.h"

typedef struct fgd_layer_norms {
    /* y, and for each row its mean and one over its deviation in stats [rows, 2]; y may be x */
    void (*forward)(const fgd_layer_norm *of, int64_t rows, int64_t cols, const void *x, const void *weight,
                    const void *bias, double *stats, void *y);
    /* dx unless it is NULL, which may be dy; sums [2, cols], unless it is NULL, receives the sums over the
     * rows, in order, for weight and bias */
    void (*backward)(const fgd_layer_norm *of, int64_t rows, int64_t cols, const void *x, const void *weight,
                     const double *stats, const void *dy, void *dx, double *sums);
    /* dweight and dbias, each unless it is NULL, from the sums [blocks, 2, cols] of all blocks of rows, which
     * are added to those of the first */
    void (*add_up)(int64_t blocks, int64_t cols, double *sums, void *dweight, void *dbias);
} fgd_layer_norms;

#endif
