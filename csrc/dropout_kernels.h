/* What a compiled set of dropout kernels looks like. */
#ifndef FGD_DROPOUT_KERNELS_H
#define FGD_DROPOUT_KERNELS_H

#include "kernels.h"
#include "storage_kernels.h"

typedef struct fgd_dropouts {
    /* y = x scale where the element's 32 random bits are at least `least`, 0 to 2^32, and else 0; y may be
     * x */
    void (*drop)(int64_t n, const fgd_noise *noise, uint64_t least, double scale, const void *x, void *y);
} fgd_dropouts;

#endif
