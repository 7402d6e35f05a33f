/* Linear models, fitted row by row: checks everything, then goes through the rows, one epoch after the other.
 *
 * Scalars are computed here in double, in both precisions; rows and weights are the kernels'. The course is
 * that of scikit-learn's SGD: weights are kept as scale * w, so that decay is one product a row, and averages
 * as (averages + share * w) / divisor, so that a sparse row changes its own columns only (Bottou 2012,
 * "Stochastic gradient descent tricks", sections 5.1 and 5.2). fastgd/online/reference.py has the same in
 * Python; a change here is a change there. */
#define FGD_DOUBLE 1
#include <stddef.h>
#include <string.h>

#include "dispatch.h"
#include "elementary.h"
#include "online.def"
#include "online_losses.h"

/* Slopes are clipped to this size. */
#define MOST_SLOPE 1e12
/* FGD_RATE_ADAPTIVE ends at and below this rate. */
#define LEAST_RATE 1e-6
/* Logarithms are taken of products of factors above this, which another factor, of 2 at most, does not take
 * beyond the largest number. */
#define MOST_PRODUCT 0x1p1000
/* Rows are fetched into the caches so many before they are needed, and at most so many bytes of each. */
#define AHEAD 2
#define FETCHED 1024

static const struct {
    fgd_online_loss_info info;
    measure (*of)(double p, double y, double a);
} losses[] = {
#define ROW(name, a, negative) {{#name, sizeof #a > 1 ? #a : NULL, negative}, name##_of},
    FGD_ONLINE_LOSSES(ROW)
};

enum { LOSS_COUNT = sizeof losses / sizeof losses[0] };

int fgd_online_loss_count(void) { return LOSS_COUNT; }

const fgd_online_loss_info *fgd_online_loss_at(int kind) {
    return kind < 0 || kind >= LOSS_COUNT ? NULL : &losses[kind].info;
}

int fgd_online_loss_find(const char *name) {
    for (int kind = 0; name && kind < LOSS_COUNT; kind++)
        if (!strcmp(losses[kind].info.name, name)) return kind;
    return FGD_ERROR_LOSS;
}

/* ---- Checks ------------------------------------------------------------------------------------------ */

/* by fgd_rate: whether a step is as long as its loss asks for (Crammer et al. 2006, section 3) */
static const int passive[] = {[FGD_RATE_PA1] = 1, [FGD_RATE_PA2] = 1};

static int is_passive(const fgd_online *of) { return passive[of->rate]; }

static int at_least(double x, double least) { return x >= least && x - x == 0; }

static int check_options(const fgd_online *of) {
    if (!of) return FGD_ERROR_NULL;
    if (!fgd_online_loss_at(of->loss)) return FGD_ERROR_LOSS;
    if (of->rate < FGD_RATE_CONSTANT || of->rate > FGD_RATE_PA2) return FGD_ERROR_OPTION;
    if (of->judged && !of->measured) return FGD_ERROR_OPTION;
    if (!at_least(of->l2, 0) || !at_least(of->l1, 0) || !at_least(of->average, 0)) return FGD_ERROR_OPTION;
    if (of->rate == FGD_RATE_OPTIMAL && !(at_least(of->alpha, 0) && of->alpha > 0)) return FGD_ERROR_OPTION;
    if (!(of->eta0 >= 0) || of->power_t != of->power_t || of->tol != of->tol) return FGD_ERROR_OPTION;
    return of->patience < 1 || !at_least(of->intercept_factor, 0) ? FGD_ERROR_OPTION : FGD_OK;
}

static int check_rows(int dtype, const fgd_online_rows *rows) {
    if (dtype != FGD_F32 && dtype != FGD_F64) return FGD_ERROR_DTYPE;
    if (!rows) return FGD_ERROR_NULL;
    if (rows->rows < 0 || rows->cols < 0 || rows->rows > INT32_MAX || rows->cols > INT32_MAX)
        return FGD_ERROR_SIZE;
    if (rows->columns && !rows->starts) return FGD_ERROR_NULL;
    if (!rows->rows) return FGD_OK;
    if (!rows->targets) return FGD_ERROR_NULL;
    return rows->x || !rows->cols ? FGD_OK : FGD_ERROR_NULL;
}

