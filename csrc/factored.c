/* Second moments by rows R and columns C, Shazeer and Stern 2018, algorithm 4, with means as in torch:
 *   R = R + (1 - beta2) (mean of g^2 over the row - R);   C likewise over the column
 *   root of an element's second moment = sqrt(R / max(mean of R over the matrix, eps1)) sqrt(C)
 * All of it in float64 and in a fixed order: a row over FGD_LANES lanes, a column down each band of rows,
 * bands one after the other. */
#include "factored.h"

#include "pass.h"
#include "scalars.h"

/* A band of rows up to FGD_CHUNK long has so many; of longer ones fewer, and about as many elements. */
enum { BAND = 64, BAND_ELEMENTS = BAND * FGD_CHUNK };

int fgd_is_factored(const job *j, const fgd_tensor *t) {
    const fgd_group *group = &j->groups[t->group];
    const fgd_rule *rule = fgd_rule_at(group->rule);
    return rule->row_slot >= 0 && fgd_uses_slot(rule, group, rule->row_slot);
}

static moments shape_of(const fgd_tensor *t) {
    moments m = {.rows = t->factor_rows, .cols = t->factor_cols};
    m.count = t->size / m.cols / m.rows;
    m.band = m.cols <= FGD_CHUNK ? BAND : m.cols < BAND_ELEMENTS ? BAND_ELEMENTS / m.cols : 1;
    m.bands = m.rows / m.band + (m.rows % m.band != 0);
    return m;
}

int64_t fgd_moments_words(const fgd_tensor *t) {
    const int64_t huge = INT64_MAX / 64; /* beyond any memory, and may still be multiplied by 8 */
    if (t->size <= 0 || t->factor_rows <= 0 || t->factor_cols <= 0) return 0;
    if (t->size > huge / 8) return huge;
    const moments m = shape_of(t);
    if (m.count == 0) return 0;
    const int64_t factors = m.count * (m.rows + m.cols) * fgd_item_size(fgd_real_of(t->dtype));
    return m.count * (m.rows + m.bands * m.cols) + (factors + 7) / 8;
}

moments fgd_moments_of(const job *j, const fgd_tensor *t) {
    moments m = shape_of(t);
    m.row_sums = j->moments + j->first_moment[t - j->tensors];
    m.col_sums = m.row_sums + m.count * m.rows;
    m.row_factors = (char *)(m.col_sums + m.count * m.bands * m.cols);
    m.col_factors = m.row_factors + m.count * m.rows * fgd_item_size(fgd_real_of(t->dtype));
    return m;
}

/* The next tensor from *t on that is factored and has elements in chunks [from, to); or NULL. */
static const fgd_tensor *next_factored(const job *j, int64_t *t, int64_t from, int64_t to) {
    for (; *t < j->n_tensors; ++*t) {
        const fgd_tensor *tensor = &j->tensors[*t];
        if (tensor->size == 0 || !fgd_is_factored(j, tensor)) continue;
        if (j->first_chunk[*t + 1] > from && j->first_chunk[*t] < to) return tensor;
    }
    return NULL;
}

/* Whether the element of the pass's tensor lies in chunks [from, to). */
static int begins_in(const pass *w, int64_t element, int64_t from, int64_t to) {
    const int64_t chunk = w->j->first_chunk[w->t - w->j->tensors] + element / FGD_CHUNK;
    return chunk >= from && chunk < to;
}

/* ---- Squares ---------------------------------------------------------------------------------------- */

static const void *prepared(const pass *w, int64_t first, int64_t n, buffers *b) {
    const piece a = {first, first, n};
    fgd_prepare left;
    const void *g = fgd_load_gradient(w, a, b, &left);
    w->kernels->clip(n, b->prepared.bytes, g, &left);
    return b->prepared.bytes;
}

