// The body of convolve.c for one type; included once for each.
//
// Wants T, TYPE(name) (name with the type's suffix), FMA(a, b, c), a * b + c on vectors,
// and TRANSPOSE, EVENS and ODDS (vectors.h).

typedef T TYPE(vec) __attribute__((vector_size(VECTOR_BYTES)));
typedef T TYPE(loose) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(T))));
#define VEC TYPE(vec)
#define LOOSE TYPE(loose)
#define LANES ((int64_t)(VECTOR_BYTES / sizeof(T)))
#define TILE_COLUMNS (TILE_VECTORS * LANES)
// x - 0 is x for every x, also for -0.
#define SPLAT(x) ((x) - (VEC){0})

typedef T TYPE(quarter) __attribute__((vector_size(32), aligned(sizeof(T))));
#define SIDE ((int64_t)(32 / sizeof(T)))

// --- The copy of a plane -----------------------------------------------------------

// to[k][q] = row[q * step + k] for q < counts[k] and k < step, which is 2 or 4; `size`
// elements of the row may be read.
static inline __attribute__((always_inline)) void TYPE(split_row)(
    const T *row, int64_t size, const int step, T *const *to, const int64_t *counts) {
    int64_t q = 0, full = size / step;
    for (int k = 0; k < step; k++) full = smaller(full, counts[k]);
    for (; q + SIDE <= full; q += SIDE) {
        TYPE(quarter) v[4], half[4];
        for (int k = 0; k < step; k++)
            v[k] = *(const TYPE(quarter) *)(row + q * step + k * SIDE);
        for (int k = 0; k < step; k += 2)
            half[k / 2] = EVENS(v[k], v[k + 1]), half[2 + k / 2] = ODDS(v[k], v[k + 1]);
        if (step == 2) {
            v[0] = half[0], v[1] = half[2];
        } else {
            v[0] = EVENS(half[0], half[1]), v[2] = ODDS(half[0], half[1]);
            v[1] = EVENS(half[2], half[3]), v[3] = ODDS(half[2], half[3]);
        }
        for (int k = 0; k < step; k++) *(TYPE(quarter) *)(to[k] + q) = v[k];
    }
    for (int k = 0; k < step; k++)
        for (int64_t i = q; i < counts[k]; i++) to[k][i] = row[i * step + k];
}

// The phases of the last axis are all its residues by the stride, 2 or 4: each row of x is
// read once.
static inline __attribute__((always_inline)) void TYPE(split_plane)(
    const convolution *c, const T *x, const int step, T *to) {
    const copied_axis *a = c->copied;
    const int64_t lines = a[0].extent * a[1].extent, extent = a[2].extent;
    int64_t counts[4];
    T *start[4];
    for (int f = 0; f < step; f++) {
        int64_t first = start_of(a + 2, f), from = 0;
        for (; first < 0; first += step) from++;
        int64_t inside = first < a[2].size ? divided_up(a[2].size - first, step) : 0;
        counts[first] = larger(smaller(inside, extent - from), 0);
        start[first] = to + f * lines * extent + from;
    }
    for (int64_t f = 0; f < a[0].phases * a[1].phases; f++) {
        int64_t s0 = start_of(a, f / a[1].phases), s1 = start_of(a + 1, f % a[1].phases);
        int64_t line = f * step * lines * extent;
        for (int64_t i = 0; i < a[0].extent; i++)
            for (int64_t j = 0; j < a[1].extent; j++, line += extent) {
                int64_t u = i * a[0].step + s0, v = j * a[1].step + s1;
                if (u < 0 || u >= a[0].size || v < 0 || v >= a[1].size) continue;
                T *at[4];
                for (int k = 0; k < step; k++) at[k] = start[k] + line;
                TYPE(split_row)(x + (u * a[1].size + v) * a[2].size, a[2].size, step, at,
                                counts);
            }
    }
}

