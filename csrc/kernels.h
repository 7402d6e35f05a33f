/* What a compiled set of update kernels looks like: the table each instruction set and precision fills. */
#ifndef FGD_KERNELS_H
#define FGD_KERNELS_H

#include "fastgd.h"
#include "rules.def"

/* Elements that one thread works on at a time. Sums of squares are taken chunk by chunk, so the bits of a
 * norm depend on this number; the Python reference has it too (fastgd.backends.reference_norms.CHUNK). */
#define FGD_CHUNK 16384

/* Sums run over this many lanes whatever the width of the machine's registers. */
#define FGD_LANES 16

/* Lanes are put together in halves: lane i and lane i + 8, then 4, 2 and 1 apart. */
static inline double fgd_fold_lanes(double *lanes) {
    for (int width = FGD_LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
    return lanes[0];
}

#define FGD_CONCAT_(a, b) a##b
#define FGD_CONCAT(a, b) FGD_CONCAT_(a, b)

enum {
#define FGD_RULE_INDEX(rule) FGD_RULE_##rule,
    FGD_RULES(FGD_RULE_INDEX)
#undef FGD_RULE_INDEX
    FGD_RULE_COUNT
};

typedef void (*fgd_clip_kernel)(int64_t n, void *out, const void *grad, const fgd_prepare *prepare);
/* Sums are added to FGD_LANES lanes, element i to lane i modulo FGD_LANES. */
typedef void (*fgd_sum_kernel)(int64_t n, const void *grad, double *lanes);
typedef void (*fgd_prepared_sum_kernel)(int64_t n, const void *grad, const fgd_prepare *prepare, double scale,
                                        double *lanes);
/* The first of two passes, for a trust ratio: adds up squares of the parameter, and of the other vector of
 * the ratio: minus the step, which a decay of 0 among the scalars gives, or the prepared gradient. With the
 * step, the slots are updated, and the second pass, `resume`, leaves them as they are. */
typedef void (*fgd_begin_kernel)(int64_t n, const void *param, const void *grad, void *const *slots,
                                 const double *scalars, uint32_t switches, const fgd_prepare *prepare,
                                 double *params, double *others);
typedef double (*fgd_max_kernel)(int64_t n, const void *grad);
/* Squares of a part of a row, from a multiple of FGD_LANES on: added to lanes and to n column sums. */
typedef void (*fgd_square_kernel)(int64_t n, const void *grad, double *lanes, double *col_sums);
/* Squares of `count` matrices: sums of rows [count, rows], and added to those of columns [count, cols]. */
typedef void (*fgd_squares_kernel)(int64_t count, int64_t rows, int64_t cols, const void *grad,
                                   double *row_sums, double *col_sums);
/* For each of n elements from `first` on, the factors of its row and of its column. */
typedef void (*fgd_spread_kernel)(int64_t first, int64_t n, int64_t rows, int64_t cols,
                                  const void *row_factors, const void *col_factors, void *by_row,
                                  void *by_col);
/* square = a I + b gram + c square, for rows [from, to) of [size, size]. */
typedef void (*fgd_polynomial_kernel)(int64_t from, int64_t to, int64_t size, double a, double b, double c,
                                      const void *gram, void *square);

typedef struct fgd_kernels {
    fgd_update_kernel update[FGD_RULE_COUNT];
    fgd_begin_kernel begin[FGD_RULE_COUNT]; /* of rules with a trust ratio */
    fgd_update_kernel resume[FGD_RULE_COUNT];
    fgd_clip_kernel clip;
    fgd_sum_kernel sumsq;                   /* of the elements as they are */
    fgd_prepared_sum_kernel sumsq_prepared; /* of scale * clamp(unscale * g); NaN when one is not finite */
    fgd_max_kernel maxabs;                  /* NaN when an element is NaN */
    fgd_square_kernel squares_of_row;
    fgd_squares_kernel squares;
    fgd_spread_kernel spread;
    fgd_polynomial_kernel polynomial;
} fgd_kernels;

#endif
