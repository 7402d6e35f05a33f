/* Every rule with every combination of its switches: the same bits on every instruction set, with any number
 * of threads, and wherever the numbers lie in memory. */
#include <math.h>
#include <string.h>

#include "check.h"
#include "step.h"

static const int thread_counts[] = {1, 2, 3, 8};

/* Every way of measuring in turn: sums of plain squares, of clamped ones, largest value, none. */
static fgd_options options_of(int variant) {
    fgd_options options = no_options();
    options.grad_scale = 1.5;
    if (variant % 4 != 3) options.clip_norm = variant % 4 == 2 ? 0.3 : 40;
    if (variant % 4 == 1) options.clip_value = 0.4;
    if (variant % 4 == 2) options.norm = FGD_NORM_INF;
    return options;
}

static void compare(const step *s, const fgd_options *options, manner how, const image *expected,
                    const fgd_report *expected_report) {
    fgd_report report;
    image result = step_run(s, options, how, &report);
    CHECK(image_same(&result, expected), "%s %u: %s, %d threads, first %d, next %d", s->rule->name,
          s->group.switches, fgd_isa_name(how.isa), how.threads, how.first, how.next);
    CHECK(memcmp(&report, expected_report, sizeof report) == 0, "%s %u: %s, %d threads, norm %.17g not %.17g",
          s->rule->name, s->group.switches, fgd_isa_name(how.isa), how.threads, report.norm,
          expected_report->norm);
    image_free(&result);
}

static void compare_all(const step *s) {
    const fgd_options options = options_of(s->variant);
    const int best = fgd_get_isa(), sets = fgd_isa_count();
    const manner first = {0, 1, CONTIGUOUS, 0};
    fgd_report report;
    image expected = step_run(s, &options, first, &report);
    int usable = s->variant % sets;
    CHECK(image_finite(&expected), "%s %u", s->rule->name, s->group.switches);
    CHECK(!image_same(&expected, &s->before), "%s %u", s->rule->name, s->group.switches);
    CHECK(report.measured == (s->variant % 4 != 3), "%s %u", s->rule->name, s->group.switches);
    CHECK((report.clip_coef < 1) == (s->variant % 4 != 3), "%s %u: %g", s->rule->name, s->group.switches,
          report.norm);
    digest_add(expected.data, expected.bytes);
    digest_add(&report, sizeof report);

    for (int isa = 0; isa < sets; isa++) {
        for (int i = 0; i < 4 && fgd_isa_supported(isa); i++) {
            const manner how = {isa, thread_counts[i], CONTIGUOUS, 0};
            compare(s, &options, how, &expected, &report);
        }
    }
    /* the instruction sets take turns here, from variant to variant */
    while (!fgd_isa_supported(usable)) usable = (usable + 1) % sets;
    for (int placed = MISALIGNED; placed < PLACINGS; placed++) {
        const manner alike = {usable, 1, placed, 0}, mixed = {usable, 2, s->variant + placed, 1};
        compare(s, &options, alike, &expected, &report);
        if (placed == MISALIGNED || placed == TRANSPOSED) compare(s, &options, mixed, &expected, &report);
    }
    fgd_set_isa(best);
    image_free(&expected);
}

void test_bits(void) { every_step(compare_all); }
