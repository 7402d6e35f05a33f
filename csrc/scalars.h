/* The scalars of a group by their names, in double: for formulas outside of the loops. */
#ifndef FGD_SCALARS_H
#define FGD_SCALARS_H

#include "kernels.h"

/* For example adam_doubles has the field beta2, and is read by adam_doubles_of(group->scalars). */
#define FGD_DOUBLE_FIELD(name) double name;
#define FGD_DOUBLE_READ(name) s.name = *scalars++;
#define FGD_DOUBLES(rule)                                                       \
    typedef struct { rule##_scalars(FGD_DOUBLE_FIELD) } rule##_doubles;         \
    static inline rule##_doubles rule##_doubles_of(const double *scalars) {     \
        rule##_doubles s;                                                       \
        rule##_scalars(FGD_DOUBLE_READ)                                         \
        return s;                                                               \
    }
FGD_RULES(FGD_DOUBLES)

#endif
