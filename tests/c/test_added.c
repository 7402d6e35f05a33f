/* Rules that are added from C: used as those of the table, and refused where something is wrong with them.
 * These come last, because other tests go through all rules there are. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "step.h"

/* SGD with momentum, as in rules.def with `momentum` on and the other switches off. */
#define LOOP(name, real)                                                                                 \
    static void name(int64_t n, void *param, const void *grad, void *const *slots, const double *scalars, \
                     uint32_t switches, const fgd_prepare *prepare) {                                    \
        const real unscale = (real)prepare->unscale, bound = (real)prepare->bound;                       \
        const real coef = (real)prepare->coef, lr = (real)scalars[0], momentum = (real)scalars[3];       \
        const real decay = (real)scalars[2], weight = (real)scalars[4];                                  \
        real *p = param, *buffer = slots[0];                                                             \
        const real *grads = grad;                                                                        \
        CHECK(switches == 2, "%u", (unsigned)switches);                                                  \
        for (int64_t i = 0; i < n; i++) {                                                                \
            real g = grads[i] * unscale;                                                                 \
            g = g > bound ? bound : g;                                                                   \
            g = (g < -bound ? -bound : g) * coef;                                                        \
            buffer[i] = momentum * buffer[i] + weight * g;                                               \
            p[i] = decay * p[i] - lr * buffer[i];                                                        \
        }                                                                                                \
    }
LOOP(narrow_loop, float)
LOOP(wide_loop, double)

static fgd_rule row_of(const char *name) {
    fgd_rule row = *fgd_rule_at(fgd_rule_find("sgd"));
    row.name = name;
    return row;
}

static void test_copied(void) {
    char names[3][8] = {"copied", "buffer", "rate"};
    const int before = fgd_rule_count();
    fgd_rule row = row_of(names[0]);
    row.slots[0] = names[1], row.scalars[0] = names[2];
    const int index = fgd_rule_add(&row, narrow_loop, wide_loop);
    CHECK(index == before && fgd_rule_count() == before + 1, "%d", index);
    memset(names, 'x', sizeof names);
    memset(&row, 0, sizeof row);
    const fgd_rule *kept = fgd_rule_at(index);
    CHECK(fgd_rule_find("copied") == index && strcmp(kept->name, "copied") == 0, "%s", kept->name);
    CHECK(strcmp(kept->slots[0], "buffer") == 0 && kept->slots[1] == NULL, "%s", kept->slots[0]);
    CHECK(strcmp(kept->scalars[0], "rate") == 0 && kept->n_scalars == 5, "%s", kept->scalars[0]);
}

