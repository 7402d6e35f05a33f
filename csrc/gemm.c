/* The matrix product, which is not ours: the function the caller has set, in its own calling convention. */
#include "gemm.h"

#include <stddef.h>
#include <string.h>

#include "dispatch.h"

#ifdef _OPENMP
#include <omp.h>
#endif

/* Fortran's interface with 32-bit sizes, as SciPy exports it; matrices in column order. */
typedef void (*blas_sgemm)(const char *transa, const char *transb, const int *m, const int *n, const int *k,
                           const float *alpha, const float *a, const int *lda, const float *b, const int *ldb,
                           const float *beta, float *c, const int *ldc);
typedef void (*blas_dgemm)(const char *transa, const char *transb, const int *m, const int *n, const int *k,
                           const double *alpha, const double *a, const int *lda, const double *b,
                           const int *ldb, const double *beta, double *c, const int *ldc);

static struct {
    int kind;
    fgd_function function;
    fgd_threads_getter get_threads;
    fgd_threads_setter set_threads;
} set[2]; /* by fgd_dtype */

int fgd_set_gemm(int dtype, int kind, fgd_function function) {
    if (dtype != FGD_F32 && dtype != FGD_F64) return FGD_ERROR_DTYPE;
    if (kind < FGD_GEMM_NONE || kind > FGD_GEMM_BLAS) return FGD_ERROR_OPTION;
    if (kind != FGD_GEMM_NONE && !function) return FGD_ERROR_NULL;
    set[dtype].kind = kind;
    set[dtype].function = function;
    set[dtype].get_threads = NULL;
    set[dtype].set_threads = NULL;
    return FGD_OK;
}

int fgd_set_gemm_threads(int dtype, fgd_threads_getter getter, fgd_threads_setter setter) {
    if (dtype != FGD_F32 && dtype != FGD_F64) return FGD_ERROR_DTYPE;
    if (!getter != !setter) return FGD_ERROR_NULL;
    set[dtype].get_threads = getter;
    set[dtype].set_threads = setter;
    return FGD_OK;
}

int fgd_gemm_nests(int dtype) {
    return set[dtype].kind == FGD_GEMM_ROW_MAJOR && !set[dtype].set_threads;
}

int fgd_gemm_ready(int dtype, int64_t m, int64_t n, int64_t k) {
    if (dtype != FGD_F32 && dtype != FGD_F64) return FGD_ERROR_DTYPE;
    if (m < 0 || n < 0 || k < 0) return FGD_ERROR_SIZE;
    if (set[dtype].kind == FGD_GEMM_NONE) return FGD_ERROR_GEMM;
    if (set[dtype].kind == FGD_GEMM_BLAS && (m > INT32_MAX || n > INT32_MAX || k > INT32_MAX))
        return FGD_ERROR_SIZE;
    return FGD_OK;
}

