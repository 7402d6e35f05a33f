/* The update loops over numbers stored in fewer bits than they are computed in, converted on the way.
 * Compiled once per instruction set; arithmetic is in float32. */
#include "stored_kernels.h"

#include "real.h"

#if FGD_DOUBLE
const fgd_stored FGD_TABLE(fgd_stored) = {{{0}}};
#else

#include "bodies.h"
#include "codes.h"

/* The 16 random bits of slot k, of 32 for each pair of slots. */
INLINE uint32_t half_of(int k, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3) {
    const uint32_t r = k < 2 ? r0 : k < 4 ? r1 : k < 6 ? r2 : r3;
    return k % 2 ? r & 0xffff : r >> 16;
}

/* ---- bfloat16 -------------------------------------------------------------------------------------- */

INLINE float get_f32(float x) { return x; }
INLINE float put_f32(float x, int random UNUSED, uint32_t bits UNUSED) { return x; }
INLINE float get_bf16(uint16_t x) { return bf16_decode(x); }
INLINE uint16_t put_bf16(float x, int random, uint32_t bits) {
    return random ? bf16_stochastic(x, bits) : bf16_nearest(x);
}

#define BF16_POINTER(name, when, sign) uint16_t *restrict name = slots[k++];
#define BF16_LOAD(name, when, sign) if (on.when) x.name = bf16_decode(name[i]);
#define BF16_STORE(name, when, sign)                                            \
    if (on.when) name[i] = put_bf16(x.name, random_state, half_of(slot, r0, r1, r2, r3)); \
    slot++;

#define BF16_LOOPS(rule, kind, type, real)                                      \
    INLINE void rule##_##kind##_loop(int64_t n, type *restrict p, const type *restrict g, \
                                     void *const *slots, const double *scalars, const uint32_t switches, \
                                     const gradient_transform t, const int random_param, \
                                     const int random_state, const fgd_noise *noise) { \
        int k = 0;                                                              \
        READ_CHOICE(rule)                                                       \
        rule##_slots(BF16_POINTER)                                              \
        const keys k0 = random_state ? keys_of(noise + 1) : (keys){0};          \
        const keys k1 = random_state && k > 2 ? keys_of(noise + 2) : (keys){0}; \
        const keys k2 = random_state && k > 4 ? keys_of(noise + 3) : (keys){0}; \
        const keys k3 = random_state && k > 6 ? keys_of(noise + 4) : (keys){0}; \
        const keys kp = random_param ? keys_of(noise) : (keys){0};              \
        (void)slots;                                                            \
        _Pragma("omp simd")                                                     \
        for (int64_t i = 0; i < n; i++) {                                       \
            const uint32_t r0 = random_state ? random32(k0, i) : 0;             \
            const uint32_t r1 = random_state && k > 2 ? random32(k1, i) : 0;    \
            const uint32_t r2 = random_state && k > 4 ? random32(k2, i) : 0;    \
            const uint32_t r3 = random_state && k > 6 ? random32(k3, i) : 0;    \
            const uint32_t rp = random_param ? random16(kp, i) : 0;             \
            int slot = 0;                                                       \
            rule##_state x = {0};                                               \
            REAL param = get_##real(p[i]);                                      \
            rule##_slots(BF16_LOAD)                                             \
            rule##_body(&param, transformed(get_##real(g[i]), t), &x, &s, on); \
            p[i] = put_##real(param, random_param, rp);                         \
            rule##_slots(BF16_STORE)                                            \
            (void)slot; (void)r0; (void)r1; (void)r2; (void)r3; (void)rp;       \
        }                                                                       \
    }

#define F32_LOOP(rule, mask, random_state) \
    rule##_state_loop(n, param, grad, slots, scalars, mask, t, 0, random_state, noise)
#define F32_NEAREST(rule, mask) F32_LOOP(rule, mask, 0)
#define F32_RANDOM_STATE(rule, mask) F32_LOOP(rule, mask, 1)

#define BF16_LOOP(rule, mask, random_param, random_state) \
    rule##_all_loop(n, param, grad, slots, scalars, mask, t, random_param, random_state, noise)
#define BF16_NEAREST(rule, mask) BF16_LOOP(rule, mask, 0, 0)
#define BF16_RANDOM_PARAM(rule, mask) BF16_LOOP(rule, mask, 1, 0)
#define BF16_RANDOM_STATE(rule, mask) BF16_LOOP(rule, mask, 0, 1)
#define BF16_RANDOM_BOTH(rule, mask) BF16_LOOP(rule, mask, 1, 1)

/* ---- Codes ------------------------------------------------------------------------------------------ */

#define CODES_POINTER(name, when, sign)                                         \
    uint8_t *restrict name = slots[k];                                          \
    REAL *restrict name##_new = fresh[k];                                       \
    const float name##_scale = on.when ? scales[k][at / FGD_BLOCK] : 0;         \
    uint32_t name##_largest = 0;                                                \
    k++;
#define CODES_LARGEST(name, when, sign) , name##_largest
#define CODES_LOAD(name, when, sign) if (on.when) x.name = code_decode(name[at + i], name##_scale, sign);
#define CODES_KEEP(name, when, sign)                                            \
    if (on.when) {                                                              \
        const uint32_t magnitude = magnitude_of(x.name);                        \
        name##_new[i] = x.name;                                                 \
        name##_largest = magnitude > name##_largest ? magnitude : name##_largest; \
    }
