/* The loops that normalise rows, compiled once per instruction set and precision.
 *
 * Layer normalisation, Ba, Kiros and Hinton 2016, equation 3:  y = w (x - m) / s + b  with a row's mean m and
 * deviation s = sqrt(mean (x - m)^2 + eps); RMS normalisation, Zhang and Sennrich 2019, equation 4, is the
 * same with m = 0. With h = (x - m) / s and g = w dy,  dx = (g - mean g - h mean(g h)) / s;  dw and db are
 * the sums of dy h and of dy. Sums of a row are in double over FGD_LANES lanes; m is kept in two parts, so
 * that x - m is right where m is much larger than s. fastgd/nn/reference_layer_norm.py has the same in
 * Python. */
#include "layer_norm_kernels.h"

#include <math.h>
#include <string.h>

#include "real.h"

/* Rows whose columns are summed together, so that the sums are read and written once for them; with more of
 * them they and the sums of 1024 columns would not stay in the first-level cache. */
#define GROUP 2

typedef struct row_stats {
    REAL high, low, scale; /* the mean in two parts, and 1 / s */
} row_stats;

INLINE row_stats stats_of(const double *stats) {
    const REAL high = (REAL)stats[0];
    return (row_stats){high, (REAL)(stats[0] - (double)high), (REAL)stats[1]};
}

INLINE REAL normalised(REAL x, const row_stats s) { return ((x - s.high) - s.low) * s.scale; }

INLINE double mean_of(int64_t n, const REAL *x) {
    double sum[FGD_LANES] = {0};
    int64_t i = 0;
    for (; i + FGD_LANES <= n; i += FGD_LANES) {
#pragma omp simd
        for (int k = 0; k < FGD_LANES; k++) sum[k] += (double)x[i + k];
    }
    for (int k = 0; i < n; i++, k++) sum[k] += (double)x[i];
    return fgd_fold_lanes(sum) / (double)n;
}

INLINE double variance_of(int64_t n, const REAL *x, double mean) {
    double sum[FGD_LANES] = {0};
    int64_t i = 0;
    for (; i + FGD_LANES <= n; i += FGD_LANES) {
#pragma omp simd
        for (int k = 0; k < FGD_LANES; k++) {
            const double d = (double)x[i + k] - mean;
            sum[k] += d * d;
        }
    }
    for (int k = 0; i < n; i++, k++) {
        const double d = (double)x[i] - mean;
        sum[k] += d * d;
    }
    return fgd_fold_lanes(sum) / (double)n;
}

static void forward(const fgd_layer_norm *of, int64_t rows, int64_t cols, const void *in, const void *weight,
                    const void *bias, double *stats, void *out) {
    const REAL *x = in, *w = weight, *b = bias;
    REAL *y = out;
    for (int64_t row = 0; row < rows; row++, x += cols, y += cols, stats += 2) {
        stats[0] = of->centered ? mean_of(cols, x) : 0;
        stats[1] = 1 / sqrt(variance_of(cols, x, stats[0]) + of->eps);
        const row_stats s = stats_of(stats);
        if (w && b) {
#pragma omp simd
            for (int64_t i = 0; i < cols; i++) y[i] = normalised(x[i], s) * w[i] + b[i];
        } else if (w) {
#pragma omp simd
            for (int64_t i = 0; i < cols; i++) y[i] = normalised(x[i], s) * w[i];
        } else {
#pragma omp simd
            for (int64_t i = 0; i < cols; i++) y[i] = normalised(x[i], s);
        }
    }
}

/* Sums g and g h over a row. */
INLINE void sum_row(int64_t n, const REAL *x, const REAL *w, const row_stats s, const REAL *dy, double *of_g,
                    double *of_gh) {
    double g_lanes[FGD_LANES] = {0}, gh_lanes[FGD_LANES] = {0};
    int64_t i = 0;
    for (; i + FGD_LANES <= n; i += FGD_LANES) {
#pragma omp simd
        for (int k = 0; k < FGD_LANES; k++) {
            const REAL g = w ? dy[i + k] * w[i + k] : dy[i + k];
            g_lanes[k] += (double)g;
            gh_lanes[k] += (double)(g * normalised(x[i + k], s));
        }
    }
    for (int k = 0; i < n; i++, k++) {
        const REAL g = w ? dy[i] * w[i] : dy[i];
        g_lanes[k] += (double)g;
        gh_lanes[k] += (double)(g * normalised(x[i], s));
    }
    *of_g = fgd_fold_lanes(g_lanes);
    *of_gh = fgd_fold_lanes(gh_lanes);
}

