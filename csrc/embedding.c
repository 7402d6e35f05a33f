/* Rows of a table by their indices, forward and backward: checks everything, then works over threads. */
#include <stddef.h>
#include <string.h>

#include "dispatch.h"
#include "pieces.h"

/* Columns are cut for threads at multiples of this, so that no two write one cache line. */
#define STEP 16

static int check(int dtype, const fgd_embedding *of, int64_t n, int64_t rows, int64_t dim,
                 const int64_t *indices) {
    if (dtype != FGD_F32 && dtype != FGD_F64) return FGD_ERROR_DTYPE;
    if (!of || (n > 0 && !indices)) return FGD_ERROR_NULL;
    if (check_matrix(n, dim) || check_matrix(rows, dim)) return FGD_ERROR_SIZE;
    for (int64_t i = 0; i < n; i++)
        if (indices[i] < 0 || indices[i] >= rows) return FGD_ERROR_LABEL;
    return FGD_OK;
}

int fgd_embedding_forward(int dtype, const fgd_embedding *of, int64_t n, int64_t rows, int64_t dim,
                          const int64_t *indices, const void *weight, void *y) {
    const int code = check(dtype, of, n, rows, dim, indices);
    if (code) return code;
    if (n && dim && (!weight || !y)) return FGD_ERROR_NULL;
    const int64_t step = rows_of_chunk(dim), blocks = pieces(n, step), bytes = dim * fgd_item_size(dtype);
#pragma omp parallel for num_threads(fgd_threads_for(n * dim)) schedule(static) if (blocks > 1)
    for (int64_t block = 0; block < blocks; block++)
        for (int64_t i = block * step; i < at_most(n, (block + 1) * step); i++)
            memcpy((char *)y + i * bytes, (const char *)weight + indices[i] * bytes, (size_t)bytes);
    return FGD_OK;
}

typedef struct job {
    const fgd_embeddings *kernels;
    const fgd_embedding *of;
    int64_t n, rows, dim;
    const int64_t *indices;
    const void *dy;
    void *dweight;
} job;

/* Each column is one thread's, so that its sums have the same order whatever their number. */
static void backward_part(const void *what, int part, int parts) {
    const job *j = what;
    const int64_t steps = pieces(j->dim, STEP);
    const int64_t first = steps * part / parts * STEP;
    const int64_t end = at_most(steps * (part + 1) / parts * STEP, j->dim);
    if (first < end)
        j->kernels->add_rows(j->of, j->n, j->rows, j->dim, first, end - first, j->indices, j->dy, j->dweight);
}

int fgd_embedding_backward(int dtype, const fgd_embedding *of, int64_t n, int64_t rows, int64_t dim,
                           const int64_t *indices, const void *dy, void *dweight) {
    const int code = check(dtype, of, n, rows, dim, indices);
    if (code) return code;
    if (dim && ((n && !dy) || (rows && !dweight))) return FGD_ERROR_NULL;
    const job j = {fgd_embeddings_for(dtype), of, n, rows, dim, indices, dy, dweight};
    fgd_in_parts(dim > STEP ? fgd_threads_for((n + rows) * dim) : 1, backward_part, &j);
    return FGD_OK;
}
