/* Checks all arguments of a call, and lays its job out in the workspace. */
#include "factored.h"
#include "job.h"
#include "orthogonal.h"
#include "trust.h"

/* ---- Checking -------------------------------------------------------------------------------------- */

static int check_options(const fgd_options *o, int write) {
    if (!o) return FGD_ERROR_NULL;
    if (!(o->grad_scale > 0) || isinf(o->grad_scale) || isinf(1 / o->grad_scale)) return FGD_ERROR_OPTION;
    if (!(o->clip_value >= 0) || !(o->clip_norm >= 0) || !(o->clip_unit >= 0)) return FGD_ERROR_OPTION;
    if (!(o->unit_eps >= 0)) return FGD_ERROR_OPTION;
    if (!isinf(o->clip_unit) && (!isinf(o->clip_norm) || write != WRITE_UPDATE)) return FGD_ERROR_OPTION;
    if (o->norm != FGD_NORM_2 && o->norm != FGD_NORM_INF) return FGD_ERROR_OPTION;
    if (o->scope < FGD_SCOPE_ALL || o->scope > FGD_SCOPE_TENSOR) return FGD_ERROR_OPTION;
    if (o->total_norm != -1 && (o->total_norm < 0 || o->scope != FGD_SCOPE_ALL)) return FGD_ERROR_OPTION;
    return o->normalize && isinf(o->clip_norm) ? FGD_ERROR_OPTION : FGD_OK;
}

static int check_group(const fgd_group *g) {
    const fgd_rule *rule = fgd_rule_at(g->rule);
    if (!rule) return FGD_ERROR_RULE;
    if (g->rounding < FGD_NEAREST || g->rounding > FGD_SPLIT) return FGD_ERROR_ROUNDING;
    if (g->state_rounding != FGD_NEAREST && g->state_rounding != FGD_STOCHASTIC) return FGD_ERROR_ROUNDING;
    if (g->cautious && rule->whole) return FGD_ERROR_SWITCHES;
    return g->switches >> rule->n_switches ? FGD_ERROR_SWITCHES : FGD_OK;
}

static int check_layout(const fgd_layout *l, int64_t size) {
    int64_t product = 1;
    int empty = 0;
    if (l->ndim < 0 || l->ndim > FGD_MAX_DIMS) return FGD_ERROR_LAYOUT;
    if (l->ndim > 0 && (!l->shape || !l->strides)) return FGD_ERROR_NULL;
    for (int d = 0; d < l->ndim; d++) {
        if (l->shape[d] < 0) return FGD_ERROR_LAYOUT;
        empty |= l->shape[d] == 0;
    }
    for (int d = 0; d < l->ndim && !empty; d++) {
        if (product > INT64_MAX / l->shape[d]) return FGD_ERROR_LAYOUT;
        product *= l->shape[d];
    }
    return (empty ? 0 : product) == size ? FGD_OK : FGD_ERROR_LAYOUT;
}

static int is_float(int dtype) { return dtype >= FGD_F32 && dtype <= FGD_F16; }

static int check_rows(const fgd_tensor *t, const fgd_options *o) {
    if (t->n_rows < 0 || t->width < 0) return FGD_ERROR_ROWS;
    if (t->width > 0 && t->n_rows > INT64_MAX / t->width) return FGD_ERROR_ROWS;
    if (t->n_rows * t->width != t->size || t->layout || !isinf(o->clip_unit)) return FGD_ERROR_ROWS;
    for (int64_t r = 0; r < t->n_rows; r++)
        if (t->rows[r] < 0) return FGD_ERROR_ROWS;
    return FGD_OK;
}

static int check_state(const fgd_tensor *t, const fgd_group *group) {
    const fgd_rule *rule = fgd_rule_at(group->rule);
    for (int i = 0; i < rule->n_slots; i++) {
        const int codes = t->state_dtype[i] == FGD_CODES;
        if (!fgd_uses_slot(rule, group, i)) continue;
        if (!codes && !is_float(t->state_dtype[i])) return FGD_ERROR_DTYPE;
        if (t->size > 0 && (!t->state[i] || (codes && !t->scales[i]))) return FGD_ERROR_SLOT;
        if (codes && t->rows) return FGD_ERROR_ROWS;
    }
    return FGD_OK;
}

