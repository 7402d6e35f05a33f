/* What a compiled set of forward and backward kernels looks like. */
#ifndef FGD_LAYER_KERNELS_H
#define FGD_LAYER_KERNELS_H

#include "kernels.h"
#include "layers.def"

/* The most columns whose bias gradients one call sums: their sums lie on the stack. */
#define FGD_COLUMNS 128

enum {
#define FGD_ACTIVATION_INDEX(name, saved, a, b) FGD_ACTIVATION_##name,
    FGD_ACTIVATIONS(FGD_ACTIVATION_INDEX)
#undef FGD_ACTIVATION_INDEX
    FGD_ACTIVATION_COUNT
};

/* y = activation(z + bias) over `rows` rows of `cols` elements that lie `stride` elements apart, bias one for
 * each column or NULL. y may be z. With a bias, input receives z + bias, unless it is NULL; it may be z. */
typedef void (*fgd_forward_kernel)(const fgd_activation *activation, int64_t rows, int64_t cols,
                                   int64_t stride, const void *bias, const void *z, void *input, void *y);
/* dz from what is saved, the activation's output or its input, and dy; and in dbias (FGD_COLUMNS columns at
 * most) or NULL the sum of dz over the rows, in order and in double. dz may be dy. */
typedef void (*fgd_backward_kernel)(const fgd_activation *activation, int64_t rows, int64_t cols,
                                    int64_t stride, const void *saved, const void *dy, void *dz, void *dbias);
/* For each row -log softmax(logits)[label] and, unless grad is NULL, its gradient divided by batch. grad may
 * be logits. */
typedef void (*fgd_cross_entropy_kernel)(int64_t rows, int64_t classes, double batch, const void *logits,
                                         const int64_t *labels, void *grad, double *row_loss);
/* The sum of (prediction - target)^2 and, unless grad is NULL, (prediction - target) * scale. */
typedef double (*fgd_squared_error_kernel)(int64_t n, double scale, const void *prediction,
                                           const void *target, void *grad);

typedef struct fgd_layers {
    fgd_forward_kernel forward[FGD_ACTIVATION_COUNT];
    fgd_backward_kernel backward[FGD_ACTIVATION_COUNT];
    fgd_cross_entropy_kernel cross_entropy;
    fgd_squared_error_kernel squared_error;
} fgd_layers;

#endif
