// Attention of 16-bit types by tensor cores: the entries of attention.cu, whose formulas say
// what they compute, for rows of at most 128 columns.
//
// A warp has MT times 16 rows of the block's OWN rows of one side; the block goes over the
// other side OTHER rows at a time, of which there are two stages in shared memory: while one
// is multiplied, the next is on its way, so there is one barrier a stage. Scores stay in
// registers: the sums of a product lie as the next product's factor a does. For that, `keys`
// makes the scores' transpose, rows of keys by columns of queries (FlashAttention-2: Dao,
// 2023; its backward pass adds up dq by atomics, here it has an entry of its own, so that the
// bits are the same each time). Exponentials are powers of 2. Weights and ds are rounded to
// 16 bits, what is summed is float32.
#include "mma.cuh"

#define THREADS (PN_WARPS * 32)
#define MT PN_MT
#define OTHER PN_OTHER
#define OWN (PN_WARPS * MT * 16)
#define NT (OTHER / 8)
#define WIDTH PN_WIDTH    // of q and k, rounded up to a multiple of 16
#define VALUES PN_VALUES  // of v and dy
#define LOG2E 1.44269504f
#define LN2 0.69314718f

#if defined(PN_SIMULATED)
PN_DEVICE float pn_exp2(float x) { return exp2f(x); }
#else
PN_DEVICE float pn_exp2(float x) {
    float y;  // at most 2 units off, 0 below 2^-126
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
#endif

// Rows of a matrix in shared memory: 8 that are read at once lie in different banks.
template <int COLUMNS> constexpr int PITCH = COLUMNS + 8;
#define OWN_SIZE(COLUMNS) (OWN * PITCH<COLUMNS>)
#define OTHER_SIZE(COLUMNS) (OTHER * PITCH<COLUMNS>)
#define STAGE (OTHER_SIZE(WIDTH) + OTHER_SIZE(VALUES))

// Starts to copy rows [first, first + N), zeros outside.
template <int N, int COLUMNS> PN_DEVICE void load(S *to, const Rows &m, int first) {
    // Threads lie ROWS x ACROSS; those that are left over have nothing to do.
    constexpr int ACROSS = COLUMNS / 8, ROWS = THREADS / ACROSS;
    const int c = threadIdx.x % ACROSS * 8;
    int row = threadIdx.x / ACROSS;
    const S *from = m.x + (first + row) * m.step + c;
    S *at = to + row * PITCH<COLUMNS> + c;
#pragma unroll
    for (int q = 0; q < (N + ROWS - 1) / ROWS; q++) {
        const bool is_there = first + row < m.rows;
        if ((THREADS % ACROSS == 0 || threadIdx.x < ROWS * ACROSS) && (N % ROWS == 0 || row < N)) {
#if PN_WHOLE
            pn_copy_async(at, from, is_there && c < m.width);
#else
            pn_pack<S, 8> made;
#pragma unroll
            for (int e = 0; e < 8; e++) made.at[e] = is_there && c + e < m.width ? from[e] : S{};
            *(pn_pack<S, 8> *)at = made;
#endif
        }
        row += ROWS, from += ROWS * m.step, at += ROWS * PITCH<COLUMNS>;
    }
}

// Of s[m][n][e]: the row of the own side, and the column in the tile of the other.
PN_DEVICE int row_of(int m, int e) {
    return threadIdx.x / 32 * MT * 16 + m * 16 + threadIdx.x % 32 / 4 + e / 2 * 8;
}
PN_DEVICE int column_of(int n, int e) { return n * 8 + threadIdx.x % 4 * 2 + e % 2; }

// sums[m][n] += left[m] by the first half of `top`, sums[m][n + 1] by the second.
template <int N>
PN_DEVICE void add_pair(float (&sums)[MT][N][4], int n, const unsigned (&left)[MT][4],
                        const unsigned (&top)[4]) {
    const unsigned first[2] = {top[0], top[1]}, second[2] = {top[2], top[3]};
#pragma unroll
    for (int m = 0; m < MT; m++) {
        pn_mma<S>(sums[m][n], left[m], first);
        pn_mma<S>(sums[m][n + 1], left[m], second);
    }
}

// s = own other^T.
template <int COLUMNS>
PN_DEVICE void multiply(const S *own, const S *other, float (&s)[MT][NT][4]) {
    own += threadIdx.x / 32 * (MT * 16 * PITCH<COLUMNS>);
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) s[m][n][e] = 0;
#pragma unroll
    for (int k = 0; k < COLUMNS; k += 16) {
        unsigned left[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++)
            pn_fragments<S, PITCH<COLUMNS>, true>(own, m * 16, k, true, left[m]);
#pragma unroll
        for (int n = 0; n < NT; n += 2) {
            unsigned top[4];
            pn_fragments<S, PITCH<COLUMNS>, true>(other, n * 8, k, false, top);
            add_pair(s, n, left, top);
        }
    }
}

