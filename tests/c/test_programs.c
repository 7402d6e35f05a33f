/* Programs of two linear layers and a loss: the bits of the calls one by one, and nothing where refused. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "step.h"

enum { BATCH = 5, IN = 17, HIDDEN = 33, CLASSES = 3, OPS = 5, PARAMS = 4, WORDS = 64 };

/* All that a program works on. Of the parameters and gradients each has an array of its own. */
typedef struct model {
    float x[BATCH * IN], weight1[HIDDEN * IN], bias1[HIDDEN], weight2[CLASSES * HIDDEN], bias2[CLASSES];
    float hidden[BATCH * HIDDEN], dhidden[BATCH * HIDDEN], logits[BATCH * CLASSES];
    float dweight1[HIDDEN * IN], dbias1[HIDDEN], dweight2[CLASSES * HIDDEN], dbias2[CLASSES];
    float buffers[PARAMS][HIDDEN * IN];
    double row_loss[BATCH], loss;
    int64_t labels[BATCH], steps[PARAMS];
} model;

static fgd_activation identity, tanh_of;
static const fgd_labels mean = {.ignored = -1, .divisor = BATCH};

static void fill(model *m) {
    memset(m, 0, sizeof *m);
    for (int i = 0; i < BATCH * IN; i++) m->x[i] = (float)random_number();
    for (int i = 0; i < HIDDEN * IN; i++) m->weight1[i] = (float)random_number();
    for (int i = 0; i < CLASSES * HIDDEN; i++) m->weight2[i] = (float)random_number();
    for (int i = 0; i < BATCH; i++) m->labels[i] = i % CLASSES;
}

static int run_calls(model *m) {
    int code = fgd_linear_forward(FGD_F32, &tanh_of, BATCH, IN, HIDDEN, m->x, m->weight1, m->bias1, NULL,
                                  m->hidden);
    code |= fgd_linear_forward(FGD_F32, &identity, BATCH, HIDDEN, CLASSES, m->hidden, m->weight2, m->bias2,
                               NULL, m->logits);
    code |= fgd_softmax_cross_entropy(FGD_F32, &mean, BATCH, CLASSES, m->logits, m->labels, m->logits,
                                      m->row_loss, &m->loss);
    code |= fgd_linear_backward(FGD_F32, &identity, BATCH, HIDDEN, CLASSES, m->hidden, m->weight2, NULL,
                                m->logits, m->dhidden, m->dweight2, m->dbias2);
    code |= fgd_linear_backward(FGD_F32, &tanh_of, BATCH, IN, HIDDEN, m->x, m->weight1, m->hidden, m->dhidden,
                                NULL, m->dweight1, m->dbias1);
    return code;
}

/* The same as data. Gradients are complete from the last tensor to the first. */
static void program_of(model *m, fgd_op *ops) {
    const int forward = fgd_op_find("linear_forward"), backward = fgd_op_find("linear_backward");
    const fgd_op all[OPS] = {
        {.entry = forward, .of = &tanh_of, .sizes = {BATCH, IN, HIDDEN},
         .pointers = {m->x, m->weight1, m->bias1, NULL, m->hidden}},
        {.entry = forward, .of = &identity, .sizes = {BATCH, HIDDEN, CLASSES},
         .pointers = {m->hidden, m->weight2, m->bias2, NULL, m->logits}},
        {.entry = fgd_op_find("softmax_cross_entropy"), .of = &mean, .sizes = {BATCH, CLASSES},
         .pointers = {m->logits, m->labels, m->logits, m->row_loss, &m->loss}},
        {.entry = backward, .of = &identity, .sizes = {BATCH, HIDDEN, CLASSES},
         .pointers = {m->hidden, m->weight2, NULL, m->logits, m->dhidden, m->dweight2, m->dbias2},
         .first_gradient = 2, .n_gradients = 2},
        {.entry = backward, .of = &tanh_of, .sizes = {BATCH, IN, HIDDEN},
         .pointers = {m->x, m->weight1, m->hidden, m->dhidden, NULL, m->dweight1, m->dbias1},
         .first_gradient = 0, .n_gradients = 2},
    };
    memcpy(ops, all, sizeof all);
}

