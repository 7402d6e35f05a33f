/* Every entry that an operation of a program can call, forward and backward, with sizes around the lanes. The
 * compilers used here evaluate lists from left to right, which the random numbers follow. */
#include <math.h>

#include "check.h"
#include "trial.h"

static int64_t any_rows(trial *t) { return t->number % 8 == 7 && !t->is_large ? 0 : any_size(t); }

/* Whatever one trial in two has not. */
static void *or_none(trial *t, void *pointer) { return below(t, 2) ? pointer : NULL; }

static int saves_input(const fgd_activation *a) { return fgd_activation_at(a->kind)->saves_input; }

static const fgd_activation *any_activation(trial *t) {
    t->activation = (fgd_activation){.kind = (int32_t)below(t, fgd_activation_count()), .a = 0.5, .b = 2};
    return &t->activation;
}

static const fgd_activation no_activation = {.kind = -1};

static void build_add(trial *t) {
    const fgd_activation *a = any_activation(t);
    const int64_t n = t->is_large ? 70001 : any_rows(t);
    void *x = reals(t, CHANGED, n), *y = below(t, 2) ? x : reals(t, RESULT, n), *dz = reals(t, RESULT, n);
    void *z = saves_input(a) ? reals(t, RESULT, n) : NULL, *saved = z ? z : y;
    emit(t, "add_forward", z ? "!!!!" : "!!.!", a, sizeof *a, SIZES_ARE(n),
         POINTERS_ARE(x, reals(t, GIVEN, n), z, y));
    refuses(t, FGD_ERROR_ACTIVATION, OF(no_activation));
    emit(t, "activation_backward", "!!!", a, sizeof *a, SIZES_ARE(n),
         POINTERS_ARE(saved, reals(t, GIVEN, n), dz));
    emit(t, "activation_forward", "!!", a, sizeof *a, SIZES_ARE(n), POINTERS_ARE(dz, dz));
}

static void build_linear(trial *t) {
    const fgd_activation *a = any_activation(t);
    const int64_t batch = t->is_large ? 600 : any_rows(t), in = any_size(t);
    const int64_t out = t->is_large ? 130 : any_size(t);
    void *x = reals(t, GIVEN, batch * in), *weight = reals(t, GIVEN, out * in);
    void *y = reals(t, RESULT, batch * out), *z = saves_input(a) ? reals(t, RESULT, batch * out) : NULL;
    emit(t, "linear_forward", z ? "!!.!!" : "!!..!", a, sizeof *a, SIZES_ARE(batch, in, out),
         POINTERS_ARE(x, weight, or_none(t, reals(t, GIVEN, out)), z, y));
    refuses(t, FGD_ERROR_ACTIVATION, OF(no_activation));
    void *dx = below(t, 2) ? reals(t, RESULT, batch * in) : NULL;
    void *dbias = below(t, 2) ? reals(t, RESULT, out) : NULL;
    emit(t, "linear_backward", dx ? "!!.!.!." : "!..!.!.", a, sizeof *a, SIZES_ARE(batch, in, out),
         POINTERS_ARE(x, weight, z ? z : y, reals(t, CHANGED, batch * out), dx,
                      reals(t, RESULT, out * in), dbias));
}

