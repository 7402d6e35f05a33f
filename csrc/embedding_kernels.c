/* The gradient of an embedding's table, compiled once per instruction set and precision. */
#include "embedding_kernels.h"

#include <string.h>

#include "real.h"

static void add_rows(const fgd_embedding *of, int64_t n, int64_t rows, int64_t dim, int64_t first,
                     int64_t cols, const int64_t *indices, const void *gradient, void *out) {
    const REAL *dy = (const REAL *)gradient + first;
    REAL *dweight = (REAL *)out + first;
    for (int64_t row = 0; row < rows; row++) memset(dweight + row * dim, 0, (size_t)cols * sizeof(REAL));
    for (int64_t at = 0; at < n; at++) {
        const REAL *restrict from = dy + at * dim;
        REAL *restrict to = dweight + indices[at] * dim;
        if (indices[at] == of->padding) continue;
#pragma omp simd
        for (int64_t i = 0; i < cols; i++) to[i] += from[i];
    }
}

const fgd_embeddings FGD_TABLE(fgd_embeddings) = {add_rows};
