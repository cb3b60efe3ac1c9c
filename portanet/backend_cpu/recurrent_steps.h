// The body of recurrent.c for one type; included once for each.
//
// Wants T, TYPE(name) (name with the type's suffix), FMA(a, b, c) on vectors, TRANSPOSE
// (vectors.h), and the gates TYPE(sigmoid) and TYPE(tanh).

typedef T TYPE(vec) __attribute__((vector_size(VECTOR_BYTES)));
typedef T TYPE(loose) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(T))));
#define VEC TYPE(vec)
#define LOOSE TYPE(loose)
#define LANES ((int64_t)(VECTOR_BYTES / sizeof(T)))
#define UNIT (TILE_VECTORS * LANES)
// x - 0 is x for every x, also for -0.
#define SPLAT(x) ((x) - (VEC){0})

// --- Products with the state -------------------------------------------------------

// sum[i, j] = sum over l < depth of a[i * a_row + l] * panel[l, j], j < UNIT.
#define MICRO(ROWS)                                                                    \
    static void TYPE(product_##ROWS)(int64_t depth, const T *restrict a,               \
                                     int64_t a_row, const T *restrict panel,           \
                                     T *restrict sum) {                                \
        VEC total[ROWS][TILE_VECTORS];                                                 \
        _Pragma("GCC unroll 16") for (int i = 0; i < ROWS; i++)                        \
            _Pragma("GCC unroll 4") for (int j = 0; j < TILE_VECTORS; j++)             \
                total[i][j] = (VEC){0};                                                \
        for (int64_t l = 0; l < depth; l++) {                                          \
            VEC x[TILE_VECTORS];                                                       \
            _Pragma("GCC unroll 4") for (int j = 0; j < TILE_VECTORS; j++)             \
                x[j] = *(const LOOSE *)(panel + l * UNIT + j * LANES);                 \
            _Pragma("GCC unroll 16") for (int i = 0; i < ROWS; i++) {                  \
                VEC s = SPLAT(a[i * a_row + l]);                                       \
                _Pragma("GCC unroll 4") for (int j = 0; j < TILE_VECTORS; j++)         \
                    total[i][j] = FMA(s, x[j], total[i][j]);                           \
            }                                                                          \
        }                                                                              \
        _Pragma("GCC unroll 16") for (int i = 0; i < ROWS; i++)                        \
            _Pragma("GCC unroll 4") for (int j = 0; j < TILE_VECTORS; j++)             \
                *(LOOSE *)(sum + i * UNIT + j * LANES) = total[i][j];                  \
    }
EACH_HEIGHT(MICRO)

typedef void (*TYPE(product_fn))(int64_t, const T *, int64_t, const T *, T *);
#define NAMED(ROWS) TYPE(product_##ROWS),
static const TYPE(product_fn) TYPE(products)[] = {EACH_HEIGHT(NAMED)};

// --- Packing -----------------------------------------------------------------------

#define SQUARE ((int64_t)(32 / sizeof(T)))
typedef T TYPE(square) __attribute__((vector_size(32), aligned(sizeof(T))));

// panel[l, j] = w[j, l] for j < width, zeros up to UNIT.
static void TYPE(pack_turned)(const T *w, int64_t size, int64_t width, T *panel) {
    int64_t whole = width / SQUARE * SQUARE, even = size / SQUARE * SQUARE;
    if (width < UNIT) memset(panel, 0, (size_t)(size * UNIT) * sizeof(T));
    for (int64_t l = 0; l < even; l += SQUARE)
        for (int64_t j = 0; j < whole; j += SQUARE) {
            TYPE(square) v[32 / sizeof(T)];
            for (int64_t r = 0; r < SQUARE; r++)
                v[r] = *(const TYPE(square) *)(w + (j + r) * size + l);
            TRANSPOSE(v);
            for (int64_t r = 0; r < SQUARE; r++)
                *(TYPE(square) *)(panel + (l + r) * UNIT + j) = v[r];
        }
    for (int64_t l = 0; l < size; l++)
        for (int64_t j = l < even ? whole : 0; j < width; j++)
            panel[l * UNIT + j] = w[j * size + l];
}

