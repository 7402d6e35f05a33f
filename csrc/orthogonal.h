/* Steps that are made orthogonal before they are made. */
#ifndef FGD_ORTHOGONAL_H
#define FGD_ORTHOGONAL_H

#include "job.h"

int fgd_is_orthogonal(const job *j, const fgd_tensor *t);

/* FGD_OK when the tensor, which is of an orthogonal rule, can make its step. */
int fgd_check_orthogonal(const fgd_tensor *t, const fgd_group *group);

/* Bytes that a tensor's step needs, 0 without matrix_rows; from a multiple of FGD_MATRIX_ALIGNMENT on. */
enum { FGD_MATRIX_ALIGNMENT = 64 };
int64_t fgd_orthogonal_bytes(const fgd_tensor *t);

/* Makes the step of a tensor, with threads of its own. FGD_ERROR_GEMM, and nothing has changed, when a
 * product fails. */
int fgd_orthogonal_step(const job *j, const fgd_tensor *t);

#endif
