// The body of attention.c for one type; included once for each.
//
// Wants T, TYPE(name) (name with the type's suffix), INTEGER (of T's size), FMA(a, b, c),
// a * b + c on vectors, of 64 bytes LARGER_512(a, b), a if a > b, else b, and what lanes
// come to, LARGEST_512 and TOTAL_512, EXP, LOG, LOAD (convert.h) and TRANSPOSE (vectors.h).

typedef T TYPE(vec) __attribute__((vector_size(VECTOR_BYTES)));
typedef T TYPE(loose) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(T))));
typedef INTEGER TYPE(bits) __attribute__((vector_size(VECTOR_BYTES)));
#define VEC TYPE(vec)
#define LOOSE TYPE(loose)
#define BITS TYPE(bits)
#define LANES ((int64_t)(VECTOR_BYTES / sizeof(T)))
#define TILE_COLUMNS (TILE_VECTORS * LANES)
// x - 0 is x for every x, also for -0.
#define SPLAT(x) ((x) - (VEC){0})

// --- The tile in registers ---------------------------------------------------------

// c[i, j] (+)= sum over l < depth of a[i * row_step + l * depth_step] * b[l * b_step + j]
// for i < height, j < vectors * LANES.
static inline __attribute__((always_inline)) void TYPE(micro)(
    const int height, const int vectors, const int64_t row_step,
    const int64_t depth_step, int64_t depth, const T *restrict a, const T *restrict b,
    int64_t b_step, T *restrict c, int64_t c_row, bool add) {
    VEC sum[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 16
    for (int i = 0; i < height; i++)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++)
            sum[i][j] = add ? *(const LOOSE *)(c + i * c_row + j * LANES) : (VEC){0};
    for (int64_t l = 0; l < depth; l++) {
        VEC x[TILE_VECTORS];
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) x[j] = *(const LOOSE *)(b + j * LANES);
#pragma GCC unroll 16
        for (int i = 0; i < height; i++) {
            VEC s = SPLAT(a[i * row_step]);
#pragma GCC unroll 4
            for (int j = 0; j < vectors; j++) sum[i][j] = FMA(s, x[j], sum[i][j]);
        }
        a += depth_step;
        b += b_step;
    }
#pragma GCC unroll 16
    for (int i = 0; i < height; i++)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++)
            *(LOOSE *)(c + i * c_row + j * LANES) = sum[i][j];
}

// The left operand is a block of rows STEP apart, as it lies or turned.
#define MICRO_OF(NAME, HEIGHT, VECTORS, ROW_STEP, DEPTH_STEP)                          \
    static void TYPE(NAME)(int64_t depth, const T *a, const T *b, int64_t b_step, T *c, \
                           int64_t c_row, bool add) {                                  \
        TYPE(micro)(HEIGHT, VECTORS, ROW_STEP, DEPTH_STEP, depth, a, b, b_step, c,     \
                    c_row, add);                                                       \
    }
