/* Every rule with its numbers stored in every way: the same bits on every instruction set, with any number of
 * threads, and wherever the numbers lie in memory. How they are stored follows from a counter, all else from
 * a hash of it. */
#include <math.h>

#include "call.h"
#include "check.h"
#include "kernels.h"
#include "product.h"
#include "random.h"

/* Parameters of each dtype with each rounding that they can have, and state in each dtype. */
enum { PARAMS = 11, STATES = FGD_CODES + 1, STORAGES = PARAMS * STATES };

static const struct {
    int dtype, rounding;
} params[PARAMS] = {
    {FGD_F32, FGD_NEAREST},   {FGD_F64, FGD_NEAREST},  {FGD_BF16, FGD_NEAREST}, {FGD_BF16, FGD_STOCHASTIC},
    {FGD_BF16, FGD_KAHAN},    {FGD_BF16, FGD_MASTER},  {FGD_BF16, FGD_SPLIT},   {FGD_F16, FGD_NEAREST},
    {FGD_F16, FGD_STOCHASTIC}, {FGD_F16, FGD_KAHAN},   {FGD_F16, FGD_MASTER},
};

/* Whether a chance of one in so many comes true. */
static int comes(uint64_t *hash, int in) { return random_bits(hash) % (uint64_t)in == 0; }

static int below(uint64_t *hash, int n) { return (int)(random_bits(hash) % (uint64_t)n); }

static double between(uint64_t *hash, double least, double most) {
    return least + (most - least) * (double)below(hash, 1 << 20) / (1 << 20);
}

static fgd_group group_of(int rule, int rounding, uint64_t *hash) {
    fgd_group g = {.rule = rule, .maximize = comes(hash, 2), .rounding = rounding, .seed = random_bits(hash)};
    const fgd_rule *r = fgd_rule_at(rule);
    g.switches = (uint32_t)below(hash, 1 << r->n_switches);
    g.cautious = may_be_cautious(&g) && comes(hash, 3);
    g.state_rounding = comes(hash, 2) ? FGD_STOCHASTIC : FGD_NEAREST;
    g.average_weight = between(hash, 0, 1);
    for (int i = 0; i < r->n_scalars; i++) g.scalars[i] = scalar_from(r, i, between(hash, 0.1, 0.9));
    return g;
}

static fgd_options options_of(uint64_t *hash) {
    fgd_options o = {.grad_scale = 1, .clip_value = INFINITY, .clip_norm = INFINITY, .clip_unit = INFINITY,
                     .total_norm = -1};
    if (comes(hash, 2)) o.grad_scale = between(hash, 0.5, 3);
    if (comes(hash, 3)) o.clip_value = between(hash, 0.1, 0.6);
    switch (below(hash, 6)) {
        case 0: o.clip_norm = between(hash, 0.1, 1), o.scope = below(hash, 3); break;
        case 1: o.clip_norm = 1, o.normalize = 1, o.scope = below(hash, 3); break;
        case 2: o.clip_norm = 0.3, o.norm = FGD_NORM_INF; break;
        case 3: o.clip_norm = 2, o.total_norm = between(hash, 1, 5); break;
        case 4: o.clip_unit = between(hash, 0.01, 0.3), o.unit_eps = 0.001; break;
    }
    o.measure = comes(hash, 2), o.skip_nonfinite = comes(hash, 3);
    return o;
}

/* A placing of its own for every array: one byte off, turned, backwards, with gaps, or as it is. */
static void place(part *p, uint64_t *hash) {
    for (int o = 0; o < ARRAYS; o++) {
        spread *s = &p->spreads[o];
        if (comes(hash, 3)) s->offset = 1;
        if (comes(hash, 3)) s->turn = 1 + below(hash, 2);
        if (comes(hash, 3)) s->reversed = below(hash, 8);
        if (comes(hash, 3)) s->gap = 1 + below(hash, 9);
        if (comes(hash, 8)) s->lone = (int64_t)random_bits(hash);
    }
}

static void take_rows(part *p, uint64_t *hash) {
    p->has_rows = 1;
    p->t.n_rows = below(hash, 6), p->t.width = 1 + below(hash, 300);
    p->t.size = p->t.n_rows * p->t.width;
    p->table_rows = p->t.n_rows + 1 + below(hash, 3);
    p->first_row = below(hash, (int)p->table_rows), p->row_step = p->table_rows - 1;
    for (int k = 0; k < FGD_MAX_SLOTS; k++)
        if (p->t.state_dtype[k] == FGD_CODES) p->t.state_dtype[k] = FGD_F16;
}

static void take_shape(part *p, int large, uint64_t *hash) {
    const int64_t rows = 1 + below(hash, 5), columns = large ? 2000 + below(hash, 3000) : 1 + below(hash, 70);
    p->ndim = 3;
    p->shape[0] = rows, p->shape[1] = columns, p->shape[2] = 1 + below(hash, 4);
    p->t.size = rows * columns * p->shape[2];
    p->t.unit = comes(hash, 2) ? columns * p->shape[2] : 0;
}

static int64_t size_of(int large, uint64_t *hash) {
    static const int64_t edges[] = {0, 1, 15, 16, 17, 255, 256, 257, 511, 513, 700, 1025};
    return large ? 16383 + below(hash, 50000) : edges[below(hash, 12)];
}

