/* The loops of recurrent cells and their gradients, compiled once per instruction set and precision.
 *
 * With a_k = (x W_ih,k' + b_ih,k) + (h' W_hh,k' + b_hh,k), h' and c' the state before the step and s the
 * logistic function:
 *   rnn   h = tanh a  or  max(a, 0)                                     (Elman 1990)
 *   lstm  i, f, o = s(a_i), s(a_f), s(a_o),  g = tanh a_g,  c = f c' + i g,  h = o tanh c
 *         (Hochreiter and Schmidhuber 1997; the forget gate of Gers, Schmidhuber and Cummins 2000)
 *   gru   r, z = s(a_r), s(a_z),  n = tanh((x W_in' + b_in) + r (h' W_hn' + b_hn)),  h = (h' - n) z + n
 *         (Cho et al. 2014, with r behind the product)
 * fastgd/nn/reference_recurrent.py has the same in Python. */
#include "recurrent_kernels.h"

#include "layer_kernels.h"
#include "real.h"

typedef struct parameters {
    REAL a, b;
} parameters;
static const parameters none = {0, 0};

#define FORWARD(name) INLINE REAL name##_forward(REAL z, const parameters s UNUSED)
#define BACKWARD_BY_OUTPUT(name) \
    INLINE REAL name##_backward(REAL y UNUSED, REAL dy, const parameters s UNUSED)
#define BACKWARD_BY_INPUT(name) INLINE REAL name##_backward(REAL z, REAL dy, const parameters s UNUSED)
#include "layers.h"

/* The pointers of a step, at one of its rows. */
#define ROW(row, gates_of, columns)                                             \
    const int64_t n = at->hidden;                                               \
    REAL *g = (REAL *)at->gates + (row) * (columns)*n;                          \
    const REAL *p UNUSED = (const REAL *)at->product + (row) * (gates_of)*n;    \
    const REAL *of_x UNUSED = at->bias_ih, *of_h UNUSED = at->bias_hh;          \
    const REAL *h_before UNUSED = (const REAL *)at->h_before + (row)*n;         \
    REAL *h UNUSED = (REAL *)at->h + (row)*n

#define ROW_BACK(row, columns)                                                  \
    const int64_t n = at->hidden;                                               \
    REAL *g = (REAL *)at->gates + (row) * (columns)*n;                          \
    const REAL *dh = (const REAL *)at->dh + (row)*n, *dy = (const REAL *)at->dy + (row)*n; \
    REAL *carry UNUSED = (REAL *)at->carry + (row)*n

INLINE REAL sum_at(int64_t i, const REAL *x, const REAL *of_x, const REAL *h, const REAL *of_h) {
    return (x[i] + of_x[i]) + (h[i] + of_h[i]);
}

#define RNN(name)                                                               \
    static void rnn_##name##_forward(const fgd_cell_step *at) {                 \
        for (int64_t row = 0; row < at->rows; row++) {                          \
            ROW(row, 1, 1);                                                     \
            _Pragma("omp simd")                                                 \
            for (int64_t u = 0; u < n; u++) {                                   \
                const REAL y = name##_forward(sum_at(u, g, of_x, p, of_h), none); \
                g[u] = y;                                                       \
                h[u] = y;                                                       \
            }                                                                   \
        }                                                                       \
    }                                                                           \
    static void rnn_##name##_backward(const fgd_cell_step *at) {                \
        for (int64_t row = 0; row < at->rows; row++) {                          \
            ROW_BACK(row, 1);                                                   \
            _Pragma("omp simd")                                                 \
            for (int64_t u = 0; u < n; u++) g[u] = name##_backward(g[u], dh[u] + dy[u], none); \
        }                                                                       \
    }
RNN(tanh)
RNN(relu)

static void lstm_forward(const fgd_cell_step *at) {
    for (int64_t row = 0; row < at->rows; row++) {
        ROW(row, 4, 4);
        const REAL *c_before = (const REAL *)at->c_before + row * n;
        REAL *c = (REAL *)at->c + row * n;
#pragma omp simd
        for (int64_t u = 0; u < n; u++) {
            const REAL i = logistic_of(sum_at(u, g, of_x, p, of_h));
            const REAL f = logistic_of(sum_at(u + n, g, of_x, p, of_h));
            const REAL new = tanh_forward(sum_at(u + 2 * n, g, of_x, p, of_h), none);
            const REAL o = logistic_of(sum_at(u + 3 * n, g, of_x, p, of_h));
            const REAL cell = f * c_before[u] + i * new;
            g[u] = i;
            g[u + n] = f;
            g[u + 2 * n] = new;
            g[u + 3 * n] = o;
            c[u] = cell;
            h[u] = o * tanh_forward(cell, none);
        }
    }
}

