// y[k] = which over r of x[k, r], for chunk c of the r: partial[c, k].
//
// words: chunks, chunk, all, kept, reduced, kept_rank, reduced_rank, offset, kept_shape[],
//        kept_strides[], reduced_shape[], reduced_strides[]
//
// Output o = c kept + k is over r in [c chunk, min((c + 1) chunk, reduced)); without a
// split there is one chunk. `all` is the number of elements that a mean divides by.
//
// rows: a block an output. warps: a warp an output. Both take V neighbours a thread, and
// four of those at a time, so that four loads are on their way. columns, narrow: kept
// elements are neighbours; a block takes 32 V or 8 V of them, and every 8th or 32nd r a
// thread. lanes: a thread an output, for what is short or lies anyhow. The tree of each
// depends on the sizes alone: a load of V at once (PN_VECTOR 1) takes the same elements in
// the same order as V loads.
//
// Of a reduction with a producer, x is a Made: what the text before this one, by lower.py,
// computes from the operands where it is read. Its words follow those of the reduction.
//
// A text holds one entry, PN_STEP_name, because each takes NVRTC a while. Of reductions side
// by side (PN_COPIES) a block looks up which of them it is at work on.
typedef PN_INDEX index_t;  // int, unless x is longer
typedef pn_unsigned<index_t> count_t;  // divides faster
#if defined(PN_OPTION_made)
typedef Made Input;
typedef PN_MADE X;
#define V 1  // neighbours are made by neighbouring threads
#else
typedef PN_X0 Input;
typedef pn_compute<PN_X0> X;
#define V (16 / (int)sizeof(PN_X0))  // elements of 16 bytes
#endif
typedef pn_compute<PN_Y0> Y;

#define U (V > 8 ? 2 : 4)  // loads on their way
#define ALL 0xffffffffu

// ---- The monoid: A, initial(), lift(x, r), combine(a, b), finish(a, all)

template <class T> struct pn_limits {
    static __device__ __forceinline__ T lowest() { return (T)((T)-1 < 0 ? (T)1 << (8 * sizeof(T) - 1) : 0); }
    static __device__ __forceinline__ T highest() { return (T)~lowest(); }
};
template <> struct pn_limits<float> {
    static __device__ __forceinline__ float lowest() { return -INFINITY; }
    static __device__ __forceinline__ float highest() { return INFINITY; }
};
template <> struct pn_limits<double> {
    static __device__ __forceinline__ double lowest() { return -(double)INFINITY; }
    static __device__ __forceinline__ double highest() { return (double)INFINITY; }
};

#if defined(PN_OPTION_sum) || defined(PN_OPTION_mean)
typedef Y A;
PN_DEVICE A initial() { return 0; }
PN_DEVICE A combine(A a, A b) { return a + b; }
#elif defined(PN_OPTION_prod)
typedef Y A;
PN_DEVICE A initial() { return 1; }
PN_DEVICE A combine(A a, A b) { return a * b; }
#elif defined(PN_OPTION_any)
typedef int A;
PN_DEVICE A initial() { return 0; }
PN_DEVICE A combine(A a, A b) { return a | b; }
#elif defined(PN_OPTION_all)
typedef int A;
PN_DEVICE A initial() { return 1; }
PN_DEVICE A combine(A a, A b) { return a & b; }
#else
template <class T> struct pn_ordered { typedef T type; };
template <> struct pn_ordered<bool> { typedef int type; };
typedef pn_ordered<X>::type T;
// Whether b is to be taken before a, where a comes first: NaN before all.
#if defined(PN_OPTION_max) || defined(PN_OPTION_argmax)
PN_DEVICE bool beats(T b, T a) { return b > a || (b != b && a == a); }
PN_DEVICE T worst() { return pn_limits<T>::lowest(); }
#else
PN_DEVICE bool beats(T b, T a) { return b < a || (b != b && a == a); }
PN_DEVICE T worst() { return pn_limits<T>::highest(); }
#endif
#if defined(PN_OPTION_max) || defined(PN_OPTION_min)
typedef T A;
PN_DEVICE A initial() { return worst(); }
PN_DEVICE A combine(A a, A b) { return beats(b, a) ? b : a; }
#else
#define HAS_POSITIONS 1
struct A {
    T value;
    int at;
};
PN_DEVICE A initial() { return A{worst(), 0x7fffffff}; }
PN_DEVICE A combine(A a, A b) {
    const bool same = !beats(b.value, a.value) && !beats(a.value, b.value);
    return beats(b.value, a.value) || (same && b.at < a.at) ? b : a;
}
#endif
#endif

