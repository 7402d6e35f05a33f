/* Loading and storing a piece of an operand, whatever it is stored in and wherever it lies. */
#include "view.h"

void *fgd_load(const view *v, int64_t first, int64_t n, void *buffer, int keep) {
    char packed[PIECE_BYTES] __attribute__((aligned(64)));
    const fgd_storage *s = fgd_storage_for(v->real);
    if (v->in_place && !keep) return v->where.base + first * v->where.item;
    if (v->dtype == v->real) {
        void *run = fgd_run_in(v, first, n, buffer);
        return run == buffer ? run : memcpy(buffer, run, (size_t)(n * v->where.item));
    }
    const void *run = fgd_run_in(v, first, n, packed);
    if (v->dtype == FGD_CODES)
        s->load_codes(n, run, v->scales + first / FGD_BLOCK, buffer, v->is_unsigned);
    else s->load[v->dtype](n, run, buffer);
    return buffer;
}

void fgd_store(const view *v, int64_t first, int64_t n, void *real, const fgd_noise *noise) {
    char packed[PIECE_BYTES] __attribute__((aligned(64)));
    const fgd_storage *s = fgd_storage_for(v->real);
    if (v->dtype == v->real) {
        void *run = fgd_run_out(v, first, real);
        if (run != real) memcpy(run, real, (size_t)(n * v->where.item));
        fgd_run_done(v, first, n, real);
        return;
    }
    void *run = fgd_run_out(v, first, packed);
    if (v->dtype == FGD_CODES)
        s->store_codes(n, real, run, v->scales + first / FGD_BLOCK, v->is_unsigned, noise);
    else s->store[v->dtype](n, real, run, v->is_unsigned, noise);
    fgd_run_done(v, first, n, packed);
}
