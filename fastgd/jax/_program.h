/* Programs of fastgd/jax/programs.py: formulas of one step's scalars, in double. */
#ifndef FASTGD_JAX_PROGRAM_H
#define FASTGD_JAX_PROGRAM_H

#include <stdint.h>

/* fastgd/jax/programs.py has the same list. */
enum { ADD, SUB, MUL, DIV, FLOORDIV, SQRT, POWER, REAL_POWER, LT, LE, EQ, GIVE, END };

typedef struct instruction {
    int32_t name, to, a, b;
} instruction;

/* Runs code up to END over registers that hold inputs and constants; outputs receives what it gives. */
void run_program(const instruction *code, double *registers, double *outputs);

#endif
