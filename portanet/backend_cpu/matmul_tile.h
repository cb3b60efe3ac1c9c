// The body of matmul.c for one compute type; included once for each.
//
// Wants T (the type), TYPE(name) (name with the type's suffix), DTYPE (the storage type
// that needs no conversion), LOAD and STORE (convert.h), and FMA(a, b, c) and
// SCALAR_FMA(a, b, c), which are a * b + c on vectors and on scalars.
//
// TILE_ROWS x TILE_COLUMNS results stay in registers while l runs; the constants
// TILE_ROWS, TILE_VECTORS and VECTOR_BYTES are matmul.c's.

typedef T TYPE(vec) __attribute__((vector_size(VECTOR_BYTES)));
typedef T TYPE(loose) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(T))));
#define VEC TYPE(vec)
#define LOOSE TYPE(loose)
#define LANES ((int64_t)(VECTOR_BYTES / sizeof(T)))
#define TILE_COLUMNS (TILE_VECTORS * LANES)
// x - 0 is x for every x, also for -0.
#define SPLAT(x) ((x) - (VEC){0})

// --- The tile in registers ---------------------------------------------------------

// c[i, j] (+)= sum over l < depth of a[i * row_step + l * depth_step] * b[l * b_step + j]
// for i < rows, j < TILE_COLUMNS, of which `height` x `width` are kept.
static inline __attribute__((always_inline)) void TYPE(micro)(
    const int rows, const int64_t row_step, const int64_t depth_step, int64_t depth,
    const T *restrict a, const T *restrict b, int64_t b_step, T *restrict c,
    int64_t c_row, int64_t height, int64_t width, bool add) {
    VEC sum[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < TILE_VECTORS; j++) sum[i][j] = (VEC){0};
    for (int64_t i = 0; i < height; i++)
        for (int64_t j = 0; j < TILE_COLUMNS; j += 64 / (int64_t)sizeof(T))
            __builtin_prefetch(c + i * c_row + j, 1);
    for (int64_t l = 0; l < depth; l++) {
        VEC x[TILE_VECTORS];
#pragma GCC unroll 4
        for (int j = 0; j < TILE_VECTORS; j++) x[j] = *(const LOOSE *)(b + j * LANES);
        if (row_step == 1) {  // columns
            __builtin_prefetch(a + AHEAD * depth_step);
            __builtin_prefetch(a + AHEAD * depth_step + rows - 1);
        }
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            VEC s = SPLAT(a[i * row_step]);
#pragma GCC unroll 4
            for (int j = 0; j < TILE_VECTORS; j++) sum[i][j] = FMA(s, x[j], sum[i][j]);
        }
        a += depth_step;
        b += b_step;
    }
    if (width == TILE_COLUMNS) {
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            if (i >= height) break;
#pragma GCC unroll 4
            for (int j = 0; j < TILE_VECTORS; j++) {
                LOOSE *at = (LOOSE *)(c + i * c_row + j * LANES);
                *at = add ? *at + sum[i][j] : sum[i][j];
            }
        }
        return;
    }
    T kept[TILE_ROWS * TILE_COLUMNS];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < TILE_VECTORS; j++)
            *(LOOSE *)(kept + i * TILE_COLUMNS + j * LANES) = sum[i][j];
    for (int64_t i = 0; i < height; i++)
        for (int64_t j = 0; j < width; j++) {
            T *at = c + i * c_row + j, value = kept[i * TILE_COLUMNS + j];
            *at = add ? *at + value : value;
        }
}

// Panels of a keep the order that a has: rows of DEPTH_STEP elements, or columns, which
// are a_step elements apart.
#define MICRO(ROWS)                                                                    \
    static void TYPE(micro_rows_##ROWS)(                                               \
        int64_t depth, const T *a, int64_t a_step, const T *b, int64_t b_step, T *c,   \
        int64_t c_row, int64_t height, int64_t width, bool add) {                      \
        (void)a_step;                                                                  \
        TYPE(micro)(ROWS, DEPTH_STEP, 1, depth, a, b, b_step, c, c_row, height, width, \
                    add);                                                              \
    }                                                                                  \
    static void TYPE(micro_columns_##ROWS)(                                            \
        int64_t depth, const T *a, int64_t a_step, const T *b, int64_t b_step, T *c,   \
        int64_t c_row, int64_t height, int64_t width, bool add) {                      \
        TYPE(micro)(ROWS, 1, a_step, depth, a, b, b_step, c, c_row, height, width,     \
                    add);                                                              \
    }
