// y[n, p] = sum over t, q with q * stride + t * dilation = p of x[n, t, q], for p, t, q of
// two axes; t ascending. A thread an element of y; neighbours read neighbours where the
// stride is 1. words: n (of y), planes, y[2], q[2], t[2], stride[2], dilation[2], x_offset
typedef PN_INDEX index_t;
typedef pn_unsigned<index_t> count_t;
typedef pn_compute<PN_Y0> T;

// The q of tap t at place p of an axis, or -1.
PN_DEVICE int source(const pn_words &P, int axis, int p, int t) {
    const int stride = (int)P[8 + axis], from = p - t * (int)P[10 + axis];
    if (from < 0) return -1;
    const int q = from / stride;
    return q * stride == from && q < (int)P[4 + axis] ? q : -1;
}

PN_ENTRY(fold, 128)(PN_Y0 *__restrict__ y, const PN_X0 *__restrict__ x, PN_P P) {
    const count_t e = (count_t)blockIdx.x * 128 + threadIdx.x;
    if (e >= (count_t)P[0]) return;
    const count_t columns = (count_t)P[3], rows = (count_t)P[2], line = e / columns;
    const count_t plane = line / rows;
    const int column = (int)(e - line * columns), row = (int)(line - plane * rows);
    const int down = (int)P[6], across = (int)P[7], height = (int)P[4], width = (int)P[5];
    x += P[12] + (long long)plane * down * across * height * width;
    T total = 0;
    for (int a = 0; a < down; a++) {
        const int i = source(P, 0, row, a);
        if (i < 0) continue;
        for (int b = 0; b < across; b++) {
            const int j = source(P, 1, column, b);
            if (j < 0) continue;
            total += (T)pn_load(x, ((index_t)(a * across + b) * height + i) * width + j);
        }
    }
    pn_store(y, e, total);
}
PN_EXPORT(fold)
