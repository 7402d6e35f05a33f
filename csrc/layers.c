/* Forward and backward passes of the layers: checks everything, then runs kernels in tiles over threads. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "dispatch.h"
#include "gemm.h"
#include "layer_kernels.h"
#include "pieces.h"

/* ---- Activations by name --------------------------------------------------------------------------- */

#define PARAMETER(name) sizeof #name > 1 ? #name : NULL
#define SAVES_OUTPUT 0
#define SAVES_INPUT 1
#define INFO(name, saved, a, b) {#name, PARAMETER(a), PARAMETER(b), SAVES_##saved},
static const fgd_activation_info infos[FGD_ACTIVATION_COUNT] = {FGD_ACTIVATIONS(INFO)};

int fgd_activation_count(void) { return FGD_ACTIVATION_COUNT; }

const fgd_activation_info *fgd_activation_at(int kind) {
    return kind < 0 || kind >= FGD_ACTIVATION_COUNT ? NULL : &infos[kind];
}

int fgd_activation_find(const char *name) {
    for (int kind = 0; name && kind < FGD_ACTIVATION_COUNT; kind++)
        if (strcmp(infos[kind].name, name) == 0) return kind;
    return FGD_ERROR_ACTIVATION;
}

/* ---- Losses by name --------------------------------------------------------------------------------- */

#define LOSS_INFO(name, factor, a) {#name, PARAMETER(a)},
static const fgd_loss_info losses[FGD_LOSS_COUNT] = {FGD_LOSSES(LOSS_INFO)};

int fgd_loss_count(void) { return FGD_LOSS_COUNT; }

const fgd_loss_info *fgd_loss_at(int kind) {
    return kind < 0 || kind >= FGD_LOSS_COUNT ? NULL : &losses[kind];
}

int fgd_loss_find(const char *name) {
    for (int kind = 0; name && kind < FGD_LOSS_COUNT; kind++)
        if (strcmp(losses[kind].name, name) == 0) return kind;
    return FGD_ERROR_LOSS;
}

/* ---- Running in tiles ------------------------------------------------------------------------------- */

/* Work on [rows, cols] elements, cut into tiles of at most [tile_rows, tile_cols]. Which pointers are used is
 * the task's affair. */
typedef struct job {
    const fgd_layers *kernels;
    const fgd_activation *activation;
    const fgd_loss *loss;
    const fgd_labels *of;
    int64_t item, rows, cols, tile_rows, tile_cols;
    const char *bias, *y, *dy; /* y is also the activation's input, dy also the target */
    char *out, *input, *dbias;
    const int64_t *labels;
    double *partial, divisor, total_weight;
} job;

typedef struct tile {
    int64_t row, col, rows, cols, offset; /* offset of its first element, in bytes */
} tile;

static tile tile_at(const job *j, int64_t i) {
    const int64_t across = pieces(j->cols, j->tile_cols);
    tile t = {.row = i / across * j->tile_rows, .col = i % across * j->tile_cols};
    t.rows = at_most(j->rows - t.row, j->tile_rows);
    t.cols = at_most(j->cols - t.col, j->tile_cols);
    t.offset = (t.row * j->cols + t.col) * j->item;
    return t;
}

static void run(const job *j, void (*task)(const job *j, int64_t i)) {
    const int64_t n = pieces(j->rows, j->tile_rows) * pieces(j->cols, j->tile_cols);
    const int threads = n > 1 ? fgd_threads_for(j->rows * j->cols) : 1;
    if (threads == 1) {
        for (int64_t i = 0; i < n; i++) task(j, i);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < n; i++) task(j, i);
}

static void forward_task(const job *j, int64_t i) {
    const tile t = tile_at(j, i);
    const char *bias = j->bias ? j->bias + t.col * j->item : NULL;
    j->kernels->forward[j->activation->kind](j->activation, t.rows, t.cols, j->cols, bias, j->y + t.offset,
                                             j->input ? j->input + t.offset : NULL, j->out + t.offset);
}

static void backward_task(const job *j, int64_t i) {
    const tile t = tile_at(j, i);
    char *dbias = j->dbias ? j->dbias + t.col * j->item : NULL;
    j->kernels->backward[j->activation->kind](j->activation, t.rows, t.cols, j->cols, j->y + t.offset,
                                              j->dy + t.offset, j->out + t.offset, dbias);
}

static void cross_entropy_task(const job *j, int64_t i) {
    const tile t = tile_at(j, i);
    j->kernels->cross_entropy(j->of, j->divisor, j->total_weight, t.rows, t.cols, j->y + t.offset,
                              j->labels + t.row, j->out ? j->out + t.offset : NULL, j->partial + t.row);
}

