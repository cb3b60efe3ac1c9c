// y[o, index[o, j, i], i] += v[o, j, i], or = v, for j ascending; in place.
//
// Tasks own disjoint parts of y: a range of o, and within it either a range of i, or a
// range of target rows for which the task reads every index and takes its own. So each
// element of y meets its values in the order of j whatever the threads, and float sums are
// deterministic. float16 and bfloat16 round after every addition; bool adds as "or".
// An index out of range is a fault at its position (o, j, i) in v, and writes nothing.
//
// words: outer, count, inner, size, v_offset, v_outer, v_axis, v_inner,
//        i_offset, i_outer, i_axis, i_inner
// options: add | set
#include "convert.h"

#define PIECE ((int64_t)1 << 14)  // elements worth a thread
#define CHUNK ((int64_t)64)       // the narrowest range of i that is worth a task
#define BLOCK ((int64_t)256)      // indices checked at a time
#define SHORT ((int64_t)64)       // lines below it are plain even where they are few

typedef struct {
    const pn_args *args;
    const char *v, *indices;
    char *y;
    int dtype, i_dtype;
    bool is_add;
    int64_t itemsize, outer, count, inner, size;
    int64_t v_offset, v_outer, v_axis, v_inner, i_offset, i_outer, i_axis, i_inner;
    int64_t chunks, chunk;  // ranges of i, and their width
    int64_t bands, band;    // ranges of target rows, and their height
} scatter;

PN_DEFINE_LOAD(load_i64, int64_t)

// A run of values: number c, from v[from + c * from_step], goes to
// y[to + c * to_step + row * inner]; its index is at `i + c * i_step`, and its position, for
// messages, is position + c * position_step.
typedef struct {
    int64_t n, to, to_step, from, from_step, i, i_step, position, position_step;
} line;

static void advance(line *l, int64_t n) {
    l->to += n * l->to_step;
    l->from += n * l->from_step;
    l->i += n * l->i_step;
    l->position += n * l->position_step;
}

// Target rows in [first, last), -1 for others'; out of range is a fault, and -1.
static void locate(const scatter *s, const line *l, int64_t first, int64_t last,
                   int64_t *rows) {
    load_i64(rows, s->indices, s->i_dtype, l->i, l->i_step, l->n);
    for (int64_t c = 0; c < l->n; c++) {
        int64_t index = rows[c], row = index < 0 ? index + s->size : index;
        rows[c] = row >= first && row < last ? row : -1;
        if ((uint64_t)row >= (uint64_t)s->size)
            pn_set_fault(s->args, l->position + c * l->position_step,
                         PN_INDEX_OUT_OF_RANGE, index, s->size);
    }
}

// Two loops for each type: a line of values under an index each, and `width` neighbouring
// values of v, v_inner apart, under each index. p is what y holds and q what comes.
#define PUT_CASE(CODE, S, RESULT)                                                      \
    case CODE: {                                                                       \
        S *y = (S *)s->y + l->to;                                                      \
        const S *v = (const S *)s->v + l->from;                                        \
        for (int64_t c = 0; c < l->n && width == 1; c++) {                             \
            if (rows[c] < 0) continue;                                                 \
            S *a = y + c * l->to_step + rows[c] * s->inner;                            \
            S p = *a, q = v[c * l->from_step];                                         \
            (void)p;                                                                   \
            *a = RESULT;                                                               \
        }                                                                              \
        for (int64_t c = 0; c < l->n && width > 1; c++) {                              \
            if (rows[c] < 0) continue;                                                 \
            S *a = y + c * l->to_step + rows[c] * s->inner;                            \
            const S *b = v + c * l->from_step;                                         \
            for (int64_t w = 0; w < width; w++) {                                      \
                S p = a[w], q = b[w * s->v_inner];                                     \
                (void)p;                                                               \
                a[w] = RESULT;                                                         \
            }                                                                          \
        }                                                                              \
        return;                                                                        \
    }

static void add(const scatter *s, const line *l, const int64_t *rows, int64_t width) {
    switch (s->dtype) {
        PUT_CASE(PN_BOOL, uint8_t, p | q)
        PUT_CASE(PN_UINT8, uint8_t, (uint8_t)(p + q))
        PUT_CASE(PN_INT32, uint32_t, p + q)
        PUT_CASE(PN_UINT32, uint32_t, p + q)
        PUT_CASE(PN_INT64, uint64_t, p + q)
        PUT_CASE(PN_FLOAT16, uint16_t,
                 pn_to_float16(pn_from_float16(p) + pn_from_float16(q)))
        PUT_CASE(PN_BFLOAT16, uint16_t,
                 pn_to_bfloat16(pn_from_bfloat16(p) + pn_from_bfloat16(q)))
        PUT_CASE(PN_FLOAT32, float, p + q)
        PUT_CASE(PN_FLOAT64, double, p + q)
    }
}

static void set(const scatter *s, const line *l, const int64_t *rows, int64_t width) {
    switch (s->itemsize) {
        PUT_CASE(1, uint8_t, q)
        PUT_CASE(2, uint16_t, q)
        PUT_CASE(4, uint32_t, q)
        PUT_CASE(8, uint64_t, q)
    }
}

static void put_line(const scatter *s, line l, int64_t first, int64_t last,
                     int64_t width) {
    int64_t rows[BLOCK], left = l.n;
    for (l.n = BLOCK; left > 0; left -= BLOCK, advance(&l, BLOCK)) {
        if (left < BLOCK) l.n = left;
        locate(s, &l, first, last, rows);
        (s->is_add ? add : set)(s, &l, rows, width);
    }
}

