// y[o, j, i] = x[o, index[o, j, i], i].
// words: outer, count, inner, size, x_offset, x_outer, x_axis, x_inner, i_offset, i_outer,
//        i_axis, i_inner. An index in [-size, 0) counts from the end; outside is a fault.
//
// each: a thread an element of y. rows: the index is the same along i, and a thread moves
// PN_VECTOR neighbours, as for an embedding.
#include "index.cuh"

typedef PN_INDEX index_t;
typedef pn_unsigned<index_t> count_t;

#if defined(PN_STEP_each)
PN_ENTRY(each, 256)
(PN_Y0 *__restrict__ y, const PN_X0 *__restrict__ x, const PN_X1 *__restrict__ indices,
 pn_fault fault, PN_P P) {
    const count_t e = (count_t)blockIdx.x * 256 + threadIdx.x;
    const count_t count = (count_t)P[1], inner = (count_t)P[2];
    if (e >= (count_t)P[0] * count * inner) return;
    const count_t row = e / inner, o = row / count;
    const index_t i = (index_t)(e - row * inner), j = (index_t)(row - o * count);
    const index_t at = (index_t)P[8] + (index_t)o * (index_t)P[9] + j * (index_t)P[10] +
                       i * (index_t)P[11];
    const index_t a = (index_t)pn_place(indices, at, P[3], fault);
    PN_Y0 v = {};
    if (a >= 0)
        v = x[(index_t)P[4] + (index_t)o * (index_t)P[5] + a * (index_t)P[6] +
              i * (index_t)P[7]];
    y[e] = v;
}
PN_EXPORT(each)
#endif

#if defined(PN_STEP_rows)
PN_ENTRY(rows, 256)
(PN_Y0 *__restrict__ y, const PN_X0 *__restrict__ x, const PN_X1 *__restrict__ indices,
 pn_fault fault, PN_P P) {
    typedef pn_pack<PN_X0, PN_VECTOR> Pack;
    const count_t e = (count_t)blockIdx.x * 256 + threadIdx.x;
    const count_t count = (count_t)P[1], packs = (count_t)P[2] / PN_VECTOR;
    if (e >= (count_t)P[0] * count * packs) return;
    const count_t row = e / packs, o = row / count;
    const index_t i = (index_t)(e - row * packs) * PN_VECTOR, j = (index_t)(row - o * count);
    const index_t at = (index_t)P[8] + (index_t)o * (index_t)P[9] + j * (index_t)P[10];
    const index_t a = (index_t)pn_place(indices, at, P[3], fault);
    Pack v = {};
    if (a >= 0)
        v = *(const Pack *)(x + (index_t)P[4] + (index_t)o * (index_t)P[5] +
                            a * (index_t)P[6] + i);
    ((Pack *)y)[e] = v;
}
PN_EXPORT(rows)
#endif
