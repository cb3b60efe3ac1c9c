// y[r] = the order of row r of x: positions, int32, such that x[r, y[r, 0]], x[r, y[r, 1]]
// ... ascends or descends; of equals the first is first. NaN is above all.
//
// A row becomes records of a key (order.h) and a position, sorted by bytes (radix sort), or
// by insertion where it is short. Rows are divided among the threads. A long row is sorted
// in parts that are then merged; there is only one stable order, so the parts don't matter.
//
// Where only the first of a row are asked for, records whose key begins with more than
// theirs can are left out before.
//
// words: rows, n, kept, offset, row_stride, step. Output contiguous (rows, kept).
// options: ascending | descending
#include "order.h"

#define BLOCK ((int64_t)256)      // keys made at a time
#define FEW ((int64_t)48)         // insertion takes n * n / 4 steps, radix 1024 and more
#define MOST_KEPT ((int64_t)48)   // of a row that is passed over once
#define GROUP ((int64_t)32)       // keys compared at a time, a part of BLOCK
#define HEADS 4096                // what 12 bits of a key can be
#define PIECE ((int64_t)1 << 13)  // elements worth a thread

typedef struct {
    const pn_args *args;
    const void *x;
    int32_t *y;
    int dtype;
    int64_t rows, n, kept, offset, row_stride, step;
    bool is_descending;
} sorting;

typedef struct { uint64_t key, index; } record;

#define TYPE(name) name##_32
#define KEY_TYPE uint32_t
#define RECORD uint64_t
#define KEY(r) ((uint32_t)((r) >> 32))
#define INDEX(r) ((uint32_t)(r))
#define MAKE(k, i) ((uint64_t)(k) << 32 | (uint64_t)(i))
#include "sort_records.h"

#define TYPE(name) name##_64
#define KEY_TYPE uint64_t
#define RECORD record
#define KEY(r) ((r).key)
#define INDEX(r) ((r).index)
#define MAKE(k, i) ((record){(k), (uint64_t)(i)})
#include "sort_records.h"

void PN_KERNEL(sort)(const pn_args *args) {
    const int64_t *w = args->words;
    sorting s = {.args = args, .x = args->buffers[1], .y = args->buffers[0],
                 .dtype = args->dtypes[1], .rows = w[0], .n = w[1], .kept = w[2],
                 .offset = w[3], .row_stride = w[4], .step = w[5],
                 .is_descending = !strcmp(args->options[0], "descending")};
    if (s.rows * s.kept == 0) return;
    if (pn_has_wide_keys(s.dtype)) sort_64(&s);
    else sort_32(&s);
}
