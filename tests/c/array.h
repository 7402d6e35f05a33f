/* An array in memory of its own, with its elements in any order, direction and distance. */
#ifndef ARRAY_H
#define ARRAY_H

#include <stdint.h>

enum { MOST_DIMS = 5 };

/* How elements lie in memory; all 0: in C order without gaps. Masks have a bit for each dimension. */
typedef struct spread {
    int turn;     /* how far the dimensions are turned round: 0 for C order, 1 for the first one fastest */
    int reversed; /* mask: strides are negative */
    int gap;      /* bytes between neighbouring elements */
    int offset;   /* bytes past an aligned address */
    int overlap;  /* mask: elements lie over each other, `slide` bytes apart */
    int slide;
    int64_t lone; /* if not 0, the stride of dimensions of one element, where it means nothing */
} spread;

typedef struct array {
    int64_t size, item; /* elements, bytes of each */
    int ndim;
    int64_t shape[MOST_DIMS], strides[MOST_DIMS], block_size;
    char *block, *base; /* base is element 0 */
} array;

/* Under the address sanitizer its memory ends where its elements do; elsewhere bytes follow that array_close
 * looks at. */
array array_of(int64_t item, int ndim, const int64_t *shape, const spread *how);

/* Between the array and the same elements in C order without gaps. */
void array_put(const array *a, const void *packed);
void array_get(const array *a, void *packed);

/* Packs the elements and frees the array. 0 when a byte that belongs to no element has changed. */
int array_close(array *a, void *packed);

#endif
