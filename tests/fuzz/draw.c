/* Reads a call off the fuzzer's bytes; where they end, zeros follow. What is most usual is drawn from 0. */
#include "draw.h"

#include <math.h>
#include <string.h>

#include "product.h"

static const uint8_t *at, *end;

static int byte(void) { return at < end ? *at++ : 0; }

static int below(int n) { return byte() % n; }

/* 1 in so many times; never where bytes have ended. */
static int rarely(int times) { return byte() % times == times - 1; }

static uint64_t bits64(void) {
    uint64_t bits = 0;
    for (int i = 0; i < 8; i++) bits = bits << 8 | (uint64_t)byte();
    return bits;
}

static double any_double(void) {
    static const double odd[] = {0, -0.0, 1, -1, 0.5, NAN, INFINITY, -INFINITY, 1e-320, 1e300, 1e-30, 3e38,
                                 1e-8, 2, 7};
    const int which = below(16);
    if (which < 15) return odd[which];
    const uint64_t bits = bits64();
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static double usual_double(void) { return (byte() + 1) / 300.0; }

static int64_t any_size(void) {
    static const int64_t odd[] = {0, 1, -1, 2, 256, INT64_MAX, INT64_MIN, INT32_MAX, (int64_t)1 << 61,
                                  (int64_t)1 << 60, -256, 16384, 255, (int64_t)1 << 40, 3};
    const int which = below(16);
    return which < 15 ? odd[which] : (int64_t)bits64();
}

static int any_int(void) {
    static const int odd[] = {-1, 0, 1, 2, 3, 4, 5, 6, 7, 19, 100, INT32_MAX, INT32_MIN, 65, 64};
    const int which = below(16);
    return which < 15 ? odd[which] : (int)(uint32_t)bits64();
}

/* ---- Calls that are allowed ------------------------------------------------------------------------- */

static fgd_group draw_group(void) {
    fgd_group g = {.rule = below(fgd_rule_count())};
    const fgd_rule *rule = fgd_rule_at(g.rule);
    const int flags = byte(), roundings = byte();
    g.switches = (uint32_t)byte() & ((1u << rule->n_switches) - 1);
    g.maximize = flags & 1;
    g.cautious = flags % 4 == 2 && may_be_cautious(&g);
    g.rounding = roundings % 5;
    g.state_rounding = roundings / 5 % 2;
    g.seed = flags & 8 ? bits64() : (uint64_t)flags;
    g.average_weight = flags & 16 ? any_double() : usual_double();
    const int is_odd = flags >= 224 && !rule->orthogonal;
    for (int i = 0; i < rule->n_scalars; i++)
        g.scalars[i] = is_odd ? any_double() : scalar_from(rule, i, usual_double());
    return g;
}

static double limit(double usual) { return usual * usual_double(); }

static fgd_options draw_options(entry entry, int with_rows) {
    fgd_options o = {.grad_scale = 1, .clip_value = INFINITY, .clip_norm = INFINITY, .clip_unit = INFINITY,
                     .total_norm = -1};
    const double scales[] = {2, 0.7, 1e-30, 1e30, 3, 1e-300, 1e300, 0.25};
    const int kind = byte(), flags = byte();
    if (kind & 1) o.grad_scale = scales[below(8)];
    if (kind & 2) o.clip_value = limit(1);
    if (kind & 4) o.clip_norm = kind & 8 ? 0 : limit(10);
    if (kind & 4 && kind & 16) o.normalize = 1;
    if (kind & 32) o.norm = FGD_NORM_INF;
    if (!(kind & 4) && kind & 64 && entry == UPDATE && !with_rows)
        o.clip_unit = limit(0.2), o.unit_eps = limit(0.01);
    o.scope = below(3);
    if (o.scope == FGD_SCOPE_ALL && flags & 1) o.total_norm = flags & 2 ? limit(20) : fabs(any_double());
    o.measure = flags >> 2 & 1;
    o.skip_nonfinite = flags >> 3 & 1;
    return o;
}

/* Around pieces, blocks, lanes and chunks; mostly few. */
static int64_t draw_size(void) {
    static const int64_t edges[] = {255, 256, 257, 511, 512, 513, 600, 1025};
    static const int64_t chunks[] = {16383, 16384, 16385, 32768, 16640, 32769, 20000, 33000};
    const int kind = byte();
    if (kind < 160) return kind % 40;
    return kind < 248 ? edges[kind % 8] : chunks[kind % 8];
}

static spread draw_spread(int has_layout) {
    spread s = {0};
    const int kind = byte();
    if (kind & 1) s.offset = 1 + below(8);
    if (!has_layout || kind < 64) return s;
    s.turn = kind >> 1 & 7;
    if (kind & 16) s.reversed = byte();
    if (kind & 32) s.gap = 1 + below(12);
    if (kind >= 192 && rarely(4)) s.lone = (int64_t)bits64() | 1;
    return s;
}

static void draw_layout(part *p) {
    static const int64_t sides[] = {1, 2, 3, 5, 16, 17, 1, 7, 255, 256, 257, 4, 0, 40, 600, 64};
    int64_t size = 1;
    p->ndim = below(MOST_DIMS + 1);
    for (int d = 0; d < p->ndim; d++) {
        p->shape[d] = sides[below(16)];
        if (size * p->shape[d] > 4000) p->shape[d] = 1;
        size *= p->shape[d];
    }
    p->t.size = size;
}

/* Gradient rows in order, or backwards, for some of the rows of a table. */
static void draw_rows(part *p) {
    const int kind = byte();
    p->has_rows = 1;
    p->t.n_rows = below(12), p->t.width = kind & 1 ? 1 + below(20) : draw_size() % 700;
    p->t.size = p->t.n_rows * p->t.width;
    p->table_rows = p->t.n_rows + below(5);
    p->first_row = p->table_rows > 0 ? below(12) % p->table_rows : 0;
    p->row_step = kind & 2 ? 1 : p->table_rows - 1;
    if (p->table_rows <= 1) p->row_step = 1;
}

static int64_t draw_unit(int64_t size) {
    static const int64_t units[] = {0, 1, 2, 3, 5, 16, 17, 255, 256, 257, 300, 4000};
    const int64_t unit = units[below(12)];
    return unit > 0 && size % unit ? size : unit;
}

static void draw_tensor(const call *c, part *p, int with_rows, const part *before) {
    const int kind = byte(), extras = byte();
    fgd_tensor *t = &p->t;
    const fgd_group *group = &c->groups[t->group = below((int)c->n_groups)];
    p->ndim = -1;
    if (kind % 3 == 1 && !with_rows) draw_layout(p);
    else if (kind % 3 && with_rows && !wants_matrices(group)) draw_rows(p);
    else t->size = draw_size();
    if (c->entry == UPDATE) take_matrices_of(p, group, 1 + below(20));
    t->norm_group = before ? before->t.norm_group + extras % 2 : any_int() % 1000;
    t->dtype = byte() % 4, t->grad_dtype = c->entry == CLIP ? t->dtype : below(4), t->copy_dtype = below(4);
    if (c->entry == UPDATE && group->rounding == FGD_SPLIT && t->dtype == FGD_F16) t->dtype = FGD_BF16;
    const int alike = kind & 8, state = below(5);
    for (int k = 0; k < FGD_MAX_SLOTS; k++) {
        t->state_dtype[k] = alike ? state : below(5);
        if (p->has_rows && t->state_dtype[k] == FGD_CODES) t->state_dtype[k] = FGD_BF16;
    }
    p->has_average = extras >> 1 & 1, p->has_copy = extras >> 2 & 1;
    p->has_counter = c->entry != UPDATE || extras < 240 || group->rounding == FGD_STOCHASTIC ||
                     group->state_rounding == FGD_STOCHASTIC;
    p->counter = extras & 8 ? (int64_t)(bits64() % INT64_MAX) : extras;
    t->stream = extras & 16 ? bits64() : (uint64_t)(before ? before->t.stream + 1 : 0);
    t->unit = kind & 16 ? draw_unit(t->size) : 0;
    for (int o = 0; o < ARRAYS && kind & 32; o++) p->spreads[o] = draw_spread(p->ndim > 0);
    if (p->ndim > 0 && kind & 64) p->spreads[GRAD].overlap = byte(), p->spreads[GRAD].slide = below(9);
    if (p->ndim > 0 && kind == 255) p->spreads[PARAM].overlap = byte(), p->spreads[PARAM].slide = below(9);
    if (p->ndim > 0 && kind == 254) p->spreads[SLOT].overlap = byte();
}

/* ---- Calls with something wrong --------------------------------------------------------------------- */

static void spoil_group(fgd_group *g) {
    switch (below(6)) {
        case 0: g->rule = any_int(); break;
        case 1: g->switches = (uint32_t)any_int(); break;
        case 2: g->rounding = any_int(); break;
        case 3: g->state_rounding = any_int(); break;
        case 4: g->cautious = any_int(); break;
        case 5: g->scalars[below(FGD_MAX_SCALARS)] = any_double(); break;
    }
}

static void spoil_options(fgd_options *o) {
    switch (below(11)) {
        case 0: o->grad_scale = any_double(); break;
        case 1: o->clip_value = any_double(); break;
        case 2: o->clip_norm = any_double(); break;
        case 3: o->clip_unit = any_double(); break;
        case 4: o->unit_eps = any_double(); break;
        case 5: o->total_norm = any_double(); break;
        case 6: o->norm = any_int(); break;
        case 7: o->scope = any_int(); break;
        case 8: o->normalize = any_int(); break;
        case 9: o->measure = any_int(); break;
        case 10: o->skip_nonfinite = any_int(); break;
    }
}

static void spoil_part(part *p) {
    fgd_tensor *t = &p->t;
    switch (below(18)) {
        case 0: t->size = any_size(); break;
        case 1: t->group = any_int(); break;
        case 2: t->dtype = any_int(); break;
        case 3: t->grad_dtype = any_int(); break;
        case 4: t->copy_dtype = any_int(); break;
        case 5: t->state_dtype[below(FGD_MAX_SLOTS)] = any_int(); break;
        case 6: t->unit = any_size(); break;
        case 7: p->has_rows = 1, t->n_rows = any_size(); break;
        case 8: p->has_rows = 1, t->width = any_size(); break;
        case 9: p->has_counter = 0; break;
        case 10: p->nulls = (uint32_t)bits64(); break;
        case 11: p->shape[below(MOST_DIMS)] = any_size(); break;
        case 12: t->size = (int64_t)(bits64() >> 1 >> below(8)), t->unit = below(4); break;
        case 13: p->has_counter = 1, p->counter = any_size(); break;
        case 14: t->factor_rows = any_size(); break;
        case 15: t->factor_cols = any_size(); break;
        case 16: t->matrix_rows = any_size(); break;
        case 17: p->has_average = p->has_copy = 1, t->copy_dtype = any_int(); break;
    }
}

static void spoil(call *c) {
    switch (below(6)) {
        case 0: spoil_group(&c->groups[below(MOST_GROUPS)]); break;
        case 1: spoil_options(&c->options); break;
        case 2:
        case 3: spoil_part(&c->parts[below(MOST_TENSORS)]); break;
        case 4: c->fault = (fault)below(FAULTS); break;
        case 5: c->products = below(12) - 1; break;
    }
}

int draw_call(call *c, const uint8_t *bytes, size_t n) {
    at = bytes, end = bytes + n;
    memset(c, 0, sizeof *c);
    const int kind = byte(), spoilt = rarely(6);
    c->products = ALL_PRODUCTS;
    c->entry = kind % 8 == 7 ? CLIP : kind % 8 == 6 ? MEASURE : UPDATE;
    c->grads = (filling)(kind >> 3 & 3), c->others = (filling)(kind >> 5 & 3);
    c->seed = bits64();
    c->n_groups = 1 + rarely(4), c->n_tensors = rarely(8) ? 0 : 1 + below(5) % MOST_TENSORS;
    for (int g = 0; g < c->n_groups; g++) c->groups[g] = draw_group();
    const int with_rows = c->entry == UPDATE && rarely(4);
    c->options = draw_options(c->entry, with_rows);
    for (int t = 0; t < c->n_tensors; t++)
        draw_tensor(c, &c->parts[t], with_rows, t > 0 ? &c->parts[t - 1] : NULL);
    if (!spoilt) return 1;
    for (int times = 1 + below(2); times > 0; times--) spoil(c);
    if (rarely(20)) c->n_tensors = -1;
    if (rarely(20)) c->n_groups = -1;
    return 0;
}
