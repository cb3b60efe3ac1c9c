// y[o, index[o, j, i], i] += v[o, j, i] (or = v), j ascending; y holds values before.
// words: outer, count, inner, size, v_offset, v_outer, v_axis, v_inner, i_offset, i_outer,
//        i_axis, i_inner, and for owners: rows (of a block). An index in [-size, 0) counts
//        from the end; outside is a fault, and that element is left out.
//
// Whoever writes an element of y owns it, so there are no atomics and one order.
// lanes: a thread for each (o, i) walks all j. owners: a block owns some rows of y, and of
// each PN_ACROSS neighbours i (one, if indices differ along i). It reads all indices, 128
// at a time, keeps those of its rows in order, and thread (i, g) does the ones whose row
// is g modulo 128 / PN_ACROSS.
#include "index.cuh"

typedef PN_INDEX index_t;
typedef pn_unsigned<index_t> count_t;
typedef pn_compute<PN_Y0> T;

PN_DEVICE void update(PN_Y0 *y, PN_X0 v) {
#if defined(PN_OPTION_set)
    pn_convert(y, (T)pn_value(v));
#else
    pn_convert(y, (T)(pn_value(*y) + (T)pn_value(v)));
#endif
}

PN_DEVICE index_t index_at(const pn_words &P, index_t o, index_t j, index_t i) {
    return (index_t)P[8] + o * (index_t)P[9] + j * (index_t)P[10] + i * (index_t)P[11];
}
PN_DEVICE index_t value_at(const pn_words &P, index_t o, index_t j, index_t i) {
    return (index_t)P[4] + o * (index_t)P[5] + j * (index_t)P[6] + i * (index_t)P[7];
}

#if defined(PN_STEP_lanes)
PN_ENTRY(lanes, 128)
(PN_Y0 *__restrict__ y, const PN_X0 *__restrict__ values, const PN_X1 *__restrict__ indices,
 pn_fault fault, PN_P P) {
    const count_t e = (count_t)blockIdx.x * 128 + threadIdx.x, inner = (count_t)P[2];
    if (e >= (count_t)P[0] * inner) return;
    const index_t o = (index_t)(e / inner), i = (index_t)(e % inner);
    const index_t count = (index_t)P[1];
    for (index_t j = 0; j < count; j++) {
        const index_t a = (index_t)pn_place(indices, index_at(P, o, j, i), P[3], fault);
        if (a < 0) continue;
        update(y + (o * (index_t)P[3] + a) * (index_t)inner + i,
               values[value_at(P, o, j, i)]);
    }
}
PN_EXPORT(lanes)
#endif

#if defined(PN_STEP_owners)
PN_ENTRY(owners, 128)
(PN_Y0 *__restrict__ y, const PN_X0 *__restrict__ values, const PN_X1 *__restrict__ indices,
 pn_fault fault, PN_P P) {
    constexpr int GROUPS = 128 / PN_ACROSS;
    PN_SHARED(int, found_j, [128]);
    PN_SHARED(int, found_row, [128]);
    PN_SHARED(int, of_warp, [4]);
    const int t = threadIdx.x, warp = t / 32;
    const count_t inner = (count_t)P[2], size = (count_t)P[3], owned = (count_t)P[12];
    const count_t bands = (size + owned - 1) / owned, slabs = (inner + PN_ACROSS - 1) / PN_ACROSS;
    const count_t lane = blockIdx.x / bands, band = blockIdx.x - lane * bands;
    const index_t o = (index_t)(lane / slabs), slab = (index_t)(lane % slabs);
    const index_t first_row = (index_t)(band * owned), count = (index_t)P[1];
    const index_t i = slab * PN_ACROSS + t % PN_ACROSS;
    const int group = t / PN_ACROSS;
    const bool is_inside = (count_t)i < inner;
    for (index_t base = 0; base < count; base += 128) {
        const index_t j = base + t;
        index_t row = -1;
        if (j < count) {
            const index_t at = index_at(P, o, j, slab * PN_ACROSS);
            const index_t a = (index_t)pn_place(indices, at, P[3], fault);
            if (a >= first_row && a < first_row + (index_t)owned) row = a - first_row;
        }
        const unsigned mine = __ballot_sync(0xffffffffu, row >= 0);
        if (t % 32 == 0) of_warp[warp] = __popc(mine);
        __syncthreads();
        int at = __popc(mine & ((1u << t % 32) - 1)), all = 0;
        for (int w = 0; w < 4; w++) {
            if (w < warp) at += of_warp[w];
            all += of_warp[w];
        }
        if (row >= 0) {
            found_j[at] = t;
            found_row[at] = (int)row;
        }
        __syncthreads();
        for (int f = 0; f < all; f++) {
            if (!is_inside || found_row[f] % GROUPS != group) continue;
            const index_t a = first_row + found_row[f];
            update(y + (o * (index_t)size + a) * (index_t)inner + i,
                   values[value_at(P, o, base + found_j[f], i)]);
        }
        __syncthreads();
    }
}
PN_EXPORT(owners)
#endif
