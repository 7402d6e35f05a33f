/* Runs programs of scalars; powers have the bits of fastgd/rules/powers.py. */
#include "_program.h"

#include <math.h>

static double small_power(double base, int64_t n) {
    double result = 1;
    for (; n; n >>= 1) {
        if (n & 1) result *= base;
        base *= base;
    }
    return result;
}

static double power(double base, int64_t n) {
    if (n < 256) return small_power(base, n);
    return small_power(base, n >> 8 << 8) * small_power(base, n & 255);
}

/* Where powers.py has 40 digits, this has those of long double: of double one is another once in a thousand
 * times, by a unit in its last place, and more often where long double is no wider. */
static double real_power(double base, double exponent) {
    if (exponent == floor(exponent) && exponent <= 64) return small_power(base, (int64_t)exponent);
    return (double)powl(base, exponent);
}

void run_program(const instruction *code, double *registers, double *outputs) {
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
            case POWER: registers[i->to] = power(a, (int64_t)b); break;
            case REAL_POWER: registers[i->to] = real_power(a, b); break;
            case LT: if (!(a < b)) next = code + i->to; break;
            case LE: if (!(a <= b)) next = code + i->to; break;
            case EQ: if (!(a == b)) next = code + i->to; break;
            case GIVE: outputs[i->to] = a; break;
            default: return;
        }
    }
}
