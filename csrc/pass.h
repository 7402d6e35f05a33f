/* One tensor in one pass: what is known of it, and its elements piece by piece as they are computed with. */
#ifndef FGD_PASS_H
#define FGD_PASS_H

#include "factored.h"
#include "job.h"
#include "view.h"

/* What is known of a tensor before its elements are looked at. */
typedef struct pass {
    const job *j;
    const fgd_tensor *t;
    const fgd_group *group; /* NULL when clipping */
    const fgd_rule *rule;
    const fgd_kernels *kernels;
    const fgd_storage *storage;
    factors factors;
    fgd_prepare prepare;   /* all that happens to gradients, unless units have coefficients of their own */
    const double *scalars; /* the group's, or `own` with the tensor's trust ratio */
    double own[FGD_MAX_SCALARS], step[FGD_MAX_SCALARS];
    int real, n_slots, rounding;
    view param, grad, slots[FGD_MAX_SLOTS], residual, average, copy;
    moments moments;          /* of a factored tensor; count 0 for others */
    uint64_t key;             /* of the random bits */
    int plain;                /* kernels can work on the memory of every operand, and that is all */
    fgd_stored_kernel stored; /* or a kernel that converts on the way can; else NULL */
} pass;

/* Elements [first, first + n) of the parameter and its state, and where the gradient of the first lies. */
typedef struct piece {
    int64_t first, grad, n;
} piece;

/* A piece of every operand in the precision computed in. */
typedef struct buffers {
    struct row {
        char bytes[PIECE_BYTES];
    } param, grad, prepared, spare, change, average, slots[FGD_MAX_SLOTS];
} __attribute__((aligned(64))) buffers;

/* All that happens to a gradient. */
fgd_prepare fgd_prepared(const job *j, double sign, double coef);

void fgd_prepare_pass(pass *w, const job *j, const fgd_tensor *t);

/* The next piece of [*at, end): it fits the buffers, and lies in one row where only some rows are updated. */
piece fgd_next_piece(const pass *w, int64_t *at, int64_t end);

/* The gradient, and what is still to happen to it in *left: all of it, or nothing where units are clipped. */
const void *fgd_load_gradient(const pass *w, piece a, buffers *b, fgd_prepare *left);

/* The parameter as it would be with nothing lost, in memory that may be written; in b->param with keep. */
void *fgd_load_param(const pass *w, piece a, buffers *b, int keep);

/* at[k]: slot k, NULL where it is not used; in b->slots with keep. */
void fgd_load_slots(const pass *w, piece a, buffers *b, void **at, int keep);

/* Stores the new parameter x and the slots, and all that follows from x. */
void fgd_store_update(const pass *w, piece a, void *x, void *const *slots, buffers *b);

void fgd_call_rule(const pass *w, int64_t n, void *x, const void *g, void *const *slots,
                   const double *scalars, const fgd_prepare *prepare);

/* The random bits of elements from `first` on. Two neighbouring slots share the 32 of an element. */
fgd_noise fgd_param_noise(const pass *w, int64_t first);
fgd_noise fgd_slot_noise(const pass *w, int slot, int64_t first);

#endif