/* A band from row `row` of all matrices on. */
static void add_band(const pass *w, const moments *m, int64_t row, int64_t rows, double *col_sums,
                     buffers *b) {
    memset(col_sums, 0, (size_t)m->cols * sizeof *col_sums);
    const int64_t at_once = m->cols <= PIECE ? PIECE / m->cols : 1;
    for (int64_t r = row; r < row + rows; r += at_once) {
        const int64_t n = row + rows - r < at_once ? row + rows - r : at_once;
        if (m->cols <= PIECE) {
            w->kernels->squares(1, n, m->cols, prepared(w, r * m->cols, n * m->cols, b), m->row_sums + r,
                                col_sums);
            continue;
        }
        double lanes[FGD_LANES] = {0};
        for (int64_t c = 0; c < m->cols; c += PIECE) {
            const int64_t part = m->cols - c < PIECE ? m->cols - c : PIECE;
            w->kernels->squares_of_row(part, prepared(w, r * m->cols + c, part, b), lanes, col_sums + c);
        }
        m->row_sums[r] = fgd_fold_lanes(lanes);
    }
}

static void add_bands(const pass *w, const moments *m, int64_t from, int64_t to, buffers *b) {
    for (int64_t i = 0; i < m->count * m->bands; i++) {
        const int64_t in_matrix = i % m->bands * m->band, row = i / m->bands * m->rows + in_matrix;
        const int64_t left = m->rows - in_matrix, rows = left < m->band ? left : m->band;
        if (begins_in(w, row * m->cols, from, to)) add_band(w, m, row, rows, m->col_sums + i * m->cols, b);
    }
}

/* Several matrices at once, where each is a single band and they fit. */
static void add_matrices(const pass *w, const moments *m, int64_t from, int64_t to, buffers *b) {
    const int64_t size = m->rows * m->cols, at_once = PIECE / size;
    for (int64_t k = 0; k < m->count; k += at_once) {
        const int64_t n = m->count - k < at_once ? m->count - k : at_once;
        double *col_sums = m->col_sums + k * m->cols;
        if (!begins_in(w, k * size, from, to)) continue;
        memset(col_sums, 0, (size_t)(n * m->cols) * sizeof *col_sums);
        w->kernels->squares(n, m->rows, m->cols, prepared(w, k * size, n * size, b),
                            m->row_sums + k * m->rows, col_sums);
    }
}

void fgd_sum_squares(const job *j, int64_t from, int64_t to) {
    const fgd_tensor *t;
    pass w;
    buffers b;
    for (int64_t i = 0; (t = next_factored(j, &i, from, to)); i++) {
        const moments m = fgd_moments_of(j, t);
        fgd_prepare_pass(&w, j, t);
        if (m.bands == 1 && m.rows <= PIECE / m.cols) add_matrices(&w, &m, from, to, &b);
        else add_bands(&w, &m, from, to, &b);
    }
}

/* ---- New moments ------------------------------------------------------------------------------------ */

typedef struct lines {
    double of[PIECE];
} lines;

/* What is kept of the averages of rows or columns [first, first + n), which become those with `sums` in
 * them. */
static void take_in(const pass *w, int slot, int64_t first, int64_t n, double length, const lines *sums,
                    lines *moment) {
    const adafactor_doubles s = adafactor_doubles_of(w->group->scalars);
    const fgd_noise noise = fgd_slot_noise(w, slot, first);
    view kept = fgd_view_of(w->t->state[slot], w->t->state_dtype[slot], FGD_F64, NULL, SLOT_ROW + slot);
    kept.scales = w->t->scales[slot], kept.is_unsigned = w->rule->slot_unsigned[slot];
    fgd_load(&kept, first, n, moment->of, 1);
    for (int64_t i = 0; i < n; i++)
        moment->of[i] = moment->of[i] + s.one_minus_beta2 * (sums->of[i] / length - moment->of[i]);
    fgd_store(&kept, first, n, moment->of, w->group->state_rounding == FGD_STOCHASTIC ? &noise : NULL);
}

