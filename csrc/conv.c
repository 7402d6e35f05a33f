/* Convolution, forward and backward: checks everything, then runs matrix products over threads. */
#include <stddef.h>
#include <string.h>

#include "dispatch.h"
#include "gemm.h"
#include "layer_kernels.h"

/* All of these depend on the shape alone, so that results do not depend on the number of threads. */
enum {
    BAND = 1 << 18,       /* elements of a column buffer, but for at least one row of outputs */
    MAX_BLOCKS = 32,      /* of images whose dweight is summed together; also the most threads of a call */
    PARTIALS = 1 << 22,   /* elements of all dweights together, but for at least one */
    FEW = 16,             /* columns that products are slow to compute less than of */
    APART = 128, MORE = 16 /* rows of columns are no multiple of APART elements long, but MORE than that */
};

typedef struct plan {
    int dtype;
    int pointwise; /* an image's elements are its columns already */
    int tall;      /* dweight is computed transposed, as a matrix with more columns than rows */
    int64_t item, batch, in, out, groups;
    int64_t in_image, out_image, cols;   /* elements of an image; of one channel of its output */
    int64_t group_in, group_out, depth;  /* channels of a group; elements of a kernel */
    int64_t out_height, band, bands;     /* rows of the output that are computed together */
    int64_t weights, blocks, block;      /* elements of all kernels; blocks of images, and images of each */
    fgd_patches patches;
} plan;

static int64_t pieces(int64_t size, int64_t step) { return size / step + (size % step != 0); }

static int64_t at_most(int64_t size, int64_t limit) { return size < limit ? size : limit; }

/* Whether so many elements of 8 bytes can be. */
static int is_too_large(int64_t a, int64_t b, int64_t c, int64_t d) {
    return (double)a * (double)b * (double)c * (double)d > (double)(INT64_MAX / 64);
}

static int64_t output_size(int64_t size, const int64_t *padding, int64_t dilation, int64_t kernel,
                           int64_t stride) {
    const int64_t left = size + padding[0] + padding[1] - dilation * (kernel - 1) - 1;
    return left < 0 ? 0 : left / stride + 1;
}

static int check_plan(plan *p, int dtype, const fgd_conv *of, int64_t batch, int64_t in, int64_t out,
                      const int64_t *size, const int64_t *kernel) {
    if (dtype != FGD_F32 && dtype != FGD_F64) return FGD_ERROR_DTYPE;
    if (!of) return FGD_ERROR_NULL;
    if (!of->activation || !fgd_activation_at(of->activation->kind)) return FGD_ERROR_ACTIVATION;
    if (batch < 0 || in < 1 || out < 1 || in > INT32_MAX || out > INT32_MAX) return FGD_ERROR_SIZE;
    if (of->groups < 1 || in % of->groups || out % of->groups) return FGD_ERROR_OPTION;
    int64_t out_size[2];
    for (int axis = 0; axis < 2; axis++) {
        const int64_t *padding = of->padding[axis], stride = of->stride[axis], dilation = of->dilation[axis];
        if (size[axis] < 1 || size[axis] > INT32_MAX || kernel[axis] < 1 || kernel[axis] > INT32_MAX)
            return FGD_ERROR_SIZE;
        if (padding[0] < 0 || padding[0] > INT32_MAX || padding[1] < 0 || padding[1] > INT32_MAX ||
            stride < 1 || stride > INT32_MAX || dilation < 1 || dilation > INT32_MAX)
            return FGD_ERROR_OPTION;
        out_size[axis] = output_size(size[axis], padding, dilation, kernel[axis], stride);
        if (out_size[axis] < 1) return FGD_ERROR_SIZE;
    }
    const int64_t images = batch ? batch : 1;
    if (is_too_large(images, in, size[0], size[1]) || is_too_large(images, out, out_size[0], out_size[1]) ||
        is_too_large(in, out, kernel[0], kernel[1]) ||
        is_too_large(in * kernel[0], kernel[1], out_size[1] + MORE, MAX_BLOCKS))
        return FGD_ERROR_SIZE;
    *p = (plan){.dtype = dtype, .item = fgd_item_size(dtype), .batch = batch, .in = in, .out = out,
                .groups = of->groups, .out_height = out_size[0]};
    p->patches = (fgd_patches){.height = size[0], .width = size[1], .out_width = out_size[1]};
    p->pointwise = 1;
    for (int axis = 0; axis < 2; axis++) {
        p->patches.kernel[axis] = kernel[axis];
        p->patches.stride[axis] = of->stride[axis];
        p->patches.padding[axis] = of->padding[axis][0];
        p->patches.dilation[axis] = of->dilation[axis];
        p->pointwise &= kernel[axis] == 1 && of->stride[axis] == 1 && !of->padding[axis][0] &&
                        !of->padding[axis][1];
    }
    p->cols = out_size[0] * out_size[1];
    p->in_image = in * size[0] * size[1];
    p->out_image = out * p->cols;
    p->group_in = in / of->groups;
    p->group_out = out / of->groups;
    p->depth = p->group_in * kernel[0] * kernel[1];
    p->weights = out * p->depth;
    p->tall = p->depth < FEW && p->depth < p->group_out;
    p->band = BAND / p->depth / out_size[1];
    p->band = p->band < 1 ? 1 : at_most(p->band, out_size[0]);
    p->bands = pieces(out_size[0], p->band);
    const int64_t most = at_most(at_most(batch, MAX_BLOCKS), PARTIALS / p->weights);
    p->block = batch ? pieces(batch, most < 1 ? 1 : most) : 1;
    p->blocks = pieces(batch, p->block);
    return fgd_gemm_ready(dtype, p->group_out, p->band * out_size[1], p->depth);
}