static void loss_task(const job *j, int64_t i) {
    const tile t = tile_at(j, i);
    j->partial[i] = j->kernels->loss[j->loss->kind](j->loss, t.cols, j->divisor, j->y + t.offset,
                                                    j->dy + t.offset, j->out ? j->out + t.offset : NULL);
}

/* ---- Checks ---------------------------------------------------------------------------------------- */

static int check_dtype(int dtype) { return dtype == FGD_F32 || dtype == FGD_F64 ? FGD_OK : FGD_ERROR_DTYPE; }

static int check_activation(int dtype, const fgd_activation *activation) {
    if (check_dtype(dtype)) return FGD_ERROR_DTYPE;
    return activation && fgd_activation_at(activation->kind) ? FGD_OK : FGD_ERROR_ACTIVATION;
}

static int saves_input(const fgd_activation *activation) { return infos[activation->kind].saves_input; }

static int check_linear(int dtype, const fgd_activation *activation, int64_t batch, int64_t in, int64_t out) {
    int code = check_activation(dtype, activation);
    if (!code) code = check_matrix(batch, in);
    if (!code) code = check_matrix(batch, out);
    if (!code) code = check_matrix(out, in);
    return code ? code : fgd_gemm_ready(dtype, batch, out, in);
}

/* ---- Entries --------------------------------------------------------------------------------------- */

int fgd_activation_forward(int dtype, const fgd_activation *activation, int64_t n, const void *z, void *y) {
    int code = check_activation(dtype, activation);
    if (!code) code = check_matrix(1, n);
    if (code) return code;
    if (n && (!z || !y)) return FGD_ERROR_NULL;
    const job j = {.kernels = fgd_layers_for(dtype), .activation = activation, .item = fgd_item_size(dtype),
                   .rows = 1, .cols = n, .tile_rows = 1, .tile_cols = FGD_CHUNK, .y = z, .out = y};
    run(&j, forward_task);
    return FGD_OK;
}

int fgd_activation_backward(int dtype, const fgd_activation *activation, int64_t n, const void *saved,
                            const void *dy, void *dz) {
    int code = check_activation(dtype, activation);
    if (!code) code = check_matrix(1, n);
    if (code) return code;
    if (n && (!saved || !dy || !dz)) return FGD_ERROR_NULL;
    const job j = {.kernels = fgd_layers_for(dtype), .activation = activation, .item = fgd_item_size(dtype),
                   .rows = 1, .cols = n, .tile_rows = 1, .tile_cols = FGD_CHUNK, .y = saved, .dy = dy,
                   .out = dz};
    run(&j, backward_task);
    return FGD_OK;
}

int fgd_add_forward(int dtype, const fgd_activation *activation, int64_t n, const void *a, const void *b,
                    void *z, void *y) {
    int code = check_activation(dtype, activation);
    if (!code) code = check_matrix(1, n);
    if (code) return code;
    if (n && (!a || !b || !y || (saves_input(activation) && !z))) return FGD_ERROR_NULL;
    const job j = {.kernels = fgd_layers_for(dtype), .activation = activation, .item = fgd_item_size(dtype),
                   .rows = 1, .cols = n, .tile_rows = 1, .tile_cols = FGD_CHUNK, .bias = b, .y = a,
                   .input = saves_input(activation) ? z : NULL, .out = y};
    run(&j, forward_task);
    return FGD_OK;
}

int fgd_linear_forward(int dtype, const fgd_activation *activation, int64_t batch, int64_t in, int64_t out,
                       const void *x, const void *weight, const void *bias, void *z, void *y) {
    int code = check_linear(dtype, activation, batch, in, out);
    if (code) return code;
    if (batch == 0 || out == 0) return FGD_OK;
    void *product = saves_input(activation) ? z : y;
    if (!y || !product || (in && (!x || !weight))) return FGD_ERROR_NULL;
    code = fgd_gemm(dtype, 'N', 'T', batch, out, in, x, in, weight, in, 0, product, out);
    if (code || (!bias && activation->kind == FGD_ACTIVATION_identity)) return code;
    job j = {.kernels = fgd_layers_for(dtype), .activation = activation, .item = fgd_item_size(dtype),
             .rows = batch, .cols = out, .tile_rows = rows_of_chunk(out), .tile_cols = FGD_CHUNK,
             .bias = bias, .y = product, .input = product == y ? NULL : product, .out = y};
    run(&j, forward_task);
    return FGD_OK;
}

