/* Every error code that bad arguments can give, with the tensor it is about and with all memory unchanged;
 * and arguments that look bad and are not. */
#include <limits.h>
#include <math.h>
#include <string.h>

#include "check.h"
#include "product.h"
#include "step.h"

enum { COUNT = 3, SIZE = 24, UPDATE = 1, MEASURE = 2, CLIP = 4, ALL = 7, NO_TENSOR = -1 };

/* Everything a call may read or write. */
typedef struct memory {
    double param[COUNT][SIZE], grad[COUNT][SIZE], state[COUNT][SIZE];
    int64_t step[COUNT], workspace[160];
} memory;

static memory m, untouched;
static const int64_t strides[FGD_MAX_DIMS * 6], shape[] = {2, 3, 4};

typedef struct call {
    fgd_group groups[2];
    fgd_tensor tensors[COUNT];
    fgd_layout layout;
    fgd_options options, *options_at;
    fgd_group *groups_at;
    fgd_tensor *tensors_at;
    int64_t n_groups, n_tensors, workspace_size;
    char *workspace;
    fgd_report report, *report_at;
} call;

/* A call that all three functions accept: sgd with momentum, two tensors in group 0 and one in group 1. */
static void make(call *c) {
    const fgd_group group = {.rule = fgd_rule_find("sgd"), .switches = 2, .scalars = {0.5, 0.5, 0.5, 0.5}};
    *c = (call){.groups = {group, group}, .n_groups = 2, .n_tensors = COUNT};
    c->workspace_size = 8 * (3 * (COUNT + 1) + 4 * COUNT + 3 * COUNT + COUNT);
    memset(&m, 0x3f, sizeof m);
    untouched = m;
    for (int t = 0; t < COUNT; t++) {
        c->tensors[t] = tensor_of(SIZE, FGD_F64);
        c->tensors[t].group = t / 2, c->tensors[t].step = &m.step[t];
        c->tensors[t].param = m.param[t], c->tensors[t].grad = m.grad[t], c->tensors[t].state[0] = m.state[t];
    }
    c->layout = (fgd_layout){3, shape, strides};
    c->options = no_options();
    c->options.clip_value = c->options.clip_norm = 1, c->options.skip_nonfinite = 1;
    c->options_at = &c->options, c->groups_at = c->groups;
    c->tensors_at = c->tensors, c->report_at = &c->report;
    c->workspace = (char *)m.workspace;
}

static int enter(call *c, int entry) {
    if (entry == UPDATE)
        return fgd_update(c->groups_at, c->n_groups, c->tensors_at, c->n_tensors, c->options_at,
                          c->workspace, c->workspace_size, c->report_at);
    if (entry == MEASURE)
        return fgd_measure(c->tensors_at, c->n_tensors, c->options_at, NULL, c->workspace,
                           c->workspace_size, c->report_at);
    return fgd_clip(c->tensors_at, c->n_tensors, c->options_at, c->workspace, c->workspace_size,
                    c->report_at);
}

