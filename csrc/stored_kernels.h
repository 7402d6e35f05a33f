/* What a compiled set of kernels over stored numbers looks like. */
#ifndef FGD_STORED_KERNELS_H
#define FGD_STORED_KERNELS_H

#include "kernels.h"
#include "storage_kernels.h"

/* Ways of storing that have loops of their own, one pass without a detour; all others are loaded and stored
 * in pieces. Parameter and gradient are FGD_F32 in the first and the last. */
enum { FGD_STATE_BF16, FGD_ALL_BF16, FGD_STATE_CODES, FGD_STORED_KINDS };

/* Which numbers are rounded stochastically, the others to nearest. */
enum { FGD_RANDOM_NONE, FGD_RANDOM_PARAM, FGD_RANDOM_STATE, FGD_RANDOM_BOTH };

/* noise[0] is the parameter's, noise[1 + k / 2] that of slots k and k + 1: of its 32 bits slot k takes the
 * upper half, slot k + 1 the lower one. */
enum { FGD_NOISES = 1 + FGD_MAX_SLOTS / 2 };

typedef void (*fgd_stored_kernel)(int64_t n, void *param, const void *grad, void *const *slots,
                                  float *const *scales, const double *scalars, uint32_t switches,
                                  const fgd_prepare *prepare, int random, const fgd_noise *noise);

typedef struct fgd_stored {
    fgd_stored_kernel update[FGD_STORED_KINDS][FGD_RULE_COUNT]; /* NULL: none, as for float64 */
} fgd_stored;

#endif
