/* How many threads a call uses (a number for the process; one after a fork and for little work), and a
 * team. */
#include "dispatch.h"

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

/* Below this a second thread gains a few microseconds at best, and loses more when a core has other work. */
enum { PARALLEL_THRESHOLD = 65536 };

static int threads; /* 0: not set yet, what OpenMP offers */

/* GNU OpenMP's pool does not survive a fork: a child that opened a parallel region would wait forever for
 * threads that only its parent has. */
static int forked;

#if defined(_OPENMP) && (defined(__unix__) || defined(__APPLE__))
static void note_fork(void) { forked = 1; }
__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(NULL, NULL, note_fork); }
#endif

int fgd_has_openmp(void) {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

int fgd_get_num_threads(void) {
    int n = __atomic_load_n(&threads, __ATOMIC_RELAXED);
    if (forked || !fgd_has_openmp()) return 1;
#ifdef _OPENMP
    if (n == 0) n = omp_get_max_threads();
#endif
    return n < FGD_MAX_THREADS ? n : FGD_MAX_THREADS;
}

int fgd_set_num_threads(int n) {
    if (n < 1 || n > FGD_MAX_THREADS) return FGD_ERROR_THREADS;
    __atomic_store_n(&threads, n, __ATOMIC_RELAXED);
    return FGD_OK;
}

int fgd_threads_for(int64_t elements) { return elements < PARALLEL_THRESHOLD ? 1 : fgd_get_num_threads(); }

void fgd_in_parts(int threads, void (*work)(const void *what, int part, int parts), const void *what) {
#ifdef _OPENMP
    if (threads > 1) {
#pragma omp parallel num_threads(threads)
        work(what, omp_get_thread_num(), omp_get_num_threads());
        return;
    }
#endif
    (void)threads;
    work(what, 0, 1);
}
