/* Loaded before the C library, it counts what a process allocates: tests/test_nn_allocations.py. */
#include <stdlib.h>

enum { LARGE = 1024 }; /* bytes that no small object of Python's has */

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

static long large;

static void note(size_t size) {
    if (size >= LARGE) __atomic_fetch_add(&large, 1, __ATOMIC_RELAXED);
}

long large_allocations(void) { return __atomic_load_n(&large, __ATOMIC_RELAXED); }

void *malloc(size_t size) {
    note(size);
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
    note(count * size);
    return __libc_calloc(count, size);
}

void *realloc(void *old, size_t size) {
    note(size);
    return __libc_realloc(old, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
    note(size);
    return __libc_memalign(alignment, size);
}

int posix_memalign(void **at, size_t alignment, size_t size) {
    note(size);
    *at = __libc_memalign(alignment, size);
    return *at ? 0 : 12;
}
