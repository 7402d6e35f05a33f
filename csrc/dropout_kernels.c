/* Elements set to 0 at random, compiled once per instruction set and precision. */
#include "dropout_kernels.h"

#include "noise.h"

static void drop(int64_t n, const fgd_noise *noise, uint64_t least, double scale, const void *in, void *out) {
    const keys k = keys_of(noise);
    const uint32_t bound = (uint32_t)least;
    const REAL *x = in, by = (REAL)scale;
    REAL *y = out;
    if (least > UINT32_MAX) {
        memset(y, 0, (size_t)n * sizeof(REAL));
        return;
    }
#pragma omp simd
    for (uint32_t i = 0; i < (uint32_t)n; i++) y[i] = random32(k, i) >= bound ? x[i] * by : 0;
}

const fgd_dropouts FGD_TABLE(fgd_dropouts) = {drop};
