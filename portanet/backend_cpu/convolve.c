// y[n, g o' + o, p] = sum over c, t of
//     x[n, g c' + c, p * stride + t * dilation - padding] * w[g o' + o, c, t]
// for p and t of three axes; x is 0 outside its sizes. options: forward makes y of x
// and w, input makes x of y and w, weight makes w of x and y: the same sum over what is
// left.
//
// No matrix of patches is made, but for very few results (convolve_patches.h). Each plane of the source is copied once, with its
// border of zeros and, where the stride is s, split into s phases (every s-th element).
// In the copy the elements that a tap takes for neighbouring results are neighbours, so
// a vector of results is a sum of broadcast weights times vectors at start[v] +
// offset[l], l = (c, t). A tile of rows x TILE_VECTORS results stays in registers while
// l runs. forward reads x so; input is one such sum for each residue of x's positions
// by the stride, over y; weight keeps vectors of partial sums over positions, and adds
// their lanes in the end. All sums run in an order that the sizes fix, so no result
// depends on the threads. An epilogue runs over the results of an image, or of all.
//
// words: n, groups, channels (c'), outputs (o'), x[3], y[3], kernel[3], stride[3],
//        padding[3], dilation[3], x_offset, w_offset, y_offset. All contiguous, of one
//        dtype.
#include <string.h>
#include "convert.h"
#include "epilogue.h"
#include "vectors.h"

// Tiles fit the registers: 32 of 64 bytes, 16 of 32, 32 of 16 (arm), 16 of 16. SUM_ROWS
// x SUM_COLUMNS are the vectors of sums of a weight's gradient.
#if defined(__AVX512F__)
#define TILE_ROWS 14
#define EACH_HEIGHT(F) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11) F(12) \
    F(13) F(14)
#define SUM_ROWS 4
#define SUM_COLUMNS 6
#elif defined(__AVX2__) && defined(__FMA__)
#define TILE_ROWS 6
#define EACH_HEIGHT(F) F(1) F(2) F(3) F(4) F(5) F(6)
#define SUM_ROWS 3
#define SUM_COLUMNS 4
#elif defined(__aarch64__)
#define TILE_ROWS 8
#define EACH_HEIGHT(F) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8)
#define SUM_ROWS 4
#define SUM_COLUMNS 6
#else
#define TILE_ROWS 4
#define EACH_HEIGHT(F) F(1) F(2) F(3) F(4)
#define SUM_ROWS 2
#define SUM_COLUMNS 4
#endif
#define TILE_VECTORS 2

#define DEPTH ((int64_t)256)        // weights of a row that a tile takes in at a time
#define SUM_BLOCK ((int64_t)48)     // vectors of positions whose rows of y stay in L1
// The part of a weight's gradient that one thread does at a time.
#define UNIT_ROWS ((int64_t)8 * SUM_ROWS)
#define UNIT_COLUMNS ((int64_t)8 * SUM_COLUMNS)
#define MOST_COLUMNS (8 * UNIT_COLUMNS)  // of a unit of SUM_ROWS rows
#define SMALL_PLANE 256             // elements
// Few results, see convolve_patches.h; the sums of a tile of them.
#define MOST_PATCHES ((int64_t)16)
#define LEAST_DEPTH ((int64_t)64)
#define PATCHES 4
#define PATCH_ROWS (VECTOR_BYTES == 64 ? 4 : 2)
#define PIECE ((int64_t)1 << 18)    // multiply-adds worth a thread

// Toward minus infinity, for b > 0.
static inline int64_t divided_down(int64_t a, int64_t b) {
    return a / b - (a % b < 0 ? 1 : 0);
}

static int64_t common_divisor(int64_t a, int64_t b) {
    while (b) {
        int64_t rest = a % b;
        a = b, b = rest;
    }
    return a;
}

typedef struct {
    int64_t x, y, kernel, stride, padding, dilation;
} axis;

// One axis of the copy: phase f holds the source's elements q * step + start(f), q <
// extent.
typedef struct {
    int64_t size, step, extent, phases, base, dilation;
} copied_axis;

