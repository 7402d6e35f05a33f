/* What a compiled set of kernels over one row and the weights of a linear model looks like. */
#ifndef FGD_ONLINE_KERNELS_H
#define FGD_ONLINE_KERNELS_H

#include "kernels.h"

/* For rows that are dense (columns is NULL) or sparse: n numbers of a row, which belong to these columns. */
typedef struct fgd_online_row_kernels {
    double (*dot)(int64_t n, const void *row, const int32_t *columns, const void *weights);
    void (*add)(int64_t n, double step, const void *row, const int32_t *columns, void *weights);
    /* add, and the sum of squares of the weights that it changes */
    double (*add_squares)(int64_t n, double step, const void *row, const int32_t *columns, void *weights);
    /* sums over these weights */
    double (*squares)(int64_t n, const int32_t *columns, const void *weights);
    double (*absolutes)(int64_t n, const int32_t *columns, const void *weights);
    /* Tsuruoka, Tsujii and Ananiadou 2009, figure 2: each of these weights moves towards 0 by what `cut` is
     * above what cuts has noted of it before; weights are `scale` times what stands there. */
    void (*truncate)(int64_t n, double scale, double cut, const int32_t *columns, void *weights, void *cuts);
} fgd_online_row_kernels;

typedef struct fgd_onlines {
    fgd_online_row_kernels dense, sparse;
    void (*multiply)(int64_t n, double factor, void *weights);
    int (*is_finite)(int64_t n, const void *weights);
    double least_scale; /* below it weights are multiplied by their scale */
} fgd_onlines;

#endif
