// y[n, p] = the place in plane n of x, row-major, of the largest x[n, p * stride + t *
// dilation - padding] over t, for p and t of three axes: the first of equals, NaN
// before all; places outside x do not count. Where kernel is 0 the windows are
// adaptive: p takes [p x / y, (p + 1) x / y), widened to whole elements.
//
// Small planes whose windows lie inside are done several at a time, element by element of
// their windows; so is a long row of results: the loop over them has no branch.
//
// words: planes, x[3], y[3], kernel[3], stride[3], padding[3], dilation[3], x_offset.
//        x contiguous; y int32.
#include "convert.h"

#define BLOCK ((int64_t)512)      // results of a row that are done at a time
#define SHORT ((int64_t)8)        // rows below it are done result by result
#define FEW ((int64_t)9)          // elements of a window
#define SMALL ((int64_t)4096)     // elements of a plane
#define TOGETHER ((int64_t)2048)  // elements of planes that stay in the first cache
#define PIECE ((int64_t)1 << 15)  // comparisons worth a thread

typedef struct {
    const void *x;
    int32_t *y;
    int64_t x_sizes[3], y_sizes[3], kernel[3], stride[3], padding[3], dilation[3];
    int64_t x_size, y_size;
} pooling;

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
// Most steps are 1, and a division takes as long as a short row.
static inline int64_t divided_up(int64_t a, int64_t b) {
    return b == 1 ? a : (a + b - 1) / b;
}

// Where the window of result p begins, how far apart its elements are, how many they
// are.
typedef struct {
    int64_t begin, step, count;
} window;

static window window_of(const pooling *q, int d, int64_t p) {
    int64_t n = q->x_sizes[d];
    if (q->kernel[d] == 0) {
        int64_t begin = p * n / q->y_sizes[d];
        return (window){begin, 1, divided_up((p + 1) * n, q->y_sizes[d]) - begin};
    }
    int64_t step = q->dilation[d], begin = p * q->stride[d] - q->padding[d];
    int64_t skipped = begin < 0 ? divided_up(-begin, step) : 0;
    int64_t end = begin < n ? smaller(divided_up(n - begin, step), q->kernel[d]) : 0;
    return (window){begin + skipped * step, step, larger(end - skipped, 0)};
}

// Makes windows that are adaptive and all of one size plain ones; whether all windows lie
// inside x.
static bool are_inside(pooling *q) {
    bool inside = true;
    for (int d = 0; d < 3; d++) {
        if (q->kernel[d] == 0 && q->x_sizes[d] % q->y_sizes[d] == 0) {
            q->kernel[d] = q->stride[d] = q->x_sizes[d] / q->y_sizes[d];
            q->padding[d] = 0, q->dilation[d] = 1;
        }
        int64_t last = (q->y_sizes[d] - 1) * q->stride[d];
        last += (q->kernel[d] - 1) * q->dilation[d];
        inside &= q->kernel[d] > 0 && q->padding[d] == 0 && last < q->x_sizes[d];
    }
    return inside;
}

#define T float
#define IS_NAN(v) ((v) != (v))
#define TYPE(name) name##_f32
#include "pool_row.h"
#define T double
#define IS_NAN(v) ((v) != (v))
#define TYPE(name) name##_f64
#include "pool_row.h"
#define T int32_t
#define IS_NAN(v) false
#define TYPE(name) name##_i32
#include "pool_row.h"
#define T uint32_t
#define IS_NAN(v) false
#define TYPE(name) name##_u32
#include "pool_row.h"
#define T int64_t
#define IS_NAN(v) false
#define TYPE(name) name##_i64
#include "pool_row.h"

void PN_KERNEL(pool)(const pn_args *args) {
    const int64_t *w = args->words;
    pooling q = {.y = args->buffers[0], .x_size = 1, .y_size = 1};
    int64_t taps = 1;
    for (int d = 0; d < 3; d++) {
        q.x_sizes[d] = w[1 + d], q.y_sizes[d] = w[4 + d], q.kernel[d] = w[7 + d];
        q.stride[d] = w[10 + d], q.padding[d] = w[13 + d], q.dilation[d] = w[16 + d];
        q.x_size *= w[1 + d], q.y_size *= w[4 + d];
        taps *= w[7 + d] ? w[7 + d] : w[1 + d] / w[4 + d] + 1;
    }
    q.x = (const char *)args->buffers[1] + w[19] * pn_itemsize(args->dtypes[1]);
    pn_range_fn rows = do_rows_f32, small = do_planes_f32;
    switch (args->dtypes[1]) {
    case PN_FLOAT64: rows = do_rows_f64, small = do_planes_f64; break;
    case PN_INT32: rows = do_rows_i32, small = do_planes_i32; break;
    case PN_UINT32: rows = do_rows_u32, small = do_planes_u32; break;
    case PN_INT64: rows = do_rows_i64, small = do_planes_i64; break;
    }
    if (are_inside(&q) && q.x_size <= SMALL && q.y_size <= BLOCK && q.y_size * taps <= PIECE) {
        pn_parallel_for(w[0], PIECE / (q.y_size * taps) + 1, small, &q);
        return;
    }
    int64_t lines = w[0] * q.y_sizes[0] * q.y_sizes[1];
    pn_parallel_for(lines, PIECE / (q.y_sizes[2] * taps) + 1, rows, &q);
}