/* Elements from row to row of the columns. Were it a multiple of a large power of two, all rows would share
 * the same few lines of the cache, and a product reads them side by side. */
static int64_t stride_of(int64_t n) { return n % APART ? n : n + MORE; }

/* Elements of a column buffer, and how many of them there are. */
static int64_t column_elements(const plan *p) {
    return p->pointwise ? 0 : p->depth * (p->band * p->patches.out_width + MORE);
}

static int64_t most_parts(const plan *p, int64_t n) { return p->batch ? at_most(n, MAX_BLOCKS) : 0; }

/* Whether blocks leave their dweight in scratch memory, to be added up or turned over. */
static int has_partials(const plan *p) { return p->blocks > 1 || p->tall; }

/* A buffer's, or a number's, bytes, so that all lie on cache lines. */
static int64_t aligned(int64_t bytes) { return pieces(bytes, 64) * 64; }

/* What a call works on. Scratch memory: column buffers, then for backward the blocks' sums for dbias, then
 * their dweights. */
typedef struct job {
    const plan *p;
    const fgd_activation *activation;
    const char *x, *weight, *bias, *saved;
    char *z, *y, *dy, *dx, *dweight;
    char *columns, *partials;
    double *sums;
    int *codes; /* of each part */
} job;

/* The threads worth starting for a pass. */
static int threads_for(const plan *p, int64_t n, int products) {
    if (n < 2 || !fgd_gemm_nests(p->dtype)) return 1;
    const double elements = (double)p->batch * (double)(p->in_image + p->out_image);
    const double multiplied = (double)products * (double)p->batch * (double)p->out_image * (double)p->depth;
    const double work = elements + multiplied / 64;
    const int threads = fgd_threads_for(work < 1e18 ? (int64_t)work : INT64_MAX);
    return (int)at_most(threads, most_parts(p, n));
}

/* The band's patches, and in *n the number of its columns. */
static fgd_patches patches_of(const plan *p, int64_t band, int64_t *n) {
    fgd_patches patches = p->patches;
    patches.first = band * p->band;
    patches.rows = at_most(p->band, p->out_height - patches.first);
    *n = patches.rows * patches.out_width;
    patches.step = p->pointwise ? p->cols : stride_of(*n);
    return patches;
}

/* The columns of a group of an image's channels. */
static const char *columns_of(const plan *p, const fgd_patches *patches, const char *x, char *buffer) {
    if (p->pointwise) return x + patches->first * patches->out_width * p->item;
    fgd_convs_for(p->dtype)->gather(patches, p->group_in, x, buffer);
    return buffer;
}

/* The bytes of one group's kernels. */
static int64_t of_group(const plan *p) { return p->group_out * p->depth * p->item; }

/* ---- Forward --------------------------------------------------------------------------------------- */

static int forward_piece(const job *j, int64_t piece, char *buffer) {
    const plan *p = j->p;
    const int64_t image = piece / p->bands, in_group = p->in_image / p->groups * p->item;
    int64_t n;
    const fgd_patches patches = patches_of(p, piece % p->bands, &n);
    const int64_t at = (image * p->out_image + patches.first * patches.out_width) * p->item;
    char *product = (j->z ? j->z : j->y) + at;
    for (int64_t g = 0; g < p->groups; g++) {
        const char *x = j->x + image * p->in_image * p->item + g * in_group;
        const char *columns = columns_of(p, &patches, x, buffer), *weight = j->weight + g * of_group(p);
        const int code = fgd_gemm(p->dtype, 'N', 'N', p->group_out, n, p->depth, weight, p->depth, columns,
                                  patches.step, 0, product + g * p->group_out * p->cols * p->item, p->cols);
        if (code) return code;
    }
    if (j->bias) fgd_convs_for(p->dtype)->add_bias(p->out, n, p->cols, j->bias, product);
    if (j->activation->kind != FGD_ACTIVATION_identity)
        fgd_layers_for(p->dtype)->forward[j->activation->kind](j->activation, p->out, n, p->cols, NULL,
                                                              product, NULL, j->y + at);
    return FGD_OK;
}

