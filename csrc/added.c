/* The table of rules: those of rules.def, and behind them those that callers add. */
#include "added.h"

#include <stddef.h>
#include <string.h>

enum { TEXTS = 1 + FGD_MAX_SLOTS + FGD_MAX_SWITCHES + FGD_MAX_SCALARS };

typedef struct entry {
    fgd_rule row;
    fgd_update_kernel update[2]; /* by FGD_F32 and FGD_F64 */
    char texts[TEXTS][FGD_MAX_NAME];
} entry;

/* Entries below `count` never change again, so that they are read without the lock. */
static entry entries[FGD_MAX_ADDED];
static int count;
static char lock;

int fgd_rule_count(void) { return FGD_RULE_COUNT + __atomic_load_n(&count, __ATOMIC_ACQUIRE); }

const fgd_rule *fgd_rule_at(int rule) {
    if (rule >= 0 && rule < FGD_RULE_COUNT) return fgd_built_in(rule);
    return rule < 0 || rule >= fgd_rule_count() ? NULL : &entries[rule - FGD_RULE_COUNT].row;
}

int fgd_rule_find(const char *name) {
    const int rules = fgd_rule_count();
    for (int rule = 0; name && rule < rules; rule++)
        if (strcmp(fgd_rule_at(rule)->name, name) == 0) return rule;
    return FGD_ERROR_RULE;
}

fgd_update_kernel fgd_added_update(int rule, int real) { return entries[rule - FGD_RULE_COUNT].update[real]; }

/* ---- Checking --------------------------------------------------------------------------------------- */

static int is_name(const char *name) {
    return name && name[0] && memchr(name, 0, FGD_MAX_NAME) != NULL;
}

static int are_names(const char *const *names, int n, int most) {
    if (n < 0 || n > most) return 0;
    for (int i = 0; i < n; i++) {
        if (!is_name(names[i])) return 0;
        for (int k = 0; k < i; k++)
            if (strcmp(names[i], names[k]) == 0) return 0;
    }
    return 1;
}

static int is_row(const fgd_rule *row) {
    if (!is_name(row->name) || !are_names(row->slots, row->n_slots, FGD_MAX_SLOTS)) return 0;
    if (!are_names(row->switches, row->n_switches, FGD_MAX_SWITCHES)) return 0;
    if (!are_names(row->scalars, row->n_scalars, FGD_MAX_SCALARS)) return 0;
    for (int k = 0; k < row->n_slots; k++) {
        if (row->slot_switch[k] < -1 || row->slot_switch[k] >= row->n_switches) return 0;
        if (row->slot_unsigned[k] != 0 && row->slot_unsigned[k] != 1) return 0;
    }
    if (row->decay < -1 || row->decay >= row->n_scalars || (row->decay < 0 && !row->whole)) return 0;
    if (row->whole != 0 && row->whole != 1) return 0;
    return row->trust == -1 && row->row_slot == -1 && row->col_slot == -1 && !row->orthogonal;
}

/* ---- Adding ----------------------------------------------------------------------------------------- */

static void copy_names(const char **names, int n, int room, char (*texts)[FGD_MAX_NAME]) {
    for (int i = 0; i < room; i++) names[i] = i < n ? strcpy(texts[i], names[i]) : NULL;
}

/* The entry becomes a copy of the row that shares no memory with it. */
static void copy_row(entry *e, const fgd_rule *row) {
    char(*texts)[FGD_MAX_NAME] = e->texts;
    e->row = *row;
    copy_names(&e->row.name, 1, 1, texts);
    copy_names(e->row.slots, row->n_slots, FGD_MAX_SLOTS, texts += 1);
    copy_names(e->row.switches, row->n_switches, FGD_MAX_SWITCHES, texts += FGD_MAX_SLOTS);
    copy_names(e->row.scalars, row->n_scalars, FGD_MAX_SCALARS, texts + FGD_MAX_SWITCHES);
}

static int add(const fgd_rule *row, fgd_update_kernel f32, fgd_update_kernel f64) {
    const int next = fgd_rule_count();
    if (fgd_rule_find(row->name) >= 0) return FGD_ERROR_RULE;
    if (next == FGD_RULE_COUNT + FGD_MAX_ADDED) return FGD_ERROR_FULL;
    entry *e = &entries[next - FGD_RULE_COUNT];
    copy_row(e, row);
    e->update[FGD_F32] = f32, e->update[FGD_F64] = f64;
    __atomic_store_n(&count, next + 1 - FGD_RULE_COUNT, __ATOMIC_RELEASE);
    return next;
}

int fgd_rule_add(const fgd_rule *row, fgd_update_kernel f32, fgd_update_kernel f64) {
    if (!row || (!f32 && !f64)) return FGD_ERROR_NULL;
    if (!is_row(row)) return FGD_ERROR_RULE;
    while (__atomic_test_and_set(&lock, __ATOMIC_ACQUIRE)) {
    }
    const int rule = add(row, f32, f64);
    __atomic_clear(&lock, __ATOMIC_RELEASE);
    return rule;
}
