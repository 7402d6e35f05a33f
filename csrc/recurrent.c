/* Recurrent layers, forward and backward through time: checks everything, then steps over parts of the rows.
 *
 * Inside, rows are in the order of their lengths, the longest first, so that those that have a step s are the
 * first ones, and arrays hold step after step these rows alone: the product with x is one product, as are the
 * gradients of the weights. Rows do not depend on each other, so that each thread takes some of them through
 * all steps without waiting for another. */
#include <stddef.h>
#include <string.h>

#include "dispatch.h"
#include "gemm.h"

/* ---- What a call works on --------------------------------------------------------------------------- */

/* Rows of a matrix that are transposed together: a cache line of them. */
enum { TRANSPOSED = 16 };

typedef struct job {
    const fgd_recurrents *kernels;
    const fgd_cell_info *cell;
    const fgd_recurrent *of;
    int dtype;
    int64_t item, batch, time, in, hidden;
    int64_t gates, shared, columns; /* numbers of a row's gates, see recurrent_kernels.h */
    const int64_t *lengths;
    int64_t *order; /* [batch]: the row of x that is row b inside */
    int64_t *first; /* [time + 1]: where step s begins in what follows */
    char *xs;       /* [steps, in] */
    char *hs;       /* [steps, hidden]: the state before each step */
    char *as;       /* [steps, columns]: gates */
    char *cs;       /* [batch + steps, hidden]: that before the first, and behind each step */
    char *y;        /* or dy */
    int64_t y_row, y_step; /* bytes from row to row and from step to step */
    const char *weight_hh; /* transposed where it goes forward */
    const char *bias_ih, *bias_hh, *h0, *c0, *dcn;
    char *hn, *cn, *dh0, *dc0;
    char *product, *state; /* forward: [batch, gates] and [batch, hidden] */
    char *dh, *dy, *carry; /* backward: [batch, hidden] each */
    int *failed;
} job;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t length_of(const job *j, int64_t b) { return j->lengths ? j->lengths[j->order[b]] : j->time; }

static int64_t step_of(const job *j, int64_t b, int64_t s) {
    return j->of->reverse ? length_of(j, b) - 1 - s : s;
}

static int64_t rows_at(const job *j, int64_t s) { return s < j->time ? j->first[s + 1] - j->first[s] : 0; }

/* Fills order and first: rows by descending length, those of one length as they come. */
static void sort_rows(const job *j) {
    int64_t *at = j->first;
    memset(at, 0, (size_t)(j->time + 1) * sizeof *at);
    for (int64_t row = 0; row < j->batch; row++) at[(j->lengths ? j->lengths[row] : j->time) - 1]++;
    for (int64_t s = j->time - 1; s >= 0; s--) at[s] += at[s + 1];
    /* at[s] rows are longer than s: there begin the rows of length s, and they end at at[s - 1] */
    for (int64_t row = 0; row < j->batch; row++) j->order[at[j->lengths ? j->lengths[row] : j->time]++] = row;
    at[0] = 0;
    for (int64_t s = 0; s < j->time; s++) at[s + 1] += at[s];
}

static int parts_of(const job *j) {
    const int threads = fgd_threads_for(j->first[j->time] * j->gates);
    return fgd_gemm_nests(j->dtype) ? (int)least(j->batch, threads) : 1;
}

/* The first row of a part: parts have about as many steps each. */
static int64_t row_of_part(const job *j, int part, int parts) {
    const int64_t before = part == parts ? INT64_MAX : j->first[j->time] / parts * part;
    int64_t b = 0;
    for (int64_t steps = 0; b < j->batch && steps < before; b++) steps += length_of(j, b);
    return b;
}

static void product(const job *j, int64_t m, int64_t n, int64_t k, const char *a, int64_t lda, const char *b,
                    int64_t ldb, char *c) {
    const int code = fgd_gemm(j->dtype, 'N', 'N', m, n, k, a, lda, b, ldb, 0, c, n);
    if (code) __atomic_store_n(j->failed, code, __ATOMIC_RELAXED);
}

/* ---- Forward ---------------------------------------------------------------------------------------- */

/* Where the output of row b at step s goes, or comes from; NULL: nowhere. */
static char *output_at(const job *j, int64_t b, int64_t s, int ends) {
    if (j->of->last && !ends) return NULL;
    return j->y + j->order[b] * j->y_row + (j->of->last ? 0 : step_of(j, b, s) * j->y_step);
}

