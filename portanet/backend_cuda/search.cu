// y[r, q] = how many of x[r], ascending, are below v[r, q] (left) or not above it (right),
// NaN above all. A thread makes one element, by halving.
// words: n (of y), count, size, x_offset, x_row, x_step, v_offset, v_row, v_step.
#include "order.cuh"

PN_ENTRY(search, 256)
(PN_Y0 *__restrict__ y, const PN_X0 *__restrict__ x, const PN_X1 *__restrict__ v, PN_P P) {
    const long long e = (long long)blockIdx.x * 256 + threadIdx.x;
    if (e >= P[0]) return;
    const long long row = e / P[1], q = e - row * P[1];
    const auto wanted = pn_load(v, P[6] + row * P[7] + q * P[8]);
    const long long first = P[3] + row * P[4];
    long long low = 0, high = P[2];
    while (low < high) {
        const long long middle = low + (high - low) / 2;
        const auto found = pn_load(x, first + middle * P[5]);
#if defined(PN_OPTION_left)
        const bool is_before = pn_is_below(found, wanted);
#else
        const bool is_before = !pn_is_below(wanted, found);
#endif
        if (is_before)
            low = middle + 1;
        else
            high = middle;
    }
    y[e] = (PN_Y0)low;
}
PN_EXPORT(search)
