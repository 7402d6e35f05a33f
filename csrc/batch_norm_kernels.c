/* The loops that normalise channels, compiled once per instruction set and precision.
 *
 * Batch normalisation, Ioffe and Szegedy 2015, algorithm 1:  y = w h + b  with  h = (x - m) / s,  where a
 * channel's mean m and deviation s = sqrt(mean (x - m)^2 + eps) are taken over all its N numbers in the
 * batch. Section 3:  dw = sum dy h,  db = sum dy,  dx = w / s (dy - db / N - h dw / N); where m and s are
 * running statistics, and so constant,  dx = w / s dy.
 *
 * Sums are in double: over the batch in order where a channel has one number in each example, which lie in
 * columns; else each example's run of numbers over FGD_LANES lanes, which go on from example to example. m is
 * kept in two parts, so that x - m is right where m is much larger than s.
 * fastgd/nn/reference_batch_norm.py has the same in Python. */
#include "batch_norm_kernels.h"

#include <math.h>
#include <string.h>

#include "real.h"

/* What stays the same over the numbers of each channel. */
typedef struct factors {
    REAL high[FGD_CHANNELS], low[FGD_CHANNELS], scale[FGD_CHANNELS]; /* the mean in two parts, and 1 / s */
    REAL w[FGD_CHANNELS], b[FGD_CHANNELS];
    REAL g[FGD_CHANNELS], gh[FGD_CHANNELS], by[FGD_CHANNELS]; /* db / N, dw / N and w / s */
} factors;

INLINE REAL normalised(REAL x, const factors *f, int c) {
    return ((x - f->high[c]) - f->low[c]) * f->scale[c];
}

static void set_factors(int n, const double *stats, const REAL *w, const REAL *b, factors *f) {
    for (int c = 0; c < n; c++) {
        const REAL high = (REAL)stats[2 * c];
        f->high[c] = high;
        f->low[c] = (REAL)(stats[2 * c] - (double)high);
        f->scale[c] = (REAL)stats[2 * c + 1];
        f->w[c] = w ? w[c] : 1;
        f->b[c] = b ? b[c] : 0;
        f->by[c] = f->scale[c] * f->w[c];
    }
}

/* ---- Channels in columns: x [batch, step], of which n columns ------------------------------------------ */

/* Sums (x - about), or its squares, over each column. */
INLINE void sum_columns(int64_t batch, int64_t step, int n, const REAL *x, const double *about,
                        const int squared, double *sum) {
    memset(sum, 0, (size_t)n * sizeof *sum);
    for (int64_t row = 0; row < batch; row++, x += step) {
#pragma omp simd
        for (int c = 0; c < n; c++) {
            const double d = (double)x[c] - about[c];
            sum[c] += squared ? d * d : d;
        }
    }
}

INLINE void columns_forward(int64_t batch, int64_t step, int n, const REAL *x, const factors *f, REAL *y) {
    for (int64_t row = 0; row < batch; row++, x += step, y += step) {
#pragma omp simd
        for (int c = 0; c < n; c++) y[c] = normalised(x[c], f, c) * f->w[c] + f->b[c];
    }
}

/* Sums dy and dy h over each column. */
INLINE void sum_column_gradients(int64_t batch, int64_t step, int n, const REAL *x, const REAL *dy,
                                 const factors *f, double *of_b, double *of_w) {
    memset(of_b, 0, (size_t)n * sizeof *of_b);
    memset(of_w, 0, (size_t)n * sizeof *of_w);
    for (int64_t row = 0; row < batch; row++, x += step, dy += step) {
#pragma omp simd
        for (int c = 0; c < n; c++) {
            of_b[c] += (double)dy[c];
            of_w[c] += (double)dy[c] * (double)normalised(x[c], f, c);
        }
    }
}

INLINE void columns_backward(int64_t batch, int64_t step, int n, const REAL *x, const REAL *dy,
                             const factors *f, REAL *dx) {
    for (int64_t row = 0; row < batch; row++, x += step, dy += step, dx += step) {
#pragma omp simd
        for (int c = 0; c < n; c++)
            dx[c] = ((dy[c] - f->g[c]) - normalised(x[c], f, c) * f->gh[c]) * f->by[c];
    }
}

/* ---- A channel in runs of `length` numbers, `step` apart ---------------------------------------------- */

INLINE double sum_runs(int64_t batch, int64_t step, int64_t length, const REAL *x, double about,
                       const int squared) {
    double sum[FGD_LANES] = {0};
    for (int64_t row = 0, i; row < batch; row++, x += step) {
        for (i = 0; i + FGD_LANES <= length; i += FGD_LANES) {
#pragma omp simd
            for (int k = 0; k < FGD_LANES; k++) {
                const double d = (double)x[i + k] - about;
                sum[k] += squared ? d * d : d;
            }
        }
        for (int k = 0; i < length; i++, k++) {
            const double d = (double)x[i] - about;
            sum[k] += squared ? d * d : d;
        }
    }
    return fgd_fold_lanes(sum);
}

INLINE void runs_forward(int64_t batch, int64_t step, int64_t length, int c, const REAL *x, const factors *f,
                         REAL *y) {
    for (int64_t row = 0; row < batch; row++, x += step, y += step) {
#pragma omp simd
        for (int64_t i = 0; i < length; i++) y[i] = normalised(x[i], f, c) * f->w[c] + f->b[c];
    }
}