static void tensors_of(model *m, fgd_tensor *tensors) {
    static const int64_t sizes[PARAMS] = {HIDDEN * IN, HIDDEN, CLASSES * HIDDEN, CLASSES};
    float *params[PARAMS] = {m->weight1, m->bias1, m->weight2, m->bias2};
    float *grads[PARAMS] = {m->dweight1, m->dbias1, m->dweight2, m->dbias2};
    for (int k = 0; k < PARAMS; k++) {
        tensors[k] = tensor_of(sizes[k], FGD_F32);
        tensors[k].param = params[k], tensors[k].grad = grads[k], tensors[k].state[0] = m->buffers[k];
        tensors[k].step = &m->steps[k];
    }
}

static fgd_group sgd(void) {
    const fgd_group group = {.rule = fgd_rule_find("sgd"), .switches = 2, /* momentum */
                             .scalars = {0.3, 0, 0.9, 0.8, 0.7}};
    return group;
}

/* All that a call of fgd_train takes. */
typedef struct setup {
    fgd_op ops[OPS];
    fgd_tensor tensors[PARAMS];
    fgd_group group;
    fgd_options options;
    fgd_report report;
    int64_t workspace[WORDS], failed;
} setup;

static setup setup_of(model *m) {
    setup s = {.group = sgd(), .options = no_options(), .failed = -2};
    program_of(m, s.ops);
    tensors_of(m, s.tensors);
    if (fgd_workspace_size(s.tensors, PARAMS) > (int64_t)sizeof s.workspace) abort();
    return s;
}

static int train(setup *s) {
    return fgd_train(s->ops, OPS, &s->failed, &s->group, 1, s->tensors, PARAMS, &s->options, s->workspace,
                     sizeof s->workspace, &s->report);
}

static int update(setup *s) {
    return fgd_update(&s->group, 1, s->tensors, PARAMS, &s->options, s->workspace, sizeof s->workspace,
                      &s->report);
}

static void compare_runs(const model *start) {
    model expected = *start, found = *start;
    setup s = setup_of(&found);
    CHECK(run_calls(&expected) == FGD_OK, "one by one");
    CHECK(fgd_run(s.ops, OPS, &s.failed) == FGD_OK && s.failed == -1, "%d", (int)s.failed);
    CHECK(memcmp(&found, &expected, sizeof found) == 0, "fgd_run");
    CHECK(isfinite(found.loss) && found.loss > 0, "%g", found.loss);
    digest_add(&found, sizeof found);
    CHECK(fgd_run(NULL, 0, &s.failed) == FGD_OK && s.failed == -1, "%d", (int)s.failed);
}

/* Options that measure nothing, that clip, and that find numbers to be finite; with gradients that operations
 * name, all or some. */
static void compare_steps(const model *start) {
    for (int variant = 0; variant < 8; variant++) {
        model expected = *start, found = *start;
        setup one = setup_of(&expected), all = setup_of(&found);
        if (variant & 1) one.options.clip_norm = 0.01;
        if (variant & 2) one.options.skip_nonfinite = 1;
        if (variant & 4) all.ops[3 + variant % 2].n_gradients = 0;
        all.options = one.options;
        for (int step = 0; step < 3; step++) {
            CHECK(run_calls(&expected) == FGD_OK && update(&one) == FGD_OK, "variant %d", variant);
            CHECK(train(&all) == FGD_OK && all.failed == -1, "variant %d: %d", variant, (int)all.failed);
            CHECK(memcmp(&found, &expected, sizeof found) == 0, "variant %d, step %d", variant, step);
            CHECK(memcmp(&all.report, &one.report, sizeof all.report) == 0, "variant %d", variant);
        }
        CHECK(found.steps[0] == 3 && found.weight1[0] != start->weight1[0], "variant %d", variant);
        digest_add(&found, sizeof found);
    }
}

/* No operation is run where one of them is no entry's; those before one that fails are, but make no step. */
static void check_failures(const model *start) {
    for (int bad = 0; bad < OPS; bad++) {
        const int entries[] = {-1, fgd_op_count(), INT32_MIN, INT32_MAX};
        for (int i = 0; i < 8; i++) {
            model m = *start;
            setup s = setup_of(&m);
            s.ops[bad].entry = entries[i / 2];
            const int code = i % 2 ? train(&s) : fgd_run(s.ops, OPS, &s.failed);
            CHECK(code == FGD_ERROR_OP && s.failed == bad, "%d: %s", bad, fgd_error_text(code));
            CHECK(memcmp(&m, start, sizeof m) == 0, "%d", bad);
        }
        for (int trains = 0; trains < 2; trains++) {
            model m = *start, expected = *start;
            setup s = setup_of(&m), before = setup_of(&expected);
            s.ops[bad].sizes[1] = -1;
            const int code = trains ? train(&s) : fgd_run(s.ops, OPS, &s.failed);
            CHECK(code == FGD_ERROR_SIZE && s.failed == bad, "%d: %s", bad, fgd_error_text(code));
            CHECK(fgd_run(before.ops, bad, &before.failed) == FGD_OK, "%d", bad);
            CHECK(memcmp(&m, &expected, sizeof m) == 0, "%d", bad);
        }
    }
}

