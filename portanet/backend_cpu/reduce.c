// y[k] = which over r of x[k, r], for sum, mean, prod, max, min, any, all, argmax, argmin.
//
// The order of operations is a function of the number of elements R alone: r runs in
// blocks of BLOCK; in a block, element r belongs to lane r % LANES and each lane runs in
// order; lanes combine by halving, and blocks pairwise, as the digits of a binary counter
// carry. So a sum's error is at most BLOCK / LANES + log2(LANES) + log2(R / BLOCK) steps
// of rounding (Higham, SIAM J. Sci. Comput. 14, 1993), whatever the layout, the level and
// the threads.
//
// A task does a span of blocks for a panel of up to `width` neighbouring k: one k where
// rows are long (lanes are vector lanes), else many (k are vector lanes). A span is a power
// of two of blocks, a whole node of the tree, so that more spans change nothing.
//
// Where an expression makes x, it is interpreted over a few rows, or a piece of a row, just
// before they are reduced. Nothing of x is stored, and the order stays what it is.
//
// words: kept, reduced, kept_rank, reduced_rank, offset, kept_shape[], kept_strides[],
//        reduced_shape[], reduced_strides[], then those of a producer
#include "convert.h"
#include "epilogue.h"

#define LANES ((int64_t)16)
#define BLOCK ((int64_t)256)
#define LONG_BLOCK ((int64_t)2048)  // for operations whose order doesn't matter
#define NODE_BYTES 1024  // one partial result for each k of a panel
// 2^40 elements are more than any memory; each doubling of blocks takes one node.
#define LEVELS 33
#define MAX_RANK 64      // NumPy's
#define AHEAD ((int64_t)2048)  // elements that a producer makes at once, a long block
// Elements that are worth a thread's attention.
#define PIECE ((int64_t)1 << 15)

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// --- Where elements lie ------------------------------------------------------------

// A row-major index space over x; neighbouring dimensions that can are merged.
typedef struct {
    int64_t rank, shape[MAX_RANK], strides[MAX_RANK];
} space;

static space read_space(int64_t rank, const int64_t *shape, const int64_t *strides) {
    space s = {.rank = 0};
    for (int64_t d = 0; d < rank; d++) {
        if (shape[d] == 1) continue;
        int64_t last = s.rank - 1;
        if (s.rank && s.strides[last] == shape[d] * strides[d]) {
            s.shape[last] *= shape[d];
            s.strides[last] = strides[d];
        } else {
            s.shape[s.rank] = shape[d];
            s.strides[s.rank++] = strides[d];
        }
    }
    if (!s.rank) s.shape[0] = s.strides[0] = s.rank = 1;
    return s;
}

// A position in a space: `offset` in x, and `left` until the innermost dimension ends.
typedef struct {
    int64_t offset, left, at[MAX_RANK];
} place;

static void find(const space *s, int64_t index, place *p) {
    if (s->rank == 1) {
        p->at[0] = index;
        p->offset = index * s->strides[0];
        p->left = s->shape[0] - index;
        return;
    }
    p->offset = 0;
    for (int64_t d = s->rank - 1; d >= 0; d--) {
        p->at[d] = index % s->shape[d];
        p->offset += p->at[d] * s->strides[d];
        index /= s->shape[d];
    }
    p->left = s->shape[s->rank - 1] - p->at[s->rank - 1];
}

// n steps on, n <= left.
static inline void advance(const space *s, place *p, int64_t n) {
    int64_t d = s->rank - 1;
    p->offset += n * s->strides[d];
    p->left -= n;
    if (p->left) return;
    p->offset -= s->shape[d] * s->strides[d];
    p->left = s->shape[d];
    p->at[d] = 0;
    while (--d >= 0) {
        p->offset += s->strides[d];
        if (++p->at[d] < s->shape[d]) return;
        p->offset -= s->shape[d] * s->strides[d];
        p->at[d] = 0;
    }
}

