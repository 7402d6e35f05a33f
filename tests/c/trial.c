/* Makes arrays and operations on them, runs these in several ways, and compares what they leave. */
#include "trial.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "random.h"

int64_t below(trial *t, int64_t n) { return (int64_t)(random_bits(&t->hash) % (uint64_t)n); }

int64_t any_size(trial *t) {
    static const int64_t sizes[] = {1, 1, 2, 3, 5, 7, 15, 16, 17, 33};
    return sizes[below(t, sizeof sizes / sizeof *sizes)];
}

/* ---- Arrays and operations -------------------------------------------------------------------------- */

static void *give(trial *t, content c, int64_t item, int64_t n, int is_integer, void *packed) {
    if (t->n_arrays == MOST_ARRAYS) abort();
    given *g = &t->arrays[t->n_arrays++];
    const spread how = {.offset = (int)(below(t, 2) * item)}; /* aligned to elements, and no more */
    *g = (given){array_of(item, 1, &n, &how), c, is_integer};
    if (c == RESULT || c == SCRATCH) memset(packed, 0xff, (size_t)(n * item)); /* NaN */
    array_put(&g->at, packed);
    free(packed);
    return g->at.base;
}

static void *packed_of(int64_t n, int64_t item) {
    void *packed = malloc((size_t)(n * item + 1));
    if (!packed) abort();
    return packed;
}

static double random_real(trial *t) { return (double)(below(t, 1 << 21) - (1 << 20)) / (1 << 19); }

void *reals(trial *t, content c, int64_t n) {
    if (t->dtype == FGD_F64) return doubles(t, c, n);
    float *packed = packed_of(n, sizeof *packed);
    for (int64_t i = 0; i < n && c < RESULT; i++) packed[i] = (float)random_real(t);
    return give(t, c, sizeof *packed, n, 0, packed);
}

double *doubles(trial *t, content c, int64_t n) {
    double *packed = packed_of(n, sizeof *packed);
    for (int64_t i = 0; i < n && c < RESULT; i++) packed[i] = random_real(t);
    return give(t, c, sizeof *packed, n, 0, packed);
}

int64_t *integers(trial *t, content c, int64_t n, int64_t least, int64_t most) {
    int64_t *packed = packed_of(n, sizeof *packed);
    for (int64_t i = 0; i < n; i++) packed[i] = least + below(t, most - least + 1);
    return give(t, c, sizeof *packed, n, 1, packed);
}

int32_t *places(trial *t, int64_t n) { return give(t, RESULT, 4, n, 1, packed_of(n, 4)); }

void emit(trial *t, const char *entry, const char *needed, const void *of, size_t bytes,
          const int64_t *sizes, void *const *pointers) {
    if (t->n_ops == MOST_OPS || bytes > MOST_BYTES) abort();
    fgd_op *op = &t->ops[t->n_ops];
    *op = (fgd_op){.entry = fgd_op_find(entry), .dtype = t->dtype, .of = bytes ? t->of[t->n_ops] : NULL};
    const fgd_op_info *info = fgd_op_at(op->entry);
    if (!info || strlen(needed) != (size_t)info->n_pointers) abort();
    if (bytes) memcpy(t->of[t->n_ops], of, bytes);
    memcpy(op->sizes, sizes, (size_t)info->n_sizes * sizeof *sizes);
    memcpy(op->pointers, pointers, (size_t)info->n_pointers * sizeof *pointers);
    t->needed[t->n_ops++] = needed;
}

static refusal *next_refusal(trial *t, int code) {
    if (t->n_refusals == MOST_REFUSALS) abort();
    refusal *r = &t->refusals[t->n_refusals++];
    *r = (refusal){.op = t->n_ops - 1, .code = code};
    return r;
}

void refuses(trial *t, int code, const void *of, size_t bytes) {
    memcpy(next_refusal(t, code)->of, of, bytes);
}

void refuses_number(trial *t, int code, int64_t *numbers, int64_t value) {
    refusal *r = next_refusal(t, code);
    r->number = numbers, r->value = value;
}

/* ---- All arrays as bytes ---------------------------------------------------------------------------- */

static size_t bytes_of_array(const given *g) { return (size_t)(g->at.size * g->at.item); }

static size_t bytes_of_trial(const trial *t) {
    size_t bytes = 0;
    for (int i = 0; i < t->n_arrays; i++) bytes += bytes_of_array(&t->arrays[i]);
    return bytes;
}

static char *contents(const trial *t) {
    char *all = packed_of((int64_t)bytes_of_trial(t), 1), *at = all;
    for (int i = 0; i < t->n_arrays; at += bytes_of_array(&t->arrays[i++])) array_get(&t->arrays[i].at, at);
    return all;
}

/* Closes all arrays; what was scratch memory is left out. */
static char *close_all(trial *t, const char *what, size_t *bytes) {
    char *all = packed_of((int64_t)bytes_of_trial(t), 1), *at = all;
    for (int i = 0; i < t->n_arrays; i++) {
        given *g = &t->arrays[i];
        CHECK(array_close(&g->at, at), "%s %d, dtype %d: around array %d", what, t->number, t->dtype, i);
        if (g->content != SCRATCH) at += bytes_of_array(g);
    }
    *bytes = (size_t)(at - all);
    return all;
}

static int is_finite_number(const given *g, const char *at) {
    double wide;
    float narrow;
    if (g->at.item == 8) memcpy(&wide, at, 8);
    else memcpy(&narrow, at, 4), wide = (double)narrow;
    return isfinite(wide);
}

