/* Measuring gradients: norms from sums over chunks in a fixed order, and the first element not finite. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "job.h"
#include "view.h"

/* Squares of float64 may overflow, or lose bits below this sum; then they are taken again, scaled. */
#define TINY_SUM 1e-280

typedef enum measurement { SUMSQ, SUMSQ_PREPARED, MAXABS } measurement;

static double measure_run(const fgd_kernels *k, measurement what, int64_t n, const void *g,
                          const fgd_prepare *prepare, double scale, double *lanes, double largest) {
    switch (what) {
        case SUMSQ: k->sumsq(n, g, lanes); return 0;
        case SUMSQ_PREPARED: k->sumsq_prepared(n, g, prepare, scale, lanes); return 0;
        case MAXABS: break;
    }
    const double m = k->maxabs(n, g);
    return m > largest || isnan(m) ? m : largest;
}

static double measure_chunk(const job *j, const chunk *c, measurement what, const fgd_prepare *prepare,
                            double scale) {
    const fgd_tensor *t = c->tensor;
    const int real = fgd_gradient_real(j, t);
    const fgd_kernels *k = fgd_kernels_for(real);
    const view g = fgd_view_of(t->grad, t->grad_dtype, real, t->layout, GRAD_ROW);
    const int64_t end = c->offset + c->n, most = g.in_place ? c->n : PIECE;
    char buffer[PIECE_BYTES] __attribute__((aligned(64)));
    double lanes[FGD_LANES] = {0}, largest = 0;
    for (int64_t at = c->offset; at < end && !isnan(largest); at += most) {
        const int64_t n = end - at < most ? end - at : most;
        largest = measure_run(k, what, n, fgd_load(&g, at, n, buffer, 0), prepare, scale, lanes, largest);
    }
    return what == MAXABS ? largest : fgd_fold_lanes(lanes);
}

static measurement what_to_measure(const fgd_options *o) {
    if (o->norm == FGD_NORM_INF) return MAXABS;
    return isinf(o->clip_value) ? SUMSQ : SUMSQ_PREPARED;
}

void fgd_measure_chunk(const job *j, int64_t c, int64_t *cursor) {
    const chunk piece = fgd_chunk_at(j, c, cursor);
    const fgd_prepare prepare = fgd_before_norm(j->options);
    j->partial[c] = measure_chunk(j, &piece, what_to_measure(j->options), &prepare, 1);
}

/* Partial results of chunks [from, to) put together in order. */
static double fold(const double *partial, int64_t from, int64_t to, measurement what) {
    double total = 0;
    for (int64_t c = from; c < to; c++) {
        if (what != MAXABS) total += partial[c];
        else if (partial[c] > total || isnan(partial[c])) total = partial[c];
        if (what == MAXABS && isnan(total)) break;
    }
    return total;
}

static int64_t first_nonfinite(const job *j, const chunk *c) {
    const fgd_tensor *t = c->tensor;
    const int real = fgd_gradient_real(j, t);
    const view g = fgd_view_of(t->grad, t->grad_dtype, real, t->layout, GRAD_ROW);
    for (int64_t i = c->offset; i < c->offset + c->n; i++) {
        double number; /* or a float in its first half */
        float narrow;
        const void *at = fgd_load(&g, i, 1, &number, 1);
        memcpy(&narrow, at, sizeof narrow);
        if (real == FGD_F64 ? !isfinite(number) : !isfinite(narrow)) return i;
    }
    return -1;
}

/* The first element that is not finite in chunks [from, to), in memory order; 0 when there is none. */
static int find_nonfinite(const job *j, int64_t from, int64_t to, int64_t *tensor, int64_t *element) {
    int64_t cursor = 0;
    for (int64_t at = from; at < to; at++) {
        if (isfinite(j->partial[at])) continue;
        const chunk c = fgd_chunk_at(j, at, &cursor);
        const int64_t i = first_nonfinite(j, &c);
        if (i >= 0) {
            *tensor = cursor;
            *element = i;
            return 1;
        }
    }
    return 0;
}

/* Sums the squares of chunks [from, to) again, scaled by a power of two that brings the largest element
 * near 1: needed only where plain squares overflow or underflow. */
