/* The stable C ABI of fastgd: everything another language or library may call, and nothing else. Layers and
 * programs are in fastgd_layers.h, linear models that are fitted row by row in fastgd_online.h; it includes
 * both. */
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

/* FGD_EXPORTS is for those who compile a shared library that is to offer these functions. */
#if defined(FGD_EXPORTS) && defined(__GNUC__) && !defined(_WIN32)
#pragma GCC visibility push(default)
#endif

/* cdef begin: from here to "cdef end" the text is also read by cffi */

#define FGD_ABI_VERSION 2
#define FGD_MAX_SLOTS 8
#define FGD_MAX_SWITCHES 4
#define FGD_MAX_SCALARS 16
#define FGD_MAX_HYPERPARAMETERS 24
#define FGD_MAX_CARRIED 4
#define FGD_MAX_NAME 64   /* bytes of a name in a rule that is added, its end included */
#define FGD_MAX_ADDED 1024 /* rules that can be added to a process */
#define FGD_MAX_DIMS 64
#define FGD_MAX_SIZES 8     /* of an operation of a program */
#define FGD_MAX_POINTERS 24
#define FGD_BLOCK 256 /* elements that share a scale in FGD_CODES */
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
    FGD_ERROR_ACTIVATION = -15,
    FGD_ERROR_ROUNDING = -16,
    FGD_ERROR_ROWS = -17,
    FGD_ERROR_MATRIX = -18,
    FGD_ERROR_LOSS = -19,
    FGD_ERROR_OP = -20,
    FGD_ERROR_FULL = -21,
    FGD_ERROR_FETCH = -22,
    FGD_ERROR_HYPERPARAMETER = -23
} fgd_error;

/* How numbers are stored. FGD_CODES is for state alone: a byte for each element, and a float32 scale
 * for each FGD_BLOCK of them (storage.h has the format). */
typedef enum fgd_dtype { FGD_F32 = 0, FGD_F64 = 1, FGD_BF16 = 2, FGD_F16 = 3, FGD_CODES = 4 } fgd_dtype;
typedef enum fgd_norm { FGD_NORM_2 = 0, FGD_NORM_INF = 1 } fgd_norm;

/* What clip_norm limits: the norm of all gradients, of those of each norm_group, or of each tensor. */
typedef enum fgd_scope { FGD_SCOPE_ALL = 0, FGD_SCOPE_GROUP = 1, FGD_SCOPE_TENSOR = 2 } fgd_scope;

/* How a new number becomes a stored one. The last three are for 16-bit parameters and keep what rounding
 * loses in fgd_tensor.residual: as a number of the parameter's dtype (Kahan 1965), as a whole FGD_F32 that
 * the parameter is the rounding of, or (bfloat16 only) as the missing 16 bits of that FGD_F32. */
typedef enum fgd_rounding {
    FGD_NEAREST = 0,
    FGD_STOCHASTIC = 1,
    FGD_KAHAN = 2,
    FGD_MASTER = 3,
    FGD_SPLIT = 4
} fgd_rounding;

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
    int32_t decay; /* the scalar that the parameter is multiplied by; with 0 a kernel gives minus the step;
                      -1: there is none, and the rule is whole */
    int32_t trust; /* the scalar that fgd_update sets to each tensor's trust ratio; -1: the rule has none */
    int32_t row_slot, col_slot; /* slots with a number for each row and each column of matrices; -1: none */
    int32_t orthogonal; /* 1: each tensor is a matrix, whose step is made orthogonal by matrix products */
    int32_t whole;      /* 1: no part of a step may be left out: the rule has no cautious updates */
} fgd_rule;

int fgd_rule_count(void);
const fgd_rule *fgd_rule_at(int rule); /* NULL when there is no such rule */
int fgd_rule_find(const char *name);   /* its index, or FGD_ERROR_RULE */

/* What a gradient goes through before its rule: g * unscale, clamped to +-bound, times coef; each rounded to
 * the precision computed in before it is used. */
typedef struct fgd_prepare {
    double unscale, bound, coef;
    int64_t streams; /* 1: the slots are better not kept in caches, which a loop may or may not heed */
} fgd_prepare;

