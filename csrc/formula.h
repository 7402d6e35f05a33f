/* Runs formulas of scalars, in double, which fastgd/rules/programs.py has written down as programs. */
#ifndef FGD_FORMULA_H
#define FGD_FORMULA_H

#include <stdint.h>

/* INSTRUCTIONS of programs.py. */
enum { ADD, SUB, MUL, DIV, FLOORDIV, SQRT, LOGARITHM, POWER, REAL_POWER, LT, LE, EQ, JUMP, GIVE, END };

typedef struct instruction {
    int32_t name, to, a, b;
} instruction;

/* Runs code up to END over registers that hold inputs and constants; outputs receives what it gives. */
void fgd_run_formula(const instruction *code, double *registers, double *outputs);

#endif
