// y[r] = which of row r of the inputs, all contiguous (rows, n) and of one type:
//
// softmax            exp(x - max x) / sum of exp(x - max x)
// log_softmax        x - max x - log of that sum
// softmax_slope      y (g - sum of g y), of g and y
// log_softmax_slope  g - exp(y) sum of g, of g and y
//
// A thread takes whole rows, so that a row is read once from memory.
//
// words: rows, n, then the offset of each input.
#include "rows.h"

typedef struct {
    const void *inputs[2];
    void *y;
    int64_t n;
} rows;

typedef void (*row_fn)(const rows *, int64_t row);

#define DEFINE_ROWS(T, S, EXP)                                                         \
    static void softmax_##S(const rows *r, int64_t row) {                              \
        int64_t n = r->n;                                                              \
        const T *x = (const T *)r->inputs[0] + row * n;                                \
        T *restrict y = (T *)r->y + row * n, top = largest_##S(x, n);                  \
        for (int64_t i = 0; i < n; i++) y[i] = EXP(x[i] - top);                        \
        T scale = (T)(1 / sum_##S(y, n));                                              \
        for (int64_t i = 0; i < n; i++) y[i] *= scale;                                 \
    }                                                                                  \
    static void log_softmax_##S(const rows *r, int64_t row) {                          \
        int64_t n = r->n;                                                              \
        const T *x = (const T *)r->inputs[0] + row * n;                                \
        T *restrict y = (T *)r->y + row * n, top = largest_##S(x, n);                  \
        top = isfinite(top) ? top : 0;                                                 \
        for (int64_t i = 0; i < n; i++) y[i] = EXP(x[i] - top);                        \
        T shift = top + (T)log(sum_##S(y, n));                                         \
        for (int64_t i = 0; i < n; i++) y[i] = x[i] - shift;                           \
    }                                                                                  \
    static void softmax_slope_##S(const rows *r, int64_t row) {                        \
        int64_t n = r->n;                                                              \
        const T *g = (const T *)r->inputs[0] + row * n;                                \
        const T *x = (const T *)r->inputs[1] + row * n;                                \
        T *restrict y = (T *)r->y + row * n, total = (T)dot_##S(g, x, n);              \
        for (int64_t i = 0; i < n; i++) y[i] = x[i] * (g[i] - total);                  \
    }                                                                                  \
    static void log_softmax_slope_##S(const rows *r, int64_t row) {                    \
        int64_t n = r->n;                                                              \
        const T *g = (const T *)r->inputs[0] + row * n;                                \
        const T *x = (const T *)r->inputs[1] + row * n;                                \
        T *restrict y = (T *)r->y + row * n, total = (T)sum_##S(g, n);                 \
        for (int64_t i = 0; i < n; i++) y[i] = g[i] - EXP(x[i]) * total;               \
    }

DEFINE_ROWS(float, f32, pn_exp_float32)
DEFINE_ROWS(double, f64, exp)

static const struct {
    const char *name;
    row_fn f32, f64;
} kinds[] = {
    {"softmax", softmax_f32, softmax_f64},
    {"log_softmax", log_softmax_f32, log_softmax_f64},
    {"softmax_slope", softmax_slope_f32, softmax_slope_f64},
    {"log_softmax_slope", log_softmax_slope_f32, log_softmax_slope_f64},
};

typedef struct {
    rows rows;
    row_fn each;
} job;

static void do_rows(void *context, int64_t begin, int64_t end) {
    const job *j = context;
    for (int64_t row = begin; row < end; row++) j->each(&j->rows, row);
}

void PN_KERNEL(rows)(const pn_args *args) {
    const int64_t *w = args->words;
    bool is_double = args->dtypes[0] == PN_FLOAT64;
    job j = {.rows = {.y = args->buffers[0], .n = w[1]}};
    for (int k = 0; k < 4; k++)
        if (!strcmp(args->options[0], kinds[k].name))
            j.each = is_double ? kinds[k].f64 : kinds[k].f32;
    int inputs = strstr(args->options[0], "slope") ? 2 : 1;
    for (int k = 0; k < inputs; k++)
        j.rows.inputs[k] =
            (const char *)args->buffers[1 + k] + w[2 + k] * (is_double ? 8 : 4);
    if (w[0] * w[1] == 0) return;
    pn_parallel_for(w[0], PIECE / w[1] + 1, do_rows, &j);
}