#if defined(HAS_POSITIONS)
PN_DEVICE A lift(X v, index_t r) { return A{(T)v, (int)r}; }
PN_DEVICE Y finish(A a, long long) { return a.at; }
PN_DEVICE A from_lane(A a, int distance) {
    return A{__shfl_down_sync(ALL, a.value, distance),
             __shfl_down_sync(ALL, a.at, distance)};
}
#else
#if defined(PN_OPTION_any) || defined(PN_OPTION_all)
PN_DEVICE A lift(X v, index_t) { return v != 0; }
#else
PN_DEVICE A lift(X v, index_t) { return (A)v; }
#endif
#if defined(PN_OPTION_mean)
PN_DEVICE Y finish(A a, long long all) { return a / (Y)all; }
#else
PN_DEVICE Y finish(A a, long long) { return (Y)a; }
#endif
PN_DEVICE A from_lane(A a, int distance) { return __shfl_down_sync(ALL, a, distance); }
#endif

// What a pass reads and writes: x or partial results, partial results or y.
#if defined(PN_OPTION_made)
PN_DEVICE A fetch(const Made *x, index_t at, index_t r) { return lift(x->element(at), r); }
#else
PN_DEVICE A fetch(const PN_X0 *x, index_t at, index_t r) { return lift(pn_load(x, at), r); }
#endif
struct Partial {
    A a;
};
PN_DEVICE A fetch(const Partial *x, index_t at, index_t) { return x[at].a; }
PN_DEVICE void emit(Partial *y, count_t o, A a, const pn_words &) { y[o].a = a; }
PN_DEVICE void emit(PN_Y0 *y, count_t o, A a, const pn_words &P) {
    pn_store(y, o, finish(a, P[2]));
}

// ---- Where elements lie

// The place of number e of a row-major shape at P[at...], whose strides follow it.
PN_DEVICE index_t place(const pn_words &P, int rank, int at, count_t e) {
    index_t sum = 0;
#pragma unroll 1
    for (int d = rank - 1; d > 0; d--) {
        const count_t size = (count_t)P[at + d], rest = e / size;
        sum += (index_t)(e - rest * size) * (index_t)P[at + rank + d];
        e = rest;
    }
    return rank > 0 ? sum + (index_t)e * (index_t)P[at + rank] : 0;
}
PN_DEVICE index_t kept_at(const pn_words &P, count_t k) {
    return (index_t)P[7] + place(P, (int)P[5], 8, k);
}
PN_DEVICE index_t reduced_at(const pn_words &P, count_t r) {
    return place(P, (int)P[6], 8 + 2 * (int)P[5], r);
}

// The stride of r, if it has one.
PN_DEVICE index_t only_stride(const pn_words &P) {
    return P[6] == 1 ? (index_t)P[9 + 2 * (int)P[5]] : 0;
}

struct Range {
    count_t k;
    index_t begin, end;
};
PN_DEVICE Range range_of(const pn_words &P, count_t o) {
    const count_t kept = (count_t)P[3], c = o / kept;
    const long long begin = (long long)c * P[1];
    const long long end = begin + P[1] < P[4] ? begin + P[1] : P[4];
    return Range{o - c * kept, (index_t)begin, (index_t)end};
}

// ---- Entries: what the body of one is given.

#if defined(PN_COPIES)
#define ENTRY(name, Target, Source, ...)                                                  \
    PN_ENTRY(name, 256)(PN_T table) {                                                     \
        const int copy = pn_copy(table, blockIdx.x);                                      \
        __VA_ARGS__((Target *)table.at[copy][0], (const Source *)table.at[copy][1],       \
                    table.words[copy], blockIdx.x - (unsigned)table.first[copy]);         \
    }                                                                                     \
    PN_EXPORT(name)
#else
#define ENTRY(name, Target, Source, ...)                                                  \
    PN_ENTRY(name, 256)(Target * y, const Source *x, PN_P P) {                            \
        __VA_ARGS__(y, x, P, blockIdx.x);                                                 \
    }                                                                                     \
    PN_EXPORT(name)
#endif

// The same for an entry that reads x: with a producer, the operands that it reads.
#if !defined(PN_OPTION_made)
#define ENTRY_OF_X(name, Target, ...) ENTRY(name, Target, PN_X0, __VA_ARGS__)
#elif defined(PN_COPIES)
#define ENTRY_OF_X(name, Target, ...)                                                     \
    PN_ENTRY(name, 256)(PN_T table) {                                                     \
        const int copy = pn_copy(table, blockIdx.x);                                      \
        void *const *at = table.at[copy];                                                 \
        const Made x = {table.words[copy], PN_MADE_OF_TABLE};                             \
        __VA_ARGS__((Target *)at[0], &x, table.words[copy],                               \
                    blockIdx.x - (unsigned)table.first[copy]);                            \
    }                                                                                     \
    PN_EXPORT(name)