static void build_layer_norm(trial *t) {
    const fgd_layer_norm of = {(int32_t)below(t, 2), 1e-5}, bad = {1, NAN};
    const int64_t rows = t->is_large ? 700 : any_rows(t), cols = t->is_large ? 101 : any_size(t);
    const int64_t n = rows * cols;
    void *x = reals(t, GIVEN, n), *weight = or_none(t, reals(t, GIVEN, cols));
    void *bias = weight ? or_none(t, reals(t, GIVEN, cols)) : NULL, *dy = reals(t, CHANGED, n);
    double *stats = doubles(t, RESULT, 2 * rows);
    emit(t, "layer_norm_forward", bias ? "!!.!!" : "!..!!", OF(of), SIZES_ARE(rows, cols),
         POINTERS_ARE(x, weight, bias, stats, reals(t, RESULT, n)));
    refuses(t, FGD_ERROR_OPTION, OF(bad));
    double *scratch = doubles(t, SCRATCH, fgd_layer_norm_scratch(rows, cols));
    void *dweight = below(t, 2) ? reals(t, RESULT, cols) : NULL, *dx = below(t, 2) ? dy : NULL;
    emit(t, "layer_norm_backward", dweight ? "!.!!...!" : "!.!!....", OF(of), SIZES_ARE(rows, cols),
         POINTERS_ARE(x, weight, stats, dy, dx, dweight, dweight ? reals(t, RESULT, cols) : NULL, scratch));
}

static void build_softmax(trial *t) {
    const fgd_softmax of = {(int32_t)below(t, 2)};
    const int64_t rows = t->is_large ? 700 : any_rows(t), cols = t->is_large ? 101 : any_size(t);
    const int64_t n = rows * cols;
    void *x = reals(t, CHANGED, n), *y = below(t, 2) ? x : reals(t, RESULT, n), *dy = reals(t, CHANGED, n);
    emit(t, "softmax_forward", "!!", OF(of), SIZES_ARE(rows, cols), POINTERS_ARE(x, y));
    emit(t, "softmax_backward", "!!!", OF(of), SIZES_ARE(rows, cols),
         POINTERS_ARE(y, dy, below(t, 2) ? dy : reals(t, RESULT, n)));
}

static void build_embedding(trial *t) {
    const int64_t n = t->is_large ? 500 : any_rows(t), rows = any_size(t);
    const int64_t dim = t->is_large ? 140 : any_size(t);
    const fgd_embedding of = {below(t, rows + 1) - 1};
    int64_t *indices = integers(t, GIVEN, n, 0, rows - 1);
    emit(t, "embedding_forward", "!!!", OF(of), SIZES_ARE(n, rows, dim),
         POINTERS_ARE(indices, reals(t, GIVEN, rows * dim), reals(t, RESULT, n * dim)));
    if (n) refuses_number(t, FGD_ERROR_LABEL, indices, rows);
    emit(t, "embedding_backward", "!!!", OF(of), SIZES_ARE(n, rows, dim),
         POINTERS_ARE(indices, reals(t, GIVEN, n * dim), reals(t, RESULT, rows * dim)));
    if (n) refuses_number(t, FGD_ERROR_LABEL, indices, -1);
}

static void build_dropout(trial *t) {
    const fgd_dropout of = {(double)below(t, 5) / 4, (uint64_t)below(t, 9)}, bad = {1.5, 0};
    const int64_t n = t->is_large ? 70001 : any_rows(t);
    void *x = reals(t, CHANGED, n), *dy = reals(t, CHANGED, n), *stream = integers(t, GIVEN, 1, 0, 1 << 30);
    void *counter = integers(t, CHANGED, 1, 0, 1 << 30);
    emit(t, "dropout_forward", "!!!!", OF(of), SIZES_ARE(n),
         POINTERS_ARE(x, stream, counter, below(t, 2) ? x : reals(t, RESULT, n)));
    refuses(t, FGD_ERROR_OPTION, OF(bad));
    emit(t, "dropout_backward", "!!!!", OF(of), SIZES_ARE(n),
         POINTERS_ARE(dy, stream, counter, below(t, 2) ? dy : reals(t, RESULT, n)));
    refuses(t, FGD_ERROR_OPTION, OF(bad));
}

