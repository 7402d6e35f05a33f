/* The cells of recurrent layers by name, as csrc/recurrent.def has them. */
#include <stddef.h>
#include <string.h>

#include "dispatch.h"

#define INFO(name, gates, shared, has_cell) {#name, gates, shared, has_cell},
static const fgd_cell_info infos[FGD_CELL_COUNT] = {FGD_CELLS(INFO)};

int fgd_cell_count(void) { return FGD_CELL_COUNT; }

const fgd_cell_info *fgd_cell_at(int cell) {
    return cell < 0 || cell >= FGD_CELL_COUNT ? NULL : &infos[cell];
}

int fgd_cell_find(const char *name) {
    for (int cell = 0; name && cell < FGD_CELL_COUNT; cell++)
        if (strcmp(infos[cell].name, name) == 0) return cell;
    return FGD_ERROR_OPTION;
}
