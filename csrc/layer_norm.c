/* Normalisation of rows, forward and backward: checks everything, then runs kernels over threads. */
#include "dispatch.h"

/* Rows whose sums for weight and bias are taken together. It depends on the shape alone, so that gradients do
 * not depend on the number of threads. */
static int64_t rows_of_block(int64_t cols) { return cols < FGD_CHUNK ? 16 * FGD_CHUNK / cols : 16; }

static int64_t blocks_of(int64_t rows, int64_t cols) {
    const int64_t step = rows_of_block(cols);
    return rows / step + (rows % step != 0);
}

static int check(int dtype, const fgd_layer_norm *of, int64_t rows, int64_t cols) {
    if (dtype != FGD_F32 && dtype != FGD_F64) return FGD_ERROR_DTYPE;
    if (!of) return FGD_ERROR_NULL;
    if (!(of->eps >= 0)) return FGD_ERROR_OPTION;
    return rows < 0 || cols < 1 || rows > INT64_MAX / 64 / cols ? FGD_ERROR_SIZE : FGD_OK;
}

typedef struct piece {
    int64_t first, n, offset; /* rows, and the first one's bytes */
} piece;

static piece piece_at(int64_t block, int64_t rows, int64_t cols, int64_t item) {
    const int64_t step = rows_of_block(cols), first = block * step;
    return (piece){first, rows - first < step ? rows - first : step, first * cols * item};
}

int fgd_layer_norm_forward(int dtype, const fgd_layer_norm *of, int64_t rows, int64_t cols, const void *x,
                           const void *weight, const void *bias, double *stats, void *y) {
    const int code = check(dtype, of, rows, cols);
    if (code) return code;
    if ((rows && (!x || !y || !stats)) || (bias && !weight)) return FGD_ERROR_NULL;
    const fgd_layer_norms *kernels = fgd_layer_norms_for(dtype);
    const int64_t item = fgd_item_size(dtype), blocks = blocks_of(rows, cols);
#pragma omp parallel for num_threads(fgd_threads_for(rows * cols)) schedule(static) if (blocks > 1)
    for (int64_t block = 0; block < blocks; block++) {
        const piece p = piece_at(block, rows, cols, item);
        kernels->forward(of, p.n, cols, (const char *)x + p.offset, weight, bias, stats + 2 * p.first,
                         (char *)y + p.offset);
    }
    return FGD_OK;
}

int64_t fgd_layer_norm_scratch(int64_t rows, int64_t cols) {
    const int taken = rows > 0 && cols > 0 && rows <= INT64_MAX / 64 / cols;
    return taken ? 2 * blocks_of(rows, cols) * cols : 0;
}

int fgd_layer_norm_backward(int dtype, const fgd_layer_norm *of, int64_t rows, int64_t cols, const void *x,
                            const void *weight, const double *stats, const void *dy, void *dx, void *dweight,
                            void *dbias, double *scratch) {
    const int code = check(dtype, of, rows, cols), sums = dweight || dbias;
    if (code) return code;
    if (rows && (!x || !stats || !dy || (sums && !scratch))) return FGD_ERROR_NULL;
    const fgd_layer_norms *kernels = fgd_layer_norms_for(dtype);
    const int64_t item = fgd_item_size(dtype), blocks = blocks_of(rows, cols);
#pragma omp parallel for num_threads(fgd_threads_for(rows * cols)) schedule(static) if (blocks > 1)
    for (int64_t block = 0; block < blocks; block++) {
        const piece p = piece_at(block, rows, cols, item);
        kernels->backward(of, p.n, cols, (const char *)x + p.offset, weight, stats + 2 * p.first,
                          (const char *)dy + p.offset, dx ? (char *)dx + p.offset : NULL,
                          sums ? scratch + 2 * block * cols : NULL);
    }
    if (sums) kernels->add_up(blocks, cols, scratch, dweight, dbias);
    return FGD_OK;
}
