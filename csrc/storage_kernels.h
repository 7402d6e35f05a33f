/* What a compiled set of storage kernels looks like: between stored numbers and those computed with. */
#ifndef FGD_STORAGE_KERNELS_H
#define FGD_STORAGE_KERNELS_H

#include <stddef.h>

#include "fastgd.h"

/* Where random bits come from: a key for the step and the array, the index of the run's first element, and
 * which half of the 32 bits is taken. Elements are counted in 64 bits; a run does not cross a multiple of
 * 2^32. */
typedef struct fgd_noise {
    uint64_t key;
    int64_t first;
    int lower;
} fgd_noise;

/* Elements from this one on to the next multiple of 2^32. */
static inline int64_t fgd_noise_left(int64_t first) { return (INT64_C(1) << 32) - (first & 0xffffffff); }

enum { FGD_FLOATS = FGD_F16 + 1 }; /* dtypes that hold a number each by itself */

/* Runs of n numbers; `real` arrays are of the precision computed in. noise NULL: rounded to nearest. What is
 * never negative (is_unsigned) is not rounded to 0 unless it is 0. Runs of codes begin at a block. */
typedef struct fgd_storage {
    void (*load[FGD_FLOATS])(int64_t n, const void *stored, void *real);
    void (*store[FGD_FLOATS])(int64_t n, const void *real, void *stored, int is_unsigned,
                              const fgd_noise *noise);
    void (*load_codes)(int64_t n, const uint8_t *codes, const float *scales, void *real,
                       int is_unsigned);
    void (*store_codes)(int64_t n, const void *real, uint8_t *codes, float *scales, int is_unsigned,
                        const fgd_noise *noise);
    void (*load_split)(int64_t n, const void *high, const void *low, void *real);
    void (*store_split)(int64_t n, const void *real, void *high, void *low);

    /* out = a + b, out = a - b; real = stored where real does not round to it (nearest) */
    void (*add)(int64_t n, const void *a, const void *b, void *out);
    void (*subtract)(int64_t n, const void *a, const void *b, void *out);
    void (*follow)(int64_t n, const void *stored, const void *rounded, void *real);
    /* average = average + weight * (real - average) */
    void (*average)(int64_t n, void *average, const void *real, double weight);
    /* change = 0 where it does not descend, its sign being that of the gradient or either being 0; NaN stays.
     * How many do descend */
    int64_t (*descending)(int64_t n, void *change, const void *grad);
    /* real = decay * real + scale * change */
    void (*apply)(int64_t n, void *real, const void *change, double decay, double scale);
} fgd_storage;

#endif