static int check_matrices(const job *j, const fgd_tensor *t) {
    const fgd_group *group = &j->groups[t->group];
    const int factored = fgd_is_factored(j, t), orthogonal = fgd_rule_at(group->rule)->orthogonal;
    if (t->rows && (factored || orthogonal)) return FGD_ERROR_ROWS;
    if (factored && t->size > 0) {
        if (t->factor_rows <= 0 || t->factor_cols <= 0) return FGD_ERROR_MATRIX;
        if (t->size % t->factor_cols || t->size / t->factor_cols % t->factor_rows) return FGD_ERROR_MATRIX;
    }
    return orthogonal ? fgd_check_orthogonal(t, group) : FGD_OK;
}

static int check_update(const fgd_tensor *t, const fgd_group *group, const fgd_options *o) {
    const int narrow = t->dtype == FGD_BF16 || t->dtype == FGD_F16;
    const int random = group->rounding == FGD_STOCHASTIC || group->state_rounding == FGD_STOCHASTIC;
    if (t->copy && !is_float(t->copy_dtype)) return FGD_ERROR_DTYPE;
    if (random && !t->step) return FGD_ERROR_NULL;
    const int added = group->rule >= FGD_RULE_COUNT;
    if (added && !fgd_added_update(group->rule, fgd_real_of(t->dtype))) return FGD_ERROR_DTYPE;
    if (t->step && *t->step == INT64_MAX) return FGD_ERROR_SIZE;
    if (group->rounding == FGD_SPLIT && t->dtype == FGD_F16) return FGD_ERROR_ROUNDING;
    if (t->size > 0 && narrow && group->rounding >= FGD_KAHAN && !t->residual) return FGD_ERROR_SLOT;
    if (t->unit < 0 || (t->unit > 0 && t->size % t->unit)) return FGD_ERROR_SIZE;
    if (t->rows) {
        const int code = check_rows(t, o);
        if (code) return code;
    }
    return check_state(t, group);
}

static int check_tensor(const job *j, const fgd_tensor *t, int64_t n_groups) {
    const int update = j->write == WRITE_UPDATE;
    if (t->size < 0) return FGD_ERROR_SIZE;
    if (!is_float(t->grad_dtype)) return FGD_ERROR_DTYPE;
    if (j->write != WRITE_NOTHING && !is_float(t->dtype)) return FGD_ERROR_DTYPE;
    if (j->write == WRITE_CLIPPED && t->dtype != t->grad_dtype) return FGD_ERROR_DTYPE;
    if (update && (t->group < 0 || t->group >= n_groups)) return FGD_ERROR_GROUP;
    if (j->write == WRITE_CLIPPED && t->rows) return FGD_ERROR_ROWS;
    if (t->layout) {
        const int code = check_layout(t->layout, t->size);
        if (code) return code;
    }
    if (t->size > 0 && (!t->grad || (j->write != WRITE_NOTHING && !t->param))) return FGD_ERROR_NULL;
    const int code = update ? check_update(t, &j->groups[t->group], j->options) : FGD_OK;
    return code || !(j->factored || j->orthogonal) ? code : check_matrices(j, t);
}

/* ---- Laying out ------------------------------------------------------------------------------------ */

/* A sum of sizes; INT64_MAX where it would be more, as if there were such an amount of memory. */
static int64_t plus(int64_t a, int64_t b) { return a > INT64_MAX - b ? INT64_MAX : a + b; }

/* In words of 8 bytes, what the job's pointers need of each tensor, and the arrays of firsts one more; then
 * room for the largest matrix. */
int64_t fgd_workspace_size(const fgd_tensor *tensors, int64_t n_tensors) {
    int64_t words = 3, matrices = 0;
    for (int64_t t = 0; tensors && t < n_tensors; t++) {
        const int64_t n_chunks = tensors[t].size > 0 ? fgd_chunks_of(tensors[t].size) : 0;
        const int64_t bytes = fgd_orthogonal_bytes(&tensors[t]);
        words = plus(words, 3 + (1 + SUMS) * n_chunks + (int64_t)(sizeof(factors) / 8));
        words = plus(words, plus(fgd_units_of(&tensors[t]), fgd_moments_words(&tensors[t])));
        matrices = bytes > matrices ? bytes : matrices;
    }
    if (words > INT64_MAX / 8) return INT64_MAX;
    return plus(words * 8, matrices ? plus(matrices, FGD_MATRIX_ALIGNMENT) : 0);
}

