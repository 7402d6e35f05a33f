/* Plain matrix products, which fail when they are told to. */
#include "product.h"

#include <stdlib.h>

#include "fastgd.h"

static int successes_left;

#define PRODUCT(name, real)                                                                      \
    static int name(char transa, char transb, int64_t m, int64_t n, int64_t k, real alpha, const real *a, \
                    int64_t lda, const real *b, int64_t ldb, real beta, real *c, int64_t ldc) {  \
        for (int64_t row = 0; row < m; row++) {                                                  \
            for (int64_t col = 0; col < n; col++)                                                \
                c[row * ldc + col] = beta == 0 ? 0 : beta * c[row * ldc + col];                  \
            for (int64_t i = 0; i < k; i++) {                                                    \
                const real left = alpha * (transa == 'T' ? a[i * lda + row] : a[row * lda + i]); \
                for (int64_t col = 0; col < n; col++)                                            \
                    c[row * ldc + col] += left * (transb == 'T' ? b[col * ldb + i] : b[i * ldb + col]); \
            }                                                                                    \
        }                                                                                        \
        return successes_left != ALL_PRODUCTS && successes_left-- <= 0;                          \
    }
PRODUCT(sgemm, float)
PRODUCT(dgemm, double)

void set_products(int successes) {
    const int kind = successes == NO_PRODUCTS ? FGD_GEMM_NONE : FGD_GEMM_ROW_MAJOR;
    successes_left = successes;
    if (fgd_set_gemm(FGD_F32, kind, (fgd_function)sgemm)) abort();
    if (fgd_set_gemm(FGD_F64, kind, (fgd_function)dgemm)) abort();
}
