/* What a compiled set of pooling kernels looks like. */
#ifndef FGD_POOL_KERNELS_H
#define FGD_POOL_KERNELS_H

#include "kernels.h"

/* Planes [height, width], and their outputs [out_height, out_width]. */
typedef struct fgd_plane_sizes {
    int64_t planes, height, width, out_height, out_width;
} fgd_plane_sizes;

typedef struct fgd_pools {
    /* index, unless it is NULL, receives each largest element's place in its plane */
    void (*max_forward)(const fgd_pool *of, const fgd_plane_sizes *sizes, const void *x, int32_t *index,
                        void *y);
    void (*max_backward)(const fgd_pool *of, const fgd_plane_sizes *sizes, const int32_t *index,
                         const void *dy, void *dx);
    void (*average_forward)(const fgd_pool *of, const fgd_plane_sizes *sizes, const void *x, void *y);
    void (*average_backward)(const fgd_pool *of, const fgd_plane_sizes *sizes, const void *dy, void *dx);
} fgd_pools;

#endif
