// Attention and its gradients, by tiles: no score is kept. Words: _words of
// portanet/ops/attention.py.
//
//   forward  y[i] = sum over j of p[i, j] v[j],  p = softmax(scale q k^T + mask)
//   queries  dq[i] = scale sum over j of ds[i, j] k[j],  ds = p (dy v^T - dy . y)
//   keys     dk[j] = scale sum over i of ds[i, j] q[i],  dv[j] = sum over i of p[i, j] dy[i]
//
// A block has OWN rows of one side of a head (forward, queries: queries; keys: keys) and
// goes over the other side, OTHER rows at a time. Threads lie TY x TX: one has TM rows, of
// each every TX-th score of the tile and ON columns of every slice of the sums. Products of
// rows run over slices of SLICE columns in shared memory; scores go to the lanes that need
// them by shuffles. NS slices of a sum's columns are kept; blockIdx.y has others. Forward
// rescales what it has where a larger score appears (Milakov and Gimelshein, 2018; Dao et
// al., 2022). Sums run in the order of the other side: no atomics, the same bits each time.
// statistics: (lse, dy . y) of each row, for the two that follow it. 16 bits are widened as
// they are loaded. PN_TENSOR: the same entries for tensor cores.
#include "attention.cuh"

#if PN_TENSOR
#include "attention_mma.cuh"
#else

typedef pn_pack<T, 16 / sizeof(T)> Pack;
typedef pn_pack<S, 16 / sizeof(T)> Piece;  // as it is stored

#define THREADS 128
#define TX PN_TX
#define TM PN_TM
#define ON PN_ON
#define NS PN_NS
#define OTHER PN_OTHER
#define TY (THREADS / TX)
#define OWN (TY * TM)
#define SN (OTHER / TX)
#define SLICE (TX * ON)
#define G (16 / (int)sizeof(T))
#define PITCH (SLICE + G)  // the rows that lanes read at once start in different banks

PN_DEVICE float pn_exp(float x) { return expf(x); }
PN_DEVICE double pn_exp(double x) { return exp(x); }
PN_DEVICE float pn_log(float x) { return logf(x); }
PN_DEVICE double pn_log(double x) { return log(x); }
PN_DEVICE float pn_fma(float a, float b, float c) { return fmaf(a, b, c); }
PN_DEVICE double pn_fma(double a, double b, double c) { return fma(a, b, c); }

// Rows [first, first + N) by columns [column, column + SLICE), zeros outside.
template <int N> PN_DEVICE void load(T *to, const Rows &m, int first, int column) {
#pragma unroll 4
    for (int q = 0; q < N * (SLICE / G) / THREADS; q++) {
        const int p = threadIdx.x + q * THREADS;
        const int row = p / (SLICE / G), c = p % (SLICE / G) * G;
        Piece got;
#pragma unroll
        for (int e = 0; e < G; e++) got.at[e] = S{};
        if (first + row < m.rows) {
            const S *from = m.x + (first + row) * m.step + column + c;
            if (m.is_aligned) {
                if (column + c < m.width) got = *(const Piece *)from;
            } else {
#pragma unroll
                for (int e = 0; e < G; e++)
                    if (column + c + e < m.width) got.at[e] = from[e];
            }
        }
        Pack made;
#pragma unroll
        for (int e = 0; e < G; e++) made.at[e] = pn_value(got.at[e]);
        *(Pack *)(to + row * PITCH + c) = made;
    }
}

// s += own other^T over a slice, of which `depth` columns are there.
PN_DEVICE void multiply(const T *own, const T *other, int depth, T (&s)[TM][SN]) {
    const int tx = threadIdx.x % TX, ty = threadIdx.x / TX;
    for (int d = 0; d < depth; d += G) {
        Pack a[TM];
#pragma unroll
        for (int r = 0; r < TM; r++) a[r] = *(const Pack *)(own + (ty * TM + r) * PITCH + d);
#pragma unroll
        for (int c = 0; c < SN; c++) {
            const Pack b = *(const Pack *)(other + (tx + TX * c) * PITCH + d);
#pragma unroll
            for (int r = 0; r < TM; r++)
#pragma unroll
                for (int e = 0; e < G; e++) s[r][c] = pn_fma(a[r].at[e], b.at[e], s[r][c]);
        }
    }
}

