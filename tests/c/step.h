/* A step of one rule on tensors of many sizes and both dtypes, as data that can be run in several ways. */
#ifndef STEP_H
#define STEP_H

#include <stddef.h>
#include <stdint.h>

#include "fastgd.h"
#include "field.h"

enum { SIZES = 9, TENSORS = 2 * SIZES, PARAM = 0, GRAD = 1, SLOT = 2, MAX_OPERANDS = SLOT + FGD_MAX_SLOTS };

/* Tensor t holds tensor_size(t) numbers of dtype t % 2. */
int64_t tensor_size(int t);
int64_t tensor_item(int t);

/* All numbers of a step, packed: tensor after tensor, in each param, grad and the rule's slots. */
typedef struct image {
    int operands;
    size_t bytes;
    char *data;
} image;

image image_of(int operands);
image image_copy(const image *from);
void *image_at(const image *m, int t, int operand);
void image_set(image *m, int t, int operand, int64_t i, double value);
void image_take(image *m, const image *from, int operand); /* that operand of every tensor */
int image_same(const image *a, const image *b);
int image_finite(const image *m);
void image_free(image *m);

/* One rule with some of its switches on, and numbers to start from. The variant counts all of them. */
typedef struct step {
    int variant;
    const fgd_rule *rule;
    fgd_group group;
    image before;
} step;

/* Calls visit with every rule of the table and every combination of its switches. */
void every_step(void (*visit)(const step *s));

fgd_options no_options(void);

/* A tensor whose operands are all of this dtype, without pointers. */
fgd_tensor tensor_of(int64_t size, int dtype);

/* Gives the tensor the matrices that the step's rule wants of one with this shape. */
void take_matrices(const step *s, fgd_tensor *t, const int64_t *shape);

/* Whether slot k has a number for each row or column, which no layout places; its elements in a tensor. */
int is_of_lines(const step *s, int k);
int64_t slot_size(const step *s, const fgd_tensor *t, int k);

/* How fgd_update is called: operand o of every tensor lies as (first + o * next) % PLACINGS says. */
typedef struct manner {
    int isa, threads, first, next;
} manner;

static const manner PLAIN = {-1, 1, CONTIGUOUS, 0}; /* isa -1: the one in use */

/* Runs the step on copies and returns what it left behind; checks that it succeeded, that every byte outside
 * the elements is as before, that no gradient has changed and that the step counters fit the report. */
image step_run(const step *s, const fgd_options *options, manner how, fgd_report *report);

/* As the header says: g / grad_scale, clamped to clip_value, times coef, each in the tensor's precision. */
void transform_gradients(image *m, const fgd_options *options, double coef);

/* From an integer generator, the same on every machine: uniform in -1 .. 1. */
double random_number(void);

#endif