#else
#define ENTRY_OF_X(name, Target, ...)                                                     \
    PN_ENTRY(name, 256)(Target * y, PN_MADE_PARAMETERS, PN_P P) {                         \
        const Made x = {P, PN_MADE_OF};                                                   \
        __VA_ARGS__(y, &x, P, blockIdx.x);                                                \
    }                                                                                     \
    PN_EXPORT(name)
#endif

// ---- rows and warps

// Pairs, then pairs of pairs: N is a power of two.
template <int N> PN_DEVICE A fold(const A *values) {
    if constexpr (N == 1)
        return values[0];
    else
        return combine(fold<N / 2>(values), fold<N / 2>(values + N / 2));
}

PN_DEVICE A of_warp(A a) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        a = combine(a, from_lane(a, distance));
    return a;
}

// The V elements from r on, whose first is at x[at].
PN_DEVICE A fetch_pack(const Input *x, index_t at, index_t r) {
    A values[V];
#if PN_VECTOR
    const pn_pack<PN_X0, V> pack = *(const pn_pack<PN_X0, V> *)(x + at);
#pragma unroll
    for (int v = 0; v < V; v++) values[v] = lift(pn_value(pack.at[v]), r + v);
#else
#pragma unroll
    for (int v = 0; v < V; v++) values[v] = fetch(x, at + v, r + v);
#endif
    return fold<V>(values);
}

// Thread `t` of `threads` takes its share of [begin, end), which lies contiguously.
PN_DEVICE A along(const Input *x, index_t base, Range range, int t, int threads) {
    A total = initial();
    const index_t step = threads * V;
    for (index_t r = range.begin + t * V; r < range.end; r += U * step) {
        A parts[U];
        if (r + (U - 1) * step + V <= range.end) {
#pragma unroll
            for (int u = 0; u < U; u++)
                parts[u] = fetch_pack(x, base + r + u * step, r + u * step);
        } else {
#pragma unroll
            for (int u = 0; u < U; u++) {
                A values[V];
#pragma unroll
                for (int v = 0; v < V; v++) {
                    const index_t e = r + u * step + v;
                    values[v] = e < range.end ? fetch(x, base + e, e) : initial();
                }
                parts[u] = fold<V>(values);
            }
        }
        total = combine(total, fold<U>(parts));
    }
    return total;
}

// The same where elements lie anyhow: U at a time, one by one.
template <class Source>
PN_DEVICE A anyhow(const Source *x, index_t base, Range range, int t, int threads,
                   const pn_words &P) {
    A total = initial();
    const index_t stride = only_stride(P);
    const bool is_simple = P[6] <= 1;
    for (index_t r = range.begin + t; r < range.end; r += 4 * threads) {
        A parts[4];
#pragma unroll
        for (int u = 0; u < 4; u++) {
            const index_t e = r + u * threads;
            parts[u] = initial();
            if (e < range.end) {
                const index_t at = is_simple ? e * stride : reduced_at(P, e);
                parts[u] = fetch(x, base + at, e);
            }
        }
        total = combine(total, fold<4>(parts));
    }
    return total;
}

PN_DEVICE A share(const Input *x, Range range, int t, int threads, const pn_words &P) {
    const index_t base = kept_at(P, range.k);
    if (only_stride(P) == 1) return along(x, base, range, t, threads);
    return anyhow(x, base, range, t, threads, P);
}
PN_DEVICE A share(const Partial *x, Range range, int t, int threads, const pn_words &P) {
    return anyhow(x, kept_at(P, range.k), range, t, threads, P);
}

template <class Target, class Source>
PN_DEVICE void rows_body(Target *y, const Source *x, const pn_words &P, unsigned block) {
    PN_SHARED(A, parts, [8]);
    const int t = threadIdx.x;
    A a = of_warp(share(x, range_of(P, block), t, 256, P));
    if (t % 32 == 0) parts[t / 32] = a;
    __syncthreads();
    if (t >= 32) return;
    a = t < 8 ? parts[t] : initial();
    a = of_warp(a);
    if (t == 0) emit(y, block, a, P);
}

#if defined(PN_STEP_rows)
ENTRY_OF_X(rows, PN_Y0, rows_body)
#endif
#if defined(PN_STEP_rows_first)
ENTRY_OF_X(rows_first, Partial, rows_body)
#endif
#if defined(PN_STEP_rows_second)
ENTRY(rows_second, PN_Y0, Partial, rows_body)
#endif

PN_DEVICE void warps_body(PN_Y0 *y, const Input *x, const pn_words &P, unsigned block) {
    const count_t o = (count_t)block * 8 + threadIdx.x / 32;
    if (o >= (count_t)P[3]) return;  // the whole warp
    const A a = of_warp(share(x, range_of(P, o), threadIdx.x % 32, 32, P));
    if (threadIdx.x % 32 == 0) emit(y, o, a, P);
}

#if defined(PN_STEP_warps)
ENTRY_OF_X(warps, PN_Y0, warps_body)
#endif