static int64_t TYPE(width)(const recurrence *r, int64_t unit) {
    return smaller(UNIT, r->size - unit * UNIT);
}

static void TYPE(pack_forward)(void *context, int64_t begin, int64_t end) {
    const recurrence *r = context;
    const T *w = r->in[r->cell == LSTM ? 3 : 2];
    for (int64_t u = begin; u < end; u++)
        for (int64_t g = 0; g < r->gates; g++)
            TYPE(pack_turned)(w + (g * r->size + u * UNIT) * r->size, r->size,
                              TYPE(width)(r, u),
                              (T *)r->panels + (u * r->gates + g) * r->size * UNIT);
}

static void TYPE(pack_backward)(void *context, int64_t begin, int64_t end) {
    const recurrence *r = context;
    const T *w = r->in[r->cell == LSTM ? 4 : r->cell == GRU ? 3 : 2];
    for (int64_t u = begin; u < end; u++) {
        T *panel = (T *)r->panels + u * r->depth * UNIT;
        int64_t width = TYPE(width)(r, u);
        for (int64_t l = 0; l < r->depth; l++, panel += UNIT) {
            const T *from = w + l * r->size + u * UNIT;
            for (int64_t j = 0; j < UNIT; j++) panel[j] = j < width ? from[j] : 0;
        }
    }
}

// --- Cells: the rows of one unit ---------------------------------------------------

// Sums are [gate][row][UNIT], with room for TILE_ROWS rows of a gate. Activations go over
// all rows of a gate in one loop, as those of one row are too few to keep the units busy.
#define GATE (TILE_ROWS * UNIT)

static void TYPE(sigmoids)(T *restrict x, int64_t n) {
    for (int64_t k = 0; k < n; k++) x[k] = TYPE(sigmoid)(x[k]);
}

static void TYPE(tanhs)(T *restrict x, int64_t n) {
    for (int64_t k = 0; k < n; k++) x[k] = TYPE(tanh)(x[k]);
}

// `n` columns of a row; a whole unit is copied without a call.
static inline void TYPE(put)(T *restrict to, const T *restrict from, int64_t n) {
    if (n == UNIT)
        memcpy(to, from, (size_t)UNIT * sizeof(T));
    else
        memcpy(to, from, (size_t)n * sizeof(T));
}

static inline void TYPE(add)(T *restrict sum, const T *restrict x, const T *restrict b,
                             int64_t n) {
    for (int64_t j = 0; j < n; j++) sum[j] += x[j] + b[j];
}

// The rows of a piece: `height` of them, `n` columns of each.
typedef struct {
    int64_t height, n, size;
    const T *x;  // of the first row
    int64_t x_row;
    const T *b;
    T *h, *c, *kept, *state;  // of the first row, and of the step that is made
    const T *h_old, *c_old;
    int64_t state_row;
} TYPE(rows);

static void TYPE(rnn_cells)(const TYPE(rows) *at, int cell, T *sum) {
    const int64_t n = at->n, count = at->height * UNIT;
    for (int64_t i = 0; i < at->height; i++)
        TYPE(add)(sum + i * UNIT, at->x + i * at->x_row, at->b, n);
    if (cell == TANH)
        TYPE(tanhs)(sum, count);
    else
        for (int64_t k = 0; k < count; k++) {
            T v = sum[k];
            sum[k] = v > 0 || v != v ? v : 0;
        }
    for (int64_t i = 0; i < at->height; i++) {
        TYPE(put)(at->h + i * at->size, sum + i * UNIT, n);
        TYPE(put)(at->state + i * at->state_row, sum + i * UNIT, n);
    }
}