// sums += w other, for the columns of a slice that a thread has.
PN_DEVICE void add(const T *other, const T (&w)[TM][SN], T (&sums)[TM][ON]) {
    const int tx = threadIdx.x % TX;
#pragma unroll
    for (int c = 0; c < SN; c++)
#pragma unroll 4
        for (int lane = 0; lane < TX; lane++) {
            T p[TM];
#pragma unroll
            for (int r = 0; r < TM; r++) p[r] = __shfl_sync(ALL, w[r][c], lane, TX);
#pragma unroll
            for (int g = 0; g < ON / G; g++) {
                const Pack v =
                    *(const Pack *)(other + (lane + TX * c) * PITCH + (g * TX + tx) * G);
#pragma unroll
                for (int r = 0; r < TM; r++)
#pragma unroll
                    for (int e = 0; e < G; e++)
                        sums[r][g * G + e] = pn_fma(p[r], v.at[e], sums[r][g * G + e]);
            }
        }
}

// Writes a thread's sums, times `factor` of each row, from column `first` on, into rows
// that lie by length, then head.
PN_DEVICE void store(S *y, int b, int h, int heads, int row, int rows, int first, int width,
                     const T (&sums)[NS][TM][ON], const T (&factor)[TM]) {
    const int tx = threadIdx.x % TX;
#pragma unroll
    for (int r = 0; r < TM; r++) {
        if (row + r >= rows) continue;
        S *to = y + (((long long)b * rows + row + r) * heads + h) * width;
#pragma unroll
        for (int n = 0; n < NS; n++)
#pragma unroll
            for (int g = 0; g < ON / G; g++) {
                const int column = first + n * SLICE + (g * TX + tx) * G;
                Piece made;
#pragma unroll
                for (int e = 0; e < G; e++)
                    pn_convert(&made.at[e], sums[n][r][g * G + e] * factor[r]);
                if (width % G == 0) {
                    if (column < width) *(Piece *)(to + column) = made;
                } else {
#pragma unroll
                    for (int e = 0; e < G; e++)
                        if (column + e < width) to[column + e] = made.at[e];
                }
            }
    }
}

#if defined(PN_STEP_forward)
template <bool MOST> PN_DEVICE T of_lanes(T x) {
#pragma unroll
    for (int distance = TX / 2; distance > 0; distance /= 2) {
        const T other = __shfl_xor_sync(ALL, x, distance);
        x = !MOST ? x + other : other > x ? other : x;
    }
    return x;
}

// A tile's scores become weights; what was summed before is to be multiplied by `before`.
PN_DEVICE void soften(const Filter &f, T scale, int i, int j, T (&s)[TM][SN], T (&top)[TM],
                      T (&sum)[TM], T (&before)[TM]) {
#pragma unroll
    for (int r = 0; r < TM; r++) {
        T most = top[r];
#pragma unroll
        for (int c = 0; c < SN; c++) {
            const int at = j + TX * c;
            s[r][c] = f.is_seen(i + r, at) ? f.masked(s[r][c] * scale, 1, i + r, at) : LOWEST;
            if (s[r][c] > most) most = s[r][c];
        }
        most = of_lanes<true>(most);
        before[r] = pn_exp(top[r] - most);
        top[r] = most, sum[r] *= before[r];
#pragma unroll
        for (int c = 0; c < SN; c++) {
            const T w = s[r][c] <= LOWEST ? 0 : pn_exp(s[r][c] - most);
            sum[r] += w;
            s[r][c] = w * f.factor(i + r, j + TX * c);
        }
    }
}

