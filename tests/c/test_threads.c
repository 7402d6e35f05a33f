/* The number of threads, calls from several threads at once, in an OpenMP team, and in a forked child. */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#ifndef _WIN32
#include <sys/wait.h>
#include <unistd.h>
#endif

#include "check.h"
#include "step.h"

enum { CALLERS = 4, ELEMENTS = 100000, STEPS = 5 };

/* One call's own memory. */
typedef struct caller {
    float param[ELEMENTS], grad[ELEMENTS];
    int64_t workspace[64], step;
    fgd_report report;
    int code;
} caller;

static caller callers[CALLERS];

/* Gradient descent with lr 1/2 on a constant gradient, 4 before it is unscaled: all numbers are exact. */
static void *descend(void *argument) {
    caller *c = argument;
    const fgd_group group = {.rule = fgd_rule_find("sgd"), .scalars = {0.5, 0, 1}}; /* lr, -, decay */
    fgd_options options = no_options();
    options.grad_scale = 2, options.measure = 1;
    const fgd_tensor tensor = {.size = ELEMENTS, .param = c->param, .grad = c->grad, .step = &c->step};
    for (int i = 0; i < ELEMENTS; i++) c->param[i] = (float)i, c->grad[i] = 4;
    for (int i = 0; i < STEPS && !c->code; i++)
        c->code = fgd_update(&group, 1, &tensor, 1, &options, c->workspace, sizeof c->workspace, &c->report);
    return NULL;
}

static int is_right(const caller *c) {
    int right = !c->code && c->step == STEPS && c->report.norm == sqrt(16.0 * ELEMENTS) / 2;
    for (int i = 0; i < ELEMENTS; i++) right &= c->param[i] == (float)(i - STEPS);
    return right;
}

static void test_setting(void) {
    CHECK(fgd_get_num_threads() >= 1, "%d", fgd_get_num_threads());
    CHECK(fgd_set_num_threads(3) == FGD_OK, "3");
    CHECK(fgd_get_num_threads() == (fgd_has_openmp() ? 3 : 1), "%d", fgd_get_num_threads());
    CHECK(fgd_set_num_threads(0) == FGD_ERROR_THREADS, "0");
    CHECK(fgd_set_num_threads(-2) == FGD_ERROR_THREADS, "-2");
    CHECK(fgd_get_num_threads() == (fgd_has_openmp() ? 3 : 1), "%d", fgd_get_num_threads());
}

static void test_callers(void) {
    pthread_t id[CALLERS];
    for (int i = 0; i < CALLERS; i++) CHECK(!pthread_create(&id[i], NULL, descend, &callers[i]), "%d", i);
    for (int i = 0; i < CALLERS; i++) {
        pthread_join(id[i], NULL);
        CHECK(is_right(&callers[i]), "caller %d: code %d", i, callers[i].code);
    }
}

#ifdef _WIN32
/* There are no forks, and no alarm that would end a call that hangs. */
static unsigned alarm(unsigned seconds) { return seconds; }
#endif

/* Every thread of a team of the caller's own, each a different number of times: a barrier of fgd_update that
 * waited for the caller's team would wait forever, and then the alarm ends it. */
static void test_team(void) {
    static const int64_t sizes[] = {100, ELEMENTS};
    for (int k = 0; k < 2; k++) {
        int wrong = 0;
        alarm(20);
#pragma omp parallel for num_threads(CALLERS) schedule(static, 1) reduction(+ : wrong)
        for (int i = 0; i < CALLERS; i++) {
            caller *c = &callers[i];
            fgd_options options = no_options();
            options.grad_scale = 2, options.measure = 1;
            const fgd_tensor tensor = {.size = sizes[k], .grad = c->grad};
            for (int n = 0; n <= i; n++)
                wrong += fgd_measure(&tensor, 1, &options, NULL, c->workspace, sizeof c->workspace,
                                     &c->report);
            wrong += c->report.norm != sqrt(16.0 * (double)sizes[k]) / 2;
        }
        alarm(0);
        CHECK(!wrong, "%d of %lld elements", wrong, (long long)sizes[k]);
    }
}

#ifdef _WIN32
static void test_fork(void) {}
#else
/* The parent has used its pool of threads; a child that tried to would hang, and then the alarm ends it. */
static void test_fork(void) {
    int status = -1;
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        alarm(20);
        callers[0].step = 0;
        descend(&callers[0]);
        _exit(fgd_get_num_threads() == 1 && is_right(&callers[0]) ? 0 : 1);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0, "status %d", status);
}
#endif

void test_threads(void) {
    test_setting();
    test_callers();
    test_team();
    descend(&callers[0]);
    test_fork();
}