/* In column order the same memory holds the transposed matrices, and  c' = b' a'. */
#define PRODUCT(prefix, real, dtype)                                            \
    static int prefix##_product(char transa, char transb, int64_t m, int64_t n, int64_t k, const real *a, \
                                int64_t lda, const real *b, int64_t ldb, real beta, real *c, int64_t ldc) { \
        const real alpha = 1;                                                   \
        if (set[dtype].kind == FGD_GEMM_ROW_MAJOR)                              \
            return ((fgd_##prefix)set[dtype].function)(transa, transb, m, n, k, alpha, a, lda, b, ldb,  \
                                                       beta, c, ldc);           \
        const int m32 = (int)m, n32 = (int)n, k32 = (int)k;                     \
        const int lda32 = (int)lda, ldb32 = (int)ldb, ldc32 = (int)ldc;         \
        ((blas_##prefix)set[dtype].function)(&transb, &transa, &n32, &m32, &k32, &alpha, b, &ldb32, a,  \
                                             &lda32, &beta, c, &ldc32);         \
        return 0;                                                               \
    }
PRODUCT(sgemm, float, FGD_F32)
PRODUCT(dgemm, double, FGD_F64)

/* A core does some tens of multiply-adds in the time of one element's update; below two million of them a
 * second thread gains less than waiting for it costs when the machine has other work. */
static int threads_for(int64_t m, int64_t n, int64_t k) {
    const double work = (double)m * (double)n * (double)k / 64;
    return fgd_threads_for(work < 1e18 ? (int64_t)work : INT64_MAX);
}

/* Sets the number of the product's threads, and returns what it was; 0 where it need not be set back. With
 * OpenMP it is the number for this thread's next region, which a product that runs on the same OpenMP takes:
 * so it follows fgd_set_num_threads, and does not wait in a forked child for threads only its parent has. */
static int limit_threads(int dtype, int wanted) {
#ifdef _OPENMP
    if (omp_in_parallel()) return 0;
#endif
    if (set[dtype].set_threads) {
        const int before = set[dtype].get_threads();
        if (before <= wanted) return 0;
        set[dtype].set_threads(wanted);
        return before;
    }
#ifdef _OPENMP
    const int before = omp_get_max_threads();
    if (before == wanted) return 0;
    omp_set_num_threads(wanted);
    return before;
#else
    return 0;
#endif
}

static void restore_threads(int dtype, int before) {
    if (!before) return;
    if (set[dtype].set_threads) {
        set[dtype].set_threads(before);
        return;
    }
#ifdef _OPENMP
    omp_set_num_threads(before);
#endif
}

int fgd_gemm_limit(int dtype) { return set[dtype].set_threads ? limit_threads(dtype, 1) : 0; }

void fgd_gemm_restore(int dtype, int before) { restore_threads(dtype, before); }

typedef struct product {
    int dtype;
    char transa, transb;
    int64_t m, n, k, lda, ldb, ldc;
    const char *a, *b;
    int accumulate;
    char *c;
    int *failed; /* receives the code of a slice that fails */
} product;

static int compute(const product *p) {
    if (p->dtype == FGD_F32)
        return sgemm_product(p->transa, p->transb, p->m, p->n, p->k, (const float *)p->a, p->lda,
                             (const float *)p->b, p->ldb, p->accumulate ? 1 : 0, (float *)p->c, p->ldc);
    return dgemm_product(p->transa, p->transb, p->m, p->n, p->k, (const double *)p->a, p->lda,
                         (const double *)p->b, p->ldb, p->accumulate ? 1 : 0, (double *)p->c, p->ldc);
}

/* Rows or columns of a product that one thread computes are a multiple of this. */
enum { SLICE = 16 };

/* A part of the rows of c, or of its columns where these are more. */
static void compute_slice(const void *what, int part, int parts) {
    product p = *(const product *)what;
    const int by_rows = p.m >= p.n;
    const int64_t size = by_rows ? p.m : p.n, item = fgd_item_size(p.dtype);
    const int64_t step = ((size + parts - 1) / parts + SLICE - 1) / SLICE * SLICE, from = step * part;
    const int64_t left = size - from, count = left < step ? left : step;
    if (count <= 0) return;
    if (by_rows) {
        p.m = count;
        p.a += (p.transa == 'T' ? from : from * p.lda) * item;
        p.c += from * p.ldc * item;
    } else {
        p.n = count;
        p.b += (p.transb == 'T' ? from * p.ldb : from) * item;
        p.c += from * item;
    }
    const int code = compute(&p);
    if (code) __atomic_store_n(p.failed, code, __ATOMIC_RELAXED);
}

/* A product with threads of its own is computed on ours, a slice of c on each: its own would go on waiting
 * for work when it is done, and take the time of those that have some. */
static int is_sliced(int dtype, int threads) {
#ifdef _OPENMP
    if (omp_in_parallel()) return 0;
#endif
    return threads > 1 && set[dtype].set_threads;
}

int fgd_gemm(int dtype, char transa, char transb, int64_t m, int64_t n, int64_t k, const void *a, int64_t lda,
             const void *b, int64_t ldb, int accumulate, void *c, int64_t ldc) {
    const int ta = transa == 'T', tb = transb == 'T';
    int code = fgd_gemm_ready(dtype, m, n, k);
    if (code) return code;
    if ((!ta && transa != 'N') || (!tb && transb != 'N')) return FGD_ERROR_OPTION;
    code = fgd_gemm_ready(dtype, lda, ldb, ldc);
    if (code) return code;
    if (lda < (ta ? m : k) || ldb < (tb ? k : n) || ldc < n) return FGD_ERROR_SIZE;
    if (m == 0 || n == 0) return FGD_OK;
    if (!c || (k && (!a || !b))) return FGD_ERROR_NULL;
    if (k == 0) {
        const int64_t item = fgd_item_size(dtype);
        for (int64_t row = 0; !accumulate && row < m; row++)
            memset((char *)c + row * ldc * item, 0, (size_t)(n * item));
        return FGD_OK;
    }
    const product p = {dtype, transa, transb, m, n, k, lda, ldb, ldc, a, b, accumulate, c, &code};
    const int threads = threads_for(m, n, k), sliced = is_sliced(dtype, threads);
    const int before = limit_threads(dtype, sliced ? 1 : threads);
    if (sliced) fgd_in_parts(threads, compute_slice, &p);
    else code = compute(&p);
    restore_threads(dtype, before);
    return code ? FGD_ERROR_GEMM : FGD_OK;
}