/* The loop of a rule over a contiguous run of n elements, all in the precision computed in: updates param and
 * slots (NULL where the switches leave one out) from grad. None of them overlap. May run in several threads
 * at once, each with elements of its own, and must give an element the same bits whatever run it is in. */
typedef void (*fgd_update_kernel)(int64_t n, void *param, const void *grad, void *const *slots,
                                  const double *scalars, uint32_t switches, const fgd_prepare *prepare);

/* Adds a rule to the table, for as long as the process lives: from then on it is as any other, in every way
 * of storing numbers. The row is copied, names included; those of rules, and of a rule's slots, switches and
 * scalars, must differ, and have 1 to FGD_MAX_NAME - 1 bytes. It can have no trust ratio, no slots of rows
 * and columns, and no orthogonal step. A loop may be NULL where the rule has none in that precision: tensors
 * of it are refused with FGD_ERROR_DTYPE. Returns the rule's index, or FGD_ERROR_NULL, FGD_ERROR_RULE for
 * such a row, FGD_ERROR_FULL. May be called beside any other function. */
int fgd_rule_add(const fgd_rule *row, fgd_update_kernel f32, fgd_update_kernel f64);

/* ---- Instruction sets, threads and caches ---------------------------------------------------------- */

int fgd_isa_count(void);           /* those compiled in, the plainest first */
const char *fgd_isa_name(int isa); /* NULL when there is no such set */
int fgd_isa_supported(int isa);    /* 1 when this CPU can run it */
int fgd_get_isa(void);             /* the one in use; at first the last supported one */
int fgd_set_isa(int isa);

int fgd_has_openmp(void);
int fgd_get_num_threads(void);
/* 1 to FGD_MAX_THREADS; results do not depend on it. A forked child has one. */
int fgd_set_num_threads(int n);

/* Bytes that the last caches of so many threads hold together; INT64_MAX where the CPU does not tell. A step
 * over more than three quarters of it leaves state out of them, so that it does not drive out what is read
 * between two steps. */
int64_t fgd_get_cache_size(void);
/* From 0 on, or -1: as the CPU tells. Results do not depend on it. */
int fgd_set_cache_size(int64_t bytes);

/* ---- The step -------------------------------------------------------------------------------------- */

/* Where elements lie when not every operand of a tensor is contiguous. strides holds one row of ndim
 * strides for param, one for grad, one for each slot of the rule in its order, and one each for residual,
 * average and copy. */
typedef struct fgd_layout {
    int32_t ndim;
    const int64_t *shape;
    const int64_t *strides;
} fgd_layout;

/* Arithmetic is in float64 for a parameter of FGD_F64 and in float32 for all others; dtypes say how numbers
 * are stored. */
typedef struct fgd_tensor {
    int64_t size;
    int32_t group;      /* index into the groups */
    int32_t norm_group; /* for FGD_SCOPE_GROUP; those of one norm_group follow each other */
    int32_t dtype, grad_dtype, copy_dtype;
    int32_t state_dtype[FGD_MAX_SLOTS];
    void *param;
    const void *grad;
    void *state[FGD_MAX_SLOTS];
    float *scales[FGD_MAX_SLOTS]; /* of the slots in FGD_CODES */
    void *residual;               /* as the group's rounding asks; else NULL */
    void *average; /* running average of the parameter, in the precision of its arithmetic; NULL for none */
    void *copy;    /* receives the new parameter, rounded to copy_dtype; NULL for none */
    int64_t *step; /* below INT64_MAX; incremented when the update has been applied; may be NULL without
                      stochastic rounding */
    uint64_t stream;          /* tells the random bits of this tensor from another's */
    int64_t unit;             /* elements of a unit for clip_unit; 0: the whole tensor is one */
    const int64_t *rows;      /* NULL, or: gradient row r is for row rows[r] of the others, each once */
    int64_t n_rows, width;    /* with rows: size = n_rows * width, and no layout */
    const fgd_layout *layout; /* NULL: every operand is contiguous */
    int64_t factor_rows, factor_cols; /* where row_slot is used: the tensor is matrices of this shape, one
                                         after the other. row_slot holds size / factor_cols numbers, col_slot
                                         size / factor_rows, both contiguous, whatever the layout */
    int64_t matrix_rows;              /* of an orthogonal rule: the tensor is a matrix with so many rows */
} fgd_tensor;

