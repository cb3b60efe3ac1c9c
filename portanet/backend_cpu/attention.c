// forward:  y[b, i, h] = sum over j of p[j] v[b, g, j],  lse[b, h, i] = log of the sum over
//           j of e^s[j],  where p[j] = e^(s[j] - lse), g is h's group of heads and
//           s[j] = scale q[b, h, i] . k[b, g, j] + mask[b, h, i, j].
// backward: the gradients of q, k and v, of shape (b, i, h), (b, j, g), (b, j, g), for the
//           gradient dy of y:  ds[j] = p[j] (dy . v[j] - dy . y),
//           dq = scale sum of ds[j] k[j],  dk[j] = scale sum of ds[j] q,
//           dv[j] = sum of p[j] dy, the latter two over i and the heads of the group.
// causal: row i sees j <= i only. With dropout p[j] is multiplied, where it meets v, by
// `keep`, or by 0 where word 4 (row blocks + j / 4) + j % 4 of Philox, of which a row (b, h,
// i) takes `blocks` blocks of 4 words, is below the threshold. A row that sees no key gives
// y = 0 and lse = -inf.
//
// No matrix of scores is kept: a block of them is made, used and forgotten (Milakov &
// Gimelshein, arXiv:1805.02867; Dao et al., arXiv:2205.14135, arXiv:2307.08691). forward
// takes a block of rows through all keys, and rescales what it has summed where a larger
// score appears. backward takes a block of keys through all rows, makes the scores again
// from lse, and needs no rescaling; where there are few heads, keys are cut into chunks,
// whose shares of dq are added in the end. Chunks depend on sizes only, so no sum depends
// on the threads.
//
// words: batch, heads, groups, queries, keys, width, value_width, causal, has_mask,
//        threshold (0: no dropout), scale[3], keep[3] (each as the bits of a float32, and
//        the halves of a float64, low first), then offset and strides of batch, head and
//        row of q, k, v and, backward, dy; the mask's offset and strides of batch, head,
//        row and column; the state's offset. Rows of q, k, v and dy are contiguous.
// buffers: forward y, lse, (the state after it,) q, k, v, (mask,) (state)
//          backward dq, dk, dv, dy, y, lse, q, k, v, (mask,) (state)
#include <string.h>
#include "convert.h"
#include "philox.h"
#include "scalar.h"
#include "vectors.h"

// Sums that fit the registers beside TILE_VECTORS of the right operand and a broadcast.
#define TILE_VECTORS 2
#if VECTOR_BYTES == 64
#define TILE_ROWS 14
#define EACH_HEIGHT(F) F(2) F(4) F(6) F(8) F(10) F(12) F(14)
#elif VECTOR_BYTES == 32
#define TILE_ROWS 6
#define EACH_HEIGHT(F) F(2) F(4) F(6)
#elif defined(__aarch64__)
#define TILE_ROWS 8
#define EACH_HEIGHT(F) F(2) F(4) F(6) F(8)
#else
#define TILE_ROWS 4
#define EACH_HEIGHT(F) F(2) F(4)
#endif

#define KEYS ((int64_t)128)    // of a block: its keys and values stay in L2, scores in L1
#define DEPTH KEYS             // elements of a row that a product takes in at a time
#define STEP (KEYS + 16)       // rows of a block start in different cache sets
#define ROWS ((int64_t)16 * TILE_ROWS)   // of a block, forward
#define ROWS_BACK ((int64_t)64)          // and backward
#define SPLITS ((int64_t)32)   // pieces of work that backward wants at least
#define CHUNK ((int64_t)2 * KEYS)        // the fewest keys of a chunk
#define PIECE ((int64_t)1 << 16)         // scores worth a thread

// Rows of q, k, v or dy: element [b, h, i, c] lies at data + offset + b batch + h head +
// i row + c.
typedef struct {
    const void *data;
    int64_t offset, batch, head, row;
} rows;

typedef struct {
    const pn_args *args;
    int64_t batch, heads, groups, queries, keys, width, value_width;
    bool is_causal;
    uint32_t threshold;
    double scale, keep;
    rows q, k, v, dy;
    const void *mask;
    int mask_dtype;
    int64_t mask_offset, mask_strides[4];
    uint32_t key[2];
    uint64_t counter;
    int64_t blocks;        // of words, that a row of the mask of dropout takes
    void *y, *lse;
    void *dq, *dk, *dv, *shares;  // shares of dq, [chunk][batch][head][row][column]
    int64_t row_blocks, row_count;  // forward: blocks of rows, and rows of each
    int64_t chunks, chunk;          // backward: and keys of each
    bool out_of_memory;
} attention;

