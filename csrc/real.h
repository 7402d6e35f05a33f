/* The precision a kernels file is being compiled for, and the name of the table it fills. */
#ifndef FGD_REAL_H
#define FGD_REAL_H

#include <math.h>
#include <stdint.h>

#include "kernels.h"

#if FGD_DOUBLE
typedef double REAL;
typedef int64_t BITS;
typedef uint64_t UBITS;
#define SQRT sqrt
#define FGD_PRECISION _f64
#else
typedef float REAL;
typedef int32_t BITS;
typedef uint32_t UBITS;
#define SQRT sqrtf
#define FGD_PRECISION _f32
#endif

/* For example FGD_TABLE(fgd_kernels) is fgd_kernels_avx2_f32. */
#define FGD_TABLE(kind) FGD_CONCAT(FGD_CONCAT(kind, _), FGD_CONCAT(FGD_ISA, FGD_PRECISION))

#define INLINE static inline __attribute__((always_inline))
#define UNUSED __attribute__((unused))

#endif