static void forward_part(const void *what, int part, int parts) {
    const job *j = what;
    const int64_t n = j->p->batch * j->p->bands;
    char *buffer = j->columns + part * aligned(column_elements(j->p) * j->p->item);
    for (int64_t i = n * part / parts; i < n * (part + 1) / parts && !j->codes[part]; i++)
        j->codes[part] = forward_piece(j, i, buffer);
}

/* ---- Backward --------------------------------------------------------------------------------------- */

/* Adds the products for dweight, and writes dx, of one group of channels in one band of an image. */
static int backward_piece(const job *j, const fgd_patches *patches, int64_t group, const char *x,
                          const char *dz, char *dx, char *dweight, int accumulate, char *buffer) {
    const plan *p = j->p;
    const int64_t n = patches->rows * patches->out_width;
    const char *weight = j->weight + group * of_group(p), *columns = columns_of(p, patches, x, buffer);
    int code;
    dweight += group * of_group(p);
    if (p->tall)
        code = fgd_gemm(p->dtype, 'N', 'T', p->depth, p->group_out, n, columns, patches->step, dz, p->cols,
                        accumulate, dweight, p->group_out);
    else
        code = fgd_gemm(p->dtype, 'N', 'T', p->group_out, p->depth, n, dz, p->cols, columns, patches->step,
                        accumulate, dweight, p->depth);
    if (code || !dx) return code;
    char *into = p->pointwise ? dx + patches->first * patches->out_width * p->item : buffer;
    code = fgd_gemm(p->dtype, 'T', 'N', p->depth, n, p->group_out, weight, p->depth, dz, p->cols, 0, into,
                    patches->step);
    if (!code && !p->pointwise) fgd_convs_for(p->dtype)->scatter(patches, p->group_in, buffer, dx);
    return code;
}

static int backward_image(const job *j, int64_t image, char *dweight, int accumulate, double *sums,
                          char *buffer) {
    const plan *p = j->p;
    const int64_t at = image * p->out_image * p->item, in_group = p->in_image / p->groups * p->item;
    char *dz = j->dy + at;
    if (j->activation->kind != FGD_ACTIVATION_identity)
        fgd_layers_for(p->dtype)->backward[j->activation->kind](j->activation, 1, p->out_image, 0,
                                                               j->saved + at, dz, dz, NULL);
    if (sums) fgd_convs_for(p->dtype)->add_sums(p->out, p->cols, dz, sums);
    if (j->dx && !p->pointwise)
        memset(j->dx + image * p->in_image * p->item, 0, (size_t)(p->in_image * p->item));
    for (int64_t band = 0; band < p->bands; band++) {
        int64_t n;
        const fgd_patches patches = patches_of(p, band, &n);
        const char *of_band = dz + patches.first * patches.out_width * p->item;
        for (int64_t g = 0; g < p->groups; g++) {
            const int64_t from = image * p->in_image * p->item + g * in_group;
            const int code = backward_piece(j, &patches, g, j->x + from,
                                            of_band + g * p->group_out * p->cols * p->item,
                                            j->dx ? j->dx + from : NULL, dweight, accumulate || band, buffer);
            if (code) return code;
        }
    }
    return FGD_OK;
}

static void backward_part(const void *what, int part, int parts) {
    const job *j = what;
    const plan *p = j->p;
    char *buffer = j->columns + part * aligned(column_elements(p) * p->item);
    for (int64_t b = p->blocks * part / parts; b < p->blocks * (part + 1) / parts; b++) {
        char *dweight = has_partials(p) ? j->partials + b * aligned(p->weights * p->item) : j->dweight;
        double *sums = j->sums ? j->sums + b * p->out : NULL;
        const int64_t first = b * p->block, end = at_most(first + p->block, p->batch);
        if (sums) memset(sums, 0, (size_t)p->out * sizeof(double));
        for (int64_t image = first; image < end && !j->codes[part]; image++)
            j->codes[part] = backward_image(j, image, dweight, image > first, sums, buffer);
    }
}

/* Adds up a part of dweight. */
static void total_part(const void *what, int part, int parts) {
    const job *j = what;
    const plan *p = j->p;
    const int64_t chunks = pieces(p->weights, FGD_CHUNK), stride = aligned(p->weights * p->item) / p->item;
    const int64_t from = chunks * part / parts * FGD_CHUNK;
    const int64_t to = at_most(chunks * (part + 1) / parts * FGD_CHUNK, p->weights);
    char *out = p->tall ? j->partials : j->dweight;
    fgd_convs_for(p->dtype)->add_up(p->blocks, to - from, stride, j->partials + from * p->item,
                                    out + from * p->item);
}

