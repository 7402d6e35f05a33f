/* Second moments of matrices by rows and by columns, in place of one for each element. */
#ifndef FGD_FACTORED_H
#define FGD_FACTORED_H

#include "job.h"

/* The matrices of a tensor, and where their second moments are worked out. */
typedef struct moments {
    int64_t count, rows, cols;       /* how many, and the shape of each */
    int64_t band, bands;             /* rows whose squares one thread adds up; how many times in a matrix */
    double *row_sums, *col_sums;     /* [count, rows] and [count, bands, cols] */
    char *row_factors, *col_factors; /* [count, rows] and [count, cols], in the precision computed in */
} moments;

int fgd_is_factored(const job *j, const fgd_tensor *t);

/* Words of 8 bytes that a tensor's moments need, 0 without factor_rows. */
int64_t fgd_moments_words(const fgd_tensor *t);

/* Of a tensor that is factored and has elements. */
moments fgd_moments_of(const job *j, const fgd_tensor *t);

/* Three passes, each over all tensors that are factored and after the one before it: squares of the
 * gradients of the bands that begin in chunks [from, to); from these the new slots and the columns' factors,
 * by part `part` of `parts`; the rows' factors of the matrices that begin in chunks [from, to). */
void fgd_sum_squares(const job *j, int64_t from, int64_t to);
void fgd_update_moments(const job *j, int part, int parts);
void fgd_finish_moments(const job *j, int64_t from, int64_t to);

#endif
