/* How much the caches hold, as the CPU tells or as it was set, and whether state is left out of them. */
#include "dispatch.h"

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif

/* One of the last caches, and how many threads share it. */
typedef struct last_cache {
    int64_t bytes; /* 0: the CPU does not tell */
    int64_t sharing;
} last_cache;

#if defined(__x86_64__) || defined(__i386__)
enum { NO_CACHE = 0, INSTRUCTIONS = 2, OF_INTEL = 4 };
static const unsigned OF_AMD = 0x8000001d;

/* Bits [from, from + count) of a register. */
static int64_t field(unsigned of, int from, int count) { return of >> from & ((1u << count) - 1); }

/* The leaves of AMD and of Intel have one form (AMD64 Architecture Programmer's Manual, volume 3, appendix E,
 * function 8000_001D; Intel 64 and IA-32 Software Developer's Manual, volume 2, CPUID, leaf 04H). */
static last_cache tell(unsigned leaf) {
    last_cache found = {0, 1};
    unsigned a, b, c, d;
    for (unsigned i = 0; i < 16 && __get_cpuid_count(leaf, i, &a, &b, &c, &d); i++) {
        const int64_t type = field(a, 0, 5);
        if (type == NO_CACHE) break;
        if (type == INSTRUCTIONS) continue;
        const int64_t line = field(b, 0, 12) + 1, partitions = field(b, 12, 10) + 1;
        const int64_t ways = field(b, 22, 10) + 1, sets = (int64_t)c + 1;
        found = (last_cache){line * partitions * ways * sets, field(a, 14, 12) + 1};
    }
    return found;
}

static last_cache ask(void) {
    const last_cache found = tell(OF_AMD);
    return found.bytes ? found : tell(OF_INTEL);
}
#else
static last_cache ask(void) { return (last_cache){0, 1}; }
#endif

static int64_t set = -1; /* as it was set; -1: as the CPU tells */

/* What the CPU tells takes microseconds in a virtual machine. Threads that race here find the same. */
static last_cache told(void) {
    static int64_t bytes = -1, sharing;
    last_cache found = {__atomic_load_n(&bytes, __ATOMIC_ACQUIRE), 1};
    if (found.bytes < 0) {
        found = ask();
        __atomic_store_n(&sharing, found.sharing, __ATOMIC_RELAXED);
        __atomic_store_n(&bytes, found.bytes, __ATOMIC_RELEASE);
    }
    found.sharing = __atomic_load_n(&sharing, __ATOMIC_RELAXED);
    return found;
}

int64_t fgd_get_cache_size(void) {
    const int64_t own = __atomic_load_n(&set, __ATOMIC_RELAXED), threads = fgd_get_num_threads();
    if (own >= 0) return own;
    const last_cache last = told();
    return last.bytes ? last.bytes * ((threads + last.sharing - 1) / last.sharing) : INT64_MAX;
}

int fgd_set_cache_size(int64_t bytes) {
    if (bytes < -1) return FGD_ERROR_SIZE;
    __atomic_store_n(&set, bytes, __ATOMIC_RELAXED);
    return FGD_OK;
}

int fgd_is_beyond_caches(double bytes) { return bytes > 0.75 * (double)fgd_get_cache_size(); }
