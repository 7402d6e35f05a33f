/* Normalisation of channels, forward and backward: checks everything, then runs kernels over threads. */
#include "batch_norm_kernels.h"

#include <stddef.h>

#include "dispatch.h"
#include "pieces.h"

static int check(int dtype, const fgd_batch_norm *of, fgd_channels s) {
    if (dtype != FGD_F32 && dtype != FGD_F64) return FGD_ERROR_DTYPE;
    if (!of) return FGD_ERROR_NULL;
    if (!(of->eps >= 0) || !(of->momentum <= 1)) return FGD_ERROR_OPTION;
    if (s.batch < 1 || s.channels < 1 || s.length < 1 || s.channels > INT64_MAX / 8 / s.length)
        return FGD_ERROR_SIZE;
    return check_matrix(s.batch, s.channels * s.length);
}

static int threads_for(fgd_channels s) { return fgd_threads_for(s.batch * s.channels * s.length); }

/* Channels that lie in columns are worked on together, by cache lines, those with a run of numbers each by
 * itself. The sums are each channel's own, whatever their number. */
static int64_t step_of(fgd_channels s) {
    return s.length > 1 ? 1 : at_most(16 * pieces(pieces(s.channels, threads_for(s)), 16), FGD_CHANNELS);
}

int fgd_batch_norm_forward(int dtype, const fgd_batch_norm *of, int64_t batch, int64_t channels,
                           int64_t length, const void *x, const void *weight, const void *bias, void *mean,
                           void *var, int64_t *count, double *stats, void *y) {
    const fgd_channels s = {batch, channels, length};
    const int code = check(dtype, of, s);
    if (code) return code;
    if (!x || !y || !stats || (bias && !weight) || !mean != !var) return FGD_ERROR_NULL;
    if (of->running ? !mean : mean && !count) return FGD_ERROR_NULL;
    const int moves = !of->running && mean;
    if (moves && batch * length < 2) return FGD_ERROR_SIZE;
    if (moves) *count += 1;
    const double momentum = moves && of->momentum < 0 ? 1 / (double)*count : of->momentum;
    const fgd_batch_norms *kernels = fgd_batch_norms_for(dtype);
    const int64_t step = step_of(s), tiles = pieces(channels, step);
#pragma omp parallel for num_threads(threads_for(s)) schedule(static) if (tiles > 1)
    for (int64_t i = 0; i < tiles; i++)
        kernels->forward(of, s, i * step, (int)at_most(channels - i * step, step), momentum, x, weight, bias,
                         mean, var, stats, y);
    return FGD_OK;
}

int fgd_batch_norm_backward(int dtype, const fgd_batch_norm *of, int64_t batch, int64_t channels,
                            int64_t length, const void *x, const void *weight, const double *stats,
                            const void *dy, void *dx, void *dweight, void *dbias) {
    const fgd_channels s = {batch, channels, length};
    const int code = check(dtype, of, s);
    if (code) return code;
    if (!x || !stats || !dy) return FGD_ERROR_NULL;
    const fgd_batch_norms *kernels = fgd_batch_norms_for(dtype);
    const int64_t step = step_of(s), tiles = pieces(channels, step);
#pragma omp parallel for num_threads(threads_for(s)) schedule(static) if (tiles > 1)
    for (int64_t i = 0; i < tiles; i++)
        kernels->backward(of, s, i * step, (int)at_most(channels - i * step, step), x, weight, stats, dy, dx,
                          dweight, dbias);
    return FGD_OK;
}
