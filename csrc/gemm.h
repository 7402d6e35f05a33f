/* Matrix products inside the library: through the function that fgd_set_gemm was given. */
#ifndef FGD_GEMM_H
#define FGD_GEMM_H

#include "fastgd.h"

/* FGD_OK when products of this dtype with these sizes can be computed. */
int fgd_gemm_ready(int dtype, int64_t m, int64_t n, int64_t k);

/* Whether several threads of a parallel region may each compute a product of their own at the same time: not
 * one that has threads of its own, of which there would then be too many. */
int fgd_gemm_nests(int dtype);

/* From here to fgd_gemm_restore, which takes what this returns, a product of any thread takes that thread
 * alone. */
int fgd_gemm_limit(int dtype);
void fgd_gemm_restore(int dtype, int before);

#endif
