/* What is done to the steps of sequences apart from their contents: positions are added, ends cut off. */
#include <stddef.h>
#include <string.h>

#include "dispatch.h"
#include "pieces.h"

/* Forward y = x [batch, cols] + weight [cols], backward y [cols] = the sums of the columns of x. Columns are
 * cut for threads at multiples of FGD_COLUMNS. */
typedef struct job {
    int dtype;
    int64_t batch, cols;
    const char *x, *weight;
    char *y;
} job;

static int check(int dtype, int64_t batch, int64_t time, int64_t dim) {
    if (dtype != FGD_F32 && dtype != FGD_F64) return FGD_ERROR_DTYPE;
    if (batch < 0 || check_matrix(time, dim)) return FGD_ERROR_SIZE;
    return check_matrix(batch, time * dim);
}

static int64_t first_column(const job *j, int part, int parts) {
    return at_most(pieces(j->cols, FGD_COLUMNS) * part / parts * FGD_COLUMNS, j->cols);
}

static void forward_part(const void *what, int part, int parts) {
    const job *j = what;
    const fgd_activation none = {.kind = FGD_ACTIVATION_identity};
    const int64_t from = first_column(j, part, parts), item = fgd_item_size(j->dtype);
    fgd_layers_for(j->dtype)->forward[none.kind](&none, j->batch, first_column(j, part + 1, parts) - from,
                                                 j->cols, j->weight + from * item, j->x + from * item, NULL,
                                                 j->y + from * item);
}

static void backward_part(const void *what, int part, int parts) {
    const job *j = what;
    const int64_t end = first_column(j, part + 1, parts), item = fgd_item_size(j->dtype);
    for (int64_t i = first_column(j, part, parts); i < end; i += FGD_COLUMNS)
        fgd_recurrents_for(j->dtype)->sum_columns(j->batch, at_most(end - i, FGD_COLUMNS), j->cols,
                                                  j->x + i * item, j->y + i * item);
}

int fgd_positions_forward(int dtype, const fgd_positions *of, int64_t batch, int64_t time, int64_t dim,
                          const void *x, const void *weight, void *y) {
    if (!of) return FGD_ERROR_NULL;
    const int code = check(dtype, batch, time, dim);
    if (code) return code;
    if (time > of->max_time) return FGD_ERROR_SIZE;
    if (batch == 0 || time == 0 || dim == 0) return FGD_OK;
    if (!x || !weight || !y) return FGD_ERROR_NULL;
    const job j = {dtype, batch, time * dim, x, weight, y};
    fgd_in_parts(fgd_threads_for(batch * j.cols), forward_part, &j);
    return FGD_OK;
}

int fgd_positions_backward(int dtype, const fgd_positions *of, int64_t batch, int64_t time, int64_t dim,
                           const void *dy, void *dweight) {
    if (!of) return FGD_ERROR_NULL;
    int code = check(dtype, batch, time, dim);
    if (!code) code = check_matrix(of->max_time, dim);
    if (code) return code;
    if (time > of->max_time) return FGD_ERROR_SIZE;
    if (dim && of->max_time && (!dweight || (batch && time && !dy))) return FGD_ERROR_NULL;
    const job j = {dtype, batch, time * dim, dy, NULL, dweight};
    fgd_in_parts(fgd_threads_for(batch * j.cols), backward_part, &j);
    const int64_t item = fgd_item_size(dtype), rest = (of->max_time - time) * dim;
    if (rest) memset((char *)dweight + j.cols * item, 0, (size_t)(rest * item));
    return FGD_OK;
}

int fgd_cut(int dtype, const void *none, int64_t batch, int64_t time, int64_t dim, const int64_t *lengths,
            void *y) {
    const int code = check(dtype, batch, time, dim);
    (void)none;
    if (code || batch == 0 || time == 0 || dim == 0) return code;
    if (!lengths || !y) return FGD_ERROR_NULL;
    for (int64_t b = 0; b < batch; b++)
        if (lengths[b] < 1 || lengths[b] > time) return FGD_ERROR_SIZE;
    const int64_t bytes = dim * fgd_item_size(dtype);
    for (int64_t b = 0; b < batch; b++)
        memset((char *)y + (b * time + lengths[b]) * bytes, 0, (size_t)((time - lengths[b]) * bytes));
    return FGD_OK;
}