int fgd_online_check(int dtype, const fgd_online *of, const fgd_online_rows *rows) {
    int code = check_options(of);
    if (!code) code = check_rows(dtype, rows);
    if (code || !rows->columns) return code;
    if (rows->starts[0] < 0) return FGD_ERROR_ROWS;
    for (int64_t i = 0; i < rows->rows; i++)
        if (rows->starts[i] > rows->starts[i + 1]) return FGD_ERROR_ROWS;
    for (int64_t i = rows->starts[0]; i < rows->starts[rows->rows]; i++)
        if (rows->columns[i] < 0 || rows->columns[i] >= rows->cols) return FGD_ERROR_ROWS;
    return FGD_OK;
}

/* Of all but sparse columns. */
static int check(int dtype, const fgd_online *of, const fgd_online_rows *rows, const fgd_online_model *model,
                 const fgd_online_state *state) {
    int code = check_options(of);
    if (!code) code = check_rows(dtype, rows);
    if (code) return code;
    if (!model || !state || (rows->rows && !model->order)) return FGD_ERROR_NULL;
    if (!rows->cols) return FGD_OK;
    if (!model->weights || (of->l1 > 0 && !model->cuts)) return FGD_ERROR_NULL;
    return of->average > 0 && !model->averages ? FGD_ERROR_NULL : FGD_OK;
}

/* ---- One row ----------------------------------------------------------------------------------------- */

typedef struct pass {
    const fgd_online *of;
    const fgd_online_rows *rows;
    const fgd_online_model *model;
    const fgd_onlines *kernels;
    const fgd_online_row_kernels *on; /* dense or sparse */
    measure (*loss)(double p, double y, double a);
    int dtype;
} pass;

static pass pass_of(int dtype, const fgd_online *of, const fgd_online_rows *rows,
                    const fgd_online_model *model) {
    const fgd_onlines *kernels = fgd_onlines_for(dtype);
    return (pass){.of = of, .rows = rows, .model = model, .kernels = kernels, .dtype = dtype,
                  .on = rows->columns ? &kernels->sparse : &kernels->dense, .loss = losses[of->loss].of};
}

static double number_at(const pass *w, const void *of, int64_t i) {
    return w->dtype == FGD_F32 ? (double)((const float *)of)[i] : ((const double *)of)[i];
}

/* The numbers of a row, and where they belong. */
typedef struct row_view {
    int64_t n;
    const void *x;
    const int32_t *columns;
} row_view;

static row_view row_at(const pass *w, int64_t row) {
    const fgd_online_rows *rows = w->rows;
    const int64_t first = rows->columns ? rows->starts[row] : row * rows->cols;
    const int64_t n = rows->columns ? rows->starts[row + 1] - first : rows->cols;
    return (row_view){n, (const char *)rows->x + first * fgd_item_size(w->dtype),
                      rows->columns ? rows->columns + first : NULL};
}

/* t^-power; the powers that scikit-learn has as defaults by roots. */
static double inverse_power(double t, double power) {
    if (power == 0.5) return 1 / sqrt(t);
    if (power == 0.25) return 1 / sqrt(sqrt(t));
    return exp_of(-power * log_of(t));
}

static double rate_of(const fgd_online *of, const fgd_online_state *s) {
    if (of->rate == FGD_RATE_OPTIMAL) return 1 / (of->alpha * (s->t0 + s->t - 1));
    return of->rate == FGD_RATE_INVSCALING ? of->eta0 * inverse_power(s->t, of->power_t) : s->eta;
}

/* Multiplies out the weights' scale, and the averages, which are of the weights as they stand. */
static void settle(const pass *w, fgd_online_state *s) {
    const int64_t n = w->rows->cols;
    if (w->of->average > 0) {
        w->kernels->dense.add(n, s->share, w->model->weights, NULL, w->model->averages);
        w->kernels->multiply(n, 1 / s->divisor, w->model->averages);
        s->share = 0;
        s->divisor = 1;
    }
    w->kernels->multiply(n, s->scale, w->model->weights);
    s->scale = 1;
}

static void decay(const pass *w, fgd_online_state *s) {
    const double left = 1 - s->eta * w->of->l2, by = left > 0 ? left : 0;
    s->scale *= by;
    s->squares *= by * by;
    s->absolutes *= by;
    if (s->scale < w->kernels->least_scale) settle(w, s);
}