PN_ENTRY(forward, THREADS, 2)
(S *y, T *lse AFTER_PARAMETER, const S *q, const S *k, const S *v MASK_PARAMETER STATE_PARAMETER,
 PN_P P) {
    PN_DYNAMIC_SHARED(T, own);
    T *const keys_slice = own + OWN * PITCH, *const values_slice = keys_slice + OTHER * PITCH;
    const int heads = (int)P[1], queries = (int)P[3], keys = (int)P[4];
    const int width = (int)P[5], values = (int)P[6], tiles = (queries + OWN - 1) / OWN;
    const int head = blockIdx.x / tiles, first = (tiles - 1 - blockIdx.x % tiles) * OWN;
    const int b = head / heads, h = head % heads, g = h / (heads / (int)P[2]);
    const int column = blockIdx.y * NS * SLICE;
    const int tx = threadIdx.x % TX, row = first + threadIdx.x / TX * TM;
    const Rows own_rows = rows_of(q, P, 16, b, h, queries, width);
    const Rows key_rows = rows_of(k, P, 20, b, g, keys, width);
    const Rows value_rows = rows_of(v, P, 24, b, g, keys, values);
    const Filter f{P, b, h, queries, keys, P[7] != 0 MASK_GIVEN STATE_GIVEN};
    const T scale = number(P, 10, T());
#if PN_DROPS
    if (blockIdx.x + blockIdx.y + threadIdx.x == 0) f.advance(after);
#endif
    T sums[NS][TM][ON] = {}, top[TM], sum[TM] = {};
#pragma unroll
    for (int r = 0; r < TM; r++) top[r] = LOWEST;
    const int end = f.causal && first + OWN < keys ? first + OWN : keys;
    for (int j = 0; j < end; j += OTHER) {
        T s[TM][SN] = {}, before[TM];
        for (int d = 0; d < width; d += SLICE) {
            __syncthreads();  // nobody reads the slices any more
            if (j == 0 || width > SLICE) load<OWN>(own, own_rows, first, d);
            load<OTHER>(keys_slice, key_rows, j, d);
            if (d == 0) load<OTHER>(values_slice, value_rows, j, column);
            __syncthreads();  // and now they are there
            multiply(own, keys_slice, width - d < SLICE ? width - d : SLICE, s);
        }
        soften(f, scale, row, j + tx, s, top, sum, before);
#pragma unroll
        for (int n = 0; n < NS; n++) {
            if (n > 0) {
                __syncthreads();
                load<OTHER>(values_slice, value_rows, j, column + n * SLICE);
                __syncthreads();
            }
#pragma unroll
            for (int r = 0; r < TM; r++)
#pragma unroll
                for (int e = 0; e < ON; e++) sums[n][r][e] *= before[r];
            add(values_slice, s, sums[n]);
        }
    }
    T share[TM];
#pragma unroll
    for (int r = 0; r < TM; r++) {
        const T all = of_lanes<false>(sum[r]);
        share[r] = all == 0 ? 0 : 1 / all;
        if (tx == 0 && column == 0 && row + r < queries)
            lse[(long long)head * queries + row + r] =
                all == 0 ? -(T)INFINITY : top[r] + pn_log(all);
    }
    store(y, b, h, heads, row, queries, column, values, sums, share);
}
PN_EXPORT(forward)
#endif

#if defined(PN_STEP_statistics)
// A warp a row of the P[39] of each head; one that sees nothing, or is past the last, gets an
// lse that makes its weights 0. PN_UNIT: the lse's.
PN_ENTRY(statistics, THREADS)
(Statistics *of_row, const S *dy, const S *y, const T *lse, PN_P P) {
    const int heads = (int)P[1], queries = (int)P[3], values = (int)P[6];
    const long long n = (long long)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    if (n >= P[0] * heads * P[39]) return;  // the whole warp
    const long long head = n / P[39], b = head / heads, h = head - b * heads;
    const int i = (int)(n - head * P[39]);
    if (i >= queries) {
        of_row[n] = Statistics{(T)1e38, 0};
        return;
    }
    const S *g = dy + P[28] + b * P[29] + h * P[30] + i * P[31];
    const S *of = y + ((b * queries + i) * heads + h) * values;
    T inner = 0;
    for (int c = threadIdx.x % 32; c < values; c += 32)
        inner = pn_fma((T)pn_value(g[c]), (T)pn_value(of[c]), inner);
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        inner += __shfl_xor_sync(ALL, inner, distance);
    if (threadIdx.x % 32) return;
    const T given = lse[head * queries + i];
    of_row[n] = Statistics{given < LOWEST ? (T)1e38 : given * (T)PN_UNIT, inner};
}
PN_EXPORT(statistics)
#endif