INLINE void sum_run_gradients(int64_t batch, int64_t step, int64_t length, int c, const REAL *x,
                              const REAL *dy, const factors *f, double *of_b, double *of_w) {
    double b[FGD_LANES] = {0}, w[FGD_LANES] = {0};
    for (int64_t row = 0, i; row < batch; row++, x += step, dy += step) {
        for (i = 0; i + FGD_LANES <= length; i += FGD_LANES) {
#pragma omp simd
            for (int k = 0; k < FGD_LANES; k++) {
                b[k] += (double)dy[i + k];
                w[k] += (double)dy[i + k] * (double)normalised(x[i + k], f, c);
            }
        }
        for (int k = 0; i < length; i++, k++) {
            b[k] += (double)dy[i];
            w[k] += (double)dy[i] * (double)normalised(x[i], f, c);
        }
    }
    *of_b = fgd_fold_lanes(b);
    *of_w = fgd_fold_lanes(w);
}

INLINE void runs_backward(int64_t batch, int64_t step, int64_t length, int c, const REAL *x, const REAL *dy,
                          const factors *f, REAL *dx) {
    for (int64_t row = 0; row < batch; row++, x += step, dy += step, dx += step) {
#pragma omp simd
        for (int64_t i = 0; i < length; i++)
            dx[i] = ((dy[i] - f->g[c]) - normalised(x[i], f, c) * f->gh[c]) * f->by[c];
    }
}

/* ---- Both ------------------------------------------------------------------------------------------ */

/* x points to the first of n channels. */
static void sum_channels(fgd_channels s, int n, const REAL *x, const double *about, int squared,
                         double *sum) {
    const int64_t step = s.channels * s.length;
    if (s.length == 1 && squared) sum_columns(s.batch, step, n, x, about, 1, sum);
    else if (s.length == 1) sum_columns(s.batch, step, n, x, about, 0, sum);
    else
        for (int c = 0; c < n; c++) {
            const REAL *run = x + c * s.length;
            sum[c] = squared ? sum_runs(s.batch, step, s.length, run, about[c], 1)
                             : sum_runs(s.batch, step, s.length, run, about[c], 0);
        }
}

static void batch_stats(const fgd_batch_norm *of, fgd_channels s, int n, double momentum, const REAL *x,
                        REAL *mean, REAL *var, double *stats) {
    const double numbers = (double)(s.batch * s.length), correction = numbers / (numbers - 1);
    double about[FGD_CHANNELS] = {0}, sum[FGD_CHANNELS];
    sum_channels(s, n, x, about, 0, sum);
    for (int c = 0; c < n; c++) about[c] = sum[c] / numbers;
    sum_channels(s, n, x, about, 1, sum);
    for (int c = 0; c < n; c++) {
        const double variance = sum[c] / numbers;
        stats[2 * c] = about[c];
        stats[2 * c + 1] = 1 / sqrt(variance + of->eps);
        if (!mean) continue;
        mean[c] = (REAL)((1 - momentum) * (double)mean[c] + momentum * about[c]);
        var[c] = (REAL)((1 - momentum) * (double)var[c] + momentum * (variance * correction));
    }
}

static void forward(const fgd_batch_norm *of, fgd_channels s, int64_t first, int n, double momentum,
                    const void *in, const void *weight, const void *bias, void *running_mean,
                    void *running_var, double *stats, void *out) {
    const int64_t step = s.channels * s.length;
    const REAL *x = (const REAL *)in + first * s.length, *w = weight, *b = bias;
    REAL *mean = running_mean, *var = running_var, *y = (REAL *)out + first * s.length;
    factors f;
    stats += 2 * first;
    if (of->running) {
        for (int c = 0; c < n; c++) {
            stats[2 * c] = (double)mean[first + c];
            stats[2 * c + 1] = 1 / sqrt((double)var[first + c] + of->eps);
        }
    } else {
        batch_stats(of, s, n, momentum, x, mean ? mean + first : NULL, var ? var + first : NULL, stats);
    }
    set_factors(n, stats, w ? w + first : NULL, b ? b + first : NULL, &f);
    if (s.length == 1) columns_forward(s.batch, step, n, x, &f, y);
    else
        for (int c = 0; c < n; c++)
            runs_forward(s.batch, step, s.length, c, x + c * s.length, &f, y + c * s.length);
}

static void backward(const fgd_batch_norm *of, fgd_channels s, int64_t first, int n, const void *in,
                     const void *weight, const double *stats, const void *gradient, void *out, void *dweight,
                     void *dbias) {
    const int64_t step = s.channels * s.length, at = first * s.length;
    const double numbers = (double)(s.batch * s.length);
    const REAL *x = (const REAL *)in + at, *dy = (const REAL *)gradient + at, *w = weight;
    REAL *dx = out ? (REAL *)out + at : NULL, *dw = dweight, *db = dbias;
    double of_b[FGD_CHANNELS], of_w[FGD_CHANNELS];
    factors f;
    set_factors(n, stats + 2 * first, w ? w + first : NULL, NULL, &f);
    if (s.length == 1) sum_column_gradients(s.batch, step, n, x, dy, &f, of_b, of_w);
    else
        for (int c = 0; c < n; c++) {
            const int64_t run = c * s.length;
            sum_run_gradients(s.batch, step, s.length, c, x + run, dy + run, &f, &of_b[c], &of_w[c]);
        }
    for (int c = 0; c < n; c++) {
        if (dw) dw[first + c] = (REAL)of_w[c];
        if (db) db[first + c] = (REAL)of_b[c];
        f.g[c] = of->running ? 0 : (REAL)(of_b[c] / numbers);
        f.gh[c] = of->running ? 0 : (REAL)(of_w[c] / numbers);
    }
    if (!dx) return;
    if (s.length == 1) columns_backward(s.batch, step, n, x, dy, &f, dx);
    else
        for (int c = 0; c < n; c++) {
            const int64_t run = c * s.length;
            runs_backward(s.batch, step, s.length, c, x + run, dy + run, &f, dx + run);
        }
}

const fgd_batch_norms FGD_TABLE(fgd_batch_norms) = {forward, backward};