static void TYPE(lstm_cells)(const TYPE(rows) *at, T *sum) {
    const int64_t n = at->n, size = at->size, count = at->height * UNIT;
    T *i_gate = sum, *f_gate = i_gate + GATE, *g_gate = f_gate + GATE;
    T *o_gate = g_gate + GATE;
    T cell[GATE], turned[GATE];
    for (int64_t i = 0; i < at->height; i++)
        for (int64_t g = 0; g < 4; g++)
            TYPE(add)(sum + g * GATE + i * UNIT, at->x + i * at->x_row + g * size,
                      at->b + g * size, n);
    TYPE(sigmoids)(i_gate, count);
    TYPE(sigmoids)(f_gate, count);
    TYPE(tanhs)(g_gate, count);
    TYPE(sigmoids)(o_gate, count);
    for (int64_t i = 0; i < at->height; i++) {
        T old[UNIT] = {0};
        TYPE(put)(old, at->c_old + i * size, n);
        for (int64_t j = 0, k = i * UNIT; j < UNIT; j++, k++)
            cell[k] = turned[k] = f_gate[k] * old[j] + i_gate[k] * g_gate[k];
        TYPE(put)(at->c + i * size, cell + i * UNIT, n);
        for (int64_t g = 0; g < 4; g++)
            TYPE(put)(at->kept + (4 * i + g) * size, sum + g * GATE + i * UNIT, n);
    }
    TYPE(tanhs)(turned, count);
    for (int64_t k = 0; k < count; k++) turned[k] *= o_gate[k];
    for (int64_t i = 0; i < at->height; i++) {
        TYPE(put)(at->h + i * size, turned + i * UNIT, n);
        TYPE(put)(at->state + i * at->state_row, turned + i * UNIT, n);
    }
}

static void TYPE(gru_cells)(const TYPE(rows) *at, T *sum) {
    const int64_t n = at->n, size = at->size, count = at->height * UNIT;
    T *r = sum, *z = sum + GATE, *q = sum + 2 * GATE, *m = sum + 3 * GATE;
    for (int64_t i = 0; i < at->height; i++)
        for (int64_t g = 0; g < 2; g++)
            TYPE(add)(sum + g * GATE + i * UNIT, at->x + i * at->x_row + g * size,
                      at->b + g * size, n);
    TYPE(sigmoids)(r, count);
    TYPE(sigmoids)(z, count);
    for (int64_t i = 0; i < at->height; i++) {
        const T *x = at->x + i * at->x_row + 2 * size, *b = at->b + 2 * size;
        for (int64_t j = 0, k = i * UNIT; j < n; j++, k++) {
            q[k] += b[j + size];
            m[k] = x[j] + b[j] + r[k] * q[k];
        }
        for (int64_t j = n, k = i * UNIT + n; j < UNIT; j++, k++) m[k] = 0;
    }
    TYPE(tanhs)(m, count);
    for (int64_t i = 0; i < at->height; i++) {
        T now[UNIT] = {0};
        TYPE(put)(now, at->h_old + i * size, n);
        for (int64_t j = 0, k = i * UNIT; j < UNIT; j++, k++)
            now[j] = m[k] + z[k] * (now[j] - m[k]);
        const T *gates[4] = {r, z, m, q};
        for (int64_t g = 0; g < 4; g++)
            TYPE(put)(at->kept + (4 * i + g) * size, gates[g] + i * UNIT, n);
        TYPE(put)(at->h + i * size, now, n);
        TYPE(put)(at->state + i * at->state_row, now, n);
    }
}

// The gradients of what goes in, from that of h (g + sum).
static void TYPE(rnn_slope)(int cell, int64_t n, const T *g, const T *sum, const T *h,
                            T *gx, T *state) {
    T gv[UNIT];
    for (int64_t j = 0; j < n; j++) {
        T slope = cell == RELU ? (h[j] > 0 ? 1 : 0) : 1 - h[j] * h[j];
        gv[j] = (g[j] + sum[j]) * slope;
    }
    TYPE(put)(gx, gv, n);
    TYPE(put)(state, gv, n);
}

