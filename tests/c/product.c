/* Matrix products in one order of summation, so that what is made of them has the same bits everywhere. */
#include "product.h"

#include "check.h"

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
        return 0;                                                                                \
    }
PRODUCT(sgemm, float)
PRODUCT(dgemm, double)

void set_products(int are_set) {
    const int kind = are_set ? FGD_GEMM_ROW_MAJOR : FGD_GEMM_NONE;
    CHECK(fgd_set_gemm(FGD_F32, kind, are_set ? (fgd_function)sgemm : NULL) == FGD_OK, "float32");
    CHECK(fgd_set_gemm(FGD_F64, kind, are_set ? (fgd_function)dgemm : NULL) == FGD_OK, "float64");
}