/* Step s has given rows from r on, n of them, a new state: to the output, and to the next step or the end. */
static void hand_on(const job *j, int64_t s, int64_t r, int64_t n) {
    const int64_t bytes = j->hidden * j->item, after = rows_at(j, s + 1);
    for (int64_t b = r; b < r + n; b++) {
        const char *h = j->state + b * bytes;
        const int ends = b >= after;
        char *y = output_at(j, b, s, ends);
        if (y) memcpy(y, h, (size_t)bytes);
        if (!ends) memcpy(j->hs + (j->first[s + 1] + b) * bytes, h, (size_t)bytes);
        if (ends && j->hn) memcpy(j->hn + j->order[b] * bytes, h, (size_t)bytes);
        if (ends && j->cn && j->cell->has_cell)
            memcpy(j->cn + j->order[b] * bytes, j->cs + (j->batch + j->first[s] + b) * bytes, (size_t)bytes);
    }
}

/* Row b before its first step, and what its output has behind the last. */
static void begin_row(const job *j, int64_t b) {
    const int64_t bytes = j->hidden * j->item, from = j->order[b] * bytes;
    const char *starts[] = {j->h0, j->c0};
    char *states[] = {j->hs, j->cell->has_cell ? j->cs : NULL};
    for (int i = 0; i < 2; i++) {
        if (states[i] && starts[i]) memcpy(states[i] + b * bytes, starts[i] + from, (size_t)bytes);
        else if (states[i]) memset(states[i] + b * bytes, 0, (size_t)bytes);
    }
    for (int64_t t = length_of(j, b); t < j->time && !j->of->last; t++)
        memset(j->y + j->order[b] * j->y_row + t * j->y_step, 0, (size_t)bytes);
}

/* The rows' arrays at step s, from row r on. */
static fgd_cell_step arrays_at(const job *j, int64_t s, int64_t r, int64_t n) {
    const int64_t bytes = j->hidden * j->item, at = j->first[s] + r;
    return (fgd_cell_step){
        .rows = n,
        .hidden = j->hidden,
        .gates = j->as + at * j->columns * j->item,
        .h_before = j->hs + at * bytes,
        .c_before = j->cell->has_cell ? j->cs + (s ? j->batch + j->first[s - 1] + r : r) * bytes : NULL,
        .c = j->cell->has_cell ? j->cs + (j->batch + at) * bytes : NULL,
    };
}

static void forward_part(const void *what, int part, int parts) {
    const job *j = what;
    const int64_t r = row_of_part(j, part, parts), end = row_of_part(j, part + 1, parts);
    const int64_t bytes = j->hidden * j->item;
    for (int64_t b = r; b < end; b++) begin_row(j, b);
    for (int64_t s = 0; s < j->time; s++) {
        const int64_t n = least(rows_at(j, s), end) - r;
        if (n <= 0) break;
        fgd_cell_step at = arrays_at(j, s, r, n);
        char *of_h = j->product + r * j->gates * j->item;
        product(j, n, j->gates, j->hidden, at.h_before, j->hidden, j->weight_hh, j->gates, of_h);
        at.product = of_h;
        at.bias_ih = j->bias_ih;
        at.bias_hh = j->bias_hh;
        at.h = j->state + r * bytes;
        j->kernels->forward[j->of->cell](&at);
        hand_on(j, s, r, n);
    }
}

/* ---- Backward --------------------------------------------------------------------------------------- */

/* Behind step 0 of n rows from r on: what is left is of the states they began with. */
static void begin_backward(const job *j, int64_t r, int64_t n) {
    const int64_t bytes = j->hidden * j->item, at_r = r * bytes;
    if (j->dh0 && n)
        product(j, n, j->hidden, j->gates, j->as + r * j->columns * j->item, j->columns, j->weight_hh,
                j->hidden, j->dh + at_r);
    for (int64_t b = r; b < r + n; b++) {
        const int64_t at = b * bytes, to = j->order[b] * bytes;
        if (j->dh0) memcpy(j->dh0 + to, j->dh + at, (size_t)bytes);
        if (j->dh0 && !j->cell->has_cell) j->kernels->add(j->hidden, j->carry + at, j->dh0 + to);
        if (j->dc0) memcpy(j->dc0 + to, j->carry + at, (size_t)bytes);
    }
}

