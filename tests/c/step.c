/* Builds steps, runs them and watches over what they may not touch. */
#include "step.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "random.h"

/* Around the lanes of sums and of registers (16), the chunk of a thread (16384), and several chunks. */
static const int64_t sizes[SIZES] = {0, 1, 15, 16, 17, 16383, 16384, 16385, 40000};

uint64_t digest = 0xcbf29ce484222325u;

void digest_add(const void *bytes, size_t n) {
    for (const unsigned char *b = bytes; n > 0; n--) digest = (digest ^ *b++) * 0x100000001b3u;
}

/* The upper 53 bits as a number. */
double random_number(void) {
    static uint64_t state;
    return (double)(int64_t)(random_bits(&state) >> 11) * 0x1p-52 - 1;
}

/* ---- Images ---------------------------------------------------------------------------------------- */

int64_t tensor_size(int t) { return sizes[t / 2]; }
int64_t tensor_item(int t) { return t % 2 ? 8 : 4; }

image image_of(int operands) {
    image m = {.operands = operands};
    for (int t = 0; t < TENSORS; t++) m.bytes += (size_t)(operands * tensor_size(t) * tensor_item(t));
    m.data = calloc(m.bytes, 1);
    if (!m.data) abort();
    return m;
}

image image_copy(const image *from) {
    image m = image_of(from->operands);
    memcpy(m.data, from->data, m.bytes);
    return m;
}

void *image_at(const image *m, int t, int operand) {
    char *at = m->data + operand * tensor_size(t) * tensor_item(t);
    for (int k = 0; k < t; k++) at += m->operands * tensor_size(k) * tensor_item(k);
    return at;
}

static double get(const char *array, int t, int64_t i) {
    double wide;
    float narrow;
    if (tensor_item(t) == 8) return memcpy(&wide, array + 8 * i, 8), wide;
    return memcpy(&narrow, array + 4 * i, 4), (double)narrow;
}

static void set(char *array, int t, int64_t i, double value) {
    const float narrow = (float)value;
    if (tensor_item(t) == 8) memcpy(array + 8 * i, &value, 8);
    else memcpy(array + 4 * i, &narrow, 4);
}

void image_set(image *m, int t, int operand, int64_t i, double value) {
    set(image_at(m, t, operand), t, i, value);
}

void image_take(image *m, const image *from, int operand) {
    for (int t = 0; t < TENSORS; t++) {
        const int64_t bytes = tensor_size(t) * tensor_item(t);
        memcpy(image_at(m, t, operand), image_at(from, t, operand), (size_t)bytes);
    }
}

int image_same(const image *a, const image *b) {
    return a->bytes == b->bytes && memcmp(a->data, b->data, a->bytes) == 0;
}

int image_finite(const image *m) {
    int finite = 1;
    for (int t = 0; t < TENSORS; t++) {
        const char *array = image_at(m, t, 0);
        for (int64_t i = 0; i < m->operands * tensor_size(t); i++) finite &= isfinite(get(array, t, i)) != 0;
    }
    return finite;
}

void image_free(image *m) { free(m->data); }

void transform_gradients(image *m, const fgd_options *options, double coef) {
    const double unscale = 1 / options->grad_scale, bound = options->clip_value;
    for (int t = 0; t < TENSORS; t++) {
        char *grad = image_at(m, t, GRAD);
        for (int64_t i = 0; i < tensor_size(t); i++) {
            double g = get(grad, t, i);
            if (tensor_item(t) == 8) {
                g *= unscale;
                g = g > bound ? bound : g < -bound ? -bound : g;
                g *= coef;
            } else {
                /* a product of two float32 is exact in float64, so each cast rounds once */
                g = (double)(float)(g * (double)(float)unscale);
                g = g > (double)(float)bound ? bound : g < -(double)(float)bound ? -bound : g;
                g = (double)(float)g * (double)(float)coef;
            }
            set(grad, t, i, g);
        }
    }
}

/* ---- Steps ----------------------------------------------------------------------------------------- */

static int slot_is_used(const step *s, int slot) {
    const int needs = s->rule->slot_switch[slot];
    return needs < 0 || (s->group.switches >> needs & 1);
}

fgd_options no_options(void) {
    const fgd_options options = {.grad_scale = 1, .clip_value = INFINITY, .clip_norm = INFINITY,
                                 .clip_unit = INFINITY, .total_norm = -1};
    return options;
}

fgd_tensor tensor_of(int64_t size, int dtype) {
    fgd_tensor t = {.size = size, .dtype = dtype, .grad_dtype = dtype, .copy_dtype = dtype};
    for (int k = 0; k < FGD_MAX_SLOTS; k++) t.state_dtype[k] = dtype;
    return t;
}

/* Several matrices or one, in turn from variant to variant. */
void take_matrices(const step *s, fgd_tensor *t, const int64_t *shape) {
    const int factored = s->rule->row_slot >= 0 && slot_is_used(s, s->rule->row_slot);
    const int64_t first = s->variant % 2 ? 1 : shape[0];
    if (factored) t->factor_rows = shape[0] * shape[1] / first, t->factor_cols = shape[2];
    if (s->rule->orthogonal) t->matrix_rows = shape[0] * shape[1];
}

int is_of_lines(const step *s, int k) { return k == s->rule->row_slot || k == s->rule->col_slot; }

