/* The part of the C ABI that runs models: forward and backward passes of layers, losses, programs.
 * Conventions and error codes are those of fastgd.h. */
#ifndef FASTGD_LAYERS_H
#define FASTGD_LAYERS_H

#include "fastgd.h"

#ifdef __cplusplus
extern "C" {
#endif

#if defined(FGD_EXPORTS) && defined(__GNUC__) && !defined(_WIN32)
#pragma GCC visibility push(default)
#endif

/* cdef begin: from here to "cdef end" the text is also read by cffi */

/* ---- Layers: forward and backward passes ------------------------------------------------------------ */

/* Activations are functions of one element. Elements have the same bits on every instruction set and with any
 * number of threads; only matrix products may differ. Here every array is contiguous and aligned to its
 * elements. */
typedef struct fgd_activation {
    int32_t kind;
    double a, b; /* its parameters; ignored where it has none */
} fgd_activation;

/* What an activation is called and has: parameters, whose names are NULL where it has none, and whether its
 * derivative comes of its input or, else, of its output. */
typedef struct fgd_activation_info {
    const char *name, *a, *b;
    int32_t saves_input;
} fgd_activation_info;
int fgd_activation_count(void);
const fgd_activation_info *fgd_activation_at(int kind); /* NULL when there is none */
int fgd_activation_find(const char *name);              /* its kind, or FGD_ERROR_ACTIVATION */

/* The matrix product is the caller's: a function in oneDNN's convention (dnnl_sgemm: row order, returns 0
 * when all is well) or Fortran's BLAS with 32-bit sizes. */
typedef enum fgd_gemm_kind { FGD_GEMM_NONE = 0, FGD_GEMM_ROW_MAJOR = 1, FGD_GEMM_BLAS = 2 } fgd_gemm_kind;
typedef int (*fgd_sgemm)(char transa, char transb, int64_t m, int64_t n, int64_t k, float alpha,
                         const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                         int64_t ldc);
typedef int (*fgd_dgemm)(char transa, char transb, int64_t m, int64_t n, int64_t k, double alpha,
                         const double *a, int64_t lda, const double *b, int64_t ldb, double beta, double *c,
                         int64_t ldc);
typedef void (*fgd_function)(void);
int fgd_set_gemm(int dtype, int kind, fgd_function function); /* NULL with FGD_GEMM_NONE */

/* For a product that has threads of its own: functions that tell and set their number, as OpenBLAS has them,
 * or NULL. It is then computed on the threads of this library, each calling it for a part of c at the same
 * time, while its own number is 1; afterwards that is what it was. fgd_set_gemm sets them to NULL. A product
 * on the OpenMP of this library needs none. */
typedef int (*fgd_threads_getter)(void);
typedef void (*fgd_threads_setter)(int n);
int fgd_set_gemm_threads(int dtype, fgd_threads_getter getter, fgd_threads_setter setter);

/* c [m, n] = op(a) [m, k] op(b) [k, n], added to c when accumulate is 1; op is 'N' (as it is) or 'T'
 * (transposed). In row order, rows lda, ldb and ldc elements apart. */
int fgd_gemm(int dtype, char transa, char transb, int64_t m, int64_t n, int64_t k, const void *a, int64_t lda,
             const void *b, int64_t ldb, int accumulate, void *c, int64_t ldc);

/* y may be z, dz may be dy. saved: z or y, as the activation's info says. */
int fgd_activation_forward(int dtype, const fgd_activation *activation, int64_t n, const void *z, void *y);
int fgd_activation_backward(int dtype, const fgd_activation *activation, int64_t n, const void *saved,
                            const void *dy, void *dz);

/* y = activation(a + b) of n elements; y may be a or b. z receives a + b where the activation saves its
 * input, and else may be NULL; it is not y. */
int fgd_add_forward(int dtype, const fgd_activation *activation, int64_t n, const void *a, const void *b,
                    void *z, void *y);

/* y [batch, out] = activation(z), z [batch, out] = x [batch, in] weight [out, in]' + bias [out]; bias may be
 * NULL. z is written where the activation saves its input, and else may be NULL; it is not y. When the matrix
 * product itself fails, and then only, outputs may have been written before FGD_ERROR_GEMM is returned. */
int fgd_linear_forward(int dtype, const fgd_activation *activation, int64_t batch, int64_t in, int64_t out,
                       const void *x, const void *weight, const void *bias, void *z, void *y);

/* From dy, the loss's derivative with respect to y: first, in place, dy becomes that with respect to the
 * activation's input; then dweight [out, in], and dbias [out] and dx [batch, in] unless they are NULL. saved:
 * z or y, as the activation's info says; may be NULL with the identity. */
int fgd_linear_backward(int dtype, const fgd_activation *activation, int64_t batch, int64_t in, int64_t out,
                        const void *x, const void *weight, const void *saved, void *dy, void *dx,
                        void *dweight, void *dbias);

/* What is made of labels. A row's loss is, with the weights w of the classes (1 where there are none), label
 * y and smoothing e (Szegedy et al. 2016, section 7),
 *   -(1 - e) w[y] log p[y] - e / classes * sum_c w[c] log p[c],   p = softmax(logits)
 * and the loss is the sum over the rows, divided by divisor. */
typedef struct fgd_labels {
    const void *weights;    /* [classes] of the logits' dtype, or NULL */
    double label_smoothing; /* 0 to 1 */
    double divisor;         /* 0: the sum of w[y] over the rows */
    int64_t ignored;        /* rows with this label have neither loss nor gradient; -1 for none */
} fgd_labels;

/* FGD_ERROR_LABEL where a label [batch] is neither ignored nor 0 .. classes - 1. */
int fgd_labels_check(int dtype, const fgd_labels *of, int64_t batch, int64_t classes, const int64_t *labels);

/* The loss and its gradient [batch, classes] unless grad is NULL; grad may be logits. row_loss [batch]
 * receives each row's own loss. NaN where the divisor is 0. */
int fgd_softmax_cross_entropy(int dtype, const fgd_labels *of, int64_t batch, int64_t classes,
                              const void *logits, const int64_t *labels, void *grad, double *row_loss,
                              double *loss);

/* Losses of single elements, a prediction against a target each. */
typedef struct fgd_loss {
    int32_t kind;
    double a; /* its parameter; ignored where it has none */
    double divisor;
} fgd_loss;

typedef struct fgd_loss_info {
    const char *name, *a; /* a: NULL where it has no parameter */
} fgd_loss_info;
int fgd_loss_count(void);
const fgd_loss_info *fgd_loss_at(int kind); /* NULL when there is none */
int fgd_loss_find(const char *name);        /* its kind, or FGD_ERROR_LOSS */

/* The sum over n elements, divided by the divisor, and its gradient unless grad is NULL; grad may be
 * prediction. scratch has fgd_loss_scratch(n) elements. */
int64_t fgd_loss_scratch(int64_t n);
int fgd_loss_and_grad(int dtype, const fgd_loss *of, int64_t n, const void *prediction, const void *target,
                      void *grad, double *scratch, double *loss);

/* Normalisation of the rows of x [rows, cols]: layer normalisation (Ba, Kiros and Hinton 2016, equation 3),
 * or, not centered, RMS normalisation (Zhang and Sennrich 2019, equation 4). */
typedef struct fgd_layer_norm {
    int32_t centered;
    double eps; /* added to the variance; 0 or above */
} fgd_layer_norm;

/* y [rows, cols], which may be x, and for backward in stats [rows, 2] each row's mean and 1 / deviation.
 * weight and bias are [cols] or NULL, bias with a weight only. */
int fgd_layer_norm_forward(int dtype, const fgd_layer_norm *of, int64_t rows, int64_t cols, const void *x,
                           const void *weight, const void *bias, double *stats, void *y);

/* dx, which may be dy, dweight and dbias, each unless it is NULL. scratch has fgd_layer_norm_scratch(rows,
 * cols) elements, and may be NULL where neither dweight nor dbias is asked for. */
int64_t fgd_layer_norm_scratch(int64_t rows, int64_t cols);
int fgd_layer_norm_backward(int dtype, const fgd_layer_norm *of, int64_t rows, int64_t cols, const void *x,
                            const void *weight, const double *stats, const void *dy, void *dx, void *dweight,
                            void *dbias, double *scratch);

/* Softmax of the rows of x [rows, cols] (Bridle 1990, section 3), of any size, or its logarithm. y may be x,
 * dx may be dy. */
typedef struct fgd_softmax {
    int32_t log;
} fgd_softmax;
int fgd_softmax_forward(int dtype, const fgd_softmax *of, int64_t rows, int64_t cols, const void *x,
                        void *y);
int fgd_softmax_backward(int dtype, const fgd_softmax *of, int64_t rows, int64_t cols, const void *y,
                         const void *dy, void *dx);

/* y [n, dim] = the rows of weight [rows, dim] that the indices [n], 0 .. rows - 1, say; FGD_ERROR_LABEL for
 * others. dweight [rows, dim]: for each row the sum of the rows of dy with its index, added in their order; 0
 * for the index `padding` (-1: there is none). */
typedef struct fgd_embedding {
    int64_t padding;
} fgd_embedding;
int fgd_embedding_forward(int dtype, const fgd_embedding *of, int64_t n, int64_t rows, int64_t dim,
                          const int64_t *indices, const void *weight, void *y);
int fgd_embedding_backward(int dtype, const fgd_embedding *of, int64_t n, int64_t rows, int64_t dim,
                           const int64_t *indices, const void *dy, void *dweight);

/* Dropout (Srivastava et al. 2014, section 10): of n elements, those are kept whose 32 random bits are p 2^32
 * or more, and multiplied by 1 / (1 - p); the others become 0. The bits are a function of stream [1], place
 * and counter [1], which forward increments first, so that backward finds the same mask. y may be x, dx may
 * be dy. */
typedef struct fgd_dropout {
    double p;       /* 0 to 1 */
    uint64_t place; /* tells masks of one stream from each other */
} fgd_dropout;
int fgd_dropout_forward(int dtype, const fgd_dropout *of, int64_t n, const void *x, const uint64_t *stream,
                        uint64_t *counter, void *y);
int fgd_dropout_backward(int dtype, const fgd_dropout *of, int64_t n, const void *dy, const uint64_t *stream,
                         const uint64_t *counter, void *dx);

/* Normalisation of the channels of x [batch, channels, length] over batch and length (Ioffe and Szegedy 2015,
 * algorithm 1), or by running statistics. */
typedef struct fgd_batch_norm {
    int32_t running; /* 1: mean and var are what x is normalised by, and stay as they are */
    double eps;      /* added to the variance; 0 or above */
    double momentum; /* the batch's part in new running statistics, 0 to 1; below 0: 1 / count */
} fgd_batch_norm;

/* y, which may be x, and for backward in stats [channels, 2] each channel's mean and 1 / deviation. weight
 * and bias are [channels] or NULL, bias with a weight only. mean and var [channels] are both NULL or both
 * not; where they are not what x is normalised by they are updated, var by the unbiased variance, and count
 * [1] is incremented before. There must then be two numbers in a channel. */
int fgd_batch_norm_forward(int dtype, const fgd_batch_norm *of, int64_t batch, int64_t channels,
                           int64_t length, const void *x, const void *weight, const void *bias, void *mean,
                           void *var, int64_t *count, double *stats, void *y);

/* dx, which may be dy, dweight and dbias, each unless it is NULL. */
int fgd_batch_norm_backward(int dtype, const fgd_batch_norm *of, int64_t batch, int64_t channels,
                            int64_t length, const void *x, const void *weight, const double *stats,
                            const void *dy, void *dx, void *dweight, void *dbias);
/* Convolution of images x [batch, in, height, width] with kernels weight [out, in / groups, kernel_height,
 * kernel_width] (LeCun et al. 1998, section II A), for each output channel over its group of input channels,
 * in two dimensions; in one, height and kernel_height are 1. Pairs are for height and width. */
typedef struct fgd_conv {
    int64_t stride[2];
    int64_t padding[2][2]; /* zeros before the first element and behind the last */
    int64_t dilation[2];   /* from element to element of the kernel */
    int64_t groups;        /* divides in and out */
    const fgd_activation *activation;
} fgd_conv;

/* The elements that the scratch memory of the calls below has; backward: 1 for fgd_conv_backward. 0 where
 * they refuse the sizes. */
int64_t fgd_conv_scratch(int dtype, const fgd_conv *of, int64_t batch, int64_t in, int64_t out,
                         int64_t height, int64_t width, int64_t kernel_height, int64_t kernel_width,
                         int backward);

/* y = activation(z), z = convolution + bias [out], both [batch, out, out_height, out_width] with
 *   out_height = (height + padding - dilation (kernel_height - 1) - 1) / stride + 1.
 * bias and z as in fgd_linear_forward, errors too. */
int fgd_conv_forward(int dtype, const fgd_conv *of, int64_t batch, int64_t in, int64_t out, int64_t height,
                     int64_t width, int64_t kernel_height, int64_t kernel_width, const void *x,
                     const void *weight, const void *bias, void *z, void *y, double *scratch);

/* dweight, and dx and dbias unless they are NULL, from dy, as fgd_linear_backward. */
int fgd_conv_backward(int dtype, const fgd_conv *of, int64_t batch, int64_t in, int64_t out, int64_t height,
                      int64_t width, int64_t kernel_height, int64_t kernel_width, const void *x,
                      const void *weight, const void *saved, void *dy, void *dx, void *dweight, void *dbias,
                      double *scratch);

/* Windows of planes [height, width]: output (i, j) is of the elements that begin at (i stride - padding, the
 * same of j), as far as they lie inside the plane. */
typedef struct fgd_pool {
    int64_t kernel[2], stride[2];
    int64_t padding[2];        /* less than the kernel */
    int32_t count_include_pad; /* 1: a mean also counts its window's elements in the padding on either side */
} fgd_pool;

/* y [planes, out_height, out_width], where each window begins before the plane's end: the largest element of
 * each, NaN if one is, and for backward in index, of y's shape, its place in the plane unless index is NULL.
 * Of several the first, of NaN the last. */
int fgd_max_pool_forward(int dtype, const fgd_pool *of, int64_t planes, int64_t height, int64_t width,
                         int64_t out_height, int64_t out_width, const void *x, int32_t *index, void *y);
/* index holds what forward has left there. */
int fgd_max_pool_backward(int dtype, const fgd_pool *of, int64_t planes, int64_t height, int64_t width,
                          int64_t out_height, int64_t out_width, const int32_t *index, const void *dy,
                          void *dx);

/* The mean of each window. */
int fgd_average_pool_forward(int dtype, const fgd_pool *of, int64_t planes, int64_t height, int64_t width,
                             int64_t out_height, int64_t out_width, const void *x, void *y);
int fgd_average_pool_backward(int dtype, const fgd_pool *of, int64_t planes, int64_t height, int64_t width,
                              int64_t out_height, int64_t out_width, const void *dy, void *dx);
/* Recurrent layers over sequences x [batch, time, in]: one direction of one layer. csrc/recurrent.def has
 * the cells, csrc/recurrent_kernels.c their formulas. Each gate has `hidden` rows of weight_ih
 * [gates hidden, in], weight_hh [gates hidden, hidden] and both biases [gates hidden]. */
typedef struct fgd_recurrent {
    int32_t cell;
    int32_t reverse;    /* 1: from a row's last step to its first */
    int32_t directions; /* 2: y's last dimension is [2, hidden], the second half that of reverse 1 */
    int32_t last;       /* 1: y [batch, hidden] is the state behind all steps; 0: y [batch, time, hidden] */
    int32_t add_dx;     /* 1: backward adds to dx */
} fgd_recurrent;

typedef struct fgd_cell_info {
    const char *name;
    int32_t gates, shared; /* shared: the first gates, those of x W_ih' + h W_hh' as one sum */
    int32_t has_cell;      /* 1: there is a second state c */
} fgd_cell_info;
int fgd_cell_count(void);
const fgd_cell_info *fgd_cell_at(int cell); /* NULL when there is none */
int fgd_cell_find(const char *name);        /* its number, or FGD_ERROR_OPTION */

/* lengths [batch], or NULL: row b has the steps before lengths[b], 1 to time; behind them y is 0, and x is
 * not read. Both biases may be NULL. h0, c0, hn, cn [batch, hidden], each NULL or the state before and behind
 * all steps; hn may be h0, cn c0; h0 and c0 of NULL are 0. saved, fgd_recurrent_saved elements, is for
 * backward. scratch has fgd_recurrent_scratch times 8 bytes, 8-byte aligned. When a matrix product itself
 * fails, and then only, outputs may have been written before FGD_ERROR_GEMM is returned. */
int64_t fgd_recurrent_saved(const fgd_recurrent *of, int64_t batch, int64_t time, int64_t in, int64_t hidden);
int64_t fgd_recurrent_scratch(int dtype, const fgd_recurrent *of, int64_t batch, int64_t time,
                              int64_t hidden);
int fgd_recurrent_forward(int dtype, const fgd_recurrent *of, int64_t batch, int64_t time, int64_t in,
                          int64_t hidden, const void *x, const int64_t *lengths, const void *weight_ih,
                          const void *weight_hh, const void *bias_ih, const void *bias_hh, const void *h0,
                          const void *c0, void *y, void *hn, void *cn, void *saved, void *scratch);

/* The gradients, with none for what hn and cn are used for. dx may be NULL, and so may both dbias. Changes
 * what is saved. */
int fgd_recurrent_backward(int dtype, const fgd_recurrent *of, int64_t batch, int64_t time, int64_t in,
                           int64_t hidden, const int64_t *lengths, const void *weight_ih,
                           const void *weight_hh, const void *dy, void *dx, void *dweight_ih,
                           void *dweight_hh, void *dbias_ih, void *dbias_hh, void *saved, void *scratch);

/* The same with the gradients of the states [batch, hidden]: dcn, of what cn is used for, and dh0 and dc0,
 * each unless it is NULL. What hn is used for is part of dy. dcn and dc0 are for cells that have a c. */
int fgd_recurrent_backward_states(int dtype, const fgd_recurrent *of, int64_t batch, int64_t time, int64_t in,
                                  int64_t hidden, const int64_t *lengths, const void *weight_ih,
                                  const void *weight_hh, const void *dy, const void *dcn, void *dx,
                                  void *dweight_ih, void *dweight_hh, void *dbias_ih, void *dbias_hh,
                                  void *dh0, void *dc0, void *saved, void *scratch);

/* Multi-head self-attention (Vaswani et al. 2017, section 3.2): y [batch, time, dim] of queries, keys and
 * values qkv [batch, time, 3, dim], of which each head has dim / heads columns. lengths [batch], or NULL: row
 * b has the steps before lengths[b], 1 to time; none sees those behind them, where y is 0. */
typedef struct fgd_attention {
    int64_t heads;  /* divides dim */
    int32_t causal; /* 1: a step sees itself and those before it alone */
} fgd_attention;

/* scratch has fgd_attention_scratch elements; backward: 1 for fgd_attention_backward. dqkv may not be qkv.
 * When a matrix product itself fails, and then only, outputs may have been written before FGD_ERROR_GEMM is
 * returned. */
int64_t fgd_attention_scratch(int dtype, const fgd_attention *of, int64_t batch, int64_t time, int64_t dim,
                              int backward);
int fgd_attention_forward(int dtype, const fgd_attention *of, int64_t batch, int64_t time, int64_t dim,
                          const void *qkv, const int64_t *lengths, void *y, double *scratch);
int fgd_attention_backward(int dtype, const fgd_attention *of, int64_t batch, int64_t time, int64_t dim,
                           const void *qkv, const int64_t *lengths, const void *dy, void *dqkv,
                           double *scratch);

/* y = x + weight, for x [batch, time, dim] and the first steps of weight [max_time, dim]; y may be x.
 * dweight: the sums of dy over the batch, in order and in double, and 0 behind `time`. */
typedef struct fgd_positions {
    int64_t max_time; /* time or more */
} fgd_positions;
int fgd_positions_forward(int dtype, const fgd_positions *of, int64_t batch, int64_t time, int64_t dim,
                          const void *x, const void *weight, void *y);
int fgd_positions_backward(int dtype, const fgd_positions *of, int64_t batch, int64_t time, int64_t dim,
                           const void *dy, void *dweight);

/* Sets y [batch, time, dim] to 0 from step lengths[b] of row b on. none: not used. */
int fgd_cut(int dtype, const void *none, int64_t batch, int64_t time, int64_t dim, const int64_t *lengths,
            void *y);

/* ---- Programs: many passes, and the step behind them, in one call ----------------------------------- */

/* One call of an entry above that takes (dtype, of, sizes..., pointers...): the description, the sizes and
 * the pointers in its order. first_gradient, n_gradients: the tensors whose gradients are complete behind it,
 * for fgd_train. */
typedef struct fgd_op {
    int32_t entry; /* fgd_op_find */
    int32_t dtype;
    const void *of;
    int64_t sizes[FGD_MAX_SIZES];
    void *pointers[FGD_MAX_POINTERS];
    int64_t first_gradient, n_gradients;
} fgd_op;

/* An entry that an operation may call: its name without fgd_, and how much it takes. */
typedef struct fgd_op_info {
    const char *name;
    int32_t n_sizes, n_pointers;
} fgd_op_info;
int fgd_op_count(void);
const fgd_op_info *fgd_op_at(int entry); /* NULL when there is none */
int fgd_op_find(const char *name);       /* its entry, or FGD_ERROR_OP */

/* Runs the operations one after the other. The first that fails ends it: its code is returned, its number
 * stands in *failed (-1: none did), and those before it have done their work. */
int fgd_run(const fgd_op *ops, int64_t n_ops, int64_t *failed);

/* Some operations. */
typedef struct fgd_program {
    const fgd_op *ops;
    int64_t n_ops;
} fgd_program;

/* Runs programs that do not depend on each other, each on one thread, on up to fgd_get_num_threads threads.
 * Where programs fail, the code of the first of them is returned; failed[0] is its number, and failed[1] that
 * of the operation (-1, -1: none did). Others may have done their work. */
int fgd_run_together(const fgd_program *programs, int64_t n_programs, int64_t *failed);

/* fgd_run, then fgd_update, which is not reached when an operation fails. A gradient that the options want
 * measured is measured as soon as it is complete, while it is in cache, if every tensor's is named by one
 * operation; the result is that of fgd_update. */
int fgd_train(const fgd_op *ops, int64_t n_ops, int64_t *failed, const fgd_group *groups, int64_t n_groups,
              const fgd_tensor *tensors, int64_t n_tensors, const fgd_options *options, void *workspace,
              int64_t workspace_size, fgd_report *report);

/* cdef end */

#if defined(FGD_EXPORTS) && defined(__GNUC__) && !defined(_WIN32)
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif
#endif
