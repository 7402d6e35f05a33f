/* The trust ratio: by how much a tensor's step is lengthened or shortened, from norms of the whole tensor. */
#ifndef FGD_TRUST_H
#define FGD_TRUST_H

#include "fastgd.h"

/* param: norm of the parameter; other: norm of what the rule's trust_of says. 1 for rules that have none. */
double fgd_trust_ratio(const fgd_group *group, double param, double other);

#endif
