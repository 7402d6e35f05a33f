/* The loops that make planes smaller, compiled once per instruction set and precision.
 *
 * Each output is the largest, or the mean, of a window of its plane. A mean's elements are summed in double,
 * column w of the window in lane w modulo FGD_LANES, row after row. fastgd/nn/reference_pool.py has the same
 * in Python. */
#include "pool_kernels.h"

#include <math.h>
#include <string.h>

#include "real.h"

/* A window along one axis: it begins at `begin`, which may lie before the plane, and [from, to) of it lies
 * inside. */
typedef struct span {
    int64_t begin, from, to;
} span;

INLINE span span_of(int64_t i, int64_t kernel, int64_t stride, int64_t padding, int64_t size) {
    const int64_t begin = i * stride - padding, end = begin + kernel;
    return (span){begin, begin < 0 ? 0 : begin, end > size ? size : end};
}

/* What a sum over a window is divided by along one axis. */
INLINE int64_t counted(const fgd_pool *of, const span s, int axis, int64_t size) {
    if (!of->count_include_pad) return s.to - s.from;
    const int64_t end = s.begin + of->kernel[axis], limit = size + of->padding[axis];
    return (end < limit ? end : limit) - s.begin;
}

/* The outputs [from, to) of a row whose windows lie inside the plane. */
INLINE span whole_windows(const fgd_pool *of, int64_t kernel, int64_t stride, const fgd_plane_sizes *sizes) {
    const int64_t padding = of->padding[1], n = sizes->out_width;
    const int64_t room = sizes->width - kernel + padding;
    int64_t from = (padding + stride - 1) / stride, to = room < 0 ? 0 : room / stride + 1;
    to = to > n ? n : to;
    from = from > to ? to : from;
    return (span){0, from, to};
}

/* A number larger than all before, or NaN, takes their place. */
INLINE void largest(const REAL *x, int64_t width, int64_t row, int64_t rows, int64_t col, int64_t cols,
                    int32_t *index, REAL *y) {
    REAL best = -(REAL)INFINITY;
    int32_t at = (int32_t)(row * width + col);
    for (int64_t r = row; r < row + rows; r++) {
        for (int64_t c = col; c < col + cols; c++) {
            const REAL v = x[r * width + c];
            const int is_larger = !(v <= best);
            best = is_larger ? v : best;
            at = is_larger ? (int32_t)(r * width + c) : at;
        }
    }
    *y = best;
    *index = at;
}

/* kernel and stride, along rows, are of->kernel and of->stride[1]: constants in the usual cases. */
INLINE void max_planes(const fgd_pool *of, const int64_t height, const int64_t width, const int64_t stride,
                       const fgd_plane_sizes *s, const REAL *x, int32_t *restrict index, REAL *restrict y) {
    const span whole = whole_windows(of, width, stride, s);
    int32_t unused;
    for (int64_t plane = 0; plane < s->planes; plane++, x += s->height * s->width) {
        for (int64_t i = 0; i < s->out_height; i++) {
            const span r = span_of(i, height, of->stride[0], of->padding[0], s->height);
            const int64_t rows = r.to - r.from;
            const int64_t from = rows == height ? whole.from : 0, to = rows == height ? whole.to : 0;
            for (int64_t j = 0; j < s->out_width; j++) {
                if (j == from) j = to;
                if (j == s->out_width) break;
                const span c = span_of(j, width, stride, of->padding[1], s->width);
                largest(x, s->width, r.from, rows, c.from, c.to - c.from, index ? index + j : &unused, y + j);
            }
            if (index) {
#pragma omp simd
                for (int64_t j = from; j < to; j++)
                    largest(x, s->width, r.from, height, j * stride - of->padding[1], width, index + j, y + j);
                index += s->out_width;
            } else {
#pragma omp simd
                for (int64_t j = from; j < to; j++) {
                    int32_t not_asked_for;
                    largest(x, s->width, r.from, height, j * stride - of->padding[1], width, &not_asked_for,
                            y + j);
                }
            }
            y += s->out_width;
        }
    }
}