/* Adds dy h and dy of some rows, put together one after the other, to the columns' sums in double. */
INLINE void sum_columns(int64_t n, const int rows, const REAL *x, const double *stats, const REAL *dy,
                        double *sums) {
    double *restrict of_w = sums, *restrict of_b = sums + n;
    row_stats s[GROUP];
    for (int r = 0; r < rows; r++) s[r] = stats_of(stats + 2 * r);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        REAL w = dy[i] * normalised(x[i], s[0]), b = dy[i];
        for (int r = 1; r < rows; r++) {
            w += dy[r * n + i] * normalised(x[r * n + i], s[r]);
            b += dy[r * n + i];
        }
        of_w[i] += (double)w;
        of_b[i] += (double)b;
    }
}

/* dx of a row. */
INLINE void row_gradient(int64_t n, const REAL *x, const REAL *w, const row_stats s, const REAL *dy,
                         REAL g_mean, REAL gh_mean, REAL *dx) {
    if (w) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            dx[i] = ((dy[i] * w[i] - g_mean) - normalised(x[i], s) * gh_mean) * s.scale;
    } else {
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            dx[i] = ((dy[i] - g_mean) - normalised(x[i], s) * gh_mean) * s.scale;
    }
}

INLINE void group(const fgd_layer_norm *of, const int rows, int64_t n, const REAL *x, const REAL *w,
                  const double *stats, const REAL *dy, REAL *dx, double *sums) {
    double g[GROUP], gh[GROUP];
    for (int r = 0; r < rows && dx; r++) {
        const row_stats s = stats_of(stats + 2 * r);
        if (w) sum_row(n, x + r * n, w, s, dy + r * n, &g[r], &gh[r]);
        else sum_row(n, x + r * n, NULL, s, dy + r * n, &g[r], &gh[r]);
    }
    if (sums) sum_columns(n, rows, x, stats, dy, sums);
    for (int r = 0; r < rows && dx; r++)
        row_gradient(n, x + r * n, w, stats_of(stats + 2 * r), dy + r * n,
                     of->centered ? (REAL)(g[r] / (double)n) : 0, (REAL)(gh[r] / (double)n), dx + r * n);
}

static void backward(const fgd_layer_norm *of, int64_t rows, int64_t cols, const void *in, const void *weight,
                     const double *stats, const void *gradient, void *out, double *sums) {
    const REAL *x = in, *w = weight, *dy = gradient;
    REAL *dx = out;
    if (sums) memset(sums, 0, (size_t)(2 * cols) * sizeof(double));
    for (int64_t row = 0, n; row < rows; row += n) {
        const int64_t at = row * cols;
        REAL *to = dx ? dx + at : NULL;
        n = rows - row >= GROUP ? GROUP : 1;
        if (n == GROUP) group(of, GROUP, cols, x + at, w, stats + 2 * row, dy + at, to, sums);
        else group(of, 1, cols, x + at, w, stats + 2 * row, dy + at, to, sums);
    }
}

static void add_up(int64_t blocks, int64_t cols, double *sums, void *dweight, void *dbias) {
    REAL *outputs[] = {dweight, dbias};
    for (int64_t block = 1; block < blocks; block++) {
        const double *restrict more = sums + 2 * block * cols;
        double *restrict total = sums;
#pragma omp simd
        for (int64_t i = 0; i < 2 * cols; i++) total[i] += more[i];
    }
    for (int which = 0; which < 2; which++)
        for (int64_t i = 0; i < cols && outputs[which]; i++)
            outputs[which][i] = blocks ? (REAL)sums[which * cols + i] : 0;
}

const fgd_layer_norms FGD_TABLE(fgd_layer_norms) = {forward, backward, add_up};
