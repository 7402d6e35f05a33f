/* The finaliser of splitmix64, from which the keys of random bits are made (Steele, Lea and Flood 2014). */
#ifndef FGD_MIXED_H
#define FGD_MIXED_H

#include <stdint.h>

static inline uint64_t fgd_mixed(uint64_t z) {
    z += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

#endif
