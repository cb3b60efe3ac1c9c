// Normalisation and its gradients. Over rows, with mean and var those of row r and
// h = (x - mean) / sqrt(var + eps):
//
// rows_slope  with p = g w:  y = (p - mean p - h mean(p h)) / sqrt(var + eps); also the
//             sums of g h and of g over each STRETCH rows, (stretches, n)
//
// Over channels of x (images, channels, n), with mean and var given, but for `moments`:
//
// moments         y = mean x, and mean (x - mean)^2, over images and n
// channels        y = h w + b
// channels_slope  y = w (g - mean g - h mean(g h)) / sqrt(var + eps), the means over images
//                 and n; also the sums of g h and of g of each channel
//
// words: images, rows or channels, n, eps (the bits of a float64), STRETCH, then the offset
//        of each input. All contiguous, of one floating dtype. Inputs: g, x, w for
//        rows_slope; x for moments; x, w, b, mean, var for channels; g, x, w, mean, var for
//        channels_slope.
#include "rows.h"

typedef struct {
    const pn_args *args;
    int64_t images, rows, n, stretch;
    double eps;
} norm;

#define T float
#define TYPE(name) name##_f32
#include "normalise_rows.h"
#undef T
#undef TYPE
#define T double
#define TYPE(name) name##_f64
#include "normalise_rows.h"
#undef T
#undef TYPE

#define DEFINE_NORM(T, S)                                                              \
    static const T *input_##S(const norm *q, int k, int outputs) {                     \
        return (const T *)q->args->buffers[outputs + k] + q->args->words[5 + k];       \
    }                                                                                  \
                                                                                       \
    static void rows_slope_##S(void *context, int64_t begin, int64_t end) {            \
        const norm *q = context;                                                       \
        int64_t n = q->n;                                                              \
        const T *g = input_##S(q, 0, 3), *x = input_##S(q, 1, 3);                      \
        T *y = q->args->buffers[0];                                                    \
        for (int64_t s = begin; s < end; s++) {                                        \
            T *w_sum = (T *)q->args->buffers[1] + s * n;                               \
            T *b_sum = (T *)q->args->buffers[2] + s * n;                               \
            memset(w_sum, 0, (size_t)n * sizeof(T));                                   \
            memset(b_sum, 0, (size_t)n * sizeof(T));                                   \
            int64_t last = s * q->stretch + q->stretch;                                \
            if (last > q->rows) last = q->rows;                                        \
            for (int64_t r = s * q->stretch; r < last; r++)                            \
                row_slope_##S(g + r * n, x + r * n, input_##S(q, 2, 3), n, q->eps,     \
                              y + r * n, w_sum, b_sum);                                \
        }                                                                              \
    }

DEFINE_NORM(float, f32)
DEFINE_NORM(double, f64)

#define COLUMNS 512          // of a strip
#define WIDEST (COLUMNS / 2)  // plane that is done as columns
#define CHUNK ((int64_t)16)  // images
enum { SUM, DISTANCES, SLOPES };  // of columns

// How many of `channels` channels are done as one strip; 0 where a channel is done alone.
static int64_t strip_of(const norm *q, int64_t channels) {
    if (q->n > WIDEST || q->images < 4) return 0;
    int64_t most = COLUMNS / q->n;
    return most < channels ? most : channels;
}

#define T float
#define TYPE(name) name##_f32
#include "normalise_channels.h"
#define T double
#define TYPE(name) name##_f64
#include "normalise_channels.h"

void PN_KERNEL(normalise)(const pn_args *args) {
    const int64_t *w = args->words;
    norm q = {.args = args, .images = w[0], .rows = w[1], .n = w[2], .stretch = w[4]};
    memcpy(&q.eps, w + 3, sizeof q.eps);
    bool is_double = args->dtypes[0] == PN_FLOAT64;
    int64_t pieces = q.rows, each = q.n * q.images;
    pn_range_fn run = is_double ? channels_slope_f64 : channels_slope_f32;
    if (!strcmp(args->options[0], "moments")) run = is_double ? moments_f64 : moments_f32;
    if (!strcmp(args->options[0], "channels")) run = is_double ? channels_f64 : channels_f32;
    if (!strcmp(args->options[0], "rows_slope")) {
        run = is_double ? rows_slope_f64 : rows_slope_f32;
        pieces = (q.rows + q.stretch - 1) / q.stretch, each *= q.stretch;
    }
    if (pieces * each == 0) return;
    pn_parallel_for(pieces, PIECE / each + 1, run, &q);
}