// --- Operations on compute types ---------------------------------------------------

typedef struct reduction reduction;

// What an operation does to nodes. A node holds `width` values, and for argmax and argmin
// `width` positions (int32) after them.
typedef struct {
    int64_t size;           // bytes of a value
    int64_t length;         // of a block
    bool has_positions;
    int storage;            // the storage type that needs no conversion
    void (*load)(void *y, const void *x, int dtype, int64_t offset, int64_t stride,
                 int64_t n);
    void (*combine)(void *into, const void *from, int64_t n);       // element by element
    void (*block)(const void *x, int64_t n, void *result);          // one block
    void (*finish)(const reduction *r, int64_t k, void *node, int64_t n);
    // into = the better of into and from, whose positions are later
    void (*pick)(void *into, int32_t *into_at, const void *from, const int32_t *from_at,
                 int64_t n);
    // into = the better of into and from, all at position `at`
    void (*meet)(void *into, int32_t *into_at, const void *from, int32_t at, int64_t n);
    int64_t (*position)(const void *x, int64_t n, const void *value);  // of the first equal
} operation;

struct reduction {
    const operation *op;
    const void *x;
    void *y;
    int x_dtype, y_dtype;
    const pn_epilogue *producer;  // makes x, or NULL
    int64_t piece;                // elements that are worth a thread's attention
    bool is_mean;
    int64_t kept, reduced, offset, width, span, spans;
    bool rows;        // a panel is one k, and r is the vector
    char *nodes;      // of all tasks, [panel][span], where there are several spans
    space k, r;
};

// The value of NaN beats every other; the first of equals stays.
#define ADD(a, b) ((a) + (b))
#define MULTIPLY(a, b) ((a) * (b))
#define MAX_INTEGER(a, b) ((b) > (a) ? (b) : (a))
#define MIN_INTEGER(a, b) ((b) < (a) ? (b) : (a))
#define MAX_FLOAT(a, b) (BEATS_MAX_FLOAT(b, a) ? (b) : (a))
#define MIN_FLOAT(a, b) (BEATS_MIN_FLOAT(b, a) ? (b) : (a))
#define BEATS_MAX_INTEGER(b, a) ((b) > (a))
#define BEATS_MIN_INTEGER(b, a) ((b) < (a))
#define BEATS_MAX_FLOAT(b, a) (((b) > (a)) | (((b) != (b)) & ((a) == (a))))
#define BEATS_MIN_FLOAT(b, a) (((b) < (a)) | (((b) != (b)) & ((a) == (a))))
#define SAME_INTEGER(a, b) ((a) == (b))
#define SAME_FLOAT(a, b) (((a) == (b)) | (((a) != (a)) & ((b) != (b))))

#define WIDE 64
#define DEFINE_TYPE(S, T, SAME)                                                        \
    PN_DEFINE_LOAD(typed_load_##S, T)                                                  \
    PN_DEFINE_STORE(store_##S, T)                                                      \
    static void load_##S(void *y, const void *x, int dtype, int64_t offset,            \
                         int64_t stride, int64_t n) {                                  \
        typed_load_##S(y, x, dtype, offset, stride, n);                                \
    }                                                                                  \
    static void finish_##S(const reduction *r, int64_t k, void *node, int64_t n) {     \
        T *value = node;                                                               \
        if (r->is_mean)                                                                \
            for (int64_t i = 0; i < n; i++) value[i] /= (T)r->reduced;                 \
        store_##S(r->y, r->y_dtype, k, value, n);                                      \
    }                                                                                  \
    __attribute__((unused)) static int64_t position_##S(const void *x, int64_t n,      \
                                                      const void *value) {             \
        const T *a = x, v = *(const T *)value;                                         \
        int64_t i = 0;                                                                 \
        for (; i + WIDE <= n; i += WIDE) {                                             \
            T found = 0;                                                               \
            for (int64_t j = 0; j < WIDE; j++) found = SAME(a[i + j], v) ? 1 : found;  \
            if (found != 0) break;                                                     \
        }                                                                              \
        while (!SAME(a[i], v)) i++;                                                    \
        return i;                                                                      \
    }

