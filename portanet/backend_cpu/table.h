// The kernels of each level; the build writes the table from the names of the files.
#ifndef PN_TABLE_H
#define PN_TABLE_H
#include <stddef.h>

#include "pn.h"

#define PN_MAX_LEVELS 3
typedef struct {
    const char *stem;
    pn_kernel_fn functions[PN_MAX_LEVELS];
} pn_kernel;

extern const pn_kernel pn_kernels[];     // ends with a stem of NULL
extern const char *const pn_levels[];    // in rising order, then NULL
#endif
