// y[b, i, j] = sum over l of a[b, i, l] * x[b, l, j]; y contiguous, a and x strided.
// (x is called b where no batch is meant.)
//
// words: splits, chunk, batch, m, n, k, batch_rank, a_offset, a_row, a_column, b_offset,
//        b_row, b_column, batch_shape[], a_batch_strides[], b_batch_strides[]
//
// Split s sums l in [s chunk, min((s + 1) chunk, k)) into a partial result of its own,
// partial[s, b, i, j]; `combine` adds those, s ascending. So the order of every sum is set
// by the sizes.
//
// tile: a block makes PN_BM x PN_BN of y (tile.cuh). mma: the same by tensor cores, for
// elements of 2 bytes, and TF32 if that is asked for (mma.cuh). wgmma: Hopper's way for 2
// bytes (wgmma.cuh). each: a thread an element of y. dots: a warp an element, for long sums
// that are few.
//
// A text holds one entry, PN_STEP_name. What becomes of sums: keep.cuh.
#include "tile.cuh"
#include "keep.cuh"
#if defined(PN_STEP_mma)
#include "mma.cuh"
#elif defined(PN_STEP_wgmma)
#include "wgmma.cuh"
#endif

typedef PN_INDEX index_t;

struct Batch {
    index_t a, b;  // offsets
};
PN_DEVICE Batch batch_at(const pn_words &P, unsigned number) {
    const int rank = (int)P[6];
    Batch at = {(index_t)P[7], (index_t)P[10]};
#pragma unroll 1
    for (int d = rank; d > 0; d--) {
        const unsigned size = (unsigned)P[12 + d], rest = number / size;
        const index_t i = (index_t)(number - rest * size);
        at.a += i * (index_t)P[12 + rank + d];
        at.b += i * (index_t)P[12 + 2 * rank + d];
        number = rest;
    }
    return at;
}

#if defined(PN_STEP_tile) || defined(PN_STEP_mma)
// Rows of a, or columns of b: element (i, l) is at data[i outer + l inner]. Rows past the
// last are the last again; nobody stores their products.
template <class S, int N, bool IS_ALONG_L> struct Matrix {
    typedef pn_pack<S, N> Pack;
    typedef index_t Start;
    static constexpr int VECTOR = N;
    static constexpr bool ALONG_L = IS_ALONG_L;
    const S *data;
    index_t outer, inner;
    int size, end;

    PN_MEMBER index_t start(int i) const {
        if (i >= size) i = size - VECTOR_ACROSS;
        return (index_t)i * (VECTOR_ACROSS > 1 ? 1 : outer);
    }
    PN_MEMBER void load(index_t at, int l, Pack &pack) const {
        if (l < end) {
            const index_t step = ALONG_L && N > 1 ? 1 : inner;
            pack = *(const Pack *)(data + at + (index_t)l * step);
        } else {
#pragma unroll
            for (int v = 0; v < N; v++) pack.at[v] = S{};
        }
    }
    // The element (i, l), or the last i's; N neighbours from there on are inside.
    PN_MEMBER const S *at(int i, int l) const {
        if (l >= end) return data;
        return data + start(i) + (index_t)l * (ALONG_L && N > 1 ? 1 : inner);
    }
    static constexpr int VECTOR_ACROSS = ALONG_L ? 1 : N;
};

#endif
#if defined(PN_STEP_tile) || defined(PN_STEP_mma) || defined(PN_STEP_wgmma)
// Blocks that run at the same time share rows and columns: bands of 8 tiles down.
PN_DEVICE void place_of(unsigned tile, unsigned down, unsigned across, int &i, int &j) {
    const unsigned band = tile / (8 * across), first = band * 8;
    const unsigned height = down - first < 8 ? down - first : 8;
    const unsigned rest = tile - band * 8 * across;
    i = (int)(first + rest % height) * PN_BM;
    j = (int)(rest / height) * PN_BN;
}

#endif
#if defined(PN_STEP_tile) || defined(PN_STEP_mma)
// What a block works on.
struct Part {
    unsigned which;  // of the splits and batches
    int row, column, m, n, begin, end;
    Batch at;
};
PN_DEVICE Part part_of(const pn_words &P, unsigned block) {
    const unsigned down = (unsigned)((P[3] + PN_BM - 1) / PN_BM);
    const unsigned across = (unsigned)((P[4] + PN_BN - 1) / PN_BN);
    Part p;
    p.which = block / (down * across);
    const unsigned split = p.which / (unsigned)P[2];
    place_of(block - p.which * down * across, down, across, p.row, p.column);
    p.at = batch_at(P, p.which - split * (unsigned)P[2]);
    p.m = (int)P[3], p.n = (int)P[4];
    p.begin = (int)((long long)split * P[1]);
    p.end = p.begin + P[1] < P[5] ? p.begin + (int)P[1] : (int)P[5];
    return p;
}
// The same after the sums: with an epilogue there are no registers to keep it in.
PN_DEVICE Part again(const pn_words &P, const Part &p) {
#if defined(PN_EPILOGUE)
    unsigned block = blockIdx.x;
    asm volatile("" : "+r"(block));
    return part_of(P, block);
#else
    return p;
#endif
}
#endif