// block: WIDTH lanes, each in order, then lanes by halving. Sums and products take LANES, as
// panels do; where the order doesn't matter, more lanes keep GCC's vectoriser interested.
#define DEFINE_OPERATION(NAME, S, T, STORAGE, F, WIDTH)                                \
    static void combine_##NAME##_##S(void *into, const void *from, int64_t n) {        \
        T *restrict a = into;                                                          \
        const T *restrict b = from;                                                    \
        for (int64_t i = 0; i < n; i++) a[i] = F(a[i], b[i]);                          \
    }                                                                                  \
    static void block_##NAME##_##S(const void *x, int64_t n, void *result) {           \
        const T *restrict a = x;                                                       \
        T lane[WIDTH];                                                                 \
        int64_t lanes = smaller(n, WIDTH), i = WIDTH, h = WIDTH / 2;                   \
        if (n >= WIDTH) {                                                              \
            for (int64_t j = 0; j < WIDTH; j++) lane[j] = a[j];                        \
            for (; i + WIDTH <= n; i += WIDTH)                                         \
                for (int64_t j = 0; j < WIDTH; j++) lane[j] = F(lane[j], a[i + j]);    \
            for (int64_t j = 0; i + j < n; j++) lane[j] = F(lane[j], a[i + j]);        \
            for (; h; h /= 2)                                                          \
                for (int64_t j = 0; j < h; j++) lane[j] = F(lane[j], lane[j + h]);     \
        } else {                                                                       \
            for (int64_t j = 0; j < n; j++) lane[j] = a[j];                            \
            for (; h; h /= 2)                                                          \
                for (int64_t j = 0; j < h && j + h < lanes; j++)                       \
                    lane[j] = F(lane[j], lane[j + h]);                                 \
        }                                                                              \
        *(T *)result = lane[0];                                                        \
    }                                                                                  \
    static const operation NAME##_##S = {                                              \
        .size = sizeof(T), .length = WIDTH == WIDE ? LONG_BLOCK : BLOCK,               \
        .storage = STORAGE, .load = load_##S,                                          \
        .combine = combine_##NAME##_##S, .block = block_##NAME##_##S,                  \
        .finish = finish_##S};

#define DEFINE_ARGUMENT(NAME, BEST, S, T, STORAGE, BEATS)                              \
    static void pick_##NAME##_##S(void *into, int32_t *restrict into_at,               \
                                  const void *from, const int32_t *restrict from_at,   \
                                  int64_t n) {                                         \
        T *restrict a = into;                                                          \
        const T *restrict b = from;                                                    \
        for (int64_t i = 0; i < n; i++) {                                              \
            bool better = BEATS(b[i], a[i]);                                           \
            a[i] = better ? b[i] : a[i];                                               \
            into_at[i] = better ? from_at[i] : into_at[i];                             \
        }                                                                              \
    }                                                                                  \
    static void meet_##NAME##_##S(void *into, int32_t *restrict into_at,               \
                                  const void *from, int32_t at, int64_t n) {           \
        T *restrict a = into;                                                          \
        const T *restrict b = from;                                                    \
        for (int64_t i = 0; i < n; i++) {                                              \
            bool better = BEATS(b[i], a[i]);                                           \
            a[i] = better ? b[i] : a[i];                                               \
            into_at[i] = better ? at : into_at[i];                                     \
        }                                                                              \
    }                                                                                  \
    static const operation NAME##_##S = {                                              \
        .size = sizeof(T), .length = LONG_BLOCK, .has_positions = true,                \
        .storage = STORAGE,                                                            \
        .load = load_##S, .block = block_##BEST##_##S, .pick = pick_##NAME##_##S,      \
        .meet = meet_##NAME##_##S, .position = position_##S};

