/* What happens to a run of one tensor's elements, in each of the passes over it. */
#ifndef FGD_APPLY_H
#define FGD_APPLY_H

#include "job.h"

/* Updates or clips a run of chunks. */
void fgd_write_run(const job *j, const chunk *run);

/* Fills sums[c] from chunk c: what the factors of its tensor follow from. Only slots may change, and only
 * where fgd_write_run knows of it. */
void fgd_try_chunk(const job *j, int64_t c, int64_t *cursor);

/* From the sums to every tensor's trust ratio and scale. */
void fgd_finish_trial(const job *j);

/* Fills the coefficients of units [from, to), counted through all tensors. */
void fgd_measure_units(const job *j, int64_t from, int64_t to);

#endif