// queries and keys. Of the own side: rows of what scores are made of (q or k), and of what
// dp is made of (dy or v); the same two of the other side.
struct Sides {
    Rows own, own_of_dp, other, other_of_dp;
};

// The tile's scores and dp, by slices of all four.
PN_DEVICE void products(const Sides &m, T *shared, int first, int at, bool is_first,
                        T (&s)[TM][SN], T (&dp)[TM][SN]) {
    T *const own = shared, *const own_of_dp = own + OWN * PITCH;
    T *const other = own_of_dp + OWN * PITCH, *const other_of_dp = other + OTHER * PITCH;
    const int width = m.own.width, values = m.own_of_dp.width;
    const int deepest = width > values ? width : values;
    for (int d = 0; d < deepest; d += SLICE) {
        __syncthreads();  // nobody reads the slices any more
        if (is_first || deepest > SLICE) {
            load<OWN>(own, m.own, first, d);
            load<OWN>(own_of_dp, m.own_of_dp, first, d);
        }
        load<OTHER>(other, m.other, at, d);
        load<OTHER>(other_of_dp, m.other_of_dp, at, d);
        __syncthreads();  // and now they are there
        multiply(own, other, width - d < SLICE ? width - d : SLICE, s);
        multiply(own_of_dp, other_of_dp, values - d < SLICE ? values - d : SLICE, dp);
    }
}

// The slices of the other side that begin at a column, if they are not what is there.
PN_DEVICE void fetch(const Sides &m, T *shared, int at, int column) {
    const int width = m.own.width, values = m.own_of_dp.width;
    if (width <= SLICE && values <= SLICE) return;
    T *const other = shared + 2 * OWN * PITCH;
    __syncthreads();
    load<OTHER>(other, m.other, at, column);
    load<OTHER>(other + OTHER * PITCH, m.other_of_dp, at, column);
    __syncthreads();
}

#if defined(PN_STEP_queries)
PN_ENTRY(queries, THREADS, 2)
(S *dq, const Statistics *of_row, const S *dy, const S *q, const S *k,
 const S *v MASK_PARAMETER STATE_PARAMETER, PN_P P) {
    PN_DYNAMIC_SHARED(T, shared);
    const int heads = (int)P[1], queries = (int)P[3], keys = (int)P[4];
    const int width = (int)P[5], values = (int)P[6], tiles = (queries + OWN - 1) / OWN;
    const int head = blockIdx.x / tiles, first = (tiles - 1 - blockIdx.x % tiles) * OWN;
    const int b = head / heads, h = head % heads, g = h / (heads / (int)P[2]);
    const int column = blockIdx.y * NS * SLICE;
    const int tx = threadIdx.x % TX, row = first + threadIdx.x / TX * TM;
    const Sides m{rows_of(q, P, 16, b, h, queries, width), rows_of(dy, P, 28, b, h, queries, values),
                  rows_of(k, P, 20, b, g, keys, width), rows_of(v, P, 24, b, g, keys, values)};
    const Filter f{P, b, h, queries, keys, P[7] != 0 MASK_GIVEN STATE_GIVEN};
    const T scale = number(P, 10, T());
    Statistics known[TM];
#pragma unroll
    for (int r = 0; r < TM; r++)
        if (row + r < queries) known[r] = of_row[(long long)head * queries + row + r];
    T sums[NS][TM][ON] = {};
    const int end = f.causal && first + OWN < keys ? first + OWN : keys;
    for (int j = 0; j < end; j += OTHER) {
        T s[TM][SN] = {}, dp[TM][SN] = {};
        products(m, shared, first, j, j == 0, s, dp);
#pragma unroll
        for (int r = 0; r < TM; r++)
#pragma unroll
            for (int c = 0; c < SN; c++) {
                const int i = row + r, at = j + tx + TX * c;
                T ds = 0;
                if (f.is_seen(i, at)) {
                    const T w = pn_exp(f.masked(s[r][c] * scale, 1, i, at) - known[r].lse);
                    ds = w * (dp[r][c] * f.factor(i, at) - known[r].inner);
                }
                s[r][c] = ds;
            }
#pragma unroll
        for (int n = 0; n < NS; n++) {
            fetch(m, shared, j, column + n * SLICE);
            add(shared + 2 * OWN * PITCH, s, sums[n]);
        }
    }
    T factor[TM];
#pragma unroll
    for (int r = 0; r < TM; r++) factor[r] = scale;
    store(dq, b, h, heads, row, queries, column, width, sums, factor);
}
PN_EXPORT(queries)
#endif