// sums += w other.
template <int COLUMNS>
PN_DEVICE void add(const float (&w)[MT][NT][4], const S *other,
                   float (&sums)[MT][COLUMNS / 8][4]) {
#pragma unroll
    for (int n = 0; n < NT; n += 2) {
        unsigned left[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                left[m][e] = pn_two<S>(w[m][n + e / 2][e % 2 * 2], w[m][n + e / 2][e % 2 * 2 + 1]);
#pragma unroll
        for (int c = 0; c < COLUMNS / 8; c += 2) {
            unsigned top[4];
            pn_fragments<S, PITCH<COLUMNS>, false>(other, c * 8, n * 8, false, top);
            add_pair(sums, c, left, top);
        }
    }
}

// Writes a warp's sums, times `factor` of each row, into rows that lie by length, then head.
template <int COLUMNS>
PN_DEVICE void store(S *y, int b, int h, int heads, int first, int rows, int width,
                     const float (&sums)[MT][COLUMNS / 8][4], const float (&factor)[MT][2]) {
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = first + row_of(m, 2 * half);
            if (row >= rows) continue;
            S *to = y + (((long long)b * rows + row) * heads + h) * width;
#pragma unroll
            for (int c = 0; c < COLUMNS / 8; c++) {
                const int column = column_of(c, 0);
                const float low = sums[m][c][2 * half] * factor[m][half];
                const float high = sums[m][c][2 * half + 1] * factor[m][half];
#if PN_WHOLE
                if (column < width) *(unsigned *)(to + column) = pn_two<S>(low, high);
#else
                if (column < width) pn_convert(to + column, low);
                if (column + 1 < width) pn_convert(to + column + 1, high);
#endif
            }
        }
}

// Scales scores (PN_SCALES; else that is a part of the exponential), and masks them; `own` and
// `other` are the first rows of both sides, OF_KEYS says that the own side is that of keys.
// IS_EDGE: some may not be seen.
template <bool OF_KEYS>
PN_DEVICE void filter(const Filter &f, float scale, bool is_edge, int own, int other,
                      float (&s)[MT][NT][4]) {
#pragma unroll
    for (int m = 0; PN_SCALES && m < MT; m++)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) s[m][n][e] *= scale;
    if (!PN_MASK && !is_edge) return;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int row = own + row_of(m, e), column = other + column_of(n, e);
                const int i = OF_KEYS ? column : row, j = OF_KEYS ? row : column;
                s[m][n][e] = f.is_seen(i, j) ? f.masked(s[m][n][e], LOG2E, i, j) : LOWEST;
            }
}