static void backward_part(const void *what, int part, int parts) {
    const job *j = what;
    const int64_t r = row_of_part(j, part, parts), end = row_of_part(j, part + 1, parts);
    const int64_t bytes = j->hidden * j->item, at_r = r * bytes;
    for (int64_t s = j->time - 1; s >= 0; s--) {
        const int64_t n = least(rows_at(j, s), end) - r, after = least(rows_at(j, s + 1), end) - r;
        const int64_t begun = after > 0 ? after : 0;
        if (n <= 0) continue;
        if (begun)
            product(j, begun, j->hidden, j->gates, j->as + (j->first[s + 1] + r) * j->columns * j->item,
                    j->columns, j->weight_hh, j->hidden, j->dh + at_r);
        memset(j->dh + at_r + begun * bytes, 0, (size_t)((n - begun) * bytes));
        memset(j->carry + at_r + begun * bytes, 0, (size_t)((n - begun) * bytes));
        for (int64_t b = r; b < r + n; b++) {
            const char *dy = output_at(j, b, s, b >= r + begun);
            if (dy) memcpy(j->dy + b * bytes, dy, (size_t)bytes);
            else memset(j->dy + b * bytes, 0, (size_t)bytes);
            if (j->dcn && b >= r + begun)
                memcpy(j->carry + b * bytes, j->dcn + j->order[b] * bytes, (size_t)bytes);
        }
        fgd_cell_step at = arrays_at(j, s, r, n);
        at.dh = j->dh + at_r;
        at.dy = j->dy + at_r;
        at.carry = j->carry + at_r;
        j->kernels->backward[j->of->cell](&at);
    }
    if (j->dh0 || j->dc0) begin_backward(j, r, end - r);
}

/* ---- Input ------------------------------------------------------------------------------------------ */

/* Step s of x, row by row, into xs. */
static void gather(const job *j, int64_t s, const char *x) {
    const int64_t bytes = j->in * j->item;
    for (int64_t b = 0; b < rows_at(j, s); b++) {
        const int64_t at = j->order[b] * j->time + step_of(j, b, s);
        memcpy(j->xs + (j->first[s] + b) * bytes, x + at * bytes, (size_t)bytes);
    }
}

/* And back from xs to dx, for row b. */
static void scatter(const job *j, int64_t b, char *dx) {
    const int64_t bytes = j->in * j->item, length = length_of(j, b);
    char *row = dx + j->order[b] * j->time * bytes;
    for (int64_t s = 0; s < length; s++) {
        const char *from = j->xs + (j->first[s] + b) * bytes;
        char *to = row + step_of(j, b, s) * bytes;
        if (j->of->add_dx) j->kernels->add(j->in, from, to);
        else memcpy(to, from, (size_t)bytes);
    }
    if (!j->of->add_dx) memset(row + length * bytes, 0, (size_t)((j->time - length) * bytes));
}

/* ---- Entries ---------------------------------------------------------------------------------------- */

/* The product of two sizes, INT64_MAX where it is more. */
static int64_t times(int64_t a, int64_t b) { return b && a > INT64_MAX / b ? INT64_MAX : a * b; }

static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

static int check(const fgd_recurrent *of, int64_t batch, int64_t time, int64_t in, int64_t hidden) {
    if (!of) return FGD_ERROR_NULL;
    if (!fgd_cell_at(of->cell) || of->directions < 1 || of->directions > 2) return FGD_ERROR_OPTION;
    if (batch < 1 || time < 1 || in < 1 || hidden < 1) return FGD_ERROR_SIZE;
    /* no array has more than 16 of these, of 8 bytes each */
    const int64_t rows = most(times(batch, time), hidden);
    return times(times(rows, most(in, hidden)), 128) == INT64_MAX ? FGD_ERROR_SIZE : FGD_OK;
}

static int check_call(int dtype, const fgd_recurrent *of, int64_t batch, int64_t time, int64_t in,
                      int64_t hidden, const int64_t *lengths) {
    if (dtype != FGD_F32 && dtype != FGD_F64) return FGD_ERROR_DTYPE;
    int code = check(of, batch, time, in, hidden);
    if (!code) code = fgd_gemm_ready(dtype, batch * time, 4 * hidden, in);
    for (int64_t row = 0; !code && lengths && row < batch; row++)
        if (lengths[row] < 1 || lengths[row] > time) code = FGD_ERROR_SIZE;
    return code;
}

static int64_t columns_of(const fgd_cell_info *cell) { return 2 * cell->gates - cell->shared; }

/* Numbers in front of the real ones in the scratch memory: order and first, in whole cache lines. */
static int64_t indices_of(int64_t batch, int64_t time) { return (batch + time + 1 + 7) / 8 * 8; }

