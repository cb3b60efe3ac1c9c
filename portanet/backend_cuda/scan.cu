// y[o, j, i] = which over l <= j of x[o, l, i]; exclusive leaves out l = j. y contiguous.
// Sums, products, logs of sums of exponentials, or the last place of the extreme so far.
// words: outer, n, inner, offset, outer_stride, axis_stride, inner_stride, chunks, chunk.
//
// lanes: a thread a row (o, i), in order. rows: a block a chunk of a row, 1024 elements at
// a time: four a thread in order, then over the lanes of a warp, then over the warps, then
// what came before. If a row has several chunks, `totals` makes the total of each first,
// and a block adds those before its own.
typedef PN_INDEX index_t;
typedef pn_unsigned<index_t> count_t;
#define ALL 0xffffffffu

// ---- The monoid: T, initial(), lift(v, j), combine(a, b) with a the earlier, result(a)

#if defined(PN_OPTION_argmax) || defined(PN_OPTION_argmin)
typedef pn_compute<PN_X0> X;
struct T {
    X value;
    int at;  // negative: nothing yet
};
PN_DEVICE T initial() { return T{X(), -1}; }
PN_DEVICE T lift(X v, index_t j) { return T{v, (int)j}; }
PN_DEVICE bool beats(X a, X b) {
#if defined(PN_OPTION_argmax)
    return a > b || (a != a && b == b);
#else
    return a < b || (a != a && b == b);
#endif
}
// The last of equals; NaN before all.
PN_DEVICE T combine(T a, T b) {
    return b.at < 0 || (a.at >= 0 && beats(a.value, b.value)) ? a : b;
}
PN_DEVICE int result(T a) { return a.at; }
PN_DEVICE T from_lower(T a, int reach) {
    return T{__shfl_up_sync(ALL, a.value, reach), __shfl_up_sync(ALL, a.at, reach)};
}
#else
typedef pn_compute<PN_Y0> T;
template <class X> PN_DEVICE T lift(X v, index_t) { return (T)v; }
PN_DEVICE T result(T a) { return a; }
PN_DEVICE T from_lower(T a, int reach) { return __shfl_up_sync(ALL, a, reach); }
#if defined(PN_OPTION_sum)
PN_DEVICE T initial() { return 0; }
PN_DEVICE T combine(T a, T b) { return a + b; }
#elif defined(PN_OPTION_prod)
PN_DEVICE T initial() { return 1; }
PN_DEVICE T combine(T a, T b) { return a * b; }
#elif defined(PN_OPTION_logsumexp)
PN_DEVICE T initial() { return -(T)INFINITY; }
PN_DEVICE float softplus(float x) { return log1pf(expf(x)); }
PN_DEVICE double softplus(double x) { return log1p(exp(x)); }
PN_DEVICE T combine(T a, T b) {
    if (a == b && a - b != 0) return a;  // infinities
    const T least = a < b ? a : b, most = a < b ? b : a;
    return most + softplus(least - most);
}
#endif
#endif

struct Row {
    index_t x, y;  // where it begins
};
PN_DEVICE Row row_at(const pn_words &P, count_t row) {
    const count_t inner = (count_t)P[2], o = row / inner, i = row - o * inner;
    return Row{(index_t)P[3] + (index_t)o * (index_t)P[4] + (index_t)i * (index_t)P[6],
               (index_t)o * (index_t)P[1] * (index_t)inner + (index_t)i};
}

PN_DEVICE void write(PN_Y0 *y, index_t at, T before, T after) {
#if defined(PN_OPTION_exclusive)
    pn_store(y, at, result(before));
#else
    pn_store(y, at, result(after));
#endif
}

#if defined(PN_STEP_lanes)
PN_ENTRY(lanes, 128)(PN_Y0 *__restrict__ y, const PN_X0 *__restrict__ x, PN_P P) {
    const count_t row = (count_t)blockIdx.x * 128 + threadIdx.x;
    if (row >= (count_t)(P[0] * P[2])) return;
    const Row at = row_at(P, row);
    const index_t n = (index_t)P[1], inner = (index_t)P[2], step = (index_t)P[5];
    T total = initial();
    for (index_t j = 0; j < n; j++) {
        const T before = total;
        total = combine(total, lift(pn_load(x, at.x + j * step), j));
        write(y, at.y + j * inner, before, total);
    }
}
PN_EXPORT(lanes)
#endif

