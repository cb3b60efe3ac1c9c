// The order of numbers for sort.cu and search.cu: NaN is above all.

template <class C> PN_DEVICE bool pn_is_below(C a, C b) {
    return a < b || (b != b && a == a);
}
