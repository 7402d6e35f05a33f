/* What a compiled set of softmax kernels looks like. */
#ifndef FGD_SOFTMAX_KERNELS_H
#define FGD_SOFTMAX_KERNELS_H

#include "kernels.h"

typedef struct fgd_softmaxes {
    /* y may be x */
    void (*forward)(const fgd_softmax *of, int64_t rows, int64_t cols, const void *x, void *y);
    /* dx may be dy */
    void (*backward)(const fgd_softmax *of, int64_t rows, int64_t cols, const void *y, const void *dy,
                     void *dx);
} fgd_softmaxes;

#endif
