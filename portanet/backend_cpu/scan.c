// y[o, j, i] = sum or product over l <= j (inclusive) or l < j (exclusive) of x[o, l, i].
//
// A running total per (o, i), in float64 or in 64-bit integers whatever the type stored,
// so a float32 or narrower result is the rounded value of a far better one; integers wrap.
// Work is divided by (o, panel of WIDTH neighbouring i); j runs in order.
//
// words: outer, n, inner, offset, outer_stride, axis_stride, inner_stride
// options: sum | prod, inclusive | exclusive
#include "convert.h"

#define WIDTH ((int64_t)64)
#define RUN ((int64_t)512)          // elements converted at a time where inner is 1
#define PIECE ((int64_t)1 << 14)    // elements worth a thread: a scan takes 1 ns for each

PN_DEFINE_LOAD(load_f64, double)
PN_DEFINE_STORE(store_f64, double)
PN_DEFINE_LOAD(load_i64, int64_t)
PN_DEFINE_STORE(store_i64, int64_t)

typedef struct {
    const void *x;
    void *y;
    int x_dtype, y_dtype;
    int64_t outer, n, inner, offset, outer_stride, axis_stride, inner_stride, panels;
    bool is_product, is_exclusive;
} scan;

#define DEFINE_SCAN(S, T)                                                              \
    /* value[j] = the total with it or, if exclusive, before it */                     \
    static T run_##S(T *value, int64_t n, T total, bool is_product, bool exclusive) {  \
        for (int64_t j = 0; j < n; j++) {                                              \
            T next = is_product ? total * value[j] : total + value[j];                 \
            value[j] = exclusive ? total : next;                                       \
            total = next;                                                              \
        }                                                                              \
        return total;                                                                  \
    }                                                                                  \
    static void row_##S(const scan *s, int64_t o) {                                    \
        T value[RUN], total = s->is_product;                                           \
        for (int64_t j = 0; j < s->n; j += RUN) {                                      \
            int64_t count = s->n - j < RUN ? s->n - j : RUN;                           \
            int64_t at = s->offset + o * s->outer_stride + j * s->axis_stride;         \
            load_##S(value, s->x, s->x_dtype, at, s->axis_stride, count);              \
            total = run_##S(value, count, total, s->is_product, s->is_exclusive);      \
            store_##S(s->y, s->y_dtype, o * s->n + j, value, count);                   \
        }                                                                              \
    }                                                                                  \
    static void panel_##S(const scan *s, int64_t o, int64_t i, int64_t width) {        \
        T value[WIDTH], total[WIDTH];                                                  \
        int64_t start = s->offset + o * s->outer_stride + i * s->inner_stride;         \
        for (int64_t c = 0; c < width; c++) total[c] = s->is_product;                  \
        for (int64_t j = 0; j < s->n; j++) {                                           \
            int64_t to = (o * s->n + j) * s->inner + i;                                \
            if (s->is_exclusive) store_##S(s->y, s->y_dtype, to, total, width);        \
            load_##S(value, s->x, s->x_dtype, start + j * s->axis_stride,              \
                     s->inner_stride, width);                                          \
            if (s->is_product)                                                         \
                for (int64_t c = 0; c < width; c++) total[c] *= value[c];              \
            else                                                                       \
                for (int64_t c = 0; c < width; c++) total[c] += value[c];              \
            if (!s->is_exclusive) store_##S(s->y, s->y_dtype, to, total, width);       \
        }                                                                              \
    }

DEFINE_SCAN(f64, double)
DEFINE_SCAN(i64, int64_t)

static void do_panels(void *context, int64_t begin, int64_t end) {
    const scan *s = context;
    bool is_float = s->y_dtype >= PN_FLOAT16;
    for (int64_t t = begin; t < end; t++) {
        int64_t o = t / s->panels, i = t % s->panels * WIDTH;
        int64_t width = s->inner - i < WIDTH ? s->inner - i : WIDTH;
        if (s->inner == 1) (is_float ? row_f64 : row_i64)(s, o);
        else (is_float ? panel_f64 : panel_i64)(s, o, i, width);
    }
}

void PN_KERNEL(scan)(const pn_args *args) {
    const int64_t *w = args->words;
    scan s = {
        .x = args->buffers[1], .x_dtype = args->dtypes[1],
        .y = args->buffers[0], .y_dtype = args->dtypes[0],
        .outer = w[0], .n = w[1], .inner = w[2], .offset = w[3], .outer_stride = w[4],
        .axis_stride = w[5], .inner_stride = w[6], .panels = (w[2] + WIDTH - 1) / WIDTH,
        .is_product = !strcmp(args->options[0], "prod"),
        .is_exclusive = !strcmp(args->options[1], "exclusive")};
    if (s.outer * s.n * s.inner == 0) return;
    int64_t each = s.n * (s.inner < WIDTH ? s.inner : WIDTH);
    pn_parallel_for(s.outer * s.panels, PIECE / each + 1, do_panels, &s);
}