#if PN_DROPS
// What dropout multiplies four weights by, whose first one is at query i and key j. Four keys
// have one block of random words, which lanes share: each draws one of those that they need.
template <bool OF_KEYS>
PN_DEVICE void factors(const Filter &f, int i, int j, float (&factor)[4]) {
    const int lane = threadIdx.x % 32;
    unsigned word[4];
    if (OF_KEYS) {  // lane r of 4 (4 lanes apart) draws for the element r of all, r = j % 4
        const int r = lane / 4 % 4;
        const uint4 w = f.drawn(i + r % 2, j / 4 + r / 2 * 2);
        word[0] = w.x, word[1] = w.y, word[2] = w.z, word[3] = w.w;
#pragma unroll
        for (int d = 1; d < 4; d *= 2)  // and they turn the square of words
#pragma unroll
            for (int k = 0; k < 4; k++) {
                if (k & d) continue;
                const bool is_upper = r & d;
                const unsigned got =
                    __shfl_xor_sync(ALL, is_upper ? word[k] : word[k + d], 4 * d);
                if (is_upper)
                    word[k] = got;
                else
                    word[k + d] = got;
            }
    } else {  // of two lanes, one draws for row i, one for row i + 8
        const bool is_odd = lane % 2;
        const uint4 w = f.drawn(i + is_odd * 8, j / 4);
        const unsigned first = __shfl_xor_sync(ALL, is_odd ? w.x : w.z, 1);
        const unsigned second = __shfl_xor_sync(ALL, is_odd ? w.y : w.w, 1);
        word[0] = is_odd ? first : w.x, word[1] = is_odd ? second : w.y;
        word[2] = is_odd ? w.z : first, word[3] = is_odd ? w.w : second;
    }
#pragma unroll
    for (int e = 0; e < 4; e++) factor[e] = f.kept(word[e]);
}
#else
template <bool OF_KEYS>
PN_DEVICE void factors(const Filter &, int, int, float (&factor)[4]) {
#pragma unroll
    for (int e = 0; e < 4; e++) factor[e] = 1;
}
#endif

#if defined(PN_STEP_forward)
template <bool MOST> PN_DEVICE float of_lanes(float x) {
#pragma unroll
    for (int distance = 1; distance < 4; distance *= 2) {
        const float other = __shfl_xor_sync(ALL, x, distance);
        x = MOST ? fmaxf(x, other) : x + other;
    }
    return x;
}