// All j of one o, for columns [i, i + n) and target rows [first, last): one line along j
// where an index serves all columns, else a line along i for each j.
static void do_part(const scatter *s, int64_t o, int64_t i, int64_t n, int64_t first,
                    int64_t last) {
    line l = {.to = o * s->size * s->inner + i,
              .from = s->v_offset + o * s->v_outer + i * s->v_inner,
              .i = s->i_offset + o * s->i_outer + i * s->i_inner,
              .position = o * s->count * s->inner + i};
    if (s->i_inner == 0 || n == 1) {
        l.n = s->count, l.from_step = s->v_axis, l.i_step = s->i_axis;
        l.position_step = s->inner;
        put_line(s, l, first, last, n);
        return;
    }
    l.n = n, l.to_step = 1, l.from_step = s->v_inner, l.i_step = s->i_inner;
    l.position_step = 1;
    for (int64_t j = 0; j < s->count; j++) {
        put_line(s, l, first, last, 1);
        l.from += s->v_axis, l.i += s->i_axis, l.position += s->inner;
    }
}

// All j of o in [begin, end), of 4-byte elements each under an int32 index of its own: what
// there is most of, and in lines of few elements too.
#define DEFINE_PLAIN_LINES(NAME, S, RESULT)                                            \
    static void NAME(void *context, int64_t begin, int64_t end) {                      \
        const scatter *s = context;                                                    \
        for (int64_t o = begin; o < end; o++) {                                        \
            S *y = (S *)s->y + o * s->size;                                            \
            const S *v = (const S *)s->v + s->v_offset + o * s->v_outer;               \
            const int32_t *indices = (const int32_t *)s->indices + s->i_offset;        \
            indices += o * s->i_outer;                                                 \
            for (int64_t j = 0; j < s->count; j++) {                                   \
                int64_t index = indices[j * s->i_axis];                                \
                int64_t row = index < 0 ? index + s->size : index;                     \
                if ((uint64_t)row >= (uint64_t)s->size) {                              \
                    pn_set_fault(s->args, o * s->count + j, PN_INDEX_OUT_OF_RANGE,     \
                                 index, s->size);                                      \
                    continue;                                                          \
                }                                                                      \
                S p = y[row], q = v[j * s->v_axis];                                    \
                (void)p;                                                               \
                y[row] = RESULT;                                                       \
            }                                                                          \
        }                                                                              \
    }
DEFINE_PLAIN_LINES(add_plain_lines, float, p + q)
DEFINE_PLAIN_LINES(set_plain_lines, uint32_t, q)

static void do_tasks(void *context, int64_t begin, int64_t end) {
    const scatter *s = context;
    for (int64_t t = begin; t < end; t++) {
        int64_t o = t / (s->chunks * s->bands), part = t % (s->chunks * s->bands);
        int64_t i = part / s->bands * s->chunk, first = part % s->bands * s->band;
        int64_t n = s->inner - i < s->chunk ? s->inner - i : s->chunk;
        do_part(s, o, i, n, first, first + s->band);
    }
}

// Ranges of i if o alone doesn't feed the threads and rows are long, else bands of rows:
// a band costs another reading of the indices, so there is at most one for each thread.
static void cut(scatter *s) {
    int64_t threads = pn_num_threads(), work = s->outer * s->count * s->inner;
    s->chunks = s->bands = 1, s->chunk = s->inner, s->band = s->size;
    if (threads == 1 || s->outer >= 2 * threads || work < 2 * PIECE) return;
    if (s->inner >= 2 * CHUNK) {
        s->chunk = (s->inner / threads + CHUNK - 1) / CHUNK * CHUNK;
        if (s->chunk < CHUNK) s->chunk = CHUNK;
        s->chunks = (s->inner + s->chunk - 1) / s->chunk;
    } else if (s->size >= threads) {
        s->band = (s->size + threads - 1) / threads;
        s->bands = (s->size + s->band - 1) / s->band;
    }
}

void PN_KERNEL(scatter)(const pn_args *args) {
    const int64_t *w = args->words;
    scatter s = {
        .args = args, .y = args->buffers[0], .v = args->buffers[1],
        .indices = args->buffers[2], .dtype = args->dtypes[0], .i_dtype = args->dtypes[2],
        .is_add = !strcmp(args->options[0], "add"),
        .itemsize = pn_itemsize(args->dtypes[0]), .outer = w[0], .count = w[1],
        .inner = w[2], .size = w[3], .v_offset = w[4], .v_outer = w[5], .v_axis = w[6],
        .v_inner = w[7], .i_offset = w[8], .i_outer = w[9], .i_axis = w[10],
        .i_inner = w[11]};
    if (s.outer * s.count * s.inner == 0) return;
    bool is_float = s.dtype == PN_FLOAT32, is_index = s.i_dtype == PN_INT32;
    // Long lines too, where there are enough of them for the threads.
    bool is_plain = s.inner == 1 && (s.count < SHORT || s.outer >= 2 * pn_num_threads());
    if (is_plain && is_index && (s.is_add ? is_float : s.itemsize == 4)) {
        pn_range_fn run = s.is_add ? add_plain_lines : set_plain_lines;
        pn_parallel_for(s.outer, PIECE / s.count + 1, run, &s);
        return;
    }
    cut(&s);
    int64_t tasks = s.outer * s.chunks * s.bands;
    int64_t each = s.count * s.chunk / s.bands + 1;
    pn_parallel_for(tasks, PIECE / each + 1, do_tasks, &s);
}
