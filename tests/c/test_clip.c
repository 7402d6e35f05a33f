/* fgd_clip: arrays are replaced by their clipped selves, wherever they lie. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "step.h"

static image numbers(void) {
    image m = image_of(SLOT);
    for (int t = 0; t < TENSORS; t++)
        for (int64_t i = 0; i < tensor_size(t); i++) image_set(&m, t, GRAD, i, random_number());
    return m;
}

/* Clips the gradients of the image in place, laid out like that. */
static image clipped(const image *before, const fgd_options *options, placing placed, int threads,
                     fgd_report *report) {
    field fields[TENSORS];
    fgd_tensor tensors[TENSORS] = {{0}};
    fgd_layout layouts[TENSORS];
    int64_t strides[TENSORS][2 * FIELD_DIMS], counters[TENSORS] = {0};
    image after = image_copy(before);
    int intact = 1, counted = 0;
    fgd_set_num_threads(threads);
    for (int t = 0; t < TENSORS; t++) {
        fields[t] = field_of(image_at(before, t, GRAD), tensor_size(t), tensor_item(t), placed);
        for (int o = 0; o < 2; o++)
            memcpy(strides[t] + o * FIELD_DIMS, fields[t].strides, sizeof fields[t].strides);
        layouts[t] = (fgd_layout){FIELD_DIMS, fields[t].shape, strides[t]};
        tensors[t] = tensor_of(tensor_size(t), t % 2);
        tensors[t].param = fields[t].base, tensors[t].grad = fields[t].base, tensors[t].step = &counters[t];
        tensors[t].layout = placed > MISALIGNED ? &layouts[t] : NULL;
    }
    const int64_t bytes = fgd_workspace_size(tensors, TENSORS);
    void *workspace = malloc((size_t)bytes);
    const int code = fgd_clip(tensors, TENSORS, options, workspace, bytes, report);
    free(workspace);
    CHECK(code == FGD_OK, "%s", fgd_error_text(code));
    for (int t = 0; t < TENSORS; t++) {
        intact &= field_close(&fields[t], image_at(&after, t, GRAD));
        counted |= counters[t] != 0;
    }
    CHECK(intact, "placed %d", placed);
    CHECK(!counted, "placed %d", placed);
    return after;
}

static void compare(const fgd_options *options, const char *what) {
    image before = numbers();
    const int best = fgd_get_isa();
    for (int isa = 0; isa < fgd_isa_count(); isa++) {
        if (fgd_set_isa(isa) != FGD_OK) continue;
        for (int placed = CONTIGUOUS; placed < PLACINGS; placed++) {
            fgd_report report;
            image result = clipped(&before, options, placed, 1 + placed % 3, &report);
            image expected = image_copy(&before);
            transform_gradients(&expected, options, report.clip_coef);
            CHECK(image_same(&result, &expected), "%s: %s, placed %d", what, fgd_isa_name(isa), placed);
            CHECK((report.clip_coef < 1) == !isinf(options->clip_norm), "%s: %g", what, report.clip_coef);
            if (isa + placed == 0) digest_add(result.data, result.bytes);
            image_free(&result);
            image_free(&expected);
        }
    }
    fgd_set_isa(best);
    image_free(&before);
}

static void test_skipped(void) {
    image before = numbers();
    fgd_options options = no_options();
    fgd_report report;
    options.clip_value = 0.25, options.skip_nonfinite = 1;
    image_set(&before, 17, GRAD, 39999, INFINITY);
    image result = clipped(&before, &options, TRANSPOSED, 2, &report);
    CHECK(image_same(&result, &before), "skipped");
    CHECK(report.skipped == 1, "skipped");
    CHECK(report.nonfinite_tensor == 17 && report.nonfinite_element == 39999, "skipped");
    image_free(&result);
    image_free(&before);
}

void test_clip(void) {
    fgd_options options = no_options();
    compare(&options, "nothing");
    options.clip_norm = 1;
    compare(&options, "norm");
    options.norm = FGD_NORM_INF, options.clip_norm = 0.5;
    compare(&options, "infinity norm");
    options = no_options(), options.clip_value = 0.3;
    compare(&options, "value");
    options.grad_scale = 0.7, options.clip_norm = 2;
    compare(&options, "scale, value and norm");
    test_skipped();
}