#if defined(PN_STEP_tile)
typedef pn_tile<T, PN_BM, PN_BN, PN_BK, PN_TM, PN_TN> Tile;
PN_ENTRY(tile, PN_BM / PN_TM * (PN_BN / PN_TN), PN_BLOCKS)
(PN_RESULTS, const PN_X0 *__restrict__ a, const PN_X1 *__restrict__ b PN_FURTHER, PN_P P) {
    const Part p = part_of(P, blockIdx.x);
    const Matrix<PN_X0, PN_A_VECTOR, PN_A_ALONG_L> rows = {
        a + p.at.a, (index_t)P[8], (index_t)P[9], p.m, p.end};
    const Matrix<PN_X1, PN_B_VECTOR, PN_B_ALONG_L> columns = {
        b + p.at.b, (index_t)P[12], (index_t)P[11], p.n, p.end};
    T sums[PN_TM][PN_TN];
    Tile::multiply(rows, columns, p.row, p.column, p.begin, p.end, sums);
    const Part q = again(P, p);
#pragma unroll
    for (int r = 0; r < PN_TM; r++) {
        const int i = q.row + Tile::row(r);
        if (i >= q.m) continue;
        const long long row = (long long)q.which * q.m + i;
#pragma unroll
        for (int c = 0; c < PN_TN; c += PN_Y_VECTOR) {
            const int j = q.column + Tile::column(c);
            if (j >= q.n) continue;
            PN_KEEP_SOME(PN_Y_VECTOR, row * q.n + j, row, j, sums[r] + c);
        }
    }
}
PN_EXPORT(tile)
#endif

#if defined(PN_STEP_mma)
typedef pn_mma_tile<PN_X0, PN_BM, PN_BN, PN_WM, PN_WN, PN_STAGES, PN_A_ALONG_L, PN_B_ALONG_L>
    Tile;
static_assert(PN_SHARED_BYTES == PN_STAGES * Tile::STAGE, "matmul.py knows the bytes");
PN_ENTRY(mma, PN_BM / PN_WM * (PN_BN / PN_WN) * 32, PN_BLOCKS)
(PN_RESULTS, const PN_X0 *__restrict__ a, const PN_X1 *__restrict__ b PN_FURTHER, PN_P P) {
    PN_DYNAMIC_SHARED(uint4, shared);
    const Part p = part_of(P, blockIdx.x);
    const Matrix<PN_X0, PN_A_VECTOR, PN_A_ALONG_L> rows = {
        a + p.at.a, (index_t)P[8], (index_t)P[9], p.m, p.end};
    const Matrix<PN_X1, PN_B_VECTOR, PN_B_ALONG_L> columns = {
        b + p.at.b, (index_t)P[12], (index_t)P[11], p.n, p.end};
    float sums[PN_WM / 16][PN_WN / 8][4];
    Tile::multiply<(PN_A_VECTOR > 1), (PN_B_VECTOR > 1)>(
        (char *)shared, rows, columns, p.row, p.column, p.begin, p.end, sums);
    const Part q = again(P, p);
#pragma unroll
    for (int r = 0; r < PN_WM / 16; r++)
#pragma unroll
        for (int c = 0; c < PN_WN / 8; c++)
#pragma unroll
            for (int e = 0; e < 4; e += PN_Y_VECTOR) {
                const int i = q.row + Tile::row(r, e), j = q.column + Tile::column(c, e);
                if (i >= q.m || j >= q.n) continue;
                const long long row = (long long)q.which * q.m + i;
                PN_KEEP_SOME(PN_Y_VECTOR, row * q.n + j, row, j, sums[r][c] + e);
            }
}
PN_EXPORT(mma)
#endif

#if defined(PN_STEP_wgmma)
// words: batch, m, n, k, then 1 of a and of b if they have batches. A block makes tiles of
// 128 x PN_BN, blockIdx.x, blockIdx.x + gridDim.x, ...; each of its two warpgroups that
// multiply makes 64 rows. `full` of a stage: its slices have come. `empty`: all 8 warps
// have read them. y, a and b are tensors for the TMA: neighbours, rows, batches.
typedef pn_boxes<128, PN_A_ALONG_L> ASlice;
typedef pn_boxes<PN_BN, PN_B_ALONG_L> BSlice;
static constexpr int STAGE = ASlice::BYTES + BSlice::BYTES, RESULT = PN_BN * 128;
static_assert(PN_SHARED_BYTES >= PN_STAGES * (STAGE + 16) + 2 * RESULT, "matmul.py knows");