static void lstm_backward(const fgd_cell_step *at) {
    for (int64_t row = 0; row < at->rows; row++) {
        ROW_BACK(row, 4);
        const REAL *c_before = (const REAL *)at->c_before + row * n, *c = (const REAL *)at->c + row * n;
#pragma omp simd
        for (int64_t u = 0; u < n; u++) {
            const REAL i = g[u], f = g[u + n], new = g[u + 2 * n], o = g[u + 3 * n];
            const REAL d = dh[u] + dy[u], t = tanh_forward(c[u], none);
            const REAL dc = carry[u] + tanh_backward(t, d * o, none);
            g[u] = sigmoid_backward(i, dc * new, none);
            g[u + n] = sigmoid_backward(f, dc * c_before[u], none);
            g[u + 2 * n] = tanh_backward(new, dc * i, none);
            g[u + 3 * n] = sigmoid_backward(o, d * t, none);
            carry[u] = dc * f;
        }
    }
}

static void gru_forward(const fgd_cell_step *at) {
    for (int64_t row = 0; row < at->rows; row++) {
        ROW(row, 3, 4);
#pragma omp simd
        for (int64_t u = 0; u < n; u++) {
            const REAL r = logistic_of(sum_at(u, g, of_x, p, of_h));
            const REAL z = logistic_of(sum_at(u + n, g, of_x, p, of_h));
            const REAL from_h = p[u + 2 * n] + of_h[u + 2 * n];
            const REAL new = tanh_forward((g[u + 2 * n] + of_x[u + 2 * n]) + r * from_h, none);
            g[u] = r;
            g[u + n] = z;
            g[u + 2 * n] = new;
            g[u + 3 * n] = from_h;
            h[u] = (h_before[u] - new) * z + new;
        }
    }
}

static void gru_backward(const fgd_cell_step *at) {
    for (int64_t row = 0; row < at->rows; row++) {
        ROW_BACK(row, 4);
        const REAL *h_before = (const REAL *)at->h_before + row * n;
#pragma omp simd
        for (int64_t u = 0; u < n; u++) {
            const REAL r = g[u], z = g[u + n], new = g[u + 2 * n], from_h = g[u + 3 * n];
            const REAL d = (dh[u] + carry[u]) + dy[u];
            const REAL dn = tanh_backward(new, d * (1 - z), none);
            g[u] = sigmoid_backward(r, dn * from_h, none);
            g[u + n] = sigmoid_backward(z, d * (h_before[u] - new), none);
            g[u + 2 * n] = dn * r;
            g[u + 3 * n] = dn;
            carry[u] = d * z;
        }
    }
}

static void transpose(int64_t from, int64_t to, int64_t rows, int64_t cols, const void *in, void *out) {
    const REAL *a = in;
    REAL *b = out;
    for (int64_t col = 0; col < cols; col++)
        for (int64_t row = from; row < to; row++) b[col * rows + row] = a[row * cols + col];
}

static void add(int64_t n, const void *x, void *to) {
    const REAL *a = x;
    REAL *b = to;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) b[i] += a[i];
}

static void sum_columns(int64_t rows, int64_t cols, int64_t stride, const void *in, void *out) {
    const REAL *a = in;
    REAL *b = out;
    double sum[FGD_COLUMNS] = {0};
    for (int64_t row = 0; row < rows; row++, a += stride) {
#pragma omp simd
        for (int64_t i = 0; i < cols; i++) sum[i] += (double)a[i];
    }
    for (int64_t i = 0; i < cols; i++) b[i] = (REAL)sum[i];
}

#define FORWARD_ENTRY(name, gates, shared, has_cell) [FGD_CELL_##name] = name##_forward,
#define BACKWARD_ENTRY(name, gates, shared, has_cell) [FGD_CELL_##name] = name##_backward,
const fgd_recurrents FGD_TABLE(fgd_recurrents) = {
    .forward = {FGD_CELLS(FORWARD_ENTRY)},
    .backward = {FGD_CELLS(BACKWARD_ENTRY)},
    .transpose = transpose,
    .add = add,
    .sum_columns = sum_columns,
};
