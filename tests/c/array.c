/* Spreads elements over memory and collects them again. */
#include "array.h"

#include <stdlib.h>
#include <string.h>

/* Bytes before and after an array that must not change; none where the address sanitizer sees to that. */
#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define ARRAY_GUARD 0
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define ARRAY_GUARD 0
#endif
#ifndef ARRAY_GUARD
#define ARRAY_GUARD 64
#endif

enum { GUARD = ARRAY_GUARD, UNTOUCHED = 0xA5 };

static void set_strides(array *a, const spread *how) {
    int64_t stride = a->item + how->gap;
    for (int n = 0; n < a->ndim; n++) {
        const int d = (2 * a->ndim - 1 - n + how->turn % a->ndim) % a->ndim;
        a->strides[d] = stride;
        stride *= a->shape[d] > 0 ? a->shape[d] : 1;
    }
    for (int d = 0; d < a->ndim; d++) {
        if (how->overlap >> d & 1) a->strides[d] = how->slide;
        if (how->reversed >> d & 1) a->strides[d] = -a->strides[d];
        if (how->lone && a->shape[d] == 1) a->strides[d] = how->lone;
    }
}

array array_of(int64_t item, int ndim, const int64_t *shape, const spread *how) {
    array a = {.size = 1, .item = item, .ndim = ndim};
    int64_t below = 0, above = 0;
    for (int d = 0; d < ndim; d++) a.size *= a.shape[d] = shape[d];
    if (ndim) set_strides(&a, how);
    for (int d = 0; d < ndim && a.size > 0; d++) {
        const int64_t reach = shape[d] > 1 ? (shape[d] - 1) * a.strides[d] : 0;
        *(reach < 0 ? &below : &above) += reach;
    }
    /* one byte is the least that has an end */
    a.block_size = GUARD + how->offset - below + above + (a.size > 0 ? item : 1) + GUARD;
    a.block = malloc((size_t)a.block_size);
    if (!a.block) abort();
    memset(a.block, UNTOUCHED, (size_t)a.block_size);
    a.base = a.size > 0 ? a.block + GUARD + how->offset - below : a.block + a.block_size;
    return a;
}

/* Copies with a constant size are one instruction; with a variable size they are calls. */
static void move(char *to, int64_t to_stride, const char *from, int64_t from_stride, int64_t n,
                 int64_t item) {
#define MOVE(bytes) for (; n > 0; n--, to += to_stride, from += from_stride) memcpy(to, from, bytes)
    switch (item) {
        case 1: MOVE(1); break;
        case 2: MOVE(2); break;
        case 4: MOVE(4); break;
        case 8: MOVE(8); break;
    }
}

typedef enum direction { IN, OUT, WIPE } direction;

static void walk(const array *a, char *packed, direction way) {
    const uint64_t untouched = 0x0101010101010101u * UNTOUCHED;
    const int last = a->ndim - 1;
    const int64_t run = a->ndim ? a->shape[last] : 1, stride = run > 1 ? a->strides[last] : 0;
    for (int64_t i = 0; i < a->size; i += run) {
        char *at = a->base;
        for (int64_t d = last - 1, rest = i / run; d >= 0; rest /= a->shape[d--])
            if (a->shape[d] > 1) at += rest % a->shape[d] * a->strides[d];
        if (way == IN) move(at, stride, packed + i * a->item, a->item, run, a->item);
        if (way == OUT) move(packed + i * a->item, a->item, at, stride, run, a->item);
        if (way == WIPE) move(at, stride, (const char *)&untouched, 0, run, a->item);
    }
}

void array_put(const array *a, const void *packed) { walk(a, (char *)(uintptr_t)packed, IN); }

void array_get(const array *a, void *packed) { walk(a, packed, OUT); }

int array_close(array *a, void *packed) {
    array_get(a, packed);
    walk(a, NULL, WIPE);
    /* all bytes alike: each equal to the next */
    int intact = (unsigned char)a->block[0] == UNTOUCHED;
    intact &= memcmp(a->block, a->block + 1, (size_t)a->block_size - 1) == 0;
    free(a->block);
    return intact;
}