/* Of one channel's running statistics the variance must not be negative. */
static void build_batch_norm(trial *t) {
    const int64_t batch = t->is_large ? 40 : 1 + any_size(t), channels = any_size(t);
    const int64_t length = t->is_large ? 130 : any_size(t), n = batch * channels * length;
    const fgd_batch_norm of = {0, 1e-5, below(t, 2) ? 0.1 : -1}, running = {1, 1e-5, 0}, bad = {0, -1, 0};
    void *x = reals(t, GIVEN, n), *weight = or_none(t, reals(t, GIVEN, channels));
    void *bias = weight ? or_none(t, reals(t, GIVEN, channels)) : NULL, *dy = reals(t, CHANGED, n);
    void *mean = reals(t, CHANGED, channels), *var = reals(t, CHANGED, channels);
    void *squares = reals(t, RESULT, channels), *count = integers(t, CHANGED, 1, 0, 9);
    double *stats = doubles(t, RESULT, 2 * channels), *fixed = doubles(t, RESULT, 2 * channels);
    emit(t, "batch_norm_forward", "!..!!!!!", OF(of), SIZES_ARE(batch, channels, length),
         POINTERS_ARE(x, weight, bias, mean, var, count, stats, reals(t, RESULT, n)));
    refuses(t, FGD_ERROR_OPTION, OF(bad));
    emit(t, "batch_norm_backward", "!.!!...", OF(of), SIZES_ARE(batch, channels, length),
         POINTERS_ARE(x, weight, stats, dy, below(t, 2) ? dy : reals(t, RESULT, n),
                      below(t, 2) ? reals(t, RESULT, channels) : NULL,
                      below(t, 2) ? reals(t, RESULT, channels) : NULL));
    const fgd_activation sigmoid = {.kind = fgd_activation_find("sigmoid")};
    emit(t, "activation_forward", "!!", OF(sigmoid), SIZES_ARE(channels), POINTERS_ARE(var, squares));
    emit(t, "batch_norm_forward", "!..!!.!!", OF(running), SIZES_ARE(batch, channels, length),
         POINTERS_ARE(x, weight, bias, mean, squares, NULL, fixed, reals(t, RESULT, n)));
}

/* One number has no unbiased variance. */
static void check_one_number(void) {
    const fgd_batch_norm of = {0, 1e-5, 0.1};
    const double x = 1;
    double mean = 2, var = 3, stats[2] = {4, 5}, y = 6;
    int64_t count = 7;
    const int code = fgd_batch_norm_forward(FGD_F64, &of, 1, 1, 1, &x, NULL, NULL, &mean, &var, &count, stats,
                                            &y);
    CHECK(code == FGD_ERROR_SIZE, "%s", fgd_error_text(code));
    CHECK(mean == 2 && var == 3 && stats[0] == 4 && stats[1] == 5 && y == 6 && count == 7, "%g", y);
}

static int64_t outputs(int64_t size, int64_t padding, int64_t reach, int64_t stride) {
    return (size + padding - reach) / stride + 1;
}

