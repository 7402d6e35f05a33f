/* Random bits of elements before and after the 2^32nd: they follow from the element alone, however the work
 * is cut. Arrays of that length are reserved, and only what is worked on is memory. */
#include <stdlib.h>
#include <string.h>

#include "apply.h"
#include "check.h"
#include "pages.h"
#include "random.h"
#include "step.h"

#define MIDDLE ((int64_t)1 << 32)
enum { LENGTH = 2 * FGD_CHUNK, WIDTH = 1000, ROWS = 3 };
static const int64_t first = MIDDLE - FGD_CHUNK, size = MIDDLE + FGD_CHUNK;

/* Numbers [first, size) of an array that begins at `begin`; one byte further than it should, when shifted. */
typedef struct far {
    char *begin, *mapped;
    int64_t item, shift;
} far;

static int64_t mapped_bytes(const far *f) { return size * f->item + 1; }

static far far_of(int64_t item, int shift) {
    far f = {.item = item, .shift = shift};
    f.mapped = reserve((size_t)mapped_bytes(&f));
    if (!f.mapped) abort();
    const int64_t from = first * item / 65536 * 65536; /* a page is no larger */
    if (!open_pages(f.mapped + from, (size_t)(mapped_bytes(&f) - from))) abort();
    f.begin = f.mapped + shift;
    return f;
}

static void *at(const far *f, int64_t element) { return f->begin + element * f->item; }

/* What is stored in how many bytes: param and grad alike, and one slot. */
typedef struct storage {
    int dtype, state;
} storage;

static int64_t param_item(storage s) { return s.dtype == FGD_BF16 ? 2 : 4; }
static int64_t slot_item(storage s) { return s.state == FGD_CODES ? 1 : 2; }

typedef enum way { WHOLE, CUT, SHIFTED, BY_ROWS, WAYS } way;

static const fgd_group group = {.switches = 2, /* momentum */
                                .rounding = FGD_STOCHASTIC,
                                .state_rounding = FGD_STOCHASTIC,
                                .seed = 7,
                                .scalars = {0.3, 0, 0.9, 0.8, 0.7}};

static void run(const job *j, int64_t offset, int64_t n) {
    const chunk c = {j->tensors, offset, n};
    fgd_write_run(j, &c);
}

/* The rows around the middle element, which lies within one of them. */
static void update_rows(const fgd_group *g, fgd_tensor t, const fgd_options *options) {
    const int64_t row = MIDDLE / WIDTH - 1, rows[ROWS] = {row + 1, row, row + 2};
    char grads[ROWS * WIDTH * sizeof(double)];
    const int64_t bytes = WIDTH * (t.dtype == FGD_BF16 ? 2 : 4);
    int64_t workspace[32];
    fgd_report report;
    for (int r = 0; r < ROWS; r++)
        memcpy(grads + r * bytes, (const char *)t.grad + rows[r] * bytes, (size_t)bytes);
    t.grad = grads, t.rows = rows, t.n_rows = ROWS, t.width = WIDTH, t.size = ROWS * WIDTH;
    const int code = fgd_update(g, 1, &t, 1, options, workspace, sizeof workspace, &report);
    CHECK(code == FGD_OK, "%s", fgd_error_text(code));
}

/* The parameters and the slot as one step leaves them. */
static void step_of(storage s, way how, char *params, char *slots) {
    const int64_t item = param_item(s), of_slot = slot_item(s);
    far param = far_of(item, 0), grad = far_of(item, how == SHIFTED), slot = far_of(of_slot, 0);
    far scales = far_of(sizeof(float), 0);
    uint64_t state = 3;
    int64_t step = 5;
    fgd_group g = group;
    g.rule = fgd_rule_find("sgd");
    fgd_tensor t = {.size = size, .dtype = s.dtype, .grad_dtype = s.dtype, .state_dtype = {s.state}};
    t.stream = 2, t.param = param.begin, t.grad = grad.begin, t.state[0] = slot.begin, t.step = &step;
    t.scales[0] = (float *)at(&scales, first) - first / FGD_BLOCK;
    for (int64_t i = first; i < size; i++) {
        const uint64_t bits = random_bits(&state);
        /* from 1 to 2, as bfloat16 or float32, and codes */
        const uint32_t x = s.dtype == FGD_BF16 ? 0x3f80 | (bits & 0x7f) : 0x3f800000 | (bits & 0x7fffff);
        const uint32_t y = 0x3f80 | (bits >> 32 & 0x7f);
        memcpy(at(&param, i), &x, (size_t)item), memcpy(at(&grad, i), &x, (size_t)item);
        memcpy(at(&slot, i), &y, (size_t)of_slot);
    }
    for (int b = 0; b < LENGTH / FGD_BLOCK; b++) ((float *)at(&scales, first))[b] = 1;
    const fgd_options options = no_options();
    fgd_report report = {.clip_coef = 1};
    const job j = {.groups = &g, .tensors = &t, .n_tensors = 1, .options = &options, .write = WRITE_UPDATE,
                   .report = &report};
    if (how == BY_ROWS) update_rows(&g, t, &options);
    else if (how == CUT) run(&j, first, FGD_CHUNK), run(&j, MIDDLE, FGD_CHUNK);
    else run(&j, first, LENGTH);
    memcpy(params, at(&param, first), (size_t)(LENGTH * item));
    memcpy(slots, at(&slot, first), (size_t)(LENGTH * of_slot));
    const far *all[] = {&param, &grad, &slot, &scales};
    for (int i = 0; i < 4; i++) release(all[i]->mapped, (size_t)mapped_bytes(all[i]));
}

static void compare(storage s) {
    static char expected[2][LENGTH * 4], found[2][LENGTH * 4];
    const int64_t items[] = {param_item(s), slot_item(s)};
    step_of(s, CUT, expected[0], expected[1]);
    for (int k = 0; k < 2; k++) digest_add(expected[k], (size_t)(LENGTH * items[k]));
    for (int isa = 0; isa < fgd_isa_count(); isa++) {
        if (fgd_set_isa(isa)) continue;
        for (way how = WHOLE; how < WAYS; how++) {
            const int by_rows = how == BY_ROWS;
            if (by_rows && s.state == FGD_CODES) continue; /* whose blocks cross rows */
            const int64_t from = by_rows ? (MIDDLE / WIDTH - 1) * WIDTH - first : 0;
            const int64_t n = by_rows ? ROWS * WIDTH : LENGTH;
            step_of(s, how, found[0], found[1]);
            for (int k = 0; k < 2; k++) {
                const size_t at = (size_t)(from * items[k]), bytes = (size_t)(n * items[k]);
                CHECK(!memcmp(found[k] + at, expected[k] + at, bytes), "%s, way %d, dtypes %d and %d: %s",
                      fgd_isa_name(isa), how, s.dtype, s.state, k ? "slots" : "parameters");
            }
        }
    }
}

void test_far(void) {
    const int best = fgd_get_isa();
    compare((storage){FGD_BF16, FGD_BF16});
    compare((storage){FGD_F32, FGD_BF16});
    compare((storage){FGD_F32, FGD_CODES});
    fgd_set_isa(best);
}
