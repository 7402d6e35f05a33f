/* Operations on arrays of exactly their size, made anew for every run and run in several ways. */
#ifndef TRIAL_H
#define TRIAL_H

#include <stddef.h>
#include <stdint.h>

#include "array.h"
#include "fastgd.h"

/* What an array holds before: numbers that must not change, that may, NaN that all become numbers, or NaN in
 * memory that nobody looks at behind. */
typedef enum content { GIVEN, CHANGED, RESULT, SCRATCH } content;

enum { MOST_ARRAYS = 32, MOST_OPS = 8, MOST_REFUSALS = 8, MOST_BYTES = 128 };

typedef struct given {
    array at;
    content content;
    int is_integer;
} given;

/* A description, or a first number of an array, with which an operation is refused. */
typedef struct refusal {
    int op, code;
    int64_t of[MOST_BYTES / 8], *number, value;
} refusal;

typedef struct trial {
    int dtype, number, is_large;
    uint64_t hash; /* all that is random follows from it */
    int n_arrays, n_ops, n_refusals;
    given arrays[MOST_ARRAYS];
    fgd_op ops[MOST_OPS];
    const char *needed[MOST_OPS]; /* '!' for each pointer that may not be NULL */
    int64_t of[MOST_OPS][MOST_BYTES / 8];
    refusal refusals[MOST_REFUSALS];
    fgd_activation activation;
} trial;

/* Random: 0 to n - 1; a size around the lanes, or one or two. */
int64_t below(trial *t, int64_t n);
int64_t any_size(trial *t);

/* Arrays of the trial's dtype, of double, and of integers: random ones from least to most. */
void *reals(trial *t, content c, int64_t n);
double *doubles(trial *t, content c, int64_t n);
int64_t *integers(trial *t, content c, int64_t n, int64_t least, int64_t most);
int32_t *places(trial *t, int64_t n); /* RESULT */

/* An operation: sizes and pointers in the entry's order, as many as ops.def says. */
void emit(trial *t, const char *entry, const char *needed, const void *of, size_t bytes,
          const int64_t *sizes, void *const *pointers);
#define OF(description) &(description), sizeof(description)
#define SIZES_ARE(...) (const int64_t[]){__VA_ARGS__}
#define POINTERS_ARE(...) (void *const[]){__VA_ARGS__}

/* The last operation is refused with this code, when that is the description, or the array's first number. */
void refuses(trial *t, int code, const void *of, size_t bytes);
void refuses_number(trial *t, int code, int64_t *numbers, int64_t value);

/* Runs so many trials of each dtype on every instruction set, with some threads, and compares all bits. In
 * the first one every operation is also given what it has to refuse. */
void every_trial(const char *name, void (*build)(trial *t), int trials);

#endif