// `turned` is tanh(c).
static void TYPE(lstm_slope)(int64_t n, int64_t size, const T *g, const T *sum,
                             const T *kept, const T *c_old, const T *turned, T *gc,
                             T *gx, T *state) {
    T made[4][UNIT], carry[UNIT];
    for (int64_t j = 0; j < n; j++) {
        T i = kept[j], f = kept[j + size], m = kept[j + 2 * size], o = kept[j + 3 * size];
        T y = turned[j], gh = g[j] + sum[j];
        T v = gc[j] + gh * o * (1 - y * y);
        made[0][j] = v * m * (i * (1 - i));
        made[1][j] = v * c_old[j] * (f * (1 - f));
        made[2][j] = v * i * (1 - m * m);
        made[3][j] = gh * y * (o * (1 - o));
        carry[j] = v * f;
    }
    TYPE(put)(gc, carry, n);
    for (int64_t k = 0; k < 4; k++) {
        TYPE(put)(gx + k * size, made[k], n);
        TYPE(put)(state + k * size, made[k], n);
    }
}

// What h takes past the product, z gh, waits in `past` for the step before.
static void TYPE(gru_slope)(int64_t n, int64_t size, const T *g, const T *sum,
                            const T *kept, const T *h_old, T *past, T *gx, T *state) {
    T made[4][UNIT], carry[UNIT];
    for (int64_t j = 0; j < n; j++) {
        T r = kept[j], z = kept[j + size], m = kept[j + 2 * size], q = kept[j + 3 * size];
        T gh = g[j] + sum[j] + past[j], gn = gh * (1 - z) * (1 - m * m);
        made[0][j] = gn * q * (r * (1 - r));
        made[1][j] = gh * (h_old[j] - m) * (z * (1 - z));
        made[2][j] = gn;
        made[3][j] = gn * r;
        carry[j] = gh * z;
    }
    TYPE(put)(past, carry, n);
    for (int64_t k = 0; k < 4; k++) {
        TYPE(put)(gx + k * size, made[k], n);
        if (k != 2) TYPE(put)(state + (k - k / 3) * size, made[k], n);
    }
}

// --- Steps -------------------------------------------------------------------------

// Asks for a unit of each gate of a row, long before it is wanted: these rows are far
// apart and read once, which no cache foresees.
static inline void TYPE(ask_for)(const T *row, int64_t gates, int64_t size) {
    for (int64_t k = 0; k < gates; k++)
        for (int64_t j = 0; j < UNIT; j += 64 / (int64_t)sizeof(T))
            __builtin_prefetch(row + k * size + j, 0, 2);
}

static inline int64_t TYPE(unit_of)(const recurrence *r, int64_t piece) {
    return r->by_unit ? piece / r->groups : piece % r->units;
}

// The first row of a piece.
static inline int64_t TYPE(row_of)(const recurrence *r, int64_t piece) {
    return (r->by_unit ? piece % r->groups : piece / r->units) * r->height;
}

static void TYPE(step_forward)(void *context, int64_t begin, int64_t end) {
    const recurrence *r = context;
    const int64_t *w = r->args->words, n = r->size, t = r->step;
    const int64_t bias_at = r->cell == LSTM ? 4 : 3;
    T *const *out = (T *const *)r->args->buffers;
    const T *last = r->state[t & 1];
    T *kept = out[r->cell == LSTM ? 2 : 1];  // by LSTM and GRU
    T sum[MAX_GATES * TILE_ROWS * UNIT] __attribute__((aligned(64)));
    for (int64_t piece = begin; piece < end; piece++) {
        int64_t u = TYPE(unit_of)(r, piece), from = TYPE(row_of)(r, piece);
        int64_t height = smaller(r->height, r->rows - from);
        int64_t j = u * UNIT, width = TYPE(width)(r, u);
        for (int64_t i = from; i < from + height; i++) {
            TYPE(ask_for)((const T *)r->in[0] + t * w[4] + i * w[5] + j, r->gates, n);
            if (r->cell >= LSTM)
                TYPE(ask_for)(kept + (t * r->rows + i) * 4 * n + j, 4, n);
        }
        for (int64_t g = 0; g < r->gates; g++)
            TYPE(products)[height - 1](
                r->depth, last + from * r->stride, r->stride,
                (const T *)r->panels + (u * r->gates + g) * r->depth * UNIT,
                sum + g * TILE_ROWS * UNIT);
        int64_t old = (t * r->rows + from) * n + j, now = old + r->rows * n;
        const TYPE(rows) at = {
            .height = height, .n = width, .size = n,
            .x = (const T *)r->in[0] + t * w[4] + from * w[5] + j, .x_row = w[5],
            .b = (const T *)r->in[bias_at] + j,
            .h = out[0] + now, .h_old = out[0] + old,
            .c = out[1] + now, .c_old = out[1] + old,
            .kept = kept + (t * r->rows + from) * 4 * n + j,
            .state = (T *)r->state[(t + 1) & 1] + from * r->stride + j,
            .state_row = r->stride};
        if (r->cell == LSTM)
            TYPE(lstm_cells)(&at, sum);
        else if (r->cell == GRU)
            TYPE(gru_cells)(&at, sum);
        else
            TYPE(rnn_cells)(&at, r->cell, sum);
    }
}

