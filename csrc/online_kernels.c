/* The loops over one row of a linear model, compiled once per instruction set and precision.
 *
 * A loop is written once for dense and sparse rows; `columns` is NULL in the former, which the compiler sees.
 * fastgd/online/reference.py has the same in Python. */
#include "online_kernels.h"

#include <stddef.h>

#include "real.h"

/* What is added up: its terms are of the number i of a row. */
typedef enum quantity { PRODUCTS, SQUARES, ABSOLUTES, ZEROS, SQUARES_AFTER_ADDING } quantity;

INLINE REAL *weight_at(REAL *w, const int32_t *columns, int64_t i) {
    return columns ? w + columns[i] : w + i;
}

INLINE double term_of(const quantity what, REAL step, const REAL *x, const int32_t *columns, REAL *w,
                      int64_t i) {
    REAL *at = weight_at(w, columns, i);
    if (what == PRODUCTS) return (double)(*at * x[i]);
    if (what == ABSOLUTES) return (double)(*at < 0 ? -*at : *at);
    if (what == ZEROS) return (double)(*at * 0);
    if (what == SQUARES_AFTER_ADDING) *at += step * x[i];
    return (double)*at * (double)*at;
}

/* In double, number i in lane i modulo FGD_LANES as long as there are FGD_LANES of them, which then become
 * four lanes; the rest in these, four by four; and the last ones, less than four, in order. Of sparse rows,
 * which no registers are filled with at once, all in four lanes. */
INLINE double add_up(const quantity what, int64_t n, REAL step, const REAL *x, const int32_t *columns,
                     REAL *w) {
    int64_t i = 0;
    double four[4] = {0};
    if (!columns && n >= FGD_LANES) {
        double lanes[FGD_LANES];
#pragma omp simd
        for (int k = 0; k < FGD_LANES; k++) lanes[k] = term_of(what, step, x, NULL, w, k);
        for (i = FGD_LANES; i + FGD_LANES <= n; i += FGD_LANES) {
#pragma omp simd
            for (int k = 0; k < FGD_LANES; k++) lanes[k] += term_of(what, step, x, NULL, w, i + k);
        }
        for (int k = 0; k < 4; k++) four[k] = (lanes[k] + lanes[k + 8]) + (lanes[k + 4] + lanes[k + 12]);
    }
    for (; i + 4 <= n; i += 4) {
        if (columns) {
            for (int k = 0; k < 4; k++) four[k] += term_of(what, step, x, columns, w, i + k);
        } else {
#pragma omp simd
            for (int k = 0; k < 4; k++) four[k] += term_of(what, step, x, NULL, w, i + k);
        }
    }
    double sum = (four[0] + four[2]) + (four[1] + four[3]);
    for (; i < n; i++) sum += term_of(what, step, x, columns, w, i);
    return sum;
}

/* A column may be there twice in a sparse row: element after element. */
INLINE void add_to(int64_t n, REAL step, const REAL *restrict x, const int32_t *columns, REAL *restrict w) {
    if (columns) {
        for (int64_t i = 0; i < n; i++) w[columns[i]] += step * x[i];
    } else {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) w[i] += step * x[i];
    }
}

INLINE void truncate_one(double scale, double inverse, double cut, REAL *w, REAL *noted) {
    const double before = (double)*w, q = (double)*noted;
    const double lower = before - (cut + q) * inverse, higher = before + (cut - q) * inverse;
    const double from_above = lower > 0 ? lower : 0, from_below = higher < 0 ? higher : 0;
    *w = (REAL)(before > 0 ? from_above : before < 0 ? from_below : before);
    *noted = (REAL)(q + scale * ((double)*w - before));
}

INLINE void truncate_all(int64_t n, double scale, double cut, const int32_t *columns, REAL *restrict w,
                         REAL *restrict noted) {
    const double inverse = 1 / scale;
    if (columns) {
        for (int64_t i = 0; i < n; i++)
            truncate_one(scale, inverse, cut, &w[columns[i]], &noted[columns[i]]);
    } else {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) truncate_one(scale, inverse, cut, &w[i], &noted[i]);
    }
}

#define KERNELS(kind, AT)                                                       \
    static double kind##_dot(int64_t n, const void *row, const int32_t *columns UNUSED, \
                             const void *weights) {                             \
        return add_up(PRODUCTS, n, 0, row, AT, (REAL *)weights);                \
    }                                                                           \
    static void kind##_add(int64_t n, double step, const void *row, const int32_t *columns UNUSED, \
                           void *weights) {                                     \
        add_to(n, (REAL)step, row, AT, weights);                                \
    }                                                                           \
    static double kind##_add_squares(int64_t n, double step, const void *row, const int32_t *columns UNUSED, \
                                     void *weights) {                           \
        return add_up(SQUARES_AFTER_ADDING, n, (REAL)step, row, AT, weights);   \
    }                                                                           \
    static double kind##_squares(int64_t n, const int32_t *columns UNUSED, const void *weights) { \
        return add_up(SQUARES, n, 0, NULL, AT, (REAL *)weights);                \
    }                                                                           \
    static double kind##_absolutes(int64_t n, const int32_t *columns UNUSED, const void *weights) { \
        return add_up(ABSOLUTES, n, 0, NULL, AT, (REAL *)weights);              \
    }                                                                           \
    static void kind##_truncate(int64_t n, double scale, double cut, const int32_t *columns UNUSED, \
                                void *weights, void *cuts) {                    \
        truncate_all(n, scale, cut, AT, weights, cuts);                         \
    }
KERNELS(dense, NULL)
KERNELS(sparse, columns)

static void multiply(int64_t n, double factor, void *weights) {
    const REAL by = (REAL)factor;
    REAL *restrict w = weights;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) w[i] *= by;
}

/* Infinity and NaN times 0 are NaN. */
static int is_finite(int64_t n, const void *weights) {
    return add_up(ZEROS, n, 0, NULL, NULL, (REAL *)weights) == 0;
}

#define ROW_KERNELS(kind) \
    {kind##_dot, kind##_add, kind##_add_squares, kind##_squares, kind##_absolutes, kind##_truncate}

const fgd_onlines FGD_TABLE(fgd_onlines) = {
    ROW_KERNELS(dense),
    ROW_KERNELS(sparse),
    multiply,
    is_finite,
    FGD_DOUBLE ? 1e-9 : 1e-6,
};
