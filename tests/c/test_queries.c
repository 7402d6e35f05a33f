/* What the library says about itself: version, error texts, rules, instruction sets. */
#include <string.h>

#include "check.h"
#include "fastgd.h"

static void test_errors(void) {
    const char *unknown = fgd_error_text(1);
    for (int code = 0; code >= FGD_ERROR_FETCH; code--) {
        CHECK(strlen(fgd_error_text(code)) > 5, "%d", code);
        CHECK(strcmp(fgd_error_text(code), unknown) != 0, "%d", code);
        for (int other = 0; other > code; other--)
            CHECK(strcmp(fgd_error_text(code), fgd_error_text(other)) != 0, "%d %d", code, other);
    }
    CHECK(strcmp(fgd_error_text(-1000), unknown) == 0, "%s", fgd_error_text(-1000));
}

static int all_named(const char *const *names, int count) {
    for (int i = 0; i < count; i++) {
        if (!names[i] || !*names[i]) return 0;
        for (int k = 0; k < i; k++)
            if (strcmp(names[i], names[k]) == 0) return 0;
    }
    return 1;
}

static void test_rules(void) {
    const int count = fgd_rule_count();
    CHECK(count > 0, "%d", count);
    CHECK(fgd_rule_at(-1) == NULL && fgd_rule_at(count) == NULL, "%d", count);
    CHECK(fgd_rule_find("no such rule") == FGD_ERROR_RULE, "%d", count);
    CHECK(fgd_rule_find("") == FGD_ERROR_RULE, "%d", count);
    CHECK(fgd_rule_find(NULL) == FGD_ERROR_RULE, "%d", count);
    for (int i = 0; i < count; i++) {
        const fgd_rule *rule = fgd_rule_at(i);
        CHECK(fgd_rule_find(rule->name) == i, "%s", rule->name);
        CHECK(rule->n_slots >= 0 && rule->n_slots <= FGD_MAX_SLOTS, "%s", rule->name);
        CHECK(rule->n_switches >= 0 && rule->n_switches <= FGD_MAX_SWITCHES, "%s", rule->name);
        CHECK(rule->n_scalars > 0 && rule->n_scalars <= FGD_MAX_SCALARS, "%s", rule->name);
        CHECK(all_named(rule->slots, rule->n_slots), "%s", rule->name);
        CHECK(all_named(rule->switches, rule->n_switches), "%s", rule->name);
        CHECK(all_named(rule->scalars, rule->n_scalars), "%s", rule->name);
        for (int k = 0; k < rule->n_slots; k++) {
            CHECK(rule->slot_switch[k] >= -1 && rule->slot_switch[k] < rule->n_switches, "%s", rule->name);
            CHECK(rule->slot_unsigned[k] == 0 || rule->slot_unsigned[k] == 1, "%s", rule->name);
        }
    }
}

/* A rule that is unlikely ever to change, word for word. */
static void test_one_rule(void) {
    const fgd_rule *sgd = fgd_rule_at(fgd_rule_find("sgd"));
    CHECK(sgd != NULL, "sgd");
    if (!sgd) return;
    CHECK(sgd->n_slots == 1 && strcmp(sgd->slots[0], "momentum_buffer") == 0, "%d", sgd->n_slots);
    CHECK(sgd->n_switches == 3 && strcmp(sgd->switches[1], "momentum") == 0, "%d", sgd->n_switches);
    CHECK(sgd->slot_switch[0] == 1, "%d", sgd->slot_switch[0]);
    CHECK(sgd->slot_unsigned[0] == 0, "%d", sgd->slot_unsigned[0]);
    CHECK(sgd->n_scalars == 5 && strcmp(sgd->scalars[2], "decay") == 0, "%d", sgd->n_scalars);
}

static void test_instruction_sets(void) {
    const int count = fgd_isa_count();
    int best = 0;
    CHECK(count > 0 && fgd_isa_supported(0), "%d", count);
    CHECK(fgd_isa_name(-1) == NULL && fgd_isa_name(count) == NULL, "%d", count);
    CHECK(!fgd_isa_supported(-1) && !fgd_isa_supported(count), "%d", count);
    for (int i = 0; i < count; i++)
        if (fgd_isa_supported(i)) best = i;
    CHECK(fgd_get_isa() == best, "%d, not %d", fgd_get_isa(), best);
    for (int i = 0; i < count; i++) {
        const int before = fgd_get_isa(), code = fgd_set_isa(i);
        CHECK(strlen(fgd_isa_name(i)) > 0, "%d", i);
        CHECK(code == (fgd_isa_supported(i) ? FGD_OK : FGD_ERROR_ISA), "%s: %d", fgd_isa_name(i), code);
        CHECK(fgd_get_isa() == (code ? before : i), "%s: %d", fgd_isa_name(i), fgd_get_isa());
    }
    CHECK(fgd_set_isa(-1) == FGD_ERROR_ISA && fgd_set_isa(count) == FGD_ERROR_ISA, "%d", count);
    CHECK(fgd_set_isa(best) == FGD_OK, "%d", best);
}

void test_queries(void) {
    CHECK(fgd_abi_version() == FGD_ABI_VERSION, "%d", fgd_abi_version());
    test_errors();
    test_rules();
    test_one_rule();
    test_instruction_sets();
}