/* Bytes of the parameter, its gradient and its state. */
static double bytes_of(const job *j, const fgd_tensor *t) {
    const fgd_group *group = &j->groups[t->group];
    const fgd_rule *rule = fgd_rule_at(group->rule);
    int64_t item = fgd_item_size(t->dtype) + fgd_item_size(t->grad_dtype);
    for (int k = 0; k < rule->n_slots; k++)
        if (fgd_uses_slot(rule, group, k)) item += fgd_item_size(t->state_dtype[k]);
    return (double)t->size * (double)item;
}

static void lay_out(job *j, void *workspace) {
    int64_t elements = 0;
    double bytes = 0; /* more than an integer holds is no error here */
    j->first_chunk = workspace;
    j->first_unit = j->first_chunk + j->n_tensors + 1;
    j->first_moment = j->first_unit + j->n_tensors + 1;
    j->first_chunk[0] = j->first_unit[0] = j->first_moment[0] = 0;
    for (int64_t t = 0; t < j->n_tensors; t++) {
        j->first_chunk[t + 1] = j->first_chunk[t] + fgd_chunks_of(j->tensors[t].size);
        j->first_unit[t + 1] = j->first_unit[t] + fgd_units_of(&j->tensors[t]);
        elements += j->tensors[t].size;
        if (j->write == WRITE_UPDATE) bytes += bytes_of(j, &j->tensors[t]);
        if (j->factored)
            j->first_moment[t + 1] = j->first_moment[t] + fgd_moments_words(&j->tensors[t]);
    }
    j->n_chunks = j->first_chunk[j->n_tensors];
    j->partial = (double *)(j->first_moment + j->n_tensors + 1);
    j->sums = j->partial + j->n_chunks;
    j->factors = (factors *)(j->sums + SUMS * j->n_chunks);
    j->unit_coef = (double *)(j->factors + j->n_tensors);
    j->moments = j->unit_coef + j->first_unit[j->n_tensors];
    if (j->orthogonal) {
        const double *end = j->moments + (j->factored ? j->first_moment[j->n_tensors] : 0);
        const uintptr_t past = (uintptr_t)end % FGD_MATRIX_ALIGNMENT;
        j->matrices = (char *)end + (past ? FGD_MATRIX_ALIGNMENT - past : 0);
    }
    j->threads = fgd_threads_for(elements);
    j->streams = fgd_is_beyond_caches(bytes);
    for (int64_t t = 0; t < j->n_tensors && (j->trial || j->options->scope != FGD_SCOPE_ALL); t++)
        j->factors[t] = (factors){1, 1, 1};
}

int fgd_prepare_job(job *j, int64_t n_groups, void *workspace, int64_t workspace_size) {
    const fgd_options *o = j->options;
    if (!j->report) return FGD_ERROR_NULL;
    *j->report = (fgd_report){
        .clip_coef = 1, .nonfinite_tensor = -1, .nonfinite_element = -1, .error_tensor = -1};
    if (j->n_tensors < 0 || n_groups < 0) return FGD_ERROR_SIZE;
    if ((j->n_tensors && !j->tensors) || (n_groups && !j->groups)) return FGD_ERROR_NULL;
    int code = check_options(o, j->write);
    for (int64_t g = 0; !code && g < n_groups; g++) {
        code = check_group(&j->groups[g]);
        if (code) break;
        const fgd_rule *rule = fgd_rule_at(j->groups[g].rule);
        j->trial |= j->groups[g].cautious || rule->trust >= 0;
        j->factored |= rule->row_slot >= 0;
        j->orthogonal |= rule->orthogonal;
    }
    if (code) return code;
    for (int64_t t = 0; t < j->n_tensors; t++) {
        code = check_tensor(j, &j->tensors[t], n_groups);
        if (code) {
            j->report->error_tensor = t;
            return code;
        }
    }
    if (!workspace || (uintptr_t)workspace % 8) return FGD_ERROR_WORKSPACE;
    if (workspace_size < fgd_workspace_size(j->tensors, j->n_tensors)) return FGD_ERROR_WORKSPACE;
    j->measure = o->measure || o->skip_nonfinite || (!isinf(o->clip_norm) && o->total_norm < 0) ||
                 j->write == WRITE_NOTHING;
    lay_out(j, workspace);
    if (!j->measure && !(o->total_norm < 0)) fgd_finish_measure(j);
    return FGD_OK;
}