// All phases of a plane; of each row zeros, the source's elements start + q * step for q in
// [from, end), zeros.
static void TYPE(copy_plane)(const convolution *c, const T *x, T *to) {
    const copied_axis *a = c->copied;
    const int64_t phases = a[0].phases * a[1].phases * a[2].phases;
    const int64_t extent = a[2].extent, step = a[2].step;
    memset(to, 0, (size_t)c->plane * sizeof(T));
    if (step == a[2].phases && (step == 2 || step == 4) && a[2].size >= step * SIDE) {
        if (step == 2) TYPE(split_plane)(c, x, 2, to);
        else TYPE(split_plane)(c, x, 4, to);
        return;
    }
    for (int64_t f = 0; f < phases; f++) {
        int64_t start = start_of(a + 2, f % a[2].phases);
        int64_t s1 = start_of(a + 1, f / a[2].phases % a[1].phases);
        int64_t s0 = start_of(a, f / a[2].phases / a[1].phases);
        int64_t from = smaller(divided_up(larger(-start, 0), step), extent);
        int64_t end = start < a[2].size ? divided_up(a[2].size - start, step) : 0;
        end = smaller(end, extent);
        for (int64_t i = 0; i < a[0].extent; i++)
            for (int64_t j = 0; j < a[1].extent; j++, to += extent) {
                int64_t u = i * a[0].step + s0, v = j * a[1].step + s1;
                if (u < 0 || u >= a[0].size || v < 0 || v >= a[1].size) continue;
                const T *row = x + (u * a[1].size + v) * a[2].size + start;
                if (step == 1)
                    for (int64_t q = from; q < end; q++) to[q] = row[q];
                else
                    for (int64_t q = from; q < end; q++) to[q] = row[q * step];
            }
    }
}

// Vectors read past the last plane: zeros, which are neither NaN nor infinite.
static int64_t TYPE(copy_elements)(const convolution *c, int64_t planes) {
    return planes * c->plane + TILE_COLUMNS;
}

static void TYPE(end_copy)(const convolution *c, int64_t planes, T *copy) {
    memset(copy + planes * c->plane, 0, (size_t)TILE_COLUMNS * sizeof(T));
}

static void TYPE(copy_planes)(void *context, int64_t begin, int64_t end) {
    const convolution *c = context;
    for (int64_t i = begin; i < end; i++)
        TYPE(copy_plane)(c, (const T *)c->source + i * c->source_size,
                         (T *)c->copy + i * c->plane);
}

// Of the whole batch.
static bool TYPE(copy_all)(convolution *c) {
    int64_t planes = c->n * c->groups * c->source_planes;
    c->copy = pn_alloc(TYPE(copy_elements)(c, planes) * (int64_t)sizeof(T));
    if (!c->copy) return false;
    pn_parallel_for(planes, PIECE / 16 / (c->plane + 1) + 1, TYPE(copy_planes), c);
    TYPE(end_copy)(c, planes, c->copy);
    return true;
}

static void TYPE(free_copy)(convolution *c) {
    int64_t planes = c->n * c->groups * c->source_planes;
    pn_free(c->copy, TYPE(copy_elements)(c, planes) * (int64_t)sizeof(T));
}

// --- forward and input -------------------------------------------------------------

// c[i, v, lane] (+)= sum over l < depth of a[l, i] * b_v[offset[l] + lane], i < rows.
static inline __attribute__((always_inline)) void TYPE(micro)(
    const int rows, int64_t depth, const T *restrict a, const int64_t *restrict offset,
    const T *b0, const T *b1, T *restrict c, bool add) {
    VEC sum[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) sum[i][0] = sum[i][1] = (VEC){0};
    for (int64_t l = 0; l < depth; l++) {
        VEC x0 = *(const LOOSE *)(b0 + offset[l]);
        VEC x1 = *(const LOOSE *)(b1 + offset[l]);
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            VEC s = SPLAT(a[i]);
            sum[i][0] = FMA(s, x0, sum[i][0]);
            sum[i][1] = FMA(s, x1, sum[i][1]);
        }
        a += rows;
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        LOOSE *at = (LOOSE *)(c + i * TILE_COLUMNS);
        LOOSE *next = (LOOSE *)(c + i * TILE_COLUMNS + LANES);
        *at = add ? *at + sum[i][0] : sum[i][0];
        *next = add ? *next + sum[i][1] : sum[i][1];
    }
}