#define MICRO_PAIR(ROWS) {TYPE(micro_rows_##ROWS), TYPE(micro_columns_##ROWS)}
EACH_HEIGHT(MICRO, )

typedef void (*TYPE(micro_fn))(int64_t, const T *, int64_t, const T *, int64_t, T *,
                               int64_t, int64_t, int64_t, bool);
// By (rows + 1) / 2 - 1, and by whether the panel is kept in columns.
static const TYPE(micro_fn) TYPE(micros)[][2] = {EACH_HEIGHT(MICRO_PAIR, COMMA)};

// --- Panels ------------------------------------------------------------------------

// Up to TILE_ROWS rows of a from (i, l) on, `depth` columns; zeros below the last row.
static void TYPE(pack_a)(const product *p, const operand *a, int64_t i, int64_t l,
                         int64_t height, int64_t depth, T *panel) {
    int64_t start = a->offset + i * a->row + l * a->column;
    int64_t padded = height + (height & 1);
    if (!p->a_in_columns) {
        for (int64_t r = 0; r < height; r++)
            LOAD(panel + r * DEPTH_STEP, a->data, a->dtype, start + r * a->row, a->column,
                 depth);
        if (padded > height)
            memset(panel + height * DEPTH_STEP, 0, (size_t)depth * sizeof(T));
        return;
    }
    for (int64_t d = 0; d < depth; d++) {
        T *column = panel + d * TILE_ROWS;
        if (a->dtype == DTYPE)
            for (int64_t r = 0; r < height; r++)
                column[r] = ((const T *)a->data)[start + d * a->column + r];
        else
            LOAD(column, a->data, a->dtype, start + d * a->column, 1, height);
        if (padded > height) column[height] = 0;
    }
}

// Panels of `height` rows of a. Columns are taken a few at a time, for all panels, so that
// a cache line that spans two panels is read once. Of those that are read where they lie
// only an odd one, the last, is packed.
static void TYPE(pack_block)(const product *p, const operand *a, int64_t i, int64_t l,
                             int64_t height, int64_t depth, T *panels) {
    int64_t step = p->a_in_columns ? 16 : depth, first = 0;
    if (p->a_direct) first = height & 1 ? height - height % TILE_ROWS : height;
    for (int64_t d = 0; d < depth; d += step)
        for (int64_t r = first; r < height; r += TILE_ROWS)
            TYPE(pack_a)(p, a, i + r, l + d, smaller(height - r, TILE_ROWS),
                         smaller(depth - d, step),
                         panels + r * DEPTH_STEP + d * (p->a_in_columns ? TILE_ROWS : 1));
}

// y[c, r] = x[r, c] for a square of SQUARE elements a side, in three or two rounds that
// each swap blocks of half the size of the round before.
#define SQUARE ((int64_t)(32 / sizeof(T)))
typedef T TYPE(square) __attribute__((vector_size(32), aligned(sizeof(T))));

static inline void TYPE(transpose)(const T *x, int64_t x_row, T *y, int64_t y_row) {
    TYPE(square) v[32 / sizeof(T)];
    for (int64_t r = 0; r < SQUARE; r++) v[r] = *(const TYPE(square) *)(x + r * x_row);
    TRANSPOSE(v);
    for (int64_t r = 0; r < SQUARE; r++) *(TYPE(square) *)(y + r * y_row) = v[r];
}

// `width` columns of b whose elements lie one after the other in l.
static void TYPE(pack_b_turned)(const operand *b, int64_t start, int64_t depth,
                                int64_t width, T *panel) {
    const T *x = (const T *)b->data + start;
    int64_t j = 0;
    for (; j + SQUARE <= width; j += SQUARE) {
        int64_t l = 0;
        for (; l + SQUARE <= depth; l += SQUARE)
            TYPE(transpose)(x + j * b->column + l, b->column,
                            panel + l * TILE_COLUMNS + j, TILE_COLUMNS);
        for (; l < depth; l++)
            for (int64_t c = j; c < j + SQUARE; c++)
                panel[l * TILE_COLUMNS + c] = x[c * b->column + l];
    }
    for (; j < width; j++)
        for (int64_t l = 0; l < depth; l++)
            panel[l * TILE_COLUMNS + j] = x[j * b->column + l];
}

