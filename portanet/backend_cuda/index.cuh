// Indices that count from either end, for gather.cu and scatter.cu.

// The place of an index in an axis of `size`, or -1: it is outside, which is a fault.
template <class S>
PN_DEVICE long long pn_place(const S *indices, long long at, long long size, pn_fault fault) {
    const long long index = (long long)pn_load(indices, at);
    const long long place = index < 0 ? index + size : index;
    if (0 <= place && place < size) return place;
    pn_set_fault(fault, PN_INDEX_OUT_OF_RANGE, index, size);
    return -1;
}