// ---- columns and narrow

// W neighbouring k a thread.
template <int W> struct Columns {
    A a[W];
};
template <int W> PN_DEVICE Columns<W> fetch_columns(const Partial *x, index_t at, index_t) {
    Columns<W> c;
#pragma unroll
    for (int w = 0; w < W; w++) c.a[w] = x[at + w].a;
    return c;
}
template <int W> PN_DEVICE Columns<W> fetch_columns(const Input *x, index_t at, index_t r) {
    Columns<W> c;
#if PN_VECTOR
    const pn_pack<PN_X0, W> pack = *(const pn_pack<PN_X0, W> *)(x + at);
#pragma unroll
    for (int w = 0; w < W; w++) c.a[w] = lift(pn_value(pack.at[w]), r);
#else
#pragma unroll
    for (int w = 0; w < W; w++) c.a[w] = fetch(x, at + w, r);
#endif
    return c;
}

// TX threads side by side, 256 / TX rows of them. The innermost kept dimension is
// contiguous; with W > 1 its size is a multiple of W.
template <int TX, int W, class Target, class Source>
PN_DEVICE void columns_body(Target *y, const Source *x, const pn_words &P, unsigned block) {
    constexpr int TY = 256 / TX;
    PN_SHARED(Columns<W>, parts, [TY][TX]);
    const int tx = threadIdx.x % TX, ty = threadIdx.x / TX;
    const count_t kept = (count_t)P[3], across = (kept + TX * W - 1) / (TX * W);
    const count_t chunk = block / across;
    const count_t k = (block - chunk * across) * (TX * W) + tx * W;
    const Range range = range_of(P, chunk * kept);
    Columns<W> total;
#pragma unroll
    for (int w = 0; w < W; w++) total.a[w] = initial();
    if (k < kept) {
        const index_t base = kept_at(P, k);
        const index_t stride = only_stride(P);
        const bool is_simple = P[6] <= 1;
        index_t r = range.begin + ty;
        for (; r + 3 * TY < range.end; r += 4 * TY) {
            Columns<W> four[4];
#pragma unroll
            for (int u = 0; u < 4; u++) {
                const index_t e = r + u * TY;
                const index_t at = is_simple ? e * stride : reduced_at(P, e);
                four[u] = fetch_columns<W>(x, base + at, e);
            }
#pragma unroll
            for (int w = 0; w < W; w++) {
                A sum = combine(combine(four[0].a[w], four[1].a[w]),
                                combine(four[2].a[w], four[3].a[w]));
                total.a[w] = combine(total.a[w], sum);
            }
        }
        for (; r < range.end; r += TY) {
            const index_t at = is_simple ? r * stride : reduced_at(P, r);
            const Columns<W> one = fetch_columns<W>(x, base + at, r);
#pragma unroll
            for (int w = 0; w < W; w++) total.a[w] = combine(total.a[w], one.a[w]);
        }
    }
    parts[ty][tx] = total;
    for (int half = TY / 2; half > 0; half /= 2) {
        __syncthreads();
        if (ty < half) {
#pragma unroll
            for (int w = 0; w < W; w++)
                parts[ty][tx].a[w] = combine(parts[ty][tx].a[w], parts[ty + half][tx].a[w]);
        }
    }
    if (ty > 0 || k >= kept) return;
#pragma unroll
    for (int w = 0; w < W; w++) emit(y, chunk * kept + k + w, parts[0][tx].a[w], P);
}

// Neighbours a thread takes: a load of 16 bytes, but at most 8 sums of 8 bytes.
#define W (PN_VECTOR ? (V > 8 ? 8 : V) : 1)
#if defined(PN_STEP_columns)
ENTRY_OF_X(columns, PN_Y0, columns_body<32, W>)
#endif
#if defined(PN_STEP_columns_first)
ENTRY_OF_X(columns_first, Partial, columns_body<32, W>)
#endif
#if defined(PN_STEP_columns_second)
ENTRY(columns_second, PN_Y0, Partial, columns_body<32, 1>)
#endif
#if defined(PN_STEP_narrow)
ENTRY_OF_X(narrow, PN_Y0, columns_body<8, W>)
#endif
#if defined(PN_STEP_narrow_first)
ENTRY_OF_X(narrow_first, Partial, columns_body<8, W>)
#endif

// ---- lanes

PN_DEVICE void lanes_body(PN_Y0 *y, const Input *x, const pn_words &P, unsigned block) {
    const count_t k = (count_t)block * 256 + threadIdx.x;
    if (k >= (count_t)P[3]) return;
    emit(y, k, anyhow(x, kept_at(P, k), range_of(P, k), 0, 1, P), P);
}

#if defined(PN_STEP_lanes)
ENTRY_OF_X(lanes, PN_Y0, lanes_body)
#endif
