/* Orthogonal steps, Jordan et al. 2024. Of the step U of a whole matrix, X = U / |U|, and then ns_steps times
 *   X = (a I + b G + c G^2) X   with   G = X X'   (or from the other side, where G is smaller)
 * which brings all singular values near 1: the iteration of Newton and Schulz, with a slope a that is large
 * at 0. Then  p = decay p - lr X.  Products are in the precision computed in, where torch has bfloat16.
 * All of this works on minus the step, which the body gives; the iteration is odd. */
#include "orthogonal.h"

#include "gemm.h"
#include "pass.h"
#include "scalars.h"

enum { MOST_STEPS = 100 }; /* as in torch; below it */

/* A step being made. */
typedef struct step {
    const job *j;
    const fgd_tensor *t;
    int64_t rows, cols, side; /* side: the shorter of both */
    int real;
    muon_doubles s;
    char *x, *next;       /* [rows, cols] */
    char *gram, *square;  /* [side, side] */
    double factor, scale; /* of the step before the iteration, and after it */
} step;

int fgd_is_orthogonal(const job *j, const fgd_tensor *t) {
    return j->orthogonal && fgd_rule_at(j->groups[t->group].rule)->orthogonal;
}

int fgd_check_orthogonal(const fgd_tensor *t, const fgd_group *group) {
    const double steps = muon_doubles_of(group->scalars).ns_steps;
    if (!(steps >= 0 && steps < MOST_STEPS)) return FGD_ERROR_MATRIX;
    if (t->matrix_rows < 0 || (t->size > 0 && t->matrix_rows == 0)) return FGD_ERROR_MATRIX;
    if (t->size > 0 && t->size % t->matrix_rows) return FGD_ERROR_MATRIX;
    const int64_t cols = t->matrix_rows > 0 ? t->size / t->matrix_rows : 0;
    return fgd_gemm_ready(fgd_real_of(t->dtype), t->matrix_rows, cols, 0);
}

static int64_t aligned(int64_t bytes) {
    return (bytes + FGD_MATRIX_ALIGNMENT - 1) / FGD_MATRIX_ALIGNMENT * FGD_MATRIX_ALIGNMENT;
}

static int64_t side_of(int64_t rows, int64_t cols) { return rows < cols ? rows : cols; }

int64_t fgd_orthogonal_bytes(const fgd_tensor *t) {
    const int64_t huge = INT64_MAX / 64, item = fgd_item_size(fgd_real_of(t->dtype));
    if (t->size <= 0 || t->matrix_rows <= 0) return 0;
    if (t->size > huge / 8) return huge;
    const int64_t side = side_of(t->matrix_rows, t->size / t->matrix_rows);
    return 2 * (aligned(t->size * item) + aligned(side * side * item));
}

static step step_of(const job *j, const fgd_tensor *t) {
    step m = {.j = j, .t = t, .rows = t->matrix_rows, .cols = t->size / t->matrix_rows};
    m.real = fgd_real_of(t->dtype);
    m.s = muon_doubles_of(j->groups[t->group].scalars);
    m.side = side_of(m.rows, m.cols);
    const int64_t item = fgd_item_size(m.real);
    m.x = j->matrices;
    m.next = m.x + aligned(t->size * item);
    m.gram = m.next + aligned(t->size * item);
    m.square = m.gram + aligned(m.side * m.side * item);
    return m;
}

/* ---- Passes over the elements ----------------------------------------------------------------------- */

/* What one thread works on in a pass. */
typedef struct part {
    const step *m;
    pass w;
    int64_t item, from, to; /* bytes of an element; chunks of the tensor */
} part;

static part part_of(const step *m, int number, int parts) {
    const int64_t chunks = fgd_chunks_of(m->t->size);
    part p = {.m = m, .item = fgd_item_size(m->real), .from = chunks / parts * number};
    p.to = number + 1 == parts ? chunks : chunks / parts * (number + 1);
    fgd_prepare_pass(&p.w, m->j, m->t);
    return p;
}

static int64_t end_of(const part *p, int64_t chunk) {
    return chunk + 1 == fgd_chunks_of(p->m->t->size) ? p->m->t->size : (chunk + 1) * FGD_CHUNK;
}

static double *sums_of(const part *p, int64_t chunk) {
    const job *j = p->m->j;
    return j->sums + (j->first_chunk[p->m->t - j->tensors] + chunk) * SUMS;
}

static double total_of(const step *m, int sum) {
    const job *j = m->j;
    const int64_t *first = j->first_chunk + (m->t - j->tensors);
    double total = 0;
    for (int64_t c = first[0]; c < first[1]; c++) total += j->sums[c * SUMS + sum];
    return total;
}

/* Minus the step of a piece, into `at`; the slots as they then are, in slots. Without the parameter, which
 * enters the body only where it decays. */
static void step_piece(const part *p, piece a, void *at, void *const *slots, buffers *b) {
    fgd_prepare left;
    const void *g = fgd_load_gradient(&p->w, a, b, &left);
    memset(at, 0, (size_t)(a.n * p->item));
    fgd_call_rule(&p->w, a.n, at, g, slots, p->w.step, &left);
}

