/* What happens to gradients before a rule sees them: unscaled, clipped by value and norm, turned, refused. */
#include <math.h>

#include "check.h"
#include "step.h"

/* Against gradients that the test has transformed itself. */
static void compare(const step *s, fgd_options options, const char *what) {
    const fgd_options none = no_options();
    fgd_report report;
    step transformed = *s;
    image result = step_run(s, &options, PLAIN, &report);
    transformed.before = image_copy(&s->before);
    const double sign = s->group.maximize ? -1 : 1;
    transform_gradients(&transformed.before, &options, sign * report.clip_coef);
    transformed.group.maximize = 0;
    image expected = step_run(&transformed, &none, PLAIN, &(fgd_report){0});
    image_take(&expected, &result, GRAD);
    CHECK(image_same(&result, &expected), "%s %u: %s", s->rule->name, s->group.switches, what);
    image_free(&result);
    image_free(&expected);
    image_free(&transformed.before);
}

/* All options at once with every step; each alone in turn. */
static void compare_options(const step *s) {
    fgd_options options = no_options();
    options.grad_scale = 3, options.clip_value = 0.1, options.clip_norm = 5;
    compare(s, options, "grad_scale, clip_value, clip_norm");
    options = no_options();
    switch (s->variant % 6) {
        case 0: compare(s, options, "no options"); break;
        case 1: options.grad_scale = 3, compare(s, options, "grad_scale"); break;
        case 2: options.clip_value = 0.1, compare(s, options, "clip_value"); break;
        case 3: options.clip_norm = 5, compare(s, options, "clip_norm"); break;
        case 4: options.clip_norm = 1e9, compare(s, options, "clip_norm above the norm"); break;
        case 5:
            options.norm = FGD_NORM_INF, options.clip_norm = 0.05;
            compare(s, options, "infinity norm");
            break;
    }
}

/* A gradient that is not finite: nothing changes when that is asked for, and it is found either way. */
static void compare_nonfinite(const step *s) {
    static const int64_t places[] = {0, 5, 16384, 30000};
    const double bad[] = {NAN, INFINITY, -INFINITY};
    const int tensor = 16 + s->variant % 2;
    const int64_t element = places[s->variant % 4];
    fgd_options options = no_options();
    fgd_report report;
    manner how = {-1, 1 + s->variant % 3, s->variant % PLACINGS, 0};
    step spoilt = *s;
    spoilt.before = image_copy(&s->before);
    image_set(&spoilt.before, tensor, GRAD, element, bad[s->variant % 3]);
    image_set(&spoilt.before, tensor, GRAD, element + 1, NAN);
    options.skip_nonfinite = 1, options.norm = s->variant / 2 % 2 ? FGD_NORM_INF : FGD_NORM_2;
    if (s->variant % 2) options.clip_value = 0.5;
    image result = step_run(&spoilt, &options, how, &report);
    CHECK(image_same(&result, &spoilt.before), "%s %u", s->rule->name, s->group.switches);
    CHECK(report.skipped == 1 && report.measured == 1, "%d %d", report.skipped, report.measured);
    CHECK(report.nonfinite_tensor == tensor && report.nonfinite_element == element, "%lld %lld, not %d %lld",
          (long long)report.nonfinite_tensor, (long long)report.nonfinite_element, tensor,
          (long long)element);
    image_free(&result);

    options.skip_nonfinite = 0, options.measure = 1;
    result = step_run(&spoilt, &options, how, &report);
    CHECK(!image_same(&result, &spoilt.before), "%s %u", s->rule->name, s->group.switches);
    CHECK(report.skipped == 0 && report.nonfinite_element == element, "%d", report.skipped);
    CHECK(!isfinite(report.norm) || options.clip_value < INFINITY, "%g", report.norm);
    image_free(&result);
    image_free(&spoilt.before);
}

/* Nothing is skipped and nothing reported where all gradients are finite. */
static void compare_finite(const step *s) {
    fgd_options skipping = no_options(), none = no_options();
    fgd_report report;
    skipping.skip_nonfinite = 1;
    image result = step_run(s, &skipping, PLAIN, &report), expected;
    CHECK(report.measured == 1 && report.skipped == 0 && report.clip_coef == 1, "%d", report.skipped);
    CHECK(report.nonfinite_tensor == -1 && report.nonfinite_element == -1, "%lld",
          (long long)report.nonfinite_tensor);
    expected = step_run(s, &none, PLAIN, &report);
    CHECK(report.measured == 0 && report.error_tensor == -1, "%d", report.measured);
    CHECK(image_same(&result, &expected), "%s %u", s->rule->name, s->group.switches);
    image_free(&result);
    image_free(&expected);
}

static void compare_all(const step *s) {
    compare_options(s);
    compare_nonfinite(s);
    if (s->variant % 4 == 0) compare_finite(s);
}

void test_gradients(void) { every_step(compare_all); }