// `depth` rows of b from (l, j) on, `width` columns, zeros up to TILE_COLUMNS.
static void TYPE(pack_b)(const operand *b, int64_t l, int64_t j, int64_t depth,
                         int64_t width, T *panel) {
    int64_t start = b->offset + l * b->row + j * b->column;
    if (b->dtype == DTYPE && b->row == 1 && b->column != 1) {
        TYPE(pack_b_turned)(b, start, depth, width, panel);
    } else if (b->dtype == DTYPE && b->column == 1 && width == TILE_COLUMNS) {
        const T *x = (const T *)b->data + start;
        for (int64_t d = 0; d < depth; d++) {
            for (int64_t c = 0; c < TILE_COLUMNS; c += 64 / (int64_t)sizeof(T))
                __builtin_prefetch(x + (d + AHEAD) * b->row + c);
            memcpy(panel + d * TILE_COLUMNS, x + d * b->row, TILE_COLUMNS * sizeof(T));
        }
    } else if (b->row == 1 && b->column != 1) {
        T line[DEPTH];
        for (int64_t c = 0; c < width; c++) {
            LOAD(line, b->data, b->dtype, start + c * b->column, 1, depth);
            for (int64_t d = 0; d < depth; d++) panel[d * TILE_COLUMNS + c] = line[d];
        }
    } else {
        for (int64_t d = 0; d < depth; d++)
            LOAD(panel + d * TILE_COLUMNS, b->data, b->dtype, start + d * b->row,
                 b->column, width);
    }
    if (width < TILE_COLUMNS)
        for (int64_t d = 0; d < depth; d++)
            for (int64_t c = width; c < TILE_COLUMNS; c++)
                panel[d * TILE_COLUMNS + c] = 0;
}

// --- One tile of the result --------------------------------------------------------

// n results, of which the first has number `at`, as they are or through the epilogue.
static void TYPE(keep)(const product *p, int64_t at, const T *x, int64_t n) {
    if (p->y) STORE(p->y, p->y_dtype, at, x, n);
    if (p->epilogue) PN_EPILOGUE_RUN(p->epilogue, at, 1, n, n, x, n);
}

// Without memory for panels, and without their speed.
static void TYPE(slow_tile)(const product *p, const tile *t) {
    for (int64_t i = t->i; i < t->i + t->height; i++)
        for (int64_t j = t->j; j < t->j + t->width; j++) {
            T sum = 0, x = 0, y = 0;
            for (int64_t l = 0; l < p->k; l++) {
                int64_t at_a = t->a.offset + i * t->a.row + l * t->a.column;
                int64_t at_b = t->b.offset + l * t->b.row + j * t->b.column;
                LOAD(&x, t->a.data, t->a.dtype, at_a, 1, 1);
                LOAD(&y, t->b.data, t->b.dtype, at_b, 1, 1);
                sum = SCALAR_FMA(x, y, sum);
            }
            TYPE(keep)(p, t->y_offset + i * p->n + j, &sum, 1);
        }
}

// Rows [i, i + height) of the tile times the panels of b: every TILE_ROWS rows of a go
// over all panels of b, panel by panel, so that a panel of b stays in L1.
static void TYPE(multiply_panels)(const product *p, const tile *t, int64_t l,
                                  int64_t depth, int64_t j, int64_t width, int64_t i,
                                  int64_t height, const T *a_panels, const T *b_panels,
                                  T *c, int64_t c_row) {
    const T *direct_a = (const T *)t->a.data + t->a.offset + l * t->a.column + i;
    const T *direct_b = (const T *)t->b.data + t->b.offset + l * t->b.row;
    for (int64_t jj = 0; jj < width; jj += TILE_COLUMNS) {
        int64_t w = smaller(width - jj, TILE_COLUMNS);
        bool packed = !p->b_direct || w < TILE_COLUMNS;
        const T *b = packed ? b_panels + jj * depth : direct_b + j + jj;
        int64_t b_step = packed ? TILE_COLUMNS : t->b.row;
        for (int64_t ii = 0; ii < height; ii += TILE_ROWS) {
            int64_t h = smaller(height - ii, TILE_ROWS);
            bool a_packed = !p->a_direct || h & 1;
            const T *a = a_packed ? a_panels + ii * DEPTH_STEP : direct_a + ii;
            int64_t a_step = a_packed ? TILE_ROWS : t->a.column;
            T *at = c + (i - t->i + ii) * c_row + j - t->j + jj;
            TYPE(micros)[(h - 1) / 2][p->a_in_columns](
                depth, a, a_step, b, b_step, at, c_row, h, w, l > 0);
        }
    }
}

