/* Finds out which instruction sets this CPU runs and keeps the one in use. */
#include "isa.h"

#include <stddef.h>

#include "dispatch.h"

#if defined(__x86_64__) || defined(_M_X64)
#define FGD_CPU(feature) __builtin_cpu_supports(feature)
#else
#define FGD_CPU(feature) 0
#endif

#define FGD_ISA(name, flags, test) \
    extern const fgd_kernels fgd_kernels_##name##_f32, fgd_kernels_##name##_f64; \
    extern const fgd_storage fgd_storage_##name##_f32, fgd_storage_##name##_f64; \
    extern const fgd_stored fgd_stored_##name##_f32, fgd_stored_##name##_f64; \
    extern const fgd_layers fgd_layers_##name##_f32, fgd_layers_##name##_f64; \
    extern const fgd_layer_norms fgd_layer_norms_##name##_f32, fgd_layer_norms_##name##_f64;
#include "isa.def"
#undef FGD_ISA

#define FGD_ISA(name, flags, test) \
    static int name##_supported(void) { return (test) != 0; }
#include "isa.def"
#undef FGD_ISA

static const struct {
    const char *name;
    int (*supported)(void);
    const fgd_kernels *kernels[2]; /* by the precision computed in: FGD_F32 or FGD_F64 */
    const fgd_storage *storage[2];
    const fgd_stored *stored[2];
    const fgd_layers *layers[2];
    const fgd_layer_norms *layer_norms[2];
} sets[] = {
#define FGD_ISA(name, flags, test) \
    {#name, name##_supported, {&fgd_kernels_##name##_f32, &fgd_kernels_##name##_f64}, \
     {&fgd_storage_##name##_f32, &fgd_storage_##name##_f64}, \
     {&fgd_stored_##name##_f32, &fgd_stored_##name##_f64}, \
     {&fgd_layers_##name##_f32, &fgd_layers_##name##_f64}, \
     {&fgd_layer_norms_##name##_f32, &fgd_layer_norms_##name##_f64}},
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

const fgd_kernels *fgd_kernels_for(int real) { return sets[fgd_get_isa()].kernels[real]; }

const fgd_storage *fgd_storage_for(int real) { return sets[fgd_get_isa()].storage[real]; }

const fgd_stored *fgd_stored_for(int real) { return sets[fgd_get_isa()].stored[real]; }

const fgd_layers *fgd_layers_for(int real) { return sets[fgd_get_isa()].layers[real]; }

const fgd_layer_norms *fgd_layer_norms_for(int real) { return sets[fgd_get_isa()].layer_norms[real]; }
