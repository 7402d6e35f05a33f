/* Attention's own loop, compiled once per instruction set and precision: queries, and their gradients, are
 * multiplied by 1 / sqrt(width) (Vaswani et al. 2017, equation 1), which scores then need not be. */
#include "attention_kernels.h"

#include "real.h"

static void scale(int64_t rows, int64_t cols, double by, const void *in, int64_t in_stride, void *out,
                  int64_t out_stride) {
    const REAL factor = (REAL)by, *x = in;
    REAL *y = out;
    for (int64_t row = 0; row < rows; row++, x += in_stride, y += out_stride) {
#pragma omp simd
        for (int64_t i = 0; i < cols; i++) y[i] = x[i] * factor;
    }
}

const fgd_attentions FGD_TABLE(fgd_attentions) = {scale};
