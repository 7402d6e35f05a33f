/* The bodies of the rules as functions, and what every loop around them needs: scalars and switches read,
 * and a choice among variants in which the switches are constants. */
#ifndef FGD_BODIES_H
#define FGD_BODIES_H

#include "real.h"

typedef struct gradient_transform {
    REAL unscale, bound, coef;
} gradient_transform;

INLINE gradient_transform transform_of(const fgd_prepare *p) {
    gradient_transform t = {(REAL)p->unscale, (REAL)p->bound, (REAL)p->coef};
    return t;
}

INLINE REAL clamped(REAL g, REAL bound) {
    g = g > bound ? bound : g;
    return g < -bound ? -bound : g;
}

INLINE REAL transformed(REAL g, const gradient_transform t) {
    return clamped(g * t.unscale, t.bound) * t.coef;
}

/* Structs of one rule: its state, its scalars, and its switches with the constant `always`; `resume` is 1
 * in the second of two passes, when the slots have been updated already. */
#define FIELD_REAL_SLOT(name, when, sign) REAL name;
#define SLOT_COUNT(name, when, sign) +1
#define FIELD_REAL(name) REAL name;
#define FIELD_INT(name) int name;
#define STRUCTS(rule)                                                           \
    typedef struct { rule##_slots(FIELD_REAL_SLOT) } rule##_state;              \
    typedef struct { rule##_scalars(FIELD_REAL) } rule##_values;                \
    typedef struct { int always, resume; rule##_switches(FIELD_INT) } rule##_choice;
FGD_RULES(STRUCTS)

#define RULE(rule)                                                              \
    INLINE void rule##_body(REAL *p UNUSED, REAL g, rule##_state *x UNUSED,     \
                            const rule##_values *s UNUSED, const rule##_choice on UNUSED)
#include "rules.h"

/* A rule's scalars and switches from what the caller gave: variables s and on. */
#define SWITCH_READ(name) on.name = (int)(switches >> bit++ & 1);
#define SWITCH_COUNT(name) +1
#define SCALAR_READ(name) s.name = (REAL)*scalars++;
#define READ_CHOICE(rule)                                                       \
    int bit = 0;                                                                \
    rule##_values s;                                                            \
    rule##_choice on = {.always = 1};                                           \
    rule##_switches(SWITCH_READ) rule##_scalars(SCALAR_READ)                    \
    (void)bit; (void)switches; (void)scalars;

/* The case of one combination of switches: CALL(rule, mask). A mask past the rule's own switches is
 * unreachable and compiles to nothing. */
#define VARIANT(rule, mask, CALL)                                               \
    case mask:                                                                  \
        if (mask < 1u << (0 rule##_switches(SWITCH_COUNT))) {                   \
            CALL(rule, mask);                                                   \
        }                                                                       \
        break;
#define VARIANTS(rule, CALL)                                                    \
    VARIANT(rule, 0, CALL) VARIANT(rule, 1, CALL) VARIANT(rule, 2, CALL) VARIANT(rule, 3, CALL) \
    VARIANT(rule, 4, CALL) VARIANT(rule, 5, CALL) VARIANT(rule, 6, CALL) VARIANT(rule, 7, CALL) \
    VARIANT(rule, 8, CALL) VARIANT(rule, 9, CALL) VARIANT(rule, 10, CALL) VARIANT(rule, 11, CALL) \
    VARIANT(rule, 12, CALL) VARIANT(rule, 13, CALL) VARIANT(rule, 14, CALL) VARIANT(rule, 15, CALL)

#endif
