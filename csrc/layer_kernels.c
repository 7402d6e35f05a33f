/* The loops of the forward and backward kernels, compiled once per instruction set and precision.
 *
 * The build defines FGD_ISA (a name in isa.def) and FGD_DOUBLE (0 or 1). Where an output may be an input the
 * pointers are not restrict; `omp simd` says what is left, that elements do not depend on each other. */
#include "layer_kernels.h"
#include "real.h"
#include "softmax.h"

#include <string.h>

/* An activation's parameters, 0 where it has none. */
typedef struct parameters {
    REAL a, b;
} parameters;

INLINE parameters parameters_of(const fgd_activation *activation) {
    return (parameters){(REAL)activation->a, (REAL)activation->b};
}

#define FORWARD(name) INLINE REAL name##_forward(REAL z, const parameters s UNUSED)
#define BACKWARD_BY_OUTPUT(name) \
    INLINE REAL name##_backward(REAL y UNUSED, REAL dy, const parameters s UNUSED)
#define BACKWARD_BY_INPUT(name) INLINE REAL name##_backward(REAL z, REAL dy, const parameters s UNUSED)
#include "layers.h"

#define FORWARD_LOOP(name, saved, a, b)                                         \
    static void name##_forward_loop(const fgd_activation *activation, int64_t rows, int64_t cols, \
                                    int64_t stride, const void *bias, const void *in, void *input, \
                                    void *out) {                                \
        const parameters s = parameters_of(activation);                         \
        const REAL *add = bias;                                                 \
        for (int64_t row = 0; row < rows; row++) {                              \
            const REAL *z = (const REAL *)in + row * stride;                    \
            REAL *y = (REAL *)out + row * stride;                               \
            REAL *kept = input ? (REAL *)input + row * stride : NULL;           \
            if (add && kept) {                                                  \
                _Pragma("omp simd")                                             \
                for (int64_t i = 0; i < cols; i++) {                            \
                    const REAL x = z[i] + add[i];                               \
                    kept[i] = x;                                                \
                    y[i] = name##_forward(x, s);                                \
                }                                                               \
            } else if (add) {                                                   \
                _Pragma("omp simd")                                             \
                for (int64_t i = 0; i < cols; i++) y[i] = name##_forward(z[i] + add[i], s); \
            } else {                                                            \
                _Pragma("omp simd")                                             \
                for (int64_t i = 0; i < cols; i++) y[i] = name##_forward(z[i], s); \
            }                                                                   \
        }                                                                       \
    }
FGD_ACTIVATIONS(FORWARD_LOOP)

#define BACKWARD_LOOP(name, kept, a, b)                                         \
    static void name##_backward_loop(const fgd_activation *activation, int64_t rows, int64_t cols, \
                                     int64_t stride, const void *saved, const void *dy, void *dz, \
                                     void *dbias) {                             \
        const parameters s = parameters_of(activation);                         \
        const REAL *x = saved, *g = dy;                                         \
        REAL *into = dz, *column = dbias;                                       \
        double sum[FGD_COLUMNS] = {0};                                          \
        for (int64_t row = 0; row < rows; row++, x += stride, g += stride, into += stride) { \
            if (column) {                                                       \
                _Pragma("omp simd")                                             \
                for (int64_t i = 0; i < cols; i++) {                            \
                    const REAL d = name##_backward(x[i], g[i], s);              \
                    into[i] = d;                                                \
                    sum[i] += (double)d;                                        \
                }                                                               \
            } else {                                                            \
                _Pragma("omp simd")                                             \
                for (int64_t i = 0; i < cols; i++) into[i] = name##_backward(x[i], g[i], s); \
            }                                                                   \
        }                                                                       \
        for (int64_t i = 0; column && i < cols; i++) column[i] = (REAL)sum[i];  \
    }
FGD_ACTIVATIONS(BACKWARD_LOOP)

/* The sum of w[c] (z_c - largest), element i in lane i modulo FGD_LANES; w may be NULL. */
INLINE double sum_of_logits(int64_t n, const REAL *z, REAL largest, const REAL *w) {
    double sum[FGD_LANES] = {0};
    int64_t i = 0;
    for (; i + FGD_LANES <= n; i += FGD_LANES) {
#pragma omp simd
        for (int k = 0; k < FGD_LANES; k++)
            sum[k] += (w ? (double)w[i + k] : 1) * ((double)z[i + k] - (double)largest);
    }
    for (int k = 0; i < n; i++, k++) sum[k] += (w ? (double)w[i] : 1) * ((double)z[i] - (double)largest);
    return fgd_fold_lanes(sum);
}

