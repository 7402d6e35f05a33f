/* The loops of the update, clip and measure kernels, compiled once per instruction set and precision.
 *
 * The build defines FGD_ISA (a name in isa.def) and FGD_DOUBLE (0 or 1). */
#include "kernels.h"
#include "real.h"

#include <math.h>
#include <string.h>

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

/* Structs of one rule: its state, its scalars, and its switches with the constant `always`. */
#define FIELD_REAL_SLOT(name, when, sign) REAL name;
#define FIELD_REAL(name) REAL name;
#define FIELD_INT(name) int name;
#define STRUCTS(rule)                                                           \
    typedef struct { rule##_slots(FIELD_REAL_SLOT) } rule##_state;              \
    typedef struct { rule##_scalars(FIELD_REAL) } rule##_values;                \
    typedef struct { int always; rule##_switches(FIELD_INT) } rule##_choice;
FGD_RULES(STRUCTS)

#define RULE(rule)                                                              \
    INLINE void rule##_body(REAL *p UNUSED, REAL g, rule##_state *x UNUSED,     \
                            const rule##_values *s UNUSED, const rule##_choice on UNUSED)
#include "rules.h"

#define SLOT_POINTER(name, when, sign) REAL *restrict name = slots[k++];
#define SLOT_LOAD(name, when, sign) if (on.when) x.name = name[i];
#define SLOT_STORE(name, when, sign) if (on.when) name[i] = x.name;
#define SWITCH_READ(name) on.name = (int)(switches >> bit++ & 1);
#define SWITCH_COUNT(name) +1
#define SCALAR_READ(name) s.name = (REAL)*scalars++;

/* A loop with its switches as compile-time constants, and the choice among its variants. A constant past
 * the rule's own switches is unreachable and compiles to nothing. */
#define VARIANT(rule, mask)                                                     \
    case mask:                                                                  \
        if (mask < 1u << (0 rule##_switches(SWITCH_COUNT))) {                   \
            rule##_loop(n, param, grad, slots, scalars, mask, t);               \
        }                                                                       \
        break;
#define LOOPS(rule)                                                             \
    INLINE void rule##_loop(int64_t n, REAL *restrict p, const REAL *restrict g, void *const *slots, \
                            const double *scalars, const uint32_t switches, const gradient_transform t) { \
        int k = 0, bit = 0;                                                     \
        rule##_values s;                                                        \
        rule##_choice on = {.always = 1};                                       \
        rule##_switches(SWITCH_READ) rule##_scalars(SCALAR_READ) rule##_slots(SLOT_POINTER) \
        (void)k; (void)bit; (void)switches; (void)slots; (void)scalars;         \
        _Pragma("omp simd")                                                     \
        for (int64_t i = 0; i < n; i++) {                                       \
            rule##_state x = {0};                                               \
            rule##_slots(SLOT_LOAD)                                             \
            rule##_body(p + i, clamped(g[i] * t.unscale, t.bound) * t.coef, &x, &s, on); \
            rule##_slots(SLOT_STORE)                                            \
        }                                                                       \
    }                                                                           \
    static void rule##_update(int64_t n, void *param, const void *grad, void *const *slots, \
                              const double *scalars, uint32_t switches, const fgd_prepare *prepare) { \
        const gradient_transform t = transform_of(prepare);                     \
        switch (switches) {                                                     \
            VARIANT(rule, 0) VARIANT(rule, 1) VARIANT(rule, 2) VARIANT(rule, 3) \
            VARIANT(rule, 4) VARIANT(rule, 5) VARIANT(rule, 6) VARIANT(rule, 7) \
            VARIANT(rule, 8) VARIANT(rule, 9) VARIANT(rule, 10) VARIANT(rule, 11) \
            VARIANT(rule, 12) VARIANT(rule, 13) VARIANT(rule, 14) VARIANT(rule, 15) \
        }                                                                       \
    }
FGD_RULES(LOOPS)

static void clip(int64_t n, void *out, const void *grad, const fgd_prepare *prepare) {
    const gradient_transform t = transform_of(prepare);
    const REAL *g = grad;
    REAL *o = out;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) o[i] = clamped(g[i] * t.unscale, t.bound) * t.coef;
}

/* Adds TERM(i) to lane i modulo FGD_LANES; the lanes stay in registers. */
#define ADD_TO_LANES(TERM)                                                      \
    double sum[FGD_LANES];                                                      \
    int64_t i = 0;                                                              \
    memcpy(sum, lanes, sizeof sum);                                             \
    for (; i + FGD_LANES <= n; i += FGD_LANES) {                                \
        _Pragma("omp simd")                                                     \
        for (int k = 0; k < FGD_LANES; k++) sum[k] += TERM(g[i + k]);           \
    }                                                                           \
    for (int k = 0; i < n; i++, k++) sum[k] += TERM(g[i]);                      \
    memcpy(lanes, sum, sizeof sum);

static void sumsq(int64_t n, const void *grad, double *lanes) {
    const REAL *g = grad;
#define SQUARE(x) (double)(x) * (double)(x)
    ADD_TO_LANES(SQUARE)
}

/* g * 0 is 0 for a finite g and NaN otherwise, so infinities survive the clamp as NaN. */
INLINE double prepared_square(REAL g, const gradient_transform t, double scale) {
    const double value = (double)clamped(g * t.unscale, t.bound) * scale;
    return value * value + (double)(g * 0);
}

static void sumsq_prepared(int64_t n, const void *grad, const fgd_prepare *prepare, double scale,
                           double *lanes) {
    const gradient_transform t = transform_of(prepare);
    const REAL *g = grad;
#define PREPARED_SQUARE(x) prepared_square(x, t, scale)
    ADD_TO_LANES(PREPARED_SQUARE)
}

/* Absolute values compared as integers: the order of finite numbers, infinity above them, NaN on top. */
static double maxabs(int64_t n, const void *grad) {
    const BITS magnitude = (BITS)~((uint64_t)1 << (8 * sizeof(BITS) - 1));
    const REAL *g = grad;
    BITS largest = 0;
    REAL result;
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < n; i++) {
        BITS bits;
        memcpy(&bits, g + i, sizeof bits);
        bits &= magnitude;
        largest = bits > largest ? bits : largest;
    }
    memcpy(&result, &largest, sizeof result);
    return (double)result;
}

#define TABLE_ENTRY(rule) [FGD_RULE_##rule] = rule##_update,
const fgd_kernels FGD_TABLE(fgd_kernels) = {
    .update = {FGD_RULES(TABLE_ENTRY)},
    .clip = clip,
    .sumsq = sumsq,
    .sumsq_prepared = sumsq_prepared,
    .maxabs = maxabs,
};
