/* The loops that make planes smaller, compiled once per instruction set and precision.
 *
 * Each output is the largest, or the mean, of a window of its plane. A mean's elements are summed in double,
 * element e of the window, row by row, in lane e modulo FGD_LANES; those beside the plane are 0.
 * fastgd/nn/reference_pool.py has the same in Python. */
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

/* Where a window's elements lie: `begin` is the first one's place in the plane. */
typedef struct window {
    int64_t begin, rows, cols, width;
} window;

/* one where mask is -1, other where it is 0, without a branch, which nothing could predict. */
INLINE REAL chosen(int32_t mask, REAL one, REAL other) {
    UBITS a, b;
    memcpy(&a, &one, sizeof a);
    memcpy(&b, &other, sizeof b);
    const UBITS m = (UBITS)(BITS)mask, bits = (a & m) | (b & ~m);
    memcpy(&one, &bits, sizeof one);
    return one;
}

/* A number that is larger, or NaN, takes the place of the best before it. */
INLINE void take(REAL v, int64_t place, REAL *best, int32_t *at) {
    const int32_t is_larger = -((v > *best) | (v != v));
    *best = chosen(is_larger, v, *best);
    *at = ((int32_t)place & is_larger) | (*at & ~is_larger);
}

/* The largest elements of `lanes` windows, each `stride` elements behind the one before. */
INLINE void largest(const int lanes, const window w, const int64_t stride, const REAL *x, int32_t *index,
                    REAL *y) {
    REAL best[FGD_LANES];
    int32_t at[FGD_LANES];
    for (int k = 0; k < lanes; k++) {
        best[k] = -(REAL)INFINITY;
        at[k] = (int32_t)(w.begin + k * stride);
    }
    for (int64_t row = 0; row < w.rows; row++) {
        int64_t from = w.begin + row * w.width, left = w.cols;
        /* two at once, since with a stride of 2 they are all that memory holds there */
        for (; left >= 2; left -= 2, from += 2) {
#pragma omp simd
            for (int k = 0; k < lanes; k++) {
                take(x[from + k * stride], from + k * stride, &best[k], &at[k]);
                take(x[from + k * stride + 1], from + k * stride + 1, &best[k], &at[k]);
            }
        }
        if (left) {
#pragma omp simd
            for (int k = 0; k < lanes; k++)
                take(x[from + k * stride], from + k * stride, &best[k], &at[k]);
        }
    }
    memcpy(y, best, (size_t)lanes * sizeof(REAL));
    if (index) memcpy(index, at, (size_t)lanes * sizeof(int32_t));
}

/* n windows in a row, in full sets of lanes, the last of which begins earlier to be full, too. */
INLINE void row_of_largest(const int lanes, int64_t n, const window first, const int64_t stride,
                           const REAL *x, int32_t *index, REAL *y) {
    for (int64_t j = 0; j < n; j += lanes) {
        j = j + lanes > n ? n - lanes : j;
        window w = first;
        w.begin += j * stride;
        largest(lanes, w, stride, x, index ? index + j : NULL, y + j);
    }
}

/* cols and stride, along rows, are of->kernel[1] and of->stride[1]: constants in the usual cases. */
INLINE void max_planes(const fgd_pool *of, const int64_t cols, const int64_t stride, const fgd_plane_sizes *s,
                       const REAL *x, int32_t *index, REAL *y) {
    const span whole = whole_windows(of, cols, stride, s);
    const int64_t n = whole.to - whole.from;
    for (int64_t plane = 0; plane < s->planes; plane++, x += s->height * s->width) {
        for (int64_t i = 0; i < s->out_height; i++, y += s->out_width) {
            const span r = span_of(i, of->kernel[0], of->stride[0], of->padding[0], s->height);
            const int64_t begin = r.from * s->width + whole.from * stride - of->padding[1];
            window w = {begin, r.to - r.from, cols, s->width};
            int32_t *at = index ? index + whole.from : NULL;
            REAL *into = y + whole.from;
            if (n >= 16) row_of_largest(16, n, w, stride, x, at, into);
            else if (n >= 8) row_of_largest(8, n, w, stride, x, at, into);
            else if (n >= 4) row_of_largest(4, n, w, stride, x, at, into);
            else row_of_largest(1, n, w, stride, x, at, into);
            for (int64_t j = 0; j < s->out_width; j++) {
                j = j == whole.from ? whole.to : j;
                if (j == s->out_width) break;
                const span c = span_of(j, cols, stride, of->padding[1], s->width);
                w.begin = r.from * s->width + c.from;
                w.cols = c.to - c.from;
                largest(1, w, stride, x, index ? index + j : NULL, y + j);
            }
            index = index ? index + s->out_width : NULL;
        }
    }
}

