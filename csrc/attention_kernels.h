/* What a compiled set of kernels for attention looks like; softmax_kernels.h has the rest. */
#ifndef FGD_ATTENTION_KERNELS_H
#define FGD_ATTENTION_KERNELS_H

#include "kernels.h"

typedef struct fgd_attentions {
    /* out = by in, rows of `cols` elements that lie in_stride and out_stride elements apart; out may be in */
    void (*scale)(int64_t rows, int64_t cols, double by, const void *in, int64_t in_stride, void *out,
                  int64_t out_stride);
} fgd_attentions;

#endif
