/* What a compiled set of kernels that normalise channels looks like. */
#ifndef FGD_BATCH_NORM_KERNELS_H
#define FGD_BATCH_NORM_KERNELS_H

#include "kernels.h"

/* The most channels of one call. */
#define FGD_CHANNELS 64

/* x [batch, channels, length]. */
typedef struct fgd_channels {
    int64_t batch, channels, length;
} fgd_channels;

/* Both work on n channels from `first` on, FGD_CHANNELS at most. */
typedef struct fgd_batch_norms {
    /* y, which may be x, and stats. mean and var, unless they are NULL or what x is normalised by, move by
     * the part `momentum` to those of the batch. */
    void (*forward)(const fgd_batch_norm *of, fgd_channels x_of, int64_t first, int n, double momentum,
                    const void *x, const void *weight, const void *bias, void *mean, void *var,
                    double *stats, void *y);
    /* dx, which may be dy, dweight and dbias, each unless it is NULL */
    void (*backward)(const fgd_batch_norm *of, fgd_channels x_of, int64_t first, int n, const void *x,
                     const void *weight, const double *stats, const void *dy, void *dx, void *dweight,
                     void *dbias);
} fgd_batch_norms;

#endif