#define MICRO(HEIGHT)                                                                  \
    MICRO_OF(rows_1_##HEIGHT, HEIGHT, 1, STEP, 1)                                      \
    MICRO_OF(rows_2_##HEIGHT, HEIGHT, 2, STEP, 1)                                      \
    MICRO_OF(turned_1_##HEIGHT, HEIGHT, 1, 1, STEP)                                    \
    MICRO_OF(turned_2_##HEIGHT, HEIGHT, 2, 1, STEP)
#define MICRO_NAMES(HEIGHT)                                                            \
    {{TYPE(rows_1_##HEIGHT), TYPE(rows_2_##HEIGHT)},                                   \
     {TYPE(turned_1_##HEIGHT), TYPE(turned_2_##HEIGHT)}},
EACH_HEIGHT(MICRO)
typedef void (*TYPE(micro_fn))(int64_t, const T *, const T *, int64_t, T *, int64_t,
                               bool);
// By (height + 1) / 2 - 1, whether a is turned, and vectors - 1.
static const TYPE(micro_fn) TYPE(micros)[][2][2] = {EACH_HEIGHT(MICRO_NAMES)};

// c[i, j] (+)= sum over l < depth of a[i, l] * b[l, j] for i < height <= TILE_ROWS and j <
// width, rounded up to even rows and whole vectors, for which there must be room.
static void TYPE(multiply)(int64_t height, int64_t width, int64_t depth, const T *a,
                           bool is_turned, const T *b, int64_t b_step, T *c,
                           int64_t c_row, bool add) {
    const TYPE(micro_fn) *micro = TYPE(micros)[(height - 1) / 2][is_turned];
    for (int64_t j = 0; j < width; j += TILE_COLUMNS)
        micro[width - j > LANES](depth, a, b + j, b_step, c + j, c_row, add);
}

// --- Blocks of rows ----------------------------------------------------------------

static const T *TYPE(row_of)(const rows *r, int64_t b, int64_t h, int64_t i) {
    return (const T *)r->data + r->offset + b * r->batch + h * r->head + i * r->row;
}

// Rows i to i + count of x times `scale`, STEP apart, DEPTH columns of all of them after
// the other; zeros up to whole vectors.
static void TYPE(copy_rows)(const T *x, int64_t row, int64_t count, int64_t width,
                            T scale, T *to) {
    for (int64_t c = 0; c < width; c += DEPTH, to += count * STEP)
        for (int64_t i = 0; i < count; i++) {
            int64_t n = smaller(width - c, DEPTH);
            const T *from = x + i * row + c;
            T *at = to + i * STEP;
            for (int64_t l = 0; l < n; l++) at[l] = from[l] * scale;
            for (int64_t l = n; l < rounded_up(n, LANES); l++) at[l] = 0;
        }
}

// y[c, r] = x[r, c] for a square of SQUARE elements a side.
#define SQUARE ((int64_t)(32 / sizeof(T)))
typedef T TYPE(square) __attribute__((vector_size(32), aligned(sizeof(T))));

static inline void TYPE(transpose)(const T *x, int64_t x_row, T *y, int64_t y_row) {
    TYPE(square) v[32 / sizeof(T)];
    for (int64_t r = 0; r < SQUARE; r++) v[r] = *(const TYPE(square) *)(x + r * x_row);
    TRANSPOSE(v);
    for (int64_t r = 0; r < SQUARE; r++) *(TYPE(square) *)(y + r * y_row) = v[r];
}

// Rows of x turned: [panel of TILE_COLUMNS rows][column][row], zeros past the last row.
static void TYPE(turn_rows)(const T *x, int64_t row, int64_t count, int64_t width,
                            T *to) {
    for (int64_t j = 0; j < count; j += SQUARE) {
        T *panel = to + j / TILE_COLUMNS * TILE_COLUMNS * width + j % TILE_COLUMNS;
        int64_t l = 0, n = smaller(count - j, SQUARE);
        for (; n == SQUARE && l + SQUARE <= width; l += SQUARE)
            TYPE(transpose)(x + j * row + l, row, panel + l * TILE_COLUMNS, TILE_COLUMNS);
        for (; l < width; l++)
            for (int64_t r = 0; r < SQUARE; r++)
                panel[l * TILE_COLUMNS + r] = r < n ? x[(j + r) * row + l] : 0;
    }
    // The squares of the last panel that no row is in.
    for (int64_t j = rounded_up(count, SQUARE); j % TILE_COLUMNS; j += SQUARE) {
        T *panel = to + j / TILE_COLUMNS * TILE_COLUMNS * width + j % TILE_COLUMNS;
        for (int64_t l = 0; l < width; l++)
            for (int64_t r = 0; r < SQUARE; r++) panel[l * TILE_COLUMNS + r] = 0;
    }
}

// The right operand of a product: rows of x as they lie where their width is in whole
// vectors, else a copy of them.
typedef struct {
    const T *data;
    int64_t step;
} TYPE(right);

static TYPE(right) TYPE(as_right)(const T *x, int64_t row, int64_t count, int64_t width,
                                  T *copy) {
    if (width % LANES == 0) return (TYPE(right)){x, row};
    int64_t step = rounded_up(width, LANES);
    for (int64_t i = 0; i < count; i++)
        for (int64_t c = 0; c < step; c++)
            copy[i * step + c] = c < width ? x[i * row + c] : 0;
    return (TYPE(right)){copy, step};
}

// s[i, j] = q[i] . k[j] for `height` rows of a copied block of `count` and n turned rows.
static void TYPE(scores)(const T *q, int64_t count, int64_t height, const T *turned,
                         int64_t n, int64_t width, T *s) {
    for (int64_t j = 0; j < n; j += TILE_COLUMNS) {
        const T *panel = turned + j * width;
        for (int64_t l = 0; l < width; l += DEPTH)
            TYPE(multiply)(height, smaller(n - j, TILE_COLUMNS), smaller(width - l, DEPTH),
                           q + l / DEPTH * count * STEP, false, panel + l * TILE_COLUMNS,
                           TILE_COLUMNS, s + j, STEP, l > 0);
    }
}

// --- A row of scores ---------------------------------------------------------------

// Lanes are added by halving at every level.
#if VECTOR_BYTES == 64
#define LARGER LARGER_512
static inline T TYPE(largest_lane)(VEC v) { return LARGEST_512(v); }
static inline T TYPE(total_of_lanes)(VEC v) { return TOTAL_512(v); }
#else
static inline VEC TYPE(larger)(VEC a, VEC b) {
    BITS is_larger = a > b;
    return (VEC)(((BITS)a & is_larger) | ((BITS)b & ~is_larger));
}
#define LARGER TYPE(larger)
static T TYPE(largest_lane)(VEC v) {
    T most = v[0];
    for (int64_t c = 1; c < LANES; c++) most = v[c] > most ? v[c] : most;
    return most;
}
static T TYPE(total_of_lanes)(VEC v) {
    for (int64_t half = LANES / 2; half; half /= 2)
        for (int64_t c = 0; c < half; c++) v[c] += v[c + half];
    return v[0];
}
#endif

// Of n elements, whole vectors; NaN is passed over, as its exponential is not.
static T TYPE(largest)(const T *s, int64_t n) {
    VEC top = SPLAT((T)-INFINITY);
    for (int64_t c = 0; c < n; c += LANES) top = LARGER(*(const LOOSE *)(s + c), top);
    return TYPE(largest_lane)(top);
}

static T TYPE(total)(const T *s, int64_t n) {
    VEC sum = {0};
    for (int64_t c = 0; c < n; c += LANES) sum += *(const LOOSE *)(s + c);
    return TYPE(total_of_lanes)(sum);
}

// The mask on the scores of row (b, h, i) with keys j to j + n.
static void TYPE(apply_mask)(const attention *a, int64_t b, int64_t h, int64_t i,
                             int64_t j, int64_t n, T *s) {
    const int64_t *step = a->mask_strides;
    int64_t at = a->mask_offset + b * step[0] + h * step[1] + i * step[2] + j * step[3];
    T m[KEYS];
    LOAD(m, a->mask, a->mask_dtype, at, step[3], n);
    if (a->mask_dtype == PN_BOOL)
        for (int64_t c = 0; c < n; c++) s[c] = m[c] != 0 ? s[c] : (T)-INFINITY;
    else
        for (int64_t c = 0; c < n; c++) s[c] += m[c];
}

// What dropout multiplies row (b, h, i) by at keys j to j + n; j is a multiple of 4.
static void TYPE(draw)(const attention *a, int64_t b, int64_t h, int64_t i, int64_t j,
                       int64_t n, T *factor) {
    uint64_t row = (uint64_t)((b * a->heads + h) * a->queries + i);
    uint64_t counter = a->counter + row * (uint64_t)a->blocks + (uint64_t)(j / 4);
    for (int64_t c = 0; c < n; c += 4 * PHILOX_LANES) {
        uint32_t words[4 * PHILOX_LANES];
        philox(a->key, counter + (uint64_t)(c / 4), words);
        for (int64_t k = 0; k < smaller(n - c, 4 * PHILOX_LANES); k++)
            factor[c + k] = words[k] >= a->threshold ? (T)a->keep : 0;
    }
}

// --- Forward -----------------------------------------------------------------------

// Where the rows of a block stand: the largest score, the sum of e^(s - it), and the sum
// of e^(s - it) v.
typedef struct {
    T *y, *top, *sum;
} TYPE(standing);

// Scores s of row (b, h, i) with keys j to j + n become e^(s - top). `width`: columns that
// the product with v reads; those past n become 0.
static void TYPE(raise_row)(const attention *a, int64_t b, int64_t h, int64_t i,
                            int64_t j, int64_t n, int64_t width, T *s, T *top, T *sum,
                            T *y) {
    int64_t whole = rounded_up(n, LANES), step = rounded_up(a->value_width, LANES);
    if (whole < width) memset(s + whole, 0, (size_t)(width - whole) * sizeof(T));
    if (n == 0) return;
    if (a->mask) TYPE(apply_mask)(a, b, h, i, j, n, s);
    T *end = s + whole - LANES;
    for (int64_t c = 0; c < LANES; c++)
        end[c] = c + whole - LANES < n ? end[c] : (T)-INFINITY;
    T most = TYPE(largest)(s, whole);
    if (*top > most) most = *top;
    // Nothing is seen yet: the scores are -inf, or NaN.
    T from = most == (T)-INFINITY ? 0 : most;
    for (int64_t c = 0; c < whole; c += LANES)
        for (int64_t l = 0; l < LANES; l++) s[c + l] = EXP(s[c + l] - from);
    T all = TYPE(total)(s, whole);
    if (j) {
        T before = EXP(*top - from);
        all += *sum * before;
        if (before != 1)
            for (int64_t c = 0; c < step; c++) y[c] *= before;
    }
    *sum = all;
    *top = most;
    if (a->threshold) {
        T factor[KEYS];
        TYPE(draw)(a, b, h, i, j, n, factor);
        for (int64_t c = 0; c < n; c++) s[c] *= factor[c];
    }
}

static void TYPE(store_rows)(const attention *a, int64_t b, int64_t h, int64_t i,
                             int64_t count, const TYPE(standing) *at) {
    int64_t step = rounded_up(a->value_width, LANES);
    T *lse = (T *)a->lse + (b * a->heads + h) * a->queries + i;
    for (int64_t r = 0; r < count; r++) {
        T *y = (T *)a->y + ((b * a->queries + i + r) * a->heads + h) * a->value_width;
        T share = at->sum[r] == 0 ? 0 : 1 / at->sum[r];
        for (int64_t c = 0; c < a->value_width; c++) y[c] = at->y[r * step + c] * share;
        lse[r] = at->top[r] + LOG(at->sum[r]);
    }
}

// Rows i to i + count of head h.
static void TYPE(do_rows)(const attention *a, int64_t b, int64_t h, int64_t i,
                          int64_t count, T *scratch) {
    int64_t g = h / (a->heads / a->groups), step = rounded_up(a->value_width, LANES);
    int64_t parts = divided_up(a->width, DEPTH);
    T *q = scratch, *turned = q + parts * ROWS * STEP, *v_copy = turned + KEYS * a->width;
    T *s = v_copy + KEYS * step;
    TYPE(standing) at = {s + TILE_ROWS * STEP, s + TILE_ROWS * STEP + ROWS * step, NULL};
    at.sum = at.top + ROWS;
    for (int64_t r = 0; r < count; r++) at.top[r] = (T)-INFINITY, at.sum[r] = 0;
    TYPE(copy_rows)(TYPE(row_of)(&a->q, b, h, i), a->q.row, count, a->width, (T)a->scale,
                    q);
    int64_t last = seen_by(a, i + count - 1);
    for (int64_t j = 0; j < last; j += KEYS) {
        int64_t n = smaller(last - j, KEYS);
        TYPE(turn_rows)(TYPE(row_of)(&a->k, b, g, j), a->k.row, n, a->width, turned);
        TYPE(right) v = TYPE(as_right)(TYPE(row_of)(&a->v, b, g, j), a->v.row, n,
                                       a->value_width, v_copy);
        for (int64_t r = 0; r < count; r += TILE_ROWS) {
            int64_t height = smaller(count - r, TILE_ROWS);
            int64_t seen = smaller(seen_by(a, i + r + height - 1) - j, n);
            if (seen <= 0) continue;
            TYPE(scores)(q + r * STEP, count, height, turned, seen, a->width, s);
            for (int64_t k = r; k < r + height; k++)
                TYPE(raise_row)(a, b, h, i + k, j, part_seen(a, i + k, j, seen), seen,
                                s + (k - r) * STEP, at.top + k, at.sum + k,
                                at.y + k * step);
            TYPE(multiply)(height, a->value_width, seen, s, false, v.data, v.step,
                           at.y + r * step, step, j > 0);
        }
    }
    TYPE(store_rows)(a, b, h, i, count, &at);
}

static void TYPE(do_row_blocks)(void *context, int64_t begin, int64_t end) {
    attention *a = context;
    int64_t parts = divided_up(a->width, DEPTH), step = rounded_up(a->value_width, LANES);
    int64_t size = (parts * ROWS + TILE_ROWS) * STEP + KEYS * (a->width + step);
    size += ROWS * (step + 2);
    T *scratch = pn_alloc(size * (int64_t)sizeof(T));
    if (!scratch) {
        a->out_of_memory = true;
        return;
    }
    for (int64_t t = begin; t < end; t++) {
        int64_t head = t / a->row_blocks;
        int64_t i = in_turn(t % a->row_blocks, a->row_blocks) * a->row_count;
        TYPE(do_rows)(a, head / a->heads, head % a->heads, i,
                      smaller(a->queries - i, a->row_count), scratch);
    }
    pn_free(scratch, size * (int64_t)sizeof(T));
}

static void TYPE(go_forward)(attention *a) {
    int64_t blocks = divided_up(a->queries, ROWS);
    a->row_count = rounded_up(divided_up(a->queries, blocks), TILE_ROWS);
    a->row_blocks = divided_up(a->queries, a->row_count);
    int64_t grain = PIECE / (a->row_count * a->keys + 1) + 1;
    pn_parallel_for(a->batch * a->heads * a->row_blocks, grain, TYPE(do_row_blocks), a);
}

// --- Backward ----------------------------------------------------------------------

// What one thread works in: a block of keys, turned and as they lie, and its gradients; a
// block of rows; their products; dy . y of every row of the group's heads; where the
// heads' share of dq begins.
typedef struct {
    T *k_turned, *v_turned, *k_copy, *dk, *dv, *q, *dy, *p, *ds, *inner, *share;
} TYPE(scratch);

static int64_t TYPE(cut_scratch)(const attention *a, T *from, TYPE(scratch) *to) {
    int64_t k_step = rounded_up(a->width, LANES), v_step = rounded_up(a->value_width, LANES);
    int64_t block = ROWS_BACK * STEP, size = 0;
    struct {
        T **at;
        int64_t size;
    } parts[] = {
        {&to->k_turned, KEYS * a->width},
        {&to->v_turned, KEYS * a->value_width},
        {&to->k_copy, KEYS * k_step},
        {&to->dk, KEYS * k_step},
        {&to->dv, KEYS * v_step},
        {&to->q, divided_up(a->width, DEPTH) * block},
        {&to->dy, divided_up(a->value_width, DEPTH) * block},
        {&to->p, block},
        {&to->ds, block},
        {&to->inner, a->heads / a->groups * a->queries},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].at = from ? from + size : NULL;
        size += rounded_up(parts[i].size, 64);
    }
    return size;
}

// Rows of a head's share of dq: products write them in pairs.
static inline int64_t TYPE(share_size)(const attention *a) {
    return rounded_up(a->queries, 2) * rounded_up(a->width, LANES);
}

// Scores s of row (b, h, i) with keys j to j + n become p, and dp, dy . v[j], becomes ds.
// Up to `width` either is 0 past n.
static void TYPE(weigh_row)(const attention *a, int64_t b, int64_t h, int64_t i,
                            int64_t j, int64_t n, int64_t width, T inner, T *restrict s,
                            T *restrict dp) {
    T lse = ((const T *)a->lse)[(b * a->heads + h) * a->queries + i];
    if (lse == (T)-INFINITY) lse = INFINITY;  // of a row that sees nothing: p is 0
    if (a->mask) TYPE(apply_mask)(a, b, h, i, j, n, s);
    int64_t whole = rounded_up(n, LANES);
    if (a->threshold) {
        T factor[KEYS];
        TYPE(draw)(a, b, h, i, j, n, factor);
        for (int64_t c = 0; c < n; c++) {
            T p = EXP(s[c] - lse);
            dp[c] = p * (dp[c] * factor[c] - inner);
            s[c] = p * factor[c];
        }
    } else {
        for (int64_t c = 0; c < whole; c++) {
            T p = EXP(s[c] - lse);
            dp[c] = p * (dp[c] - inner);
            s[c] = p;
        }
    }
    for (int64_t c = n; c < width; c++) s[c] = dp[c] = 0;
}

// c[j] += sum over rows from `first` on of a[row, j] * x[row] for n keys of a block.
static void TYPE(add_turned)(const T *a, const T *x, int64_t first, int64_t count,
                             int64_t height, int64_t width, T *c, int64_t step) {
    for (int64_t l = 0; l < width; l += DEPTH)
        TYPE(multiply)(height, smaller(width - l, DEPTH), count - first, a + first * STEP,
                       true, x + l / DEPTH * count * STEP + first * STEP, STEP, c + l,
                       step, true);
}

// Rows i to i + count of head h against n keys from j on.
static void TYPE(go_back_block)(const attention *a, const TYPE(scratch) *x, int64_t b,
                                int64_t h, int64_t i, int64_t count, int64_t j, int64_t n,
                                TYPE(right) k, const T *inner, T *dq) {
    int64_t k_step = rounded_up(a->width, LANES), v_step = rounded_up(a->value_width, LANES);
    TYPE(copy_rows)(TYPE(row_of)(&a->q, b, h, i), a->q.row, count, a->width, (T)a->scale,
                    x->q);
    TYPE(copy_rows)(TYPE(row_of)(&a->dy, b, h, i), a->dy.row, count, a->value_width, 1,
                    x->dy);
    for (int64_t r = 0; r < count; r += TILE_ROWS) {
        int64_t height = smaller(count - r, TILE_ROWS);
        int64_t seen = part_seen(a, i + r + height - 1, j, n);
        TYPE(scores)(x->q + r * STEP, count, height, x->k_turned, seen, a->width,
                     x->p + r * STEP);
        TYPE(scores)(x->dy + r * STEP, count, height, x->v_turned, seen, a->value_width,
                     x->ds + r * STEP);
        for (int64_t m = r; m < r + height; m++)
            TYPE(weigh_row)(a, b, h, i + m, j, part_seen(a, i + m, j, seen),
                            rounded_up(n, LANES), inner[i + m], x->p + m * STEP,
                            x->ds + m * STEP);
        TYPE(multiply)(height, a->width, seen, x->ds + r * STEP, false, k.data, k.step,
                       dq + (i + r) * k_step, k_step, true);
    }
    for (int64_t t = 0; t < n; t += TILE_ROWS) {
        int64_t height = smaller(n - t, TILE_ROWS), first = larger(first_row(a, j + t) - i, 0);
        if (first >= count) break;
        TYPE(add_turned)(x->p + t, x->dy, first, count, height, a->value_width,
                         x->dv + t * v_step, v_step);
        TYPE(add_turned)(x->ds + t, x->q, first, count, height, a->width,
                         x->dk + t * k_step, k_step);
    }
}

static void TYPE(store_keys)(const T *from, int64_t step, int64_t count, int64_t width,
                             T *to, int64_t row) {
    for (int64_t i = 0; i < count; i++)
        memcpy(to + i * row, from + i * step, (size_t)width * sizeof(T));
}

// Rows i to `end` of dq for a head, from the shares of all chunks.
static void TYPE(store_queries)(const attention *a, int64_t head, int64_t i, int64_t end) {
    int64_t step = rounded_up(a->width, LANES), size = TYPE(share_size)(a);
    int64_t b = head / a->heads, h = head % a->heads;
    for (; i < end; i++) {
        T *to = (T *)a->dq + ((b * a->queries + i) * a->heads + h) * a->width;
        const T *share = (const T *)a->shares + head * size + i * step;
        for (int64_t c = 0; c < a->width; c++) to[c] = share[c];
        for (int64_t m = 1; m < a->chunks; m++) {
            share += a->batch * a->heads * size;
            for (int64_t c = 0; c < a->width; c++) to[c] += share[c];
        }
        for (int64_t c = 0; c < a->width; c++) to[c] *= (T)a->scale;
    }
}

// Keys j to `end` of group g, with the rows of all its heads.
static void TYPE(do_keys)(const attention *a, const TYPE(scratch) *x, int64_t b, int64_t g,
                          int64_t j, int64_t end) {
    int64_t k_step = rounded_up(a->width, LANES), v_step = rounded_up(a->value_width, LANES);
    int64_t heads = a->heads / a->groups, size = TYPE(share_size)(a);
    for (int64_t n; j < end; j += n) {
        n = smaller(end - j, KEYS);
        const T *k_rows = TYPE(row_of)(&a->k, b, g, j), *v_rows = TYPE(row_of)(&a->v, b, g, j);
        TYPE(turn_rows)(k_rows, a->k.row, n, a->width, x->k_turned);
        TYPE(turn_rows)(v_rows, a->v.row, n, a->value_width, x->v_turned);
        TYPE(right) k = TYPE(as_right)(k_rows, a->k.row, n, a->width, x->k_copy);
        memset(x->dk, 0, (size_t)(KEYS * k_step) * sizeof(T));
        memset(x->dv, 0, (size_t)(KEYS * v_step) * sizeof(T));
        for (int64_t m = 0; m < heads; m++)
            for (int64_t i = first_row(a, j); i < a->queries; i += ROWS_BACK)
                TYPE(go_back_block)(a, x, b, g * heads + m, i,
                                    smaller(a->queries - i, ROWS_BACK), j, n, k,
                                    x->inner + m * a->queries, x->share + m * size);
        int64_t row = b * a->keys + j;
        TYPE(store_keys)(x->dk, k_step, n, a->width,
                         (T *)a->dk + (row * a->groups + g) * a->width,
                         a->groups * a->width);
        TYPE(store_keys)(x->dv, v_step, n, a->value_width,
                         (T *)a->dv + (row * a->groups + g) * a->value_width,
                         a->groups * a->value_width);
    }
}

// inner[row] = dy . y for the rows of head h that see keys from j on.
static void TYPE(multiply_inner)(const attention *a, int64_t b, int64_t h, int64_t j,
                                 T *inner) {
    for (int64_t i = first_row(a, j); i < a->queries; i++) {
        const T *dy = TYPE(row_of)(&a->dy, b, h, i);
        const T *y = (const T *)a->y + ((b * a->queries + i) * a->heads + h) * a->value_width;
        int64_t c = 0;
        VEC sum = {0};
        for (; c + LANES <= a->value_width; c += LANES)
            sum += *(const LOOSE *)(dy + c) * *(const LOOSE *)(y + c);
        T rest = 0;
        for (; c < a->value_width; c++) rest += dy[c] * y[c];
        inner[i] = TYPE(total)((const T *)&sum, LANES) + rest;
    }
}

static void TYPE(do_chunks)(void *context, int64_t begin, int64_t end) {
    attention *a = context;
    TYPE(scratch) x;
    int64_t size = TYPE(cut_scratch)(a, NULL, &x), each = TYPE(share_size)(a);
    T *memory = pn_alloc(size * (int64_t)sizeof(T));
    if (!memory) {
        a->out_of_memory = true;
        return;
    }
    TYPE(cut_scratch)(a, memory, &x);
    int64_t heads = a->heads / a->groups;
    for (int64_t t = begin; t < end; t++) {
        int64_t chunk = in_turn(t % a->chunks, a->chunks), group = t / a->chunks;
        int64_t b = group / a->groups, g = group % a->groups, j = chunk * a->chunk;
        int64_t head = b * a->heads + g * heads;
        x.share = (T *)a->shares + (chunk * a->batch * a->heads + head) * each;
        memset(x.share, 0, (size_t)(heads * each) * sizeof(T));
        for (int64_t m = 0; m < heads; m++)
            TYPE(multiply_inner)(a, b, g * heads + m, j, x.inner + m * a->queries);
        TYPE(do_keys)(a, &x, b, g, j, smaller(j + a->chunk, a->keys));
        for (int64_t m = 0; m < heads && a->chunks == 1; m++)
            TYPE(store_queries)(a, head + m, 0, a->queries);
    }
    pn_free(memory, size * (int64_t)sizeof(T));
}

static void TYPE(do_query_rows)(void *context, int64_t begin, int64_t end) {
    const attention *a = context;
    while (begin < end) {
        int64_t head = begin / a->queries, i = begin % a->queries;
        int64_t to = smaller(a->queries, i + end - begin);
        TYPE(store_queries)(a, head, i, to);
        begin += to - i;
    }
}

// As many chunks as give SPLITS pieces of work, but no more than four shares of dq where
// there are many heads.
static void TYPE(go_back)(attention *a) {
    int64_t groups = a->batch * a->groups, heads = a->batch * a->heads;
    int64_t wanted = smaller(divided_up(SPLITS, groups), larger(SPLITS / heads, 4));
    wanted = smaller(wanted, divided_up(a->keys, CHUNK));
    a->chunk = rounded_up(divided_up(a->keys, wanted), KEYS);
    a->chunks = divided_up(a->keys, a->chunk);
    int64_t nbytes = a->chunks * heads * TYPE(share_size)(a) * (int64_t)sizeof(T);
    a->shares = pn_alloc(nbytes);
    if (!a->shares) {
        a->out_of_memory = true;
        return;
    }
    int64_t work = a->heads / a->groups * a->queries * smaller(a->chunk, a->keys);
    pn_parallel_for(groups * a->chunks, PIECE / (3 * work) + 1, TYPE(do_chunks), a);
    if (a->chunks > 1)
        pn_parallel_for(heads * a->queries, PIECE / (a->chunks * a->width) + 1,
                        TYPE(do_query_rows), a);
    pn_free(a->shares, nbytes);
}

#undef T
#undef TYPE
#undef INTEGER
#undef FMA
#undef EXP
#undef LOG
#undef LOAD
#undef LARGER
#undef LARGER_512
#undef LARGEST_512
#undef TOTAL_512
#undef TRANSPOSE
#undef SQUARE
#undef VEC
#undef LOOSE
#undef BITS
#undef LANES
#undef TILE_COLUMNS
#undef SPLAT
#undef MICRO
#undef MICRO_OF
#undef MICRO_NAMES
