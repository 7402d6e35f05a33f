/* Programs: operations, each a call of an entry, that run one after the other in one call. */
#include "program.h"

#include <stddef.h>
#include <string.h>

#include "gemm.h"
#include "ops.def"

#ifdef _OPENMP
#include <omp.h>
#endif

#define SIZES_1 s[0]
#define SIZES_2 SIZES_1, s[1]
#define SIZES_3 SIZES_2, s[2]
#define SIZES_4 SIZES_3, s[3]
#define SIZES_5 SIZES_4, s[4]
#define SIZES_6 SIZES_5, s[5]
#define SIZES_7 SIZES_6, s[6]
#define POINTERS_1 p[0]
#define POINTERS_2 POINTERS_1, p[1]
#define POINTERS_3 POINTERS_2, p[2]
#define POINTERS_4 POINTERS_3, p[3]
#define POINTERS_5 POINTERS_4, p[4]
#define POINTERS_6 POINTERS_5, p[5]
#define POINTERS_7 POINTERS_6, p[6]
#define POINTERS_8 POINTERS_7, p[7]
#define POINTERS_9 POINTERS_8, p[8]
#define POINTERS_10 POINTERS_9, p[9]
#define POINTERS_11 POINTERS_10, p[10]
#define POINTERS_12 POINTERS_11, p[11]
#define POINTERS_13 POINTERS_12, p[12]
#define POINTERS_14 POINTERS_13, p[13]
#define POINTERS_15 POINTERS_14, p[14]
#define POINTERS_16 POINTERS_15, p[15]
#define POINTERS_17 POINTERS_16, p[16]
#define POINTERS_18 POINTERS_17, p[17]
#define POINTERS_19 POINTERS_18, p[18]
#define POINTERS_20 POINTERS_19, p[19]
#define POINTERS_21 POINTERS_20, p[20]
#define POINTERS_22 POINTERS_21, p[21]
#define POINTERS_23 POINTERS_22, p[22]
#define POINTERS_24 POINTERS_23, p[23]

#define CALL(name, n_sizes, n_pointers)                                         \
    static int call_##name(const fgd_op *op) {                                  \
        const int64_t *s = op->sizes;                                           \
        void *const *p = op->pointers;                                          \
        return fgd_##name(op->dtype, op->of, SIZES_##n_sizes, POINTERS_##n_pointers); \
    }
FGD_OPS(CALL)

#define CALLED(name, n_sizes, n_pointers) call_##name,
static int (*const calls[])(const fgd_op *op) = {FGD_OPS(CALLED)};

#define INFO(name, n_sizes, n_pointers) {#name, n_sizes, n_pointers},
static const fgd_op_info infos[] = {FGD_OPS(INFO)};
enum { OP_COUNT = sizeof infos / sizeof infos[0] };

int fgd_op_count(void) { return OP_COUNT; }

const fgd_op_info *fgd_op_at(int entry) { return entry < 0 || entry >= OP_COUNT ? NULL : &infos[entry]; }

int fgd_op_find(const char *name) {
    for (int entry = 0; name && entry < OP_COUNT; entry++)
        if (strcmp(infos[entry].name, name) == 0) return entry;
    return FGD_ERROR_OP;
}

int fgd_check_ops(const fgd_op *ops, int64_t n_ops, int64_t *failed) {
    if (!failed) return FGD_ERROR_NULL;
    *failed = -1;
    if (n_ops < 0) return FGD_ERROR_SIZE;
    if (n_ops && !ops) return FGD_ERROR_NULL;
    for (int64_t i = 0; i < n_ops; i++) {
        if (fgd_op_at(ops[i].entry)) continue;
        *failed = i;
        return FGD_ERROR_OP;
    }
    return FGD_OK;
}

int fgd_run_op(const fgd_op *op) { return calls[op->entry](op); }

int fgd_run(const fgd_op *ops, int64_t n_ops, int64_t *failed) {
    int code = fgd_check_ops(ops, n_ops, failed);
    for (int64_t i = 0; !code && i < n_ops; i++) {
        code = fgd_run_op(&ops[i]);
        if (code) *failed = i;
    }
    return code;
}

typedef struct together {
    const fgd_program *programs;
    int64_t *failed;
    int code;
} together;

static void run_one(together *t, int64_t i) {
    int64_t op;
    const int code = fgd_run(t->programs[i].ops, t->programs[i].n_ops, &op);
    if (!code) return;
#pragma omp critical
    if (t->failed[0] < 0 || i < t->failed[0]) {
        t->code = code;
        t->failed[0] = i;
        t->failed[1] = op;
    }
}

/* The threads for n programs; 1 within a parallel region, whose threads have work of their own. */
static int threads_for(int64_t n) {
#ifdef _OPENMP
    if (omp_in_parallel()) return 1;
#endif
    const int64_t most = fgd_get_num_threads();
    return (int)(n < most ? n : most);
}

int fgd_run_together(const fgd_program *programs, int64_t n_programs, int64_t *failed) {
    if (!failed) return FGD_ERROR_NULL;
    failed[0] = failed[1] = -1;
    if (n_programs < 0) return FGD_ERROR_SIZE;
    if (n_programs && !programs) return FGD_ERROR_NULL;
    together t = {.programs = programs, .failed = failed, .code = FGD_OK};
    const int threads = threads_for(n_programs);
    if (threads < 2) {
        for (int64_t i = 0; !t.code && i < n_programs; i++) run_one(&t, i);
        return t.code;
    }
    const int singles = fgd_gemm_limit(FGD_F32), doubles = fgd_gemm_limit(FGD_F64);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < n_programs; i++) run_one(&t, i);
    fgd_gemm_restore(FGD_F32, singles);
    fgd_gemm_restore(FGD_F64, doubles);
    return t.code;
}