static void TYPE(fill_tile)(const product *p, const tile *t, T *a_panels, T *b_panels,
                            T *c, int64_t c_row) {
    for (int64_t jj = 0; jj < t->width; jj += BLOCK_COLUMNS) {
        int64_t j = t->j + jj, width = smaller(t->width - jj, BLOCK_COLUMNS);
        for (int64_t l = 0; l < p->k; l += DEPTH) {
            int64_t depth = smaller(p->k - l, DEPTH);
            for (int64_t x = 0; x < width; x += TILE_COLUMNS) {
                int64_t w = smaller(width - x, TILE_COLUMNS);
                if (!p->b_direct || w < TILE_COLUMNS)
                    TYPE(pack_b)(&t->b, l, j + x, depth, w, b_panels + x * depth);
            }
            bool is_last = p->epilogue && l + depth == p->k;
            int64_t few = EPILOGUE_BYTES / (width * (int64_t)sizeof(T));
            int64_t rows = is_last ? rounded_up(few + 1, TILE_ROWS) : BLOCK_ROWS;
            rows = smaller(rows, BLOCK_ROWS);
            for (int64_t ii = 0; ii < t->height; ii += rows) {
                int64_t i = t->i + ii, height = smaller(t->height - ii, rows);
                TYPE(pack_block)(p, &t->a, i, l, height, depth, a_panels);
                TYPE(multiply_panels)(p, t, l, depth, j, width, i, height, a_panels,
                                      b_panels, c, c_row);
                if (is_last)
                    PN_EPILOGUE_RUN(p->epilogue, t->y_offset + i * p->n + j, height,
                                    width, p->n, c + ii * c_row + jj, c_row);
            }
        }
    }
}

// y[i, j] for the rows and columns of one tile. Sums are kept in y itself where its
// storage type is T, else in a copy of the tile that is converted in the end, or that the
// epilogue reads.
static void TYPE(do_tile)(const product *p, const tile *t) {
    int64_t rows = rounded_up(smaller(t->height, BLOCK_ROWS), TILE_ROWS);
    int64_t columns = rounded_up(smaller(t->width, BLOCK_COLUMNS), TILE_COLUMNS);
    bool in_place = p->y_dtype == DTYPE;
    int64_t a_size = rows * DEPTH_STEP, b_size = columns * smaller(p->k, DEPTH);
    int64_t c_size = in_place ? 0 : t->height * t->width;
    int64_t nbytes = (a_size + b_size + c_size) * (int64_t)sizeof(T);
    T *b_panels = pn_alloc(nbytes);
    if (!b_panels) {
        TYPE(slow_tile)(p, t);
        return;
    }
    T *a_panels = b_panels + b_size, *c = a_panels + a_size;
    int64_t y_start = t->y_offset + t->i * p->n + t->j;
    if (in_place)
        TYPE(fill_tile)(p, t, a_panels, b_panels, (T *)p->y + y_start, p->n);
    else
        TYPE(fill_tile)(p, t, a_panels, b_panels, c, t->width);
    for (int64_t i = 0; i < t->height && !in_place && !p->epilogue; i++)
        STORE(p->y, p->y_dtype, y_start + i * p->n, c + i * t->width, t->width);
    pn_free(b_panels, nbytes);
}

// --- Matrix times vector -----------------------------------------------------------

// y[o] = sum_l x[o, l] * v[l] for one o; x's elements lie one after the other in l.
// Four sums in vectors and, for the rest, one scalar.
static T TYPE(dot)(const operand *x, int64_t start, const T *v, int64_t k) {
    T buffer[DOT_BLOCK], total = 0;
    VEC sum[4] = {{0}};
    for (int64_t l = 0; l < k; l += DOT_BLOCK) {
        int64_t n = smaller(k - l, DOT_BLOCK), d = 0;
        const T *row = (const T *)x->data + start + l;
        if (x->dtype != DTYPE || x->column != 1) {
            LOAD(buffer, x->data, x->dtype, start + l * x->column, x->column, n);
            row = buffer;
        }
        for (; d + 4 * LANES <= n; d += 4 * LANES)
            for (int s = 0; s < 4; s++) {
                VEC a = *(const LOOSE *)(row + d + s * LANES);
                VEC b = *(const LOOSE *)(v + l + d + s * LANES);
                sum[s] = FMA(a, b, sum[s]);
            }
        for (; d < n; d++) total = SCALAR_FMA(row[d], v[l + d], total);
    }
    VEC all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    for (int64_t half = LANES / 2; half; half /= 2)
        for (int64_t s = 0; s < half; s++) all[s] += all[s + half];
    return total + all[0];
}

