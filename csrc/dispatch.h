/* What the entry points share: the kernels of the instruction set in use, how many threads to start, and
 * what the caches hold. */
#ifndef FGD_DISPATCH_H
#define FGD_DISPATCH_H

#include "added.h"
#include "attention_kernels.h"
#include "batch_norm_kernels.h"
#include "conv_kernels.h"
#include "dropout_kernels.h"
#include "embedding_kernels.h"
#include "kernels.h"
#include "layer_kernels.h"
#include "layer_norm_kernels.h"
#include "online_kernels.h"
#include "pool_kernels.h"
#include "recurrent_kernels.h"
#include "softmax_kernels.h"
#include "storage_kernels.h"
#include "stored_kernels.h"

/* Every table that an instruction set and a precision fill; X takes the set's name and the table's. */
#define FGD_TABLES(X, isa) \
    X(isa, kernels) \
    X(isa, storage) \
    X(isa, stored) \
    X(isa, layers) \
    X(isa, layer_norms) \
    X(isa, softmaxes) \
    X(isa, embeddings) \
    X(isa, dropouts) \
    X(isa, batch_norms) \
    X(isa, convs) \
    X(isa, pools) \
    X(isa, recurrents) \
    X(isa, attentions) \
    X(isa, onlines)

/* fgd_kernels_for(real) and so on: the table of the instruction set in use, for what is computed in, FGD_F32
 * or FGD_F64. */
#define FGD_DECLARE_TABLE(isa, table) const fgd_##table *fgd_##table##_for(int real);
FGD_TABLES(FGD_DECLARE_TABLE, )

/* A rule's loop: of the instruction set in use, or as it was added. */
static inline fgd_update_kernel fgd_update_for(const fgd_kernels *kernels, int real, int rule) {
    return rule < FGD_RULE_COUNT ? kernels->update[rule] : fgd_added_update(rule, real);
}

/* Threads worth starting for this many element updates: 1 for little work and in a forked child. */
int fgd_threads_for(int64_t elements);

/* cache.c: whether of so many bytes, read once a step, the first are gone from the caches at the next. */
int fgd_is_beyond_caches(double bytes);

/* Calls work(what, part, parts) in every thread of a team that is opened for it; threads of 1: just so. */
void fgd_in_parts(int threads, void (*work)(const void *what, int part, int parts), const void *what);

/* Bytes of an element by fgd_dtype. */
static inline int64_t fgd_item_size(int dtype) {
    static const int8_t sizes[] = {
        [FGD_F32] = 4, [FGD_F64] = 8, [FGD_BF16] = 2, [FGD_F16] = 2, [FGD_CODES] = 1};
    return sizes[dtype];
}

/* What numbers of this dtype are computed in. */
static inline int fgd_real_of(int dtype) { return dtype == FGD_F64 ? FGD_F64 : FGD_F32; }

#endif