static double sum_of_weights(int64_t n, const void *weights, const int64_t *labels, int64_t ignored) {
    const REAL *w = weights;
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        if (!labels || labels[i] != ignored) sum += w ? (double)w[labels ? labels[i] : i] : 1;
    return sum;
}

/* Softmax and negative log-likelihood, Bridle 1990, section 3, with m the largest logit and s the sum of
 * e^(z_j - m):  -log p_c = log s - (z_c - m);   grad_j = (own p_j - e / classes w_j - [j = y] (1 - e) w_y) /
 * divisor  with  own = (1 - e) w_y + e / classes sum_c w_c. The label's own gradient is taken in double,
 * where softmax - 1 does not cancel. */
static void cross_entropy(const fgd_labels *of, double divisor, double total_weight, int64_t rows,
                          int64_t classes, const void *logits, const int64_t *labels, void *grad,
                          double *row_loss) {
    const REAL *w = of->weights;
    const double each = of->label_smoothing / (double)classes;
    const REAL even = (REAL)(each / divisor);
    for (int64_t row = 0; row < rows; row++) {
        const REAL *z = (const REAL *)logits + row * classes;
        REAL *g = grad ? (REAL *)grad + row * classes : NULL;
        const int64_t label = labels[row];
        if (label == of->ignored) {
            row_loss[row] = 0;
            if (g) memset(g, 0, (size_t)classes * sizeof(REAL));
            continue;
        }
        const REAL largest = max_of(classes, z);
        const double weight = w ? (double)w[label] : 1, hard = (1 - of->label_smoothing) * weight;
        const double chosen = (double)z[label] - (double)largest;
        const double others = each > 0 ? sum_of_logits(classes, z, largest, w) : 0;
        const double sum = sum_of_exp(classes, z, largest, g), log_sum = log_of(sum);
        row_loss[row] = hard * (log_sum - chosen);
        if (each > 0) row_loss[row] += each * (log_sum * total_weight - others);
        if (!g) continue;
        const double own = hard + each * total_weight, target = hard + each * weight;
        const double of_label = ((double)g[label] * own - sum * target) / (sum * divisor);
        const REAL scale = (REAL)(own / (sum * divisor));
        if (each > 0) {
#pragma omp simd
            for (int64_t i = 0; i < classes; i++) g[i] = g[i] * scale - even * (w ? w[i] : 1);
        } else {
#pragma omp simd
            for (int64_t i = 0; i < classes; i++) g[i] = g[i] * scale;
        }
        g[label] = (REAL)of_label;
    }
}

#define LOSS(name) INLINE double name##_loss(REAL p, REAL t, const parameters s UNUSED)
#define SLOPE(name) INLINE REAL name##_slope(REAL p, REAL t, const parameters s UNUSED)
#include "losses.h"

#define LOSS_LOOP(name, factor, parameter)                                      \
    static double name##_loss_loop(const fgd_loss *of, int64_t n, double divisor, const void *prediction, \
                                   const void *target, void *grad) {            \
        const REAL *p = prediction, *t = target, by = (REAL)(factor / divisor); \
        const parameters s = {(REAL)of->a, 0};                                  \
        REAL *g = grad;                                                         \
        double sum[FGD_LANES] = {0};                                            \
        int64_t i = 0;                                                          \
        for (; i + FGD_LANES <= n; i += FGD_LANES) {                            \
            _Pragma("omp simd")                                                 \
            for (int k = 0; k < FGD_LANES; k++) {                               \
                const REAL one = p[i + k], other = t[i + k];                    \
                sum[k] += name##_loss(one, other, s);                           \
                if (g) g[i + k] = name##_slope(one, other, s) * by;             \
            }                                                                   \
        }                                                                       \
        for (int k = 0; i < n; i++, k++) {                                      \
            const REAL one = p[i], other = t[i];                                \
            sum[k] += name##_loss(one, other, s);                               \
            if (g) g[i] = name##_slope(one, other, s) * by;                     \
        }                                                                       \
        return fgd_fold_lanes(sum);                                             \
    }
FGD_LOSSES(LOSS_LOOP)

#define FORWARD_ENTRY(name, saved, a, b) [FGD_ACTIVATION_##name] = name##_forward_loop,
#define BACKWARD_ENTRY(name, saved, a, b) [FGD_ACTIVATION_##name] = name##_backward_loop,
#define LOSS_ENTRY(name, factor, parameter) [FGD_LOSS_##name] = name##_loss_loop,
const fgd_layers FGD_TABLE(fgd_layers) = {
    .forward = {FGD_ACTIVATIONS(FORWARD_ENTRY)},
    .backward = {FGD_ACTIVATIONS(BACKWARD_ENTRY)},
    .cross_entropy = cross_entropy,
    .sum_of_weights = sum_of_weights,
    .loss = {FGD_LOSSES(LOSS_ENTRY)},
};