// sum[o] += x[o] * v[0] + ... + x[o + 7 * step] * v[7], one after the other.
static void TYPE(add_eight)(T *restrict sum, const T *x, int64_t step, const T *v,
                            int64_t n) {
    int64_t o = 0;
    for (; o + LANES <= n; o += LANES) {
        VEC s = *(LOOSE *)(sum + o);
#pragma GCC unroll 8
        for (int r = 0; r < 8; r++)
            s = FMA(*(const LOOSE *)(x + r * step + o), SPLAT(v[r]), s);
        *(LOOSE *)(sum + o) = s;
    }
    for (; o < n; o++)
        for (int r = 0; r < 8; r++) sum[o] = SCALAR_FMA(x[r * step + o], v[r], sum[o]);
}

// sum[o] = sum_l x[o, l] * v[l], column after column of x; n is at most COLUMN_BLOCK, or
// DOT_BLOCK where columns are copied first.
static void TYPE(add_columns)(const operand *x, int64_t start, const T *v, int64_t k,
                              T *sum, int64_t n) {
    T buffer[8 * DOT_BLOCK];
    bool direct = x->dtype == DTYPE && x->row == 1;
    memset(sum, 0, (size_t)n * sizeof(T));
    for (int64_t l = 0; l < k; l += 8) {
        int64_t count = smaller(k - l, 8), at = start + l * x->column;
        const T *columns = direct ? (const T *)x->data + at : buffer;
        int64_t step = direct ? x->column : DOT_BLOCK;
        for (int64_t c = 0; c < count && !direct; c++)
            LOAD(buffer + c * step, x->data, x->dtype, at + c * x->column, x->row, n);
        if (count == 8) {
            TYPE(add_eight)(sum, columns, step, v + l, n);
            continue;
        }
        for (int64_t c = 0; c < count; c++)
            for (int64_t o = 0; o < n; o++)
                sum[o] = SCALAR_FMA(columns[c * step + o], v[l + c], sum[o]);
    }
}

// Results [begin, end) of one product of a matrix (t->a) with a vector (t->b's column).
static void TYPE(do_vector)(const product *p, const tile *t, int64_t begin, int64_t end) {
    const operand *x = &t->a, *b = &t->b;
    const T *v = (const T *)b->data + b->offset;
    T *copy = NULL, sum[COLUMN_BLOCK];
    bool long_columns = !p->dots && x->dtype == DTYPE && x->row == 1;
    int64_t block = long_columns ? COLUMN_BLOCK : DOT_BLOCK;
    if (b->dtype != DTYPE || (b->row != 1 && p->k > 1)) {
        copy = pn_alloc(p->k * (int64_t)sizeof(T));
        if (!copy) {
            tile slow = *t;
            slow.i = begin, slow.height = end - begin, slow.j = 0, slow.width = 1;
            TYPE(slow_tile)(p, &slow);
            return;
        }
        LOAD(copy, b->data, b->dtype, b->offset, b->row, p->k);
        v = copy;
    }
    for (int64_t o = begin; o < end; o += block) {
        int64_t n = smaller(end - o, block), start = x->offset + o * x->row;
        if (p->dots)
            for (int64_t c = 0; c < n; c++)
                sum[c] = TYPE(dot)(x, start + c * x->row, v, p->k);
        else
            TYPE(add_columns)(x, start, v, p->k, sum, n);
        TYPE(keep)(p, t->y_offset + o, sum, n);
    }
    if (copy) pn_free(copy, p->k * (int64_t)sizeof(T));
}

#undef T
#undef TYPE
#undef DTYPE
#undef LOAD
#undef STORE
#undef FMA
#undef SCALAR_FMA
#undef TRANSPOSE
#undef VEC
#undef LOOSE
#undef LANES
#undef TILE_COLUMNS
#undef SPLAT
#undef MICRO
#undef MICRO_PAIR
#undef SQUARE