/* The hyperparameters of some tensors at one step: switches is a bit mask in the rule's order, scalars
 * hold the rule's scalars in its order, in double, as fgd_fold computes them. */
typedef struct fgd_group {
    int32_t rule;
    uint32_t switches;
    int32_t maximize;       /* 1: the gradient's sign is turned */
    int32_t cautious;       /* 1: only elements whose step descends are changed (Liang et al. 2024) */
    int32_t rounding;       /* fgd_rounding of parameters of 16 bits */
    int32_t state_rounding; /* FGD_NEAREST or FGD_STOCHASTIC, of state of 16 or 8 bits */
    uint64_t seed;          /* of the random bits */
    double average_weight;  /* average = average + average_weight * (new parameter - average) */
    double scalars[FGD_MAX_SCALARS];
} fgd_group;

/* What happens to gradients before the rule sees them, in this order:
 *   g = g / grad_scale;  g = min(max(g, -clip_value), clip_value);  g = g * clip_coef
 * with clip_coef = min(1, clip_norm / (norm + 1e-6)), or without the min when normalize is 1. With clip_unit
 * (then clip_norm is INFINITY), the coefficient is each unit's own: min(1, clip_unit * max(norm of the
 * parameter's unit, unit_eps) / norm of the gradient's) (Brock et al. 2021, equation 3). Gradients are never
 * written by fgd_update. */
typedef struct fgd_options {
    double grad_scale;      /* 1 for none; above 0, and neither it nor 1 / it infinite */
    double clip_value;      /* INFINITY for none */
    double clip_norm;       /* INFINITY for none */
    double clip_unit;       /* INFINITY for none */
    double unit_eps;        /* the norm below which a parameter's unit counts as this */
    double total_norm;      /* -1: measure; else the norm itself, as all machines together have it */
    int32_t norm;           /* fgd_norm that clip_norm means */
    int32_t scope;          /* fgd_scope of clip_norm */
    int32_t normalize;      /* 1: gradients are brought to clip_norm also where their norm is less */
    int32_t measure;        /* 1: fill the report's norm even when nothing needs it */
    int32_t skip_nonfinite; /* 1: change nothing at all when a gradient, or the norm, is NaN or infinite */
} fgd_options;

typedef struct fgd_report {
    int32_t measured; /* 1: the fields below were filled by reading the gradients */
    int32_t skipped;  /* 1: nothing was changed, because of nonfinite_* */
    double norm;      /* global norm after grad_scale and clip_value, before clip_norm */
    double sumsq;     /* norm squared as it was summed; may overflow where norm does not */
    double clip_coef; /* what the gradients were multiplied by; of several the smallest, NaN if one is */
    int64_t nonfinite_tensor, nonfinite_element; /* the first such element, in the layout's order; -1: none */
    int64_t error_tensor;                        /* with an error code: the tensor it is about, or -1 */
} fgd_report;

/* Bytes of scratch memory, 8-byte aligned, that the calls below need for these tensors; INT64_MAX where it is
 * more than that. */
int64_t fgd_workspace_size(const fgd_tensor *tensors, int64_t n_tensors);

/* Updates all tensors: measures the gradients if the options need it, then applies each group's rule. When a
 * matrix product of an orthogonal rule fails, and then only, part is done when FGD_ERROR_GEMM is returned:
 * all tensors of other rules, and those before the report's error_tensor, have made their step, the rest
 * none. */
int fgd_update(const fgd_group *groups, int64_t n_groups, const fgd_tensor *tensors, int64_t n_tensors,
               const fgd_options *options, void *workspace, int64_t workspace_size, fgd_report *report);

/* ---- Hyperparameters: what a step's scalars follow from -------------------------------------------- */

/* A number from low to high, both included. whole: 1 for whole numbers, among them flags, which are 0 or 1,
 * and choices, counted from 0; optional: 1 where NAN means that it is not given. A pair is two of them. */