#define CODES_STORE(name, when, sign)                                           \
    if (on.when) {                                                              \
        if (random_state && filled != slot / 2)                                 \
            fill_random(n, random, keys_of(noise + 1 + (filled = slot / 2)), (uint32_t)at); \
        scales[slot][at / FGD_BLOCK] = encode_block(n, name##_new, name##_largest, name + at, sign, \
                                                    random_state ? random : NULL, slot % 2 ? 0 : 16); \
    }                                                                           \
    slot++;

#define PRAGMA_(text) _Pragma(#text)
#define PRAGMA(text) PRAGMA_(text)

/* New numbers wait in the first-level cache until the largest of their block is known. n is the constant
 * FGD_BLOCK for all but the last block, so that the short loops have no remainder to look for. */
#define CODES_LOOPS(rule)                                                       \
    INLINE void rule##_codes_block(int64_t at, const int64_t n, float *restrict p, const float *restrict g, \
                                   void *const *slots, float *const *scales, const double *scalars, \
                                   const uint32_t switches, const gradient_transform t, \
                                   const int random_state, const fgd_noise *noise) { \
        enum { signed_, unsigned_ };                                            \
        REAL fresh[1 rule##_slots(SLOT_COUNT)][FGD_BLOCK];                      \
        uint32_t random[FGD_BLOCK], none = 0;                                   \
        int k = 0, slot = 0, filled = -1;                                       \
        READ_CHOICE(rule)                                                       \
        rule##_slots(CODES_POINTER)                                             \
        PRAGMA(omp simd reduction(max : none rule##_slots(CODES_LARGEST)))      \
        for (int64_t i = 0; i < n; i++) {                                       \
            rule##_state x = {0};                                               \
            rule##_slots(CODES_LOAD)                                            \
            rule##_body(p + at + i, transformed(g[at + i], t), &x, &s, on); \
            rule##_slots(CODES_KEEP)                                            \
        }                                                                       \
        rule##_slots(CODES_STORE)                                               \
        (void)k; (void)slot; (void)filled; (void)none; (void)slots; (void)scales; (void)fresh; (void)random; \
        (void)noise;                                                            \
    }                                                                           \
    INLINE void rule##_codes_loop(int64_t n, float *p, const float *g, void *const *slots, \
                                  float *const *scales, const double *scalars, const uint32_t switches, \
                                  const gradient_transform t, const int random_state, \
                                  const fgd_noise *noise) {                     \
        int64_t at = 0;                                                         \
        for (; n - at >= FGD_BLOCK; at += FGD_BLOCK)                            \
            rule##_codes_block(at, FGD_BLOCK, p, g, slots, scales, scalars, switches, t, random_state, \
                               noise);                                          \
        if (at < n)                                                             \
            rule##_codes_block(at, n - at, p, g, slots, scales, scalars, switches, t, random_state, noise); \
    }

#define CODES_LOOP(rule, mask, random_state) \
    rule##_codes_loop(n, param, grad, slots, scales, scalars, mask, t, random_state, noise)
#define CODES_NEAREST(rule, mask) CODES_LOOP(rule, mask, 0)
#define CODES_RANDOM_STATE(rule, mask) CODES_LOOP(rule, mask, 1)

/* ---- The table -------------------------------------------------------------------------------------- */

#define ARGUMENTS                                                               \
    int64_t n, void *param, const void *grad, void *const *slots, float *const *scales UNUSED, \
        const double *scalars, uint32_t switches, const fgd_prepare *prepare, int random,   \
        const fgd_noise *noise

#define KERNELS(rule)                                                           \
    BF16_LOOPS(rule, state, float, f32)                                         \
    BF16_LOOPS(rule, all, uint16_t, bf16)                                       \
    CODES_LOOPS(rule)                                                           \
    static void rule##_state_bf16(ARGUMENTS) {                                  \
        const gradient_transform t = transform_of(prepare);                     \
        if (random & FGD_RANDOM_STATE) switch (switches) { VARIANTS(rule, F32_RANDOM_STATE) } \
        else switch (switches) { VARIANTS(rule, F32_NEAREST) }                  \
    }                                                                           \
    static void rule##_all_bf16(ARGUMENTS) {                                    \
        const gradient_transform t = transform_of(prepare);                     \
        if (random == FGD_RANDOM_NONE) switch (switches) { VARIANTS(rule, BF16_NEAREST) } \
        else if (random == FGD_RANDOM_PARAM) switch (switches) { VARIANTS(rule, BF16_RANDOM_PARAM) } \
        else if (random == FGD_RANDOM_STATE) switch (switches) { VARIANTS(rule, BF16_RANDOM_STATE) } \
        else switch (switches) { VARIANTS(rule, BF16_RANDOM_BOTH) }             \
    }                                                                           \
    static void rule##_state_codes(ARGUMENTS) {                                 \
        const gradient_transform t = transform_of(prepare);                     \
        if (random & FGD_RANDOM_STATE) switch (switches) { VARIANTS(rule, CODES_RANDOM_STATE) } \
        else switch (switches) { VARIANTS(rule, CODES_NEAREST) }                \
    }
FGD_STREAMED(KERNELS)

#define STATE_BF16(rule) [FGD_RULE_##rule] = rule##_state_bf16,
#define ALL_BF16(rule) [FGD_RULE_##rule] = rule##_all_bf16,
#define STATE_CODES(rule) [FGD_RULE_##rule] = rule##_state_codes,
const fgd_stored FGD_TABLE(fgd_stored) = {
    .update = {
        [FGD_STATE_BF16] = {FGD_STREAMED(STATE_BF16)},
        [FGD_ALL_BF16] = {FGD_STREAMED(ALL_BF16)},
        [FGD_STATE_CODES] = {FGD_STREAMED(STATE_CODES)},
    },
};

#endif