/* What programs leave when they run together is what each leaves alone, on any number of threads; the first
 * that fails is named, and those beside it have done their work. */
static void compare_together(const model *start) {
    enum { N = 5 };
    static model expected[N], found[N];
    for (int threads = 1; threads <= 3; threads++) {
        setup alone[N], all[N];
        fgd_program programs[N];
        int64_t failed[2];
        fgd_set_num_threads(threads);
        for (int i = 0; i < N; i++) {
            expected[i] = *start;
            for (int k = 0; k < BATCH * IN; k++) expected[i].x[k] *= (float)(i + 1);
            found[i] = expected[i];
            alone[i] = setup_of(&expected[i]), all[i] = setup_of(&found[i]);
            programs[i] = (fgd_program){all[i].ops, OPS};
            CHECK(fgd_run(alone[i].ops, OPS, &alone[i].failed) == FGD_OK, "%d", i);
        }
        CHECK(fgd_run_together(programs, N, failed) == FGD_OK, "%d threads", threads);
        CHECK(failed[0] == -1 && failed[1] == -1, "%d threads", threads);
        CHECK(memcmp(found, expected, sizeof found) == 0, "%d threads", threads);
        digest_add(found, sizeof found);
        all[3].ops[2].sizes[1] = all[1].ops[4].sizes[1] = -1;
        CHECK(fgd_run_together(programs, N, failed) == FGD_ERROR_SIZE, "%d threads", threads);
        CHECK(failed[0] == 1 && failed[1] == 4, "%d, %d", (int)failed[0], (int)failed[1]);
    }
    int64_t failed[2] = {7, 7};
    const fgd_program nothing = {NULL, 1};
    CHECK(fgd_run_together(NULL, 0, failed) == FGD_OK && failed[0] == -1 && failed[1] == -1, "no programs");
    CHECK(fgd_run_together(NULL, 1, failed) == FGD_ERROR_NULL && failed[0] == -1, "no programs");
    CHECK(fgd_run_together(&nothing, -1, failed) == FGD_ERROR_SIZE, "size");
    CHECK(fgd_run_together(&nothing, 1, NULL) == FGD_ERROR_NULL, "no place");
    CHECK(fgd_run_together(&nothing, 1, failed) == FGD_ERROR_NULL && failed[0] == 0, "no operations");
}

static void check_refusals(const model *start) {
    model m = *start;
    setup s = setup_of(&m);
    CHECK(fgd_run(NULL, 1, &s.failed) == FGD_ERROR_NULL && s.failed == -1, "no operations");
    CHECK(fgd_run(s.ops, OPS, NULL) == FGD_ERROR_NULL, "no place for the number");
    CHECK(fgd_run(s.ops, -1, &s.failed) == FGD_ERROR_SIZE && s.failed == -1, "negative");
    s.tensors[1].grad = NULL;
    CHECK(train(&s) == FGD_ERROR_NULL && s.failed == -1, "a step that is refused");
    s = setup_of(&m), s.group.rule = -1;
    CHECK(train(&s) == FGD_ERROR_RULE && s.failed == -1, "a rule that is none");
    CHECK(memcmp(&m, start, sizeof m) == 0, "nothing is changed");
    CHECK(!fgd_op_at(-1) && !fgd_op_at(fgd_op_count()) && fgd_op_find("none") == FGD_ERROR_OP, "no entry");
}

void test_programs(void) {
    static model start;
    fill(&start);
    identity.kind = fgd_activation_find("identity");
    tanh_of.kind = fgd_activation_find("tanh");
    compare_runs(&start);
    compare_steps(&start);
    check_failures(&start);
    compare_together(&start);
    check_refusals(&start);
}