typedef struct fgd_hyperparameter {
    const char *name; /* as in Python: "lr", or "betas[0]" of a pair */
    double default_value, low, high;
    int32_t whole, optional;
} fgd_hyperparameter;

/* A rule with hyperparameters, as in Python: "adamw" and "adam" are two, of the rule "adam". */
typedef struct fgd_optimizer {
    const char *name;
    int32_t rule, n_hyperparameters, n_carried;
    int32_t of_tensor; /* 1: scalars depend on the tensor, too: its dtype and the shape of its matrices */
    int32_t slot_initial[FGD_MAX_SLOTS]; /* the hyperparameter that a slot is filled with at first; -1: 0 */
    const fgd_hyperparameter *hyperparameters;
    const char *carried[FGD_MAX_CARRIED]; /* numbers that a parameter carries from step to step, */
    double carried_at_first[FGD_MAX_CARRIED]; /* and what they are before the first */
} fgd_optimizer;

int fgd_optimizer_count(void);
const fgd_optimizer *fgd_optimizer_at(int optimizer); /* NULL when there is no such optimizer */
int fgd_optimizer_find(const char *name);             /* its index, or FGD_ERROR_RULE */

/* Fills values, one for each hyperparameter, with the defaults. max_lr is not given: set it to the largest lr
 * where decouple_lr is 1. */
int fgd_hyperparameter_defaults(int optimizer, double *values);

/* Sets the value of one by its name; FGD_ERROR_HYPERPARAMETER for no name of one, or out of range. */
int fgd_hyperparameter_set(int optimizer, double *values, const char *name, double value);

/* Sets the rule, switches, maximize and scalars of a group at a step, of which the first is 1 and the last
 * 2^53, as Python has them, to the bit. carried: n_carried numbers of each parameter, which go on to the next
 * step: where one may be skipped, keep them. tensor: of the group, for optimizers with of_tensor. May be NULL
 * where they are not used. FGD_ERROR_HYPERPARAMETER for values out of range, or that do not go together, as
 * Nesterov's momentum of 0; FGD_ERROR_SIZE for a step below 1 or above 2^53. */
int fgd_fold(int optimizer, const double *values, const fgd_tensor *tensor, int64_t step, double *carried,
             fgd_group *group);

/* ---- Steps whose gradients come while they are measured, and gradients alone ------------------------ */

/* Brings in the gradients of a step: sets the grad of one tensor after the other to where its gradient is,
 * which otherwise lies as the tensor says and is not NULL, and counts them in *ready, which others read
 * meanwhile: __atomic_store_n(ready, count, __ATOMIC_RELEASE). 0 when all are there. */
typedef int (*fgd_fetch)(void *context, int64_t *ready);

/* As fgd_update, with gradients that fetch(context, ...) brings in: called once, by the thread that calls
 * this. Where they are measured, other threads begin with those that are there. FGD_ERROR_FETCH when it
 * returns another number than 0; nothing has been changed then. */
int fgd_update_fetched(const fgd_group *groups, int64_t n_groups, const fgd_tensor *tensors,
                       int64_t n_tensors, const fgd_options *options, void *workspace,
                       int64_t workspace_size, fgd_report *report, fgd_fetch fetch, void *context);

/* Measures the tensors' grad (param, state and rows are not used, layouts need only the rows up to grad).
 * norms, when not NULL, receives one norm for each tensor. */
int fgd_measure(const fgd_tensor *tensors, int64_t n_tensors, const fgd_options *options, double *norms,
                void *workspace, int64_t workspace_size, fgd_report *report);

/* Clips arrays in place: param and grad of each tensor are the same array. As fgd_update with the rule
 * "write the gradient back". */
int fgd_clip(const fgd_tensor *tensors, int64_t n_tensors, const fgd_options *options, void *workspace,
             int64_t workspace_size, fgd_report *report);

/* cdef end */

#if defined(FGD_EXPORTS) && defined(__GNUC__) && !defined(_WIN32)
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif

#include "fastgd_layers.h"
#include "fastgd_online.h"

#endif
