// Of rows of logits x and a class t each:
//
// forward  y[r] = log(sum over j of exp(x[r, j])) - x[r, t[r]]
// slope    y[r, j] = g[r] (exp(x[r, j]) / sum of exp(x[r]) - (j == t[r]))
//
// Shifted by the largest of the row. A class outside [0, n) is a fault.
//
// words: rows, n, x_offset, t_offset, t_step, g_offset, g_step. x contiguous (rows, n).
// Inputs x, t, and for slope g. options: forward | slope
#include "rows.h"

#define CHUNK ((int64_t)512)

typedef struct {
    const pn_args *args;
    const int64_t *w;
} loss;

// The class of a row, or -1.
static int64_t class_of(const loss *q, int64_t row) {
    const pn_args *a = q->args;
    int64_t t = pn_index_at(a->buffers[2], a->dtypes[2], q->w[3] + row * q->w[4]);
    if (t >= 0 && t < q->w[1]) return t;
    pn_set_fault(a, row, PN_INDEX_OUT_OF_RANGE, t, q->w[1]);
    return -1;
}

#define DEFINE_LOSS(T, S, EXP)                                                         \
    static void forward_##S(void *context, int64_t begin, int64_t end) {               \
        const loss *q = context;                                                       \
        int64_t n = q->w[1];                                                           \
        T *y = q->args->buffers[0], part[CHUNK];                                       \
        for (int64_t row = begin; row < end; row++) {                                  \
            const T *x = (const T *)q->args->buffers[1] + q->w[2] + row * n;           \
            T top = largest_##S(x, n);                                                 \
            top = isfinite(top) ? top : 0;                                             \
            double total = 0;                                                          \
            for (int64_t j = 0; j < n; j += CHUNK) {                                   \
                int64_t count = n - j < CHUNK ? n - j : CHUNK;                         \
                for (int64_t c = 0; c < count; c++) part[c] = EXP(x[j + c] - top);     \
                total += sum_##S(part, count);                                         \
            }                                                                          \
            int64_t t = class_of(q, row);                                              \
            if (t >= 0) y[row] = top + (T)log(total) - x[t];                           \
        }                                                                              \
    }                                                                                  \
    static void slope_##S(void *context, int64_t begin, int64_t end) {                 \
        const loss *q = context;                                                       \
        int64_t n = q->w[1];                                                           \
        const T *g = (const T *)q->args->buffers[3] + q->w[5];                         \
        for (int64_t row = begin; row < end; row++) {                                  \
            const T *x = (const T *)q->args->buffers[1] + q->w[2] + row * n;           \
            T *restrict y = (T *)q->args->buffers[0] + row * n;                        \
            T top = largest_##S(x, n), mine = g[row * q->w[6]];                        \
            for (int64_t j = 0; j < n; j++) y[j] = EXP(x[j] - top);                    \
            T scale = mine * (T)(1 / sum_##S(y, n));                                   \
            for (int64_t j = 0; j < n; j++) y[j] *= scale;                             \
            int64_t t = class_of(q, row);                                              \
            if (t >= 0) y[t] -= mine;                                                  \
        }                                                                              \
    }

DEFINE_LOSS(float, f32, pn_exp_float32)
DEFINE_LOSS(double, f64, exp)

void PN_KERNEL(cross_entropy)(const pn_args *args) {
    const int64_t *w = args->words;
    loss q = {args, w};
    bool is_double = args->dtypes[1] == PN_FLOAT64;
    pn_range_fn forward = is_double ? forward_f64 : forward_f32;
    pn_range_fn slope = is_double ? slope_f64 : slope_f32;
    bool is_slope = !strcmp(args->options[0], "slope");
    if (w[0] * w[1] == 0) return;
    pn_parallel_for(w[0], PIECE / w[1] + 1, is_slope ? slope : forward, &q);
}
