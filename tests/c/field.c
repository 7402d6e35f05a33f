/* Spreads packed numbers over guarded memory and collects them again. */
#include "field.h"

#include <stdlib.h>
#include <string.h>

enum { GUARD = 64, GUARD_BYTE = 0xA5 };

/* size as a product of two small factors and the rest. */
static void factor(int64_t size, int64_t *shape) {
    for (int d = 0; d < FIELD_DIMS - 1; d++) {
        shape[d] = 1;
        for (int64_t p = 2; p < 100 && shape[d] == 1; p++)
            if (size > 0 && size % p == 0) shape[d] = p;
        size /= shape[d];
    }
    shape[FIELD_DIMS - 1] = size;
}

/* A copy with a constant size is one instruction; one with a variable size is a call. */
static void copy(char *to, int64_t to_stride, const char *from, int64_t from_stride, int64_t n,
                 int64_t item) {
    if (to_stride == item && from_stride == item) memcpy(to, from, (size_t)(n * item));
    else if (item == 8) for (; n > 0; n--, to += to_stride, from += from_stride) memcpy(to, from, 8);
    else for (; n > 0; n--, to += to_stride, from += from_stride) memcpy(to, from, 4);
}

static char *row(const field *f, int64_t i, int64_t j) {
    return f->base + i * f->strides[0] + j * f->strides[1];
}

static void place(field *f, placing how) {
    int64_t stride = f->item;
    for (int n = 0; n < FIELD_DIMS; n++) {
        const int d = how == TRANSPOSED ? n : FIELD_DIMS - 1 - n;
        f->strides[d] = stride;
        stride *= f->shape[d];
    }
    for (int d = 0; d < FIELD_DIMS; d++) {
        if (how == REVERSED) f->strides[d] = -f->strides[d];
        if (how == SPACED) f->strides[d] *= 3;
        if (how == UNEVEN) f->strides[d] = f->strides[d] / f->item * (f->item + 3);
    }
}

field field_of(const void *packed, int64_t size, int64_t item, placing how) {
    field f = {.size = size, .item = item};
    const char *from = packed;
    int64_t below = 0, above = 0;
    factor(size, f.shape);
    place(&f, how);
    for (int d = 0; d < FIELD_DIMS && size > 0; d++) {
        const int64_t reach = (f.shape[d] - 1) * f.strides[d];
        *(reach < 0 ? &below : &above) += reach;
    }
    f.block_size = GUARD - below + above + item + GUARD;
    f.block = malloc((size_t)f.block_size);
    if (!f.block) abort();
    f.base = f.block + GUARD - below + (how == MISALIGNED);
    memset(f.block, GUARD_BYTE, (size_t)f.block_size);
    for (int64_t i = 0; i < f.shape[0]; i++)
        for (int64_t j = 0; j < f.shape[1]; j++, from += f.shape[2] * item)
            copy(row(&f, i, j), f.strides[2], from, item, f.shape[2], item);
    return f;
}

int field_close(field *f, void *packed) {
    const uint64_t guards = 0x0101010101010101u * GUARD_BYTE;
    const int64_t item = f->item, columns = f->shape[2];
    char *to = packed;
    int intact;
    for (int64_t i = 0; i < f->shape[0]; i++) {
        for (int64_t j = 0; j < f->shape[1]; j++, to += columns * item) {
            char *from = row(f, i, j);
            copy(to, item, from, f->strides[2], columns, item);
            if (f->strides[2] == item) memset(from, GUARD_BYTE, (size_t)(columns * item));
            else copy(from, f->strides[2], (const char *)&guards, 0, columns, item);
        }
    }
    /* all bytes alike: each equal to the next */
    intact = (unsigned char)f->block[0] == GUARD_BYTE;
    intact &= memcmp(f->block, f->block + 1, (size_t)f->block_size - 1) == 0;
    free(f->block);
    return intact;
}
