// y[o, p, i] = sum over t < taps of weights[p, t] * x[o, first[p] + t, i]: a product with a
// matrix of which each row has `taps` elements that may not be 0.
//
// words: n (of y), outer, count (of p), inner, size (of x's axis), taps, x_offset,
//        first_offset, weights_offset. All contiguous, x and weights of one floating dtype, first int32.
#include "convert.h"

#define PIECE ((int64_t)1 << 14)  // multiply-adds worth a thread

#define DEFINE_RESAMPLE(T, S)                                                          \
    /* All p of one o, where inner is 1. */                                            \
    static void line_##S(const T *restrict x, const int32_t *restrict first,           \
                         const T *restrict weights, T *restrict y, int64_t count,      \
                         int64_t taps) {                                               \
        for (int64_t p = 0; p < count && taps == 2; p++)                               \
            y[p] = weights[2 * p] * x[first[p]] + weights[2 * p + 1] * x[first[p] + 1];\
        for (int64_t p = 0; p < count && taps != 2; p++) {                             \
            T total = weights[p * taps] * x[first[p]];                                 \
            for (int64_t t = 1; t < taps; t++)                                         \
                total += weights[p * taps + t] * x[first[p] + t];                      \
            y[p] = total;                                                              \
        }                                                                              \
    }                                                                                  \
    /* Row (o, p): vectors of neighbours i. */                                         \
    static void row_##S(const T *restrict x, const T *restrict weights, T *restrict y, \
                        int64_t inner, int64_t taps) {                                 \
        for (int64_t i = 0; i < inner; i++) y[i] = weights[0] * x[i];                  \
        for (int64_t t = 1; t < taps; t++)                                             \
            for (int64_t i = 0; i < inner; i++) y[i] += weights[t] * x[t * inner + i]; \
    }                                                                                  \
    static void resample_##S(void *context, int64_t begin, int64_t end) {              \
        const pn_args *args = context;                                                 \
        const int64_t *w = args->words;                                                \
        int64_t count = w[2], inner = w[3], size = w[4], taps = w[5];                  \
        const T *x = (const T *)args->buffers[1] + w[6];                               \
        const int32_t *first = (const int32_t *)args->buffers[2] + w[7];               \
        const T *weights = (const T *)args->buffers[3] + w[8];                         \
        T *y = args->buffers[0];                                                       \
        for (int64_t o = begin; o < end; o++) {                                        \
            const T *plane = x + o * size * inner;                                     \
            T *to = y + o * count * inner;                                             \
            if (inner == 1) {                                                          \
                line_##S(plane, first, weights, to, count, taps);                      \
                continue;                                                              \
            }                                                                          \
            for (int64_t p = 0; p < count; p++)                                        \
                row_##S(plane + first[p] * inner, weights + p * taps, to + p * inner,  \
                        inner, taps);                                                  \
        }                                                                              \
    }
DEFINE_RESAMPLE(float, f32)
DEFINE_RESAMPLE(double, f64)

void PN_KERNEL(resample)(const pn_args *args) {
    const int64_t *w = args->words;
    pn_parallel_for(w[1], PIECE / (w[2] * w[3] * w[5] + 1) + 1,
                    args->dtypes[0] == PN_FLOAT64 ? resample_f64 : resample_f32,
                    (void *)args);
}
