/* An integer generator, the same on every machine. */
#ifndef RANDOM_H
#define RANDOM_H

#include <stdint.h>

/* The finaliser of splitmix64 (Steele, Lea and Flood 2014): a hash of 64 bits. */
static inline uint64_t mixed_bits(uint64_t z) {
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* splitmix64. */
static inline uint64_t random_bits(uint64_t *state) { return mixed_bits(*state += 0x9e3779b97f4a7c15u); }

#endif
