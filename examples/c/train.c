/* Trains a network of two layers on a CSV file with libfastgd: a header, IN numbers and a class a line. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "fastgd.h"

enum { IN = 4, HIDDEN = 16, CLASSES = 3, ROWS = 10000, STEPS = 200, OPS = 5, PARAMS = 4 };

static float x[ROWS * IN], hidden[ROWS * HIDDEN], dhidden[ROWS * HIDDEN], logits[ROWS * CLASSES];
static float dlogits[ROWS * CLASSES];
static int64_t labels[ROWS], steps[PARAMS];
static double row_loss[ROWS], loss;

/* weight1, bias1, weight2, bias2, and for each its gradient and its momentum */
static const int64_t sizes[PARAMS] = {HIDDEN * IN, HIDDEN, CLASSES * HIDDEN, CLASSES};
static float params[PARAMS][HIDDEN * IN], grads[PARAMS][HIDDEN * IN], buffers[PARAMS][HIDDEN * IN];

static void require(int code) {
    if (code >= 0) return;
    fprintf(stderr, "%s\n", fgd_error_text(code));
    exit(1);
}

/* The matrix product is the program's own: plain here, and sgemm_ of a BLAS where time matters. */
static int product(char transa, char transb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                   int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
    for (int64_t row = 0; row < m; row++)
        for (int64_t col = 0; col < n; col++) {
            float sum = 0;
            for (int64_t i = 0; i < k; i++)
                sum += (transa == 'T' ? a[i * lda + row] : a[row * lda + i]) *
                       (transb == 'T' ? b[col * ldb + i] : b[i * ldb + col]);
            c[row * ldc + col] = alpha * sum + (beta == 0 ? 0 : beta * c[row * ldc + col]);
        }
    return 0;
}

/* Reads the file, and brings each column to mean 0 and variance 1. Returns the number of rows. */
static int read_csv(const char *path) {
    FILE *file = fopen(path, "r");
    int rows = 0;
    if (!file || fscanf(file, "%*[^\n]") == EOF) return 0;
    for (; rows < ROWS; rows++) {
        float *row = x + rows * IN;
        long label;
        if (fscanf(file, "%f,%f,%f,%f,%ld", row, row + 1, row + 2, row + 3, &label) != 5) break;
        labels[rows] = label;
    }
    fclose(file);
    for (int col = 0; col < IN; col++) {
        double sum = 0, squares = 0;
        for (int row = 0; row < rows; row++) sum += x[row * IN + col];
        for (int row = 0; row < rows; row++) squares += pow(x[row * IN + col] - sum / rows, 2);
        for (int row = 0; row < rows; row++)
            x[row * IN + col] = (float)((x[row * IN + col] - sum / rows) / sqrt(squares / rows));
    }
    return rows;
}

static int correct(int rows) {
    int count = 0;
    for (int row = 0; row < rows; row++) {
        int best = 0;
        for (int c = 1; c < CLASSES; c++)
            if (logits[row * CLASSES + c] > logits[row * CLASSES + best]) best = c;
        count += best == labels[row];
    }
    return count;
}

int main(int argc, char **argv) {
    const int rows = argc > 1 ? read_csv(argv[1]) : 0;
    if (!rows) return fprintf(stderr, "usage: train FILE.csv\n"), 1;
    require(fgd_set_gemm(FGD_F32, FGD_GEMM_ROW_MAJOR, (fgd_function)product));

    srand(1); /* the weights begin uniform within 1 / sqrt(inputs), the biases at 0 */
    for (int k = 0; k < PARAMS; k += 2)
        for (int64_t i = 0; i < sizes[k]; i++)
            params[k][i] = (float)((2.0 * rand() / RAND_MAX - 1) / sqrt(k ? HIDDEN : IN));

    /* the passes of a step, as data: each has the sizes and pointers of its function in fastgd_layers.h */
    const fgd_activation tanh_of = {fgd_activation_find("tanh"), 0, 0};
    const fgd_activation identity = {fgd_activation_find("identity"), 0, 0};
    const fgd_labels mean = {.divisor = rows, .ignored = -1};
    const int forward = fgd_op_find("linear_forward"), backward = fgd_op_find("linear_backward");
    const fgd_op ops[OPS] = {
        {.entry = forward, .of = &tanh_of, .sizes = {rows, IN, HIDDEN},
         .pointers = {x, params[0], params[1], NULL, hidden}},
        {.entry = forward, .of = &identity, .sizes = {rows, HIDDEN, CLASSES},
         .pointers = {hidden, params[2], params[3], NULL, logits}},
        {.entry = fgd_op_find("softmax_cross_entropy"), .of = &mean, .sizes = {rows, CLASSES},
         .pointers = {logits, labels, dlogits, row_loss, &loss}},
        {.entry = backward, .of = &identity, .sizes = {rows, HIDDEN, CLASSES},
         .pointers = {hidden, params[2], NULL, dlogits, dhidden, grads[2], grads[3]}},
        {.entry = backward, .of = &tanh_of, .sizes = {rows, IN, HIDDEN},
         .pointers = {x, params[0], hidden, dhidden, NULL, grads[0], grads[1]}},
    };

    fgd_tensor tensors[PARAMS] = {0};
    for (int k = 0; k < PARAMS; k++) {
        tensors[k].size = sizes[k];
        tensors[k].param = params[k], tensors[k].grad = grads[k], tensors[k].state[0] = buffers[k];
        tensors[k].step = &steps[k];
    }
    const int sgd = fgd_optimizer_find("sgd");
    double hyper[FGD_MAX_HYPERPARAMETERS];
    require(fgd_hyperparameter_defaults(sgd, hyper));
    require(fgd_hyperparameter_set(sgd, hyper, "lr", 0.1));
    require(fgd_hyperparameter_set(sgd, hyper, "momentum", 0.9));
    fgd_group group = {0};
    const fgd_options options = {.grad_scale = 1, .clip_value = INFINITY, .clip_norm = 1,
                                 .clip_unit = INFINITY, .total_norm = -1, .skip_nonfinite = 1};
    const int64_t size = fgd_workspace_size(tensors, PARAMS);
    void *workspace = malloc((size_t)size);
    for (int step = 0; step <= STEPS; step++) {
        int64_t failed;
        fgd_report report;
        require(fgd_fold(sgd, hyper, NULL, step + 1, NULL, &group));
        require(fgd_train(ops, OPS, &failed, &group, 1, tensors, PARAMS, &options, workspace, size, &report));
        if (step % 50 == 0)
            printf("step %d: loss %.4f, accuracy %.3f\n", step, loss, (double)correct(rows) / rows);
    }
    free(workspace);
    return 0;
}