#if defined(PN_STEP_keys)
PN_ENTRY(keys, THREADS, 2)
(S *dk, S *dv, const Statistics *of_row, const S *dy, const S *q, const S *k,
 const S *v MASK_PARAMETER STATE_PARAMETER, PN_P P) {
    PN_DYNAMIC_SHARED(T, shared);
    const int heads = (int)P[1], groups = (int)P[2], queries = (int)P[3], keys = (int)P[4];
    const int width = (int)P[5], values = (int)P[6], tiles = (keys + OWN - 1) / OWN;
    const int group = blockIdx.x / tiles, first = blockIdx.x % tiles * OWN;
    const int b = group / groups, g = group % groups, many = heads / groups;
    const int column = blockIdx.y * NS * SLICE;
    const int tx = threadIdx.x % TX, row = first + threadIdx.x / TX * TM;
    const T scale = number(P, 10, T());
    T of_k[NS][TM][ON] = {}, of_v[NS][TM][ON] = {};
    for (int h = g * many; h < (g + 1) * many; h++) {
        const Sides m{rows_of(k, P, 20, b, g, keys, width), rows_of(v, P, 24, b, g, keys, values),
                      rows_of(q, P, 16, b, h, queries, width),
                      rows_of(dy, P, 28, b, h, queries, values)};
        const Filter f{P, b, h, queries, keys, P[7] != 0 MASK_GIVEN STATE_GIVEN};
        const long long before = ((long long)b * heads + h) * queries;
        // Queries before the first key see none of these.
        const int begin = f.causal ? first / OTHER * OTHER : 0;
        for (int i = begin; i < queries; i += OTHER) {
            T s[TM][SN] = {}, dp[TM][SN] = {};
            products(m, shared, first, i, i == begin && h == g * many, s, dp);
#pragma unroll
            for (int c = 0; c < SN; c++) {
                const int at = i + tx + TX * c;
                Statistics known = {};
                if (at < queries) known = of_row[before + at];
#pragma unroll
                for (int r = 0; r < TM; r++) {
                    T w = 0, ds = 0;
                    if (f.is_seen(at, row + r)) {
                        const T factor = f.factor(at, row + r);
                        w = pn_exp(f.masked(s[r][c] * scale, 1, at, row + r) - known.lse);
                        ds = w * (dp[r][c] * factor - known.inner);
                        w *= factor;
                    }
                    s[r][c] = ds, dp[r][c] = w;
                }
            }
#pragma unroll
            for (int n = 0; n < NS; n++) {
                fetch(m, shared, i, column + n * SLICE);
                add(shared + 2 * OWN * PITCH, s, of_k[n]);
                add(shared + (2 * OWN + OTHER) * PITCH, dp, of_v[n]);
            }
        }
    }
    T factor[TM], one[TM];
#pragma unroll
    for (int r = 0; r < TM; r++) factor[r] = scale, one[r] = 1;
    store(dk, b, g, groups, row, keys, column, width, of_k, factor);
    store(dv, b, g, groups, row, keys, column, values, of_v, one);
}
PN_EXPORT(keys)
#endif
#endif
