/* Runs every test of the C ABI; prints a digest of all results and, last, what passed and failed. */
#include <inttypes.h>

#include "check.h"
#include "product.h"
#include "step.h"

#define TESTS(X) X(queries) X(threads) X(refusals) X(bits) X(gradients) X(fences) X(norms) X(clip) X(products)
#define DECLARE(name) void test_##name(void);
#define RUN(name) test_##name();
TESTS(DECLARE)

long checks_passed, checks_failed;

int main(void) {
    set_products(1);
    TESTS(RUN)
    printf("digest %016" PRIx64 "\n", digest);
    printf("%ld passed, %ld failed\n", checks_passed, checks_failed);
    return checks_failed != 0;
}