// The four elements of a thread from j on, those past `end` being neutral.
PN_DEVICE void fetch(const PN_X0 *x, index_t at, index_t step, index_t j, index_t end,
                     T (&values)[4]) {
#pragma unroll
    for (int e = 0; e < 4; e++)
        values[e] = j + e < end ? lift(pn_load(x, at + (j + e) * step), j + e) : initial();
}

// Of each thread of 256: what is combined before it. `all`: of all. `parts` is shared.
PN_DEVICE T before_thread(T mine, T (&parts)[8], T &all) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    T sum = mine;
#pragma unroll
    for (int reach = 1; reach < 32; reach *= 2) {
        const T other = from_lower(sum, reach);
        if (lane >= reach) sum = combine(other, sum);
    }
    if (lane == 31) parts[warp] = sum;
    __syncthreads();
    T before = initial();
    all = initial();
#pragma unroll
    for (int w = 0; w < 8; w++) {
        if (w == warp) before = all;
        all = combine(all, parts[w]);
    }
    T left = from_lower(sum, 1);
    if (lane == 0) left = initial();
    __syncthreads();
    return combine(before, left);
}

#if defined(PN_STEP_rows) || defined(PN_STEP_rows_second)
PN_DEVICE void rows_body(PN_Y0 *y, const PN_X0 *x, const T *totals, const pn_words &P) {
    PN_SHARED(T, parts, [8]);
    const count_t chunks = (count_t)P[7], row = blockIdx.x / chunks;
    const count_t c = blockIdx.x - row * chunks;
    const Row at = row_at(P, row);
    const index_t n = (index_t)P[1], inner = (index_t)P[2], step = (index_t)P[5];
    const index_t chunk = (index_t)P[8], begin = (index_t)c * chunk;
    const index_t end = begin + chunk < n ? begin + chunk : n;
    T carry = initial();
    for (count_t from = 0; from < c; from += 256) {
        const count_t k = from + threadIdx.x;
        T all;
        before_thread(k < c ? totals[row * chunks + k] : initial(), parts, all);
        carry = combine(carry, all);
    }
    for (index_t block = begin; block < end; block += 1024) {
        const index_t first = block + 4 * (index_t)threadIdx.x;
        T values[4], all;
        fetch(x, at.x, step, first, end, values);
        const T mine = combine(combine(values[0], values[1]), combine(values[2], values[3]));
        T before = combine(carry, before_thread(mine, parts, all));
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const T after = combine(before, values[e]);
            if (first + e < end) write(y, at.y + (first + e) * inner, before, after);
            before = after;
        }
        carry = combine(carry, all);
    }
}
#endif

#if defined(PN_STEP_rows)
PN_ENTRY(rows, 256)(PN_Y0 *__restrict__ y, const PN_X0 *__restrict__ x, PN_P P) {
    rows_body(y, x, nullptr, P);
}
PN_EXPORT(rows)
#endif

#if defined(PN_STEP_rows_second)
PN_ENTRY(rows_second, 256)
(PN_Y0 *__restrict__ y, const PN_X0 *__restrict__ x, const T *__restrict__ totals, PN_P P) {
    rows_body(y, x, totals, P);
}
PN_EXPORT(rows_second)
#endif

#if defined(PN_STEP_totals)
PN_ENTRY(totals, 256)(T *__restrict__ totals, const PN_X0 *__restrict__ x, PN_P P) {
    PN_SHARED(T, parts, [8]);
    const count_t chunks = (count_t)P[7], row = blockIdx.x / chunks;
    const index_t chunk = (index_t)P[8], n = (index_t)P[1];
    const index_t begin = (index_t)(blockIdx.x - row * chunks) * chunk;
    const index_t end = begin + chunk < n ? begin + chunk : n;
    const Row at = row_at(P, row);
    T total = initial();
    for (index_t j = begin + 4 * (index_t)threadIdx.x; j < end; j += 1024) {
        T values[4];
        fetch(x, at.x, (index_t)P[5], j, end, values);
        total = combine(total, combine(combine(values[0], values[1]),
                                       combine(values[2], values[3])));
    }
    T all;
    before_thread(total, parts, all);
    if (threadIdx.x == 0) totals[blockIdx.x] = all;
}
PN_EXPORT(totals)
#endif
