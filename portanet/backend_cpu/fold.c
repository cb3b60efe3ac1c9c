// y[n, p] = sum over t, q with q * stride + t * dilation = p of x[n, t, q], for p, t, q of
// two axes: patches put back where they were taken, overlaps added, t ascending.
//
// A plane of y is one task; each tap adds its rows to it.
//
// words: n (of y), planes, y[2], q[2], t[2], stride[2], dilation[2], x_offset.
//        Contiguous, of one floating dtype.
#include "convert.h"

#define PIECE ((int64_t)1 << 14)  // additions worth a thread

#define DEFINE_FOLD(T, S)                                                              \
    static void fold_##S(void *context, int64_t begin, int64_t end) {                  \
        const pn_args *args = context;                                                 \
        const int64_t *w = args->words, *size = w + 2, *count = w + 4, *taps = w + 6;  \
        const int64_t *stride = w + 8, *dilation = w + 10;                             \
        int64_t plane = size[0] * size[1], row = count[1];                             \
        for (int64_t n = begin; n < end; n++) {                                        \
            T *restrict y = (T *)args->buffers[0] + n * plane;                         \
            const T *x = (const T *)args->buffers[1] + w[12] +                         \
                         n * taps[0] * taps[1] * count[0] * row;                       \
            memset(y, 0, (size_t)plane * sizeof(T));                                   \
            for (int64_t t = 0; t < taps[0] * taps[1]; t++)                            \
                for (int64_t i = 0; i < count[0]; i++, x += row) {                     \
                    int64_t at = i * stride[0] + t / taps[1] * dilation[0];            \
                    T *to = y + at * size[1] + t % taps[1] * dilation[1];              \
                    if (stride[1] == 1)                                                \
                        for (int64_t j = 0; j < row; j++) to[j] += x[j];               \
                    else                                                               \
                        for (int64_t j = 0; j < row; j++) to[j * stride[1]] += x[j];   \
                }                                                                      \
        }                                                                              \
    }
DEFINE_FOLD(float, f32)
DEFINE_FOLD(double, f64)

void PN_KERNEL(fold)(const pn_args *args) {
    const int64_t *w = args->words;
    int64_t work = w[4] * w[5] * w[6] * w[7] + w[2] * w[3];
    pn_parallel_for(w[1], PIECE / (work + 1) + 1,
                    args->dtypes[0] == PN_FLOAT64 ? fold_f64 : fold_f32, (void *)args);
}
