/* Orthogonal steps: what they are, and what is left when a matrix product fails. */
#include <math.h>
#include <stdlib.h>

#include "check.h"
#include "product.h"
#include "step.h"

enum { ROWS = 3, COLS = 4, SIZE = ROWS * COLS, COUNT = 3 };

typedef struct work {
    double param[COUNT][SIZE], momentum[COUNT][SIZE];
    int64_t step[COUNT];
} work;

static fgd_group muon(double steps) {
    const fgd_group group = {.rule = fgd_rule_find("muon"),
                             .scalars = {0.5, 1, 0.25, 1.5, -0.5, 0, 1e-7, steps}}; /* as in rules.def */
    return group;
}

/* One step of COUNT matrices, transposed when `tall`; the code, and which tensor the report names. */
static int make_step(work *w, double grads[COUNT][SIZE], double steps, int tall, int64_t *named) {
    const fgd_group group = muon(steps);
    const fgd_options options = no_options();
    fgd_tensor tensors[COUNT];
    fgd_report report;
    for (int t = 0; t < COUNT; t++) {
        tensors[t] = tensor_of(SIZE, FGD_F64);
        tensors[t].param = w->param[t], tensors[t].grad = grads[t], tensors[t].state[0] = w->momentum[t];
        tensors[t].step = &w->step[t], tensors[t].matrix_rows = tall ? COLS : ROWS;
    }
    const int64_t bytes = fgd_workspace_size(tensors, COUNT);
    void *workspace = malloc((size_t)bytes);
    const int code = fgd_update(&group, 1, tensors, COUNT, &options, workspace, bytes, &report);
    free(workspace);
    *named = report.error_tensor;
    return code;
}

static void test_failing(void) {
    double grads[COUNT][SIZE];
    int64_t named;
    for (int i = 0; i < COUNT * SIZE; i++) grads[i / SIZE][i % SIZE] = random_number();
    for (int calls = 0; calls <= 3 * COUNT; calls++) {
        const int made = calls / 3; /* three products a tensor */
        work w = {.param = {{0}}};
        set_products(calls);
        const int code = make_step(&w, grads, 1, 0, &named);
        CHECK(code == (made < COUNT ? FGD_ERROR_GEMM : FGD_OK), "%d calls: %s", calls, fgd_error_text(code));
        CHECK(named == (made < COUNT ? made : -1), "%d calls: %d", calls, (int)named);
        for (int t = 0; t < COUNT; t++) {
            CHECK(w.step[t] == (t < made), "%d calls: tensor %d", calls, t);
            CHECK((w.param[t][5] != 0) == (t < made), "%d calls: tensor %d", calls, t);
            CHECK((w.momentum[t][5] != 0) == (t < made), "%d calls: tensor %d", calls, t);
        }
    }
    set_products(ALL_PRODUCTS);
}

/* With a = 3/2, b = -1/2, c = 0 the iteration ends at the orthogonal factor of the gradient; lr is 1/2. From
 * both sides: the gradient of a tall matrix is the transpose of the wide one's. */
static void test_limit(void) {
    double grads[2][COUNT][SIZE];
    work w[2] = {{.param = {{0}}}, {.param = {{0}}}};
    int64_t named;
    for (int t = 0; t < COUNT; t++) {
        for (int i = 0; i < SIZE; i++)
            grads[0][t][i] = grads[1][t][i % COLS * ROWS + i / COLS] = random_number();
    }
    for (int tall = 0; tall < 2; tall++)
        CHECK(make_step(&w[tall], grads[tall], 60, tall, &named) == FGD_OK, "tall %d", tall);
    for (int t = 0; t < COUNT; t++) {
        const double *p = w[0].param[t], *g = grads[0][t];
        for (int row = 0; row < ROWS; row++) {
            for (int other = 0; other < ROWS; other++) {
                double product = 0, overlap = 0, mirrored = 0;
                for (int k = 0; k < COLS; k++) {
                    product += p[row * COLS + k] * p[other * COLS + k];
                    overlap += p[row * COLS + k] * g[other * COLS + k];
                    mirrored += p[other * COLS + k] * g[row * COLS + k];
                }
                /* p p' = I / 4, and p g' is symmetric: the polar decomposition */
                CHECK(fabs(product - (row == other ? 0.25 : 0)) < 1e-12, "%d %d: %g", row, other, product);
                CHECK(fabs(overlap - mirrored) < 1e-12, "%d %d: %g %g", row, other, overlap, mirrored);
                CHECK(row != other || overlap < 0, "%d: %g", row, overlap);
            }
            for (int k = 0; k < COLS; k++)
                CHECK(fabs(p[row * COLS + k] - w[1].param[t][k * ROWS + row]) < 1e-14, "%d %d", row, k);
        }
    }
}

void test_products(void) {
    test_failing();
    test_limit();
}