static void put(char *factors, int real, int64_t i, double value) {
    if (real == FGD_F64) ((double *)(void *)factors)[i] = value;
    else ((float *)(void *)factors)[i] = (float)value;
}

/* The new moments of rows stay in row_sums until the mean of a matrix is known. */
static void update_rows(const pass *w, const moments *m, int64_t first, int64_t n) {
    lines sums, moment;
    memcpy(sums.of, m->row_sums + first, (size_t)n * sizeof *sums.of);
    take_in(w, w->rule->row_slot, first, n, (double)m->cols, &sums, &moment);
    memcpy(m->row_sums + first, moment.of, (size_t)n * sizeof *moment.of);
}

static void update_cols(const pass *w, const moments *m, int64_t first, int64_t n) {
    lines sums = {{0}}, moment;
    for (int64_t i = 0, run; i < n; i += run) {
        const int64_t matrix = (first + i) / m->cols, col = (first + i) % m->cols;
        run = m->cols - col < n - i ? m->cols - col : n - i;
        for (int64_t band = 0; band < m->bands; band++) {
            const double *partial = m->col_sums + (matrix * m->bands + band) * m->cols + col;
            for (int64_t k = 0; k < run; k++) sums.of[i + k] += partial[k];
        }
    }
    take_in(w, w->rule->col_slot, first, n, (double)m->rows, &sums, &moment);
    for (int64_t i = 0; i < n; i++) put(m->col_factors, w->real, first + i, sqrt(moment.of[i]));
}

void fgd_update_moments(const job *j, int part, int parts) {
    const fgd_tensor *t;
    int64_t total = 0, at = 0;
    pass w;
    for (int64_t i = 0; (t = next_factored(j, &i, 0, j->n_chunks)); i++) {
        const moments m = fgd_moments_of(j, t);
        total += fgd_pieces_of(m.count * m.rows) + fgd_pieces_of(m.count * m.cols);
    }
    const int64_t from = total / parts * part, to = part + 1 == parts ? total : total / parts * (part + 1);
    for (int64_t i = 0; (t = next_factored(j, &i, 0, j->n_chunks)); i++) {
        const moments m = fgd_moments_of(j, t);
        const int64_t rows = m.count * m.rows, cols = m.count * m.cols;
        const int64_t row_pieces = fgd_pieces_of(rows), pieces = row_pieces + fgd_pieces_of(cols);
        if (at < to && at + pieces > from) fgd_prepare_pass(&w, j, t);
        for (int64_t k = 0; k < pieces; k++, at++) {
            const int64_t first = (k < row_pieces ? k : k - row_pieces) * PIECE;
            const int64_t left = (k < row_pieces ? rows : cols) - first, n = left < PIECE ? left : PIECE;
            if (at < from || at >= to) continue;
            if (k < row_pieces) update_rows(&w, &m, first, n);
            else update_cols(&w, &m, first, n);
        }
    }
}

void fgd_finish_moments(const job *j, int64_t from, int64_t to) {
    const fgd_tensor *t;
    pass w;
    for (int64_t i = 0; (t = next_factored(j, &i, from, to)); i++) {
        const moments m = fgd_moments_of(j, t);
        fgd_prepare_pass(&w, j, t);
        const adafactor_doubles s = adafactor_doubles_of(w.group->scalars);
        for (int64_t k = 0; k < m.count; k++) {
            const double *rows = m.row_sums + k * m.rows;
            double sum = 0;
            if (!begins_in(&w, k * m.rows * m.cols, from, to)) continue;
            for (int64_t row = 0; row < m.rows; row++) sum += rows[row];
            const double mean = sum / (double)m.rows, divisor = mean < s.eps1 ? s.eps1 : mean;
            for (int64_t row = 0; row < m.rows; row++)
                put(m.row_factors, w.real, k * m.rows + row, sqrt(rows[row] / divisor));
        }
    }
}
