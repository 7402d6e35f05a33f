/* Multi-head self-attention, forward and backward: checks everything, then runs heads over threads.
 *
 * Vaswani et al. 2017, section 3.2: for each head  y = p v,  p = softmax(q k' / sqrt(width)),  with the
 * queries, keys and values of its columns. From dy:  dv = p' dy,  dp = dy v',  ds = p (dp - sum_j p_j dp_j),
 * dk = ds' q / sqrt(width),  dq = ds k / sqrt(width).  p is computed for a few queries at a time, and for the
 * gradients once more: memory grows with time, not with its square. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "dispatch.h"
#include "gemm.h"
#include "pieces.h"

/* Neither depends on the number of threads, so that results do not either. */
enum {
    ROWS = 64,      /* queries whose scores are computed together, and stay in a core's cache */
    MAX_PARTS = 32, /* the most threads of a call, each with scratch memory of its own */
};

typedef struct job {
    const fgd_attentions *kernels;
    const fgd_softmaxes *softmaxes;
    int dtype, causal;
    int64_t item, batch, time, dim, heads, width;
    double scale;
    const int64_t *lengths;
    const char *qkv, *dy;
    char *y, *dqkv, *scratch;
    int64_t part_bytes; /* of scratch memory */
    int *codes;         /* of each part */
} job;

/* One head of one row of the batch: where its columns begin. */
typedef struct head {
    int64_t length;
    const char *q, *k, *v, *dy;
    char *y, *dq, *dk, *dv;
} head;

/* Some queries of a head, the keys that they see, and scratch memory: scaled queries [rows, width],
 * probabilities and their gradients [rows, keys]. */
typedef struct block {
    int64_t first, rows, keys;
    char *q, *p, *dp;
} block;

static int check(int dtype, const fgd_attention *of, int64_t batch, int64_t time, int64_t dim) {
    if (dtype != FGD_F32 && dtype != FGD_F64) return FGD_ERROR_DTYPE;
    if (!of) return FGD_ERROR_NULL;
    if (batch < 0 || time < 0 || dim < 1 || batch > INT32_MAX || time > INT32_MAX || dim > INT32_MAX)
        return FGD_ERROR_SIZE;
    if ((double)batch * (double)time * (double)dim > (double)(INT64_MAX / 64)) return FGD_ERROR_SIZE;
    return of->heads < 1 || dim % of->heads ? FGD_ERROR_OPTION : FGD_OK;
}

static int check_call(int dtype, const fgd_attention *of, int64_t batch, int64_t time, int64_t dim,
                      const int64_t *lengths) {
    const int code = check(dtype, of, batch, time, dim);
    if (code) return code;
    for (int64_t b = 0; lengths && time && b < batch; b++)
        if (lengths[b] < 1 || lengths[b] > time) return FGD_ERROR_SIZE;
    return fgd_gemm_ready(dtype, time, time, 3 * dim);
}

/* ---- Blocks of queries ------------------------------------------------------------------------------ */

static int64_t aligned(int64_t bytes) { return pieces(bytes, 64) * 64; }

static int64_t bytes_of_part(int64_t item, int64_t time, int64_t width, int backward) {
    const int64_t rows = at_most(time, ROWS);
    return aligned(rows * width * item) + (backward ? 2 : 1) * aligned(rows * time * item);
}

static block block_at(const job *j, const head *h, int64_t first, char *scratch) {
    block b = {.first = first, .rows = at_most(h->length - first, ROWS), .q = scratch};
    const int64_t most = at_most(j->time, ROWS);
    b.keys = j->causal ? first + b.rows : h->length;
    b.p = b.q + aligned(most * j->width * j->item);
    b.dp = b.p + aligned(most * j->time * j->item);
    return b;
}

static const fgd_softmax plain = {.log = 0};

