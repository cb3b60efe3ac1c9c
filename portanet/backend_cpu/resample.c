// y[o, p, i] = sum over t < taps of weights[p, t] * x[o, first[p] + t, i]: a product with a
// matrix of which each row has `taps` elements that may not be 0.
//
// words: n (of y), outer, count (of p), inner, size (of x's axis), taps, x_offset,
//        first_offset, weights_offset. All contiguous, x and weights of one floating dtype, first int32.
#include "convert.h"

#define PIECE ((int64_t)1 << 14)  // multiply-adds worth a thread

// Rows of y, (o, p): vectors of neighbours i. Where inner is 1, a row is one o, all p.
#define DEFINE_RESAMPLE(T, S)                                                          \
    static void resample_##S(void *context, int64_t begin, int64_t end) {              \
        const pn_args *args = context;                                                 \
        const int64_t *w = args->words;                                                \
        int64_t count = w[2], inner = w[3], size = w[4], taps = w[5];                  \
        const T *x = (const T *)args->buffers[1] + w[6];                               \
        const int32_t *first = (const int32_t *)args->buffers[2] + w[7];               \
        const T *weights = (const T *)args->buffers[3] + w[8];                         \
        for (int64_t r = begin; r < end; r++) {                                        \
            int64_t o = r / count, p = r % count;                                      \
            T *restrict y = (T *)args->buffers[0] + r * inner;                         \
            const T *from = x + (o * size + first[p]) * inner, *k = weights + p * taps; \
            for (int64_t i = 0; i < inner; i++) y[i] = k[0] * from[i];                 \
            for (int64_t t = 1; t < taps; t++)                                         \
                for (int64_t i = 0; i < inner; i++) y[i] += k[t] * from[t * inner + i]; \
        }                                                                              \
    }
DEFINE_RESAMPLE(float, f32)
DEFINE_RESAMPLE(double, f64)

void PN_KERNEL(resample)(const pn_args *args) {
    const int64_t *w = args->words;
    pn_parallel_for(w[1] * w[2], PIECE / (w[3] * w[5] + 1) + 1,
                    args->dtypes[0] == PN_FLOAT64 ? resample_f64 : resample_f32,
                    (void *)args);
}
