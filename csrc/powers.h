/* Powers and logarithms with the bits of fastgd/rules/powers.py, on every machine: they use no function of
 * libm but those that are exact, or as a first guess. */
#ifndef FGD_POWERS_H
#define FGD_POWERS_H

#include <stdint.h>

/* base^n for n from 0 on, from multiplications alone. */
double fgd_power(double base, int64_t n);

/* base^exponent for both from 0 on; infinite beyond double. */
double fgd_real_power(double base, double exponent);

/* The natural logarithm of a finite number above 0. */
double fgd_logarithm(double value);

#endif