static int64_t start_of(const copied_axis *a, int64_t phase) {
    return phase * a->dilation % a->step + a->base;
}

// A run of results: lanes [lane, lane + count) go to `at` and on, `step` apart.
typedef struct {
    int64_t lane, count, at;
} segment;

// The results whose taps are the same: all of them but for `input` with strides.
typedef struct {
    int64_t count[3], first[3], step[3];  // along each axis, and where they lie
    int64_t taps, depth, vectors;
    int64_t *tap, *offset, *start, *first_segment;
    segment *segments;
    void *weights;  // [group][panel][l][row]
    int64_t nbytes, weight_bytes;
} pass;

// A tap, and the element of the source that it reads; for weight, the element of y
// in the place of the tap.
typedef struct {
    int64_t tap, at;
} pair;

typedef struct {
    const pn_args *args;
    int64_t n, groups, channels, outputs;
    axis axes[3];
    copied_axis copied[3];
    int64_t taps, kernel, x_size, y_size, plane;
    // As the option has them: planes copied of a group and image, results of the same.
    const void *source, *weight;
    void *result;
    const pn_epilogue *epilogue;  // NULL without, and where it has been run
    int64_t source_planes, source_size, result_planes, result_size, rows, panels;
    bool is_input, is_weight, out_of_memory;
    int64_t passes, all_panels;
    pass *pass;
    void *copy, *sums;  // of the whole batch, or NULL
    int64_t sum_step, unit_columns;
    // Of small planes, see convolve_batch.h: those of a result (of a tap, for weight) are
    // pairs[first_pair[i]] to pairs[first_pair[i + 1]].
    int64_t pair_count, pair_bytes, *first_pair;
    int64_t first_tap, last_tap;  // that have pairs
    pair *pairs;
    void *weights;
} convolution;

// Results of one image and group, or of all, are complete.
static void end_results(const convolution *c, int64_t first, int64_t count) {
    int64_t at = first * (c->epilogue->job.code->header.dtype == PN_FLOAT64 ? 8 : 4);
    PN_EPILOGUE_RUN(c->epilogue, first, 1, count, count, (char *)c->result + at, count);
}

static void end_range(void *context, int64_t begin, int64_t end) {
    end_results(context, begin, end - begin);
}

// --- Geometry ----------------------------------------------------------------------

// forward and weight: tap k reads phase k % phases, `shift` elements on.
static copied_axis copy_of_x(const axis *a) {
    int64_t period = a->stride / common_divisor(a->stride, a->dilation);
    return (copied_axis){
        .size = a->x, .step = a->stride, .phases = smaller(a->kernel, period),
        .extent = a->y + (a->kernel - 1) * a->dilation / a->stride,
        .base = -a->padding, .dilation = a->dilation};
}

static int64_t lowest_shift(const axis *a) {
    return divided_down(a->padding - (a->kernel - 1) * a->dilation, a->stride);
}

static copied_axis copy_of_y(const axis *a) {
    int64_t low = lowest_shift(a);
    int64_t high = divided_down(a->padding + a->stride - 1, a->stride);
    return (copied_axis){
        .size = a->y, .step = 1, .phases = 1, .base = low, .dilation = 1,
        .extent = divided_up(a->x, a->stride) + high - low};
}

// Where tap k of one axis reads: its phase and shift; false if it reads nothing.
static bool tap_reads(const convolution *c, const pass *p, int d, int64_t k,
                      int64_t *phase, int64_t *shift) {
    const axis *a = &c->axes[d];
    *phase = 0;
    if (!c->is_input) {
        *phase = k % c->copied[d].phases;
        *shift = k * a->dilation / a->stride;
        return true;
    }
    int64_t at = p->first[d] + a->padding - k * a->dilation;
    *shift = divided_down(at, a->stride) - lowest_shift(a);
    return at == divided_down(at, a->stride) * a->stride;
}