static void build_conv(trial *t) {
    const int64_t groups = 1 + below(t, 3), in = groups * (1 + below(t, 4)), batch = any_rows(t);
    const int64_t out = groups * (below(t, 3) ? 1 + below(t, 3) : 17);
    int64_t size[2], kernel[2], result[2];
    fgd_conv of = {.groups = groups, .activation = any_activation(t)};
    const int is_pointwise = below(t, 4) == 0;
    for (int axis = 0; axis < 2; axis++) {
        kernel[axis] = is_pointwise ? 1 : 1 + below(t, 3);
        of.stride[axis] = is_pointwise ? 1 : 1 + below(t, 3);
        of.dilation[axis] = 1 + below(t, 2);
        for (int side = 0; side < 2 && !is_pointwise; side++) of.padding[axis][side] = below(t, 3);
        const int64_t reach = of.dilation[axis] * (kernel[axis] - 1) + 1;
        size[axis] = reach + below(t, t->is_large ? 30 : 12);
        result[axis] = outputs(size[axis], of.padding[axis][0] + of.padding[axis][1], reach, of.stride[axis]);
    }
    const int64_t n = batch * out * result[0] * result[1], m = batch * in * size[0] * size[1];
    const int64_t weights = out * in / groups * kernel[0] * kernel[1];
    const int64_t sizes[] = {batch, in, out, size[0], size[1], kernel[0], kernel[1]};
    fgd_conv bad = of;
    bad.groups = in + 1;
    double *scratch[2];
    for (int way = 0; way < 2; way++)
        scratch[way] = doubles(t, SCRATCH, fgd_conv_scratch(t->dtype, &of, batch, in, out, size[0], size[1],
                                                            kernel[0], kernel[1], way));
    void *x = reals(t, GIVEN, m), *weight = reals(t, GIVEN, weights), *y = reals(t, RESULT, n);
    void *z = saves_input(of.activation) ? reals(t, RESULT, n) : NULL;
    emit(t, "conv_forward", z ? "!!.!!." : "!!..!.", OF(of), sizes,
         POINTERS_ARE(x, weight, or_none(t, reals(t, GIVEN, out)), z, y, scratch[0]));
    refuses(t, FGD_ERROR_OPTION, OF(bad));
    void *dx = below(t, 2) ? reals(t, RESULT, m) : NULL, *dbias = below(t, 2) ? reals(t, RESULT, out) : NULL;
    emit(t, "conv_backward", dx ? "!!.!.!.!" : "!..!.!.!", OF(of), sizes,
         POINTERS_ARE(x, weight, z ? z : y, reals(t, CHANGED, n), dx, reals(t, RESULT, weights), dbias,
                      scratch[1]));
    refuses(t, FGD_ERROR_OPTION, OF(bad));
}

static void build_pool(trial *t) {
    const int64_t planes = t->is_large ? 150 : any_rows(t);
    int64_t size[2], result[2];
    fgd_pool of = {.count_include_pad = (int32_t)below(t, 2)};
    for (int axis = 0; axis < 2; axis++) {
        of.kernel[axis] = 1 + below(t, 4);
        of.stride[axis] = 1 + below(t, 4);
        of.padding[axis] = below(t, of.kernel[axis]);
        size[axis] = any_size(t);
        /* the last window that begins inside, or one less */
        result[axis] = (size[axis] - 1 + of.padding[axis]) / of.stride[axis] + 1;
        if (result[axis] > 1) result[axis] -= below(t, 2);
    }
    const int64_t sizes[] = {planes, size[0], size[1], result[0], result[1]};
    const int64_t m = planes * size[0] * size[1], n = planes * result[0] * result[1];
    fgd_pool bad = of;
    bad.padding[0] = of.kernel[0];
    void *x = reals(t, GIVEN, m), *dy = reals(t, GIVEN, n), *index = places(t, n);
    emit(t, "max_pool_forward", "!.!", OF(of), sizes, POINTERS_ARE(x, index, reals(t, RESULT, n)));
    refuses(t, FGD_ERROR_OPTION, OF(bad));
    emit(t, "max_pool_forward", "!.!", OF(of), sizes, POINTERS_ARE(x, NULL, reals(t, RESULT, n)));
    emit(t, "max_pool_backward", "!!!", OF(of), sizes, POINTERS_ARE(index, dy, reals(t, RESULT, m)));
    emit(t, "average_pool_forward", "!!", OF(of), sizes, POINTERS_ARE(x, reals(t, RESULT, n)));
    refuses(t, FGD_ERROR_OPTION, OF(bad));
    emit(t, "average_pool_backward", "!!", OF(of), sizes, POINTERS_ARE(dy, reals(t, RESULT, m)));
}