#define MICRO(ROWS)                                                                    \
    static void TYPE(micro_##ROWS)(int64_t depth, const T *a, const int64_t *offset,   \
                                   const T *b0, const T *b1, T *c, bool add) {         \
        TYPE(micro)(ROWS, depth, a, offset, b0, b1, c, add);                           \
    }
#define MICRO_NAME(ROWS) TYPE(micro_##ROWS),
EACH_HEIGHT(MICRO)
typedef void (*TYPE(micro_fn))(int64_t, const T *, const int64_t *, const T *,
                               const T *, T *, bool);
static const TYPE(micro_fn) TYPE(micros)[] = {EACH_HEIGHT(MICRO_NAME)};

// weights[group, panel, l, row] of a pass, rows past the last 0.
static void TYPE(pack_weights)(const convolution *c, const pass *p) {
    T *to = p->weights;
    const T *w = c->weight;
    for (int64_t i = 0; i < c->groups * c->panels; i++) {
        int64_t group = i / c->panels, row = i % c->panels * c->rows;
        for (int64_t l = 0; l < p->depth; l++) {
            int64_t plane = l / p->taps, tap = p->tap[l % p->taps];
            for (int64_t r = row; r < row + c->rows; r++) {
                int64_t o = group * c->outputs + (c->is_input ? plane : r);
                int64_t at = (o * c->channels + (c->is_input ? r : plane)) * c->kernel;
                *to++ = r < c->result_planes ? w[at + tap] : 0;
            }
        }
    }
}

// The results of TILE_VECTORS vectors from v on, of all planes of a job (image, group).
static void TYPE(do_panel)(const convolution *c, const pass *p, int64_t job, int64_t v,
                           const T *copy, T *tile) {
    int64_t group = job % c->groups, last = smaller(v + TILE_VECTORS, p->vectors);
    const T *b0 = copy + p->start[v], *b1 = copy + p->start[last - 1];
    const T *weights = (const T *)p->weights + group * c->panels * p->depth * c->rows;
    int64_t l = 0;
    do {
        int64_t depth = smaller(p->depth - l, DEPTH);
        for (int64_t i = 0; i < c->panels; i++)
            TYPE(micros)[c->rows - 1](
                depth, weights + (i * p->depth + l) * c->rows, p->offset + l, b0, b1,
                tile + i * c->rows * TILE_COLUMNS, l > 0);
        l += DEPTH;
    } while (l < p->depth);
    const segment *end = p->segments + p->first_segment[last];
    for (int64_t r = 0; r < c->result_planes; r++) {
        T *y = (T *)c->result + (job * c->result_planes + r) * c->result_size;
        const T *row = tile + r * TILE_COLUMNS - v * LANES;
        for (const segment *s = p->segments + p->first_segment[v]; s < end; s++)
            for (int64_t k = 0; k < s->count; k++)
                y[s->at + k * p->step[2]] = row[s->lane + k];
    }
}

static int64_t TYPE(tile_bytes)(const convolution *c) {
    return c->panels * c->rows * TILE_COLUMNS * (int64_t)sizeof(T);
}