// The taps of a pass, and the offset of each in a plane.
static void find_taps(const convolution *c, pass *p) {
    const copied_axis *s = c->copied;
    const axis *a = c->axes;
    int64_t k[3], phase[3], shift[3];
    p->taps = 0;
    for (k[0] = 0; k[0] < a[0].kernel; k[0]++)
        for (k[1] = 0; k[1] < a[1].kernel; k[1]++)
            for (k[2] = 0; k[2] < a[2].kernel; k[2]++) {
                bool reads = true;
                for (int d = 0; d < 3; d++)
                    reads = tap_reads(c, p, d, k[d], phase + d, shift + d) && reads;
                if (!reads) continue;
                int64_t at = (phase[0] * s[1].phases + phase[1]) * s[2].phases;
                at = (at + phase[2]) * s[0].extent + shift[0];
                at = (at * s[1].extent + shift[1]) * s[2].extent + shift[2];
                p->offset[p->taps] = at;
                p->tap[p->taps++] = (k[0] * a[1].kernel + k[1]) * a[2].kernel + k[2];
            }
    p->depth = p->taps * c->source_planes;
    for (int64_t l = p->depth - 1; l >= 0; l--)
        p->offset[l] = p->offset[l % p->taps] + l / p->taps * c->plane;
}

// Vectors of results: each starts at the first result that has no place yet.
static void find_vectors(const convolution *c, pass *p, const int64_t *sizes,
                         int64_t lanes) {
    int64_t segments = 0, end = 0;
    int64_t width = c->copied[2].extent, height = c->copied[1].extent;
    p->vectors = 0;
    for (int64_t i = 0; i < p->count[0]; i++)
        for (int64_t j = 0; j < p->count[1]; j++) {
            int64_t row = (i * height + j) * width;
            int64_t to = ((p->first[0] + i * p->step[0]) * sizes[1] + p->first[1] +
                          j * p->step[1]) * sizes[2] + p->first[2];
            for (int64_t k = 0, count; k < p->count[2]; k += count) {
                int64_t at = row + k;
                if (at >= end) {
                    p->start[p->vectors] = at;
                    p->first_segment[p->vectors++] = segments;
                    end = at + lanes;
                }
                count = smaller(p->count[2] - k, end - at);
                p->segments[segments++] = (segment){
                    p->vectors * lanes - (end - at), count, to + k * p->step[2]};
            }
        }
    p->first_segment[p->vectors] = segments;
}

static bool make_pass(convolution *c, pass *p, const int64_t *sizes, int64_t lanes) {
    int64_t lines = p->count[0] * p->count[1];
    int64_t vectors = lines * divided_up(p->count[2], lanes);
    int64_t depth = c->kernel * c->source_planes;
    int64_t words = c->kernel + depth + vectors + vectors + 1;
    p->nbytes = words * (int64_t)sizeof(int64_t) +
                (vectors + lines) * (int64_t)sizeof(segment);
    p->segments = pn_alloc(p->nbytes);
    if (!p->segments) return false;
    p->tap = (int64_t *)(p->segments + vectors + lines);
    p->offset = p->tap + c->kernel;
    p->start = p->offset + depth;
    p->first_segment = p->start + vectors;
    find_taps(c, p);
    find_vectors(c, p, sizes, lanes);
    return true;
}

// Pass number r of `input` makes the elements of x at r, r + stride, ... of each axis.
static bool make_passes(convolution *c, int64_t lanes) {
    int64_t residues[3], sizes[3];
    c->passes = 1;
    for (int d = 0; d < 3; d++) {
        residues[d] = c->is_input ? smaller(c->axes[d].stride, c->axes[d].x) : 1;
        sizes[d] = c->is_input ? c->axes[d].x : c->axes[d].y;
        c->passes *= residues[d];
    }
    c->pass = pn_alloc(c->passes * (int64_t)sizeof(pass));
    if (!c->pass) return false;
    memset(c->pass, 0, (size_t)c->passes * sizeof(pass));
    for (int64_t r = 0; r < c->passes; r++) {
        pass *p = c->pass + r;
        int64_t rest = r;
        for (int d = 2; d >= 0; d--) {
            p->first[d] = rest % residues[d];
            rest /= residues[d];
            p->step[d] = c->is_input ? c->axes[d].stride : 1;
            p->count[d] = divided_up(sizes[d] - p->first[d], p->step[d]);
        }
        if (!make_pass(c, p, sizes, lanes)) return false;
        c->all_panels += divided_up(p->vectors, TILE_VECTORS);
    }
    return true;
}

