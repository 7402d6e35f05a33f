/* A whole call of fgd_update, fgd_measure or fgd_clip as data. It can be run in several ways, each time in
 * fresh memory of exactly the size that the ABI asks for. */
#ifndef CALL_H
#define CALL_H

#include "array.h"
#include "fastgd.h"
#include "numbers.h"

enum { MOST_TENSORS = 4, MOST_GROUPS = 2 };

typedef enum entry { UPDATE, MEASURE, CLIP } entry;

/* The arrays of a tensor. Those up to COPY have strides in a layout, in this order, but for slots that the
 * rule has not. */
enum {
    PARAM,
    GRAD,
    SLOT,
    RESIDUAL = SLOT + FGD_MAX_SLOTS,
    AVERAGE,
    COPY,
    SCALES,
    ARRAYS = SCALES + FGD_MAX_SLOTS
};

/* What a caller may get wrong beside the numbers of a call. */
typedef enum fault {
    NO_FAULT,
    NULL_GROUPS,
    NULL_TENSORS,
    NULL_OPTIONS,
    NULL_REPORT,
    NULL_WORKSPACE,
    ODD_WORKSPACE,
    SHORT_WORKSPACE,
    NULL_SHAPES,
    NULL_STRIDES,
    NEGATIVE_ROWS,
    FAULTS
} fault;

/* One tensor. call_run sets the pointers in `t`, and takes all else as it is. */
typedef struct part {
    fgd_tensor t;
    int ndim; /* of its layout; -1: it has none */
    int64_t shape[MOST_DIMS];
    spread spreads[ARRAYS];
    int has_average, has_copy, has_counter, has_rows;
    int64_t counter;                         /* before the call */
    int64_t table_rows, first_row, row_step; /* gradient row r: row (first_row + r * row_step) % table_rows */
    uint32_t nulls; /* a bit for each array whose pointer is NULL although it is asked for */
} part;

typedef struct call {
    entry entry;
    int64_t n_groups, n_tensors;
    fgd_group groups[MOST_GROUPS];
    part parts[MOST_TENSORS];
    fgd_options options;
    fault fault;
    int products; /* matrix products that succeed, as in product.h */
    filling grads, others; /* what arrays hold before the call */
    uint64_t seed;         /* of these numbers */
} call;

typedef struct manner {
    int isa, threads;
    int packed; /* 1: every array contiguous and aligned, whatever its spread */
} manner;

/* What a call left behind. NaNs, of which no bits are promised, are all alike in it. */
typedef struct outcome {
    int code;
    fgd_report report;
    int64_t size;
    char *bytes;        /* of all arrays, counters and norms */
    const char *broken; /* a promise that was not kept, or NULL */
} outcome;

outcome call_run(const call *c, manner how);
void outcome_free(outcome *o);

/* What of it differs, or NULL. */
const char *outcome_difference(const outcome *a, const outcome *b);

/* Whether elements that are written lie over each other: then the order of writing counts. */
int call_overlaps(const call *c);

/* Whether the group's rule has this slot with its switches. */
int group_has_slot(const fgd_group *group, int slot);

/* What rules ask for beside their slots: not to be cautious, or whole tensors that are matrices. */
int may_be_cautious(const fgd_group *group);
int wants_matrices(const fgd_group *group);

/* A scalar from 0 to 1 that rule's scalar i may have: small whole numbers for one that counts. */
double scalar_from(const fgd_rule *rule, int i, double from);

/* Gives the tensor matrices, with about as many rows as asked for, if the group's rule wants them. */
void take_matrices_of(part *p, const fgd_group *group, int64_t rows);

#endif