#define DEFINE_ALL(S, T, STORAGE, KIND)                                                \
    DEFINE_TYPE(S, T, SAME_##KIND)                                                     \
    DEFINE_OPERATION(sum, S, T, STORAGE, ADD, LANES)                                          \
    DEFINE_OPERATION(prod, S, T, STORAGE, MULTIPLY, LANES)                                    \
    DEFINE_OPERATION(max, S, T, STORAGE, MAX_##KIND, WIDE)                                   \
    DEFINE_OPERATION(min, S, T, STORAGE, MIN_##KIND, WIDE)                                   \
    DEFINE_ARGUMENT(argmax, max, S, T, STORAGE, BEATS_MAX_##KIND)                      \
    DEFINE_ARGUMENT(argmin, min, S, T, STORAGE, BEATS_MIN_##KIND)

DEFINE_ALL(f32, float, PN_FLOAT32, FLOAT)
DEFINE_ALL(f64, double, PN_FLOAT64, FLOAT)
DEFINE_ALL(i32, int32_t, PN_INT32, INTEGER)
DEFINE_ALL(u32, uint32_t, PN_UINT32, INTEGER)
DEFINE_ALL(i64, int64_t, PN_INT64, INTEGER)

#define OR(a, b) ((a) | (b))
#define AND(a, b) ((a) & (b))
DEFINE_TYPE(b8, bool, SAME_INTEGER)
DEFINE_OPERATION(any, b8, bool, PN_BOOL, OR, WIDE)
DEFINE_OPERATION(all, b8, bool, PN_BOOL, AND, WIDE)

// --- One block ---------------------------------------------------------------------

static inline int64_t blocks_of(const reduction *r) {
    return (r->reduced + r->op->length - 1) / r->op->length;
}

// n elements from `at` on, `stride` apart, in the compute type.
static void load(const reduction *r, void *to, int64_t at, int64_t stride, int64_t n) {
    if (!r->producer)
        r->op->load(to, r->x, r->x_dtype, at, stride, n);
    else if (stride == 1)
        PN_EPILOGUE_RUN(r->producer, at, 1, n, n, to, n);
    else
        PN_EPILOGUE_RUN(r->producer, at, n, 1, stride, to, 1);
}

// n elements of a space from place p on, in the compute type: in x itself or in `buffer`.
static const void *fetch(const reduction *r, const space *s, const place *p, int64_t base,
                         int64_t n, void *buffer) {
    const operation *op = r->op;
    int64_t stride = s->strides[s->rank - 1];
    if (n <= p->left) {
        if (stride == 1 && op->storage == r->x_dtype && !r->producer)
            return (const char *)r->x + (base + p->offset) * op->size;
        load(r, buffer, base + p->offset, stride, n);
        return buffer;
    }
    place now = *p;
    char *to = buffer;
    while (n) {
        int64_t run = smaller(n, now.left), runs = 1;
        if (r->producer && stride == 1 && run == s->shape[s->rank - 1]) {
            int64_t above = s->rank - 2;  // as n is more than one run, there is one
            runs = smaller(n / run, s->shape[above] - now.at[above]);
            PN_EPILOGUE_RUN(r->producer, base + now.offset, runs, run, s->strides[above], to,
                            run);
        } else {
            load(r, to, base + now.offset, stride, run);
        }
        to += runs * run * op->size;
        n -= runs * run;
        while (runs--) advance(s, &now, run);
    }
    return buffer;
}

// What a producer has made and is not reduced yet: of elements [begin, end) of r for all k
// of a panel, r by r.
typedef struct {
    int64_t begin, end;
    _Alignas(64) char values[AHEAD * 8];
} window;

// Neighbouring k, all of whose partial results are made together.
typedef struct {
    const reduction *r;
    int64_t first, width, last;  // last: past the last r of the task
    place k;
    const char *nodes;
    window *made;
} panel;

static inline int32_t *positions_of(const reduction *r, char *node) {
    return (int32_t *)(node + r->width * r->op->size);
}

// Bytes, a multiple of 8 so that the next node's values are aligned.
static inline int64_t node_size(const reduction *r) {
    return (r->width * (r->op->size + (r->op->has_positions ? 4 : 0)) + 7) / 8 * 8;
}

// Element r number `index` of all k of a panel, from a producer; `at` is its place. Those
// that follow are made with it, as many as fit.
static const void *made_of_many(const panel *p, int64_t index, const place *at) {
    const reduction *r = p->r;
    window *made = p->made;
    int64_t w = p->width, row_bytes = w * r->op->size;
    if (index < made->begin || index >= made->end) {
        int64_t base = r->offset + at->offset, step = r->r.strides[r->r.rank - 1];
        int64_t rows = smaller(smaller(p->last - index, at->left), AHEAD * 8 / row_bytes);
        if (r->k.strides[r->k.rank - 1] == 1 && w <= p->k.left)
            PN_EPILOGUE_RUN(r->producer, base + p->k.offset, rows, w, step, made->values, w);
        else
            rows = 1, fetch(r, &r->k, &p->k, base, w, made->values);
        made->begin = index, made->end = index + rows;
    }
    return made->values + (index - made->begin) * row_bytes;
}

// n elements r from number `first` on, of one k.
static const void *made_of_one(const panel *p, int64_t first, int64_t n) {
    const reduction *r = p->r;
    window *made = p->made;
    if (first < made->begin || first + n > made->end) {
        place at;
        find(&r->r, first, &at);
        made->begin = first, made->end = smaller(first + AHEAD * 8 / r->op->size, p->last);
        fetch(r, &r->r, &at, r->offset + p->k.offset, made->end - first, made->values);
    }
    return made->values + (first - made->begin) * r->op->size;
}

// Lanes of a panel are rows of `width` values; they combine as those of one k do.
static void one_block_of_many(const panel *p, int64_t index, char *node) {
    const reduction *r = p->r;
    int64_t first = index * r->op->length, n = smaller(r->reduced - first, r->op->length);
    int64_t w = p->width, row_bytes = w * r->op->size;
    _Alignas(64) char lanes[LANES * NODE_BYTES], buffer[NODE_BYTES];
    place at;
    find(&r->r, first, &at);
    for (int64_t j = 0; j < n; j++) {
        char *lane = lanes + j % LANES * row_bytes, *to = j < LANES ? lane : buffer;
        const void *row = r->producer
                              ? made_of_many(p, first + j, &at)
                              : fetch(r, &r->k, &p->k, r->offset + at.offset, w, to);
        if (j >= LANES)
            r->op->combine(lane, row, w);
        else if (row != lane)
            memcpy(lane, row, (size_t)row_bytes);
        advance(&r->r, &at, 1);
    }
    for (int64_t h = LANES / 2, lanes_left = smaller(n, LANES); h; h /= 2)
        if (h < lanes_left) {
            r->op->combine(lanes, lanes + h * row_bytes, (lanes_left - h) * w);
            lanes_left = h;
        }
    memcpy(node, lanes, (size_t)row_bytes);
}

static void one_block_of_one(const panel *p, int64_t index, char *node) {
    const reduction *r = p->r;
    int64_t first = index * r->op->length, n = smaller(r->reduced - first, r->op->length);
    _Alignas(64) char buffer[LONG_BLOCK * 8];
    place at;
    if (r->producer) {
        r->op->block(made_of_one(p, first, n), n, node);
        return;
    }
    find(&r->r, first, &at);
    r->op->block(fetch(r, &r->r, &at, r->offset + p->k.offset, n, buffer), n, node);
}

// --- The tree ----------------------------------------------------------------------

// What `pairwise` combines: a block, or the result of a span.
typedef void (*leaf_fn)(const panel *p, int64_t index, char *node);

static void one_span(const panel *p, int64_t index, char *node) {
    memcpy(node, p->nodes + index * node_size(p->r), (size_t)(p->width * p->r->op->size));
}

// Leaves [begin, end) combine as a binary counter's digits carry: equal sizes first.
static void pairwise(const panel *p, int64_t begin, int64_t end, leaf_fn leaf,
                     char *result) {
    _Alignas(64) char nodes[LEVELS][NODE_BYTES];
    const operation *op = p->r->op;
    int64_t depth = 0;
    if (end - begin == 1) {
        leaf(p, begin, result);
        return;
    }
    for (int64_t i = begin; i < end; i++) {
        leaf(p, i, nodes[depth++]);
        for (int64_t done = i - begin + 1; done % 2 == 0; done /= 2, depth--)
            op->combine(nodes[depth - 2], nodes[depth - 1], p->width);
    }
    for (; depth > 1; depth--)
        op->combine(nodes[depth - 2], nodes[depth - 1], p->width);
    memcpy(result, nodes[0], (size_t)(p->width * op->size));
}

// The best of blocks [begin, end) and where it is; order matters, so no tree.
static void best_of_one(const panel *p, int64_t begin, int64_t end, char *result) {
    const reduction *r = p->r;
    int32_t at = -1, *position = positions_of(r, result);
    for (int64_t i = begin; i < end; i++) {
        int64_t first = i * r->op->length, n = smaller(r->reduced - first, r->op->length), best;
        _Alignas(64) char buffer[LONG_BLOCK * 8];
        place start;
        find(&r->r, first, &start);
        const void *x = fetch(r, &r->r, &start, r->offset + p->k.offset, n, buffer);
        r->op->block(x, n, &best);
        if (i == begin) memcpy(result, &best, (size_t)r->op->size);
        else r->op->meet(result, &at, &best, -1, 1);
        if (at < 0) at = (int32_t)(first + r->op->position(x, n, &best));
    }
    *position = at;
}

static void best_of_many(const panel *p, int64_t begin, int64_t end, char *result) {
    const reduction *r = p->r;
    int64_t first = begin * r->op->length, w = p->width;
    int64_t last = smaller(end * r->op->length, r->reduced);
    int32_t *positions = positions_of(r, result);
    _Alignas(64) char buffer[NODE_BYTES];
    place at;
    find(&r->r, first, &at);
    for (int64_t i = first; i < last; i++) {
        const void *row = fetch(r, &r->k, &p->k, r->offset + at.offset, w, buffer);
        if (i == first) {
            memcpy(result, row, (size_t)(w * r->op->size));
            for (int64_t j = 0; j < w; j++) positions[j] = (int32_t)i;
        } else {
            r->op->meet(result, positions, row, (int32_t)i, w);
        }
        advance(&r->r, &at, 1);
    }
}

static void reduce_span(const panel *p, int64_t begin, int64_t end, char *result) {
    const reduction *r = p->r;
    if (r->op->has_positions)
        (r->rows ? best_of_one : best_of_many)(p, begin, end, result);
    else
        pairwise(p, begin, end, r->rows ? one_block_of_one : one_block_of_many, result);
}

static void combine_spans(const panel *p, char *result) {
    const reduction *r = p->r;
    if (!r->op->has_positions) {
        pairwise(p, 0, r->spans, one_span, result);
        return;
    }
    memcpy(result, p->nodes, (size_t)node_size(r));
    for (int64_t i = 1; i < r->spans; i++) {
        char *node = (char *)p->nodes + i * node_size(r);
        r->op->pick(result, positions_of(r, result), node, positions_of(r, node),
                    p->width);
    }
}

// --- Tasks -------------------------------------------------------------------------

static void set_panel(panel *p, const reduction *r, int64_t number) {
    *p = (panel){.r = r};
    p->first = number * r->width;
    p->width = smaller(r->width, r->kept - p->first);
    p->nodes = r->nodes ? r->nodes + number * r->spans * node_size(r) : NULL;
}

static void finish(const panel *p, char *node) {
    const reduction *r = p->r;
    if (r->op->has_positions)
        memcpy((int32_t *)r->y + p->first, positions_of(r, node), (size_t)p->width * 4);
    else
        r->op->finish(r, p->first, node, p->width);
}

// Whether each result is one block of neighbours in x, and stored as it is computed.
static bool has_plain_rows(const reduction *r) {
    bool is_stored = r->op->storage == r->x_dtype && r->op->storage == r->y_dtype &&
                     !r->producer;
    bool is_block = r->reduced <= r->op->length && !r->op->has_positions;
    return r->rows && is_stored && is_block && r->k.rank == 1 && r->r.rank == 1 &&
           r->r.strides[0] == 1;
}

static void do_plain_rows(void *context, int64_t begin, int64_t end) {
    const reduction *r = context;
    int64_t size = r->op->size;
    char *y = (char *)r->y + begin * size;
    for (int64_t k = begin; k < end; k++) {
        const char *x = (const char *)r->x + (r->offset + k * r->k.strides[0]) * size;
        r->op->block(x, r->reduced, (char *)r->y + k * size);
    }
    r->op->finish(r, begin, y, end - begin);
}

static void do_tasks(void *context, int64_t begin, int64_t end) {
    const reduction *r = context;
    int64_t blocks = blocks_of(r);
    _Alignas(64) char node[NODE_BYTES];
    window made;
    panel p;
    for (int64_t t = begin; t < end; t++) {
        int64_t span = t % r->spans, first = span * r->span;
        set_panel(&p, r, t / r->spans);
        char *to = r->nodes ? (char *)p.nodes + span * node_size(r) : node;
        find(&r->k, p.first, &p.k);
        made.begin = made.end = 0, p.made = &made;
        p.last = smaller((first + r->span) * r->op->length, r->reduced);
        reduce_span(&p, first, smaller(first + r->span, blocks), to);
        if (!r->nodes) finish(&p, node);
    }
}

static void combine_panels(void *context, int64_t begin, int64_t end) {
    const reduction *r = context;
    _Alignas(64) char node[NODE_BYTES];
    panel p;
    for (int64_t i = begin; i < end; i++) {
        set_panel(&p, r, i);
        combine_spans(&p, node);
        finish(&p, node);
    }
}

// Spans, if there are too few panels for the threads and enough to do.
static void cut(reduction *r, int64_t panels) {
    int64_t blocks = blocks_of(r), threads = pn_num_threads();
    r->span = blocks, r->spans = 1;
    if (threads == 1 || panels >= 4 * threads || r->kept * r->reduced < 2 * r->piece)
        return;
    r->span = 1;
    while (r->span * r->op->length * r->width < r->piece) r->span *= 2;
    r->spans = (blocks + r->span - 1) / r->span;
    if (r->spans > 1) r->nodes = pn_alloc(panels * r->spans * node_size(r));
    if (!r->nodes) r->span = blocks, r->spans = 1;
}

// Nanoseconds an element, roughly, when vectors run along this space: strided loads are
// scalar, and each run costs a call.
static double cost(const space *s) {
    int64_t run = s->shape[s->rank - 1];
    return (s->strides[s->rank - 1] == 1 ? 1 : 4) + 16.0 / (double)run;
}

// A producer makes what follows each other much faster than one by one.
static bool is_along(const reduction *r) {
    int64_t last = r->r.rank - 1;
    if (r->producer) return r->r.strides[last] == 1 && r->r.shape[last] > 1;
    return cost(&r->r) + 40.0 / (double)r->reduced < cost(&r->k);
}

static void reduce(reduction *r) {
    r->rows = is_along(r);
    if (has_plain_rows(r)) {
        pn_parallel_for(r->kept, PIECE / r->reduced + 1, do_plain_rows, r);
        return;
    }
    int64_t each = r->op->size + (r->op->has_positions ? 4 : 0);
    r->width = r->rows ? 1 : smaller(r->kept, NODE_BYTES / each);
    int64_t panels = (r->kept + r->width - 1) / r->width;
    cut(r, panels);
    int64_t work = smaller(r->span * r->op->length, r->reduced) * r->width;
    pn_parallel_for(panels * r->spans, r->piece / work + 1, do_tasks, r);
    if (!r->nodes) return;
    pn_parallel_for(panels, PIECE / (r->spans * r->width) + 1, combine_panels, r);
    pn_free(r->nodes, panels * r->spans * node_size(r));
}

// --- Choosing ----------------------------------------------------------------------

#define TYPES(NAME) {&NAME##_i32, &NAME##_u32, &NAME##_i64, &NAME##_f32, &NAME##_f64}
static const struct {
    const char *name;
    const operation *of[5];
    double empty;
} OPERATIONS[] = {
    {"sum", TYPES(sum), 0},
    {"mean", TYPES(sum), __builtin_nan("")},
    {"prod", TYPES(prod), 1},
    {"max", TYPES(max), 0},
    {"min", TYPES(min), 0},
    {"argmax", TYPES(argmax), 0},
    {"argmin", TYPES(argmin), 0},
    {"any", {&any_b8, &any_b8, &any_b8, &any_b8, &any_b8}, 0},
    {"all", {&all_b8, &all_b8, &all_b8, &all_b8, &all_b8}, 1},
};

// By storage type: the position of its compute type in `of`.
static const int COMPUTE[] = {0, 0, 0, 1, 2, 3, 3, 3, 4};

// Sums and products compute in the result's type, all else in that of x.
static const operation *choose(const char *which, int x_dtype, int y_dtype, double *empty) {
    int i = 0;
    while (strcmp(OPERATIONS[i].name, which)) i++;
    *empty = OPERATIONS[i].empty;
    bool is_sum = i < 3 && !(x_dtype == PN_FLOAT64 && y_dtype >= PN_FLOAT16);
    return OPERATIONS[i].of[COMPUTE[is_sum ? y_dtype : x_dtype]];
}

static void fill(const reduction *r, double value) {
    for (int64_t k = 0; k < r->kept; k++) store_f64(r->y, r->y_dtype, k, &value, 1);
}

void PN_KERNEL(reduce)(const pn_args *args) {
    const int64_t *w = args->words, *kept_shape = w + 5, *kept_strides = kept_shape + w[2];
    const int64_t *reduced_shape = kept_strides + w[2];
    const char *which = args->options[0];
    double empty;
    pn_epilogue producer;
    const pn_header *header = pn_epilogue_of(args);
    reduction r = {
        .piece = PIECE,
        .x = args->buffers[1], .x_dtype = args->dtypes[1],
        .y = args->buffers[0], .y_dtype = args->dtypes[0],
        .kept = w[0], .reduced = w[1], .offset = w[4], .is_mean = !strcmp(which, "mean")};
    if (header) {
        const int64_t *words = reduced_shape + 2 * w[3];
        PN_PRODUCER_BEGIN(&producer, args, words);
        r.producer = &producer, r.x_dtype = header->dtype;
        r.piece = smaller(PIECE, header->grain);
    }
    r.op = choose(which, r.x_dtype, r.y_dtype, &empty);
    if (r.kept == 0) return;
    if (r.reduced == 0) {
        fill(&r, empty);
        return;
    }
    r.k = read_space(w[2], kept_shape, kept_strides);
    r.r = read_space(w[3], reduced_shape, reduced_shape + w[3]);
    reduce(&r);
}
