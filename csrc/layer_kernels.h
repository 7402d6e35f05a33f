/* What a compiled set of forward and backward kernels looks like. */
#ifndef FGD_LAYER_KERNELS_H
#define FGD_LAYER_KERNELS_H

#include "kernels.h"
#include "layers.def"
#include "losses.def"

/* The most columns whose bias gradients one call sums: their sums lie on the stack. */
#define FGD_COLUMNS 128

enum {
#define FGD_ACTIVATION_INDEX(name, saved, a, b) FGD_ACTIVATION_##name,
    FGD_ACTIVATIONS(FGD_ACTIVATION_INDEX)
#undef FGD_ACTIVATION_INDEX
    FGD_ACTIVATION_COUNT
};

enum {
#define FGD_LOSS_INDEX(name, factor, a) FGD_LOSS_##name,
    FGD_LOSSES(FGD_LOSS_INDEX)
#undef FGD_LOSS_INDEX
    FGD_LOSS_COUNT
};

/* y = activation(z + bias) over `rows` rows of `cols` elements that lie `stride` elements apart, bias one for
 * each column or NULL. y may be z. With a bias, input receives z + bias, unless it is NULL; it may be z. */
typedef void (*fgd_forward_kernel)(const fgd_activation *activation, int64_t rows, int64_t cols,
                                   int64_t stride, const void *bias, const void *z, void *input, void *y);
/* dz from what is saved, the activation's output or its input, and dy; and in dbias (FGD_COLUMNS columns at
 * most) or NULL the sum of dz over the rows, in order and in double. dz may be dy. */
typedef void (*fgd_backward_kernel)(const fgd_activation *activation, int64_t rows, int64_t cols,
                                    int64_t stride, const void *saved, const void *dy, void *dz, void *dbias);
/* For each row its loss and, unless grad is NULL, the gradient of that over the divisor. grad may be logits.
 * total_weight: of all classes. */
typedef void (*fgd_cross_entropy_kernel)(const fgd_labels *of, double divisor, double total_weight,
                                         int64_t rows, int64_t classes, const void *logits,
                                         const int64_t *labels, void *grad, double *row_loss);
/* The sum of the elements' losses and, unless grad is NULL, its gradient over the divisor. */
typedef double (*fgd_loss_kernel)(const fgd_loss *of, int64_t n, double divisor, const void *prediction,
                                  const void *target, void *grad);
/* The sum of n weights, and of those of the labels. */
typedef double (*fgd_weight_kernel)(int64_t n, const void *weights, const int64_t *labels, int64_t ignored);

typedef struct fgd_layers {
    fgd_forward_kernel forward[FGD_ACTIVATION_COUNT];
    fgd_backward_kernel backward[FGD_ACTIVATION_COUNT];
    fgd_cross_entropy_kernel cross_entropy;
    fgd_weight_kernel sum_of_weights;
    fgd_loss_kernel loss[FGD_LOSS_COUNT];
} fgd_layers;

#endif
