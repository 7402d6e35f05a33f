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

/* The two passes of a rule with a trust ratio. FGD_TRUST_GRADIENT: the second is the whole rule. */
#define BEGIN_ELEMENT(rule, of, e, lane)                                        \
    const int64_t i = e;                                                        \
    rule##_state x = {0};                                                       \
    REAL param = p[i];                                                          \
    const REAL gradient = clamped(g[i] * t.unscale, t.bound) * t.coef;          \
    sum[lane] += (double)param * (double)param;                                 \
    if (FGD_TRUST_##of == FGD_TRUST_STEP) {                                     \
        rule##_slots(SLOT_LOAD)                                                 \
        rule##_body(&param, gradient, &x, &s, on);                              \
        rule##_slots(SLOT_STORE)                                                \
    }                                                                           \
    (void)x;                                                                    \
    const double other = (double)(FGD_TRUST_##of == FGD_TRUST_STEP ? param : gradient); \
    other_sum[lane] += other * other;
#define CALL_BEGIN(rule, mask) rule##_begin_loop(n, param, grad, slots, scalars, mask, t, params, others)
#define CALL_RESUME(rule, mask) rule##_resume_loop(n, param, slots, scalars, mask)
#define BEGIN_AND_RESUME(rule, of)                                              \
    INLINE void rule##_begin_loop(int64_t n, const REAL *restrict p, const REAL *restrict g, \
                                  void *const *slots, const double *scalars, const uint32_t switches, \
                                  const gradient_transform t, double *params, double *others) { \
        int k = 0;                                                              \
        int64_t at = 0;                                                         \
        double sum[FGD_LANES], other_sum[FGD_LANES];                            \
        READ_CHOICE(rule)                                                       \
        rule##_slots(SLOT_POINTER)                                              \
        (void)k; (void)slots;                                                   \
        memcpy(sum, params, sizeof sum), memcpy(other_sum, others, sizeof other_sum); \
        for (; at + FGD_LANES <= n; at += FGD_LANES) {                          \
            _Pragma("omp simd")                                                 \
            for (int lane = 0; lane < FGD_LANES; lane++) { BEGIN_ELEMENT(rule, of, at + lane, lane) } \
        }                                                                       \
        for (int lane = 0; at + lane < n; lane++) { BEGIN_ELEMENT(rule, of, at + lane, lane) } \
        memcpy(params, sum, sizeof sum), memcpy(others, other_sum, sizeof other_sum); \
    }                                                                           \
    static void rule##_begin(int64_t n, const void *param, const void *grad, void *const *slots, \
                             const double *scalars, uint32_t switches, const fgd_prepare *prepare, \
                             double *params, double *others) {                  \
        const gradient_transform t = transform_of(prepare);                     \
        switch (switches) { VARIANTS(rule, CALL_BEGIN) }                        \
    }                                                                           \
    INLINE void rule##_resume_loop(int64_t n, REAL *restrict p, void *const *slots, const double *scalars, \
                                   const uint32_t switches) {                   \
        int k = 0;                                                              \
        READ_CHOICE(rule)                                                       \
        on.resume = 1;                                                          \
        rule##_slots(SLOT_POINTER)                                              \
        (void)k; (void)slots;                                                   \
        _Pragma("omp simd")                                                     \
        for (int64_t i = 0; i < n; i++) {                                       \
            rule##_state x = {0};                                               \
            rule##_slots(SLOT_LOAD)                                             \
            rule##_body(p + i, 0, &x, &s, on);                                  \
        }                                                                       \
    }                                                                           \
    static void rule##_resume(int64_t n, void *param, const void *grad, void *const *slots, \
                              const double *scalars, uint32_t switches, const fgd_prepare *prepare) { \
        if (FGD_TRUST_##of == FGD_TRUST_GRADIENT) {                             \
            rule##_update(n, param, grad, slots, scalars, switches, prepare);   \
            return;                                                             \
        }                                                                       \
        switch (switches) { VARIANTS(rule, CALL_RESUME) }                       \
    }
FGD_TRUSTED(BEGIN_AND_RESUME)

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
#define BEGIN_ENTRY(rule, of) [FGD_RULE_##rule] = rule##_begin,
#define RESUME_ENTRY(rule, of) [FGD_RULE_##rule] = rule##_resume,
const fgd_kernels FGD_TABLE(fgd_kernels) = {
    .update = {FGD_RULES(TABLE_ENTRY)},
    .begin = {FGD_TRUSTED(BEGIN_ENTRY)},
    .resume = {FGD_TRUSTED(RESUME_ENTRY)},
    .clip = clip,
    .sumsq = sumsq,
    .sumsq_prepared = sumsq_prepared,
    .maxabs = maxabs,
};