// Calls work(row, column, batch) for each tile of this block.
template <class Work> PN_DEVICE void each_tile(const pn_words &P, Work work) {
    const unsigned down = (unsigned)((P[1] + 127) / 128);
    const unsigned across = (unsigned)((P[2] + PN_BN - 1) / PN_BN);
    for (unsigned tile = blockIdx.x; tile < down * across * (unsigned)P[0]; tile += gridDim.x) {
        const unsigned batch = tile / (down * across);
        int row, column;
        place_of(tile - batch * down * across, down, across, row, column);
        work(row, column, (int)batch);
    }
}

// The sums of a warpgroup, 64 x PN_BN, to y, through shared memory.
PN_DEVICE void store_sums(const pn_tensor_map &y, char *result, float (&sums)[PN_BN / 2],
                          int group, int row, int column, int batch) {
    const int thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
    if (thread == 0) pn_taken();  // the result before this one
    pn_group_barrier(group);
    const int line = warp * 16 + lane % 16;
#pragma unroll
    for (int c = 0; c < PN_BN / 16; c++) {
        unsigned words[4];
#pragma unroll
        for (int w = 0; w < 4; w++) {
            pn_pack<PN_Y0, 2> made;
            pn_convert(&made.at[0], sums[8 * c + 2 * w]);
            pn_convert(&made.at[1], sums[8 * c + 2 * w + 1]);
            words[w] = made.at[0].bits | (unsigned)made.at[1].bits << 16;
        }
        const int piece = (2 * c + lane / 16) % 8;
        pn_store_rows(result + c / 4 * 8192 + line * 128 + (piece ^ line % 8) * 16, words);
    }
    pn_show_to_tma();
    pn_group_barrier(group);
    if (thread) return;
#pragma unroll
    for (int c = 0; c < PN_BN / 64; c++)
        pn_take(y, result + c * 8192, column + c * 64, row + group * 64, batch);
    pn_take_commit();
}

PN_ENTRY(wgmma, 384, 1)(PN_MAP y, PN_MAP a, PN_MAP b, PN_P P) {
    PN_DYNAMIC_SHARED(pn_lines, shared);
    char *const stages = (char *)shared, *const results = stages + PN_STAGES * STAGE;
    pn_phases *const full = (pn_phases *)(results + 2 * RESULT), *const empty = full + PN_STAGES;
    if (threadIdx.x == 0) {
        for (int s = 0; s < PN_STAGES; s++) pn_init(full + s, 1), pn_init(empty + s, 8);
        pn_init_done();
    }
    __syncthreads();
    const int k = (int)P[3];
    int stage = 0;
    unsigned parity = 0;  // of the stage's phase that is under way
    auto next = [&] {
        if (++stage == PN_STAGES) stage = 0, parity ^= 1;
    };
    if (threadIdx.x < 128) {
        pn_registers<40>();
        if (threadIdx.x) return;
        each_tile(P, [&](int row, int column, int batch) {
            for (int l = 0; l < k; l += 64, next()) {
                char *const slices = stages + stage * STAGE;
                pn_await(empty + stage, parity ^ 1);
                pn_expect(full + stage, STAGE);
                ASlice::bring(slices, a, full + stage, row, l, batch * (int)P[4]);
                BSlice::bring(slices + ASlice::BYTES, b, full + stage, column, l,
                              batch * (int)P[5]);
            }
        });
        return;
    }
    pn_registers<232>();
    const int group = threadIdx.x / 128 - 1;
    char *const result = results + group * RESULT;
    float sums[PN_BN / 2] = {};
    each_tile(P, [&](int row, int column, int batch) {
        int before = -1;
        for (int l = 0; l < k; l += 64, next()) {
            const char *const slices = stages + stage * STAGE;
            pn_await(full + stage, parity);
            pn_wgmma_fence();
#pragma unroll
            for (int q = 0; q < 4; q++)
                pn_wgmma<PN_A_ALONG_L, PN_B_ALONG_L>(
                    sums, ASlice::matrix(slices, group * 64, q),
                    BSlice::matrix(slices + ASlice::BYTES, 0, q), q > 0 || l > 0);
            pn_wgmma_commit();
            pn_wgmma_all_but_one();  // the stage before has been read
            if (before >= 0 && threadIdx.x % 32 == 0) pn_arrive(empty + before);
            before = stage;
        }
        pn_wgmma_all(sums);
        if (threadIdx.x % 32 == 0) pn_arrive(empty + before);
        store_sums(y, result, sums, group, row, column, batch);
    });
    if (threadIdx.x % 128 == 0) pn_taken();
}
PN_EXPORT(wgmma)
#endif