int fgd_linear_backward(int dtype, const fgd_activation *activation, int64_t batch, int64_t in, int64_t out,
                        const void *x, const void *weight, const void *saved, void *dy, void *dx,
                        void *dweight, void *dbias) {
    int code = check_linear(dtype, activation, batch, in, out);
    if (code) return code;
    const int has_output = batch && out, has_weight = in && out;
    const int is_identity = activation->kind == FGD_ACTIVATION_identity;
    if (has_output && (!dy || (!saved && !is_identity))) return FGD_ERROR_NULL;
    if (has_weight && (!dweight || (dx && !weight) || (batch && !x))) return FGD_ERROR_NULL;
    if (dbias || !is_identity) {
        job j = {.kernels = fgd_layers_for(dtype), .activation = activation, .item = fgd_item_size(dtype),
                 .rows = batch, .cols = out, .y = saved ? saved : dy, .dy = dy, .out = dy, .dbias = dbias};
        /* A column's sum is one thread's, from the first row to the last. */
        j.tile_rows = dbias ? (batch ? batch : 1) : rows_of_chunk(out);
        j.tile_cols = dbias ? FGD_COLUMNS : FGD_CHUNK;
        if (dbias && batch == 0) memset(dbias, 0, (size_t)(out * j.item));
        run(&j, backward_task);
    }
    code = fgd_gemm(dtype, 'T', 'N', out, in, batch, dy, out, x, in, 0, dweight, in);
    if (!code && dx) code = fgd_gemm(dtype, 'N', 'N', batch, in, out, dy, out, weight, in, 0, dx, in);
    return code;
}

int fgd_labels_check(int dtype, const fgd_labels *of, int64_t batch, int64_t classes, const int64_t *labels) {
    int code = check_dtype(dtype);
    if (!code) code = check_matrix(batch, classes);
    if (code) return code;
    if (!of || (batch && !labels)) return FGD_ERROR_NULL;
    for (int64_t row = 0; row < batch; row++)
        if (labels[row] != of->ignored && (labels[row] < 0 || labels[row] >= classes)) return FGD_ERROR_LABEL;
    return FGD_OK;
}

int fgd_softmax_cross_entropy(int dtype, const fgd_labels *of, int64_t batch, int64_t classes,
                              const void *logits, const int64_t *labels, void *grad, double *row_loss,
                              double *loss) {
    int code = check_dtype(dtype);
    double total = 0;
    if (!code) code = check_matrix(batch, classes);
    if (code) return code;
    if (!loss || !of || (batch && (!labels || !row_loss || (classes && !logits)))) return FGD_ERROR_NULL;
    if (!(of->label_smoothing >= 0 && of->label_smoothing <= 1)) return FGD_ERROR_OPTION;
    code = fgd_labels_check(dtype, of, batch, classes, labels);
    if (code) return code;
    job j = {.kernels = fgd_layers_for(dtype), .of = of, .item = fgd_item_size(dtype), .rows = batch,
             .cols = classes, .tile_rows = rows_of_chunk(classes), .tile_cols = classes ? classes : 1,
             .divisor = of->divisor, .y = logits, .out = grad, .labels = labels, .partial = row_loss};
    j.total_weight = j.kernels->sum_of_weights(classes, of->weights, NULL, 0);
    if (j.divisor == 0) j.divisor = j.kernels->sum_of_weights(batch, of->weights, labels, of->ignored);
    run(&j, cross_entropy_task);
    for (int64_t row = 0; row < batch; row++) total += row_loss[row];
    *loss = total / j.divisor;
    return FGD_OK;
}

int64_t fgd_loss_scratch(int64_t n) { return n > 0 ? pieces(n, FGD_CHUNK) : 0; }

int fgd_loss_and_grad(int dtype, const fgd_loss *of, int64_t n, const void *prediction, const void *target,
                      void *grad, double *scratch, double *loss) {
    int code = check_dtype(dtype);
    double total = 0;
    if (!code) code = check_matrix(1, n);
    if (code) return code;
    if (!of || !fgd_loss_at(of->kind)) return FGD_ERROR_LOSS;
    if (!loss || (n && (!prediction || !target || !scratch))) return FGD_ERROR_NULL;
    const job j = {.kernels = fgd_layers_for(dtype), .loss = of, .item = fgd_item_size(dtype), .rows = 1,
                   .cols = n, .tile_rows = 1, .tile_cols = FGD_CHUNK, .y = prediction, .dy = target,
                   .out = grad, .partial = scratch, .divisor = of->divisor};
    run(&j, loss_task);
    for (int64_t i = 0; i < fgd_loss_scratch(n); i++) total += scratch[i];
    *loss = total / of->divisor;
    return FGD_OK;
}
