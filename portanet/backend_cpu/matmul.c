// y[b, i, j] = sum_l a[b, i, l] * x[b, l, j]  (x is called b where no batch is meant)
//
// The result is cut into tiles, the unit that threads share; each tile runs through l in
// blocks of DEPTH, in order, so no sum depends on the tiles or on who does them. Inside,
// after Goto & van de Geijn, "Anatomy of high-performance matrix multiplication" (ACM TOMS
// 34, 2008): panels of b of TILE_COLUMNS columns and panels of a of TILE_ROWS rows are
// packed, and TILE_ROWS x TILE_COLUMNS sums stay in registers. Panels of a keep the order
// that a has, rows or columns, so packing a never transposes; columns are mostly read where
// they lie. Products with a vector read the matrix once, in its own order. Integers wrap;
// they compute as unsigned. An epilogue runs over each block of rows when the last block of
// l has been added to it.
//
// words: batch, m, n, k, batch_rank, a_offset, a_row, a_column, b_offset, b_row, b_column,
//        batch_shape[], a_batch_strides[], b_batch_strides[]
#include <stdlib.h>
#include "convert.h"
#include "epilogue.h"
#include "vectors.h"

// Sums must fit the registers beside TILE_VECTORS of b and one broadcast: 32 registers of
// 64 bytes, 16 of 32, 16 of 16, 32 of 16. The blocks of a (BLOCK_ROWS x DEPTH) take half
// of L2 (1 MiB where there is AVX-512, 256 KiB elsewhere).
#define COMMA ,
#if defined(__AVX512F__)
#define TILE_ROWS 14
#define TILE_VECTORS 2
#define EACH_HEIGHT(F, S) F(2) S F(4) S F(6) S F(8) S F(10) S F(12) S F(14)
#define BLOCK_ROWS ((int64_t)24 * TILE_ROWS)
#elif defined(__AVX2__) && defined(__FMA__)
#define TILE_ROWS 6
#define TILE_VECTORS 2
#define EACH_HEIGHT(F, S) F(2) S F(4) S F(6)
#define BLOCK_ROWS ((int64_t)16 * TILE_ROWS)
#elif defined(__aarch64__)
#define TILE_ROWS 8
#define TILE_VECTORS 3
#define EACH_HEIGHT(F, S) F(2) S F(4) S F(6) S F(8)
#define BLOCK_ROWS ((int64_t)16 * TILE_ROWS)
#else
#define TILE_ROWS 4
#define TILE_VECTORS 2
#define EACH_HEIGHT(F, S) F(2) S F(4)
#define BLOCK_ROWS ((int64_t)24 * TILE_ROWS)
#endif

#define DEPTH ((int64_t)384)        // a panel of b, 384 x 32 float32, streams from L2
#define DEPTH_STEP (DEPTH + 8)      // rows of a panel of a start in different cache sets
#define BLOCK_COLUMNS ((int64_t)2048)  // 3 MiB of float32 panels of b, for L3
// Of a block of results that an epilogue reads again, beside what it reads and writes. GPT's
// step is 3% faster with 64 to 256 KiB than without epilogues, 5% slower with 1 MiB (1 MiB
// of L2).
#define EPILOGUE_BYTES ((int64_t)1 << 17)
#define DOT_BLOCK ((int64_t)512)       // elements converted at a time
#define COLUMN_BLOCK ((int64_t)2048)   // sums kept in L1 while columns stream by
// Up to so many rows, reading b in place is cheaper than packing it.
#define DIRECT_ROWS ((int64_t)4 * TILE_ROWS)
// Columns so far apart, or a multiple of it, share one set of L1 and a few of L2: those of
// a panel push each other out before they are read again, for the next panel of b. Up to
// so many columns of b that costs less than packing a.
#define SAME_SET ((int64_t)4096)
#define FEW_COLUMNS ((int64_t)256)
// Lines of a cache that are asked for before they are wanted: rows and columns that are
// read in place are often a page apart, which no cache foresees.
#define AHEAD ((int64_t)32)
// A piece of work worth a thread, in multiply-adds: about 10 us of one core.
#define PIECE ((int64_t)1 << 19)
// Worth a tile more than one for each thread, so that a thread that is late is helped: about
// 600 us. Each tile packs for itself: with four of 100 us LSTM's products take 4% longer.
#define LONG_PIECE ((int64_t)1 << 25)
#define MOST_TILES ((int64_t)4)  // for each thread
// The same for products with a vector, which memory bounds.
#define VECTOR_PIECE ((int64_t)1 << 15)
#define SMALLEST_TILE ((int64_t)64)
// A narrower tile takes the time of one so wide.
#define NARROWEST ((int64_t)32)

