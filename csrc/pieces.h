/* How the layers' work is cut into pieces for threads, and which sizes there can be. */
#ifndef FGD_PIECES_H
#define FGD_PIECES_H

#include "kernels.h"

static inline int64_t pieces(int64_t size, int64_t step) { return size / step + (size % step != 0); }

static inline int64_t at_most(int64_t size, int64_t limit) { return size < limit ? size : limit; }

/* Rows that together have about FGD_CHUNK elements. */
static inline int64_t rows_of_chunk(int64_t cols) {
    return cols < FGD_CHUNK ? FGD_CHUNK / (cols ? cols : 1) : 1;
}

/* Whether a matrix of these sizes can be: neither negative nor of more bytes than an address has. */
static inline int check_matrix(int64_t rows, int64_t cols) {
    if (rows < 0 || cols < 0) return FGD_ERROR_SIZE;
    return cols && rows > INT64_MAX / 8 / cols ? FGD_ERROR_SIZE : FGD_OK;
}

#endif
