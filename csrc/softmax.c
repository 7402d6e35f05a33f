/* Softmax of rows, forward and backward: checks everything, then runs kernels over threads. */
#include <stddef.h>

#include "dispatch.h"
#include "pieces.h"

static int check(int dtype, const fgd_softmax *of, int64_t rows, int64_t cols) {
    if (dtype != FGD_F32 && dtype != FGD_F64) return FGD_ERROR_DTYPE;
    if (!of) return FGD_ERROR_NULL;
    return check_matrix(rows, cols);
}

int fgd_softmax_forward(int dtype, const fgd_softmax *of, int64_t rows, int64_t cols, const void *x,
                        void *y) {
    const int code = check(dtype, of, rows, cols);
    if (code) return code;
    if (rows == 0 || cols == 0) return FGD_OK;
    if (!x || !y) return FGD_ERROR_NULL;
    const fgd_softmaxes *kernels = fgd_softmaxes_for(dtype);
    const int64_t step = rows_of_chunk(cols), blocks = pieces(rows, step);
    const int64_t bytes = cols * fgd_item_size(dtype);
#pragma omp parallel for num_threads(fgd_threads_for(rows * cols)) schedule(static) if (blocks > 1)
    for (int64_t i = 0; i < blocks; i++) {
        const int64_t at = i * step * bytes;
        kernels->forward(of, at_most(rows - i * step, step), cols, (const char *)x + at, (char *)y + at);
    }
    return FGD_OK;
}

int fgd_softmax_backward(int dtype, const fgd_softmax *of, int64_t rows, int64_t cols, const void *y,
                         const void *dy, void *dx) {
    const int code = check(dtype, of, rows, cols);
    if (code) return code;
    if (rows == 0 || cols == 0) return FGD_OK;
    if (!y || !dy || !dx) return FGD_ERROR_NULL;
    const fgd_softmaxes *kernels = fgd_softmaxes_for(dtype);
    const int64_t step = rows_of_chunk(cols), blocks = pieces(rows, step);
    const int64_t bytes = cols * fgd_item_size(dtype);
#pragma omp parallel for num_threads(fgd_threads_for(rows * cols)) schedule(static) if (blocks > 1)
    for (int64_t i = 0; i < blocks; i++) {
        const int64_t at = i * step * bytes;
        kernels->backward(of, at_most(rows - i * step, step), cols, (const char *)y + at,
                          (const char *)dy + at, (char *)dx + at);
    }
    return FGD_OK;
}
