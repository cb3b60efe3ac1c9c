// y_j[i] = f_j(x_0[i], x_1[i], ..., sums and maxima of the row of i), for rows of P(last)
// elements that follow each other.
//
// T threads share a row and read it once: thread t has the packs of PN_V neighbours at
// (p T + t) PN_V, p < PN_PACKS, and keeps in registers what is needed after a sum. A row
// too long for that (PN_PACKS 0) is read again after each sum. Up to 32 threads are lanes
// of one warp; more are a block, with a row of its own. T is PN_T, or, for rows of a pack a
// lane, a word.
// Sums: of a pack in pairs, of a thread's packs in order, of threads by a butterfly. Their
// order depends on the row's length and the types alone.
// Words: those of elementwise, then the elements of a row, then T. The lines between are
// written by phases.py: for each sum a loop over the thread's packs, one for the results.

#define W(k) ((PN_INDEX)P[k])
#define WARPS (PN_T / 32)
#define ALL 0xffffffffu

struct pn_sum {
    template <class C> static PN_MEMBER C start() { return 0; }
    template <class C> static PN_MEMBER C of(C a, C b) { return a + b; }
};
struct pn_most {
    template <class C> static PN_MEMBER C start() { return -(C)INFINITY; }
    template <class C> static PN_MEMBER C of(C a, C b) { return pn_maximum(a, b); }
};

// Pairs, then pairs of pairs.
template <class How, int N, class C> PN_DEVICE C of_pack(const C *values) {
    if constexpr (N == 1)
        return values[0];
    else
        return How::of(of_pack<How, N / 2>(values), of_pack<How, N / 2>(values + N / 2));
}

// The values of `n` neighbouring lanes: each of them gets the same.
template <class How, class C> PN_DEVICE C of_lanes(C a, int n) {
#pragma unroll
    for (int distance = n / 2; distance > 0; distance /= 2)
        a = How::of(a, __shfl_xor_sync(ALL, a, distance));
    return a;
}

// Of a block: each warp leaves its part, and after `meet` each reads all of them.
template <class C> PN_DEVICE void leave(C *parts, C a) {
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = a;
}
PN_DEVICE void meet() { __syncthreads(); }
template <class How, class C> PN_DEVICE C of_warps(const C *parts) {
    return of_lanes<How>(parts[threadIdx.x % WARPS], WARPS);
}

PN_ENTRY(rows, PN_BLOCK)($operands, PN_P P) {
    const PN_INDEX row = W($row), rows = pn_quotient(W(0), row);
    const int T = PN_T ? PN_T : (int)P[$row + 1], lanes = PN_T ? 32 : T;
    const PN_INDEX wanted = (PN_INDEX)blockIdx.x * (PN_BLOCK / T) + threadIdx.x / T;
    if (PN_T && wanted >= rows) return;  // the whole warp
    // Lanes that are left over take part in sums, with nothing.
    const int n = wanted < rows ? (int)row : 0, t = threadIdx.x % T;
    const PN_INDEX r = wanted < rows ? wanted : rows - 1, first = r * row;
$kernel
}
PN_EXPORT(rows)