typedef struct {
    const void *data;
    int dtype;
    int64_t offset, row, column;
} operand;

typedef struct {
    operand a, b;
    void *y;
    int y_dtype, compute;  // `compute` is the storage type that sums need no conversion to
    const pn_epilogue *epilogue;  // NULL without
    int64_t batch, m, n, k, rank;
    const int64_t *shape, *a_strides, *b_strides;
    int64_t tiles_down, tiles_across;
    bool a_in_columns;  // panels of a hold columns, because a's columns are contiguous
    bool a_direct;      // and are read where they lie
    bool b_direct;      // full panels of b are read where they lie
    bool dots;          // for a vector: rows of the matrix are contiguous, not columns
} product;

// A part of one product of the batch.
typedef struct {
    operand a, b;
    int64_t y_offset, i, j, height, width;
} tile;


PN_DEFINE_LOAD(load_f32, float)
PN_DEFINE_STORE(store_f32, float)
PN_DEFINE_LOAD(load_f64, double)
PN_DEFINE_STORE(store_f64, double)
PN_DEFINE_LOAD(load_u32, uint32_t)
PN_DEFINE_STORE(store_u32, uint32_t)
PN_DEFINE_LOAD(load_u64, uint64_t)
PN_DEFINE_STORE(store_u64, uint64_t)

#define T float
#define TYPE(name) name##_f32
#define DTYPE PN_FLOAT32
#define LOAD load_f32
#define STORE store_f32
#define FMA FMA_F32
#define SCALAR_FMA SCALAR_FMA_F32
#define TRANSPOSE TRANSPOSE_8X8
#include "matmul_tile.h"

#define T double
#define TYPE(name) name##_f64
#define DTYPE PN_FLOAT64
#define LOAD load_f64
#define STORE store_f64
#define FMA FMA_F64
#define SCALAR_FMA SCALAR_FMA_F64
#define TRANSPOSE TRANSPOSE_4X4
#include "matmul_tile.h"

#define T uint32_t
#define TYPE(name) name##_u32
#define DTYPE PN_UINT32
#define LOAD load_u32
#define STORE store_u32
#define FMA PLAIN_FMA
#define SCALAR_FMA PLAIN_FMA
#define TRANSPOSE TRANSPOSE_8X8
#include "matmul_tile.h"

#define T uint64_t
#define TYPE(name) name##_u64
#define DTYPE PN_INT64
#define LOAD load_u64
#define STORE store_u64
#define FMA PLAIN_FMA
#define SCALAR_FMA PLAIN_FMA
#define TRANSPOSE TRANSPOSE_4X4
#include "matmul_tile.h"

enum { NOWHERE = -1 };  // in place of a storage type: sums have no memory of the result's

// --- Tiles and batches -------------------------------------------------------------

// The operands' offsets in product number `b` of the batch.
static tile at_batch(const product *p, int64_t b) {
    tile t = {.a = p->a, .b = p->b, .y_offset = b * p->m * p->n};
    for (int64_t d = p->rank - 1; d >= 0; d--) {
        int64_t i = b % p->shape[d];
        b /= p->shape[d];
        t.a.offset += i * p->a_strides[d];
        t.b.offset += i * p->b_strides[d];
    }
    return t;
}

