/* The random bits of a run of elements. */
#ifndef FGD_RANDOM_H
#define FGD_RANDOM_H

#include "storage.h"
#include "storage_kernels.h"

typedef struct keys {
    uint32_t first, key0, key1;
    int shift;
} keys;

/* The upper half of the first element's number is hashed in with the finaliser of splitmix64 (Steele, Lea and
 * Flood 2014). */
INLINE keys keys_of(const fgd_noise *noise) {
    uint64_t z = noise->key + (uint64_t)(noise->first >> 32) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (keys){(uint32_t)noise->first, (uint32_t)z, (uint32_t)(z >> 32), noise->lower ? 0 : 16};
}

INLINE uint32_t random32(keys k, int64_t i) { return random_bits(k.first + (uint32_t)i, k.key0, k.key1); }

INLINE uint32_t random16(keys k, int64_t i) { return random32(k, i) >> k.shift & 0xffff; }

#endif
