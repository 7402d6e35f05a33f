/* An array as a test wants it: numbers spread over memory in one of several ways, among guard bytes. */
#ifndef FIELD_H
#define FIELD_H

#include <stdint.h>

typedef enum placing {
    CONTIGUOUS,
    MISALIGNED, /* contiguous, one byte off */
    REVERSED,   /* negative strides */
    SPACED,     /* every third element */
    TRANSPOSED, /* first dimension fastest */
    UNEVEN,     /* three bytes between elements, which are therefore misaligned */
    PLACINGS
} placing;

enum { FIELD_DIMS = 3 };

typedef struct field {
    int64_t size, item, shape[FIELD_DIMS], strides[FIELD_DIMS];
    char *block, *base; /* base is element 0 */
    int64_t block_size;
} field;

field field_of(const void *packed, int64_t size, int64_t item, placing how);

/* Packs the elements again and frees the field. 0 when a byte that belongs to no element has changed. */
int field_close(field *f, void *packed);

#endif
