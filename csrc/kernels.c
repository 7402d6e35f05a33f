/* The loops of the update, clip and measure kernels, compiled once per instruction set and precision.
 *
 * The build defines FGD_ISA (a name in isa.def) and FGD_DOUBLE (0 or 1). */
#include "bodies.h"
#include "trust.h"

#include <math.h>
#include <string.h>

#define SLOT_POINTER(name, when, sign) REAL *restrict name = slots[k++];
#define SLOT_LOAD(name, when, sign) if (on.when) x.name = name[i];
#define SLOT_STORE(name, when, sign) if (on.when) name[i] = x.name;

#define CALL_LOOP(rule, mask) rule##_loop(n, param, grad, slots, scalars, mask, t)
#define LOOPS(rule)                                                             \
    INLINE void rule##_loop(int64_t n, REAL *restrict p, const REAL *restrict g, void *const *slots, \
                            const double *scalars, const uint32_t switches, const gradient_transform t) { \
        int k = 0;                                                              \
        READ_CHOICE(rule)                                                       \
        rule##_slots(SLOT_POINTER)                                              \
        (void)k; (void)slots;                                                   \
        _Pragma("omp simd")                                                     \
        for (int64_t i = 0; i < n; i++) {                                       \
            rule##_state x = {};                                                \
            rule##_slots(SLOT_LOAD)                                             \
            rule##_body(p + i, clamped(g[i] * t.unscale, t.bound) * t.coef, &x, &s, on); \
            rule##_slots(SLOT_STORE)                                            \
        }                                                                       \
    }                                                                           \
    static void rule##_update(int64_t n, void *param, const void *grad, void *const *slots, \
                              const double *scalars, uint32_t switches, const fgd_prepare *prepare) { \
        const gradient_transform t = transform_of(prepare);                     \
        switch (switches) { VARIANTS(rule, CALL_LOOP) }                         \
    }
FGD_RULES(LOOPS)

#define TRY_POINTER(name, when, sign) const REAL *name = slots[k++];
#define TRY_ELEMENT(rule, of, e, lane)                                          \
    const int64_t i = e;                                                        \
    rule##_state x = {0};                                                       \
    REAL param = p[i];                                                          \
    const REAL gradient = clamped(g[i] * t.unscale, t.bound) * t.coef;          \
    rule##_slots(SLOT_LOAD)                                                     \
    sum[lane] += (double)param * (double)param;                                 \
    rule##_body(&param, gradient, &x, &s, on);                                  \
    const double other = (double)(FGD_TRUST_##of == FGD_TRUST_STEP ? param : gradient); \
    other_sum[lane] += other * other;
#define CALL_TRY(rule, mask) rule##_try_loop(n, param, grad, slots, scalars, mask, t, params, others)
#define TRY_LOOPS(rule, of)                                                     \
    INLINE void rule##_try_loop(int64_t n, const REAL *p, const REAL *g, void *const *slots, \
                                const double *scalars, const uint32_t switches, const gradient_transform t, \
                                double *params, double *others) {               \
        int k = 0;                                                              \
        int64_t at = 0;                                                         \
        double sum[FGD_LANES], other_sum[FGD_LANES];                            \
        READ_CHOICE(rule)                                                       \
        rule##_slots(TRY_POINTER)                                               \
        (void)k; (void)slots;                                                   \
        memcpy(sum, params, sizeof sum), memcpy(other_sum, others, sizeof other_sum); \
        for (; at + FGD_LANES <= n; at += FGD_LANES) {                          \
            _Pragma("omp simd")                                                 \
            for (int lane = 0; lane < FGD_LANES; lane++) { TRY_ELEMENT(rule, of, at + lane, lane) } \
        }                                                                       \
        for (int lane = 0; at + lane < n; lane++) { TRY_ELEMENT(rule, of, at + lane, lane) } \
        memcpy(params, sum, sizeof sum), memcpy(others, other_sum, sizeof other_sum); \
    }                                                                           \
    static void rule##_try(int64_t n, const void *param, const void *grad, void *const *slots, \
                           const double *scalars, uint32_t switches, const fgd_prepare *prepare, \
                           double *params, double *others) {                    \
        const gradient_transform t = transform_of(prepare);                     \
        switch (switches) { VARIANTS(rule, CALL_TRY) }                          \
    }
FGD_TRUSTED(TRY_LOOPS)

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
#define TRY_ENTRY(rule, of) [FGD_RULE_##rule] = rule##_try,
const fgd_kernels FGD_TABLE(fgd_kernels) = {
    .update = {FGD_RULES(TABLE_ENTRY)},
    .attempt = {FGD_TRUSTED(TRY_ENTRY)},
    .clip = clip,
    .sumsq = sumsq,
    .sumsq_prepared = sumsq_prepared,
    .maxabs = maxabs,
};