// Step t takes the product of the gradients of step t + 1 first; step -1 is that alone.
static void TYPE(step_backward)(void *context, int64_t begin, int64_t end) {
    const recurrence *r = context;
    const int64_t *w = r->args->words, n = r->size, t = r->step;
    T *const *out = (T *const *)r->args->buffers;
    const T *kept = r->in[r->cell == LSTM ? 2 : 1];  // of LSTM and GRU
    T sum[TILE_ROWS * UNIT] __attribute__((aligned(64)));
    for (int64_t piece = begin; piece < end; piece++) {
        int64_t u = TYPE(unit_of)(r, piece), from = TYPE(row_of)(r, piece);
        int64_t height = smaller(r->height, r->rows - from);
        int64_t j = u * UNIT, width = TYPE(width)(r, u);
        for (int64_t i = from; i < from + height && t >= 0; i++) {
            int64_t row = t * r->rows + i;
            TYPE(ask_for)((const T *)r->in[0] + t * w[4] + i * w[5] + j, 1, n);
            TYPE(ask_for)(out[0] + row * r->kept * n + j, r->kept, n);
            if (r->cell >= LSTM) TYPE(ask_for)(kept + row * 4 * n + j, 4, n);
        }
        if (t == r->steps - 1)
            memset(sum, 0, sizeof sum);
        else
            TYPE(products)[height - 1](
                r->depth, (const T *)r->state[(t + 1) & 1] + from * r->stride, r->stride,
                (const T *)r->panels + u * r->depth * UNIT, sum);
        T turned[GATE];
        if (r->cell == LSTM && t >= 0) {
            const T *c = (const T *)r->in[3] + ((t + 1) * r->rows + from) * n + j;
            if (width < UNIT) memset(turned, 0, sizeof turned);
            for (int64_t i = 0; i < height; i++)
                TYPE(put)(turned + i * UNIT, c + i * n, width);
            TYPE(tanhs)(turned, height * UNIT);
        }
        for (int64_t i = from; i < from + height; i++) {
            const T *s = sum + (i - from) * UNIT;
            int64_t row = t * r->rows + i, at = i * n + j;
            if (t < 0) {
                T *gh = out[1] + at;
                for (int64_t k = 0; k < width; k++)
                    gh[k] = r->cell == GRU ? gh[k] + s[k] : s[k];
                continue;
            }
            const T *g = (const T *)r->in[0] + t * w[4] + i * w[5] + j;
            T *gx = out[0] + row * r->kept * n + j;
            T *state = (T *)r->state[t & 1] + i * r->stride + j;
            int64_t old = row * n + j, now = old + r->rows * n;
            if (r->cell == LSTM) {
                const T *c = r->in[3];
                TYPE(lstm_slope)(width, n, g, s, kept + row * 4 * n + j, c + old,
                                 turned + (i - from) * UNIT, out[2] + at, gx, state);
            } else if (r->cell == GRU) {
                TYPE(gru_slope)(width, n, g, s, kept + row * 4 * n + j,
                                (const T *)r->in[2] + old, out[1] + at, gx, state);
            } else {
                const T *h = (const T *)r->in[1] + now;
                TYPE(rnn_slope)(r->cell, width, g, s, h, gx, state);
            }
        }
    }
}