// Task `number` of n that get longer (causal): from either end in turn, so that pieces of
// work, which are neighbours, take about the same time.
static inline int64_t in_turn(int64_t number, int64_t n) {
    return number & 1 ? n - 1 - number / 2 : number / 2;
}

// How many keys row i sees; how many of n keys from j on; the first row that sees key j.
static inline int64_t seen_by(const attention *a, int64_t i) {
    return a->is_causal ? smaller(i + 1, a->keys) : a->keys;
}
static inline int64_t part_seen(const attention *a, int64_t i, int64_t j, int64_t n) {
    return larger(smaller(seen_by(a, i) - j, n), 0);
}
static inline int64_t first_row(const attention *a, int64_t j) {
    return a->is_causal ? j : 0;
}

PN_DEFINE_LOAD(load_f32, float)
PN_DEFINE_LOAD(load_f64, double)

#define T float
#define TYPE(name) name##_f32
#define INTEGER int32_t
#define FMA FMA_F32
#define LARGER_512 _mm512_max_ps
#define LARGEST_512 _mm512_reduce_max_ps
#define TOTAL_512 _mm512_reduce_add_ps
#define EXP pn_exp_float32
#define LOG pn_log_float32
#define LOAD load_f32
#define TRANSPOSE TRANSPOSE_8X8
#include "attention_tile.h"

#define T double
#define TYPE(name) name##_f64
#define INTEGER int64_t
#define FMA FMA_F64
#define LARGER_512 _mm512_max_pd
#define LARGEST_512 _mm512_reduce_max_pd
#define TOTAL_512 _mm512_reduce_add_pd
#define EXP pn_exp_float64
#define LOG pn_log_float64
#define LOAD load_f64
#define TRANSPOSE TRANSPOSE_4X4
#include "attention_tile.h"

// --- The call ----------------------------------------------------------------------

static double number(const int64_t *w, bool is_double) {
    if (!is_double) return pn_float32((uint32_t)w[0]);
    return pn_float64((uint64_t)(uint32_t)w[1] | (uint64_t)(uint32_t)w[2] << 32);
}

static rows read_rows(const int64_t **w, const void *data) {
    rows r = {data, (*w)[0], (*w)[1], (*w)[2], (*w)[3]};
    *w += 4;
    return r;
}

static attention read_words(const pn_args *args, bool is_double, bool is_back) {
    const int64_t *w = args->words;
    attention a = {.args = args, .batch = w[0], .heads = w[1], .groups = w[2],
                   .queries = w[3], .keys = w[4], .width = w[5], .value_width = w[6],
                   .is_causal = w[7], .threshold = (uint32_t)w[9],
                   .scale = number(w + 10, is_double), .keep = number(w + 13, is_double)};
    bool has_mask = w[8];
    void *const *b = args->buffers;
    const uint32_t *state = NULL;
    uint32_t *next = NULL;
    int at;
    if (is_back) {
        a.dq = b[0], a.dk = b[1], a.dv = b[2], a.y = b[4], a.lse = b[5];
        at = 6;
    } else {
        a.y = b[0], a.lse = b[1];
        next = a.threshold ? b[2] : NULL;
        at = a.threshold ? 3 : 2;
    }
    w += 16;
    a.q = read_rows(&w, b[at]), a.k = read_rows(&w, b[at + 1]);
    a.v = read_rows(&w, b[at + 2]);
    if (is_back) a.dy = read_rows(&w, b[3]);
    at += 3;
    if (has_mask) {
        a.mask = b[at], a.mask_dtype = args->dtypes[at], a.mask_offset = w[0];
        for (int d = 0; d < 4; d++) a.mask_strides[d] = w[1 + d];
        w += 5, at++;
    }
    if (a.threshold) {
        state = (const uint32_t *)b[at] + w[0];
        a.key[0] = state[0], a.key[1] = state[1];
        a.counter = state[2] | (uint64_t)state[3] << 32;
        a.blocks = divided_up(a.keys, 4);
    }
    if (next) {
        int64_t taken = a.batch * a.heads * a.queries * a.blocks;
        uint64_t counter = a.counter + (uint64_t)taken;
        next[0] = a.key[0], next[1] = a.key[1];
        next[2] = (uint32_t)counter, next[3] = (uint32_t)(counter >> 32);
    }
    return a;
}

void PN_KERNEL(attention)(const pn_args *args) {
    bool is_back = !strcmp(args->options[0], "backward");
    bool is_double = args->dtypes[0] == PN_FLOAT64;
    attention a = read_words(args, is_double, is_back);
    if (is_back && is_double) go_back_f64(&a);
    else if (is_back) go_back_f32(&a);
    else if (is_double) go_forward_f64(&a);
    else go_forward_f32(&a);
    if (a.out_of_memory) pn_set_fault(args, 0, PN_NO_SCRATCH, 0, 0);
}