// Jobs, each with a copy of its own that stays in the cache.
static void TYPE(do_jobs)(void *context, int64_t begin, int64_t end) {
    convolution *c = context;
    int64_t elements = TYPE(copy_elements)(c, c->source_planes);
    int64_t nbytes = elements * (int64_t)sizeof(T) + TYPE(tile_bytes)(c);
    T *tile = pn_alloc(nbytes);
    if (!tile) {
        c->out_of_memory = true;
        return;
    }
    T *copy = tile + c->panels * c->rows * TILE_COLUMNS;
    TYPE(end_copy)(c, c->source_planes, copy);
    for (int64_t job = begin; job < end; job++) {
        const T *x = (const T *)c->source + job * c->source_planes * c->source_size;
        for (int64_t i = 0; i < c->source_planes; i++)
            TYPE(copy_plane)(c, x + i * c->source_size, copy + i * c->plane);
        for (int64_t r = 0; r < c->passes; r++)
            for (int64_t v = 0; v < c->pass[r].vectors; v += TILE_VECTORS)
                TYPE(do_panel)(c, c->pass + r, job, v, copy, tile);
        int64_t count = c->result_planes * c->result_size;
        if (c->epilogue) end_results(c, job * count, count);
    }
    pn_free(tile, nbytes);
}

// Panels of few jobs, which share one copy.
static void TYPE(do_panels)(void *context, int64_t begin, int64_t end) {
    convolution *c = context;
    T *tile = pn_alloc(TYPE(tile_bytes)(c));
    if (!tile) {
        c->out_of_memory = true;
        return;
    }
    for (int64_t i = begin; i < end; i++) {
        int64_t job = i / c->all_panels, v = i % c->all_panels, r = 0;
        while (v >= divided_up(c->pass[r].vectors, TILE_VECTORS))
            v -= divided_up(c->pass[r++].vectors, TILE_VECTORS);
        const T *copy = (const T *)c->copy + job * c->source_planes * c->plane;
        TYPE(do_panel)(c, c->pass + r, job, v * TILE_VECTORS, copy, tile);
    }
    pn_free(tile, TYPE(tile_bytes)(c));
}

static bool TYPE(convolve)(convolution *c) {
    for (int64_t r = 0; r < c->passes; r++) {
        pass *p = c->pass + r;
        int64_t elements = c->groups * c->panels * c->rows * p->depth;
        p->weight_bytes = (elements + 1) * (int64_t)sizeof(T);
        p->weights = pn_alloc(p->weight_bytes);
        if (!p->weights) return false;
        TYPE(pack_weights)(c, p);
    }
    int64_t jobs = c->n * c->groups, panel = TILE_COLUMNS * c->panels * c->rows;
    int64_t work = panel * (c->pass[0].depth + 1);
    if (jobs >= 2 * pn_num_threads()) {
        pn_parallel_for(jobs, PIECE / (work * c->all_panels) + 1, TYPE(do_jobs), c);
        c->epilogue = NULL;
        return true;
    }
    if (!TYPE(copy_all)(c)) return false;
    pn_parallel_for(jobs * c->all_panels, PIECE / work + 1, TYPE(do_panels), c);
    TYPE(free_copy)(c);
    return true;
}

// --- weight ------------------------------------------------------------------------

// sums[plane of y, v, lane]: y as vectors of results, 0 where a lane has none. Of a small
// plane the lane of each result is looked up: its rows are too short for loops of their own.
static void TYPE(copy_results)(void *context, int64_t begin, int64_t end) {
    const convolution *c = context;
    const pass *p = c->pass;
    const segment *last = p->segments + p->first_segment[p->vectors];
    int32_t lanes[SMALL_PLANE];
    bool is_small = c->y_size <= SMALL_PLANE && p->count[2] < LANES;
    for (const segment *s = p->segments; s < last && is_small; s++)
        for (int64_t k = 0; k < s->count; k++) lanes[s->at + k] = (int32_t)(s->lane + k);
    for (int64_t i = begin; i < end; i++) {
        const T *y = (const T *)c->weight + i * c->y_size;
        T *to = (T *)c->sums + i * c->sum_step;
        memset(to, 0, (size_t)c->sum_step * sizeof(T));
        if (is_small)
            for (int64_t k = 0; k < c->y_size; k++) to[lanes[k]] = y[k];
        else
            for (const segment *s = p->segments; s < last; s++)
                for (int64_t k = 0; k < s->count; k++) to[s->lane + k] = y[s->at + k];
    }
}

