/* Gradients that are brought in during the call: the same step as with all there from the start, or none. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "fastgd.h"
#include "random.h"

enum { COUNT = 12, MOST = 40000, TOTAL = COUNT * MOST, WORDS = 4096 };

/* Around a chunk, none at all, and enough together for several threads. */
static const int64_t sizes[COUNT] = {16384, 0, 1, 16385, 40000, 17, 16383, 0, 33000, 5, 40000, 39999};

/* Adam's numbers. */
typedef struct numbers {
    float param[TOTAL], exp_avg[TOTAL], exp_avg_sq[TOTAL];
    int64_t steps[COUNT];
} numbers;

/* The gradients, and what is read before they are there: finite, since sums that are not are taken again. */
static float grads[TOTAL], too_early[MOST];

typedef struct coming {
    fgd_tensor *tensors;
    int failing; /* the tensor before which it fails; COUNT: none */
    int slow, calls;
} coming;

static int fetch(void *context, int64_t *ready) {
    coming *c = context;
    c->calls++;
    for (int t = 0; t < COUNT; t++) {
        const struct timespec moment = {0, 200000};
        if (c->slow) nanosleep(&moment, NULL);
        if (t == c->failing) return 1;
        c->tensors[t].grad = grads + t * MOST;
        __atomic_store_n(ready, t + 1, __ATOMIC_RELEASE);
    }
    return 0;
}

static void tensors_of(numbers *n, fgd_tensor *tensors, const float *grad, int64_t apart) {
    for (int t = 0; t < COUNT; t++)
        tensors[t] = (fgd_tensor){
            .size = sizes[t], .param = n->param + t * MOST, .grad = grad + t * apart, .step = &n->steps[t],
            .state = {n->exp_avg + t * MOST, n->exp_avg_sq + t * MOST}};
}

static void begin(numbers *n) {
    uint64_t state = 7;
    memset(n, 0, sizeof *n);
    for (int i = 0; i < TOTAL; i++) n->param[i] = (float)(random_bits(&state) >> 40) * 0x1p-23f - 1;
}

static int64_t workspace[WORDS];
static numbers right, mine, before;

static void test_one(const fgd_group *group, const fgd_options *options, int threads, int slow) {
    fgd_tensor tensors[COUNT];
    fgd_report wanted, found;
    fgd_set_num_threads(threads);
    begin(&right), begin(&mine), begin(&before);

    tensors_of(&right, tensors, grads, MOST);
    int code = fgd_update(group, 1, tensors, COUNT, options, workspace, sizeof workspace, &wanted);
    CHECK(code == FGD_OK, "code %d", code);

    tensors_of(&mine, tensors, too_early, 0);
    coming all = {tensors, COUNT, slow, 0}, some = {tensors, 5, slow, 0};
    code = fgd_update_fetched(group, 1, tensors, COUNT, options, workspace, sizeof workspace, &found, fetch,
                              &some);
    CHECK(code == FGD_ERROR_FETCH && some.calls == 1, "code %d, %d calls", code, some.calls);
    CHECK(memcmp(&mine, &before, sizeof mine) == 0, "%d threads: changed though it failed", threads);

    tensors_of(&mine, tensors, too_early, 0);
    code = fgd_update_fetched(group, 1, tensors, COUNT, options, workspace, sizeof workspace, &found, fetch,
                              &all);
    CHECK(code == FGD_OK && all.calls == 1, "code %d, %d calls", code, all.calls);
    CHECK(memcmp(&mine, &right, sizeof mine) == 0, "%d threads: another step", threads);
    CHECK(found.norm == wanted.norm || !wanted.measured, "norm %g, not %g", found.norm, wanted.norm);
}

void test_fetched(void) {
    /* lr, weight_decay, decay, and so on: any numbers will do that the scalars of a step may be */
    fgd_group group = {.rule = fgd_rule_find("adam")};
    const fgd_rule *rule = fgd_rule_at(group.rule);
    for (int k = 0; k < rule->n_scalars; k++) group.scalars[k] = 0.25 + 0.125 * k;
    fgd_options options = {.grad_scale = 1, .clip_value = INFINITY, .clip_norm = INFINITY, .unit_eps = 1,
                           .clip_unit = INFINITY, .total_norm = -1};
    uint64_t state = 9;
    const int threads = fgd_get_num_threads();
    for (int i = 0; i < TOTAL; i++) grads[i] = (float)(random_bits(&state) >> 40) * 0x1p-23f - 1;
    for (int i = 0; i < MOST; i++) too_early[i] = 3;
    for (int n = 1; n <= 8; n = 2 * n + (n == 2)) {
        for (int clips = 0; clips < 2; clips++) {
            options.clip_norm = clips ? 1.5 : INFINITY;
            test_one(&group, &options, n, 0);
            test_one(&group, &options, n, 1);
        }
    }
    fgd_set_num_threads(threads);
    fgd_report report;
    const int code = fgd_update_fetched(&group, 1, NULL, 0, &options, workspace, sizeof workspace, &report,
                                        NULL, NULL);
    CHECK(code == FGD_ERROR_NULL, "code %d", code);
}
