/* The rules of rules.def as the ABI shows them, and the texts of the error codes. */
#include <stddef.h>

#include "added.h"

#define NAME_SLOT(name, when, sign) #name,
#define NAME(name) #name,
#define TEXT_(number) #number
#define TEXT(number) TEXT_(number)
#define SWITCH_OF_SLOT(name, when, sign) when,
#define SIGN_OF_SLOT(name, when, sign) sign,
#define COUNT_SLOT(name, when, sign) +1
#define COUNT(name) +1
#define ENUMERATOR(name) name,
#define SCALAR_ENUMERATOR(name) scalar_##name,
#define SLOT_ENUMERATOR(name, when, sign) slot_##name,
#define IS_THIS(rule) || (int)FGD_RULE_##rule == (int)this_rule

/* where a rule has no such scalar or slot */
enum { scalar_trust = -1, slot_row_var = -1, slot_col_var = -1 };

/* A function a rule, so that its switches can be enumerated under their plain names. */
#define ROW(rule)                                                               \
    _Static_assert((0 rule##_slots(COUNT_SLOT)) <= FGD_MAX_SLOTS &&             \
                   (0 rule##_switches(COUNT)) <= FGD_MAX_SWITCHES &&            \
                   (0 rule##_scalars(COUNT)) <= FGD_MAX_SCALARS,                \
                   #rule " has more than the ABI has room for");                \
    static const fgd_rule *rule##_row(void) {                                   \
        enum { always = -1, rule##_switches(ENUMERATOR) };                      \
        enum { signed_, unsigned_ };                                            \
        enum { rule##_scalars(SCALAR_ENUMERATOR) };                             \
        enum { rule##_slots(SLOT_ENUMERATOR) no_slot };                         \
        enum { this_rule = FGD_RULE_##rule };                                   \
        static const fgd_rule row = {                                           \
            .name = #rule,                                                      \
            .n_slots = 0 rule##_slots(COUNT_SLOT),                              \
            .n_switches = 0 rule##_switches(COUNT),                             \
            .n_scalars = 0 rule##_scalars(COUNT),                               \
            .slots = {rule##_slots(NAME_SLOT)},                                 \
            .slot_switch = {rule##_slots(SWITCH_OF_SLOT)},                      \
            .switches = {rule##_switches(NAME)},                                \
            .scalars = {rule##_scalars(NAME)},                                  \
            .slot_unsigned = {rule##_slots(SIGN_OF_SLOT)},                      \
            .decay = scalar_decay,                                              \
            .trust = scalar_trust,                                              \
            .row_slot = slot_row_var,                                           \
            .col_slot = slot_col_var,                                           \
            .orthogonal = 0 FGD_ORTHOGONAL(IS_THIS),                            \
            .whole = 0 FGD_WHOLE(IS_THIS),                                      \
        };                                                                      \
        return &row;                                                            \
    }
FGD_RULES(ROW)

#define ROW_FUNCTION(rule) rule##_row,
static const fgd_rule *(*const rows[FGD_RULE_COUNT])(void) = {FGD_RULES(ROW_FUNCTION)};

int fgd_abi_version(void) { return FGD_ABI_VERSION; }

const fgd_rule *fgd_built_in(int rule) { return rows[rule](); }

const char *fgd_error_text(int code) {
    switch (code) {
        case FGD_OK: return "no error";
        case FGD_ERROR_NULL: return "a required pointer is NULL";
        case FGD_ERROR_RULE: return "there is no such rule, or this one cannot be added";
        case FGD_ERROR_DTYPE: return "there is no such dtype, or the rule has none in its precision";
        case FGD_ERROR_SIZE: return "a size is negative or too large, or a counter of steps is at its end";
        case FGD_ERROR_GROUP: return "a tensor names a group that does not exist";
        case FGD_ERROR_SWITCHES: return "a switch is on that the rule does not have";
        case FGD_ERROR_SLOT: return "a state slot that the rule and its switches need is NULL";
        case FGD_ERROR_OPTION: return "an option is NaN or outside its range";
        case FGD_ERROR_WORKSPACE: return "the workspace is too small or not aligned to 8 bytes";
        case FGD_ERROR_ISA: return "this CPU does not run that instruction set, or it was not compiled in";
        case FGD_ERROR_THREADS: return "the number of threads must be from 1 to " TEXT(FGD_MAX_THREADS);
        case FGD_ERROR_LAYOUT:
            return "a layout has a bad number of dimensions, or its shape is not the tensor's size";
        case FGD_ERROR_LABEL: return "a class label or an index is outside 0 .. count - 1";
        case FGD_ERROR_GEMM: return "no matrix product has been set for this dtype, or it failed";
        case FGD_ERROR_ACTIVATION: return "there is no such activation";
        case FGD_ERROR_ROUNDING: return "there is no such rounding, or not for this dtype";
        case FGD_ERROR_ROWS: return "rows or their width are wrong, or rows do not go with another option";
        case FGD_ERROR_MATRIX:
            return "the shape of a tensor's matrices does not fit its size, or ns_steps is out of range";
        case FGD_ERROR_LOSS: return "there is no such loss";
        case FGD_ERROR_OP: return "a program has an operation that does not exist";
        case FGD_ERROR_FULL: return "no more than " TEXT(FGD_MAX_ADDED) " rules can be added";
        case FGD_ERROR_FETCH: return "the gradients could not be fetched";
        case FGD_ERROR_HYPERPARAMETER:
            return "there is no such hyperparameter, or it is out of range or does not go with another";
        default: return "unknown error code";
    }
}
