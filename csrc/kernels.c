/* The loops of the update, clip and measure kernels, compiled once per instruction set and precision.
 *
 * The build defines FGD_ISA (a name in isa.def) and FGD_DOUBLE (0 or 1). */
#include "bodies.h"
#include "trust.h"

#include <math.h>
#include <string.h>

static void clip(int64_t n, void *out, const void *grad, const fgd_prepare *prepare) {
    const gradient_transform t = transform_of(prepare);
    const REAL *g = grad;
    REAL *o = out;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) o[i] = transformed(g[i], t);
}

/* ---- Updates ---------------------------------------------------------------------------------------- */

/* Whether what happens to gradients is a multiplication, which loops do as they go. */
static int is_factor(const fgd_prepare *p) { return isinf(p->bound) && p->coef == 1; }

/* An update of gradients that are clipped first, in pieces that stay in the first-level cache. */
static void update_clipped(fgd_update_kernel update, int n_slots, int64_t n, void *param, const void *grad,
                           void *const *slots, const double *scalars, uint32_t switches,
                           const fgd_prepare *prepare) {
    enum { PIECE = 512 };
    REAL clipped[PIECE];
    const fgd_prepare as_it_is = {1, INFINITY, 1, prepare->streams};
    for (int64_t at = 0; at < n; at += PIECE) {
        const int64_t count = n - at < PIECE ? n - at : PIECE;
        void *here[FGD_MAX_SLOTS];
        for (int k = 0; k < n_slots; k++) here[k] = slots[k] ? (REAL *)slots[k] + at : NULL;
        clip(count, clipped, (const REAL *)grad + at, prepare);
        update(count, (REAL *)param + at, clipped, here, scalars, switches, &as_it_is);
    }
}

#define SLOT_POINTER(name, when, sign) REAL *restrict name = slots[k++];
#define SLOT_LOAD(name, when, sign) if (on.when) x.name = name[i];
#define SLOT_STORE(name, when, sign) if (on.when) name[i] = x.name;

/* Bytes from where a loop works to what it asks of the memory. Farther away did no better. */
#define AHEAD 1024

/* Numbers in a line of the caches. */
#define LINE (64 / (int64_t)sizeof(REAL))

/* Asks for a line of each slot that no cache is to keep once it has been used. */
#define SLOT_STREAM(name, when, sign) if (on.when) __builtin_prefetch(name + at + AHEAD / sizeof(REAL), 0, 0);

#define UPDATE_ELEMENT(rule, e)                                                 \
    const int64_t i = e;                                                        \
    rule##_state x = {};                                                        \
    rule##_slots(SLOT_LOAD)                                                     \
    rule##_body(p + i, g[i] * factor, &x, &s, on);                              \
    rule##_slots(SLOT_STORE)
#define CALL_LOOP(rule, mask) rule##_loop(n, param, grad, slots, scalars, mask, factor, prepare->streams)
#define LOOPS(rule)                                                             \
    INLINE void rule##_loop(int64_t n, REAL *restrict p, const REAL *restrict g, void *const *slots, \
                            const double *scalars, const uint32_t switches, const REAL factor, \
                            const int64_t streams) {                            \
        int k = 0;                                                              \
        int64_t at = 0;                                                         \
        READ_CHOICE(rule)                                                       \
        rule##_slots(SLOT_POINTER)                                              \
        (void)k; (void)slots;                                                   \
        for (; at + LINE <= n; at += LINE) {                                    \
            if (streams) { rule##_slots(SLOT_STREAM) }                          \
            _Pragma("omp simd")                                                 \
            for (int64_t e = at; e < at + LINE; e++) { UPDATE_ELEMENT(rule, e) } \
        }                                                                       \
        _Pragma("omp simd")                                                     \
        for (int64_t e = at; e < n; e++) { UPDATE_ELEMENT(rule, e) }            \
    }                                                                           \
    static void rule##_update(int64_t n, void *param, const void *grad, void *const *slots, \
                              const double *scalars, uint32_t switches, const fgd_prepare *prepare) { \
        const REAL factor = (REAL)prepare->unscale;                             \
        if (is_factor(prepare)) switch (switches) { VARIANTS(rule, CALL_LOOP) } \
        else                                                                    \
            update_clipped(rule##_update, 0 rule##_slots(SLOT_COUNT), n, param, grad, slots, scalars, \
                           switches, prepare);                                  \
    }
FGD_RULES(LOOPS)