// sum + a[i] * b[j]
PN_DEVICE T plus(T sum, const PN_X0 *a, index_t i, const PN_X1 *b, index_t j) {
    return pn_fma((T)pn_load(a, i), (T)pn_load(b, j), sum);
}

#if defined(PN_STEP_each)
PN_ENTRY(each, 128)
(PN_RESULTS, const PN_X0 *__restrict__ a, const PN_X1 *__restrict__ b PN_FURTHER, PN_P P) {
    const unsigned m = (unsigned)P[3], n = (unsigned)P[4], batches = (unsigned)P[2];
    const long long o = (long long)blockIdx.x * 128 + threadIdx.x;
    if (o >= P[0] * batches * m * n) return;
    const unsigned row = (unsigned)(o / n), j = (unsigned)(o % n);
    const unsigned which = row / m, i = row - which * m;
    const unsigned split = which / batches;
    const Batch at = batch_at(P, which - split * batches);
    const long long begin = (long long)split * P[1];
    const int count = (int)((begin + P[1] < P[5] ? begin + P[1] : P[5]) - begin);
    const index_t a_step = (index_t)P[9], b_step = (index_t)P[11];
    index_t left = at.a + (index_t)i * (index_t)P[8] + (index_t)begin * a_step;
    index_t top = at.b + (index_t)j * (index_t)P[12] + (index_t)begin * b_step;
    T sums[4] = {};  // four chains, so that loads and sums overlap
    int l = 0;
    for (; l + 4 <= count; l += 4) {
#pragma unroll
        for (int u = 0; u < 4; u++)
            sums[u] = plus(sums[u], a, left + u * a_step, b, top + u * b_step);
        left += 4 * a_step;
        top += 4 * b_step;
    }
    for (; l < count; l++, left += a_step, top += b_step)
        sums[0] = plus(sums[0], a, left, b, top);
    PN_KEEP(o, row, j, (sums[0] + sums[1]) + (sums[2] + sums[3]));
}
PN_EXPORT(each)
#endif

#if defined(PN_STEP_dots)
// The four warps of a block take neighbouring elements. PN_VECTOR neighbours along l a load.
PN_ENTRY(dots, 128)
(PN_RESULTS, const PN_X0 *__restrict__ a, const PN_X1 *__restrict__ b PN_FURTHER, PN_P P) {
    const unsigned m = (unsigned)P[3], n = (unsigned)P[4], batches = (unsigned)P[2];
    const long long o = (long long)blockIdx.x * 4 + threadIdx.x / 32;
    if (o >= P[0] * batches * m * n) return;  // the whole warp
    const unsigned row = (unsigned)(o / n), j = (unsigned)(o % n);
    const unsigned which = row / m, i = row - which * m;
    const unsigned split = which / batches;
    const Batch at = batch_at(P, which - split * batches);
    const int begin = (int)((long long)split * P[1]);
    const int end = begin + P[1] < P[5] ? begin + (int)P[1] : (int)P[5];
    const index_t a_step = (index_t)P[9], b_step = (index_t)P[11];
    const PN_X0 *left = a + at.a + (index_t)i * (index_t)P[8];
    const PN_X1 *top = b + at.b + (index_t)j * (index_t)P[12];
    T sums[PN_VECTOR] = {};
#pragma unroll 4
    for (int l = begin + threadIdx.x % 32 * PN_VECTOR; l < end; l += 32 * PN_VECTOR) {
#if PN_VECTOR > 1
        const pn_pack<PN_X0, PN_VECTOR> u = *(const pn_pack<PN_X0, PN_VECTOR> *)(left + l);
        const pn_pack<PN_X1, PN_VECTOR> v = *(const pn_pack<PN_X1, PN_VECTOR> *)(top + l);
#pragma unroll
        for (int e = 0; e < PN_VECTOR; e++)
            sums[e] = pn_fma((T)pn_value(u.at[e]), (T)pn_value(v.at[e]), sums[e]);
#else
        sums[0] = plus(sums[0], left, (index_t)l * a_step, top, (index_t)l * b_step);
#endif
    }
    T sum = 0;
#pragma unroll
    for (int e = 0; e < PN_VECTOR; e++) sum += sums[e];
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        sum += __shfl_down_sync(0xffffffffu, sum, distance);
    if (threadIdx.x % 32 == 0) PN_KEEP(o, row, j, sum);
}
PN_EXPORT(dots)
#endif
