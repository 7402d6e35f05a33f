/* What a compiled set of embedding kernels looks like. */
#ifndef FGD_EMBEDDING_KERNELS_H
#define FGD_EMBEDDING_KERNELS_H

#include "kernels.h"

typedef struct fgd_embeddings {
    /* In `cols` columns from `first` on of dweight [rows, dim], the sum of the rows of dy [n, dim] of each
     * index, in their order. */
    void (*add_rows)(const fgd_embedding *of, int64_t n, int64_t rows, int64_t dim, int64_t first,
                     int64_t cols, const int64_t *indices, const void *dy, void *dweight);
} fgd_embeddings;

#endif