/* Of the arrays as they are, against what they were: those given are the same, all others are numbers. */
static void check_contents(const trial *t, const char *what, const char *before) {
    char *after = contents(t);
    size_t at = 0;
    for (int i = 0; i < t->n_arrays; i++) {
        const given *g = &t->arrays[i];
        const size_t bytes = bytes_of_array(g);
        int right = g->content != GIVEN || memcmp(after + at, before + at, bytes) == 0;
        for (size_t k = 0; k < bytes && !g->is_integer && g->content != SCRATCH; k += (size_t)g->at.item)
            right &= is_finite_number(g, after + at + k);
        CHECK(right, "%s %d, dtype %d: array %d", what, t->number, t->dtype, i);
        at += bytes;
    }
    free(after);
}

/* ---- Refusals --------------------------------------------------------------------------------------- */

/* The operation returns the code (1: any error) and changes nothing. */
static void check_refusal(const trial *t, const fgd_op *op, int code, const char *why) {
    char *before = contents(t);
    int64_t failed = -1;
    const int found = fgd_run(op, 1, &failed);
    char *after = contents(t);
    const char *entry = fgd_op_at(op->entry)->name;
    CHECK(code == 1 ? found < 0 : found == code, "%s, dtype %d, %s: %d", entry, t->dtype, why, found);
    CHECK(failed == 0, "%s, dtype %d, %s", entry, t->dtype, why);
    CHECK(memcmp(before, after, bytes_of_trial(t)) == 0, "%s, dtype %d, %s", entry, t->dtype, why);
    free(before);
    free(after);
}

static void check_refusals(trial *t) {
    for (int i = 0; i < t->n_ops; i++) {
        const fgd_op_info *info = fgd_op_at(t->ops[i].entry);
        fgd_op op = t->ops[i];
        op.dtype = FGD_BF16, check_refusal(t, &op, FGD_ERROR_DTYPE, "bfloat16");
        op = t->ops[i], op.of = NULL;
        if (t->ops[i].of) check_refusal(t, &op, 1, "no description");
        for (int k = 0; k < info->n_pointers; k++) {
            op = t->ops[i], op.pointers[k] = NULL;
            if (t->needed[i][k] == '!') check_refusal(t, &op, FGD_ERROR_NULL, "NULL");
        }
        for (int k = 0; k < info->n_sizes; k++) {
            const int64_t bad[] = {-1, INT64_MIN, INT64_MAX};
            for (int b = 0; b < 3; b++)
                op = t->ops[i], op.sizes[k] = bad[b], check_refusal(t, &op, FGD_ERROR_SIZE, "size");
        }
    }
    for (const refusal *r = t->refusals; r < t->refusals + t->n_refusals; r++) {
        fgd_op op = t->ops[r->op];
        const int64_t number = r->number ? *r->number : 0;
        if (r->number) *r->number = r->value;
        else op.of = r->of;
        check_refusal(t, &op, r->code, r->number ? "number" : "description");
        if (r->number) *r->number = number;
    }
}

/* ---- Runs ------------------------------------------------------------------------------------------- */

static trial *built(void (*build)(trial *t), int dtype, int number, int trials) {
    trial *t = calloc(1, sizeof *t);
    if (!t) abort();
    t->dtype = dtype, t->number = number, t->hash = (uint64_t)number, t->is_large = number == trials - 1;
    build(t);
    return t;
}

/* All arrays but scratch memory behind all operations, in one call or in one each. */
static char *outcome(trial *t, const char *what, int in_one, size_t *bytes) {
    char *before = contents(t);
    int64_t failed;
    for (int i = 0; i < (in_one ? 1 : t->n_ops); i++) {
        const int code = fgd_run(&t->ops[i], in_one ? t->n_ops : 1, &failed);
        CHECK(code == FGD_OK && failed == -1, "%s %d, dtype %d, operation %d: %s", what, t->number, t->dtype,
              i, fgd_error_text(code));
    }
    check_contents(t, what, before);
    free(before);
    return close_all(t, what, bytes);
}

static void compare(const char *what, void (*build)(trial *t), int dtype, int number, int trials) {
    trial *t = built(build, dtype, number, trials);
    size_t bytes, found_bytes;
    if (number == 0) check_refusals(t);
    fgd_set_num_threads(1);
    char *expected = outcome(t, what, 1, &bytes);
    digest_add(expected, bytes);
    free(t);
    for (int isa = 0; isa < fgd_isa_count(); isa++) {
        if (fgd_set_isa(isa)) continue;
        fgd_set_num_threads(1 + (isa + number) % 4);
        t = built(build, dtype, number, trials);
        char *found = outcome(t, what, isa % 2, &found_bytes);
        CHECK(found_bytes == bytes && memcmp(found, expected, bytes) == 0, "%s %d, dtype %d, %s", what,
              number, dtype, fgd_isa_name(isa));
        free(found);
        free(t);
    }
    free(expected);
}

void every_trial(const char *name, void (*build)(trial *t), int trials) {
    const int best = fgd_get_isa(), threads = fgd_get_num_threads();
    for (int number = 0; number < trials; number++) {
        compare(name, build, FGD_F32, number, trials);
        compare(name, build, FGD_F64, number, trials);
        fgd_set_isa(best);
    }
    fgd_set_num_threads(threads);
}