int64_t slot_size(const step *s, const fgd_tensor *t, int k) {
    if (!is_of_lines(s, k) || t->factor_rows == 0) return t->size;
    return t->size / (k == s->rule->row_slot ? t->factor_cols : t->factor_rows);
}

/* Sums of squares start positive; scalars are in 0.1 .. 0.9, but for a number of iterations. */
static step step_of(int variant, int rule, uint32_t switches) {
    step s = {.variant = variant, .rule = fgd_rule_at(rule)};
    s.group = (fgd_group){.rule = rule, .switches = switches, .maximize = variant / 2 % 2};
    s.before = image_of(SLOT + s.rule->n_slots);
    for (int i = 0; i < s.rule->n_scalars; i++) {
        s.group.scalars[i] = 0.5 + 0.4 * random_number();
        if (strcmp(s.rule->scalars[i], "ns_steps") == 0) s.group.scalars[i] = 1 + variant % 2;
    }
    for (int t = 0; t < TENSORS; t++) {
        for (int o = 0; o < s.before.operands; o++) {
            char *array = image_at(&s.before, t, o);
            const int is_unsigned = o >= SLOT && s.rule->slot_unsigned[o - SLOT];
            for (int64_t i = 0; i < tensor_size(t); i++)
                set(array, t, i, is_unsigned ? 0.5 + 0.5 * random_number() : random_number());
        }
    }
    return s;
}

void every_step(void (*visit)(const step *s)) {
    int variant = 0;
    for (int rule = 0; rule < fgd_rule_count(); rule++) {
        for (uint32_t switches = 0; switches >> fgd_rule_at(rule)->n_switches == 0; switches++) {
            step s = step_of(variant++, rule, switches);
            visit(&s);
            image_free(&s.before);
        }
    }
}

image step_run(const step *s, const fgd_options *options, manner how, fgd_report *report) {
    static field fields[TENSORS][MAX_OPERANDS];
    fgd_tensor tensors[TENSORS];
    fgd_layout layouts[TENSORS];
    int64_t strides[TENSORS][(MAX_OPERANDS + 3) * FIELD_DIMS], counters[TENSORS];
    image after = image_copy(&s->before);
    int plain = 1, intact = 1, counted = 1, read_only = 1;
    if (how.isa >= 0) fgd_set_isa(how.isa);
    fgd_set_num_threads(how.threads);
    /* even numbers of threads leave state out of the caches */
    fgd_set_cache_size(how.threads % 2 ? INT64_MAX : 0);
    for (int t = 0; t < TENSORS; t++) {
        fgd_tensor *c = &tensors[t];
        *c = tensor_of(tensor_size(t), t % 2 ? FGD_F64 : FGD_F32);
        for (int o = 0; o < after.operands; o++) {
            placing placed = (placing)((how.first + o * how.next) % PLACINGS);
            if (o >= SLOT && is_of_lines(s, o - SLOT) && placed != MISALIGNED) placed = CONTIGUOUS;
            fields[t][o] = field_of(image_at(&after, t, o), tensor_size(t), tensor_item(t), placed);
            memcpy(strides[t] + o * FIELD_DIMS, fields[t][o].strides, sizeof fields[t][o].strides);
            plain &= placed == CONTIGUOUS || placed == MISALIGNED;
        }
        layouts[t] = (fgd_layout){FIELD_DIMS, fields[t][0].shape, strides[t]};
        take_matrices(s, c, fields[t][0].shape);
        counters[t] = 7 + t;
        c->param = fields[t][PARAM].base, c->grad = fields[t][GRAD].base, c->step = &counters[t];
        /* memory of a slot that is switched off may be given or not; it must not be changed */
        for (int k = 0; k < s->rule->n_slots; k++)
            if (slot_is_used(s, k) || s->variant % 2) c->state[k] = fields[t][SLOT + k].base;
    }
    for (int t = 0; t < TENSORS && !plain; t++) tensors[t].layout = &layouts[t];

    const int64_t bytes = fgd_workspace_size(tensors, TENSORS);
    void *workspace = malloc((size_t)bytes);
    const int code = fgd_update(&s->group, 1, tensors, TENSORS, options, workspace, bytes, report);
    free(workspace);

    for (int t = 0; t < TENSORS; t++) {
        const size_t one = (size_t)(tensor_size(t) * tensor_item(t));
        for (int o = 0; o < after.operands; o++)
            intact &= field_close(&fields[t][o], image_at(&after, t, o));
        read_only &= !memcmp(image_at(&after, t, GRAD), image_at(&s->before, t, GRAD), one);
        for (int k = 0; k < s->rule->n_slots; k++)
            if (!slot_is_used(s, k))
                read_only &= !memcmp(image_at(&after, t, SLOT + k), image_at(&s->before, t, SLOT + k), one);
        counted &= counters[t] == 7 + t + !report->skipped;
    }
    CHECK(code == FGD_OK, "%s %u: %s", s->rule->name, s->group.switches, fgd_error_text(code));
    CHECK(intact, "%s %u, first %d next %d", s->rule->name, s->group.switches, how.first, how.next);
    CHECK(read_only, "%s %u, first %d next %d", s->rule->name, s->group.switches, how.first, how.next);
    CHECK(counted, "%s %u", s->rule->name, s->group.switches);
    return after;
}
