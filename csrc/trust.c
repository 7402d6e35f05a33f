/* The formula of each rule's trust ratio; fastgd/rules has the same in Python. */
#include "trust.h"

#include <math.h>

#include "scalars.h"

#define UNUSED __attribute__((unused))

/* root: of the number of elements, so that a norm over it is the size of one element. */
#define FORMULA(rule) \
    static double rule##_formula(rule##_doubles s, double param, double other, double root UNUSED)

/* LAMB, You et al. 2020, algorithm 2, with phi the identity; the step that was measured includes lr. */
FORMULA(lamb) { return param > 0 && other > 0 ? s.lr * param / other : 1; }

/* LARS, You, Gitman and Ginsburg 2017, equation 6. */
FORMULA(lars) {
    const double whole = other + s.weight_decay * param + s.eps;
    return param > 0 && other > 0 ? s.trust_coefficient * param / whole : 1;
}

/* Adafactor, Shazeer and Stern 2018: steps clipped by d (section 6) and in proportion to p (section 8). */
FORMULA(adafactor) {
    const double param_size = param / root, excess = other / (root * s.d);
    return s.rho * (param_size > s.eps2 ? param_size : s.eps2) / (excess > 1 ? excess : 1);
}

int fgd_trust_of(int rule) {
#define OF(rule, of) case FGD_RULE_##rule: return FGD_TRUST_##of;
    switch (rule) { FGD_TRUSTED(OF) }
    return FGD_TRUST_NONE;
}

double fgd_trust_ratio(const fgd_group *group, double param, double other, int64_t size) {
    const double root = sqrt((double)size);
#define CASE(rule, of) \
    case FGD_RULE_##rule: return rule##_formula(rule##_doubles_of(group->scalars), param, other, root);
    switch (group->rule) { FGD_TRUSTED(CASE) }
    return 1;
}