static double scaled_norm(const job *j, int64_t from, int64_t to, double *sumsq) {
    const fgd_prepare plain = {1, INFINITY, 1, 0}, prepare = fgd_before_norm(j->options);
    double largest = 0, total = 0;
    int64_t cursor = 0;
    for (int64_t c = from; c < to; c++) {
        const chunk piece = fgd_chunk_at(j, c, &cursor);
        const double m = measure_chunk(j, &piece, MAXABS, &plain, 1);
        largest = m > largest ? m : largest;
    }
    largest = fmin(largest * prepare.unscale, prepare.bound);
    if (largest == 0) return *sumsq = 0;
    int exponent = isinf(largest) ? DBL_MAX_EXP : ilogb(largest);
    if (exponent < -1000) exponent = -1000;
    cursor = 0;
    for (int64_t c = from; c < to; c++) {
        const chunk piece = fgd_chunk_at(j, c, &cursor);
        total += measure_chunk(j, &piece, SUMSQ_PREPARED, &prepare, ldexp(1, -exponent));
    }
    *sumsq = ldexp(total, 2 * exponent);
    return ldexp(sqrt(total), exponent);
}

/* The norm of chunks [from, to) given their folded partial results. */
static double norm_of(const job *j, int64_t from, int64_t to, double folded, int finite, double *sumsq) {
    const fgd_prepare prepare = fgd_before_norm(j->options);
    const measurement what = what_to_measure(j->options);
    if (what == MAXABS) {
        /* a bound would hide an infinity; as with the 2-norm it becomes NaN */
        const double m = isinf(folded) && !isinf(prepare.bound) ? NAN : folded * prepare.unscale;
        const double norm = m > prepare.bound ? prepare.bound : m;
        *sumsq = norm * norm;
        return norm;
    }
    if (finite && (!isfinite(folded) || folded < TINY_SUM)) return scaled_norm(j, from, to, sumsq);
    const double unscale = what == SUMSQ ? prepare.unscale : 1;
    *sumsq = folded * unscale * unscale;
    return sqrt(folded) * unscale;
}

static double coef_of(const fgd_options *o, double norm) {
    const double coef = o->clip_norm / (norm + 1e-6);
    if (isinf(o->clip_norm) || (o->normalize && norm == 0)) return 1;
    return coef > 1 && !o->normalize ? 1 : coef;
}

static double norm_of_tensors(const job *j, int64_t first, int64_t end) {
    const int64_t from = j->first_chunk[first], to = j->first_chunk[end];
    const double folded = fold(j->partial, from, to, what_to_measure(j->options));
    int64_t tensor, element;
    double sumsq;
    const int finite = isfinite(folded) || !find_nonfinite(j, from, to, &tensor, &element);
    return norm_of(j, from, to, folded, finite, &sumsq);
}

/* Coefficients by the norms of groups of tensors, or of each tensor; the smallest goes into the report. */
static void finish_scopes(const job *j) {
    const int each = j->options->scope == FGD_SCOPE_TENSOR;
    for (int64_t t = 0, next; t < j->n_tensors; t = next) {
        for (next = t + 1; next < j->n_tensors && !each;)
            if (j->tensors[next].norm_group == j->tensors[t].norm_group) next++;
            else break;
        const double coef = coef_of(j->options, norm_of_tensors(j, t, next));
        for (int64_t i = t; i < next; i++) j->factors[i].coef = coef;
        j->report->clip_coef = t == 0 ? coef : fgd_smaller(j->report->clip_coef, coef);
    }
}

void fgd_finish_measure(const job *j) {
    fgd_report *r = j->report;
    const fgd_options *o = j->options;
    const measurement what = what_to_measure(o);
    r->measured = 1;
    if (j->measure) {
        const double folded = fold(j->partial, 0, j->n_chunks, what);
        if (!isfinite(folded)) find_nonfinite(j, 0, j->n_chunks, &r->nonfinite_tensor, &r->nonfinite_element);
        r->norm = norm_of(j, 0, j->n_chunks, folded, r->nonfinite_tensor < 0, &r->sumsq);
    }
    if (!(o->total_norm < 0)) r->norm = o->total_norm;
    if (o->scope == FGD_SCOPE_ALL) r->clip_coef = coef_of(o, r->norm);
    else if (!isinf(o->clip_norm)) finish_scopes(j);
    /* finite elements of float64 may have a norm beyond it, by which nothing can be clipped */
    r->skipped = o->skip_nonfinite && (r->nonfinite_tensor >= 0 || !isfinite(r->norm));
    for (int64_t t = 0; j->norms && t < j->n_tensors; t++) j->norms[t] = norm_of_tensors(j, t, t + 1);
}