// --- The whole ---------------------------------------------------------------------

// The first state, from h0 and c0.
static void TYPE(begin_forward)(recurrence *r) {
    int64_t count = r->rows * r->size;
    T *const *out = (T *const *)r->args->buffers;
    memcpy(out[0], r->in[1], (size_t)count * sizeof(T));
    if (r->cell == LSTM) memcpy(out[1], r->in[2], (size_t)count * sizeof(T));
    for (int64_t i = 0; i < r->rows; i++)
        memcpy((T *)r->state[0] + i * r->stride, (const T *)r->in[1] + i * r->size,
               (size_t)r->size * sizeof(T));
}

// The gradient that comes to c from outside; what GRU's h carries past the products.
static void TYPE(begin_backward)(recurrence *r) {
    size_t nbytes = (size_t)(r->rows * r->size) * sizeof(T);
    void *const *out = r->args->buffers;
    if (r->cell == LSTM) memcpy(out[2], r->in[1], nbytes);
    if (r->cell == GRU) memset(out[1], 0, nbytes);
}

static void TYPE(run)(recurrence *r, bool is_forward) {
    const pn_args *args = r->args;
    int64_t outputs = is_forward ? (r->cell == LSTM ? 3 : r->cell == GRU ? 2 : 1)
                                 : (r->cell == LSTM ? 3 : 2);
    int64_t inputs = is_forward ? (r->cell == LSTM ? 5 : 4)
                                : (r->cell == LSTM ? 5 : r->cell == GRU ? 4 : 3);
    // words: steps, rows, size, offset of the first input, its strides, other offsets
    for (int64_t k = 0; k < inputs; k++)
        r->in[k] = (const T *)args->buffers[outputs + k] +
                   (k ? args->words[5 + k] : args->words[3]);
    r->depth = is_forward ? r->size : r->gates * r->size;
    r->stride = rounded_up(r->depth, LANES) + LANES;
    r->units = divided_up(r->size, UNIT);
    int64_t panels = r->units * r->gates * r->size * UNIT, state = r->rows * r->stride;
    r->by_unit = is_forward || panels * (int64_t)sizeof(T) > RESIDENT;
    int64_t nbytes = (panels + 2 * state) * (int64_t)sizeof(T);
    T *memory = pn_alloc(nbytes);
    if (!memory) {
        pn_set_fault(args, 0, PN_NO_SCRATCH, 0, 0);
        return;
    }
    r->panels = memory;
    r->state[0] = memory + panels, r->state[1] = memory + panels + state;
    pn_range_fn pack = is_forward ? TYPE(pack_forward) : TYPE(pack_backward);
    pn_parallel_for(r->units, 1, pack, r);
    int64_t pieces = r->units * r->groups;
    int64_t grain = PIECE / (r->height * UNIT * r->gates * r->size) + 1;
    if (is_forward) {
        TYPE(begin_forward)(r);
        for (r->step = 0; r->step < r->steps; r->step++)
            pn_parallel_for(pieces, grain, TYPE(step_forward), r);
    } else {
        TYPE(begin_backward)(r);
        for (r->step = r->steps - 1; r->step >= (r->wants_first ? -1 : 0); r->step--)
            pn_parallel_for(pieces, grain, TYPE(step_backward), r);
    }
    pn_free(memory, nbytes);
}

#undef T
#undef TYPE
#undef FMA
#undef TRANSPOSE
#undef VEC
#undef LOOSE
#undef LANES
#undef UNIT
#undef SPLAT
#undef MICRO
#undef NAMED
#undef SQUARE
#undef GATE
