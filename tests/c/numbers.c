/* Bit patterns of stored numbers. */
#include "numbers.h"

#include <math.h>
#include <string.h>

#include "storage.h"

static const struct {
    int bits, fraction;
} formats[] = {[FGD_F32] = {32, 23}, [FGD_F64] = {64, 52}, [FGD_BF16] = {16, 7}, [FGD_F16] = {16, 10}};

static uint64_t infinite(int dtype) {
    return ((uint64_t)1 << (formats[dtype].bits - 1)) - ((uint64_t)1 << formats[dtype].fraction);
}

int is_float(int dtype) { return dtype >= FGD_F32 && dtype <= FGD_F16; }

int64_t bytes_of(int kind) {
    if (is_float(kind)) return formats[kind].bits / 8;
    return kind == BLOCK_SCALES ? 4 : kind == LOW_BITS ? 2 : kind == FGD_CODES ? 1 : 0;
}

uint64_t number_of(int kind, filling how, int is_unsigned, uint64_t random) {
    if (kind == BLOCK_SCALES) kind = FGD_F32, is_unsigned = how != RAW;
    if (!is_float(kind)) return random;
    const int bits = formats[kind].bits, fraction = formats[kind].fraction;
    const uint64_t sign = is_unsigned ? 0 : (random & 1) << (bits - 1), largest = infinite(kind) >> fraction;
    if (how == RAW) return random >> (64 - bits);
    if ((random >> 1) % 16 == 0) return sign;
    const uint64_t exponent = how == WILD ? (random >> 5) % largest : largest / 2 - 1 - (random >> 5) % 8;
    return sign | exponent << fraction | (random >> 12 & (((uint64_t)1 << fraction) - 1));
}

uint64_t spoilt_number(int dtype, uint64_t random) {
    const uint64_t quiet_nan = (uint64_t)1 << (formats[dtype].fraction - 1);
    const uint64_t sign = (uint64_t)1 << (formats[dtype].bits - 1);
    return infinite(dtype) | (random % 3 == 0 ? quiet_nan : random % 3 == 1 ? sign : 0);
}

uint32_t whole_of(int dtype, uint16_t rounded, uint64_t random) {
    const uint32_t rest = (uint32_t)random & 0x7fff, magnitude = rounded & 0x7fff;
    if (magnitude == 0) return 0;
    if (dtype == FGD_BF16) return (uint32_t)rounded << 16 | rest;
    return (uint32_t)(rounded & 0x8000) << 16 | (((magnitude << 13) + F16_REBIAS) | rest >> 3);
}

int is_finite_in(int computed, int kind, const void *element) {
    const uint64_t bits = get_bits(element, bytes_of(kind));
    double wide;
    memcpy(&wide, &bits, sizeof wide);
    if (kind == FGD_F64 && computed != FGD_F64) return isfinite((float)wide);
    return (bits & infinite(kind)) != infinite(kind);
}

void make_nans_alike(int kind, int64_t n, void *elements) {
    if (kind == BLOCK_SCALES) kind = FGD_F32;
    const int64_t bytes = bytes_of(kind);
    char *at = elements;
    if (!is_float(kind)) return;
    const uint64_t largest = infinite(kind), fraction = ((uint64_t)1 << formats[kind].fraction) - 1;
    const uint64_t magnitude = largest | fraction;
    for (int64_t i = 0; i < n; i++, at += bytes)
        if ((get_bits(at, bytes) & magnitude) > largest) put_bits(at, magnitude, bytes);
}