PN_ENTRY(forward, THREADS, PN_BLOCKS)
(S *y, float *lse AFTER_PARAMETER, const S *q, const S *k, const S *v MASK_PARAMETER STATE_PARAMETER,
 PN_P P) {
    PN_DYNAMIC_SHARED(uint4, shared);
    S *const own = (S *)shared, *const stages = own + OWN_SIZE(WIDTH);
    const int heads = (int)P[1], queries = (int)P[3], keys = (int)P[4];
    const int tiles = (queries + OWN - 1) / OWN;
    const int head = blockIdx.x / tiles, first = (tiles - 1 - blockIdx.x % tiles) * OWN;
    const int b = head / heads, h = head % heads, g = h / (heads / (int)P[2]);
    const Rows key_rows = rows_of(k, P, 20, b, g, keys, (int)P[5]);
    const Rows value_rows = rows_of(v, P, 24, b, g, keys, (int)P[6]);
    const Filter f{P, b, h, queries, keys, P[7] != 0 MASK_GIVEN STATE_GIVEN};
    const float scale = number(P, 10, 0.0f) * LOG2E, unit = PN_SCALES ? 1 : scale;
    const int low = first + row_of(0, 0) - threadIdx.x % 32 / 4;  // the warp's first row
#if PN_DROPS
    if (blockIdx.x + threadIdx.x == 0) f.advance(after);
#endif
    const int end = f.causal && first + OWN < keys ? first + OWN : keys;
    auto stage_of = [&](int j) {
        return stages + j / OTHER % 2 * STAGE;
    };
    auto fetch = [&](int j) {
        if (j < end) {
            load<OTHER, WIDTH>(stage_of(j), key_rows, j);
            load<OTHER, VALUES>(stage_of(j) + OTHER_SIZE(WIDTH), value_rows, j);
        }
        pn_commit();
    };
    load<OWN, WIDTH>(own, rows_of(q, P, 16, b, h, queries, (int)P[5]), first);
    fetch(0);
    float sums[MT][VALUES / 8][4] = {}, top[MT][2], sum[MT][2] = {};
#pragma unroll
    for (int m = 0; m < MT; m++) top[m][0] = top[m][1] = LOWEST;
    for (int j = 0; j < end; j += OTHER) {
        pn_wait<0>();
        __syncthreads();  // the stage is there, and nobody reads the one before it
        fetch(j + OTHER);
        // The warp has no rows, or they see none of these.
        if (low >= queries || (f.causal && j >= low + MT * 16)) continue;
        const S *const stage = stage_of(j);
        float s[MT][NT][4];
        multiply<WIDTH>(own, stage, s);
        filter<false>(f, scale, j + OTHER > keys || (f.causal && j + OTHER > low + 1), first, j, s);
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float most = top[m][half];
#pragma unroll
                for (int n = 0; n < NT; n++)
                    most = fmaxf(most, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
                most = of_lanes<true>(most);
                const float shift = most <= LOWEST ? 0 : most * unit;  // what is masked gets 0
                const float before = pn_exp2(fmaf(top[m][half], unit, -shift));
                top[m][half] = most, sum[m][half] *= before;
#pragma unroll
                for (int c = 0; c < VALUES / 8; c++)
#pragma unroll
                    for (int e = 2 * half; e < 2 * half + 2; e++) sums[m][c][e] *= before;
#pragma unroll
                for (int n = 0; n < NT; n++)
#pragma unroll
                    for (int e = 2 * half; e < 2 * half + 2; e++) {
                        s[m][n][e] = pn_exp2(fmaf(s[m][n][e], unit, -shift));
                        sum[m][half] += s[m][n][e];
                    }
            }
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int n = 0; n < NT; n++) {
                float factor[4];
                factors<false>(f, first + row_of(m, 0), j + column_of(n, 0), factor);
#pragma unroll
                for (int e = 0; e < 4; e++) s[m][n][e] *= factor[e];
            }
        add<VALUES>(s, stage + OTHER_SIZE(WIDTH), sums);
    }
    float share[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float all = of_lanes<false>(sum[m][half]);
            share[m][half] = all == 0 ? 0 : 1 / all;
            const int i = first + row_of(m, 2 * half);
            if (threadIdx.x % 4 == 0 && i < queries)
                lse[(long long)head * queries + i] =
                    all == 0 ? -INFINITY : fmaf(top[m][half], unit * LN2, logf(all));
        }
    store<VALUES>(y, b, h, heads, first, queries, (int)P[6], sums, share);
}
PN_EXPORT(forward)
#endif

