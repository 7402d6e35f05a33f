/* Pooling, forward and backward: checks everything, then runs kernels over threads, each some planes. */
#include <stddef.h>

#include "dispatch.h"

static int check(int dtype, const fgd_pool *of, const fgd_plane_sizes *s) {
    if (dtype != FGD_F32 && dtype != FGD_F64) return FGD_ERROR_DTYPE;
    if (!of) return FGD_ERROR_NULL;
    const int64_t sizes[2] = {s->height, s->width}, outputs[2] = {s->out_height, s->out_width};
    if (s->planes < 0) return FGD_ERROR_SIZE;
    for (int axis = 0; axis < 2; axis++) {
        const int64_t kernel = of->kernel[axis], stride = of->stride[axis], padding = of->padding[axis];
        if (kernel < 1 || stride < 1 || padding < 0 || padding >= kernel || kernel > INT32_MAX ||
            stride > INT32_MAX)
            return FGD_ERROR_OPTION;
        if (sizes[axis] < 1 || outputs[axis] < 1 || sizes[axis] > INT32_MAX || outputs[axis] > INT32_MAX)
            return FGD_ERROR_SIZE;
        /* the last window begins inside the plane, or before it */
        if ((outputs[axis] - 1) * stride - padding >= sizes[axis]) return FGD_ERROR_SIZE;
    }
    if (s->height * s->width > INT32_MAX || s->out_height * s->out_width > INT32_MAX) return FGD_ERROR_SIZE;
    const int64_t most = INT64_MAX / 64;
    if (s->planes > most / (s->height * s->width) || s->planes > most / (s->out_height * s->out_width))
        return FGD_ERROR_SIZE;
    return FGD_OK;
}

typedef struct job {
    const fgd_pool *of;
    const fgd_pools *kernels;
    fgd_plane_sizes sizes;
    int64_t item;
    const char *x, *dy;
    char *y, *dx;
    int32_t *index;
} job;

typedef struct piece {
    fgd_plane_sizes sizes;
    int64_t image, output; /* the elements before its first plane and before that one's outputs */
} piece;

static piece piece_of(const job *j, int part, int parts) {
    piece p = {.sizes = j->sizes};
    const int64_t first = j->sizes.planes * part / parts;
    p.sizes.planes = j->sizes.planes * (part + 1) / parts - first;
    p.image = first * j->sizes.height * j->sizes.width;
    p.output = first * j->sizes.out_height * j->sizes.out_width;
    return p;
}

static void max_forward(const void *what, int part, int parts) {
    const job *j = what;
    const piece p = piece_of(j, part, parts);
    j->kernels->max_forward(j->of, &p.sizes, j->x + p.image * j->item, j->index ? j->index + p.output : NULL,
                            j->y + p.output * j->item);
}

static void max_backward(const void *what, int part, int parts) {
    const job *j = what;
    const piece p = piece_of(j, part, parts);
    j->kernels->max_backward(j->of, &p.sizes, j->index + p.output, j->dy + p.output * j->item,
                             j->dx + p.image * j->item);
}

static void average_forward(const void *what, int part, int parts) {
    const job *j = what;
    const piece p = piece_of(j, part, parts);
    j->kernels->average_forward(j->of, &p.sizes, j->x + p.image * j->item, j->y + p.output * j->item);
}

static void average_backward(const void *what, int part, int parts) {
    const job *j = what;
    const piece p = piece_of(j, part, parts);
    j->kernels->average_backward(j->of, &p.sizes, j->dy + p.output * j->item, j->dx + p.image * j->item);
}

static int run(int dtype, job *j, void (*work)(const void *what, int part, int parts)) {
    const fgd_plane_sizes *s = &j->sizes;
    const int64_t looked_at = s->out_height * s->out_width * j->of->kernel[0] * j->of->kernel[1];
    const int threads = fgd_threads_for(s->planes * (s->height * s->width > looked_at ? s->height * s->width
                                                                                      : looked_at));
    j->kernels = fgd_pools_for(dtype);
    j->item = fgd_item_size(dtype);
    fgd_in_parts(threads, work, j);
    return FGD_OK;
}

int fgd_max_pool_forward(int dtype, const fgd_pool *of, int64_t planes, int64_t height, int64_t width,
                         int64_t out_height, int64_t out_width, const void *x, int32_t *index, void *y) {
    job j = {.of = of, .sizes = {planes, height, width, out_height, out_width}, .x = x, .index = index,
             .y = y};
    const int code = check(dtype, of, &j.sizes);
    if (code || planes == 0) return code;
    return x && y ? run(dtype, &j, max_forward) : FGD_ERROR_NULL;
}

int fgd_max_pool_backward(int dtype, const fgd_pool *of, int64_t planes, int64_t height, int64_t width,
                          int64_t out_height, int64_t out_width, const int32_t *index, const void *dy,
                          void *dx) {
    job j = {.of = of, .sizes = {planes, height, width, out_height, out_width}, .index = (int32_t *)index,
             .dy = dy, .dx = dx};
    const int code = check(dtype, of, &j.sizes);
    if (code || planes == 0) return code;
    return index && dy && dx ? run(dtype, &j, max_backward) : FGD_ERROR_NULL;
}

int fgd_average_pool_forward(int dtype, const fgd_pool *of, int64_t planes, int64_t height, int64_t width,
                             int64_t out_height, int64_t out_width, const void *x, void *y) {
    job j = {.of = of, .sizes = {planes, height, width, out_height, out_width}, .x = x, .y = y};
    const int code = check(dtype, of, &j.sizes);
    if (code || planes == 0) return code;
    return x && y ? run(dtype, &j, average_forward) : FGD_ERROR_NULL;
}

int fgd_average_pool_backward(int dtype, const fgd_pool *of, int64_t planes, int64_t height, int64_t width,
                              int64_t out_height, int64_t out_width, const void *dy, void *dx) {
    job j = {.of = of, .sizes = {planes, height, width, out_height, out_width}, .dy = dy, .dx = dx};
    const int code = check(dtype, of, &j.sizes);
    if (code || planes == 0) return code;
    return dy && dx ? run(dtype, &j, average_backward) : FGD_ERROR_NULL;
}
