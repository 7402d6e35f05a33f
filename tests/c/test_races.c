/* Calls from many threads at once that share what they only read: for the thread sanitizer, which sees every
 * access that is not ordered, and for their results. These come before all other tests, so that what the
 * library finds out at its first use is found out by several threads. */
#include <math.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>

#include "check.h"
#include "fastgd.h"

/* Rows of numbers: enough elements for several threads in each call. */
enum { ROWS = 40, COLS = 2000, ELEMENTS = ROWS * COLS, TENSORS = 5, ROUNDS = 4, EACH = 2 };
enum { BLOCKS = (ELEMENTS + FGD_BLOCK - 1) / FGD_BLOCK, WORDS = 192 };

/* What all threads read and none writes. */
static struct {
    float grad[ELEMENTS];
    double wide_grad[ELEMENTS];
    uint16_t narrow_grad[ELEMENTS];
    int64_t shape[2], strides[6 * 2], labels[ROWS];
    fgd_layout transposed;
    fgd_group group;
    fgd_options options;
} shared;

/* One thread's own memory. */
typedef struct task {
    pthread_t id;
    void (*run)(struct task *t);
    float param[ELEMENTS], buffer[ELEMENTS], grid[ELEMENTS], grid_buffer[ELEMENTS];
    double wide[ELEMENTS], wide_buffer[ELEMENTS], row_loss[ROWS];
    float coded[ELEMENTS];
    uint16_t narrow[ELEMENTS], narrow_buffer[ELEMENTS];
    uint8_t codes[ELEMENTS];
    float scales[BLOCKS];
    int64_t workspace[WORDS], steps[TENSORS];
    fgd_report report;
    long calls, wrong; /* of its calls, those that did not do what they should */
} task;

static pthread_barrier_t together;

/* A tensor of each kind: packed, with its dimensions in another order than the gradient's, in float64, in
 * bfloat16, and with its state in codes; the random bits of the last two round nothing, as all is exact. */
static void tensors_of(task *t, fgd_tensor *tensors) {
    const fgd_tensor all[TENSORS] = {
        {.size = ELEMENTS, .dtype = FGD_F32, .param = t->param, .grad = shared.grad, .state = {t->buffer}},
        {.size = ELEMENTS, .dtype = FGD_F32, .param = t->grid, .grad = shared.grad, .state = {t->grid_buffer},
         .layout = &shared.transposed},
        {.size = ELEMENTS, .dtype = FGD_F64, .grad_dtype = FGD_F64, .state_dtype = {FGD_F64},
         .param = t->wide, .grad = shared.wide_grad, .state = {t->wide_buffer}},
        {.size = ELEMENTS, .dtype = FGD_BF16, .grad_dtype = FGD_BF16, .state_dtype = {FGD_BF16},
         .param = t->narrow, .grad = shared.narrow_grad, .state = {t->narrow_buffer}},
        {.size = ELEMENTS, .dtype = FGD_F32, .state_dtype = {FGD_CODES}, .param = t->coded,
         .grad = shared.grad, .state = {t->codes}, .scales = {t->scales}},
    };
    memcpy(tensors, all, sizeof all);
    for (int k = 0; k < TENSORS; k++) tensors[k].step = &t->steps[k];
}

/* The bfloat16 of a number that has one. */
static uint16_t upper_half(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)(bits >> 16);
}

static double shared_norm(void) { return sqrt(TENSORS * 16.0 * ELEMENTS); }

/* Momentum of 1 and lr of 1/2 on gradients that are 4 everywhere: after n steps, -n (n + 1). */
static void update(task *t) {
    fgd_tensor tensors[TENSORS];
    tensors_of(t, tensors);
    const int code = fgd_update(&shared.group, 1, tensors, TENSORS, &shared.options, t->workspace,
                                sizeof t->workspace, &t->report);
    const int64_t n = t->steps[0];
    int right = !code && n == t->calls + 1 && t->report.norm == shared_norm();
    for (int i = 0; i < ELEMENTS; i++) {
        right &= t->param[i] == -n * (n + 1) && t->grid[i] == t->param[i] && t->wide[i] == t->param[i];
        right &= t->coded[i] == t->param[i] && t->narrow[i] == upper_half(t->param[i]);
    }
    t->wrong += !right;
}

