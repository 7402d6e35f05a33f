/* The formula of each rule's trust ratio; fastgd/rules has the same in Python. */
#include "trust.h"

#include "kernels.h"

/* The scalars by their names: s.lr. */
#define FIELD_DOUBLE(name) double name;
#define READ(name) s.name = *scalars++;
#define TRUST(rule, of)                                                         \
    typedef struct { rule##_scalars(FIELD_DOUBLE) } rule##_doubles;             \
    static double rule##_formula(rule##_doubles s, double param, double other); \
    static double rule##_trust(const double *scalars, double param, double other) { \
        rule##_doubles s;                                                       \
        rule##_scalars(READ)                                                    \
        return rule##_formula(s, param, other);                                 \
    }
FGD_TRUSTED(TRUST)

#define FORMULA(rule) static double rule##_formula(rule##_doubles s, double param, double other)

/* LAMB, You et al. 2020, algorithm 2, with phi the identity; the step that was measured includes lr. */
FORMULA(lamb) { return param > 0 && other > 0 ? s.lr * param / other : 1; }

/* LARS, You, Gitman and Ginsburg 2017, equation 6. */
FORMULA(lars) {
    return param > 0 && other > 0 ? s.trust_coefficient * param / (other + s.weight_decay * param + s.eps) : 1;
}

int fgd_trust_of(int rule) {
#define OF(rule, of) case FGD_RULE_##rule: return FGD_TRUST_##of;
    switch (rule) { FGD_TRUSTED(OF) }
    return FGD_TRUST_NONE;
}

double fgd_trust_ratio(const fgd_group *group, double param, double other) {
#define CASE(rule, of) case FGD_RULE_##rule: return rule##_trust(group->scalars, param, other);
    switch (group->rule) { FGD_TRUSTED(CASE) }
    return 1;
}
