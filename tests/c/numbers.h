/* Numbers in every format that the ABI stores them in: bits to begin with, and NaNs made alike at the end. */
#ifndef NUMBERS_H
#define NUMBERS_H

#include <string.h>

#include "fastgd.h"

/* What an array may hold beside an fgd_dtype: the scales of FGD_CODES, and the residual of FGD_SPLIT. */
enum { BLOCK_SCALES = FGD_CODES + 1, LOW_BITS };

typedef enum filling {
    TAME,   /* from 1/256 to 1, of both signs where there are; a few zeros */
    WILD,   /* of every magnitude that the format has */
    SPOILT, /* tame, with NaN or infinity in some gradients */
    RAW,    /* any bits */
    FILLINGS
} filling;

/* The lowest bytes of a number. Copies with a constant size are one instruction, others are calls. */
static inline void put_bits(void *to, uint64_t bits, int64_t bytes) {
    switch (bytes) {
        case 1: memcpy(to, &bits, 1); break;
        case 2: memcpy(to, &bits, 2); break;
        case 4: memcpy(to, &bits, 4); break;
        case 8: memcpy(to, &bits, 8); break;
    }
}

static inline uint64_t get_bits(const void *from, int64_t bytes) {
    uint64_t bits = 0;
    switch (bytes) {
        case 1: memcpy(&bits, from, 1); break;
        case 2: memcpy(&bits, from, 2); break;
        case 4: memcpy(&bits, from, 4); break;
        case 8: memcpy(&bits, from, 8); break;
    }
    return bits;
}

int is_float(int dtype);
int64_t bytes_of(int kind); /* of an element; 0 where there is no such kind */

/* The bits of an element, from 64 random ones. */
uint64_t number_of(int kind, filling how, int is_unsigned, uint64_t random);

/* NaN or an infinity. */
uint64_t spoilt_number(int dtype, uint64_t random);

/* The bits of a float32 whose rounding to this dtype of 16 bits is a normal number, or 0. */
uint32_t whole_of(int dtype, uint16_t rounded, uint64_t random);

/* Whether the element is finite, in the precision that numbers of dtype `computed` are computed in. */
int is_finite_in(int computed, int kind, const void *element);

/* Gives all NaNs the same bits. */
void make_nans_alike(int kind, int64_t n, void *elements);

#endif
