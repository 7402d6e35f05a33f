/* The loops around a convolution's matrix products, compiled once per instruction set and precision.
 *
 * An image's patches become the columns of a matrix (Chellapilla, Puri and Simard 2006, section 3.1), and the
 * gradients of columns are added up where they overlap in the image. fastgd/nn/reference_conv.py has the same
 * in Python. */
#include "conv_kernels.h"

#include <string.h>

#include "real.h"

/* Outputs [from, to) of n look inside an image of `size` elements. */
typedef struct range {
    int64_t from, to;
} range;

INLINE int64_t clamped(int64_t i, int64_t n) { return i < 0 ? 0 : i > n ? n : i; }

/* shift: where the first output looks. */
INLINE range inside(int64_t shift, int64_t stride, int64_t size, int64_t first, int64_t n) {
    const int64_t begin = shift < 0 ? (-shift + stride - 1) / stride : 0;
    const int64_t end = shift < size ? (size - shift + stride - 1) / stride : 0;
    const range r = {clamped(begin - first, n), clamped(end - first, n)};
    return (range){r.from, r.to < r.from ? r.from : r.to};
}

/* One kernel element's part of the columns: rows [rows.from, rows.to) and of these the elements
 * [cols.from, cols.to) look inside the image, the first row's element 0 at `at`, from row to row `step`
 * elements further and `stride` from element to element. */
typedef struct part {
    range rows, cols;
    int64_t at, step, stride;
} part;

INLINE part part_of(const fgd_patches *of, int64_t h, int64_t w) {
    const int64_t up = h * of->dilation[0] - of->padding[0], left = w * of->dilation[1] - of->padding[1];
    part p = {.rows = inside(up, of->stride[0], of->height, of->first, of->rows),
              .cols = inside(left, of->stride[1], of->width, 0, of->out_width)};
    p.step = of->stride[0] * of->width;
    p.stride = of->stride[1];
    p.at = (of->first * of->stride[0] + up) * of->width + left;
    return p;
}

/* Whether the rows follow each other in the image as they do in the columns: then they are one run, from the
 * first row's cols.from to the last one's cols.to, but for what lies between two rows' ranges. */
INLINE int is_run(const fgd_patches *of, const part *p) {
    const int is_empty = p->rows.from == p->rows.to || p->cols.from == p->cols.to;
    return p->stride == 1 && p->step == of->out_width && !is_empty;
}

/* Sets the elements of rows that look beside the image to 0. */
INLINE void clear_sides(const fgd_patches *of, const part *p, REAL *columns) {
    const int64_t wide = of->out_width;
    for (int64_t j = 0; j < p->cols.from; j++)
        for (int64_t i = p->rows.from; i < p->rows.to; i++) columns[i * wide + j] = 0;
    for (int64_t j = p->cols.to; j < wide; j++)
        for (int64_t i = p->rows.from; i < p->rows.to; i++) columns[i * wide + j] = 0;
}

INLINE void clear(int64_t n, REAL *columns) {
    if (n) memset(columns, 0, (size_t)n * sizeof(REAL));
}

INLINE void gather_part(const fgd_patches *of, const part p, const REAL *x, REAL *columns) {
    const int64_t wide = of->out_width, from = p.cols.from, to = p.cols.to;
    clear(p.rows.from * wide, columns);
    clear((of->rows - p.rows.to) * wide, columns + p.rows.to * wide);
    if (is_run(of, &p)) {
        const int64_t begin = p.rows.from * wide + from, end = (p.rows.to - 1) * wide + to;
        memcpy(columns + begin, x + p.at + begin, (size_t)(end - begin) * sizeof(REAL));
    } else {
        for (int64_t i = p.rows.from; i < p.rows.to; i++) {
            const REAL *source = x + p.at + i * p.step;
            REAL *row = columns + i * wide;
            if (p.stride == 1) {
                for (int64_t j = from; j < to; j++) row[j] = source[j];
            } else {
                for (int64_t j = from; j < to; j++) row[j] = source[j * p.stride];
            }
        }
    }
    clear_sides(of, &p, columns);
}

