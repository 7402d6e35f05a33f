/* The loops that load and store numbers and combine runs of them, compiled once per instruction set and
 * precision. */
#include "storage_kernels.h"

#include "codes.h"
#include "noise.h"

/* ---- One number at a time --------------------------------------------------------------------------- */

#define LOADS(name, type, DECODE)                                               \
    static void load_##name(int64_t n, const void *stored, void *real) {        \
        const type *restrict in = stored;                                       \
        REAL *restrict out = real;                                              \
        _Pragma("omp simd")                                                     \
        for (int64_t i = 0; i < n; i++) out[i] = (REAL)DECODE(in[i]);           \
    }
LOADS(f32, float, )
LOADS(f64, double, )
LOADS(bf16, uint16_t, bf16_decode)
LOADS(f16, uint16_t, f16_decode)

#define WIDE_STORES(name, type)                                                 \
    static void store_##name(int64_t n, const void *real, void *stored, int is_unsigned UNUSED, \
                             const fgd_noise *noise UNUSED) {                   \
        const REAL *restrict in = real;                                         \
        type *restrict out = stored;                                            \
        _Pragma("omp simd")                                                     \
        for (int64_t i = 0; i < n; i++) out[i] = (type)in[i];                   \
    }
WIDE_STORES(f32, float)
WIDE_STORES(f64, double)

/* What is never negative divides, so it is not rounded to 0; bfloat16 has float32's range and does not. */
INLINE uint16_t f16_above_zero(uint16_t stored, float x, int is_unsigned) {
    return is_unsigned && x > 0 && stored == 0 ? 1 : stored;
}
INLINE uint16_t bf16_above_zero(uint16_t stored, float x UNUSED, int is_unsigned UNUSED) { return stored; }

#define NARROW_STORES(name)                                                     \
    static void store_##name(int64_t n, const void *real, void *stored, int is_unsigned UNUSED, \
                             const fgd_noise *noise) {                          \
        const REAL *restrict in = real;                                         \
        uint16_t *restrict out = stored;                                        \
        if (!noise) {                                                           \
            _Pragma("omp simd")                                                 \
            for (int64_t i = 0; i < n; i++) {                                   \
                const float x = narrowed(in[i]);                                \
                out[i] = name##_above_zero(name##_nearest(x), x, is_unsigned);         \
            }                                                                   \
            return;                                                             \
        }                                                                       \
        const keys k = keys_of(noise);                                          \
        _Pragma("omp simd")                                                     \
        for (int64_t i = 0; i < n; i++) {                                       \
            const float x = narrowed(in[i]);                                    \
            out[i] = name##_above_zero(name##_stochastic(x, random16(k, i)), x, is_unsigned); \
        }                                                                       \
    }
NARROW_STORES(bf16)
NARROW_STORES(f16)

static void load_split(int64_t n, const void *high, const void *low, void *real) {
    const uint16_t *restrict upper = high;
    const int16_t *restrict lower = low;
    REAL *restrict out = real;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) out[i] = (REAL)split_join(upper[i], lower[i]);
}

static void store_split(int64_t n, const void *real, void *high, void *low) {
    const REAL *restrict in = real;
    uint16_t *restrict upper = high;
    int16_t *restrict lower = low;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float x = narrowed(in[i]);
        upper[i] = split_high(x);
        lower[i] = split_low(x);
    }
}

/* ---- Codes ------------------------------------------------------------------------------------------ */

static void load_codes(int64_t n, const uint8_t *codes, const float *scales, void *real,
                       int is_unsigned) {
    REAL *out = real;
    for (int64_t i = 0; i < n; i += FGD_BLOCK) {
        const int64_t m = n - i < FGD_BLOCK ? n - i : FGD_BLOCK;
        decode_block(m, codes + i, *scales++, out + i, is_unsigned);
    }
}

static void store_codes(int64_t n, const void *real, uint8_t *codes, float *scales, int is_unsigned,
                        const fgd_noise *noise) {
    const keys k = noise ? keys_of(noise) : (keys){0};
    uint32_t random[FGD_BLOCK];
    const REAL *in = real;
    for (int64_t i = 0; i < n; i += FGD_BLOCK) {
        const int64_t m = n - i < FGD_BLOCK ? n - i : FGD_BLOCK;
        if (noise) fill_random(m, random, k, (uint32_t)i);
        *scales++ = encode_block(m, in + i, largest_of(m, in + i), codes + i, is_unsigned,
                                 noise ? random : NULL, k.shift);
    }
}

/* ---- Combining -------------------------------------------------------------------------------------- */

static void add(int64_t n, const void *a, const void *b, void *out) {
    const REAL *x = a, *y = b;
    REAL *z = out;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) z[i] = x[i] + y[i];
}

static void subtract(int64_t n, const void *a, const void *b, void *out) {
    const REAL *x = a, *y = b;
    REAL *z = out;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) z[i] = x[i] - y[i];
}

static void follow(int64_t n, const void *stored, const void *rounded, void *real) {
    const REAL *restrict s = stored, *restrict r = rounded;
    REAL *restrict x = real;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) x[i] = r[i] == s[i] ? x[i] : s[i];
}

static void average(int64_t n, void *averages, const void *real, double weight) {
    const REAL *restrict x = real, w = (REAL)weight;
    REAL *restrict a = averages;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) a[i] = a[i] + w * (x[i] - a[i]);
}

static int64_t descending(int64_t n, void *change, const void *grad) {
    const REAL *restrict g = grad;
    REAL *restrict v = change;
    int64_t count = 0;
#pragma omp simd reduction(+ : count)
    for (int64_t i = 0; i < n; i++) {
        const int down = (v[i] < 0 && g[i] > 0) || (v[i] > 0 && g[i] < 0);
        v[i] = down || v[i] != v[i] ? v[i] : 0;
        count += down;
    }
    return count;
}

static void apply(int64_t n, void *real, const void *change, double decay, double scale) {
    const REAL d = (REAL)decay, s = (REAL)scale, *restrict c = change;
    REAL *restrict x = real;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) x[i] = d * x[i] + s * c[i];
}

const fgd_storage FGD_TABLE(fgd_storage) = {
    .load = {load_f32, load_f64, load_bf16, load_f16},
    .store = {store_f32, store_f64, store_bf16, store_f16},
    .load_codes = load_codes,
    .store_codes = store_codes,
    .load_split = load_split,
    .store_split = store_split,
    .add = add,
    .subtract = subtract,
    .follow = follow,
    .average = average,
    .descending = descending,
    .apply = apply,
};