#define REFUSED(expected, ...)                                                                           \
    {                                                                                                    \
        fgd_rule changed = row_of("new"), *row = &changed;                                               \
        fgd_update_kernel f32 = narrow_loop, f64 = wide_loop;                                            \
        const int before = fgd_rule_count();                                                             \
        __VA_ARGS__;                                                                                     \
        const int code = fgd_rule_add(row, f32, f64);                                                    \
        CHECK(code == (expected), "%s: %s", #__VA_ARGS__, fgd_error_text(code));                         \
        CHECK(fgd_rule_count() == before && fgd_rule_find("new") == FGD_ERROR_RULE, "%s", #__VA_ARGS__); \
    }

static void test_refused(void) {
    static char longest[FGD_MAX_NAME + 1];
    memset(longest, 'n', FGD_MAX_NAME);
    REFUSED(FGD_ERROR_NULL, row = NULL)
    REFUSED(FGD_ERROR_NULL, f32 = NULL; f64 = NULL)
    REFUSED(FGD_ERROR_RULE, row->name = NULL)
    REFUSED(FGD_ERROR_RULE, row->name = "")
    REFUSED(FGD_ERROR_RULE, row->name = longest)
    REFUSED(FGD_ERROR_RULE, row->name = "adam")
    REFUSED(FGD_ERROR_RULE, row->name = "copied")
    REFUSED(FGD_ERROR_RULE, row->n_slots = -1)
    REFUSED(FGD_ERROR_RULE, row->n_slots = FGD_MAX_SLOTS + 1)
    REFUSED(FGD_ERROR_RULE, row->n_slots = 2)
    REFUSED(FGD_ERROR_RULE, row->n_slots = 2; row->slots[1] = row->slots[0])
    REFUSED(FGD_ERROR_RULE, row->slot_switch[0] = 3)
    REFUSED(FGD_ERROR_RULE, row->slot_switch[0] = -2)
    REFUSED(FGD_ERROR_RULE, row->slot_unsigned[0] = 2)
    REFUSED(FGD_ERROR_RULE, row->n_switches = FGD_MAX_SWITCHES + 1)
    REFUSED(FGD_ERROR_RULE, row->n_switches = -1)
    REFUSED(FGD_ERROR_RULE, row->switches[1] = row->switches[0])
    REFUSED(FGD_ERROR_RULE, row->n_scalars = FGD_MAX_SCALARS + 1)
    REFUSED(FGD_ERROR_RULE, row->n_scalars = -1)
    REFUSED(FGD_ERROR_RULE, row->scalars[4] = row->scalars[0])
    REFUSED(FGD_ERROR_RULE, row->scalars[4] = longest)
    REFUSED(FGD_ERROR_RULE, row->decay = 5)
    REFUSED(FGD_ERROR_RULE, row->decay = -1)
    REFUSED(FGD_ERROR_RULE, row->whole = 2)
    REFUSED(FGD_ERROR_RULE, row->trust = 0)
    REFUSED(FGD_ERROR_RULE, row->row_slot = 0)
    REFUSED(FGD_ERROR_RULE, row->col_slot = 0)
    REFUSED(FGD_ERROR_RULE, row->orthogonal = 1)
}

/* Without one of its loops a rule has nothing for tensors of that precision. */
static void test_one_precision(void) {
    const fgd_rule row = row_of("narrow");
    double param = 1, grad = 1, state = 1;
    int64_t workspace[64];
    fgd_report report;
    fgd_tensor t = tensor_of(1, FGD_F64);
    const fgd_group group = {.rule = fgd_rule_add(&row, narrow_loop, NULL), .switches = 2};
    const fgd_options options = no_options();
    t.param = &param, t.grad = &grad, t.state[0] = &state;
    CHECK(group.rule >= 0, "%s", fgd_error_text(group.rule));
    const int code = fgd_update(&group, 1, &t, 1, &options, workspace, sizeof workspace, &report);
    CHECK(code == FGD_ERROR_DTYPE && report.error_tensor == 0, "%s", fgd_error_text(code));
    CHECK(param == 1 && state == 1, "%g %g", param, state);
}

static int added;

/* What the rule of the table does, to the bit. */
static void compare(const step *s) {
    const manner manners[] = {PLAIN, {-1, 3, CONTIGUOUS, 0}, {0, 1, CONTIGUOUS, 1}};
    if (strcmp(s->rule->name, "sgd") != 0 || s->group.switches != 2 || s->group.cautious) return;
    step own = *s;
    own.group.rule = added;
    for (size_t i = 0; i < sizeof manners / sizeof *manners; i++) {
        fgd_options options = no_options();
        fgd_report report;
        if (i == 2) options.clip_norm = 0.5, options.clip_value = 0.25;
        image expected = step_run(s, &options, manners[i], &report);
        image actual = step_run(&own, &options, manners[i], &report);
        CHECK(image_same(&actual, &expected), "manner %d", (int)i);
        image_free(&expected), image_free(&actual);
    }
}

static void test_same_bits(void) {
    const fgd_rule row = row_of("momentum");
    added = fgd_rule_add(&row, narrow_loop, wide_loop);
    CHECK(added >= 0, "%s", fgd_error_text(added));
    every_step(compare);
}

/* ---- Several threads -------------------------------------------------------------------------------- */

enum { ADDERS = 4, EACH = 20 };

/* Adds rules of its own, and one name that all threads want and one gets; reads the table all the while. */
static void *add_some(void *number) {
    const int thread = *(const int *)number;
    long *right = calloc(1, sizeof *right);
    if (!right) abort();
    for (int i = 0; i < EACH; i++) {
        char name[40], common[40];
        snprintf(name, sizeof name, "of thread %d: %d", thread, i);
        snprintf(common, sizeof common, "of one: %d", i);
        const fgd_rule row = row_of(name), wanted = row_of(common);
        const int index = fgd_rule_add(&row, narrow_loop, wide_loop);
        const int shared = fgd_rule_add(&wanted, narrow_loop, NULL);
        const int found = fgd_rule_find(common);
        *right += index >= 0 && fgd_rule_find(name) == index && strcmp(fgd_rule_at(index)->name, name) == 0;
        *right += found >= 0 && (shared == found || shared == FGD_ERROR_RULE);
    }
    return right;
}

static void test_threads_that_add(void) {
    const int before = fgd_rule_count();
    pthread_t threads[ADDERS];
    int numbers[ADDERS];
    for (int k = 0; k < ADDERS; k++) {
        numbers[k] = k;
        if (pthread_create(&threads[k], NULL, add_some, &numbers[k])) abort();
    }
    for (int k = 0; k < ADDERS; k++) {
        void *right;
        pthread_join(threads[k], &right);
        CHECK(*(long *)right == 2 * EACH, "thread %d: %ld", k, *(long *)right);
        free(right);
    }
    CHECK(fgd_rule_count() == before + (ADDERS + 1) * EACH, "%d", fgd_rule_count() - before);
}

static void test_full(void) {
    int code = FGD_OK;
    for (int i = 0; code >= 0 && i <= FGD_MAX_ADDED; i++) {
        char name[24];
        snprintf(name, sizeof name, "filling %d", i);
        const fgd_rule row = row_of(name);
        code = fgd_rule_add(&row, NULL, wide_loop);
    }
    CHECK(code == FGD_ERROR_FULL, "%s", fgd_error_text(code));
    CHECK(fgd_rule_at(fgd_rule_count()) == NULL, "%d", fgd_rule_count());
    CHECK(fgd_rule_find("filling 3") > fgd_rule_find("momentum"), "%d", fgd_rule_find("filling 3"));
}

void test_added(void) {
    test_copied();
    test_refused();
    test_one_precision();
    test_same_bits();
    test_threads_that_add();
    test_full();
}
