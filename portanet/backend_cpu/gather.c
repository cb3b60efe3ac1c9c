// y[o, j, i] = x[o, index[o, j, i], i], an index below 0 counting from the end.
//
// Work is divided by rows (o, j). A row of contiguous elements under one index is copied
// whole; all else goes in lines, along i, j or o, whose indices are checked a block at a
// time. Only the size of an element matters, not its type. An index out of range is a
// fault, at its position in the result, and leaves that place of y as it was.
//
// words: outer, count, inner, size, x_offset, x_outer, x_axis, x_inner,
//        i_offset, i_outer, i_axis, i_inner
#include "convert.h"

#define PIECE ((int64_t)1 << 14)  // elements worth a thread
#define BLOCK ((int64_t)256)      // indices checked at a time

typedef struct {
    const pn_args *args;
    const char *x, *indices;
    char *y;
    int i_dtype;
    int64_t itemsize, outer, count, inner, size;
    int64_t x_offset, x_outer, x_axis, x_inner, i_offset, i_outer, i_axis, i_inner;
} gather;

PN_DEFINE_LOAD(load_i64, int64_t)

// n neighbours in y, from `to` on: y[to + c] = x[x + c * x_step + index * x_axis], where
// index is at i + c * i_step.
typedef struct {
    int64_t n, to, x, x_step, i, i_step;
} line;

// from[c] = where element c comes from; whether all indices are in range.
static bool locate(const gather *g, const line *l, int64_t *from) {
    bool bad = false;
    load_i64(from, g->indices, g->i_dtype, l->i, l->i_step, l->n);
    for (int64_t c = 0; c < l->n; c++) {
        int64_t row = from[c] < 0 ? from[c] + g->size : from[c];
        bad |= (uint64_t)row >= (uint64_t)g->size;
        from[c] = l->x + c * l->x_step + row * g->x_axis;
    }
    return !bad;
}

static void report(const gather *g, const line *l) {
    for (int64_t c = 0; c < l->n; c++) {
        int64_t index = pn_index_at(g->indices, g->i_dtype, l->i + c * l->i_step);
        if (index < -g->size || index >= g->size)
            pn_set_fault(g->args, l->to + c, PN_INDEX_OUT_OF_RANGE, index, g->size);
    }
}

#define COPY(S)                                                                        \
    for (int64_t c = 0; c < l->n; c++)                                                 \
        ((S *)g->y)[l->to + c] = ((const S *)g->x)[from[c]]

static void copy_block(const gather *g, const line *l) {
    int64_t from[BLOCK];
    if (!locate(g, l, from)) {
        report(g, l);
        return;
    }
    switch (g->itemsize) {
    case 1: COPY(uint8_t); break;
    case 2: COPY(uint16_t); break;
    case 4: COPY(uint32_t); break;
    default: COPY(uint64_t);
    }
}

static void copy_line(const gather *g, line l) {
    int64_t left = l.n;
    for (l.n = BLOCK; left > 0; left -= BLOCK) {
        if (left < BLOCK) l.n = left;
        copy_block(g, &l);
        l.to += BLOCK;
        l.x += BLOCK * l.x_step;
        l.i += BLOCK * l.i_step;
    }
}

// Row (o, j) under one index, its elements contiguous.
static void copy_row(const gather *g, int64_t x, int64_t i, int64_t to) {
    line one = {.n = 1, .to = to, .x = x, .i = i};
    int64_t from;
    if (locate(g, &one, &from))
        memcpy(g->y + to * g->itemsize, g->x + from * g->itemsize,
               (size_t)(g->inner * g->itemsize));
    else
        report(g, &one);
}