INLINE void scatter_part(const fgd_patches *of, const part p, REAL *restrict columns, REAL *restrict x) {
    const int64_t wide = of->out_width, from = p.cols.from, to = p.cols.to;
    if (is_run(of, &p)) {
        const int64_t begin = p.rows.from * wide + from, end = (p.rows.to - 1) * wide + to;
        clear_sides(of, &p, columns);
        REAL *into = x + p.at;
#pragma omp simd
        for (int64_t i = begin; i < end; i++) into[i] += columns[i];
        return;
    }
    for (int64_t i = p.rows.from; i < p.rows.to; i++) {
        const REAL *row = columns + i * wide;
        REAL *into = x + p.at + i * p.step;
        if (p.stride == 1) {
#pragma omp simd
            for (int64_t j = from; j < to; j++) into[j] += row[j];
        } else {
            for (int64_t j = from; j < to; j++) into[j * p.stride] += row[j];
        }
    }
}

static void gather(const fgd_patches *of, int64_t channels, const void *in, void *out) {
    const int64_t size = of->height * of->width;
    const REAL *x = in;
    REAL *columns = out;
    for (int64_t c = 0; c < channels; c++, x += size)
        for (int64_t h = 0; h < of->kernel[0]; h++)
            for (int64_t w = 0; w < of->kernel[1]; w++, columns += of->step)
                gather_part(of, part_of(of, h, w), x, columns);
}

static void scatter(const fgd_patches *of, int64_t channels, void *from, void *out) {
    const int64_t size = of->height * of->width;
    REAL *columns = from, *x = out;
    for (int64_t c = 0; c < channels; c++, x += size)
        for (int64_t h = 0; h < of->kernel[0]; h++)
            for (int64_t w = 0; w < of->kernel[1]; w++, columns += of->step)
                scatter_part(of, part_of(of, h, w), columns, x);
}

static void add_bias(int64_t rows, int64_t cols, int64_t stride, const void *bias, void *out) {
    for (int64_t row = 0; row < rows; row++) {
        const REAL b = ((const REAL *)bias)[row];
        REAL *y = (REAL *)out + row * stride;
#pragma omp simd
        for (int64_t i = 0; i < cols; i++) y[i] += b;
    }
}

static void add_sums(int64_t rows, int64_t cols, const void *in, double *sums) {
    const REAL *y = in;
    for (int64_t row = 0; row < rows; row++, y += cols) {
        double lanes[FGD_LANES] = {0};
        int64_t i = 0;
        for (; i + FGD_LANES <= cols; i += FGD_LANES) {
#pragma omp simd
            for (int k = 0; k < FGD_LANES; k++) lanes[k] += (double)y[i + k];
        }
        for (int k = 0; i < cols; i++, k++) lanes[k] += (double)y[i];
        sums[row] += fgd_fold_lanes(lanes);
    }
}

static void add_up(int64_t parts, int64_t n, int64_t stride, const void *from, void *out) {
    REAL *to = out;
    for (int64_t i = 0; i < n; i += FGD_LANES) {
        const int64_t left = n - i < FGD_LANES ? n - i : FGD_LANES;
        const REAL *part = (const REAL *)from + i;
        double lanes[FGD_LANES] = {0};
        for (int64_t p = 0; p < parts; p++, part += stride) {
            if (left == FGD_LANES) {
#pragma omp simd
                for (int k = 0; k < FGD_LANES; k++) lanes[k] += (double)part[k];
            } else {
                for (int k = 0; k < left; k++) lanes[k] += (double)part[k];
            }
        }
        for (int k = 0; k < left; k++) to[i + k] = (REAL)lanes[k];
    }
}

static void add_up_sums(int64_t parts, int64_t n, const double *from, void *out) {
    for (int64_t i = 0; i < n; i++) {
        double sum = 0;
        for (int64_t p = 0; p < parts; p++) sum += from[p * n + i];
        ((REAL *)out)[i] = (REAL)sum;
    }
}

const fgd_convs FGD_TABLE(fgd_convs) = {gather, scatter, add_bias, add_sums, add_up, add_up_sums};