// Where tile number `tile` of `tiles` begins along a side of n: at a multiple of `unit`, so
// that no two tiles differ by more than a unit.
static int64_t side(int64_t n, int64_t unit, int64_t tile, int64_t tiles) {
    return smaller(n, divided_up(n, unit) * tile / tiles * unit);
}

static void do_tiles(void *context, int64_t begin, int64_t end) {
    const product *p = context;
    int64_t each = p->tiles_down * p->tiles_across;
    for (int64_t n = begin; n < end; n++) {
        tile t = at_batch(p, n / each);
        int64_t down = n % each / p->tiles_across, across = n % p->tiles_across;
        t.i = side(p->m, TILE_ROWS, down, p->tiles_down);
        t.j = side(p->n, NARROWEST, across, p->tiles_across);
        t.height = side(p->m, TILE_ROWS, down + 1, p->tiles_down) - t.i;
        t.width = side(p->n, NARROWEST, across + 1, p->tiles_across) - t.j;
        switch (p->compute) {
        case PN_FLOAT64: do_tile_f64(p, &t); break;
        case PN_INT64: do_tile_u64(p, &t); break;
        case PN_UINT32: do_tile_u32(p, &t); break;
        default: do_tile_f32(p, &t);
        }
    }
}

// Whether panels of a are read where they lie, for a tile so wide.
static bool reads_in_place(const product *p, int64_t width) {
    return p->a_in_columns && p->a.dtype == p->compute &&
           (width <= FEW_COLUMNS ||
            p->a.column * pn_itemsize(p->compute) % SAME_SET != 0);
}

// Tiles of about equal size, a few for each thread where the work is enough: of the ways to
// cut so many, the one that copies least, as each tile packs its rows of a and its columns
// of b. One that is converted at the end, or that an epilogue reads, has a bounded copy.
static void cut(product *p) {
    int64_t threads = pn_num_threads();
    int64_t work = p->batch * p->m * rounded_up(p->n, NARROWEST) * p->k;
    int64_t wanted = larger(threads, smaller(work / LONG_PIECE, MOST_TILES * threads));
    wanted = threads == 1 ? 1 : larger(1, smaller(wanted, work / PIECE));
    wanted = divided_up(wanted, p->batch);
    bool in_place = p->y_dtype == p->compute;
    int64_t few_down = in_place ? 1 : divided_up(p->m, BLOCK_ROWS);
    int64_t few_across = in_place ? 1 : divided_up(p->n, BLOCK_COLUMNS);
    int64_t most_down = larger(few_down, smaller(wanted, p->m / SMALLEST_TILE));
    int64_t most_across = larger(few_across, smaller(wanted, p->n / SMALLEST_TILE));
    int64_t most = 0, least = INT64_MAX;
    for (int64_t down = few_down; down <= most_down; down++) {
        int64_t across = larger(few_across, smaller(divided_up(wanted, down), most_across));
        int64_t tiles = smaller(wanted, down * across);
        int64_t copies_of_a = reads_in_place(p, p->n / across) ? 0 : across;
        int64_t cost = down * p->n + copies_of_a * p->m;
        if (tiles < most || (tiles == most && cost >= least)) continue;
        most = tiles, least = cost;
        p->tiles_down = down, p->tiles_across = across;
    }
}

// Batches that differ in rows of a only are one product with more rows.
static void fold_batches(product *p) {
    while (p->rank > 0) {
        int64_t last = p->rank - 1, size = p->shape[last];
        if (p->m == 1) p->a.row = p->a_strides[last];
        bool is_tail = p->b_strides[last] == 0 && p->a_strides[last] == p->m * p->a.row;
        if (size != 1 && !is_tail) return;
        p->m *= size;
        p->batch /= size;
        p->rank--;
    }
}

// --- Vectors -----------------------------------------------------------------------