// A part of the gradient: rows (planes of y) and columns (l) of one group.
typedef struct {
    const T *y, *copy;
    int64_t y_image, copy_image;  // from image to image
    const int64_t *offset;        // of the columns
    int64_t width;                // columns of a row of totals
    int64_t image, end_image, v, end_v;
} TYPE(part);

// total[i, j, lane] += sum over images and v of y[i, v, lane] * copy[offset[j] +
// start[v]].
static inline __attribute__((always_inline)) void TYPE(add_products)(
    const int rows, const TYPE(part) *t, const pass *p, int64_t y_step, VEC *total) {
    VEC sum[SUM_ROWS][SUM_COLUMNS];
    int64_t offset[SUM_COLUMNS];
#pragma GCC unroll 8
    for (int j = 0; j < SUM_COLUMNS; j++) {
        offset[j] = t->offset[j];
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) sum[i][j] = (VEC){0};
    }
    for (int64_t m = t->image; m < t->end_image; m++)
        for (int64_t v = t->v; v < t->end_v; v++) {
            const T *y = t->y + m * t->y_image + v * LANES;
            const T *x = t->copy + m * t->copy_image + p->start[v];
            VEC g[SUM_ROWS];
#pragma GCC unroll 8
            for (int i = 0; i < rows; i++) g[i] = *(const LOOSE *)(y + i * y_step);
#pragma GCC unroll 8
            for (int j = 0; j < SUM_COLUMNS; j++) {
                VEC s = *(const LOOSE *)(x + offset[j]);
#pragma GCC unroll 8
                for (int i = 0; i < rows; i++) sum[i][j] = FMA(s, g[i], sum[i][j]);
            }
        }
#pragma GCC unroll 8
    for (int j = 0; j < SUM_COLUMNS; j++)
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) total[i * t->width + j] += sum[i][j];
}

static void TYPE(add_rows)(int64_t rows, const TYPE(part) *t, const pass *p,
                           int64_t y_step, VEC *total) {
    switch (rows) {
    case 1: TYPE(add_products)(1, t, p, y_step, total); break;
#if SUM_ROWS > 2
    case 2: TYPE(add_products)(2, t, p, y_step, total); break;
#endif
#if SUM_ROWS > 3
    case 3: TYPE(add_products)(3, t, p, y_step, total); break;
#endif
    default: TYPE(add_products)(SUM_ROWS, t, p, y_step, total);
    }
}

// Rows [o, o + rows) and columns [l, l + columns) of a group, over the whole batch: a
// few images or a stretch of one at a time, so that its rows of y stay in the cache.
static void TYPE(do_unit)(const convolution *c, int64_t group, int64_t o, int64_t rows,
                          int64_t l, int64_t columns, VEC *total) {
    const pass *p = c->pass;
    int64_t offset[MOST_COLUMNS], images = larger(SUM_BLOCK / p->vectors, 1);
    for (int64_t j = 0; j < c->unit_columns; j++)
        offset[j] = p->offset[l + smaller(j, columns - 1)];
    memset(total, 0, (size_t)(UNIT_ROWS * UNIT_COLUMNS) * sizeof(VEC));
    TYPE(part) t = {.width = c->unit_columns,
                    .y_image = c->groups * c->outputs * c->sum_step,
                    .copy = (const T *)c->copy + group * c->channels * c->plane,
                    .copy_image = c->groups * c->channels * c->plane};
    for (t.image = 0; t.image < c->n; t.image += images) {
        t.end_image = smaller(t.image + images, c->n);
        for (t.v = 0; t.v < p->vectors; t.v += SUM_BLOCK) {
            t.end_v = smaller(t.v + SUM_BLOCK, p->vectors);
            for (int64_t j = 0; j < columns; j += SUM_COLUMNS)
                for (int64_t i = 0; i < rows; i += SUM_ROWS) {
                    int64_t row = group * c->outputs + o + i;
                    t.y = (const T *)c->sums + row * c->sum_step;
                    t.offset = offset + j;
                    TYPE(add_rows)(smaller(rows - i, SUM_ROWS), &t, p, c->sum_step,
                                   total + i * c->unit_columns + j);
                }
        }
    }
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) {
            VEC all = total[i * c->unit_columns + j];
            for (int64_t half = LANES / 2; half; half /= 2)
                for (int64_t s = 0; s < half; s++) all[s] += all[s + half];
            int64_t row = group * c->outputs + o + i;
            ((T *)c->result)[row * p->depth + l + j] = all[0];
        }
}