/* The norms become those of the row's weights, as scikit-learn has it. */
static void add(const pass *w, const row_view x, double update, fgd_online_state *s) {
    const int measured = w->of->measured && !is_passive(w->of);
    const double step = update / s->scale;
    void *weights = w->model->weights;
    if (measured && w->of->l2 > 0)
        s->squares = w->on->add_squares(x.n, step, x.x, x.columns, weights) * (s->scale * s->scale);
    else w->on->add(x.n, step, x.x, x.columns, weights);
    if (measured && w->of->l1 > 0) s->absolutes = w->on->absolutes(x.n, x.columns, weights) * s->scale;
}

/* The averages' part in an update, of the row that is the k-th to count. */
static void average(const pass *w, const row_view x, double update, double k, fgd_online_state *s) {
    const double part = 1 / k;
    if (update != 0)
        w->on->add(x.n, s->share * (-update / s->scale), x.x, x.columns, w->model->averages);
    if (k > 1) s->divisor /= 1 - part;
    s->share += part * s->divisor * s->scale;
    s->average_intercept += (s->intercept - s->average_intercept) / k;
}

/* How far the step goes against the slope, for one unit of it. Negative: there is none, for an empty row. */
static double step_size(const pass *w, const row_view x, const measure at, double eta) {
    if (!is_passive(w->of)) return eta;
    const double squares = w->kernels->dense.squares(x.n, NULL, x.x), loss = at.loss + log_of(at.factor);
    if (w->of->rate == FGD_RATE_PA2) return loss / (squares + 0.5 / w->of->eta0);
    if (squares == 0) return -1;
    return loss / squares < w->of->eta0 ? loss / squares : w->of->eta0;
}

/* Returns the factor of the row's loss. */
static double learn(const pass *w, int64_t row, fgd_online_state *s) {
    const fgd_online *of = w->of;
    const row_view x = row_at(w, row);
    const double y = number_at(w, w->rows->targets, row);
    const double p = s->scale * w->on->dot(x.n, x.x, x.columns, w->model->weights) + s->intercept;
    const measure at = w->loss(p, y, of->a);
    s->eta = rate_of(of, s);
    s->loss += at.loss;
    if (!is_passive(of)) s->objective += 0.5 * of->l2 * s->squares + of->l1 * s->absolutes;
    const double size = step_size(w, x, at, s->eta);
    if (size < 0) return at.factor;
    const double slope = at.slope > MOST_SLOPE    ? MOST_SLOPE
                         : at.slope < -MOST_SLOPE ? -MOST_SLOPE
                                                  : at.slope;
    const double given = w->rows->weights ? number_at(w, w->rows->weights, row) : 1;
    const double update = -size * slope * ((y > 0 ? of->positive : of->negative) * given);
    if (of->l2 > 0) decay(w, s);
    if (update != 0) add(w, x, update, s);
    if (of->intercept_factor > 0) s->intercept += update * of->intercept_factor;
    if (of->average > 0 && of->average <= s->t) average(w, x, update, s->t - of->average + 1, s);
    if (of->l1 > 0) {
        s->cut += of->l1 * s->eta;
        w->on->truncate(x.n, s->scale, s->cut, x.columns, w->model->weights, w->model->cuts);
    }
    s->t += 1;
    s->rows++;
    return at.factor;
}

/* ---- Epochs ------------------------------------------------------------------------------------------ */

/* Fisher and Yates's shuffle by Marsaglia's 32-bit xorshift (2003), of which 31 bits are taken: each epoch
 * permutes the order of the one before in the same way, as scikit-learn does. */
static void shuffle(int32_t *order, uint32_t n, uint32_t seed) {
    uint32_t bits = seed ? seed : 1;
    for (uint32_t i = 0; i + 1 < n; i++) {
        bits ^= bits << 13;
        bits ^= bits >> 17;
        bits ^= bits << 5;
        const uint32_t other = i + (bits & INT32_MAX) % (n - i);
        const int32_t kept = order[i];
        order[i] = order[other];
        order[other] = kept;
    }
}

static void judge(const fgd_online *of, double value, fgd_online_state *s) {
    const int without_gain = of->tol > -INFINITY && value > s->best - of->tol;
    s->without_gain = without_gain ? s->without_gain + 1 : 0;
    if (value < s->best) s->best = value;
    if (s->without_gain < of->patience) return;
    if (of->rate == FGD_RATE_ADAPTIVE && s->eta > LEAST_RATE) {
        s->eta /= 5;
        s->without_gain = 0;
    } else {
        s->ended = FGD_ONLINE_CONVERGED;
    }
}