static part part_of(const call *c, int t, int dtype, int state, int large, uint64_t *hash) {
    part p = {.ndim = -1, .has_counter = 1, .counter = below(hash, 1000)};
    p.t = (fgd_tensor){.norm_group = t / 2, .dtype = dtype, .stream = (uint64_t)t};
    /* one dtype for both is what the kernels that convert on the way take */
    p.t.grad_dtype = comes(hash, 2) ? dtype : below(hash, 4);
    for (int k = 0; k < FGD_MAX_SLOTS; k++) p.t.state_dtype[k] = comes(hash, 8) ? below(hash, STATES) : state;
    p.has_average = comes(hash, 4), p.has_copy = comes(hash, 4), p.t.copy_dtype = below(hash, 4);
    if (t % 4 == 1) take_shape(&p, large, hash);
    else if (t % 4 == 2 && isinf(c->options.clip_unit) && !wants_matrices(&c->groups[0])) take_rows(&p, hash);
    else p.t.size = size_of(large, hash);
    take_matrices_of(&p, &c->groups[0], 1 + below(hash, 20));
    place(&p, hash);
    return p;
}

/* Some are large enough for several threads. */
static call call_of(int rule, int storage, int which) {
    uint64_t hash = mixed_bits((uint64_t)which);
    const int large = which % 32 == 5, param = storage % PARAMS, state = storage / PARAMS;
    call c = {.entry = UPDATE, .n_groups = 1, .n_tensors = MOST_TENSORS, .products = ALL_PRODUCTS};
    c.seed = (uint64_t)which;
    c.groups[0] = group_of(rule, params[param].rounding, &hash);
    c.options = options_of(&hash);
    for (int t = 0; t < MOST_TENSORS; t++)
        c.parts[t] = part_of(&c, t, params[param].dtype, state, large, &hash);
    c.grads = which % 8 == 3 ? SPOILT : which % 16 == 7 ? WILD : which % 32 == 15 ? RAW : TAME;
    c.others = which % 16 == 14 ? WILD : which % 32 == 31 ? RAW : TAME;
    return c;
}

static void compare(const call *c, manner how, const outcome *expected, int which) {
    if (!fgd_isa_supported(how.isa)) return;
    outcome o = call_run(c, how);
    const char *difference = outcome_difference(&o, expected), *name = fgd_rule_at(c->groups[0].rule)->name;
    CHECK(!o.broken, "%s, call %d: %s", name, which, o.broken);
    CHECK(!difference, "%s, call %d on %s with %d threads, packed %d: %s", name, which, fgd_isa_name(how.isa),
          how.threads, how.packed, difference);
    outcome_free(&o);
}

static void run(const call *c, int which) {
    const manner first = {0, 1, 1};
    outcome expected = call_run(c, first);
    CHECK(expected.code == FGD_OK, "%s, call %d: %s", fgd_rule_at(c->groups[0].rule)->name, which,
          fgd_error_text(expected.code));
    CHECK(!expected.broken, "call %d: %s", which, expected.broken);
    digest_add(expected.bytes, (size_t)expected.size);
    digest_add(&expected.report, sizeof expected.report);
    for (int isa = 0; isa < fgd_isa_count(); isa++) {
        if (isa > 0) compare(c, (manner){isa, 1 + (which + isa) % 3, 1}, &expected, which);
        compare(c, (manner){isa, 1 + (which / 3 + isa) % 3, 0}, &expected, which);
    }
    outcome_free(&expected);
}

/* As kernels take it that convert on the way: nothing beside the parameter, all state in one dtype. */
static void make_plain(call *c, int state) {
    c->groups[0].cautious = 0, c->options.clip_unit = INFINITY;
    for (int t = 0; t < MOST_TENSORS; t++) {
        part *p = &c->parts[t];
        p->has_average = p->has_copy = p->has_rows = 0, p->t.grad_dtype = p->t.dtype;
        for (int k = 0; k < FGD_MAX_SLOTS; k++) p->t.state_dtype[k] = state;
    }
}

/* Every rule that has such kernels, with every combination of switches and of what is rounded at random. */
static void run_streamed(int which) {
#define INDEX(rule) FGD_RULE_##rule,
    static const int rules[] = {FGD_STREAMED(INDEX)};
    static const struct {
        int param, state; /* of params; a dtype */
    } ways[] = {{0, FGD_BF16}, {0, FGD_CODES}, {2, FGD_BF16}, {3, FGD_BF16}};
    for (size_t r = 0; r < sizeof rules / sizeof *rules; r++) {
        const uint32_t combinations = 1u << fgd_rule_at(rules[r])->n_switches;
        for (uint32_t i = 0; i < 4 * 2 * combinations; i++, which++) {
            call c = call_of(rules[r], ways[i % 4].param, which);
            c.groups[0].switches = i / 8, c.groups[0].state_rounding = i / 4 % 2;
            make_plain(&c, ways[i % 4].state);
            run(&c, which);
        }
    }
}

void test_stored(void) {
    const int best = fgd_get_isa();
    int which = 0;
    for (int rule = 0; rule < fgd_rule_count(); rule++) {
        for (int storage = 0; storage < STORAGES; storage++, which++) {
            const call c = call_of(rule, storage, which);
            run(&c, which);
        }
    }
    run_streamed(which);
    fgd_set_isa(best);
}