/* Keys that a row of the block does not see have a probability, and a gradient, of 0. */
static void softmax_rows(const job *j, const block *b, int backward) {
    char *to = backward ? b->dp : b->p;
    const int64_t rows = j->causal ? 1 : b->rows;
    for (int64_t row = 0; row < b->rows; row += rows) {
        const int64_t seen = j->causal ? b->first + row + 1 : b->keys, at = row * b->keys * j->item;
        if (backward) j->softmaxes->backward(&plain, rows, seen, b->p + at, to + at, to + at);
        else j->softmaxes->forward(&plain, rows, seen, to + at, to + at);
        if (seen < b->keys) memset(to + at + seen * j->item, 0, (size_t)((b->keys - seen) * j->item));
    }
}

/* Rows of qkv and of dqkv lie 3 dim elements apart, those of y and dy dim. */
static const char *row_of(const job *j, const char *rows, int64_t row, int64_t stride) {
    return rows + row * stride * j->dim * j->item;
}

/* p of the block from its scores. */
static int probabilities(const job *j, const head *h, const block *b) {
    const int64_t stride = 3 * j->dim;
    j->kernels->scale(b->rows, j->width, j->scale, row_of(j, h->q, b->first, 3), stride, b->q, j->width);
    const int code = fgd_gemm(j->dtype, 'N', 'T', b->rows, b->keys, j->width, b->q, j->width, h->k, stride, 0,
                              b->p, b->keys);
    if (!code) softmax_rows(j, b, 0);
    return code;
}

static int forward_head(const job *j, const head *h, char *scratch) {
    int code = FGD_OK;
    for (int64_t first = 0; first < h->length && !code; first += ROWS) {
        const block b = block_at(j, h, first, scratch);
        code = probabilities(j, h, &b);
        if (!code)
            code = fgd_gemm(j->dtype, 'N', 'N', b.rows, j->width, b.keys, b.p, b.keys, h->v, 3 * j->dim, 0,
                            (char *)row_of(j, h->y, first, 1), j->dim);
    }
    for (int64_t row = h->length; row < j->time; row++)
        memset((char *)row_of(j, h->y, row, 1), 0, (size_t)(j->width * j->item));
    return code;
}

/* Adds to dk and dv of the keys that the block sees, but for the first block of all, which sees every key. */
static int backward_block(const job *j, const head *h, const block *b, int accumulate) {
    const int64_t stride = 3 * j->dim, width = j->width, keys = b->keys;
    const char *dy = row_of(j, h->dy, b->first, 1);
    char *dq = (char *)row_of(j, h->dq, b->first, 3);
    int code = probabilities(j, h, b);
    if (!code)
        code = fgd_gemm(j->dtype, 'T', 'N', keys, width, b->rows, b->p, keys, dy, j->dim, accumulate, h->dv,
                        stride);
    if (!code)
        code = fgd_gemm(j->dtype, 'N', 'T', b->rows, keys, width, dy, j->dim, h->v, stride, 0, b->dp, keys);
    if (code) return code;
    softmax_rows(j, b, 1);
    code = fgd_gemm(j->dtype, 'T', 'N', keys, width, b->rows, b->dp, keys, b->q, width, accumulate, h->dk,
                    stride);
    if (!code)
        code = fgd_gemm(j->dtype, 'N', 'N', b->rows, width, keys, b->dp, keys, h->k, stride, 0, dq, stride);
    if (!code) j->kernels->scale(b->rows, width, j->scale, dq, stride, dq, stride);
    return code;
}

/* From the last block, which sees every key whether causal or not, to the first. */
static int backward_head(const job *j, const head *h, char *scratch) {
    const int64_t last = (h->length - 1) / ROWS * ROWS, bytes = j->width * j->item;
    char *const all[] = {h->dq, h->dk, h->dv};
    for (int64_t first = last; first >= 0; first -= ROWS) {
        const block b = block_at(j, h, first, scratch);
        const int code = backward_block(j, h, &b, first < last);
        if (code) return code;
    }
    for (int which = 0; which < 3; which++)
        for (int64_t row = h->length; row < j->time; row++)
            memset((char *)row_of(j, all[which], row, 3), 0, (size_t)bytes);
    return FGD_OK;
}

/* ---- Heads over threads ----------------------------------------------------------------------------- */

