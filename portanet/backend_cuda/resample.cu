// y[o, p, i] = sum over t < taps of weights[p, t] * x[o, first[p] + t, i]. A thread an
// element of y. words: n (of y), outer, count (of p), inner, size (of x's axis), taps,
// x_offset, first_offset, weights_offset
typedef PN_INDEX index_t;
typedef pn_unsigned<index_t> count_t;
typedef pn_compute<PN_Y0> T;

PN_ENTRY(resample, 128)
(PN_Y0 *__restrict__ y, const PN_X0 *__restrict__ x, const PN_X1 *__restrict__ first,
 const PN_X2 *__restrict__ weights, PN_P P) {
    const count_t e = (count_t)blockIdx.x * 128 + threadIdx.x;
    if (e >= (count_t)P[0]) return;
    const count_t inner = (count_t)P[3], count = (count_t)P[2], row = e / inner;
    const count_t o = row / count;
    const index_t i = (index_t)(e - row * inner), p = (index_t)(row - o * count);
    const int taps = (int)P[5];
    const index_t from = (index_t)pn_load(first, P[7] + p);
    const index_t at = (index_t)P[6] + ((index_t)o * (index_t)P[4] + from) * (index_t)inner + i;
    weights += P[8] + (long long)p * taps;
    T total = 0;
    for (int t = 0; t < taps; t++)
        total += (T)pn_load(weights, t) * (T)pn_load(x, at + t * (index_t)inner);
    pn_store(y, e, total);
}
PN_EXPORT(resample)