// n neighbours of 4 bytes under int32 indices of their own: what is asked for most, and in
// lines of few elements too. An index counts if index + size is in [0, 2 size).
static inline __attribute__((always_inline)) void copy_plain(const gather *g, line l,
                                                             const int64_t i_step,
                                                             const int64_t x_step,
                                                             const int64_t x_axis) {
    const uint32_t *x = (const uint32_t *)g->x + l.x;
    const int32_t *indices = (const int32_t *)g->indices + l.i;
    uint32_t *restrict y = (uint32_t *)g->y + l.to;
    const int32_t size = (int32_t)g->size;
    uint32_t most = 0;
    for (int64_t c = 0; c < l.n; c++) {
        uint32_t above = (uint32_t)indices[c * i_step] + (uint32_t)size;
        most = above > most ? above : most;
    }
    if (most >= 2 * (uint32_t)size) {
        l.x_step = x_step, l.i_step = i_step;
        report(g, &l);
        return;
    }
    for (int64_t c = 0; c < l.n; c++) {
        int32_t index = indices[c * i_step], row = index + (index < 0 ? size : 0);
        y[c] = x[c * x_step + row * x_axis];
    }
}

// Rows [begin, end), in lines along j, or along o where there is one j.
static void do_plain_lines(void *context, int64_t begin, int64_t end) {
    const gather *g = context;
    if (g->count == 1) {
        line l = {.n = end - begin, .to = begin, .x = g->x_offset + begin * g->x_outer,
                  .i = g->i_offset + begin * g->i_outer};
        if (g->i_outer == 1) copy_plain(g, l, 1, g->x_outer, g->x_axis);
        else copy_plain(g, l, g->i_outer, g->x_outer, g->x_axis);
        return;
    }
    int64_t o = begin / g->count, j = begin % g->count;
    for (int64_t r = begin, n; r < end; r += n, j = 0, o++) {
        n = g->count - j < end - r ? g->count - j : end - r;
        line l = {.n = n, .to = r, .x = g->x_offset + o * g->x_outer,
                  .i = g->i_offset + o * g->i_outer + j * g->i_axis};
        if (g->i_axis == 1 && g->x_axis == 1) copy_plain(g, l, 1, 0, 1);
        else copy_plain(g, l, g->i_axis, 0, g->x_axis);
    }
}

static void do_rows(void *context, int64_t begin, int64_t end) {
    const gather *g = context;
    bool whole = g->inner > 1 && g->x_inner == 1 && g->i_inner == 0;
    int64_t step = 1;
    for (int64_t r = begin; r < end; r += step) {
        int64_t o = r / g->count, j = r % g->count, to = r * g->inner;
        int64_t x = g->x_offset + o * g->x_outer;
        int64_t i = g->i_offset + o * g->i_outer + j * g->i_axis;
        if (whole) {
            copy_row(g, x, i, to);
        } else if (g->inner > 1) {
            copy_line(g, (line){g->inner, to, x, g->x_inner, i, g->i_inner});
        } else if (g->count == 1) {
            step = end - r;
            copy_line(g, (line){step, to, x, g->x_outer, i, g->i_outer});
        } else {
            step = g->count - j < end - r ? g->count - j : end - r;
            copy_line(g, (line){step, to, x, 0, i, g->i_axis});
        }
    }
}

void PN_KERNEL(gather)(const pn_args *args) {
    const int64_t *w = args->words;
    gather g = {
        .args = args, .y = args->buffers[0], .x = args->buffers[1],
        .indices = args->buffers[2], .i_dtype = args->dtypes[2],
        .itemsize = pn_itemsize(args->dtypes[1]), .outer = w[0], .count = w[1],
        .inner = w[2], .size = w[3], .x_offset = w[4], .x_outer = w[5], .x_axis = w[6],
        .x_inner = w[7], .i_offset = w[8], .i_outer = w[9], .i_axis = w[10],
        .i_inner = w[11]};
    if (g.outer * g.count * g.inner == 0) return;
    bool is_plain = g.inner == 1 && g.itemsize == 4 && g.size < 1 << 30;
    pn_range_fn run = is_plain && g.i_dtype == PN_INT32 ? do_plain_lines : do_rows;
    pn_parallel_for(g.outer * g.count, PIECE / g.inner + 1, run, &g);
}