static head head_at(const job *j, int64_t i) {
    const int64_t row = i / j->heads, column = i % j->heads * j->width * j->item, of_k = j->dim * j->item;
    const int64_t at = row * j->time * j->dim * j->item;
    head h = {.length = j->lengths ? j->lengths[row] : j->time};
    h.q = j->qkv + 3 * at + column;
    h.k = h.q + of_k;
    h.v = h.k + of_k;
    if (j->y) h.y = j->y + at + column;
    if (!j->dqkv) return h;
    h.dy = j->dy + at + column;
    h.dq = j->dqkv + 3 * at + column;
    h.dk = h.dq + of_k;
    h.dv = h.dk + of_k;
    return h;
}

/* Every so-many-th head: where rows have lengths, the parts have about as much to do. */
static void run_part(const void *what, int part, int parts) {
    const job *j = what;
    char *scratch = j->scratch + part * j->part_bytes;
    for (int64_t i = part; i < j->batch * j->heads && !j->codes[part]; i += parts) {
        const head h = head_at(j, i);
        j->codes[part] = j->dqkv ? backward_head(j, &h, scratch) : forward_head(j, &h, scratch);
    }
}

/* With one part, each product has the threads. */
static int parts_of(const job *j) {
    const double scores = (double)j->batch * (double)j->heads * (double)j->time * (double)j->time;
    const double work = scores * (1 + (double)j->width / 32);
    const int threads = fgd_threads_for(work < 1e18 ? (int64_t)work : INT64_MAX);
    if (!fgd_gemm_nests(j->dtype)) return 1;
    return (int)at_most(at_most(threads, j->batch * j->heads), MAX_PARTS);
}

static int run(job *j, const fgd_attention *of, double *scratch) {
    int codes[MAX_PARTS] = {0};
    const int parts = parts_of(j);
    j->kernels = fgd_attentions_for(j->dtype);
    j->softmaxes = fgd_softmaxes_for(j->dtype);
    j->causal = of->causal != 0;
    j->scale = 1 / sqrt((double)j->width);
    j->scratch = (char *)scratch;
    j->part_bytes = bytes_of_part(j->item, j->time, j->width, j->dqkv != NULL);
    j->codes = codes;
    fgd_in_parts(parts, run_part, j);
    for (int part = 0; part < parts; part++)
        if (codes[part]) return codes[part];
    return FGD_OK;
}

/* ---- Entries ---------------------------------------------------------------------------------------- */

int64_t fgd_attention_scratch(int dtype, const fgd_attention *of, int64_t batch, int64_t time, int64_t dim,
                              int backward) {
    if (check(dtype, of, batch, time, dim)) return 0;
    const int64_t parts = at_most(batch * of->heads, MAX_PARTS);
    return parts * bytes_of_part(fgd_item_size(dtype), time, dim / of->heads, backward) /
           (int64_t)sizeof(double);
}

int fgd_attention_forward(int dtype, const fgd_attention *of, int64_t batch, int64_t time, int64_t dim,
                          const void *qkv, const int64_t *lengths, void *y, double *scratch) {
    const int code = check_call(dtype, of, batch, time, dim, lengths);
    if (code || batch == 0 || time == 0) return code;
    if (!qkv || !y || !scratch) return FGD_ERROR_NULL;
    job j = {.dtype = dtype, .item = fgd_item_size(dtype), .batch = batch, .time = time, .dim = dim,
             .heads = of->heads, .width = dim / of->heads, .lengths = lengths, .qkv = qkv, .y = y};
    return run(&j, of, scratch);
}

int fgd_attention_backward(int dtype, const fgd_attention *of, int64_t batch, int64_t time, int64_t dim,
                           const void *qkv, const int64_t *lengths, const void *dy, void *dqkv,
                           double *scratch) {
    const int code = check_call(dtype, of, batch, time, dim, lengths);
    if (code || batch == 0 || time == 0) return code;
    if (!qkv || !dy || !dqkv || !scratch) return FGD_ERROR_NULL;
    job j = {.dtype = dtype, .item = fgd_item_size(dtype), .batch = batch, .time = time, .dim = dim,
             .heads = of->heads, .width = dim / of->heads, .lengths = lengths, .qkv = qkv, .dy = dy,
             .dqkv = dqkv};
    return run(&j, of, scratch);
}
