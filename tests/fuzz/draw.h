/* A call made from any bytes: mostly one that the ABI allows, sometimes one with something wrong in it. */
#ifndef DRAW_H
#define DRAW_H

#include <stddef.h>

#include "call.h"

/* Whether the call is one that the library must accept; otherwise it may accept or refuse it. */
int draw_call(call *c, const uint8_t *bytes, size_t n);

#endif