/* dweight from the sum that lies transposed, group by group, in the first block's. */
static void turn_over(const job *j) {
    const plan *p = j->p;
    const char *from = j->partials;
    for (int64_t group = 0; group < p->groups; group++)
        for (int64_t row = 0; row < p->depth; row++)
            for (int64_t col = 0; col < p->group_out; col++, from += p->item)
                memcpy(j->dweight + ((group * p->group_out + col) * p->depth + row) * p->item, from,
                       (size_t)p->item);
}

/* ---- Entries --------------------------------------------------------------------------------------- */

static int run(job *j, void (*work)(const void *what, int part, int parts), int threads) {
    int codes[MAX_BLOCKS] = {0};
    j->codes = codes;
    fgd_in_parts(threads, work, j);
    for (int part = 0; part < threads; part++)
        if (codes[part]) return codes[part];
    return FGD_OK;
}

int64_t fgd_conv_scratch(int dtype, const fgd_conv *of, int64_t batch, int64_t in, int64_t out,
                         int64_t height, int64_t width, int64_t kernel_height, int64_t kernel_width,
                         int backward) {
    plan p;
    if (check_plan(&p, dtype, of, batch, in, out, (int64_t[]){height, width},
                   (int64_t[]){kernel_height, kernel_width}))
        return 0;
    int64_t bytes = most_parts(&p, backward ? p.blocks : p.batch * p.bands) *
                    aligned(column_elements(&p) * p.item);
    if (backward) bytes += aligned(p.blocks * p.out * (int64_t)sizeof(double));
    if (backward && has_partials(&p)) bytes += p.blocks * aligned(p.weights * p.item);
    return bytes / (int64_t)sizeof(double);
}

int fgd_conv_forward(int dtype, const fgd_conv *of, int64_t batch, int64_t in, int64_t out, int64_t height,
                     int64_t width, int64_t kernel_height, int64_t kernel_width, const void *x,
                     const void *weight, const void *bias, void *z, void *y, double *scratch) {
    plan p;
    const int code = check_plan(&p, dtype, of, batch, in, out, (int64_t[]){height, width},
                                (int64_t[]){kernel_height, kernel_width});
    if (code || batch == 0) return code;
    const int saves_input = fgd_activation_at(of->activation->kind)->saves_input;
    if (!x || !weight || !y || (saves_input && !z) || (!p.pointwise && !scratch)) return FGD_ERROR_NULL;
    job j = {.p = &p, .activation = of->activation, .x = x, .weight = weight, .bias = bias,
             .z = saves_input ? z : NULL, .y = y, .columns = (char *)scratch};
    return run(&j, forward_part, threads_for(&p, batch * p.bands, 1));
}

int fgd_conv_backward(int dtype, const fgd_conv *of, int64_t batch, int64_t in, int64_t out, int64_t height,
                      int64_t width, int64_t kernel_height, int64_t kernel_width, const void *x,
                      const void *weight, const void *saved, void *dy, void *dx, void *dweight, void *dbias,
                      double *scratch) {
    plan p;
    int code = check_plan(&p, dtype, of, batch, in, out, (int64_t[]){height, width},
                          (int64_t[]){kernel_height, kernel_width});
    if (code) return code;
    const int is_identity = of->activation->kind == FGD_ACTIVATION_identity;
    if (!dweight || (batch && (!x || !dy || !scratch || (dx && !weight) || (!saved && !is_identity))))
        return FGD_ERROR_NULL;
    if (batch == 0) {
        memset(dweight, 0, (size_t)(p.weights * p.item));
        if (dbias) memset(dbias, 0, (size_t)(out * p.item));
        return FGD_OK;
    }
    job j = {.p = &p, .activation = of->activation, .x = x, .weight = weight, .saved = saved, .dy = dy,
             .dx = dx, .dweight = dweight, .columns = (char *)scratch};
    char *behind = j.columns + most_parts(&p, p.blocks) * aligned(column_elements(&p) * p.item);
    j.sums = dbias ? (double *)behind : NULL;
    j.partials = behind + aligned(p.blocks * out * (int64_t)sizeof(double));
    code = run(&j, backward_part, threads_for(&p, p.blocks, dx ? 2 : 1));
    if (code) return code;
    if (dbias) fgd_convs_for(dtype)->add_up_sums(p.blocks, out, j.sums, dbias);
    if (has_partials(&p)) fgd_in_parts(fgd_threads_for(p.blocks * p.weights), total_part, &j);
    if (p.tall) turn_over(&j);
    return FGD_OK;
}
