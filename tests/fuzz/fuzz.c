/* What libFuzzer calls: every input is one call, made on each instruction set, on several threads, and with
 * its arrays packed. A memory error, undefined behaviour, a broken promise and a bit of difference end the
 * program. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "draw.h"

/* In place of the library's own choice, which would keep calls of this size on one thread. */
int fgd_threads_for(int64_t elements);
int fgd_threads_for(int64_t elements) {
    (void)elements;
    return fgd_get_num_threads();
}

static void print_call(const call *c) {
    static const char *const entries[] = {"fgd_update", "fgd_measure", "fgd_clip"};
    const fgd_options *o = &c->options;
    fprintf(stderr, "%s of %" PRId64 " tensors, %" PRId64 " groups, fault %d\n", entries[c->entry],
            c->n_tensors, c->n_groups, c->fault);
    fprintf(stderr, "grad_scale %g clip_value %g clip_norm %g (norm %d) clip_unit %g unit_eps %g total %g\n",
            o->grad_scale, o->clip_value, o->clip_norm, o->norm, o->clip_unit, o->unit_eps, o->total_norm);
    fprintf(stderr, "scope %d normalize %d measure %d skip %d\n", o->scope, o->normalize, o->measure,
            o->skip_nonfinite);
    for (int g = 0; g < c->n_groups; g++) {
        const fgd_group *group = &c->groups[g];
        const fgd_rule *rule = fgd_rule_at(group->rule);
        fprintf(stderr, "group %d: %s switches %u cautious %d rounding %d, of state %d\n", g,
                rule ? rule->name : "?", group->switches, group->cautious, group->rounding,
                group->state_rounding);
    }
    for (int t = 0; t < c->n_tensors; t++) {
        const part *p = &c->parts[t];
        fprintf(stderr, "tensor %d: size %" PRId64 " group %d dtypes %d %d state %d %d %d unit %" PRId64, t,
                p->t.size, p->t.group, p->t.dtype, p->t.grad_dtype, p->t.state_dtype[0], p->t.state_dtype[1],
                p->t.state_dtype[2], p->t.unit);
        if (p->has_rows) fprintf(stderr, " rows %" PRId64 " of %" PRId64, p->t.n_rows, p->t.width);
        for (int d = 0; d < p->ndim; d++) fprintf(stderr, "%s%" PRId64, d ? " x " : " shape ", p->shape[d]);
        fprintf(stderr, "\n");
    }
}

static void fail(const call *c, const manner *how, const char *what, const outcome *o) {
    fprintf(stderr, "%s: %s, %d threads%s: %s\n", what, fgd_isa_name(how->isa), how->threads,
            how->packed ? ", packed" : "", fgd_error_text(o->code));
    print_call(c);
    abort();
}

static void compare(const call *c, manner how, const outcome *expected) {
    if (!fgd_isa_supported(how.isa)) return;
    outcome o = call_run(c, how);
    const char *difference = outcome_difference(&o, expected);
    if (o.broken) fail(c, &how, o.broken, &o);
    if (difference) fail(c, &how, difference, &o);
    outcome_free(&o);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    call c;
    const manner first = {0, 1, 0};
    const int is_allowed = draw_call(&c, bytes, n), best = fgd_isa_count() - 1;
    outcome expected = call_run(&c, first);
    if (expected.broken) fail(&c, &first, expected.broken, &expected);
    if (is_allowed && expected.code) fail(&c, &first, "a call that is allowed was refused", &expected);
    for (int isa = 1; isa <= best; isa++) compare(&c, (manner){isa, 1, 0}, &expected);
    if (!call_overlaps(&c)) {
        compare(&c, (manner){best, 3, 0}, &expected);
        if (is_allowed) compare(&c, (manner){0, 2, 1}, &expected);
    }
    outcome_free(&expected);
    return 0;
}
