// y_j[i] = f_j(x_0[i], x_1[i], ...), i row-major over the shape. A thread makes PN_VECTOR
// neighbours: an operand that has them side by side is moved in one piece of 16 bytes or
// less, one that is the same for all of them is read once.
// Words: n, the offset of each operand, shape[rank], strides[rank] of each "v" operand.
// The lines between are written by lower.py: a coordinate for each dimension, a load for
// each input, a line for each instruction, a store for each output; and first, of launches
// side by side, which one this block is of.

#define W(k) ((PN_INDEX)P[k])

template <class T> struct alignas(PN_VECTOR * sizeof(T)) pack {
    T at[PN_VECTOR];
};
template <class T> PN_DEVICE pack<T> load_pack(const T *x) { return *(const pack<T> *)x; }
template <class T> PN_DEVICE void store_pack(T *y, pack<T> v) { *(pack<T> *)y = v; }

PN_DEVICE void element($parameters) {
$body
}

PN_ENTRY(elementwise, 256)($operands) {
$start
    const PN_INDEX n = W(0);
    PN_INDEX i = ((PN_INDEX)block * 256 + (PN_INDEX)threadIdx.x) * PN_VECTOR;
    if (i >= n) return;
$kernel
}
PN_EXPORT(elementwise)