#if defined(PN_STEP_queries)
PN_ENTRY(queries, THREADS, PN_BLOCKS)
(S *dq, const Statistics *of_row, const S *dy, const S *q, const S *k,
 const S *v MASK_PARAMETER STATE_PARAMETER, PN_P P) {
    PN_DYNAMIC_SHARED(uint4, shared);
    S *const own = (S *)shared, *const own_of_dp = own + OWN_SIZE(WIDTH);
    S *const stages = own_of_dp + OWN_SIZE(VALUES);
    const int heads = (int)P[1], queries = (int)P[3], keys = (int)P[4];
    const int tiles = (queries + OWN - 1) / OWN;
    const int head = blockIdx.x / tiles, first = (tiles - 1 - blockIdx.x % tiles) * OWN;
    const int b = head / heads, h = head % heads, g = h / (heads / (int)P[2]);
    const Rows key_rows = rows_of(k, P, 20, b, g, keys, (int)P[5]);
    const Rows value_rows = rows_of(v, P, 24, b, g, keys, (int)P[6]);
    const Filter f{P, b, h, queries, keys, P[7] != 0 MASK_GIVEN STATE_GIVEN};
    const float scale = number(P, 10, 0.0f), unit = PN_SCALES ? 1 : scale * LOG2E;
    const int low = first + row_of(0, 0) - threadIdx.x % 32 / 4;  // the warp's first row
    const int end = f.causal && first + OWN < keys ? first + OWN : keys;
    auto stage_of = [&](int j) {
        return stages + j / OTHER % 2 * STAGE;
    };
    auto fetch = [&](int j) {
        if (j < end) {
            load<OTHER, WIDTH>(stage_of(j), key_rows, j);
            load<OTHER, VALUES>(stage_of(j) + OTHER_SIZE(WIDTH), value_rows, j);
        }
        pn_commit();
    };
    load<OWN, WIDTH>(own, rows_of(q, P, 16, b, h, queries, (int)P[5]), first);
    load<OWN, VALUES>(own_of_dp, rows_of(dy, P, 28, b, h, queries, (int)P[6]), first);
    fetch(0);
    Statistics *const known = (Statistics *)(stages + 2 * STAGE);
    for (int at = threadIdx.x; at < OWN; at += THREADS)
        known[at] = first + at < queries ? of_row[head * P[39] + first + at] : Statistics{1e38f, 0};
    float sums[MT][WIDTH / 8][4] = {};
    for (int j = 0; j < end; j += OTHER) {
        pn_wait<0>();
        __syncthreads();  // the stage is there, and nobody reads the one before it
        fetch(j + OTHER);
        // The warp has no rows, or they see none of these.
        if (low >= queries || (f.causal && j >= low + MT * 16)) continue;
        const S *const stage = stage_of(j);
        float s[MT][NT][4], dp[MT][NT][4];
        multiply<WIDTH>(own, stage, s);
        filter<false>(f, scale * LOG2E, j + OTHER > keys || (f.causal && j + OTHER > low + 1), first,
                    j, s);
        multiply<VALUES>(own_of_dp, stage + OTHER_SIZE(WIDTH), dp);
#pragma unroll
        for (int m = 0; m < MT; m++) {
            const Statistics both[2] = {known[row_of(m, 0)], known[row_of(m, 2)]};
#pragma unroll
            for (int n = 0; n < NT; n++) {
                float factor[4];
                factors<false>(f, first + row_of(m, 0), j + column_of(n, 0), factor);
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const Statistics of = both[e / 2];
                    const float w = pn_exp2(fmaf(s[m][n][e], unit, -of.lse));
                    s[m][n][e] = w * (dp[m][n][e] * factor[e] - of.inner);
                }
            }
        }
        add<WIDTH>(s, stage, sums);
    }
    float factor[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++) factor[m][0] = factor[m][1] = scale;
    store<WIDTH>(dq, b, h, heads, first, queries, (int)P[5], sums, factor);
}
PN_EXPORT(queries)
#endif

