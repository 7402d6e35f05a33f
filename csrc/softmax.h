/* What softmax is made of: the largest of a row, and the sum of its exponentials. */
#ifndef FGD_SOFTMAX_H
#define FGD_SOFTMAX_H

#include <math.h>
#include <string.h>

#include "elementary.h"

/* -infinity for no elements; NaN are passed over, and turn up in the exponentials. */
INLINE REAL max_of(int64_t n, const REAL *z) {
    REAL lanes[FGD_LANES], largest;
    int64_t i = 0;
    for (int k = 0; k < FGD_LANES; k++) lanes[k] = -(REAL)INFINITY;
    for (; i + FGD_LANES <= n; i += FGD_LANES) {
#pragma omp simd
        for (int k = 0; k < FGD_LANES; k++) lanes[k] = z[i + k] > lanes[k] ? z[i + k] : lanes[k];
    }
    for (int k = 0; i < n; i++, k++) lanes[k] = z[i] > lanes[k] ? z[i] : lanes[k];
    largest = lanes[0];
    for (int k = 1; k < FGD_LANES; k++) largest = lanes[k] > largest ? lanes[k] : largest;
    return largest;
}

/* Sums exp(z - largest), element i in lane i modulo FGD_LANES, and keeps the terms where `kept` is not NULL.
 * The last elements go through a full set of lanes too, filled up with exp(-infinity), which adds 0. */
INLINE double sum_of_exp(int64_t n, const REAL *z, REAL largest, REAL *kept) {
    double sum[FGD_LANES] = {0};
    REAL lanes[FGD_LANES];
    int64_t i = 0;
    for (; i + FGD_LANES <= n; i += FGD_LANES) {
#pragma omp simd
        for (int k = 0; k < FGD_LANES; k++) {
            const REAL e = exp_of(z[i + k] - largest);
            sum[k] += (double)e;
            if (kept) kept[i + k] = e;
        }
    }
    if (i == n) return fgd_fold_lanes(sum);
    for (int k = 0; k < FGD_LANES; k++) lanes[k] = -(REAL)INFINITY;
    memcpy(lanes, z + i, (size_t)(n - i) * sizeof(REAL));
#pragma omp simd
    for (int k = 0; k < FGD_LANES; k++) {
        lanes[k] = exp_of(lanes[k] - largest);
        sum[k] += (double)lanes[k];
    }
    if (kept) memcpy(kept + i, lanes, (size_t)(n - i) * sizeof(REAL));
    return fgd_fold_lanes(sum);
}

#endif