static void measure(task *t) {
    fgd_tensor tensors[TENSORS];
    double norms[TENSORS];
    tensors_of(t, tensors);
    const int code = fgd_measure(tensors, TENSORS, &shared.options, norms, t->workspace, sizeof t->workspace,
                                 &t->report);
    int right = !code && t->report.norm == shared_norm();
    for (int k = 0; k < TENSORS; k++) right &= norms[k] == sqrt(16.0 * ELEMENTS);
    t->wrong += !right;
}

/* The thread's own copy of the shared gradient, to norm 1. */
static void clip(task *t) {
    memcpy(t->param, shared.grad, sizeof t->param);
    fgd_options options = shared.options;
    options.clip_norm = 1;
    const fgd_tensor tensor = {.size = ELEMENTS, .dtype = FGD_F32, .param = t->param, .grad = t->param};
    const int code = fgd_clip(&tensor, 1, &options, t->workspace, sizeof t->workspace, &t->report);
    const double norm = sqrt(16.0 * ELEMENTS);
    t->wrong += code || t->report.norm != norm || !(fabs(t->param[ELEMENTS - 1] * norm - 4) < 1e-5);
}

/* The caller's matrix product. It is set before all threads: fgd_set_gemm may not run beside a product. */
static int product(char transa, char transb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                   int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
    for (int64_t i = 0; i < m * n; i++) {
        const int64_t row = i / n, col = i % n;
        float sum = 0;
        for (int64_t l = 0; l < k; l++)
            sum += a[transa == 'T' ? l * lda + row : row * lda + l] *
                   b[transb == 'T' ? col * ldb + l : l * ldb + col];
        c[row * ldc + col] = alpha * sum + (beta == 0 ? 0 : beta * c[row * ldc + col]);
    }
    return 0;
}

/* A layer of one output from the shared numbers, an activation and a loss. */
static void layers(task *t) {
    double loss = 0;
    const fgd_activation relu = {.kind = fgd_activation_find("relu")};
    const fgd_activation tanh = {.kind = fgd_activation_find("tanh")};
    const fgd_loss squared = {.kind = fgd_loss_find("squared"), .divisor = ELEMENTS};
    const fgd_labels plain = {.ignored = -1};
    const float *grad = shared.grad;
    int code = fgd_linear_forward(FGD_F32, &relu, ROWS, COLS, 1, grad, grad, NULL, NULL, t->param);
    int right = !code && t->param[ROWS - 1] == 16 * COLS;
    code = fgd_linear_backward(FGD_F32, &relu, ROWS, COLS, 1, grad, grad, t->param, t->buffer, t->grid,
                               t->grid_buffer, NULL);
    right &= !code;
    code = fgd_activation_forward(FGD_F32, &tanh, ELEMENTS, grad, t->grid);
    right &= !code && t->grid[ELEMENTS - 1] == t->grid[0] && t->grid[0] > 0.99f;
    code = fgd_softmax_cross_entropy(FGD_F32, &plain, ROWS, COLS, grad, shared.labels, t->grid, t->row_loss,
                                     &loss);
    right &= !code && fabs(loss - log(COLS)) < 1e-5;
    code = fgd_loss_and_grad(FGD_F64, &squared, ELEMENTS, shared.wide_grad, shared.wide_grad,
                             t->wide, t->row_loss, &loss);
    t->wrong += !right || code || loss != 0;
}