static void max_forward(const fgd_pool *of, const fgd_plane_sizes *sizes, const void *x, int32_t *index,
                        void *y) {
    const int64_t height = of->kernel[0], width = of->kernel[1], stride = of->stride[1];
    if (height == 2 && width == 2 && stride == 2) max_planes(of, 2, 2, 2, sizes, x, index, y);
    else if (height == 3 && width == 3 && stride == 2) max_planes(of, 3, 3, 2, sizes, x, index, y);
    else max_planes(of, height, width, stride, sizes, x, index, y);
}

static void max_backward(const fgd_pool *of UNUSED, const fgd_plane_sizes *s, const int32_t *index,
                         const void *from, void *to) {
    const int64_t size = s->height * s->width, outputs = s->out_height * s->out_width;
    const REAL *dy = from;
    REAL *dx = to;
    for (int64_t plane = 0; plane < s->planes; plane++, dx += size, dy += outputs, index += outputs) {
        memset(dx, 0, (size_t)size * sizeof(REAL));
        for (int64_t i = 0; i < outputs; i++) dx[index[i]] += dy[i];
    }
}

INLINE int64_t power_of_two(int64_t n) {
    int64_t power = 1;
    while (power < n && power < FGD_LANES) power *= 2;
    return power;
}

/* cols: of the window, of which [c.from, c.to) lie inside the plane. The lanes of no column are 0. */
INLINE double sum_of(const REAL *x, int64_t width, const span r, const span c, const int64_t cols) {
    double lanes[FGD_LANES] = {0};
    const int64_t used = power_of_two(cols);
    for (int64_t row = r.from; row < r.to; row++)
        for (int64_t col = c.from; col < c.to; col++)
            lanes[(col - c.begin) & (FGD_LANES - 1)] += (double)x[row * width + col];
    for (int64_t half = used / 2; half; half /= 2)
        for (int64_t k = 0; k < half; k++) lanes[k] += lanes[k + half];
    return lanes[0];
}

static void average_forward(const fgd_pool *of, const fgd_plane_sizes *s, const void *in, void *out) {
    const REAL *x = in;
    REAL *y = out;
    for (int64_t plane = 0; plane < s->planes; plane++, x += s->height * s->width) {
        for (int64_t i = 0; i < s->out_height; i++) {
            const span r = span_of(i, of->kernel[0], of->stride[0], of->padding[0], s->height);
            const int64_t rows = counted(of, r, 0, s->height);
            for (int64_t j = 0; j < s->out_width; j++) {
                const span c = span_of(j, of->kernel[1], of->stride[1], of->padding[1], s->width);
                const double sum = sum_of(x, s->width, r, c, of->kernel[1]);
                *y++ = (REAL)(sum / (double)(rows * counted(of, c, 1, s->width)));
            }
        }
    }
}

static void average_backward(const fgd_pool *of, const fgd_plane_sizes *s, const void *in, void *out) {
    const REAL *dy = in;
    REAL *dx = out;
    for (int64_t plane = 0; plane < s->planes; plane++, dx += s->height * s->width) {
        memset(dx, 0, (size_t)(s->height * s->width) * sizeof(REAL));
        for (int64_t i = 0; i < s->out_height; i++) {
            const span r = span_of(i, of->kernel[0], of->stride[0], of->padding[0], s->height);
            const int64_t rows = counted(of, r, 0, s->height);
            for (int64_t j = 0; j < s->out_width; j++) {
                const span c = span_of(j, of->kernel[1], of->stride[1], of->padding[1], s->width);
                const REAL each = (REAL)((double)*dy++ / (double)(rows * counted(of, c, 1, s->width)));
                for (int64_t row = r.from; row < r.to; row++)
                    for (int64_t col = c.from; col < c.to; col++) dx[row * s->width + col] += each;
            }
        }
    }
}

const fgd_pools FGD_TABLE(fgd_pools) = {max_forward, max_backward, average_forward, average_backward};