static void do_vectors(void *context, int64_t begin, int64_t end) {
    const product *p = context;
    while (begin < end) {
        int64_t b = begin / p->m, from = begin % p->m;
        int64_t to = smaller(p->m, from + end - begin);
        tile t = at_batch(p, b);
        switch (p->compute) {
        case PN_FLOAT64: do_vector_f64(p, &t, from, to); break;
        case PN_INT64: do_vector_u64(p, &t, from, to); break;
        case PN_UINT32: do_vector_u32(p, &t, from, to); break;
        default: do_vector_f32(p, &t, from, to);
        }
        begin += to - from;
    }
}

// A row vector times a matrix is the transposed matrix times a column vector.
static void turn(product *p) {
    operand a = p->a;
    p->a = (operand){p->b.data, p->b.dtype, p->b.offset, p->b.column, p->b.row};
    p->b = (operand){a.data, a.dtype, a.offset, a.column, a.row};
    const int64_t *strides = p->a_strides;
    p->a_strides = p->b_strides, p->b_strides = strides;
    p->m = p->n, p->n = 1;
}

static int compute_type(int dtype) {
    switch (dtype) {
    case PN_FLOAT64: case PN_INT64: return dtype;
    case PN_INT32: case PN_UINT32: case PN_UINT8: return PN_UINT32;
    default: return PN_FLOAT32;
    }
}

// int32 has the bits of uint32, and needs no conversion to it.
static int storage_type(int dtype, int compute) {
    return compute == PN_UINT32 && dtype == PN_INT32 ? PN_UINT32 : dtype;
}

static product read_words(const pn_args *args, pn_epilogue *epilogue) {
    const pn_header *header = pn_epilogue_of(args);
    const int64_t *w = args->words, rank = w[4];
    int outputs = header ? header->outputs : 1;
    void *const *x = args->buffers + outputs;
    const int *dtypes = args->dtypes + outputs;
    int made = header ? header->dtype : args->dtypes[0], compute = compute_type(made);
    product p = {
        .a = {x[0], storage_type(dtypes[0], compute), w[5], w[6], w[7]},
        .b = {x[1], storage_type(dtypes[1], compute), w[8], w[9], w[10]},
        .y = args->buffers[0], .y_dtype = storage_type(made, compute),
        .compute = compute, .batch = w[0], .m = w[1], .n = w[2], .k = w[3], .rank = rank,
        .shape = w + 11, .a_strides = w + 11 + rank, .b_strides = w + 11 + 2 * rank};
    if (header) {
        PN_EPILOGUE_BEGIN(epilogue, args, w + 11 + 3 * rank);
        p.epilogue = epilogue, p.y = epilogue->held;
        if (!p.y) p.y_dtype = NOWHERE;
    }
    return p;
}

void PN_KERNEL(matmul)(const pn_args *args) {
    pn_epilogue epilogue;
    product p = read_words(args, &epilogue);
    int64_t count = p.batch * p.m * p.n;
    if (count == 0) return;
    if (p.k == 0) {
        memset(p.y, 0, (size_t)(count * pn_itemsize(args->dtypes[0])));
        return;
    }
    fold_batches(&p);
    if (p.m == 1 && p.n > 1) turn(&p);
    if (p.n == 1) {
        p.dots = p.m == 1 || llabs(p.a.column) <= llabs(p.a.row);
        pn_parallel_for(p.batch * p.m, VECTOR_PIECE / p.k + 1, do_vectors, &p);
        return;
    }
    p.a_in_columns = p.a.row == 1 && p.a.column != 1;
    cut(&p);
    int64_t width = divided_up(p.n, p.tiles_across);
    p.a_direct = reads_in_place(&p, width);
    p.b_direct = p.b.column == 1 && p.b.dtype == p.compute && p.m <= DIRECT_ROWS;
    int64_t height = divided_up(p.m, p.tiles_down);
    int64_t grain = PIECE / (height * rounded_up(width, NARROWEST) * p.k) + 1;
    pn_parallel_for(p.batch * p.tiles_down * p.tiles_across, grain, do_tiles, &p);
}
