/* Which arrays of which size a call must have. */
#include "needs.h"

#include <string.h>

static need need_of(int kind, int64_t size) {
    const int is_possible = size >= 0 && size <= MOST_ELEMENTS;
    return (need){kind, is_possible ? bytes_of(kind) : 0, size};
}

/* -1 where it is negative or more than there is memory for. */
static int64_t product(int64_t a, int64_t b) {
    if (a < 0 || b < 0 || a > MOST_ELEMENTS || b > MOST_ELEMENTS) return -1;
    return a * b;
}

const fgd_group *group_of(const call *c, const part *p) {
    const int exists = c->entry == UPDATE && p->t.group >= 0 && p->t.group < c->n_groups;
    return exists && fgd_rule_at(c->groups[p->t.group].rule) ? &c->groups[p->t.group] : NULL;
}

int group_has_slot(const fgd_group *group, int slot) {
    const fgd_rule *rule = fgd_rule_at(group->rule);
    if (slot >= rule->n_slots) return 0;
    return rule->slot_switch[slot] < 0 || (group->switches >> rule->slot_switch[slot] & 1);
}

int may_be_cautious(const fgd_group *group) { return !fgd_rule_at(group->rule)->whole; }

int is_orthogonal(const fgd_group *group) { return fgd_rule_at(group->rule)->orthogonal; }

int is_line_slot(const fgd_group *group, int slot) {
    const fgd_rule *rule = fgd_rule_at(group->rule);
    return (slot == rule->row_slot || slot == rule->col_slot) && group_has_slot(group, slot);
}

int wants_matrices(const fgd_group *group) {
    const int row_slot = fgd_rule_at(group->rule)->row_slot;
    return is_orthogonal(group) || (row_slot >= 0 && is_line_slot(group, row_slot));
}

double scalar_from(const fgd_rule *rule, int i, double from) {
    return strcmp(rule->scalars[i], "ns_steps") == 0 ? (double)(int)(3 * from) : from;
}

/* The largest divisor of size up to `most`. */
static int64_t divisor(int64_t size, int64_t most) {
    while (most > 1 && size % most) most--;
    return most > 1 ? most : 1;
}

void take_matrices_of(part *p, const fgd_group *group, int64_t rows) {
    fgd_tensor *t = &p->t;
    if (!wants_matrices(group)) return;
    if (is_orthogonal(group)) {
        t->matrix_rows = divisor(t->size, rows);
        return;
    }
    t->factor_rows = divisor(t->size, rows);
    t->factor_cols = divisor(t->size / t->factor_rows, 2 * rows + 3);
}

/* Elements of a slot: as many as the tensor has, or one for each line of its matrices. */
static int64_t slot_size(const fgd_group *group, const fgd_tensor *t, int slot, int64_t size) {
    if (!is_line_slot(group, slot)) return size;
    const int64_t length = slot == fgd_rule_at(group->rule)->row_slot ? t->factor_cols : t->factor_rows;
    return length > 0 ? size / length : 0;
}

int slot_of(int o) {
    if (o >= SCALES) return o - SCALES;
    return o >= SLOT && o < RESIDUAL ? o - SLOT : -1;
}

/* For arrays that fgd_update alone has. */
static need update_need(const fgd_group *group, const part *p, int o, int64_t size) {
    const fgd_tensor *t = &p->t;
    const need none = {0};
    const int narrow = t->dtype == FGD_BF16 || t->dtype == FGD_F16;
    if (!group) return none;
    if (o == RESIDUAL && narrow && group->rounding == FGD_KAHAN) return need_of(t->dtype, size);
    if (o == RESIDUAL && narrow && group->rounding == FGD_MASTER) return need_of(FGD_F32, size);
    if (o == RESIDUAL && narrow && group->rounding == FGD_SPLIT) return need_of(LOW_BITS, size);
    if (o == AVERAGE && p->has_average) return need_of(t->dtype == FGD_F64 ? FGD_F64 : FGD_F32, size);
    if (o == COPY && p->has_copy && is_float(t->copy_dtype)) return need_of(t->copy_dtype, size);
    const int slot = slot_of(o);
    if (slot < 0 || !group_has_slot(group, slot) || t->state_dtype[slot] > FGD_CODES) return none;
    const int64_t n = slot_size(group, t, slot, size);
    if (o < SCALES) return need_of(t->state_dtype[slot], n);
    if (t->state_dtype[slot] != FGD_CODES) return none;
    return need_of(BLOCK_SCALES, (n + FGD_BLOCK - 1) / FGD_BLOCK);
}

int has_rows(const call *c, const part *p) {
    return p->has_rows && (c->entry != UPDATE || p->t.n_rows <= MOST_ELEMENTS);
}

need array_need(const call *c, const part *p, int o) {
    const fgd_tensor *t = &p->t;
    const int rows = has_rows(c, p) && c->entry == UPDATE;
    int64_t size = p->ndim < 0 ? t->size : 1;
    for (int d = 0; d < p->ndim; d++) size = product(size, p->shape[d]);
    if (o == GRAD && c->entry != CLIP && is_float(t->grad_dtype)) return need_of(t->grad_dtype, size);
    if (rows) size = product(p->table_rows, t->width);
    if (o == PARAM && c->entry != MEASURE && is_float(t->dtype)) return need_of(t->dtype, size);
    return update_need(group_of(c, p), p, o, size);
}

int is_unsigned(const call *c, const part *p, int o) {
    const fgd_group *group = group_of(c, p);
    const int slot = slot_of(o);
    if (!group || slot < 0 || !group_has_slot(group, slot)) return 0;
    return fgd_rule_at(group->rule)->slot_unsigned[slot];
}