static void TYPE(do_units)(void *context, int64_t begin, int64_t end) {
    convolution *c = context;
    int64_t down = divided_up(c->outputs, UNIT_ROWS);
    int64_t across = divided_up(c->pass->depth, c->unit_columns);
    int64_t nbytes = UNIT_ROWS * UNIT_COLUMNS * (int64_t)sizeof(VEC);
    VEC *total = pn_alloc(nbytes);
    if (!total) {
        c->out_of_memory = true;
        return;
    }
    for (int64_t u = begin; u < end; u++) {
        int64_t o = u / across % down * UNIT_ROWS, l = u % across * c->unit_columns;
        TYPE(do_unit)(c, u / across / down, o, smaller(c->outputs - o, UNIT_ROWS), l,
                      smaller(c->pass->depth - l, c->unit_columns), total);
    }
    pn_free(total, nbytes);
}

static bool TYPE(sum_weight)(convolution *c) {
    const pass *p = c->pass;
    if (!TYPE(copy_all)(c)) return false;
    int64_t planes = c->n * c->groups * c->outputs;
    c->sum_step = p->vectors * LANES;
    int64_t nbytes = planes * c->sum_step * (int64_t)sizeof(T);
    c->sums = pn_alloc(nbytes);
    if (c->sums) {
        pn_parallel_for(planes, PIECE / 16 / c->sum_step + 1, TYPE(copy_results), c);
        // Each unit reads the whole batch: of few rows they are wider, if the threads still
        // have enough of them.
        int64_t down = c->groups * divided_up(c->outputs, UNIT_ROWS);
        int64_t held = smaller(rounded_up(c->outputs, SUM_ROWS), UNIT_ROWS);
        c->unit_columns = UNIT_COLUMNS;
        while (2 * c->unit_columns * held <= UNIT_ROWS * UNIT_COLUMNS &&
               down * divided_up(p->depth, 2 * c->unit_columns) >= pn_num_threads())
            c->unit_columns *= 2;
        int64_t units = down * divided_up(p->depth, c->unit_columns);
        int64_t work = smaller(c->outputs, UNIT_ROWS) *
                       smaller(p->depth, c->unit_columns) * c->n * c->sum_step;
        pn_parallel_for(units, PIECE / work + 1, TYPE(do_units), c);
        pn_free(c->sums, nbytes);
    }
    TYPE(free_copy)(c);
    return c->sums != NULL;
}

#include "convolve_batch.h"
#include "convolve_patches.h"

static bool TYPE(run)(convolution *c, bool few) {
    if (few && TYPE(over_batch)(c)) return TYPE(convolve_batch)(c);
    return c->is_weight ? TYPE(sum_weight)(c) : TYPE(convolve)(c);
}

#undef T
#undef TYPE
#undef FMA
#undef TRANSPOSE
#undef EVENS
#undef ODDS
#undef VEC
#undef LOOSE
#undef LANES
#undef TILE_COLUMNS
#undef SPLAT
#undef MICRO
#undef MICRO_NAME
