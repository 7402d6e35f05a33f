/* What a compiled set of convolution kernels looks like. */
#ifndef FGD_CONV_KERNELS_H
#define FGD_CONV_KERNELS_H

#include "kernels.h"

/* Some rows of a convolution's output, and where in an image each of their elements looks: output element
 * (i, j) of kernel element (h, w) is the image's element (i stride + h dilation - padding, the same of j and
 * w), or 0 outside. */
typedef struct fgd_patches {
    int64_t height, width, kernel[2], stride[2], padding[2], dilation[2];
    int64_t first, rows, out_width;
    int64_t step; /* elements of the columns from kernel element to kernel element, rows out_width or more */
} fgd_patches;

typedef struct fgd_convs {
    /* columns [channels, kernel, rows, out_width], kernel elements `step` apart, of x [channels, height,
     * width] */
    void (*gather)(const fgd_patches *of, int64_t channels, const void *x, void *columns);
    /* adds each element of the columns to the one it is of in x; columns are overwritten */
    void (*scatter)(const fgd_patches *of, int64_t channels, void *columns, void *x);
    /* y [rows, cols], rows `stride` elements apart: adds bias[row], or to sums[row] the sum of the row */
    void (*add_bias)(int64_t rows, int64_t cols, int64_t stride, const void *bias, void *y);
    void (*add_sums)(int64_t rows, int64_t cols, const void *y, double *sums);
    /* the sum of n elements each of so many parts that lie `stride` elements apart, in order; of doubles for
     * the second */
    void (*add_up)(int64_t parts, int64_t n, int64_t stride, const void *from, void *out);
    void (*add_up_sums)(int64_t parts, int64_t n, const double *from, void *out);
} fgd_convs;

#endif
