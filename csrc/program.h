/* Operations of a program, for the entries that run them. */
#ifndef FGD_PROGRAM_H
#define FGD_PROGRAM_H

#include "fastgd.h"

/* Whether all can be called; sets *failed, to the first that cannot or to -1. */
int fgd_check_ops(const fgd_op *ops, int64_t n_ops, int64_t *failed);

/* The code of the entry that a checked operation calls. */
int fgd_run_op(const fgd_op *op);

#endif
