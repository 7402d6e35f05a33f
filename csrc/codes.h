/* Blocks of 8-bit codes: decoding and encoding up to FGD_BLOCK numbers that share an exponent. */
#ifndef FGD_CODES_H
#define FGD_CODES_H

#include "noise.h"

/* With the sign as a constant. */
INLINE void decode_as(int64_t n, const uint8_t *restrict codes, int32_t base, REAL *restrict out,
                      const int is_unsigned) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) out[i] = (REAL)code_decode(codes[i], base, is_unsigned);
}

INLINE void decode_block(int64_t n, const uint8_t *codes, int32_t base, REAL *out, int is_unsigned) {
    if (is_unsigned) decode_as(n, codes, base, out, 1);
    else decode_as(n, codes, base, out, 0);
}

INLINE void fill_random(int64_t n, uint32_t *restrict random, const keys k, uint32_t at) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) random[i] = random32(k, at + i);
}

INLINE void encode_as(int64_t n, const REAL *restrict in, uint8_t *restrict codes, int32_t base,
                      const int is_unsigned, const uint32_t *restrict random, const int shift) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const uint32_t below = random ? stochastic_code(random[i] >> shift & 0xffff) : NEAREST_CODE;
        codes[i] = code_encode(narrowed(in[i]), below, base, is_unsigned);
    }
}

INLINE void encode_with(int64_t n, const REAL *in, uint8_t *codes, int32_t base, const int is_unsigned,
                        const uint32_t *random, int shift) {
    if (!random) encode_as(n, in, codes, base, is_unsigned, NULL, 0);
    else if (shift) encode_as(n, in, codes, base, is_unsigned, random, 16);
    else encode_as(n, in, codes, base, is_unsigned, random, 0);
}

/* random: 32 bits for each number, of which 16 from `shift` on are taken; NULL: nearest. Returns the block's
 * exponent. */
INLINE uint8_t encode_block(int64_t n, const REAL *in, uint8_t *codes, int is_unsigned,
                            const uint32_t *random, int shift) {
    uint32_t largest = 0;
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < n; i++) {
        const uint32_t magnitude = bits_of(narrowed(in[i])) & ~SIGN_BIT;
        largest = magnitude > largest ? magnitude : largest;
    }
    const uint8_t exponent = block_exponent(largest);
    const int32_t base = code_base(exponent, is_unsigned);
    if (is_unsigned) encode_with(n, in, codes, base, 1, random, shift);
    else encode_with(n, in, codes, base, 0, random, shift);
    return exponent;
}

#endif
