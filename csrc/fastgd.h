/* The stable C ABI of fastgd: everything another language or library may call, and nothing else. */
#ifndef FASTGD_H
#define FASTGD_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Conventions. Every function that can fail returns an error code: FGD_OK (0) or a negative number, and
 * then nothing has been changed. No function allocates memory, prints or ends the process. Sizes are
 * numbers of elements and strides numbers of bytes, both 64 bits. Calls on disjoint memory may run in
 * several threads at once; fgd_set_* calls may not run beside any other. */

/* cdef begin: from here to "cdef end" the text is also read by cffi */

#define FGD_ABI_VERSION 2
#define FGD_MAX_SLOTS 8
#define FGD_MAX_SWITCHES 4
#define FGD_MAX_SCALARS 16
#define FGD_MAX_DIMS 64
#define FGD_MAX_THREADS 1024 /* asking OpenMP for more than the system has would end the process */

typedef enum fgd_error {
    FGD_OK = 0,
    FGD_ERROR_NULL = -1,
    FGD_ERROR_RULE = -2,
    FGD_ERROR_DTYPE = -3,
    FGD_ERROR_SIZE = -4,
    FGD_ERROR_GROUP = -5,
    FGD_ERROR_SWITCHES = -6,
    FGD_ERROR_SLOT = -7,
    FGD_ERROR_OPTION = -8,
    FGD_ERROR_WORKSPACE = -9,
    FGD_ERROR_ISA = -10,
    FGD_ERROR_THREADS = -11,
    FGD_ERROR_LAYOUT = -12,
    FGD_ERROR_LABEL = -13,
    FGD_ERROR_GEMM = -14,
    FGD_ERROR_ACTIVATION = -15
} fgd_error;

typedef enum fgd_dtype { FGD_F32 = 0, FGD_F64 = 1 } fgd_dtype;
typedef enum fgd_norm { FGD_NORM_2 = 0, FGD_NORM_INF = 1 } fgd_norm;

int fgd_abi_version(void);
const char *fgd_error_text(int code); /* one English sentence; never NULL */

/* ---- Rules: what can be asked for, by name -------------------------------------------------------- */

/* One update rule. A slot is an array of state beside the parameter; slot_switch[i] is the index of the
 * switch that must be on for slot i to be used, -1 when it always is; slot_unsigned[i] is 1 when slot i is
 * never negative and divides the step or stands under a root (sums of squares). The meaning of every scalar
 * is in rules.h beside the rule's formula. */
typedef struct fgd_rule {
    const char *name;
    int32_t n_slots, n_switches, n_scalars;
    const char *slots[FGD_MAX_SLOTS];
    int32_t slot_switch[FGD_MAX_SLOTS];
    const char *switches[FGD_MAX_SWITCHES];
    const char *scalars[FGD_MAX_SCALARS];
    int32_t slot_unsigned[FGD_MAX_SLOTS];
} fgd_rule;

int fgd_rule_count(void);
const fgd_rule *fgd_rule_at(int rule); /* NULL when there is no such rule */
int fgd_rule_find(const char *name);   /* its index, or FGD_ERROR_RULE */

/* ---- Instruction sets and threads ------------------------------------------------------------------ */

int fgd_isa_count(void);           /* those compiled in, the plainest first */
const char *fgd_isa_name(int isa); /* NULL when there is no such set */
int fgd_isa_supported(int isa);    /* 1 when this CPU can run it */
int fgd_get_isa(void);             /* the one in use; at first the last supported one */
int fgd_set_isa(int isa);

int fgd_has_openmp(void);
int fgd_get_num_threads(void);
/* 1 to FGD_MAX_THREADS; results do not depend on it. A forked child has one. */
int fgd_set_num_threads(int n);

/* ---- The step -------------------------------------------------------------------------------------- */

/* Where elements lie when not every operand of a tensor is contiguous. strides holds one row of ndim
 * strides for param, one for grad, and one for each slot of the rule in its order. */
typedef struct fgd_layout {
    int32_t ndim;
    const int64_t *shape;
    const int64_t *strides;
} fgd_layout;

typedef struct fgd_tensor {
    int64_t size;
    int32_t dtype; /* fgd_dtype of param, grad and state */
    int32_t group; /* index into the groups */
    void *param;
    const void *grad;
    void *state[FGD_MAX_SLOTS];
    int64_t *step;            /* incremented when the update has been applied; may be NULL */
    const fgd_layout *layout; /* NULL: every operand is contiguous */
} fgd_tensor;

/* The hyperparameters of some tensors at one step: switches is a bit mask in the rule's order, scalars
 * hold the rule's scalars in its order, computed by the caller in double. */
typedef struct fgd_group {
    int32_t rule;
    uint32_t switches;
    int32_t maximize; /* 1: the gradient's sign is turned */
    double scalars[FGD_MAX_SCALARS];
} fgd_group;

/* What happens to gradients before the rule sees them, in this order:
 *   g = g / grad_scale;  g = min(max(g, -clip_value), clip_value);  g = g * clip_coef
 * with clip_coef = min(1, clip_norm / (norm + 1e-6)). Gradients are never written by fgd_update. */