/* After one change (the last argument, made to *c) these entries give that code for that tensor. */
#define REFUSED(entries, expected, tensor, ...)                                                          \
    for (int entry = UPDATE; entry <= CLIP; entry *= 2) {                                                \
        call changed, *c = &changed;                                                                     \
        if (!((entries) & entry)) continue;                                                              \
        make(c);                                                                                         \
        __VA_ARGS__;                                                                                     \
        const int code = enter(c, entry);                                                                \
        CHECK(code == (expected), "entry %d: %s: %s", entry, #__VA_ARGS__, fgd_error_text(code));        \
        CHECK(memcmp(&m, &untouched, sizeof m) == 0, "entry %d: %s", entry, #__VA_ARGS__);               \
        CHECK(!c->report_at || c->report.error_tensor == (tensor), "entry %d: %s: tensor %d", entry,     \
              #__VA_ARGS__, (int)c->report.error_tensor);                                                \
        CHECK(!c->report_at || (!c->report.measured && !c->report.skipped), "%s", #__VA_ARGS__);         \
    }

#define ACCEPTED(entries, ...)                                                                           \
    for (int entry = UPDATE; entry <= CLIP; entry *= 2) {                                                \
        call changed, *c = &changed;                                                                     \
        if (!((entries) & entry)) continue;                                                              \
        make(c);                                                                                         \
        __VA_ARGS__;                                                                                     \
        const int code = enter(c, entry);                                                                \
        CHECK(code == FGD_OK, "entry %d: %s: %s", entry, #__VA_ARGS__, fgd_error_text(code));            \
        CHECK(c->report.error_tensor == -1, "entry %d: %s", entry, #__VA_ARGS__);                        \
    }

static void test_pointers(void) {
    REFUSED(ALL, FGD_ERROR_NULL, NO_TENSOR, c->options_at = NULL)
    REFUSED(ALL, FGD_ERROR_NULL, NO_TENSOR, c->report_at = NULL)
    REFUSED(ALL, FGD_ERROR_NULL, NO_TENSOR, c->tensors_at = NULL)
    REFUSED(UPDATE, FGD_ERROR_NULL, NO_TENSOR, c->groups_at = NULL)
    REFUSED(ALL, FGD_ERROR_NULL, 1, c->tensors[1].grad = NULL)
    REFUSED(UPDATE | CLIP, FGD_ERROR_NULL, 2, c->tensors[2].param = NULL)
    REFUSED(UPDATE, FGD_ERROR_SLOT, 2, c->tensors[2].state[0] = NULL)
    ACCEPTED(ALL, c->tensors[0].step = NULL)
    ACCEPTED(MEASURE, c->tensors[2].param = NULL)
    ACCEPTED(UPDATE, c->groups[1].switches = 0; c->tensors[2].state[0] = NULL)
    ACCEPTED(ALL, c->tensors[1] = (fgd_tensor){.size = 0})
}

static void test_numbers(void) {
    int64_t last = INT64_MAX; /* no count of steps comes after it */
    REFUSED(ALL, FGD_ERROR_SIZE, NO_TENSOR, c->n_tensors = -1)
    REFUSED(UPDATE, FGD_ERROR_SIZE, NO_TENSOR, c->n_groups = -1)
    REFUSED(ALL, FGD_ERROR_SIZE, 1, c->tensors[1].size = -1)
    REFUSED(ALL, FGD_ERROR_SIZE, 0, c->tensors[0].size = INT64_MIN)
    REFUSED(UPDATE, FGD_ERROR_SIZE, 2, c->tensors[2].step = &last)
    REFUSED(ALL, FGD_ERROR_DTYPE, 2, c->tensors[2].grad_dtype = FGD_CODES)
    REFUSED(ALL, FGD_ERROR_DTYPE, 2, c->tensors[2].grad_dtype = -1)
    REFUSED(UPDATE, FGD_ERROR_GROUP, 1, c->tensors[1].group = 2)
    REFUSED(UPDATE, FGD_ERROR_GROUP, 1, c->tensors[1].group = -1)
    REFUSED(UPDATE, FGD_ERROR_GROUP, 0, c->n_groups = 0)
    REFUSED(UPDATE, FGD_ERROR_RULE, NO_TENSOR, c->groups[1].rule = fgd_rule_count())
    REFUSED(UPDATE, FGD_ERROR_RULE, NO_TENSOR, c->groups[1].rule = -1)
    REFUSED(UPDATE, FGD_ERROR_SWITCHES, NO_TENSOR, c->groups[1].switches = 8)
    REFUSED(UPDATE, FGD_ERROR_SWITCHES, NO_TENSOR, c->groups[1].switches = 0x80000002u)
    REFUSED(ALL, FGD_ERROR_DTYPE, 1, c->tensors[1].grad_dtype = c->tensors[2].grad_dtype = 9)
    ACCEPTED(MEASURE | CLIP, c->tensors[1].group = 99)
    ACCEPTED(ALL, c->n_tensors = 0; c->tensors_at = NULL)
    ACCEPTED(UPDATE, c->n_tensors = 0; c->n_groups = 0; c->groups_at = NULL)
}

static void test_options(void) {
    const double scales[] = {0, -1, NAN, INFINITY, -INFINITY, 1e-320}, limits[] = {-1, NAN, -INFINITY};
    for (int i = 0; i < 6; i++) REFUSED(ALL, FGD_ERROR_OPTION, NO_TENSOR, c->options.grad_scale = scales[i])
    for (int i = 0; i < 3; i++) {
        REFUSED(ALL, FGD_ERROR_OPTION, NO_TENSOR, c->options.clip_value = limits[i])
        REFUSED(ALL, FGD_ERROR_OPTION, NO_TENSOR, c->options.clip_norm = limits[i])
    }
    REFUSED(ALL, FGD_ERROR_OPTION, NO_TENSOR, c->options.norm = 2)
    REFUSED(ALL, FGD_ERROR_OPTION, NO_TENSOR, c->options.norm = -1)
    ACCEPTED(ALL, c->options.clip_value = c->options.clip_norm = 0)
    REFUSED(ALL, FGD_ERROR_OPTION, NO_TENSOR, c->options.scope = FGD_SCOPE_TENSOR + 1)
    REFUSED(ALL, FGD_ERROR_OPTION, NO_TENSOR, c->options.scope = -1)
    REFUSED(ALL, FGD_ERROR_OPTION, NO_TENSOR, c->options.clip_norm = INFINITY; c->options.normalize = 1)
    REFUSED(ALL, FGD_ERROR_OPTION, NO_TENSOR, c->options.total_norm = -2)
    REFUSED(ALL, FGD_ERROR_OPTION, NO_TENSOR, c->options.total_norm = -INFINITY)
    REFUSED(ALL, FGD_ERROR_OPTION, NO_TENSOR, c->options.total_norm = 1; c->options.scope = FGD_SCOPE_GROUP)
    ACCEPTED(ALL, c->options.total_norm = NAN)
    ACCEPTED(ALL, c->options.normalize = 1; c->options.scope = FGD_SCOPE_TENSOR)
}

/* Clipping by units is for fgd_update alone, in place of clipping by norms. */
static void test_units(void) {
    const double limits[] = {-1, NAN, -INFINITY};
#define UNITS c->options.clip_norm = INFINITY; c->options.clip_unit = 0.5
    for (int i = 0; i < 3; i++) {
        REFUSED(ALL, FGD_ERROR_OPTION, NO_TENSOR, c->options.clip_unit = limits[i])
        REFUSED(ALL, FGD_ERROR_OPTION, NO_TENSOR, c->options.unit_eps = limits[i])
    }
    REFUSED(ALL, FGD_ERROR_OPTION, NO_TENSOR, c->options.clip_unit = 0.5)
    REFUSED(MEASURE | CLIP, FGD_ERROR_OPTION, NO_TENSOR, UNITS)
    REFUSED(UPDATE, FGD_ERROR_SIZE, 1, c->tensors[1].unit = -1)
    REFUSED(UPDATE, FGD_ERROR_SIZE, 1, c->tensors[1].unit = 7)
    REFUSED(UPDATE, FGD_ERROR_SIZE, 1, c->tensors[1].unit = INT64_MAX)
    ACCEPTED(UPDATE, UNITS)
    ACCEPTED(UPDATE, UNITS; c->tensors[1].unit = SIZE)
}

/* What numbers are stored in, and how they are rounded. */
static void test_storage(void) {
    float scales[1];
#define CODES c->tensors[1].state_dtype[0] = FGD_CODES
    static const int no_floats[] = {FGD_CODES, FGD_CODES + 1, -1, INT_MAX, INT_MIN};
    for (int i = 0; i < 5; i++) {
        const int dtype = no_floats[i];
        REFUSED(UPDATE, FGD_ERROR_DTYPE, 1, c->tensors[1].dtype = dtype)
        REFUSED(CLIP, FGD_ERROR_DTYPE, 1, c->tensors[1].dtype = c->tensors[1].grad_dtype = dtype)
        REFUSED(UPDATE, FGD_ERROR_DTYPE, 1, c->tensors[1].copy = m.state[1]; c->tensors[1].copy_dtype = dtype)
        ACCEPTED(UPDATE, c->tensors[1].copy_dtype = dtype)
        if (dtype != FGD_CODES) REFUSED(UPDATE, FGD_ERROR_DTYPE, 1, c->tensors[1].state_dtype[0] = dtype)
        ACCEPTED(UPDATE, c->tensors[1].state_dtype[1] = dtype; c->groups[1].switches = 0)
    }
    REFUSED(CLIP, FGD_ERROR_DTYPE, 1, c->tensors[1].dtype = FGD_F32)
    REFUSED(UPDATE, FGD_ERROR_SLOT, 1, CODES)
    ACCEPTED(UPDATE, CODES; c->tensors[1].scales[0] = scales)
    REFUSED(UPDATE, FGD_ERROR_SLOT, 1, CODES; c->tensors[1].scales[0] = scales;
            c->tensors[1].state[0] = NULL)
    ACCEPTED(UPDATE, CODES; c->groups[0].switches = 0)

    for (int rounding = FGD_KAHAN; rounding <= FGD_SPLIT; rounding++) {
#define ROUNDED(type) c->groups[0].rounding = rounding; c->tensors[1].dtype = type
        REFUSED(UPDATE, FGD_ERROR_SLOT, 1, ROUNDED(FGD_BF16))
        REFUSED(UPDATE, rounding == FGD_SPLIT ? FGD_ERROR_ROUNDING : FGD_ERROR_SLOT, 1, ROUNDED(FGD_F16))
        REFUSED(UPDATE, FGD_ERROR_ROUNDING, NO_TENSOR, c->groups[1].state_rounding = rounding)
        ACCEPTED(UPDATE, ROUNDED(FGD_BF16); c->tensors[1].residual = m.state[0])
        ACCEPTED(UPDATE, ROUNDED(FGD_F32))
    }
    REFUSED(UPDATE, FGD_ERROR_ROUNDING, NO_TENSOR, c->groups[1].rounding = FGD_SPLIT + 1)
    REFUSED(UPDATE, FGD_ERROR_ROUNDING, NO_TENSOR, c->groups[1].rounding = -1)
    REFUSED(UPDATE, FGD_ERROR_ROUNDING, NO_TENSOR, c->groups[0].state_rounding = -1)
    REFUSED(UPDATE, FGD_ERROR_NULL, 2, c->groups[1].rounding = FGD_STOCHASTIC; c->tensors[2].step = NULL)
    REFUSED(UPDATE, FGD_ERROR_NULL, 2, c->groups[1].state_rounding = FGD_STOCHASTIC;
            c->tensors[2].step = NULL)
    ACCEPTED(MEASURE | CLIP, c->groups[0].rounding = c->groups[1].state_rounding = 99)
}

static void test_rows(void) {
    static const int64_t rows[] = {1, 0, 2}, negative[] = {1, 0, -1};
#define ROWS(t) c->tensors[t].rows = rows; c->tensors[t].n_rows = 3; c->tensors[t].width = 8
    ACCEPTED(UPDATE | MEASURE, ROWS(1))
    REFUSED(CLIP, FGD_ERROR_ROWS, 1, ROWS(1))
    REFUSED(UPDATE, FGD_ERROR_ROWS, 1, ROWS(1); c->tensors[1].rows = negative)
    REFUSED(UPDATE, FGD_ERROR_ROWS, 1, ROWS(1); c->tensors[1].width = 7)
    REFUSED(UPDATE, FGD_ERROR_ROWS, 1, ROWS(1); c->tensors[1].n_rows = -3; c->tensors[1].width = -8)
    REFUSED(UPDATE, FGD_ERROR_ROWS, 1, ROWS(1); c->tensors[1].n_rows = c->tensors[1].width = INT64_MAX)
    REFUSED(UPDATE, FGD_ERROR_ROWS, 1, ROWS(1); c->tensors[1].n_rows = ((int64_t)1 << 61) + 3)
    REFUSED(UPDATE, FGD_ERROR_ROWS, 1, ROWS(1); c->tensors[1].layout = &c->layout)
    REFUSED(UPDATE, FGD_ERROR_ROWS, 1, ROWS(1); UNITS)
    float scales[1];
    REFUSED(UPDATE, FGD_ERROR_ROWS, 1, ROWS(1); CODES; c->tensors[1].scales[0] = scales)
    ACCEPTED(UPDATE, ROWS(1); c->tensors[1].size = c->tensors[1].n_rows = 0)
}

/* A trust ratio of gradients is not known yet where it is decided which steps descend. */
static void test_cautious(void) {
    REFUSED(UPDATE, FGD_ERROR_SWITCHES, NO_TENSOR, c->groups[1].rule = fgd_rule_find("lars");
            c->groups[1].cautious = 1)
    ACCEPTED(UPDATE, c->groups[1].rule = fgd_rule_find("lars"))
    ACCEPTED(UPDATE, c->groups[1].cautious = 1)
}

static void test_workspace(void) {
    const fgd_tensor huge = {.size = INT64_MAX};
    const int64_t words = 4 * ((int64_t)1 << 49) + 3 * 2 + 3 + 1, large = fgd_workspace_size(&huge, 1);
    call c;
    make(&c);
    CHECK(fgd_workspace_size(c.tensors, COUNT) == c.workspace_size, "%d", COUNT);
    CHECK(fgd_workspace_size(NULL, 0) == 24, "%d", (int)fgd_workspace_size(NULL, 0));
    CHECK(large == words * 8, "%lld", (long long)large);
    /* sums that wrapped around would be small, or negative */
    const fgd_tensor units[] = {{.size = (int64_t)1 << 61, .unit = 1}, {.size = INT64_MAX, .unit = 2}, huge};
    CHECK(fgd_workspace_size(units, 1) == INT64_MAX, "units of 1");
    CHECK(fgd_workspace_size(units + 1, 2) == INT64_MAX, "units of 2");
    CHECK(fgd_workspace_size(units, 3) == INT64_MAX, "three tensors");
    /* bytes enough for this and the other tensors would be 2^64 and a few */
    const int64_t size = 0x1ffe001ffe001ffe;
    REFUSED(ALL, FGD_ERROR_WORKSPACE, NO_TENSOR, c->tensors[0].size = size; c->tensors[0].unit = 1)
    REFUSED(ALL, FGD_ERROR_WORKSPACE, NO_TENSOR, c->tensors[0].size = INT64_MAX)
    REFUSED(ALL, FGD_ERROR_WORKSPACE, NO_TENSOR, c->workspace_size--)
    REFUSED(ALL, FGD_ERROR_WORKSPACE, NO_TENSOR, c->workspace_size = -1)
    REFUSED(ALL, FGD_ERROR_WORKSPACE, NO_TENSOR, c->workspace = NULL)
    REFUSED(ALL, FGD_ERROR_WORKSPACE, NO_TENSOR, c->workspace += 4)
}

static void test_layouts(void) {
    static const int64_t wrong[] = {2, 3, 5}, negative[] = {-2, -3, 4}, hollow[] = {2, 0, 4};
    static const int64_t large[] = {(int64_t)1 << 32, (int64_t)1 << 32, 24}, empty[] = {0, 3, 4};
    static const int64_t negative_after_zero[] = {0, -3, 4};
    static const int64_t large_and_empty[] = {(int64_t)1 << 32, (int64_t)1 << 32, 0};
#define LAYOUT c->tensors[1].layout = &c->layout
    REFUSED(ALL, FGD_ERROR_LAYOUT, 1, LAYOUT; c->layout.ndim = -1)
    REFUSED(ALL, FGD_ERROR_LAYOUT, 1, LAYOUT; c->layout.ndim = FGD_MAX_DIMS + 1)
    REFUSED(ALL, FGD_ERROR_LAYOUT, 1, LAYOUT; c->layout.ndim = 2)
    REFUSED(ALL, FGD_ERROR_LAYOUT, 1, LAYOUT; c->layout.ndim = 0)
    REFUSED(ALL, FGD_ERROR_LAYOUT, 1, LAYOUT; c->layout.shape = wrong)
    REFUSED(ALL, FGD_ERROR_LAYOUT, 1, LAYOUT; c->layout.shape = negative)
    REFUSED(ALL, FGD_ERROR_LAYOUT, 1, LAYOUT; c->layout.shape = hollow)
    REFUSED(ALL, FGD_ERROR_LAYOUT, 1, LAYOUT; c->layout.shape = large)
    REFUSED(ALL, FGD_ERROR_LAYOUT, 1, LAYOUT; c->tensors[1].size = 0)
    REFUSED(ALL, FGD_ERROR_LAYOUT, 1, LAYOUT; c->tensors[1].size = 0; c->layout.shape = negative_after_zero)
    REFUSED(ALL, FGD_ERROR_NULL, 1, LAYOUT; c->layout.shape = NULL)
    REFUSED(ALL, FGD_ERROR_NULL, 1, LAYOUT; c->layout.strides = NULL)
    ACCEPTED(ALL, LAYOUT; c->tensors[1].size = 0; c->layout.shape = empty)
    ACCEPTED(ALL, LAYOUT; c->tensors[1].size = 0; c->layout.shape = large_and_empty)
    ACCEPTED(ALL, LAYOUT; c->tensors[1].size = 1; c->layout = (fgd_layout){0, NULL, NULL})
}

/* Rules that need matrices, for tensor 2; the other functions do without. */
static void test_matrices(void) {
    const int64_t bad[] = {0, -1, 5, 48, INT64_MAX};
    const double counts[] = {-1, 100, NAN, INFINITY};
#define MATRICES(rule_name)                                                                              \
    c->groups[1] = (fgd_group){.rule = fgd_rule_find(rule_name), .switches = 1, .scalars = {1, 1, 1, 1}}; \
    c->workspace_size = sizeof m.workspace; c->tensors[2].state[1] = m.state[1] + 12
#define FACTORED MATRICES("adafactor"); c->tensors[2].factor_rows = 2; c->tensors[2].factor_cols = 3
#define ORTHOGONAL MATRICES("muon"); c->tensors[2].matrix_rows = 4
#define SOME_ROWS c->tensors[2].rows = m.step; c->tensors[2].n_rows = 3; c->tensors[2].width = 8
    for (int i = 0; i < 5; i++) {
        REFUSED(UPDATE, FGD_ERROR_MATRIX, 2, FACTORED; c->tensors[2].factor_rows = bad[i])
        REFUSED(UPDATE, FGD_ERROR_MATRIX, 2, FACTORED; c->tensors[2].factor_cols = bad[i])
        REFUSED(UPDATE, FGD_ERROR_MATRIX, 2, ORTHOGONAL; c->tensors[2].matrix_rows = bad[i])
    }
    for (int i = 0; i < 4; i++)
        REFUSED(UPDATE, FGD_ERROR_MATRIX, 2, ORTHOGONAL; c->groups[1].scalars[7] = counts[i])
    REFUSED(UPDATE, FGD_ERROR_SLOT, 2, FACTORED; c->tensors[2].state[1] = NULL)
    REFUSED(UPDATE, FGD_ERROR_WORKSPACE, NO_TENSOR, FACTORED;
            c->workspace_size = fgd_workspace_size(c->tensors, COUNT) - 1)
    REFUSED(UPDATE, FGD_ERROR_WORKSPACE, NO_TENSOR, ORTHOGONAL;
            c->workspace_size = fgd_workspace_size(c->tensors, COUNT) - 1)
    memset(m.step, 0, sizeof m.step);
    set_products(NO_PRODUCTS);
    REFUSED(UPDATE, FGD_ERROR_GEMM, 2, ORTHOGONAL)
    set_products(ALL_PRODUCTS);
    ACCEPTED(ALL, FACTORED)
    ACCEPTED(ALL, ORTHOGONAL)
    ACCEPTED(UPDATE, FACTORED; c->workspace_size = fgd_workspace_size(c->tensors, COUNT))
    ACCEPTED(UPDATE, ORTHOGONAL; c->workspace_size = fgd_workspace_size(c->tensors, COUNT))
    ACCEPTED(UPDATE, FACTORED; c->tensors[2].size = 0; c->tensors[2].factor_rows = 0)
    ACCEPTED(UPDATE, ORTHOGONAL; c->tensors[2].size = 0; c->tensors[2].matrix_rows = 0)
    ACCEPTED(UPDATE, ORTHOGONAL; c->tensors[2].size = 0; c->tensors[2].matrix_rows = 3)
    ACCEPTED(UPDATE, FACTORED; c->groups[1].switches = 2; c->tensors[2].state[2] = m.state[2];
             c->tensors[2].factor_rows = 0)
}

/* Rows of a parameter, and rules that need all of it. */
static void test_rows_of_matrices(void) {
    REFUSED(UPDATE, FGD_ERROR_ROWS, 2, c->options = no_options(); FACTORED; SOME_ROWS)
    REFUSED(UPDATE, FGD_ERROR_ROWS, 2, c->options = no_options(); ORTHOGONAL; SOME_ROWS)
}

/* Of several bad tensors the first is named. */
static void test_first(void) {
    REFUSED(ALL, FGD_ERROR_SIZE, 0, c->tensors[2].grad_dtype = 7; c->tensors[0].size = -5)
    REFUSED(UPDATE, FGD_ERROR_SLOT, 1, c->tensors[1].state[0] = NULL; c->tensors[2].grad = NULL)
}

void test_refusals(void) {
    test_pointers();
    test_numbers();
    test_options();
    test_units();
    test_storage();
    test_rows();
    test_cautious();
    test_workspace();
    test_layouts();
    test_matrices();
    test_rows_of_matrices();
    test_first();
}
