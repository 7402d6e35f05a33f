/* Optimizers as Python has them: their hyperparameters, and how the scalars of a step follow from these. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "added.h"
#include "formula.h"

/* The formula's inputs are the step, the hyperparameters, rows and columns of the tensor's matrices and the
 * distance from 1 to the next number of its dtype, and what is carried in. It gives whether hyperparameters
 * go together, maximize, switches, scalars, and what is carried out. */
typedef struct folding {
    fgd_optimizer shown;
    const double *constants;
    int32_t n_constants;
    const instruction *code;
} folding;

#include "folds.def"

enum { COUNT = sizeof foldings / sizeof *foldings };

int fgd_optimizer_count(void) { return COUNT; }

const fgd_optimizer *fgd_optimizer_at(int optimizer) {
    return optimizer < 0 || optimizer >= COUNT ? NULL : &foldings[optimizer].shown;
}

int fgd_optimizer_find(const char *name) {
    for (int i = 0; name && i < COUNT; i++)
        if (strcmp(foldings[i].shown.name, name) == 0) return i;
    return FGD_ERROR_RULE;
}

/* ---- Hyperparameters ---------------------------------------------------------------------------------- */

static int is_in_range(const fgd_hyperparameter *h, double value) {
    if (isnan(value)) return h->optional;
    return value >= h->low && value <= h->high && (!h->whole || value == floor(value));
}

int fgd_hyperparameter_defaults(int optimizer, double *values) {
    const fgd_optimizer *of = fgd_optimizer_at(optimizer);
    if (!of) return FGD_ERROR_RULE;
    if (!values) return FGD_ERROR_NULL;
    for (int i = 0; i < of->n_hyperparameters; i++) values[i] = of->hyperparameters[i].default_value;
    return FGD_OK;
}

int fgd_hyperparameter_set(int optimizer, double *values, const char *name, double value) {
    const fgd_optimizer *of = fgd_optimizer_at(optimizer);
    if (!of) return FGD_ERROR_RULE;
    if (!values || !name) return FGD_ERROR_NULL;
    for (int i = 0; i < of->n_hyperparameters; i++) {
        const fgd_hyperparameter *h = &of->hyperparameters[i];
        if (strcmp(h->name, name) != 0) continue;
        if (!is_in_range(h, value)) return FGD_ERROR_HYPERPARAMETER;
        values[i] = value;
        return FGD_OK;
    }
    return FGD_ERROR_HYPERPARAMETER;
}

/* ---- Folding ------------------------------------------------------------------------------------------ */

/* Three inputs; for NULL those of a float32 without matrices. */
static int read_tensor(const fgd_tensor *t, const fgd_rule *rule, double *inputs) {
    static const double eps[] = {
        [FGD_F32] = 0x1p-23, [FGD_F64] = 0x1p-52, [FGD_BF16] = 0x1p-7, [FGD_F16] = 0x1p-10};
    const int dtype = t ? t->dtype : FGD_F32;
    if (dtype < FGD_F32 || dtype > FGD_F16) return FGD_ERROR_DTYPE;
    int64_t rows = 0, cols = 0;
    if (t && rule->orthogonal) rows = t->matrix_rows, cols = rows > 0 ? t->size / rows : 0;
    else if (t) rows = t->factor_rows, cols = t->factor_cols;
    if (rows < 0 || cols < 0) return FGD_ERROR_MATRIX;
    inputs[0] = (double)rows, inputs[1] = (double)cols, inputs[2] = eps[dtype];
    return FGD_OK;
}

int fgd_fold(int optimizer, const double *values, const fgd_tensor *tensor, int64_t step, double *carried,
             fgd_group *group) {
    const fgd_optimizer *of = fgd_optimizer_at(optimizer);
    if (!of) return FGD_ERROR_RULE;
    if (!values || !group || (of->of_tensor && !tensor) || (of->n_carried && !carried)) return FGD_ERROR_NULL;
    if (step < 1 || step > LAST_STEP) return FGD_ERROR_SIZE;
    double registers[REGISTERS], outputs[OUTPUTS], *next = registers;
    *next++ = (double)step;
    for (int i = 0; i < of->n_hyperparameters; i++) {
        if (!is_in_range(&of->hyperparameters[i], values[i])) return FGD_ERROR_HYPERPARAMETER;
        *next++ = values[i];
    }
    const fgd_rule *rule = fgd_built_in(of->rule);
    const int code = read_tensor(of->of_tensor ? tensor : NULL, rule, next);
    if (code) return code;
    next += 3;
    for (int i = 0; i < of->n_carried; i++) *next++ = carried[i];
    const folding *f = &foldings[optimizer];
    memcpy(next, f->constants, (size_t)f->n_constants * sizeof *next);
    fgd_run_formula(f->code, registers, outputs);

    const double *given = outputs;
    if (*given++ == 0) return FGD_ERROR_HYPERPARAMETER;
    group->rule = of->rule;
    group->maximize = *given++ != 0;
    group->switches = 0;
    for (int i = 0; i < rule->n_switches; i++) group->switches |= (uint32_t)(*given++ != 0) << i;
    for (int i = 0; i < rule->n_scalars; i++) group->scalars[i] = *given++;
    for (int i = 0; i < of->n_carried; i++) carried[i] = *given++;
    return FGD_OK;
}
