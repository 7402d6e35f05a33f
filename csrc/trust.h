/* The trust ratio: by how much a tensor's step is lengthened or shortened, from norms of the whole tensor. */
#ifndef FGD_TRUST_H
#define FGD_TRUST_H

#include "fastgd.h"

/* The vector whose norm is set against the parameter's: the step, or the gradient. */
enum { FGD_TRUST_NONE, FGD_TRUST_STEP, FGD_TRUST_GRADIENT };
int fgd_trust_of(int rule);

/* param: norm of the parameter; other: norm of what fgd_trust_of says; size: elements, above 0. 1 for rules
 * that have none. */
double fgd_trust_ratio(const fgd_group *group, double param, double other, int64_t size);

#endif