/* All that can be asked, while others work. */
static void ask(task *t) {
    int right = fgd_abi_version() == FGD_ABI_VERSION && fgd_get_num_threads() >= 1;
    right &= fgd_isa_supported(fgd_get_isa()) && fgd_has_openmp() >= 0;
    for (int isa = 0; isa < fgd_isa_count(); isa++) right &= fgd_isa_name(isa) != NULL;
    for (int rule = 0; rule < fgd_rule_count(); rule++)
        right &= fgd_rule_find(fgd_rule_at(rule)->name) == rule;
    for (int a = 0; a < fgd_activation_count(); a++)
        right &= fgd_activation_find(fgd_activation_at(a)->name) == a;
    for (int kind = 0; kind < fgd_loss_count(); kind++)
        right &= fgd_loss_find(fgd_loss_at(kind)->name) == kind;
    for (int code = 0; code >= FGD_ERROR_LOSS; code--) right &= fgd_error_text(code) != NULL;
    fgd_tensor tensors[TENSORS];
    tensors_of(t, tensors);
    right &= fgd_workspace_size(tensors, TENSORS) <= (int64_t)sizeof t->workspace;
    right &= fgd_loss_scratch(ELEMENTS) <= ROWS;
    t->wrong += !right;
}

static void (*const RUNS[])(task *t) = {update, measure, clip, layers, ask};
enum { THREADS = EACH * sizeof RUNS / sizeof RUNS[0] };
static task tasks[THREADS];

static void *begin(void *argument) {
    task *t = argument;
    pthread_barrier_wait(&together);
    for (; t->calls < ROUNDS; t->calls++) t->run(t);
    return NULL;
}

static void set_shared(void) {
    for (int i = 0; i < ELEMENTS; i++)
        shared.grad[i] = 4, shared.wide_grad[i] = 4, shared.narrow_grad[i] = upper_half(4);
    /* rows of param are columns of grad and momentum_buffer, which therefore are gathered */
    const int64_t item = sizeof(float), across[2] = {item, ROWS * item}, along[2] = {COLS * item, item};
    for (int d = 0; d < 2; d++)
        shared.strides[d] = along[d], shared.strides[2 + d] = shared.strides[4 + d] = across[d];
    shared.shape[0] = ROWS, shared.shape[1] = COLS;
    shared.transposed = (fgd_layout){.ndim = 2, .shape = shared.shape, .strides = shared.strides};
    const fgd_rule *rule = fgd_rule_at(fgd_rule_find("sgd"));
    shared.group.rule = fgd_rule_find("sgd");
    for (int i = 0; i < rule->n_switches; i++)
        if (strcmp(rule->switches[i], "momentum") == 0) shared.group.switches |= 1u << i;
    for (int i = 0; i < rule->n_scalars; i++) {
        if (strcmp(rule->scalars[i], "lr") == 0) shared.group.scalars[i] = 0.5;
        if (strcmp(rule->scalars[i], "momentum") == 0 || strcmp(rule->scalars[i], "grad_weight") == 0)
            shared.group.scalars[i] = 1;
        if (i == rule->decay) shared.group.scalars[i] = 1;
    }
    shared.group.rounding = shared.group.state_rounding = FGD_STOCHASTIC;
    shared.options = (fgd_options){.grad_scale = 1, .clip_value = INFINITY, .clip_norm = INFINITY,
                                   .clip_unit = INFINITY, .total_norm = -1, .measure = 1};
}

void test_races(void) {
    set_shared();
    CHECK(!fgd_set_gemm(FGD_F32, FGD_GEMM_ROW_MAJOR, (fgd_function)product), "product");
    CHECK(!pthread_barrier_init(&together, NULL, THREADS), "%d", THREADS);
    for (int i = 0; i < THREADS; i++) {
        tasks[i].run = RUNS[i / EACH];
        CHECK(!pthread_create(&tasks[i].id, NULL, begin, &tasks[i]), "%d", i);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(tasks[i].id, NULL);
        CHECK(tasks[i].calls == ROUNDS && !tasks[i].wrong, "thread %d: %ld wrong", i, tasks[i].wrong);
    }
    fgd_set_gemm(FGD_F32, FGD_GEMM_NONE, NULL);
}
