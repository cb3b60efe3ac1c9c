// y[i] = expression(x0[i], x1[i], ...): interprets bytecode over blocks in L1.
//
// words: n, then the offset of each operand, shape[rank], then strides[rank] of each
// operand of mode "v" (portanet/program.py). The bytecode is that of vm.h, by lower.py.
// Each operation is a plain loop over one block; contiguous operands whose storage type
// is what they compute in are read and written in place. A thread takes whole blocks.
#include <math.h>
#include <string.h>

#include "scalar.h"
#include "storage.h"
#include "epilogue.h"
#include "row_results.h"

#undef bool  // bool names a type of portanet here, one byte that is 0 or 1
enum { MAX_RANK = 64, LOCAL_BYTES = 40960 };

typedef uint8_t type_bool;
typedef int32_t type_int32;
typedef uint32_t type_uint32;
typedef int64_t type_int64;
typedef float type_float32;
typedef double type_float64;

#define UNUSED __attribute__((unused))
#define OPERATION(name)                                                              \
    static void op_##name(const pn_block *block, void *out, UNUSED const void *a,    \
                          UNUSED const void *b, UNUSED const void *c)

// ---- Plain loops

#define MAP1(name, from, to, value)                                                  \
    OPERATION(name) {                                                                \
        int64_t n = block->n;                                                        \
        const type_##from *xs = a;                                                   \
        type_##to *o = out;                                                          \
        PN_LOOP for (int64_t i = 0; i < n; i++) {                                    \
            type_##from x = xs[i];                                                   \
            o[i] = (type_##to)(value);                                               \
        }                                                                            \
    }
#define MAP2(name, from, to, xi, yi, value)                                          \
    OPERATION(name) {                                                                \
        int64_t n = block->n;                                                        \
        const type_##from *xs = a, *ys = b;                                          \
        UNUSED const type_##from x0 = *xs, y0 = *ys;                                   \
        type_##to *o = out;                                                          \
        PN_LOOP for (int64_t i = 0; i < n; i++) {                                    \
            type_##from x = xi, y = yi;                                              \
            o[i] = (type_##to)(value);                                               \
        }                                                                            \
    }
#define UNARY(name, type, value) MAP1(name##_##type, type, type, value)
#define BOUNDED(name, type, bound, value, other)                                     \
    UNARY(name##_quick, type, value)                                                 \
    OPERATION(name##_##type) {                                                       \
        int64_t n = block->n;                                                        \
        const type_##type *xs = a;                                                   \
        type_##type *o = out;                                                        \
        int is_beyond = 0;                                                           \
        for (int64_t i = 0; i < n; i++) is_beyond |= fabs(xs[i]) > bound;            \
        if (!is_beyond) {                                                            \
            op_##name##_quick_##type(block, out, a, b, c);                           \
            return;                                                                  \
        }                                                                            \
        for (int64_t i = 0; i < n; i++) {                                            \
            type_##type x = xs[i];                                                   \
            o[i] = fabs(x) > bound ? other : value;                                  \
        }                                                                            \
    }
#define TEST(name, type, value) MAP1(name##_##type, type, bool, value)
#define PLAIN(name, type, value) MAP2(name##_##type, type, type, xs[i], ys[i], value)
#define BINARY(name, type, value)                                                    \
    MAP2(name##_##type, type, type, xs[i], ys[i], value)                             \
    MAP2(name##_##type##_vs, type, type, xs[i], y0, value)                           \
    MAP2(name##_##type##_sv, type, type, x0, ys[i], value)
#define MAP3(name, xi, yi, zi, value)                                                \
    OPERATION(name) {                                                                \
        int64_t n = block->n;                                                        \
        const float *xs = a, *ys = b, *zs = c;                                       \
        UNUSED const float x0 = *xs, y0 = *ys, z0 = *zs;                             \
        float *o = out;                                                              \
        PN_LOOP for (int64_t i = 0; i < n; i++) {                                    \
            float x = xi, y = yi, z = zi;                                            \
            o[i] = value;                                                            \
        }                                                                            \
    }
#define TWO(name, value)                                                             \
    MAP3(name##_vvv, xs[i], ys[i], zs[i], value)                                     \
    MAP3(name##_vvs, xs[i], ys[i], z0, value)                                        \
    MAP3(name##_vsv, xs[i], y0, zs[i], value)                                        \
    MAP3(name##_vss, xs[i], y0, z0, value)                                           \
    MAP3(name##_svv, x0, ys[i], zs[i], value)                                        \
    MAP3(name##_svs, x0, ys[i], z0, value)
#define COMPARE(name, type, value)                                                   \
    MAP2(name##_##type, type, bool, xs[i], ys[i], value)                             \
    MAP2(name##_##type##_vs, type, bool, xs[i], y0, value)                           \
    MAP2(name##_##type##_sv, type, bool, x0, ys[i], value)
#define CAST(from, to, value) MAP1(cast_##from##_##to, from, to, value)

#define SELECT(name, type, yi, zi)                                                   \
    OPERATION(name) {                                                                \
        int64_t n = block->n;                                                        \
        const uint8_t *xs = a;                                                       \
        const type_##type *ys = b, *zs = c;                                          \
        UNUSED const type_##type y0 = *ys, z0 = *zs;                                   \
        type_##type *o = out;                                                        \
        PN_LOOP for (int64_t i = 0; i < n; i++) {                                    \
            type_##type y = yi, z = zi;                                              \
            o[i] = xs[i] ? y : z;                                                    \
        }                                                                            \
    }
#define WHERE(type)                                                                  \
    SELECT(where_##type, type, ys[i], zs[i])                                         \
    SELECT(where_##type##_vvs, type, ys[i], z0)                                      \
    SELECT(where_##type##_vsv, type, y0, zs[i])                                      \
    SELECT(where_##type##_vss, type, y0, z0)

#define INDEX(name, type, ...)                                                       \
    OPERATION(name##_##type) {                                                       \
        int64_t n = block->n, first = block->first;                                  \
        type_##type *o = out;                                                        \
        for (int64_t i = 0; i < n; i++) o[i] = (type_##type)(first + i);             \
    }

#define ROW_INDEX(name, type, ...)                                                   \
    OPERATION(name##_##type) {                                                       \
        int64_t n = block->n, row = block->row;                                      \
        type_##type *o = out;                                                        \
        for (int64_t r = 0; r < n; r += row)                                         \
            for (int64_t i = 0; i < row; i++) o[r + i] = (type_##type)i;             \
    }

// ---- Rows

#define ROW(name, type, which)                                                       \
    OPERATION(name##_##type) {                                                       \
        int64_t n = block->n, row = block->row;                                      \
        const type_##type *xs = a;                                                   \
        type_##type *o = out;                                                        \
        for (int64_t r = 0; r < n; r += row)                                         \
            *o++ = PN_PASTE(which##_, c_##type)(xs + r, row);                        \
    }
#define c_float32 float
#define c_float64 double

// ---- Checked loops: the quick pass only notes that something is wrong

#define CHECKED(from, to)                                                            \
    OPERATION(cast_checked_##from##_##to) {                                          \
        int64_t n = block->n;                                                        \
        const type_##from *xs = a;                                                   \
        int is_bad = 0;                                                              \
        for (int64_t i = 0; i < n; i++) is_bad |= xs[i] != xs[i];                    \
        for (int64_t i = 0; is_bad && i < n; i++)                                    \
            if (xs[i] != xs[i]) {                                                    \
                pn_set_fault(block->args, block->first + i, PN_NAN_TO_INTEGER, 0, 0); \
                break;                                                               \
            }                                                                        \
        op_cast_##from##_##to(block, out, a, b, c);                                  \
    }

#define WRAP(name, type, ...)                                                        \
    OPERATION(name##_##type) {                                                       \
        int64_t n = block->n;                                                        \
        const type_##type *xs = a, *ys = b;                                          \
        type_##type *o = out;                                                        \
        int is_bad = 0;                                                              \
        for (int64_t i = 0; i < n; i++) {                                            \
            int64_t x = xs[i], size = ys[i];                                         \
            is_bad |= x < -size || x >= size;                                        \
        }                                                                            \
        for (int64_t i = 0; is_bad && i < n; i++)                                    \
            if (xs[i] < -(int64_t)ys[i] || (int64_t)xs[i] >= (int64_t)ys[i]) {       \
                pn_set_fault(block->args, block->first + i, PN_INDEX_OUT_OF_RANGE,   \
                             (int64_t)xs[i], (int64_t)ys[i]);                        \
                break;                                                               \
            }                                                                        \
        PN_LOOP for (int64_t i = 0; i < n; i++) {                                    \
            int64_t x = xs[i], size = ys[i];                                         \
            o[i] = (type_##type)(x < 0 ? x + size : x);                              \
        }                                                                            \
    }

// ---- Loads and stores

// A walk through a strided view in row-major order, a row (or what is left of it) a
// step.
typedef struct {
    int64_t index[MAX_RANK], offset;
} walk;

static void walk_to(walk *w, const pn_view *view, int64_t position) {
    w->offset = 0;
    for (int d = view->rank - 1; d >= 0; d--) {
        int64_t size = view->shape[d], row = position / size;
        w->index[d] = position - row * size;
        w->offset += w->index[d] * view->strides[d];
        position = row;
    }
}

static inline int64_t walk_row(const walk *w, const pn_view *view, int64_t most) {
    int64_t left = view->shape[view->rank - 1] - w->index[view->rank - 1];
    return left < most ? left : most;
}

static inline void walk_on(walk *w, const pn_view *view, int64_t count) {
    int d = view->rank - 1;
    w->index[d] += count;
    w->offset += count * view->strides[d];
    for (; d > 0 && w->index[d] == view->shape[d]; d--) {
        w->offset += view->strides[d - 1] - w->index[d] * view->strides[d];
        w->index[d] = 0;
        w->index[d - 1]++;
    }
}

// load and store are of contiguous operands; gather and spread of strided ones.
#define STORAGE(type, stored, computed, from, to)                                    \
    OPERATION(load_##type) {                                                         \
        int64_t n = block->n;                                                        \
        const stored *xs = a;                                                        \
        computed *restrict o = out;                                                  \
        for (int64_t i = 0; i < n; i++) {                                            \
            stored x = xs[i];                                                        \
            o[i] = from;                                                             \
        }                                                                            \
    }                                                                                \
    OPERATION(store_##type) {                                                        \
        int64_t n = block->n;                                                        \
        const computed *xs = a;                                                      \
        stored *restrict o = out;                                                    \
        for (int64_t i = 0; i < n; i++) {                                            \
            computed x = xs[i];                                                      \
            o[i] = (stored)(to);                                                     \
        }                                                                            \
    }                                                                                \
    OPERATION(gather_##type) {                                                       \
        const pn_view *view = a;                                                     \
        int64_t n = block->n, stride = view->strides[view->rank - 1], row;           \
        computed *restrict o = out;                                                  \
        walk w;                                                                      \
        walk_to(&w, view, block->first);                                             \
        for (; n > 0; n -= row, o += row, walk_on(&w, view, row)) {                  \
            const stored *xs = (const stored *)view->base + w.offset;                \
            row = walk_row(&w, view, n);                                             \
            if (stride == 1) {                                                       \
                for (int64_t i = 0; i < row; i++) {                                  \
                    stored x = xs[i];                                                \
                    o[i] = from;                                                     \
                }                                                                    \
            } else if (stride == 0) {                                                \
                stored x = *xs;                                                      \
                computed y = from;                                                   \
                for (int64_t i = 0; i < row; i++) o[i] = y;                          \
            } else {                                                                 \
                for (int64_t i = 0; i < row; i++) {                                  \
                    stored x = xs[i * stride];                                       \
                    o[i] = from;                                                     \
                }                                                                    \
            }                                                                        \
        }                                                                            \
    }                                                                                \
    OPERATION(spread_##type) {                                                       \
        const pn_view *view = out;                                                   \
        int64_t n = block->n, stride = view->strides[view->rank - 1], row;           \
        const computed *xs = a;                                                      \
        walk w;                                                                      \
        walk_to(&w, view, block->first);                                             \
        for (; n > 0; n -= row, xs += row, walk_on(&w, view, row)) {                 \
            stored *o = (stored *)view->base + w.offset;                             \
            row = walk_row(&w, view, n);                                             \
            for (int64_t i = 0; i < row; i++) {                                      \
                computed x = xs[i];                                                  \
                o[i * stride] = (stored)(to);                                        \
            }                                                                        \
        }                                                                            \
    }
#define FILL(width, word)                                                            \
    OPERATION(fill_##width) {                                                        \
        int64_t n = block->n;                                                        \
        word x = *(const word *)a, *o = out;                                         \
        for (int64_t i = 0; i < n; i++) o[i] = x;                                    \
    }
// Each of the elements, which are of rows, for all of its row.
#define EXPAND(width, word)                                                          \
    OPERATION(expand_##width) {                                                      \
        int64_t n = block->n, row = block->row;                                      \
        const word *xs = a;                                                          \
        word *o = out;                                                               \
        for (int64_t r = 0; r < n; r += row, xs++) {                                 \
            word x = *xs;                                                            \
            for (int64_t i = 0; i < row; i++) o[r + i] = x;                          \
        }                                                                            \
    }
#include "operations.h"

// ---- The table

#define UNARY(name, type, ...) ENTRY(name##_##type, #name "." #type)
#define TEST UNARY
#define BOUNDED UNARY
#define PLAIN UNARY
#define BINARY(name, type, ...)                                                      \
    ENTRY(name##_##type, #name "." #type)                                            \
    ENTRY(name##_##type##_vs, #name "." #type ".vs")                                 \
    ENTRY(name##_##type##_sv, #name "." #type ".sv")
#define TWO(name, ...)                                                               \
    ENTRY(name##_vvv, #name ".float32.vvv")                                          \
    ENTRY(name##_vvs, #name ".float32.vvs")                                          \
    ENTRY(name##_vsv, #name ".float32.vsv")                                          \
    ENTRY(name##_vss, #name ".float32.vss")                                          \
    ENTRY(name##_svv, #name ".float32.svv")                                          \
    ENTRY(name##_svs, #name ".float32.svs")
#define COMPARE BINARY
#define CAST(from, to, ...) ENTRY(cast_##from##_##to, "cast." #from "." #to)
#define CHECKED(from, to)                                                            \
    ENTRY(cast_checked_##from##_##to, "cast_checked." #from "." #to)
#define WHERE(type)                                                                  \
    ENTRY(where_##type, "where." #type)                                              \
    ENTRY(where_##type##_vvs, "where." #type ".vvs")                                 \
    ENTRY(where_##type##_vsv, "where." #type ".vsv")                                 \
    ENTRY(where_##type##_vss, "where." #type ".vss")
#define INDEX(name, type, ...) UNARY(name, type)
#define ROW_INDEX(name, type, ...) UNARY(name, type)
#define ROW(name, type, ...) UNARY(name, type)
#define WRAP(name, type, ...) UNARY(name, type)
#define STORAGE(type, ...)                                                           \
    ENTRY(load_##type, "load." #type)                                                \
    ENTRY(store_##type, "store." #type)                                              \
    ENTRY(gather_##type, "gather." #type)                                            \
    ENTRY(spread_##type, "spread." #type)
#define FILL(width, word) ENTRY(fill_##width, "fill." #width)
#define EXPAND(width, word) ENTRY(expand_##width, "expand." #width)
#define ENTRY(function, name) {op_##function, name},
static const struct {
    pn_op function;
    const char *name;
} table[] = {
#include "operations.h"
};

const char *PN_LEVELED(pn_op_name)(int number);
const char *PN_LEVELED(pn_op_name)(int number) {
    return number < (int)(sizeof table / sizeof *table) ? table[number].name : NULL;
}

// ---- The interpreter

static const int8_t ITEMSIZE[] = {1, 1, 4, 4, 8, 2, 2, 4, 8};  // as in pn.h's enum

// `rows` times `width` elements, `step` apart, from the first on. Of an epilogue or a
// producer, `result` is the first's, and those of each row are `result_step` behind those of
// the one before.
typedef struct {
    int64_t first, rows, width, step;
    const char *result;
    int64_t result_step;
} area;

static void resolve(const pn_job *j, void **slots, char *registers, int64_t block,
                    int64_t *uniforms) {
    const pn_code *code = j->code;
    for (int s = 0; s < code->header.slots; s++) {
        int value = code->slots[s].value;
        switch (code->slots[s].kind) {
            case PN_SLOT_REGISTER: slots[s] = registers + value * block; break;
            case PN_SLOT_CONSTANT: slots[s] = (void *)(code->constants + value); break;
            case PN_SLOT_UNIFORM: slots[s] = uniforms + value; break;
            case PN_SLOT_SCALAR: slots[s] = j->bases[value]; break;
            case PN_SLOT_VIEW: slots[s] = (void *)(j->views + value); break;
            default: break;
        }
    }
}

// Bytes from row to row of the operand whose byte of by_rows this is.
static int64_t row_step(uint32_t byte, int64_t row) {
    int64_t size = byte & 15;
    return byte & PN_FIXED ? 0 : byte & PN_ONE_FOR_A_ROW ? size : size * row;
}

static void run_by_rows(const pn_instruction *i, const pn_block *block, void *const *slots) {
    pn_block one = {block->row, block->first, block->row, block->args};
    char *out = slots[i->out];
    const char *a = slots[i->a], *b = slots[i->b], *c = slots[i->c];
    for (int64_t r = 0; r < block->n; r += block->row) {
        table[i->op].function(&one, out, a, b, c);
        out += row_step(i->by_rows & 255, block->row);
        a += row_step(i->by_rows >> 8 & 255, block->row);
        b += row_step(i->by_rows >> 16 & 255, block->row);
        c += row_step(i->by_rows >> 24, block->row);
    }
}

static inline void run(const pn_instruction *first, int count, const pn_block *block,
                       void *const *slots) {
    pn_block rows = {block->n / block->row, block->first / block->row, 1, block->args};
    for (const pn_instruction *i = first; i < first + count; i++) {
        if (i->by_rows) {
            run_by_rows(i, block, slots);
            continue;
        }
        table[i->op & ~PN_PER_ROW].function(i->op & PN_PER_ROW ? &rows : block,
                                            slots[i->out], slots[i->a], slots[i->b],
                                            slots[i->c]);
    }
}

// Blocks of `most` elements; registers have room for `size`.
static void run_blocks(const pn_job *j, const area *all, int64_t most, int64_t size,
                       char *scratch) {
    const pn_header *header = &j->code->header;
    int64_t *uniforms = (int64_t *)(scratch + header->register_bytes * size);
    void **slots = (void **)(uniforms + header->uniforms);
    const pn_instruction *prologue = j->code->instructions;
    const pn_instruction *fills = prologue + header->prologue;
    const pn_instruction *body = fills + header->fills;
    pn_block block = {1, all->first, j->row, j->args};
    resolve(j, slots, scratch, size, uniforms);
    run(prologue, header->prologue, &block, slots);
    block.n = most;
    run(fills, header->fills, &block, slots);
    for (int64_t r = 0; r < all->rows; r++) {
        int64_t begin = all->first + r * all->step, end = begin + all->width;
        const char *result = all->result + r * all->result_step;
        for (block.first = begin; block.first < end; block.first += block.n) {
            block.n = most < end - block.first ? most : end - block.first;
            for (int s = 0; s < header->moving; s++) {
                int k = j->code->slots[s].value, kind = j->code->slots[s].kind;
                int64_t at = kind == PN_SLOT_ROW ? block.first / j->row : block.first;
                slots[s] = j->bases[k] + at * ITEMSIZE[j->args->dtypes[k]];
            }
            if (header->result >= 0)
                slots[header->result] =
                    (void *)(result + (block.first - begin) * ITEMSIZE[header->dtype]);
            run(body, header->body, &block, slots);
        }
    }
}

static void run_area(const pn_job *j, const area *all) {
    const pn_header *header = &j->code->header;
    _Alignas(64) char local[LOCAL_BYTES];
    int64_t most = header->block;
    if (j->row > 1) most = most > j->row ? most / j->row * j->row : j->row;
    if (all->width < most) most = all->width;
    int64_t size = (most + 63) & ~(int64_t)63;
    int64_t nbytes = 8 * (header->uniforms + header->slots);
    nbytes += header->register_bytes * size;
    if (nbytes <= LOCAL_BYTES) {
        run_blocks(j, all, most, size, local);
        return;
    }
    char *scratch = pn_alloc(nbytes);
    if (!scratch) {
        pn_set_fault(j->args, all->first, PN_NO_SCRATCH, nbytes, 0);
        return;
    }
    run_blocks(j, all, most, size, scratch);
    pn_free(scratch, nbytes);
}

static void run_range(void *context, int64_t begin, int64_t end) {
    run_area(context, &(area){begin, 1, end - begin, 0, NULL, 0});
}

static void run_rows(void *context, int64_t begin, int64_t end) {
    const pn_job *j = context;
    run_range(context, begin * j->row, end * j->row);
}

// The job of a launch whose words of elementwise work are these.
static void prepare(pn_job *j, const pn_args *args, const int64_t *words) {
    j->args = args, j->code = args->code;
    const pn_header *header = &j->code->header;
    int rank = header->rank;
    const int64_t *shape = words + 1 + header->operands, *strides = shape + rank;
    for (int k = 0; k < header->operands; k++) {
        int64_t offset = words[1 + k] * ITEMSIZE[args->dtypes[k]];
        j->bases[k] = (char *)args->buffers[k] + offset;
        if (!(header->strided >> k & 1)) continue;
        j->views[k] = (pn_view){j->bases[k], shape, strides, rank};
        strides += rank;
    }
    j->row = header->has_rows ? *strides : 1;
}

void PN_KERNEL(elementwise)(const pn_args *args);
void PN_KERNEL(elementwise)(const pn_args *args) {
    pn_job j;
    const pn_code *code = args->code;
    int64_t n = args->words[0], grain = code->header.grain;
    if (n == 0) return;
    prepare(&j, args, args->words);
    if (n <= grain) run_range(&j, 0, n);
    else if (j.row > 1) pn_parallel_for(n / j.row, grain / j.row + 1, run_rows, &j);
    else pn_parallel_for(n, grain, run_range, &j);
}

// ---- Epilogues and producers

void PN_EPILOGUE_BEGIN(pn_epilogue *e, const pn_args *args, const int64_t *words) {
    const pn_header *header = &((const pn_code *)args->code)->header;
    e->args = *args, e->args.buffers = e->buffers, e->args.dtypes = e->dtypes;
    int result = header->outputs;
    for (int k = 0; k < header->operands; k++) {
        // The kernel's two inputs stand where the epilogue has its result.
        int from = k > result ? k + 1 : k;
        e->buffers[k] = args->buffers[from], e->dtypes[k] = args->dtypes[from];
    }
    e->dtypes[result] = header->dtype;
    prepare(&e->job, &e->args, words);
    e->held = header->holder >= 0 ? e->job.bases[header->holder] : NULL;
}

void PN_PRODUCER_BEGIN(pn_epilogue *e, const pn_args *args, const int64_t *words) {
    const pn_header *header = &((const pn_code *)args->code)->header;
    e->args = *args, e->args.buffers = e->buffers, e->args.dtypes = e->dtypes;
    for (int k = 0; k < header->operands; k++)
        e->buffers[k] = args->buffers[k], e->dtypes[k] = args->dtypes[k];
    e->dtypes[0] = header->dtype;
    prepare(&e->job, &e->args, words);
    e->held = NULL;
}

void PN_EPILOGUE_RUN(const pn_epilogue *e, int64_t first, int64_t rows, int64_t width,
                     int64_t step, const void *result, int64_t result_step) {
    int64_t itemsize = ITEMSIZE[e->job.code->header.dtype];
    if (step == width && result_step == width) width *= rows, rows = 1;
    run_area(&e->job, &(area){first, rows, width, step, result, result_step * itemsize});
}
