/* Matrix products for the library, in one order of summation, so that what is made of them has the same bits
 * everywhere. */
#ifndef PRODUCT_H
#define PRODUCT_H

#include <limits.h>

enum { NO_PRODUCTS = -1, ALL_PRODUCTS = INT_MAX };

/* So many products succeed, all others fail; with NO_PRODUCTS none are set. */
void set_products(int successes);

#endif
