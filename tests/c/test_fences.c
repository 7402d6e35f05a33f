/* Every operand at the very end of its memory, gradients in memory that cannot be written: an access beyond
 * an array or a write to a gradient ends the program. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "pages.h"
#include "step.h"

enum { MOST_BYTES = 40000 * 8 };

static const int64_t lengths[] = {1, 15, 17, 513, 16385, 40000};

/* Memory whose last byte is followed by memory that cannot be read. */
static char *fenced(char **start, size_t *length) {
    const size_t page = page_size();
    *length = (MOST_BYTES + page - 1) / page * page;
    *start = reserve(*length + page);
    return *start && open_pages(*start, *length) ? *start + *length : NULL;
}

static char *ends[MAX_OPERANDS], *starts[MAX_OPERANDS];
static size_t sizes[MAX_OPERANDS];

static void update(const step *s, int64_t n, int dtype, int backwards) {
    const int64_t item = dtype == FGD_F64 ? 8 : 4, bytes = n * item, offset = backwards ? bytes - item : 0;
    const int64_t rows = n % 3 ? n % 5 ? 1 : 5 : 3, matrices[] = {1, rows, n / rows};
    int64_t strides[MAX_OPERANDS + 3], step = 0;
    const fgd_layout layout = {1, &n, strides};
    fgd_options options = no_options();
    fgd_tensor tensor = tensor_of(n, dtype);
    fgd_report report;
    options.grad_scale = 1.5, options.clip_value = 1, options.clip_norm = 0.5, options.measure = 1;
    tensor.step = &step, tensor.layout = backwards ? &layout : NULL;
    for (int o = 0; o < MAX_OPERANDS; o++) strides[o] = -item;
    tensor.param = ends[PARAM] - bytes + offset;
    tensor.grad = ends[GRAD] - bytes + offset;
    take_matrices(s, &tensor, matrices);
    for (int k = 0; k < s->rule->n_slots; k++) {
        const int64_t size = slot_size(s, &tensor, k);
        tensor.state[k] = ends[SLOT + k] - size * item + (is_of_lines(s, k) ? 0 : offset);
    }
    const int64_t room = fgd_workspace_size(&tensor, 1);
    void *workspace = malloc((size_t)room);
    const int code = fgd_update(&s->group, 1, &tensor, 1, &options, workspace, room, &report);
    free(workspace);
    CHECK(code == FGD_OK && step == 1, "%s: %s", s->rule->name, fgd_error_text(code));
    CHECK(report.norm > 0 && report.nonfinite_tensor < 0, "%g", report.norm);
}

static void update_all(const step *s) {
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (int dtype = FGD_F32; dtype <= FGD_F64; dtype++)
            for (int backwards = 0; backwards < 2; backwards++) update(s, lengths[i], dtype, backwards);
}

void test_fences(void) {
    fgd_set_num_threads(2);
    for (int o = 0; o < MAX_OPERANDS; o++) {
        ends[o] = fenced(&starts[o], &sizes[o]);
        CHECK(ends[o] != NULL, "pages of operand %d", o);
        if (!ends[o]) return;
        /* 0.5 read as float32, 3e-5 read as float64 */
        for (size_t i = 0; i < sizes[o]; i++) starts[o][i] = i % 4 == 3 ? 0x3f : 0;
    }
    CHECK(seal_pages(starts[GRAD], sizes[GRAD]), "gradients");
    every_step(update_all);
    for (int o = 0; o < MAX_OPERANDS; o++) release(starts[o], sizes[o] + page_size());
}