/* Rows come in any order, so that no hardware fetches the next one by itself. */
static void fetch(const pass *w, int64_t row) {
    const row_view x = row_at(w, row);
    const int64_t item = fgd_item_size(w->dtype), bytes = x.n * item;
    const char *numbers = x.x, *columns = (const char *)x.columns;
    __builtin_prefetch((const char *)w->rows->targets + row * item);
    if (w->rows->weights) __builtin_prefetch((const char *)w->rows->weights + row * item);
    for (int64_t at = 0; at < bytes && at < FETCHED; at += 64) __builtin_prefetch(numbers + at);
    for (int64_t at = 0; columns && at < x.n * 4 && at < FETCHED; at += 64) __builtin_prefetch(columns + at);
}

static void run_epoch(const pass *w, fgd_online_state *s) {
    const fgd_online_rows *rows = w->rows;
    const int32_t *order = w->model->order;
    double learned = 0, product = 1;
    s->loss = s->objective = 0;
    if (w->of->shuffled) shuffle(w->model->order, (uint32_t)rows->rows, w->of->seed);
    for (int64_t i = 0; i < rows->rows; i++) {
        if (i + AHEAD < rows->rows) fetch(w, order[i + AHEAD]);
        if (rows->held_out && rows->held_out[order[i]]) continue;
        product *= learn(w, order[i], s);
        if (product > MOST_PRODUCT) {
            s->loss += log_of(product);
            product = 1;
        }
        learned++;
    }
    s->loss += log_of(product);
    s->objective = w->of->measured ? (s->objective + s->loss) / learned : 0;
    s->loss = w->of->measured ? s->loss / learned : 0;
    s->epochs++;
    if (s->intercept - s->intercept != 0 || !w->kernels->is_finite(rows->cols, w->model->weights))
        s->ended = FGD_ONLINE_NOT_FINITE;
    else if (w->of->judged) judge(w->of, s->objective, s);
}

int fgd_online_begin(int dtype, const fgd_online *of, const fgd_online_rows *rows,
                     const fgd_online_model *model, fgd_online_state *state) {
    const int code = check(dtype, of, rows, model, state);
    if (code) return code;
    if (!at_least(state->t, 1)) return FGD_ERROR_OPTION;
    const pass w = pass_of(dtype, of, rows, model);
    const fgd_online_state given = *state;
    *state = (fgd_online_state){.intercept = given.intercept, .average_intercept = given.average_intercept,
                                .t = given.t, .eta = of->eta0, .scale = 1, .divisor = 1, .best = INFINITY};
    if (rows->cols) {
        state->squares = w.kernels->dense.squares(rows->cols, NULL, model->weights);
        state->absolutes = w.kernels->dense.absolutes(rows->cols, NULL, model->weights);
        if (of->l1 > 0) memset(model->cuts, 0, (size_t)(rows->cols * fgd_item_size(dtype)));
    }
    for (int32_t i = 0; i < rows->rows; i++) model->order[i] = i;
    if (of->rate == FGD_RATE_OPTIMAL) {
        /* Bottou's heuristic: the first step at weights of a typical size is of that size */
        const double typical = sqrt(1 / sqrt(of->alpha)), slope = w.loss(-typical, 1, of->a).slope;
        state->t0 = 1 / (typical / (slope > 1 ? slope : 1) * of->alpha);
    }
    return FGD_OK;
}

int fgd_online_fit(int dtype, const fgd_online *of, const fgd_online_rows *rows,
                   const fgd_online_model *model, int64_t epochs, fgd_online_state *state) {
    const int code = check(dtype, of, rows, model, state);
    if (code) return code;
    const pass w = pass_of(dtype, of, rows, model);
    fgd_online_state s = *state;
    for (; epochs > 0 && !s.ended; epochs--) run_epoch(&w, &s);
    *state = s;
    return FGD_OK;
}

int fgd_online_judge(const fgd_online *of, double value, fgd_online_state *state) {
    const int code = check_options(of);
    if (code) return code;
    if (!state) return FGD_ERROR_NULL;
    judge(of, value, state);
    return FGD_OK;
}

int fgd_online_finish(int dtype, const fgd_online *of, const fgd_online_rows *rows,
                      const fgd_online_model *model, fgd_online_state *state) {
    const int code = check(dtype, of, rows, model, state);
    if (code) return code;
    const pass w = pass_of(dtype, of, rows, model);
    settle(&w, state);
    return FGD_OK;
}