int64_t fgd_recurrent_saved(const fgd_recurrent *of, int64_t batch, int64_t time, int64_t in,
                            int64_t hidden) {
    if (check(of, batch, time, in, hidden)) return 0;
    const fgd_cell_info *cell = fgd_cell_at(of->cell);
    const int64_t cells = cell->has_cell ? batch + batch * time : 0;
    return batch * time * (in + hidden + columns_of(cell) * hidden) + cells * hidden;
}

int64_t fgd_recurrent_scratch(int dtype, const fgd_recurrent *of, int64_t batch, int64_t time,
                              int64_t hidden) {
    if (check(of, batch, time, 1, hidden) || (dtype != FGD_F32 && dtype != FGD_F64)) return 0;
    const int64_t gates = fgd_cell_at(of->cell)->gates * hidden;
    const int64_t forward = gates * hidden + gates + batch * (gates + hidden), backward = 3 * batch * hidden;
    return indices_of(batch, time) + (most(forward, backward) * fgd_item_size(dtype) + 7) / 8;
}

/* What both directions of a call share: sizes, the order of the rows, and what is saved. */
static job job_of(int dtype, const fgd_recurrent *of, int64_t batch, int64_t time, int64_t in, int64_t hidden,
                  const int64_t *lengths, void *saved, int64_t *scratch) {
    const fgd_cell_info *cell = fgd_cell_at(of->cell);
    const int64_t item = fgd_item_size(dtype), steps = batch * time;
    job j = {.kernels = fgd_recurrents_for(dtype), .cell = cell, .of = of, .dtype = dtype, .item = item,
             .batch = batch, .time = time, .in = in, .hidden = hidden, .gates = cell->gates * hidden,
             .shared = cell->shared * hidden, .columns = columns_of(cell) * hidden, .lengths = lengths,
             .order = scratch, .first = scratch + batch, .xs = saved};
    j.hs = j.xs + steps * in * item;
    j.as = j.hs + steps * hidden * item;
    j.cs = j.as + steps * j.columns * item;
    j.y_step = of->directions * hidden * item;
    j.y_row = of->last ? j.y_step : time * j.y_step;
    sort_rows(&j);
    return j;
}

static char *output_of(const job *j, const void *y) {
    return (char *)y + (j->of->directions == 2 && j->of->reverse ? j->hidden * j->item : 0);
}

int fgd_recurrent_forward(int dtype, const fgd_recurrent *of, int64_t batch, int64_t time, int64_t in,
                          int64_t hidden, const void *x, const int64_t *lengths, const void *weight_ih,
                          const void *weight_hh, const void *bias_ih, const void *bias_hh, const void *h0,
                          const void *c0, void *y, void *hn, void *cn, void *saved, void *scratch) {
    int code = check_call(dtype, of, batch, time, in, hidden, lengths), failed = FGD_OK;
    if (code) return code;
    if (!x || !weight_ih || !weight_hh || !bias_ih != !bias_hh || !y || !saved || !scratch)
        return FGD_ERROR_NULL;
    job j = job_of(dtype, of, batch, time, in, hidden, lengths, saved, scratch);
    const int64_t steps = j.first[time], gates = j.gates;
    char *transposed = (char *)scratch + 8 * indices_of(batch, time);
    char *zeros = transposed + gates * hidden * j.item;
    j.product = zeros + gates * j.item;
    j.state = j.product + batch * gates * j.item;
    j.weight_hh = transposed;
    if (!bias_ih) memset(zeros, 0, (size_t)(gates * j.item));
    j.bias_ih = bias_ih ? bias_ih : zeros;
    j.bias_hh = bias_hh ? bias_hh : zeros;
    j.y = output_of(&j, y);
    j.h0 = h0, j.c0 = c0, j.hn = hn, j.cn = cn;
    j.failed = &failed;
#pragma omp parallel for num_threads(fgd_threads_for(steps * in)) schedule(static)
    for (int64_t s = 0; s < time; s++) gather(&j, s, x);
    code = fgd_gemm(dtype, 'N', 'T', steps, gates, in, j.xs, in, weight_ih, in, 0, j.as, j.columns);
    if (code) return code;
#pragma omp parallel for num_threads(fgd_threads_for(gates * hidden)) schedule(static)
    for (int64_t r = 0; r < gates; r += TRANSPOSED)
        j.kernels->transpose(r, least(r + TRANSPOSED, gates), gates, hidden, weight_hh, transposed);
    fgd_in_parts(parts_of(&j), forward_part, &j);
    return failed;
}

