/* Softmax of rows and its logarithm, compiled once per instruction set and precision.
 *
 * Bridle 1990, section 3, with m the largest of a row and s the sum of e^(x_j - m):  y = e^(x - m) / s, or
 * its logarithm  y = (x - m) - log s;  dx = y (dy - sum_j y_j dy_j), or  dx = dy - e^y sum_j dy_j.  Sums are
 * in double over FGD_LANES lanes. fastgd/nn/reference_softmax.py has the same in Python. */
#include "softmax_kernels.h"

#include "softmax.h"

static void forward(const fgd_softmax *of, int64_t rows, int64_t cols, const void *in, void *out) {
    const REAL *x = in;
    REAL *y = out;
    for (int64_t row = 0; row < rows; row++, x += cols, y += cols) {
        const REAL largest = max_of(cols, x);
        if (of->log) {
            /* neither x - m nor -log s is above 0: nothing cancels */
            const REAL below = (REAL)log_of(sum_of_exp(cols, x, largest, NULL));
#pragma omp simd
            for (int64_t i = 0; i < cols; i++) y[i] = (x[i] - largest) - below;
        } else {
            const REAL scale = (REAL)(1 / sum_of_exp(cols, x, largest, y));
#pragma omp simd
            for (int64_t i = 0; i < cols; i++) y[i] *= scale;
        }
    }
}

/* The sum of dy, or of y dy where y is not NULL. */
INLINE double sum_of(int64_t n, const REAL *y, const REAL *dy) {
    double sum[FGD_LANES] = {0};
    int64_t i = 0;
    for (; i + FGD_LANES <= n; i += FGD_LANES) {
#pragma omp simd
        for (int k = 0; k < FGD_LANES; k++) sum[k] += (y ? (double)y[i + k] : 1) * (double)dy[i + k];
    }
    for (int k = 0; i < n; i++, k++) sum[k] += (y ? (double)y[i] : 1) * (double)dy[i];
    return fgd_fold_lanes(sum);
}

static void backward(const fgd_softmax *of, int64_t rows, int64_t cols, const void *output,
                     const void *gradient, void *out) {
    const REAL *y = output, *dy = gradient;
    REAL *dx = out;
    for (int64_t row = 0; row < rows; row++, y += cols, dy += cols, dx += cols) {
        if (of->log) {
            const REAL sum = (REAL)sum_of(cols, NULL, dy);
#pragma omp simd
            for (int64_t i = 0; i < cols; i++) dx[i] = dy[i] - exp_of(y[i]) * sum;
        } else {
            const REAL sum = (REAL)sum_of(cols, y, dy);
#pragma omp simd
            for (int64_t i = 0; i < cols; i++) dx[i] = y[i] * (dy[i] - sum);
        }
    }
}

const fgd_softmaxes FGD_TABLE(fgd_softmaxes) = {forward, backward};