static void free_passes(convolution *c) {
    for (int64_t r = 0; c->pass && r < c->passes; r++) {
        if (c->pass[r].segments) pn_free(c->pass[r].segments, c->pass[r].nbytes);
        if (c->pass[r].weights) pn_free(c->pass[r].weights, c->pass[r].weight_bytes);
    }
    if (c->pass) pn_free(c->pass, c->passes * (int64_t)sizeof(pass));
}

// --- Pairs -------------------------------------------------------------------------

#define MOST_PAIRS ((int64_t)1 << 16)

// Along one axis: the element of x that tap k of result p reads, or -1.
static int64_t read_at(const axis *a, int64_t p, int64_t k) {
    int64_t at = p * a->stride + k * a->dilation - a->padding;
    return at >= 0 && at < a->x ? at : -1;
}

// Calls visit(c, p, k, at) for each tap k of each result p, and the element that it reads.
static inline __attribute__((always_inline)) void each_pair(
    convolution *c, void (*visit)(convolution *, int64_t, int64_t, int64_t)) {
    const axis *a = c->axes;
    int64_t plane = a[1].y * a[2].y;
    for (int64_t p = 0; p < c->y_size; p++) {
        int64_t p0 = p / plane, p1 = p / a[2].y % a[1].y, p2 = p % a[2].y, k = 0;
        for (int64_t k0 = 0; k0 < a[0].kernel; k0++) {
            int64_t u = read_at(a, p0, k0);
            for (int64_t k1 = 0; k1 < a[1].kernel; k1++) {
                int64_t v = read_at(a + 1, p1, k1), line = (u * a[1].x + v) * a[2].x;
                for (int64_t k2 = 0; k2 < a[2].kernel; k2++, k++) {
                    int64_t w = read_at(a + 2, p2, k2);
                    if (u >= 0 && v >= 0 && w >= 0) visit(c, p, k, line + w);
                }
            }
        }
    }
}

static inline int64_t key_of(const convolution *c, int64_t p, int64_t k, int64_t at) {
    return c->is_weight ? k : c->is_input ? at : p;
}

static void count_pair(convolution *c, int64_t p, int64_t k, int64_t at) {
    c->first_pair[key_of(c, p, k, at) + 2]++;
}

static void keep_pair(convolution *c, int64_t p, int64_t k, int64_t at) {
    pair *to = c->pairs + c->first_pair[key_of(c, p, k, at) + 1]++;
    *to = c->is_weight ? (pair){p, at} : c->is_input ? (pair){k, p} : (pair){k, at};
}

// All pairs, those of a result (of a tap, for weight) together. False without memory.
static bool find_pairs(convolution *c, bool *few) {
    int64_t keys = c->is_weight ? c->kernel : c->result_size;
    int64_t most = c->y_size * c->kernel;
    *few = most <= MOST_PAIRS && keys <= MOST_PAIRS;
    if (!*few) return true;
    c->pair_bytes = most * (int64_t)sizeof(pair) + (keys + 2) * (int64_t)sizeof(int64_t);
    c->pairs = pn_alloc(c->pair_bytes);
    if (!c->pairs) return false;
    // Counted two places on, summed up, and filled in: then first_pair[i] is a start.
    int64_t *first = c->first_pair = (int64_t *)(c->pairs + most);
    memset(first, 0, (size_t)(keys + 2) * sizeof(int64_t));
    each_pair(c, count_pair);
    for (int64_t i = 0; i < keys; i++) first[i + 2] += first[i + 1];
    each_pair(c, keep_pair);
    c->pair_count = first[keys];
    return true;
}