/* The sums of n columns from `col` of the gates' derivatives. */
static void sum_columns(const job *j, int64_t col, int64_t n, char *into) {
    const int64_t steps = j->first[j->time];
#pragma omp parallel for num_threads(fgd_threads_for(steps * n)) schedule(static)
    for (int64_t i = 0; i < n; i += FGD_COLUMNS)
        j->kernels->sum_columns(steps, least(FGD_COLUMNS, n - i), j->columns,
                                j->as + (col + i) * j->item, into + i * j->item);
}

/* dW_ih of gates [from, from + n), whose derivatives begin at column `col`; and what they add to dx. */
static int input_gradients(const job *j, int64_t from, int64_t n, int64_t col, char *dweight) {
    return n ? fgd_gemm(j->dtype, 'T', 'N', n, j->in, j->first[j->time], j->as + col * j->item, j->columns,
                        j->xs, j->in, 0, dweight + from * j->in * j->item, j->in)
             : FGD_OK;
}

static int dx_part(const job *j, int64_t from, int64_t n, int64_t col, const char *weight, int accumulate) {
    return n ? fgd_gemm(j->dtype, 'N', 'N', j->first[j->time], j->in, n, j->as + col * j->item, j->columns,
                        weight + from * j->in * j->item, j->in, accumulate, j->xs, j->in)
             : FGD_OK;
}

int fgd_recurrent_backward(int dtype, const fgd_recurrent *of, int64_t batch, int64_t time, int64_t in,
                           int64_t hidden, const int64_t *lengths, const void *weight_ih,
                           const void *weight_hh, const void *dy, void *dx, void *dweight_ih,
                           void *dweight_hh, void *dbias_ih, void *dbias_hh, void *saved, void *scratch) {
    return fgd_recurrent_backward_states(dtype, of, batch, time, in, hidden, lengths, weight_ih, weight_hh,
                                         dy, NULL, dx, dweight_ih, dweight_hh, dbias_ih, dbias_hh, NULL,
                                         NULL, saved, scratch);
}

int fgd_recurrent_backward_states(int dtype, const fgd_recurrent *of, int64_t batch, int64_t time, int64_t in,
                                  int64_t hidden, const int64_t *lengths, const void *weight_ih,
                                  const void *weight_hh, const void *dy, const void *dcn, void *dx,
                                  void *dweight_ih, void *dweight_hh, void *dbias_ih, void *dbias_hh,
                                  void *dh0, void *dc0, void *saved, void *scratch) {
    int code = check_call(dtype, of, batch, time, in, hidden, lengths), failed = FGD_OK;
    if (code) return code;
    if (!weight_ih || !weight_hh || !dweight_ih || !dweight_hh || !dbias_ih != !dbias_hh || !dy ||
        !saved || !scratch)
        return FGD_ERROR_NULL;
    if ((dcn || dc0) && !fgd_cell_at(of->cell)->has_cell) return FGD_ERROR_OPTION;
    job j = job_of(dtype, of, batch, time, in, hidden, lengths, saved, scratch);
    const int64_t rows = batch * hidden * j.item, unshared = j.gates - j.shared;
    j.dh = (char *)scratch + 8 * indices_of(batch, time);
    j.dy = j.dh + rows;
    j.carry = j.dy + rows;
    j.weight_hh = weight_hh;
    j.y = output_of(&j, dy);
    j.dcn = dcn, j.dh0 = dh0, j.dc0 = dc0;
    j.failed = &failed;
    fgd_in_parts(parts_of(&j), backward_part, &j);
    if (failed) return failed;
    if (dbias_ih) {
        sum_columns(&j, 0, j.gates, dbias_hh);
        memcpy(dbias_ih, dbias_hh, (size_t)(j.shared * j.item));
        sum_columns(&j, j.gates, unshared, (char *)dbias_ih + j.shared * j.item);
    }
    code = fgd_gemm(dtype, 'T', 'N', j.gates, hidden, j.first[time], j.as, j.columns, j.hs, hidden, 0,
                    dweight_hh, hidden);
    if (!code) code = input_gradients(&j, 0, j.shared, 0, dweight_ih);
    if (!code) code = input_gradients(&j, j.shared, unshared, j.gates, dweight_ih);
    if (code || !dx) return code;
    /* from here on xs holds dx's rows */
    code = dx_part(&j, 0, j.shared, 0, weight_ih, 0);
    if (!code) code = dx_part(&j, j.shared, unshared, j.gates, weight_ih, 1);
    if (code) return code;
#pragma omp parallel for num_threads(fgd_threads_for(j.first[time] * in)) schedule(static)
    for (int64_t b = 0; b < batch; b++) scatter(&j, b, dx);
    return FGD_OK;
}