static void build_recurrent(trial *t) {
    const int64_t batch = t->is_large ? 70 : any_size(t), time = 1 + below(t, 6), in = any_size(t);
    const int64_t hidden = t->is_large ? 33 : any_size(t), n = batch * hidden;
    const int32_t directions = 1 + (int32_t)below(t, 2);
    fgd_recurrent of = {t->number % fgd_cell_count(), 0, directions, (int32_t)below(t, 2), 0}, bad = of;
    const int64_t gates = fgd_cell_at(of.cell)->gates * hidden, sizes[] = {batch, time, in, hidden};
    const int64_t of_y = batch * (of.last ? 1 : time) * directions * hidden;
    int64_t *lengths = t->number % 3 == 1 ? NULL : integers(t, GIVEN, batch, 1, time);
    void *x = reals(t, GIVEN, batch * time * in), *y = reals(t, RESULT, of_y), *dy = reals(t, GIVEN, of_y);
    void *dx = reals(t, RESULT, batch * time * in);
    bad.directions = 3;
    /* all directions forward and then backward, the second adding to dx */
    void *saved[2], *scratch[2], *ih[2], *hh[2];
    for (of.reverse = 0; of.reverse < directions; of.reverse++) {
        const int d = of.reverse;
        saved[d] = reals(t, SCRATCH, fgd_recurrent_saved(&of, batch, time, in, hidden));
        scratch[d] = doubles(t, SCRATCH, fgd_recurrent_scratch(t->dtype, &of, batch, time, hidden));
        ih[d] = reals(t, GIVEN, gates * in), hh[d] = reals(t, GIVEN, gates * hidden);
        void *bias = or_none(t, reals(t, GIVEN, gates));
        void *cn = fgd_cell_at(of.cell)->has_cell ? reals(t, RESULT, n) : NULL;
        emit(t, "recurrent_forward", bias ? "!.!!!!..!..!!" : "!.!!....!..!!", OF(of), sizes,
             POINTERS_ARE(x, lengths, ih[d], hh[d], bias, bias, or_none(t, reals(t, GIVEN, n)), NULL, y,
                          reals(t, RESULT, n), cn, saved[d], scratch[d]));
        refuses(t, FGD_ERROR_OPTION, OF(bad));
        if (lengths) refuses_number(t, FGD_ERROR_SIZE, lengths, time + 1);
    }
    for (of.reverse = 0; of.reverse < directions; of.reverse++) {
        const int d = of.reverse;
        of.add_dx = d;
        void *dbias = below(t, 2) ? reals(t, RESULT, gates) : NULL;
        emit(t, "recurrent_backward", dbias ? ".!!!.!!!!!!" : ".!!!.!!..!!", OF(of), sizes,
             POINTERS_ARE(lengths, ih[d], hh[d], dy, dx, reals(t, RESULT, gates * in),
                          reals(t, RESULT, gates * hidden), dbias, dbias ? reals(t, RESULT, gates) : NULL,
                          saved[d], scratch[d]));
        refuses(t, FGD_ERROR_OPTION, OF(bad));
    }
}

static void build_attention(trial *t) {
    const fgd_attention of = {1 + below(t, 3), (int32_t)below(t, 2)}, bad = {0, 0};
    const int64_t batch = any_rows(t), time = t->is_large ? 130 : any_size(t);
    const int64_t dim = of.heads * (t->is_large ? 8 : any_size(t)), n = batch * time * dim;
    int64_t *lengths = t->number % 3 == 1 ? NULL : integers(t, GIVEN, batch, 1, time);
    void *qkv = reals(t, GIVEN, 3 * n);
    double *scratch[2];
    for (int way = 0; way < 2; way++)
        scratch[way] = doubles(t, SCRATCH, fgd_attention_scratch(t->dtype, &of, batch, time, dim, way));
    emit(t, "attention_forward", "!.!!", OF(of), SIZES_ARE(batch, time, dim),
         POINTERS_ARE(qkv, lengths, reals(t, RESULT, n), scratch[0]));
    refuses(t, FGD_ERROR_OPTION, OF(bad));
    if (lengths && batch) refuses_number(t, FGD_ERROR_SIZE, lengths, 0);
    emit(t, "attention_backward", "!.!!!", OF(of), SIZES_ARE(batch, time, dim),
         POINTERS_ARE(qkv, lengths, reals(t, GIVEN, n), reals(t, RESULT, 3 * n), scratch[1]));
    refuses(t, FGD_ERROR_OPTION, OF(bad));
    if (lengths && batch) refuses_number(t, FGD_ERROR_SIZE, lengths, time + 1);
}

