/* The loops over one row of a linear model, compiled once per instruction set and precision.
 *
 * Sums are in double over FGD_LANES lanes, element i of a row in lane i modulo FGD_LANES.
 * fastgd/online/reference.py has the same in Python. */
#include "online_kernels.h"

#include <string.h>

#include "real.h"

/* Adds up TERM, which is of i, for i from 0 to n - 1. */
#define ADD_UP(n, lanes, TERM)                                                  \
    {                                                                           \
        int64_t first = 0;                                                      \
        for (; first + FGD_LANES <= (n); first += FGD_LANES) {                  \
            _Pragma("omp simd")                                                 \
            for (int k = 0; k < FGD_LANES; k++) {                               \
                const int64_t i = first + k;                                    \
                (lanes)[k] += (double)(TERM);                                   \
            }                                                                   \
        }                                                                       \
        for (int64_t i = first; i < (n); i++) (lanes)[i - first] += (double)(TERM); \
    }

static double dense_dot(int64_t n, const void *row, const int32_t *columns UNUSED, const void *weights) {
    const REAL *x = row, *w = weights;
    double lanes[FGD_LANES] = {0};
    ADD_UP(n, lanes, w[i] * x[i])
    return fgd_fold_lanes(lanes);
}

static double sparse_dot(int64_t n, const void *row, const int32_t *columns, const void *weights) {
    const REAL *x = row, *w = weights;
    double lanes[FGD_LANES] = {0};
    ADD_UP(n, lanes, w[columns[i]] * x[i])
    return fgd_fold_lanes(lanes);
}

static double squares(int64_t n, const void *row) {
    const REAL *x = row;
    double lanes[FGD_LANES] = {0};
    ADD_UP(n, lanes, (double)x[i] * (double)x[i])
    return fgd_fold_lanes(lanes);
}

INLINE REAL size_of(REAL x) { return x < 0 ? -x : x; }

static double absolutes(int64_t n, const void *row) {
    const REAL *x = row;
    double lanes[FGD_LANES] = {0};
    ADD_UP(n, lanes, size_of(x[i]))
    return fgd_fold_lanes(lanes);
}

static void dense_add(int64_t n, double step, const void *row, const int32_t *columns UNUSED,
                      void *weights) {
    const REAL *restrict x = row, s = (REAL)step;
    REAL *restrict w = weights;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) w[i] += s * x[i];
}

/* A column may be there twice: element after element. */
static void sparse_add(int64_t n, double step, const void *row, const int32_t *columns, void *weights) {
    const REAL *restrict x = row, s = (REAL)step;
    REAL *restrict w = weights;
    for (int64_t i = 0; i < n; i++) w[columns[i]] += s * x[i];
}

/* One pass for both: w[i] is written before it is measured. */
INLINE void add_and_measure(int64_t n, REAL s, const REAL *restrict x, REAL *restrict w, double *of_squares,
                            double *of_absolutes) {
    double square[FGD_LANES] = {0}, size[FGD_LANES] = {0};
    int64_t i = 0;
    for (; i + FGD_LANES <= n; i += FGD_LANES) {
#pragma omp simd
        for (int k = 0; k < FGD_LANES; k++) {
            const REAL after = w[i + k] + s * x[i + k];
            w[i + k] = after;
            square[k] += (double)after * (double)after;
            if (of_absolutes) size[k] += (double)size_of(after);
        }
    }
    for (int k = 0; i < n; i++, k++) {
        const REAL after = w[i] + s * x[i];
        w[i] = after;
        square[k] += (double)after * (double)after;
        if (of_absolutes) size[k] += (double)size_of(after);
    }
    *of_squares = fgd_fold_lanes(square);
    if (of_absolutes) *of_absolutes = fgd_fold_lanes(size);
}

static void dense_add_measured(int64_t n, double step, const void *row, const int32_t *columns UNUSED,
                               void *weights, double *of_squares, double *of_absolutes) {
    if (of_absolutes) add_and_measure(n, (REAL)step, row, weights, of_squares, of_absolutes);
    else add_and_measure(n, (REAL)step, row, weights, of_squares, NULL);
}

static void sparse_add_measured(int64_t n, double step, const void *row, const int32_t *columns,
                                void *weights, double *of_squares, double *of_absolutes) {
    const REAL *w = weights;
    double square[FGD_LANES] = {0}, size[FGD_LANES] = {0};
    sparse_add(n, step, row, columns, weights);
    ADD_UP(n, square, (double)w[columns[i]] * (double)w[columns[i]])
    *of_squares = fgd_fold_lanes(square);
    if (!of_absolutes) return;
    ADD_UP(n, size, size_of(w[columns[i]]))
    *of_absolutes = fgd_fold_lanes(size);
}

INLINE void truncate_one(double scale, double inverse, double cut, REAL *w, REAL *noted) {
    const double before = (double)*w, q = (double)*noted;
    const double lower = before - (cut + q) * inverse, higher = before + (cut - q) * inverse;
    const double from_above = lower > 0 ? lower : 0, from_below = higher < 0 ? higher : 0;
    *w = (REAL)(before > 0 ? from_above : before < 0 ? from_below : before);
    *noted = (REAL)(q + scale * ((double)*w - before));
}

static void dense_truncate(int64_t n, double scale, double cut, const int32_t *columns UNUSED, void *weights,
                           void *cuts) {
    REAL *restrict w = weights, *restrict noted = cuts;
    const double inverse = 1 / scale;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) truncate_one(scale, inverse, cut, &w[i], &noted[i]);
}

static void sparse_truncate(int64_t n, double scale, double cut, const int32_t *columns, void *weights,
                            void *cuts) {
    REAL *restrict w = weights, *restrict noted = cuts;
    const double inverse = 1 / scale;
    for (int64_t i = 0; i < n; i++) truncate_one(scale, inverse, cut, &w[columns[i]], &noted[columns[i]]);
}

static void multiply(int64_t n, double factor, void *weights) {
    const REAL by = (REAL)factor;
    REAL *restrict w = weights;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) w[i] *= by;
}

/* Infinity and NaN times 0 are NaN. */
static int is_finite(int64_t n, const void *weights) {
    const REAL *w = weights;
    double lanes[FGD_LANES] = {0};
    ADD_UP(n, lanes, w[i] * 0)
    return fgd_fold_lanes(lanes) == 0;
}

const fgd_onlines FGD_TABLE(fgd_onlines) = {
    {dense_dot, dense_add, dense_add_measured, dense_truncate},
    {sparse_dot, sparse_add, sparse_add_measured, sparse_truncate},
    squares,
    absolutes,
    multiply,
    is_finite,
    FGD_DOUBLE ? 1e-9 : 1e-6,
};
