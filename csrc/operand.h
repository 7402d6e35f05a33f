/* Reads and writes runs of one operand of a tensor, whatever its strides and alignment. */
#ifndef FGD_OPERAND_H
#define FGD_OPERAND_H

#include <stdint.h>
#include <string.h>

#include "fastgd.h"

/* Where one operand lies: base, and its own row of strides when the tensor has a layout. */
typedef struct fgd_operand {
    char *base;
    const fgd_layout *layout;
    const int64_t *strides; /* NULL with no layout and for a scalar */
    int64_t item;           /* bytes an element takes: a power of two */
} fgd_operand;

static inline fgd_operand fgd_operand_of(const void *base, const fgd_layout *layout, int row, int64_t item) {
    const int has_strides = layout && layout->ndim > 0;
    const int64_t *strides = has_strides ? layout->strides + (int64_t)row * layout->ndim : NULL;
    fgd_operand o = {(char *)(uintptr_t)base, layout, strides, item};
    return o;
}

/* Whether kernels may work on the operand's memory directly: in C order without gaps, and aligned. */
static inline int fgd_is_direct(const fgd_operand *o) {
    int64_t expected = o->item;
    if ((uintptr_t)o->base & (uintptr_t)(o->item - 1)) return 0;
    for (int d = o->layout ? o->layout->ndim - 1 : -1; d >= 0; d--) {
        if (o->layout->shape[d] != 1 && o->strides[d] != expected) return 0;
        expected *= o->layout->shape[d];
    }
    return 1;
}

/* Copies n elements from element `offset` on between the operand and a packed buffer. Addresses are unsigned
 * numbers, which may wrap: the stride of a dimension of one element is added and taken off again, and can be
 * anything. */
static inline __attribute__((always_inline)) void fgd_walk(const fgd_operand *o, int64_t offset, int64_t n,
                                                           char *packed, size_t item, int to_packed) {
    int64_t index[FGD_MAX_DIMS], shape1 = n, stride1 = o->item;
    const int64_t *shape = &shape1, *strides = &stride1;
    int last = 0;
    uintptr_t at = (uintptr_t)o->base;
    if (o->layout && o->layout->ndim > 0) {
        shape = o->layout->shape, strides = o->strides, last = o->layout->ndim - 1;
        for (int d = last; d >= 0; d--) {
            index[d] = offset % shape[d];
            offset /= shape[d];
            at += (uintptr_t)(index[d] * strides[d]);
        }
    } else {
        index[0] = 0;
        at += (uintptr_t)(offset * o->item);
    }
    while (n > 0) {
        int64_t run = shape[last] - index[last];
        run = run < n ? run : n;
        for (int64_t i = 0; i < run; i++, at += (uintptr_t)strides[last], packed += item) {
            if (to_packed) memcpy(packed, (const char *)at, item);
            else memcpy((char *)at, packed, item);
        }
        n -= run;
        if (n == 0) break;
        /* carry: the last dimension starts again and the ones before it count on */
        at -= (uintptr_t)shape[last] * (uintptr_t)strides[last];
        index[last] = 0;
        for (int d = last - 1; d >= 0; d--) {
            at += (uintptr_t)strides[d];
            if (++index[d] < shape[d]) break;
            at -= (uintptr_t)shape[d] * (uintptr_t)strides[d];
            index[d] = 0;
        }
    }
}

/* With the size of an element as a constant the copies become plain moves. */
static inline void fgd_copy(const fgd_operand *o, int64_t offset, int64_t n, void *packed, int to_packed) {
    switch (o->item) {
        case 1: fgd_walk(o, offset, n, packed, 1, to_packed); break;
        case 2: fgd_walk(o, offset, n, packed, 2, to_packed); break;
        case 4: fgd_walk(o, offset, n, packed, 4, to_packed); break;
        case 8: fgd_walk(o, offset, n, packed, 8, to_packed); break;
    }
}

static inline void fgd_gather(const fgd_operand *o, int64_t offset, int64_t n, void *packed) {
    fgd_copy(o, offset, n, packed, 1);
}

static inline void fgd_scatter(const fgd_operand *o, int64_t offset, int64_t n, void *packed) {
    fgd_copy(o, offset, n, packed, 0);
}

#endif
