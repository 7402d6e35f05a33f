/* Rules that were added to those of rules.def: their rows and loops. */
#ifndef FGD_ADDED_H
#define FGD_ADDED_H

#include "kernels.h"

/* The row of a rule of rules.def, from 0 to FGD_RULE_COUNT - 1. */
const fgd_rule *fgd_built_in(int rule);

/* The loop of an added rule in FGD_F32 or FGD_F64; NULL where it has none. */
fgd_update_kernel fgd_added_update(int rule, int real);

#endif