static void build_steps(trial *t) {
    const int64_t batch = t->is_large ? 60 : any_rows(t), time = any_size(t);
    const int64_t dim = t->is_large ? 1300 : any_size(t), n = batch * time * dim;
    const fgd_positions of = {time + below(t, 3)}, bad = {time - 1};
    void *x = reals(t, CHANGED, n), *y = below(t, 2) ? x : reals(t, RESULT, n);
    int64_t *lengths = integers(t, GIVEN, batch, 1, time);
    emit(t, "positions_forward", "!!!", OF(of), SIZES_ARE(batch, time, dim),
         POINTERS_ARE(x, reals(t, GIVEN, of.max_time * dim), y));
    refuses(t, FGD_ERROR_SIZE, OF(bad));
    emit(t, "cut", "!!", NULL, 0, SIZES_ARE(batch, time, dim), POINTERS_ARE(lengths, y));
    if (batch) refuses_number(t, FGD_ERROR_SIZE, lengths, 0);
    emit(t, "positions_backward", "!!", OF(of), SIZES_ARE(batch, time, dim),
         POINTERS_ARE(y, reals(t, RESULT, of.max_time * dim)));
    refuses(t, FGD_ERROR_SIZE, OF(bad));
}

static void build_losses(trial *t) {
    const int64_t batch = t->is_large ? 700 : any_rows(t), classes = t->is_large ? 101 : any_size(t);
    const int64_t n = batch * classes;
    const fgd_labels of = {NULL, (double)below(t, 3) / 4, 2, below(t, classes + 1) - 1};
    const fgd_labels bad = {NULL, 2, 2, -1};
    const fgd_loss loss = {(int32_t)below(t, fgd_loss_count()), 0.5, 3}, no_loss = {-1, 0, 1};
    void *x = reals(t, GIVEN, n), *logits = reals(t, CHANGED, n);
    int64_t *labels = integers(t, GIVEN, batch, 0, classes - 1);
    emit(t, "labels_check", "!", OF(of), SIZES_ARE(batch, classes), POINTERS_ARE(labels));
    if (batch) refuses_number(t, FGD_ERROR_LABEL, labels, classes);
    emit(t, "loss_and_grad", "!!.!!", OF(loss), SIZES_ARE(n),
         POINTERS_ARE(x, logits, or_none(t, reals(t, CHANGED, n)), doubles(t, SCRATCH, fgd_loss_scratch(n)),
                      doubles(t, RESULT, 1)));
    refuses(t, FGD_ERROR_LOSS, OF(no_loss));
    emit(t, "softmax_cross_entropy", "!!.!!", OF(of), SIZES_ARE(batch, classes),
         POINTERS_ARE(logits, labels, or_none(t, logits), doubles(t, RESULT, batch), doubles(t, RESULT, 1)));
    refuses(t, FGD_ERROR_OPTION, OF(bad));
}

void test_layers(void) {
    every_trial("add", build_add, 80);
    every_trial("linear", build_linear, 60);
    every_trial("layer norm", build_layer_norm, 60);
    every_trial("softmax", build_softmax, 60);
    every_trial("embedding", build_embedding, 60);
    every_trial("dropout", build_dropout, 60);
    every_trial("batch norm", build_batch_norm, 60);
    check_one_number();
    every_trial("convolution", build_conv, 120);
    every_trial("pooling", build_pool, 80);
    every_trial("recurrent", build_recurrent, 80);
    every_trial("attention", build_attention, 80);
    every_trial("steps", build_steps, 60);
    every_trial("losses", build_losses, 60);
}
