/* What the ABI asks for: which arrays of which size a call must have. */
#ifndef NEEDS_H
#define NEEDS_H

#include "call.h"

/* More is given to no array: calls that ask for more are those to be refused. */
enum { MOST_ELEMENTS = 1 << 21 };

/* What the ABI asks for as one array; with 0 bytes an element there is none. */
typedef struct need {
    int kind; /* an fgd_dtype, BLOCK_SCALES or LOW_BITS */
    int64_t item, size;
} need;

need array_need(const call *c, const part *p, int o);

/* The group of a tensor that fgd_update has a rule for; NULL for none. */
const fgd_group *group_of(const call *c, const part *p);

/* The slot that array o belongs to; -1 for none. */
int slot_of(int o);

/* Whether a slot has a number for each line of matrices; whether array o is of a slot that is never negative;
 * whether a group's tensors are matrices with orthogonal steps. */
int is_line_slot(const fgd_group *group, int slot);
int is_unsigned(const call *c, const part *p, int o);
int is_orthogonal(const fgd_group *group);

/* Whether row numbers are given: one for each row, or a pointer to nowhere where nobody may look at them. */
int has_rows(const call *c, const part *p);

#endif