typedef struct fgd_options {
    double grad_scale;      /* 1 for none; above 0, and neither it nor 1 / it infinite */
    double clip_value;      /* INFINITY for none */
    double clip_norm;       /* INFINITY for none */
    int32_t norm;           /* fgd_norm that clip_norm means */
    int32_t measure;        /* 1: fill the report's norm even when nothing needs it */
    int32_t skip_nonfinite; /* 1: change nothing at all when a gradient, or the norm, is NaN or infinite */
} fgd_options;

typedef struct fgd_report {
    int32_t measured; /* 1: the fields below were filled by reading the gradients */
    int32_t skipped;  /* 1: nothing was changed, because of nonfinite_* */
    double norm;      /* global norm after grad_scale and clip_value, before clip_norm */
    double sumsq;     /* norm squared as it was summed; may overflow where norm does not */
    double clip_coef; /* what the gradients were multiplied by; 1 when not clipped */
    int64_t nonfinite_tensor, nonfinite_element; /* the first such element, in the layout's order; -1: none */
    int64_t error_tensor;                        /* with an error code: the tensor it is about, or -1 */
} fgd_report;

/* Bytes of scratch memory, 8-byte aligned, that the calls below need for these tensors. */
int64_t fgd_workspace_size(const fgd_tensor *tensors, int64_t n_tensors);

/* Updates all tensors: measures the gradients if the options need it, then applies each group's rule. */
int fgd_update(const fgd_group *groups, int64_t n_groups, const fgd_tensor *tensors, int64_t n_tensors,
               const fgd_options *options, void *workspace, int64_t workspace_size, fgd_report *report);

/* Measures the tensors' grad (param and state are not used, layouts need only the rows up to grad).
 * norms, when not NULL, receives one norm for each tensor. */
int fgd_measure(const fgd_tensor *tensors, int64_t n_tensors, const fgd_options *options, double *norms,
                void *workspace, int64_t workspace_size, fgd_report *report);

/* Clips arrays in place: param and grad of each tensor are the same array. As fgd_update with the rule
 * "write the gradient back". */
int fgd_clip(const fgd_tensor *tensors, int64_t n_tensors, const fgd_options *options, void *workspace,
             int64_t workspace_size, fgd_report *report);

/* ---- Layers: forward and backward passes ------------------------------------------------------------ */

/* Activations are functions of one element whose derivative follows from their output. Elements have the same
 * bits on every instruction set and with any number of threads; only matrix products may differ. Here every
 * array is contiguous and aligned to its elements. */
int fgd_activation_count(void);
const char *fgd_activation_name(int activation); /* NULL when there is no such activation */
int fgd_activation_find(const char *name);       /* its index, or FGD_ERROR_ACTIVATION */

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

/* c [m, n] = op(a) [m, k] op(b) [k, n], added to c when accumulate is 1; op is 'N' (as it is) or 'T'
 * (transposed). In row order, rows lda, ldb and ldc elements apart. */
int fgd_gemm(int dtype, char transa, char transb, int64_t m, int64_t n, int64_t k, const void *a, int64_t lda,
             const void *b, int64_t ldb, int accumulate, void *c, int64_t ldc);

/* y may be z, dz may be dy. */
int fgd_activation_forward(int dtype, int activation, int64_t n, const void *z, void *y);
int fgd_activation_backward(int dtype, int activation, int64_t n, const void *y, const void *dy, void *dz);

/* y [batch, out] = activation(x [batch, in] weight [out, in]' + bias [out]); bias may be NULL. When the
 * matrix product itself fails, and then only, outputs may have been written before FGD_ERROR_GEMM is
 * returned. */
int fgd_linear_forward(int dtype, int activation, int64_t batch, int64_t in, int64_t out, const void *x,
                       const void *weight, const void *bias, void *y);

/* From dy, the loss's derivative with respect to y: first, in place, dy becomes that with respect to the
 * activation's input; then dweight [out, in], and dbias [out] and dx [batch, in] unless they are NULL. y may
 * be NULL with the identity. */
int fgd_linear_backward(int dtype, int activation, int64_t batch, int64_t in, int64_t out, const void *x,
                        const void *weight, const void *y, void *dy, void *dx, void *dweight, void *dbias);

/* The mean over the batch of -log softmax(logits)[label], and its gradient [batch, classes] unless grad is
 * NULL; grad may be logits. row_loss [batch] receives each row's own loss. NaN for an empty batch. */
int fgd_softmax_cross_entropy(int dtype, int64_t batch, int64_t classes, const void *logits,
                              const int64_t *labels, void *grad, double *row_loss, double *loss);

/* The mean over n elements of (prediction - target)^2, and its gradient unless grad is NULL; grad may be
 * prediction. scratch has fgd_mean_squared_error_scratch(n) elements. NaN for n = 0. */
int64_t fgd_mean_squared_error_scratch(int64_t n);
int fgd_mean_squared_error(int dtype, int64_t n, const void *prediction, const void *target, void *grad,
                           double *scratch, double *loss);

/* cdef end */

#ifdef __cplusplus
}
#endif
#endif
