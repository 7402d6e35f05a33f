/* Formulas of scalars, instruction by instruction. */
#include "formula.h"

#include <math.h>

#include "powers.h"

void fgd_run_formula(const instruction *code, double *registers, double *outputs) {
    const instruction *next = code;
    for (;;) {
        const instruction *i = next++;
        const double a = registers[i->a], b = registers[i->b];
        switch (i->name) {
            case ADD: registers[i->to] = a + b; break;
            case SUB: registers[i->to] = a - b; break;
            case MUL: registers[i->to] = a * b; break;
            case DIV: registers[i->to] = a / b; break;
            case FLOORDIV: registers[i->to] = floor(a / b); break;
            case SQRT: registers[i->to] = sqrt(a); break;
            case LOGARITHM: registers[i->to] = fgd_logarithm(a); break;
            case POWER: registers[i->to] = fgd_power(a, (int64_t)b); break;
            case REAL_POWER: registers[i->to] = fgd_real_power(a, b); break;
            case LT: if (!(a < b)) next = code + i->to; break;
            case LE: if (!(a <= b)) next = code + i->to; break;
            case EQ: if (!(a == b)) next = code + i->to; break;
            case JUMP: next = code + i->to; break;
            case GIVE: outputs[i->to] = a; break;
            default: return;
        }
    }
}
