/* Measuring gradients: norms from sums over chunks in a fixed order, and the first element not finite. */
#include <float.h>
#include <math.h>

#include "job.h"
#include "operand.h"

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

static double measure_chunk(const chunk *c, measurement what, const fgd_prepare *prepare, double scale) {
    const fgd_kernels *k = fgd_kernels_for(c->tensor->dtype);
    const int64_t item = fgd_item_size(c->tensor->dtype);
    const fgd_operand g = fgd_operand_of(c->tensor->grad, c->tensor->layout, GRAD_ROW, item);
    double lanes[FGD_LANES] = {0}, largest = 0;
    if (fgd_is_direct(&g)) {
        largest = measure_run(k, what, c->n, g.base + c->offset * item, prepare, scale, lanes, largest);
    } else {
        double packed[GATHER];
        for (int64_t i = 0; i < c->n && !isnan(largest); i += GATHER) {
            const int64_t n = c->n - i < GATHER ? c->n - i : GATHER;
            fgd_gather(&g, c->offset + i, n, packed);
            largest = measure_run(k, what, n, packed, prepare, scale, lanes, largest);
        }
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
    j->partial[c] = measure_chunk(&piece, what_to_measure(j->options), &prepare, 1);
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

/* The first element that is not finite in chunks [from, to), in memory order; 0 when there is none. */
static int find_nonfinite(const job *j, int64_t from, int64_t to, int64_t *tensor, int64_t *element) {
    int64_t cursor = 0;
    for (int64_t at = from; at < to; at++) {
        if (isfinite(j->partial[at])) continue;
        const chunk c = fgd_chunk_at(j, at, &cursor);
        const int64_t item = fgd_item_size(c.tensor->dtype);
        const fgd_operand g = fgd_operand_of(c.tensor->grad, c.tensor->layout, GRAD_ROW, item);
        for (int64_t i = 0; i < c.n; i++) {
            double value;
            float narrow;
            if (item == 8) {
                fgd_gather(&g, c.offset + i, 1, &value);
            } else {
                fgd_gather(&g, c.offset + i, 1, &narrow);
                value = (double)narrow;
            }
            if (!isfinite(value)) {
                *tensor = cursor;
                *element = c.offset + i;
                return 1;
            }
        }
    }
    return 0;
}

/* Sums the squares of chunks [from, to) again, scaled by a power of two that brings the largest element
 * near 1: needed only where plain squares overflow or underflow. */
static double scaled_norm(const job *j, int64_t from, int64_t to, double *sumsq) {
    const fgd_prepare plain = {1, INFINITY, 1}, prepare = fgd_before_norm(j->options);
    double largest = 0, total = 0;
    int64_t cursor = 0;
    for (int64_t c = from; c < to; c++) {
        const chunk piece = fgd_chunk_at(j, c, &cursor);
        const double m = measure_chunk(&piece, MAXABS, &plain, 1);
        largest = m > largest ? m : largest;
    }
    largest = fmin(largest * prepare.unscale, prepare.bound);
    if (largest == 0) return *sumsq = 0;
    int exponent = isinf(largest) ? DBL_MAX_EXP : ilogb(largest);
    if (exponent < -1000) exponent = -1000;
    cursor = 0;
    for (int64_t c = from; c < to; c++) {
        const chunk piece = fgd_chunk_at(j, c, &cursor);
        total += measure_chunk(&piece, SUMSQ_PREPARED, &prepare, ldexp(1, -exponent));
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

void fgd_finish_measure(const job *j, double *norms) {
    fgd_report *r = j->report;
    const measurement what = what_to_measure(j->options);
    const double folded = fold(j->partial, 0, j->n_chunks, what);
    r->measured = 1;
    if (!isfinite(folded)) find_nonfinite(j, 0, j->n_chunks, &r->nonfinite_tensor, &r->nonfinite_element);
    r->norm = norm_of(j, 0, j->n_chunks, folded, r->nonfinite_tensor < 0, &r->sumsq);
    if (!isinf(j->options->clip_norm)) {
        const double coef = j->options->clip_norm / (r->norm + 1e-6);
        r->clip_coef = coef > 1 ? 1 : coef;
    }
    /* finite elements of float64 may have a norm beyond it, by which nothing can be clipped */
    r->skipped = j->options->skip_nonfinite && (r->nonfinite_tensor >= 0 || !isfinite(r->norm));
    for (int64_t t = 0; norms && t < j->n_tensors; t++) {
        const int64_t from = j->first_chunk[t], to = j->first_chunk[t + 1];
        const double own = fold(j->partial, from, to, what);
        int64_t tensor, element;
        double sumsq;
        const int finite = isfinite(own) || !find_nonfinite(j, from, to, &tensor, &element);
        norms[t] = norm_of(j, from, to, own, finite, &sumsq);
    }
}
