/* Matrix products for the library. */
#ifndef PRODUCT_H
#define PRODUCT_H

#include <stddef.h>

#include "fastgd.h"

void set_products(int are_set);

#endif
