// y[r, :kept]: the places of x[r] in order, of equals the first first, NaN above all.
// words: rows, n, kept, offset, row_stride, step, then for merge the length of the runs.
// Here kept is of the buffer that is written: n but in the last step.
//
// runs: a block sorts PN_RUN neighbours of a row in shared memory, by a bitonic network
// (Batcher, AFIPS 1968). The place is part of the order, so no two elements are equal.
// merge: runs of a length become runs of twice the length; a thread finds where its element
// goes by halving the other run. What moves is places; x is read through them.
#include "order.cuh"

typedef pn_compute<PN_X0> C;
constexpr int NONE = 0x7fffffff;  // the place of what is past the end of a row: last of all

PN_DEVICE bool is_before(C a, int i, C b, int j) {
    if (i == NONE || j == NONE) return j == NONE && i != NONE;
#if defined(PN_OPTION_descending)
    if (pn_is_below(b, a)) return true;
    if (pn_is_below(a, b)) return false;
#else
    if (pn_is_below(a, b)) return true;
    if (pn_is_below(b, a)) return false;
#endif
    return i < j;
}

#if defined(PN_STEP_runs)
PN_ENTRY(runs, PN_RUN / 2)(int *__restrict__ y, const PN_X0 *__restrict__ x, PN_P P) {
    PN_SHARED(C, keys, [PN_RUN]);
    PN_SHARED(int, places, [PN_RUN]);
    const long long n = P[1], count = (n + PN_RUN - 1) / PN_RUN;
    const long long row = blockIdx.x / count, first = (blockIdx.x - row * count) * PN_RUN;
    const int t = threadIdx.x;
    for (int k = t; k < PN_RUN; k += PN_RUN / 2) {
        const bool is_there = first + k < n;
        if (is_there) keys[k] = pn_load(x, P[3] + row * P[4] + (first + k) * P[5]);
        else keys[k] = C(0);
        places[k] = is_there ? (int)(first + k) : NONE;
    }
    for (int size = 2; size <= PN_RUN; size *= 2)
        for (int apart = size / 2; apart > 0; apart /= 2) {
            __syncthreads();
            const int low = 2 * t - (t & (apart - 1)), high = low + apart;
            const C a = keys[low], b = keys[high];
            const int i = places[low], j = places[high];
            const bool goes_up = !(low & size);
            const bool swap = goes_up ? is_before(b, j, a, i) : is_before(a, i, b, j);
            if (swap) {
                keys[low] = b, keys[high] = a;
                places[low] = j, places[high] = i;
            }
        }
    __syncthreads();
    for (int k = t; k < PN_RUN; k += PN_RUN / 2)
        if (first + k < P[2]) y[row * P[2] + first + k] = places[k];
}
PN_EXPORT(runs)
#endif

#if defined(PN_STEP_merge)
PN_ENTRY(merge, 256)
(int *__restrict__ y, const int *__restrict__ places, const PN_X0 *__restrict__ x, PN_P P) {
    const long long e = (long long)blockIdx.x * 256 + threadIdx.x;
    const long long n = P[1], run = P[6];
    if (e >= P[0] * n) return;
    const long long row = e / n, p = e - row * n;
    const long long mine = p / run * run, pair = p / (2 * run) * (2 * run);
    const long long other = mine == pair ? mine + run : pair;
    const long long end = other + run < n ? other + run : n;
    const long long at = P[3] + row * P[4];
    const int place = places[e];
    const C key = pn_load(x, at + place * P[5]);
    long long low = other, high = end;
    while (low < high) {
        const long long middle = low + (high - low) / 2;
        const int seen = places[row * n + middle];
        if (is_before(pn_load(x, at + seen * P[5]), seen, key, place))
            low = middle + 1;
        else
            high = middle;
    }
    const long long before = low > other ? low - other : 0;
    const long long to = pair + (p - mine) + before;
    if (to < P[2]) y[row * P[2] + to] = place;
}
PN_EXPORT(merge)
#endif
