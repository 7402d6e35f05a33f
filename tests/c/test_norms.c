/* Norms against sums in long double, of all tensors and of each, where squares overflow and underflow too. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "check.h"
#include "fastgd.h"
#include "step.h"

enum { MOST = 40000, COUNT = 4 };

static double wide[MOST];
static float narrow[MOST];
static int64_t workspace[128];

/* float32 and float64 of the same numbers, and an empty tensor. */
static const fgd_tensor tensors[COUNT] = {
    {.size = MOST, .dtype = FGD_F64, .grad_dtype = FGD_F64, .grad = wide},
    {.size = 0, .dtype = FGD_F64, .grad_dtype = FGD_F64},
    {.size = 16385, .dtype = FGD_F32, .grad_dtype = FGD_F32, .grad = narrow},
    {.size = 17, .dtype = FGD_F64, .grad_dtype = FGD_F64, .grad = wide + 3},
};

static void fill(double scale) {
    for (int i = 0; i < MOST; i++) {
        wide[i] = random_number() * scale;
        narrow[i] = (float)random_number();
    }
}

static long double prepared(double x, const fgd_options *options) {
    const long double bound = options->clip_value, value = fabsl((long double)x / options->grad_scale);
    return value > bound ? bound : value;
}

static double value(const fgd_tensor *t, int64_t i) {
    return t->dtype == FGD_F64 ? ((const double *)t->grad)[i] : (double)((const float *)t->grad)[i];
}

/* Scaled by a power of two near the largest value, because long double is no wider than double everywhere. */
static double expected_norm(const fgd_tensor *t, int64_t n, const fgd_options *options) {
    long double largest = 0, sum = 0;
    for (int64_t k = 0; k < n; k++)
        for (int64_t i = 0; i < t[k].size; i++) largest = fmaxl(largest, prepared(value(&t[k], i), options));
    if (options->norm == FGD_NORM_INF || largest == 0) return (double)largest;
    const int exponent = ilogbl(largest);
    for (int64_t k = 0; k < n; k++) {
        for (int64_t i = 0; i < t[k].size; i++) {
            const long double scaled = ldexpl(prepared(value(&t[k], i), options), -exponent);
            sum += scaled * scaled;
        }
    }
    return (double)ldexpl(sqrtl(sum), exponent);
}

/* A lane adds up to 1024 squares, each with up to half a unit of error, of which the root keeps half: 6e-14.
 * clip_value and grad_scale are rounded to float32 for float32 gradients, hence the tolerance with them. */
static int is_near(double a, double b, const fgd_tensor *t, int64_t n, const fgd_options *options) {
    double tolerance = 6e-14;
    for (int64_t k = 0; k < n; k++)
        if (t[k].dtype == FGD_F32 && (options->grad_scale != 1 || isfinite(options->clip_value)))
            tolerance = 1e-7;
    return a == b || fabs(a - b) <= tolerance * fabs(b) + 2 * DBL_TRUE_MIN;
}

static void compare(const fgd_tensor *t, int64_t n, const fgd_options *options, const char *what) {
    double norms[COUNT] = {-1, -1, -1, -1}, own[COUNT], first_norm = 0;
    fgd_report report;
    const double right = expected_norm(t, n, options);
    for (int64_t k = 0; k < n; k++) own[k] = expected_norm(&t[k], 1, options);
    for (int run = 0; run < fgd_isa_count() * 2; run++) {
        if (!fgd_isa_supported(run / 2)) continue;
        fgd_set_isa(run / 2);
        fgd_set_num_threads(run % 2 ? 3 : 1);
        const int code = fgd_measure(t, n, options, norms, workspace, sizeof workspace, &report);
        CHECK(code == FGD_OK && report.measured && !report.skipped, "%s: %s", what, fgd_error_text(code));
        CHECK(is_near(report.norm, right, t, n, options), "%s: %.17g not %.17g", what, report.norm, right);
        CHECK(run == 0 || report.norm == first_norm, "%s: %.17g not %.17g", what, report.norm, first_norm);
        for (int64_t k = 0; k < n; k++)
            CHECK(is_near(norms[k], own[k], &t[k], 1, options), "%s, tensor %d: %.17g not %.17g", what,
                  (int)k, norms[k], own[k]);
        CHECK(report.nonfinite_tensor == -1 && report.nonfinite_element == -1, "%s", what);
        const double coef = fmin(1, options->clip_norm / (report.norm + 1e-6));
        CHECK(report.clip_coef == (isinf(options->clip_norm) ? 1 : coef), "%s: %g", what, coef);
        if (report.norm < 1e150 && report.norm > 1e-150)
            CHECK(fabs(report.sumsq / (report.norm * report.norm) - 1) < 1e-14, "%s: %g", what, report.sumsq);
        if (run == 0) {
            first_norm = report.norm;
            digest_add(norms, sizeof *norms * (size_t)n);
            digest_add(&report, sizeof report);
        }
    }
}

