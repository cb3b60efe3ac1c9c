// y[o, j, i] = which over l <= j (inclusive) or l < j (exclusive) of x[o, l, i]: their sum,
// product, log of the sum of exponentials, or where their extreme was met last.
//
// A running total per (o, i), in float64 or in 64-bit integers whatever the type stored,
// so a float32 or narrower result is the rounded value of a far better one; integers wrap.
// Work is divided by (o, panel of WIDTH neighbouring i); j runs in order.
//
// words: outer, n, inner, offset, outer_stride, axis_stride, inner_stride
// options: sum | prod | logsumexp | argmax | argmin, inclusive | exclusive; argmax and
// argmin are int32 and, as logsumexp, inclusive; NaN is the extreme from where it stands.
#include "order.h"
#include "scalar.h"

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
    bool is_product, is_exclusive, is_log, is_least;
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

// Rows that are neither sums nor products, one after the other: RUN elements at a time.
static void log_row(const scan *s, int64_t x, int64_t y) {
    double value[RUN], total = -INFINITY;
    for (int64_t j = 0; j < s->n; j += RUN) {
        int64_t count = s->n - j < RUN ? s->n - j : RUN;
        load_f64(value, s->x, s->x_dtype, x + j * s->axis_stride, s->axis_stride, count);
        for (int64_t c = 0; c < count; c++) {
            double high = value[c] > total ? value[c] : total, low = value[c] + total - high;
            total = high == low ? high + PN_LN2 : high + log1p(exp(low - high));
            if (isinf(high)) total = high;
            if (value[c] != value[c]) total = value[c];
            value[c] = total;
        }
        for (int64_t c = 0; c < count; c++)
            store_f64(s->y, s->y_dtype, y + (j + c) * s->inner, value + c, 1);
    }
}

static void extreme_row(const scan *s, int64_t x, int64_t y) {
    uint64_t key[RUN], best = 0;
    uint64_t nan = pn_has_wide_keys(s->x_dtype) ? UINT64_MAX : UINT32_MAX;
    bool is_float = s->x_dtype >= PN_FLOAT16;
    int32_t at = 0, *to = (int32_t *)s->y + y;
    for (int64_t j = 0; j < s->n; j += RUN) {
        int64_t count = s->n - j < RUN ? s->n - j : RUN;
        pn_load_keys_64(key, s->x, s->x_dtype, x + j * s->axis_stride, s->axis_stride,
                        count);
        for (int64_t c = 0; c < count; c++) {
            bool is_nan = is_float && key[c] == nan;
            uint64_t k = s->is_least ? (is_nan ? UINT64_MAX : ~key[c]) : key[c];
            if (k >= best) best = k, at = (int32_t)(j + c);
            to[(j + c) * s->inner] = at;
        }
    }
}

static void do_singly(void *context, int64_t begin, int64_t end) {
    const scan *s = context;
    for (int64_t t = begin; t < end; t++) {
        int64_t o = t / s->inner, i = t % s->inner;
        int64_t x = s->offset + o * s->outer_stride + i * s->inner_stride;
        (s->is_log ? log_row : extreme_row)(s, x, o * s->n * s->inner + i);
    }
}

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
        .is_log = !strcmp(args->options[0], "logsumexp"),
        .is_least = !strcmp(args->options[0], "argmin"),
        .is_exclusive = !strcmp(args->options[1], "exclusive")};
    if (s.outer * s.n * s.inner == 0) return;
    if (s.is_log || !strncmp(args->options[0], "arg", 3)) {
        pn_parallel_for(s.outer * s.inner, PIECE / s.n + 1, do_singly, &s);
        return;
    }
    int64_t each = s.n * (s.inner < WIDTH ? s.inner : WIDTH);
    pn_parallel_for(s.outer * s.panels, PIECE / each + 1, do_panels, &s);
}