static void measure_step(const void *what, int number, int parts) {
    part p = part_of(what, number, parts);
    void *slots[FGD_MAX_SLOTS];
    buffers b;
    for (int64_t c = p.from; c < p.to; c++) {
        double lanes[FGD_LANES] = {0};
        for (int64_t at = c * FGD_CHUNK; at < end_of(&p, c);) {
            const piece a = fgd_next_piece(&p.w, &at, end_of(&p, c));
            void *x = p.m->x + a.first * p.item;
            fgd_load_slots(&p.w, a, &b, slots, 1);
            step_piece(&p, a, x, slots, &b);
            p.w.kernels->sumsq(a.n, x, lanes);
        }
        sums_of(&p, c)[SUM_OTHER] = fgd_fold_lanes(lanes);
    }
}

static void scale_step(const void *what, int number, int parts) {
    const part p = part_of(what, number, parts);
    const fgd_prepare times = {p.m->factor, INFINITY, 1, 0};
    for (int64_t c = p.from; c < p.to; c++) {
        char *x = p.m->x + c * FGD_CHUNK * p.item;
        p.w.kernels->clip(end_of(&p, c) - c * FGD_CHUNK, x, x, &times);
    }
}

/* Leaves only what descends, and counts it. */
static void keep_descending(const void *what, int number, int parts) {
    const part p = part_of(what, number, parts);
    fgd_prepare left;
    buffers b;
    for (int64_t c = p.from; c < p.to; c++) {
        int64_t count = 0;
        for (int64_t at = c * FGD_CHUNK; at < end_of(&p, c);) {
            const piece a = fgd_next_piece(&p.w, &at, end_of(&p, c));
            const void *g = fgd_load_gradient(&p.w, a, &b, &left);
            p.w.kernels->clip(a.n, b.prepared.bytes, g, &left);
            count += p.w.storage->descending(a.n, p.m->x + a.first * p.item, b.prepared.bytes);
        }
        sums_of(&p, c)[SUM_DESCENDING] = (double)count;
    }
}

static void apply_step(const void *what, int number, int parts) {
    part p = part_of(what, number, parts);
    void *slots[FGD_MAX_SLOTS];
    buffers b;
    for (int64_t at = p.from * FGD_CHUNK; p.from < p.to && at < end_of(&p, p.to - 1);) {
        const piece a = fgd_next_piece(&p.w, &at, end_of(&p, p.to - 1));
        fgd_load_slots(&p.w, a, &b, slots, 0);
        step_piece(&p, a, b.change.bytes, slots, &b);
        void *x = fgd_load_param(&p.w, a, &b, 0);
        p.w.storage->apply(a.n, x, p.m->x + a.first * p.item, p.m->s.decay, p.m->scale);
        fgd_store_update(&p.w, a, x, slots, &b);
    }
}

static void polynomial(const void *what, int number, int parts) {
    const step *m = what;
    const int64_t from = m->side / parts * number;
    const int64_t to = number + 1 == parts ? m->side : m->side / parts * (number + 1);
    fgd_kernels_for(m->real)->polynomial(from, to, m->side, m->s.a, m->s.b, m->s.c, m->gram, m->square);
}

/* ---- The iteration ---------------------------------------------------------------------------------- */

static int orthogonalize(step *m) {
    const int64_t side = m->side, cols = m->cols, length = m->rows + cols - side;
    const int wide = m->rows <= cols, threads = fgd_threads_for(side * side);
    for (int i = 0; i < (int)m->s.ns_steps; i++) {
        int code = fgd_gemm(m->real, wide ? 'N' : 'T', wide ? 'T' : 'N', side, side, length, m->x, cols, m->x,
                            cols, 0, m->gram, side);
        if (!code)
            code = fgd_gemm(m->real, 'N', 'N', side, side, side, m->gram, side, m->gram, side, 0, m->square,
                            side);
        if (code) return code;
        fgd_in_parts(threads, polynomial, m);
        code = fgd_gemm(m->real, 'N', 'N', m->rows, cols, side, wide ? m->square : m->x, wide ? side : cols,
                        wide ? m->x : m->square, wide ? cols : side, 0, m->next, cols);
        if (code) return code;
        char *new = m->next;
        m->next = m->x, m->x = new;
    }
    return FGD_OK;
}

int fgd_orthogonal_step(const job *j, const fgd_tensor *t) {
    if (t->size == 0) return FGD_OK;
    step m = step_of(j, t);
    const int threads = fgd_threads_for(t->size);
    fgd_in_parts(threads, measure_step, &m);
    const double norm = sqrt(total_of(&m, SUM_OTHER));
    m.factor = 1 / (norm < m.s.eps ? m.s.eps : norm), m.scale = m.s.lr;
    fgd_in_parts(threads, scale_step, &m);
    const int code = orthogonalize(&m);
    if (code) return code;
    if (j->groups[t->group].cautious) {
        fgd_in_parts(threads, keep_descending, &m);
        const double share = total_of(&m, SUM_DESCENDING) / (double)t->size;
        m.scale = m.s.lr / (share < 1e-3 ? 1e-3 : share);
    }
    fgd_in_parts(threads, apply_step, &m);
    return FGD_OK;
}