#define T float
#define TYPE(name) name##_f32
#define FMA FMA_F32
#define TRANSPOSE TRANSPOSE_8X8
#define EVENS EVENS_8
#define ODDS ODDS_8
#include "convolve_tile.h"

#define T double
#define TYPE(name) name##_f64
#define FMA FMA_F64
#define TRANSPOSE TRANSPOSE_4X4
#define EVENS EVENS_4
#define ODDS ODDS_4
#include "convolve_tile.h"

static convolution read_words(const pn_args *args) {
    const int64_t *w = args->words;
    convolution c = {.args = args, .n = w[0], .groups = w[1], .channels = w[2],
                     .outputs = w[3], .kernel = 1, .x_size = 1, .y_size = 1,
                     .plane = 1};
    c.is_input = !strcmp(args->options[0], "input");
    c.is_weight = !strcmp(args->options[0], "weight");
    for (int d = 0; d < 3; d++) {
        axis a = {w[4 + d], w[7 + d], w[10 + d], w[13 + d], w[16 + d], w[19 + d]};
        c.axes[d] = a;
        c.copied[d] = c.is_input ? copy_of_y(&a) : copy_of_x(&a);
        c.kernel *= a.kernel, c.x_size *= a.x, c.y_size *= a.y;
        c.plane *= c.copied[d].phases * c.copied[d].extent;
    }
    c.source_planes = c.is_input ? c.outputs : c.channels;
    c.source_size = c.is_input ? c.y_size : c.x_size;
    c.result_planes = c.is_input ? c.channels : c.outputs;
    c.result_size = c.is_input ? c.x_size : c.y_size;
    c.panels = divided_up(c.result_planes, TILE_ROWS);
    c.rows = divided_up(c.result_planes, c.panels);
    return c;
}

// Padding is multiplied too, so that of several images it is not worth it.
static bool is_few_patches(const convolution *c) {
    bool few = c->n <= PATCHES && c->n * c->y_size <= MOST_PATCHES;
    few = few && !c->is_input && !c->is_weight;
    return few && c->channels * c->kernel >= LEAST_DEPTH;
}

void PN_KERNEL(convolve)(const pn_args *args) {
    const int64_t *w = args->words;
    const pn_header *header = pn_epilogue_of(args);
    convolution c = read_words(args);
    bool is_double = (header ? header->dtype : args->dtypes[0]) == PN_FLOAT64;
    int64_t size = is_double ? 8 : 4, lanes = VECTOR_BYTES / size;
    int outputs = header ? header->outputs : 1;
    const char *first = args->buffers[outputs], *second = args->buffers[outputs + 1];
    int64_t count = c.groups * c.result_planes * (c.is_weight ? c.channels : c.n) *
                    (c.is_weight ? c.kernel : c.result_size);
    pn_epilogue epilogue;
    c.result = args->buffers[0];
    if (header) {
        PN_EPILOGUE_BEGIN(&epilogue, args, w + 25);
        c.epilogue = &epilogue;
        c.result = epilogue.held ? epilogue.held : pn_alloc(count * size);
    }
    bool few = false, done = c.result;
    c.source = first + (c.is_input ? w[24] : w[22]) * size;
    c.weight = second + (c.is_weight ? w[24] : w[23]) * size;
    if (done && is_few_patches(&c)) {
        done = is_double ? convolve_patches_f64(&c) : convolve_patches_f32(&c);
    } else {
        done = done && make_passes(&c, lanes) && find_pairs(&c, &few);
        done = done && (is_double ? run_f64(&c, few) : run_f32(&c, few));
    }
    if (c.epilogue && done && !c.out_of_memory)
        pn_parallel_for(count, header->grain, end_range, &c);
    if (header && !epilogue.held && c.result) pn_free(c.result, count * size);
    free_passes(&c);
    if (c.pairs) pn_free(c.pairs, c.pair_bytes);
    if (!done || c.out_of_memory) pn_set_fault(args, 0, PN_NO_SCRATCH, 0, 0);
}
