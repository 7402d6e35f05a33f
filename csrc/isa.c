/* Finds out which instruction sets this CPU runs and keeps the one in use. */
#include "isa.h"

#include <stddef.h>

#include "dispatch.h"

#if defined(__x86_64__) || defined(_M_X64)
#define FGD_CPU(feature) __builtin_cpu_supports(feature)
#else
#define FGD_CPU(feature) 0
#endif

#define EXTERN(isa, table) \
    extern const fgd_##table fgd_##table##_##isa##_f32, fgd_##table##_##isa##_f64;
#define FGD_ISA(name, flags, test) FGD_TABLES(EXTERN, name)
#include "isa.def"
#undef FGD_ISA

#define FGD_ISA(name, flags, test) \
    static int name##_supported(void) { return (test) != 0; }
#include "isa.def"
#undef FGD_ISA

static const struct {
    const char *name;
    int (*supported)(void);
    /* each by the precision computed in: FGD_F32 or FGD_F64 */
#define MEMBER(isa, table) const fgd_##table *table[2];
    FGD_TABLES(MEMBER, )
} sets[] = {
#define ENTRY(isa, table) .table = {&fgd_##table##_##isa##_f32, &fgd_##table##_##isa##_f64},
#define FGD_ISA(name, flags, test) {#name, name##_supported, FGD_TABLES(ENTRY, name)},
#include "isa.def"
#undef FGD_ISA
};

enum { SET_COUNT = sizeof sets / sizeof sets[0] };

static int chosen = -1;

int fgd_isa_count(void) { return SET_COUNT; }

const char *fgd_isa_name(int isa) { return isa < 0 || isa >= SET_COUNT ? NULL : sets[isa].name; }

int fgd_isa_supported(int isa) { return isa >= 0 && isa < SET_COUNT && sets[isa].supported(); }

/* Threads that race here find the same answer, so a relaxed store is enough. */
int fgd_get_isa(void) {
    int isa = __atomic_load_n(&chosen, __ATOMIC_RELAXED);
    if (isa < 0) {
        isa = SET_COUNT - 1;
        while (isa > 0 && !sets[isa].supported()) isa--;
        __atomic_store_n(&chosen, isa, __ATOMIC_RELAXED);
    }
    return isa;
}

int fgd_set_isa(int isa) {
    if (!fgd_isa_supported(isa)) return FGD_ERROR_ISA;
    __atomic_store_n(&chosen, isa, __ATOMIC_RELAXED);
    return FGD_OK;
}

#define TABLE_FOR(isa, table) \
    const fgd_##table *fgd_##table##_for(int real) { return sets[fgd_get_isa()].table[real]; }
FGD_TABLES(TABLE_FOR, )
