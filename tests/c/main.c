/* Runs every test of the C ABI, or those named as arguments; prints a digest of all results and, last, what
 * passed and failed. */
#include <inttypes.h>
#include <string.h>

#include "check.h"
#include "product.h"
#include "step.h"

#define TESTS(X) \
    X(races) X(queries) X(threads) X(refusals) X(bits) X(gradients) X(fences) X(norms) X(clip) X(products) \
    X(stored) X(far) X(layers) X(programs) X(cache) X(added) X(fetched)
#define DECLARE(name) void test_##name(void);
#define RUN(name) if (is_asked_for(#name, argc, argv)) set_products(ALL_PRODUCTS), test_##name();
TESTS(DECLARE)

long checks_passed, checks_failed;

static int is_asked_for(const char *name, int argc, char **argv) {
    int asked = argc < 2;
    for (int i = 1; i < argc; i++) asked |= strcmp(argv[i], name) == 0;
    return asked;
}

int main(int argc, char **argv) {
    TESTS(RUN)
    printf("digest %016" PRIx64 "\n", digest);
    printf("%ld passed, %ld failed\n", checks_passed, checks_failed);
    return checks_failed != 0;
}
