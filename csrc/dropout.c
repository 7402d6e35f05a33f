/* Dropout, forward and backward: the same random mask for both, drawn anew for every forward pass. */
#include <math.h>
#include <stddef.h>

#include "dispatch.h"
#include "mixed.h"
#include "pieces.h"

static int check(int dtype, const fgd_dropout *of, int64_t n) {
    if (dtype != FGD_F32 && dtype != FGD_F64) return FGD_ERROR_DTYPE;
    if (!of) return FGD_ERROR_NULL;
    if (!(of->p >= 0 && of->p <= 1)) return FGD_ERROR_OPTION;
    return check_matrix(1, n);
}

/* A chunk's random bits do not cross a multiple of 2^32. */
static void drop(int dtype, const fgd_dropout *of, int64_t n, uint64_t stream, uint64_t counter,
                 const char *x, char *y) {
    const fgd_dropouts *kernels = fgd_dropouts_for(dtype);
    const uint64_t key = fgd_mixed(fgd_mixed(fgd_mixed(stream) + of->place) + counter);
    const uint64_t least = (uint64_t)ceil(of->p * 0x1p32);
    const double scale = of->p < 1 ? 1 / (1 - of->p) : 0;
    const int64_t blocks = pieces(n, FGD_CHUNK), item = fgd_item_size(dtype);
#pragma omp parallel for num_threads(fgd_threads_for(n)) schedule(static) if (blocks > 1)
    for (int64_t i = 0; i < blocks; i++) {
        const int64_t first = i * FGD_CHUNK;
        const fgd_noise noise = {key, first, 1};
        kernels->drop(at_most(n - first, FGD_CHUNK), &noise, least, scale, x + first * item,
                      y + first * item);
    }
}

int fgd_dropout_forward(int dtype, const fgd_dropout *of, int64_t n, const void *x, const uint64_t *stream,
                        uint64_t *counter, void *y) {
    const int code = check(dtype, of, n);
    if (code) return code;
    if (!stream || !counter || (n && (!x || !y))) return FGD_ERROR_NULL;
    *counter += 1;
    drop(dtype, of, n, *stream, *counter, x, y);
    return FGD_OK;
}

int fgd_dropout_backward(int dtype, const fgd_dropout *of, int64_t n, const void *dy, const uint64_t *stream,
                         const uint64_t *counter, void *dx) {
    const int code = check(dtype, of, n);
    if (code) return code;
    if (!stream || !counter || (n && (!dy || !dx))) return FGD_ERROR_NULL;
    drop(dtype, of, n, *stream, *counter, dy, dx);
    return FGD_OK;
}