#if defined(PN_STEP_keys)
PN_ENTRY(keys, THREADS, PN_BLOCKS)
(S *dk, S *dv, const Statistics *of_row, const S *dy, const S *q, const S *k,
 const S *v MASK_PARAMETER STATE_PARAMETER, PN_P P) {
    PN_DYNAMIC_SHARED(uint4, shared);
    S *const own = (S *)shared, *const own_of_dp = own + OWN_SIZE(WIDTH);
    S *const stages = own_of_dp + OWN_SIZE(VALUES);
    const int heads = (int)P[1], groups = (int)P[2], queries = (int)P[3], keys = (int)P[4];
    const int tiles = (keys + OWN - 1) / OWN;
    const int group = blockIdx.x / tiles, first = blockIdx.x % tiles * OWN;
    const int b = group / groups, g = group % groups, many = heads / groups;
    const bool causal = P[7] != 0;
    const float scale = number(P, 10, 0.0f), unit = PN_SCALES ? 1 : scale * LOG2E;
    const int low = first + row_of(0, 0) - threadIdx.x % 32 / 4;  // the warp's first row
    // Queries before the first key see none of these. Tiles of one head follow another's.
    const int begin = causal ? first / OTHER * OTHER : 0;
    const int of_head = queries > begin ? (queries - begin + OTHER - 1) / OTHER : 0;
    const int steps = many * of_head;
    auto stage_of = [&](int step) { return stages + step % 2 * STAGE; };
    auto fetch = [&](int step) {
        if (step < steps) {
            const int h = g * many + step / of_head, i = begin + step % of_head * OTHER;
            S *const stage = stage_of(step), *const of_dp = stage + OTHER_SIZE(WIDTH);
            load<OTHER, WIDTH>(stage, rows_of(q, P, 16, b, h, queries, (int)P[5]), i);
            load<OTHER, VALUES>(of_dp, rows_of(dy, P, 28, b, h, queries, (int)P[6]), i);
            Statistics *const known = (Statistics *)(stages + 2 * STAGE) + step % 2 * OTHER;
            const int at = threadIdx.x * 2;
            if (at < OTHER)
                pn_copy_async(known + at, of_row + (b * heads + h) * P[39] + i + at, true);
        }
        pn_commit();
    };
    load<OWN, WIDTH>(own, rows_of(k, P, 20, b, g, keys, (int)P[5]), first);
    load<OWN, VALUES>(own_of_dp, rows_of(v, P, 24, b, g, keys, (int)P[6]), first);
    fetch(0);
    float of_k[MT][WIDTH / 8][4] = {}, of_v[MT][VALUES / 8][4] = {};
    for (int step = 0; step < steps; step++) {
        pn_wait<0>();
        __syncthreads();  // the stage is there, and nobody reads the one before it
        fetch(step + 1);
        const int h = g * many + step / of_head, i = begin + step % of_head * OTHER;
        // The warp has no keys, or none of these sees them.
        if (low >= keys || (causal && i + OTHER <= low)) continue;
        const Filter f{P, b, h, queries, keys, causal MASK_GIVEN STATE_GIVEN};
        const S *const stage = stage_of(step), *const of_dp = stage + OTHER_SIZE(WIDTH);
        const Statistics *const known = (Statistics *)(stages + 2 * STAGE) + step % 2 * OTHER;
        float s[MT][NT][4], dp[MT][NT][4];
        multiply<WIDTH>(own, stage, s);
        filter<true>(f, scale * LOG2E, causal && i < low + MT * 16 - 1, first, i, s);
        multiply<VALUES>(own_of_dp, of_dp, dp);
#pragma unroll
        for (int n = 0; n < NT; n++) {
            const Statistics of[2] = {known[column_of(n, 0)], known[column_of(n, 1)]};
#pragma unroll
            for (int m = 0; m < MT; m++) {
                float factor[4];
                factors<true>(f, i + column_of(n, 0), first + row_of(m, 0), factor);
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const float w = pn_exp2(fmaf(s[m][n][e], unit, -of[e % 2].lse));
                    s[m][n][e] = w * (dp[m][n][e] * factor[e] - of[e % 2].inner);
                    dp[m][n][e] = w * factor[e];
                }
            }
        }
        add<VALUES>(dp, of_dp, of_v);
        add<WIDTH>(s, stage, of_k);
    }
    pn_wait<0>();  // also where there was no step
    float factor[MT][2], one[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++) factor[m][0] = factor[m][1] = scale, one[m][0] = one[m][1] = 1;
    store<WIDTH>(dk, b, g, groups, first, keys, (int)P[5], of_k, factor);
    store<VALUES>(dv, b, g, groups, first, keys, (int)P[6], of_v, one);
}
PN_EXPORT(keys)
#endif
