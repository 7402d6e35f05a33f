/* Blocks of 8-bit codes: decoding and encoding up to FGD_BLOCK numbers that share a scale. */
#ifndef FGD_CODES_H
#define FGD_CODES_H

#include <math.h>

#include "noise.h"

/* With the sign as a constant. */
INLINE void decode_as(int64_t n, const uint8_t *restrict codes, float scale, REAL *restrict out,
                      const int is_unsigned) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) out[i] = (REAL)code_decode(codes[i], scale, is_unsigned);
}

INLINE void decode_block(int64_t n, const uint8_t *codes, float scale, REAL *out, int is_unsigned) {
    if (is_unsigned) decode_as(n, codes, scale, out, 1);
    else decode_as(n, codes, scale, out, 0);
}

/* Counting in 32 bits, as elements are hashed, spares conversions. */
INLINE void fill_random(int64_t n, uint32_t *restrict random, const keys k, uint32_t at) {
#pragma omp simd
    for (uint32_t i = 0; i < (uint32_t)n; i++) random[i] = random32(k, at + i);
}

INLINE uint32_t magnitude_of(REAL x) { return bits_of(narrowed(x)) & ~SIGN_BIT; }

INLINE uint32_t largest_of(int64_t n, const REAL *in) {
    uint32_t largest = 0;
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < n; i++) {
        const uint32_t magnitude = magnitude_of(in[i]);
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest;
}

INLINE void encode_as(int64_t n, const REAL *restrict in, uint8_t *restrict codes, float inverse,
                      const int is_unsigned, const uint32_t *restrict random, const int shift) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const uint32_t below = random ? stochastic_code(random[i] >> shift & 0xffff) : NEAREST_CODE;
        codes[i] = code_encode(narrowed(in[i]), below, inverse, is_unsigned);
    }
}

INLINE void encode_with(int64_t n, const REAL *in, uint8_t *codes, float inverse, const int is_unsigned,
                        const uint32_t *random, int shift) {
    if (!random) encode_as(n, in, codes, inverse, is_unsigned, NULL, 0);
    else if (shift) encode_as(n, in, codes, inverse, is_unsigned, random, 16);
    else encode_as(n, in, codes, inverse, is_unsigned, random, 0);
}

/* largest: magnitude in the block, as bits. random: 32 bits for each number, of which 16 from `shift` on are
 * taken; NULL: nearest. Returns the block's scale. */
INLINE float encode_block(int64_t n, const REAL *in, uint32_t largest, uint8_t *codes, int is_unsigned,
                          const uint32_t *random, int shift) {
    if (largest >= INFINITE_BITS) {
        memset(codes, 0, (size_t)n);
        return NAN;
    }
    const float scale = block_scale(largest, is_unsigned), inverse = 1 / scale;
    if (is_unsigned) encode_with(n, in, codes, inverse, 1, random, shift);
    else encode_with(n, in, codes, inverse, 0, random, shift);
    return scale;
}

#endif
