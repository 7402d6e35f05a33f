/* What caches hold: as it is told and set, and when a step leaves state out of them. */
#include "check.h"
#include "step.h"

static void test_setting(void) {
    const int threads = fgd_get_num_threads();
    fgd_set_cache_size(-1);
    fgd_set_num_threads(1);
    const int64_t of_one = fgd_get_cache_size();
    CHECK(of_one >= 65536, "%lld", (long long)of_one);
    fgd_set_num_threads(FGD_MAX_THREADS);
    CHECK(fgd_get_cache_size() >= of_one, "%lld", (long long)fgd_get_cache_size());
    fgd_set_num_threads(threads);
    for (int64_t size = 0; size < 3; size++) {
        CHECK(fgd_set_cache_size(size) == FGD_OK && fgd_get_cache_size() == size, "%d", (int)size);
        CHECK(fgd_set_cache_size(-2) == FGD_ERROR_SIZE && fgd_get_cache_size() == size, "%d", (int)size);
    }
}

static int64_t streamed;

static void noting(int64_t n, void *param, const void *grad, void *const *slots, const double *scalars,
                   uint32_t switches, const fgd_prepare *prepare) {
    (void)param, (void)grad, (void)slots, (void)scalars, (void)switches;
    streamed += n * prepare->streams;
}

enum { ELEMENTS = 1000, BYTES = 12 * ELEMENTS /* of parameters, gradients and state */ };

/* Elements whose state is left out of caches of this size, of two tensors of 500. */
static int64_t streamed_with(int64_t cache, int rule, uint32_t switches, int far) {
    static float param[ELEMENTS], grad[ELEMENTS], state[ELEMENTS], average[ELEMENTS];
    const fgd_group group = {.rule = rule, .switches = switches};
    const fgd_options options = no_options();
    int64_t workspace[256];
    fgd_report report;
    fgd_tensor tensors[2];
    fgd_set_cache_size(cache);
    for (int t = 0; t < 2; t++) {
        const int at = t * ELEMENTS / 2;
        tensors[t] = tensor_of(ELEMENTS / 2, FGD_F32);
        tensors[t].param = param + at, tensors[t].grad = grad + at;
        if (switches) tensors[t].state[0] = state + at;
        if (far) tensors[t].average = average + at; /* takes the longer way */
    }
    streamed = 0;
    const int code = fgd_update(&group, 1, tensors, 2, &options, workspace, sizeof workspace, &report);
    CHECK(code == FGD_OK, "%s", fgd_error_text(code));
    return streamed;
}

static void test_streaming(void) {
    const uint32_t momentum = 2;
    fgd_rule row = *fgd_rule_at(fgd_rule_find("sgd"));
    row.name = "noting";
    const int rule = fgd_rule_add(&row, noting, noting);
    const int64_t all = BYTES * 4 / 3;
    CHECK(rule >= 0, "%s", fgd_error_text(rule));
    CHECK(streamed_with(INT64_MAX, rule, momentum, 0) == 0, "%d", (int)streamed);
    CHECK(streamed_with(all, rule, momentum, 0) == 0, "%d", (int)streamed);
    CHECK(streamed_with(all - 2, rule, momentum, 0) == ELEMENTS, "%d", (int)streamed);
    CHECK(streamed_with(0, rule, momentum, 0) == ELEMENTS, "%d", (int)streamed);
    /* without momentum there is no state */
    CHECK(streamed_with(all - 2, rule, 0, 0) == 0, "%d", (int)streamed);
    /* numbers in buffers are in the first-level cache, whatever is done */
    CHECK(streamed_with(all - 2, rule, momentum, 1) == 0, "%d", (int)streamed);
}

void test_cache(void) {
    test_setting();
    test_streaming();
    fgd_set_cache_size(-1);
}