/* The two passes of a rule with a trust ratio. FGD_TRUST_GRADIENT: the second is the whole rule. */
#define BEGIN_ELEMENT(rule, of, e, lane)                                        \
    const int64_t i = e;                                                        \
    rule##_state x = {0};                                                       \
    REAL param = p[i];                                                          \
    const REAL gradient = transformed(g[i], t);          \
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
#define CALL_RESUME(rule, mask) rule##_resume_loop(n, param, grad, slots, scalars, mask, t)
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
    INLINE void rule##_resume_loop(int64_t n, REAL *restrict p, const REAL *restrict g, \
                                   void *const *slots, const double *scalars, const uint32_t switches, \
                                   const gradient_transform t) {                \
        int k = 0;                                                              \
        READ_CHOICE(rule)                                                       \
        on.resume = 1;                                                          \
        rule##_slots(SLOT_POINTER)                                              \
        (void)k; (void)slots;                                                   \
        _Pragma("omp simd")                                                     \
        for (int64_t i = 0; i < n; i++) {                                       \
            rule##_state x = {0};                                               \
            rule##_slots(SLOT_LOAD)                                             \
            rule##_body(p + i, transformed(g[i], t), &x, &s, on); \
        }                                                                       \
    }                                                                           \
    static void rule##_resume(int64_t n, void *param, const void *grad, void *const *slots, \
                              const double *scalars, uint32_t switches, const fgd_prepare *prepare) { \
        const gradient_transform t = transform_of(prepare);                     \
        if (FGD_TRUST_##of == FGD_TRUST_GRADIENT) {                             \
            rule##_update(n, param, grad, slots, scalars, switches, prepare);   \
            return;                                                             \
        }                                                                       \
        switch (switches) { VARIANTS(rule, CALL_RESUME) }                       \
    }
FGD_TRUSTED(BEGIN_AND_RESUME)

/* Adds TERM(i) to lane i modulo FGD_LANES; the lanes stay in registers. The additions of one lane wait for
 * each other, so that loads of a CPU without far prefetching (Zen 1) would begin too late. */
#define ADD_TO_LANES(TERM)                                                      \
    double sum[FGD_LANES];                                                      \
    int64_t i = 0;                                                              \
    memcpy(sum, lanes, sizeof sum);                                             \
    for (; i + FGD_LANES <= n; i += FGD_LANES) {                                \
        __builtin_prefetch(g + i + AHEAD / sizeof(REAL));                       \
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

/* ---- Matrices --------------------------------------------------------------------------------------- */

INLINE void add_squares(int64_t n, const REAL *restrict g, double *restrict lanes,
                        double *restrict col_sums) {
    double sum[FGD_LANES];
    int64_t i = 0;
    memcpy(sum, lanes, sizeof sum);
    for (; i + FGD_LANES <= n; i += FGD_LANES) {
#pragma omp simd
        for (int k = 0; k < FGD_LANES; k++) {
            const double square = (double)g[i + k] * (double)g[i + k];
            sum[k] += square;
            col_sums[i + k] += square;
        }
    }
    for (int k = 0; i < n; i++, k++) {
        const double square = (double)g[i] * (double)g[i];
        sum[k] += square;
        col_sums[i] += square;
    }
    memcpy(lanes, sum, sizeof sum);
}

static void squares_of_row(int64_t n, const void *grad, double *lanes, double *col_sums) {
    add_squares(n, grad, lanes, col_sums);
}

static void squares(int64_t count, int64_t rows, int64_t cols, const void *grad, double *row_sums,
                    double *col_sums) {
    const REAL *g = grad;
    for (int64_t k = 0; k < count; k++, col_sums += cols) {
        for (int64_t row = 0; row < rows; row++, g += cols) {
            double lanes[FGD_LANES] = {0};
            add_squares(cols, g, lanes, col_sums);
            *row_sums++ = fgd_fold_lanes(lanes);
        }
    }
}

static void spread(int64_t first, int64_t n, int64_t rows, int64_t cols, const void *row_factors,
                   const void *col_factors, void *by_row, void *by_col) {
    const REAL *of_row = row_factors, *of_col = col_factors;
    REAL *restrict r = by_row, *restrict c = by_col;
    int64_t row = first / cols, col = first % cols, in_matrix = row % rows;
    of_col += row / rows * cols;
    for (int64_t i = 0; i < n;) {
        const int64_t left = cols - col, run = left < n - i ? left : n - i;
        const REAL factor = of_row[row];
#pragma omp simd
        for (int64_t k = 0; k < run; k++) {
            r[i + k] = factor;
            c[i + k] = of_col[col + k];
        }
        i += run, col = 0, row++;
        if (++in_matrix == rows) in_matrix = 0, of_col += cols;
    }
}

static void polynomial(int64_t from, int64_t to, int64_t size, double a, double b, double c,
                       const void *gram, void *square) {
    const REAL real_a = (REAL)a, real_b = (REAL)b, real_c = (REAL)c;
    for (int64_t row = from; row < to; row++) {
        const REAL *restrict g = (const REAL *)gram + row * size;
        REAL *restrict s = (REAL *)square + row * size;
#pragma omp simd
        for (int64_t i = 0; i < size; i++) s[i] = real_b * g[i] + real_c * s[i];
        s[row] = real_a + s[row];
    }
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
    .squares_of_row = squares_of_row,
    .squares = squares,
    .spread = spread,
    .polynomial = polynomial,
};