static void max_forward(const fgd_pool *of, const fgd_plane_sizes *sizes, const void *x, int32_t *index,
                        void *y) {
    const int64_t cols = of->kernel[1], stride = of->stride[1];
    if (cols == 2 && stride == 2) max_planes(of, 2, 2, sizes, x, index, y);
    else if (stride == 1) max_planes(of, cols, 1, sizes, x, index, y);
    else if (stride == 2) max_planes(of, cols, 2, sizes, x, index, y);
    else max_planes(of, cols, stride, sizes, x, index, y);
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

/* Adds up the elements of `lanes` windows, each `stride` elements behind the one before. element: the number
 * in its window of the first one inside the plane, of which a row has `cols`. */
INLINE void sums_of(const int lanes, const window w, int64_t element, const int64_t cols, int used,
                    const int64_t stride, const REAL *x, double *sums) {
    double sum[FGD_LANES][FGD_LANES];
    memset(sum, 0, (size_t)used * sizeof sum[0]);
    for (int64_t row = 0; row < w.rows; row++, element += cols) {
        for (int64_t col = 0; col < w.cols; col++) {
            const REAL *from = x + w.begin + row * w.width + col;
            double *into = sum[(element + col) & (FGD_LANES - 1)];
#pragma omp simd
            for (int k = 0; k < lanes; k++) into[k] += (double)from[k * stride];
        }
    }
    for (int half = used / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            for (int k = 0; k < lanes; k++) sum[i][k] += sum[i + half][k];
    memcpy(sums, sum[0], (size_t)lanes * sizeof(double));
}

/* The sum of n elements that follow each other, in the same order. */
INLINE double sum_of_run(int64_t n, const REAL *x) {
    double lanes[FGD_LANES] = {0};
    int64_t i = 0;
    for (; i + FGD_LANES <= n; i += FGD_LANES) {
#pragma omp simd
        for (int k = 0; k < FGD_LANES; k++) lanes[k] += (double)x[i + k];
    }
    for (int k = 0; i < n; i++, k++) lanes[k] += (double)x[i];
    return fgd_fold_lanes(lanes);
}

INLINE void row_of_means(const int lanes, int64_t n, const window first, int64_t element, const int64_t cols,
                         int used, const int64_t stride, double share, const REAL *x, REAL *y) {
    double sums[FGD_LANES];
    for (int64_t j = 0; j < n; j += lanes) {
        j = j + lanes > n ? n - lanes : j;
        window w = first;
        w.begin += j * stride;
        sums_of(lanes, w, element, cols, used, stride, x, sums);
        for (int k = 0; k < lanes; k++) y[j + k] = (REAL)(sums[k] * share);
    }
}

/* The lanes that a window's elements are in: a power of two. */
INLINE int used_lanes(const fgd_pool *of) {
    int used = 1;
    while (used < FGD_LANES && used < of->kernel[0] * of->kernel[1]) used *= 2;
    return used;
}

INLINE void average_planes(const fgd_pool *of, const int64_t cols, const int64_t stride,
                           const fgd_plane_sizes *s, const REAL *x, REAL *y) {
    const span whole = whole_windows(of, cols, stride, s);
    const int64_t n = whole.to - whole.from;
    const int used = used_lanes(of), is_run = cols == s->width && n == 1;
    for (int64_t plane = 0; plane < s->planes; plane++, x += s->height * s->width) {
        for (int64_t i = 0; i < s->out_height; i++, y += s->out_width) {
            const span r = span_of(i, of->kernel[0], of->stride[0], of->padding[0], s->height);
            const int64_t rows = counted(of, r, 0, s->height), element = (r.from - r.begin) * cols;
            const double share = 1 / (double)(rows * cols);
            const int64_t begin = r.from * s->width + whole.from * stride - of->padding[1];
            window w = {begin, r.to - r.from, cols, s->width};
            REAL *into = y + whole.from;
            if (is_run && element == 0) *into = (REAL)(sum_of_run(w.rows * cols, x + w.begin) * share);
            else if (n >= 16) row_of_means(16, n, w, element, cols, used, stride, share, x, into);
            else if (n >= 8) row_of_means(8, n, w, element, cols, used, stride, share, x, into);
            else if (n >= 4) row_of_means(4, n, w, element, cols, used, stride, share, x, into);
            else row_of_means(1, n, w, element, cols, used, stride, share, x, into);
            for (int64_t j = 0; j < s->out_width; j++) {
                j = j == whole.from ? whole.to : j;
                if (j == s->out_width) break;
                const span c = span_of(j, cols, stride, of->padding[1], s->width);
                double sum;
                w.begin = r.from * s->width + c.from;
                w.cols = c.to - c.from;
                sums_of(1, w, element + c.from - c.begin, cols, used, stride, x, &sum);
                y[j] = (REAL)(sum * (1 / (double)(rows * counted(of, c, 1, s->width))));
            }
        }
    }
}

static void average_forward(const fgd_pool *of, const fgd_plane_sizes *sizes, const void *x, void *y) {
    const int64_t cols = of->kernel[1], stride = of->stride[1];
    if (cols == 2 && stride == 2) average_planes(of, 2, 2, sizes, x, y);
    else if (stride == 1) average_planes(of, cols, 1, sizes, x, y);
    else if (stride == 2) average_planes(of, cols, 2, sizes, x, y);
    else average_planes(of, cols, stride, sizes, x, y);
}

/* Adds each output's share to the elements of its window, output by output in each row. */
INLINE void average_planes_backward(const fgd_pool *of, const int64_t cols, const int64_t stride,
                                    const fgd_plane_sizes *s, const REAL *dy, REAL *dx) {
    const span whole = whole_windows(of, cols, stride, s);
    for (int64_t plane = 0; plane < s->planes; plane++, dx += s->height * s->width) {
        memset(dx, 0, (size_t)(s->height * s->width) * sizeof(REAL));
        for (int64_t i = 0; i < s->out_height; i++, dy += s->out_width) {
            const span r = span_of(i, of->kernel[0], of->stride[0], of->padding[0], s->height);
            const int64_t rows = counted(of, r, 0, s->height);
            const double share = 1 / (double)(rows * cols);
            for (int64_t row = r.from; row < r.to; row++) {
                REAL *into = dx + row * s->width;
                for (int64_t j = 0; j < s->out_width; j++) {
                    if (j >= whole.from && j < whole.to) {
                        const REAL each = (REAL)((double)dy[j] * share);
                        for (int64_t c = 0; c < cols; c++) into[j * stride - of->padding[1] + c] += each;
                    } else {
                        const span c = span_of(j, cols, stride, of->padding[1], s->width);
                        const double own = 1 / (double)(rows * counted(of, c, 1, s->width));
                        const REAL each = (REAL)((double)dy[j] * own);
                        for (int64_t col = c.from; col < c.to; col++) into[col] += each;
                    }
                }
            }
        }
    }
}

static void average_backward(const fgd_pool *of, const fgd_plane_sizes *sizes, const void *dy, void *dx) {
    const int64_t cols = of->kernel[1], stride = of->stride[1];
    if (cols == 2 && stride == 2) average_planes_backward(of, 2, 2, sizes, dy, dx);
    else average_planes_backward(of, cols, stride, sizes, dy, dx);
}

const fgd_pools FGD_TABLE(fgd_pools) = {max_forward, max_backward, average_forward, average_backward};