static void test_scales(void) {
    static const double scales[] = {1,     1e200,         1e-200,  1e-139,       1e-141,
                                    1e154, DBL_MAX / 512, DBL_MIN, DBL_TRUE_MIN, 0};
    char what[40];
    for (size_t i = 0; i < sizeof scales / sizeof *scales; i++) {
        fgd_options options = no_options();
        fill(scales[i]);
        snprintf(what, sizeof what, "scale %g", scales[i]);
        compare(tensors, 2, &options, what);
        compare(tensors, COUNT, &options, what);
        options.norm = FGD_NORM_INF;
        compare(tensors, COUNT, &options, what);
        options.norm = FGD_NORM_2;
        options.clip_norm = 0.25;
        compare(tensors, COUNT, &options, what);
    }
}

static void test_options(void) {
    fill(1);
    for (int norm = FGD_NORM_2; norm <= FGD_NORM_INF; norm++) {
        fgd_options options = no_options();
        options.norm = norm;
        options.grad_scale = 3;
        compare(tensors, COUNT, &options, "grad_scale");
        options.clip_value = 0.1;
        compare(tensors, COUNT, &options, "grad_scale and clip_value");
        options.clip_norm = 0;
        compare(tensors, COUNT, &options, "clip_norm 0");
        options.clip_value = 0;
        compare(tensors, COUNT, &options, "clip_value 0");
    }
}

/* Squares that overflow before clip_value makes them small, and only then. */
static void test_clamped_overflow(void) {
    fgd_options options = no_options();
    fill(1e200);
    options.clip_value = 0.5;
    compare(tensors, 2, &options, "clamped 1e200");
    options.clip_value = 1e180;
    compare(tensors, 2, &options, "clamped to 1e180");
    options = no_options(), options.grad_scale = 0x1p+660;
    compare(tensors, 2, &options, "unscaled 1e200");
}

static void test_nothing(void) {
    fgd_options options = no_options();
    fgd_report report;
    options.clip_norm = 1;
    CHECK(fgd_measure(NULL, 0, &options, NULL, workspace, 24, &report) == FGD_OK, "no tensors");
    CHECK(report.norm == 0 && report.sumsq == 0 && report.clip_coef == 1, "%g", report.norm);
    compare(tensors + 1, 1, &options, "an empty tensor");
}

static void test_nonfinite(void) {
    const double bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 6; i++) {
        fgd_options options = no_options();
        double norms[COUNT];
        fgd_report report;
        fill(1e200); /* its squares overflow as well, which must not be taken for an infinity */
        narrow[16384] = (float)bad[i % 3];
        options.norm = i / 3;
        const int code = fgd_measure(tensors, COUNT, &options, norms, workspace, sizeof workspace, &report);
        CHECK(code == FGD_OK, "%s", fgd_error_text(code));
        CHECK(report.nonfinite_tensor == 2 && report.nonfinite_element == 16384, "%d, element %d",
              (int)report.nonfinite_tensor, (int)report.nonfinite_element);
        CHECK(!isfinite(report.norm) && report.skipped == 0, "%g", report.norm);
        CHECK(!isnan(norms[2]) == (i % 3 != 0) && !isfinite(norms[2]), "%g", norms[2]);
        CHECK(isfinite(norms[0]) && norms[1] == 0 && isfinite(norms[3]), "%g %g %g", norms[0], norms[1],
              norms[3]);
    }
}

/* The order that fixes the bits: 16 lanes over each chunk of 16384, folded in halves, chunks in order. */
static void test_order(void) {
    const fgd_options options = no_options();
    fgd_report report;
    double total = 0;
    fill(1);
    for (int chunk = 0; chunk < MOST; chunk += 16384) {
        double lanes[16] = {0};
        for (int i = chunk; i < MOST && i < chunk + 16384; i++) lanes[i % 16] += wide[i] * wide[i];
        for (int width = 8; width; width /= 2)
            for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
        total += lanes[0];
    }
    fgd_measure(tensors, 1, &options, NULL, workspace, sizeof workspace, &report);
    CHECK(report.sumsq == total && report.norm == sqrt(total), "%.17g not %.17g", report.sumsq, total);
}

void test_norms(void) {
    const int best = fgd_get_isa();
    test_scales();
    test_order();
    test_options();
    test_clamped_overflow();
    test_nothing();
    test_nonfinite();
    fgd_set_isa(best);
}
