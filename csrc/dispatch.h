/* What the entry points share: the kernels of the instruction set in use, and how many threads to start. */
#ifndef FGD_DISPATCH_H
#define FGD_DISPATCH_H

#include "kernels.h"
#include "layer_kernels.h"

/* The tables of the instruction set in use. dtype has been checked. */
const fgd_kernels *fgd_kernels_for(int dtype);
const fgd_layers *fgd_layers_for(int dtype);

/* Threads worth starting for this many element updates: 1 for little work and in a forked child. */
int fgd_threads_for(int64_t elements);

static inline int64_t fgd_item_size(int dtype) { return dtype == FGD_F64 ? 8 : 4; }

#endif
