// y[n, p] = the place in plane n of x, row-major, of the largest x[n, p * stride + t *
// dilation - padding] over t, for p and t of three axes: the first of equals, NaN before
// all; places outside x do not count. Where kernel is 0 the windows are adaptive: p takes
// [p x / y, (p + 1) x / y), widened to whole elements. One thread an element of y.
// words: planes, x[3], y[3], kernel[3], stride[3], padding[3], dilation[3], x_offset
typedef PN_INDEX index_t;
typedef pn_unsigned<index_t> count_t;

struct Window {
    int begin, step, count;
};
PN_DEVICE Window window_of(const pn_words &P, int d, int p) {
    const int n = (int)P[1 + d], kernel = (int)P[7 + d];
    if (kernel == 0) {
        const long long y = P[4 + d];
        const int begin = (int)((long long)p * n / y);
        return Window{begin, 1, (int)(((long long)(p + 1) * n + y - 1) / y) - begin};
    }
    const int step = (int)P[16 + d];
    const int begin = (int)(p * P[10 + d] - P[13 + d]);
    const int skipped = begin < 0 ? (-begin + step - 1) / step : 0;
    int end = begin < n ? (n - begin + step - 1) / step : 0;
    if (end > kernel) end = kernel;
    return Window{begin + skipped * step, step, end > skipped ? end - skipped : 0};
}

PN_ENTRY(pool, 128, 8)(PN_Y0 *__restrict__ y, const PN_X0 *__restrict__ x, PN_P P) {
    typedef pn_compute<PN_X0> T;
    const count_t e = (count_t)blockIdx.x * 128 + threadIdx.x;
    const count_t columns = (count_t)P[6], rows = (count_t)P[5], layers = (count_t)P[4];
    if (e >= (count_t)P[0] * columns * rows * layers) return;
    const count_t row = e / columns, layer = row / rows, plane = layer / layers;
    const Window w = window_of(P, 2, (int)(e - row * columns));
    const Window v = window_of(P, 1, (int)(row - layer * rows));
    const Window u = window_of(P, 0, (int)(layer - plane * layers));
    const int width = (int)P[3], height = (int)P[2];
    x += (index_t)P[19] + (index_t)plane * (index_t)(P[1] * P[2] * P[3]);
    T best = 0;
    int found = -1;
    for (int a = 0; a < u.count; a++)
        for (int b = 0; b < v.count; b++) {
            const int line = ((u.begin + a * u.step) * height + v.begin + b * v.step) * width;
            for (int c = 0; c < w.count; c++) {
                const int at = line + w.begin + c * w.step;
                const T value = pn_load(x, at);
                const bool is_larger = value > best || (value != value && best == best);
                if (found < 0 || is_larger) {
                    best = value;
                    found = at;
                }
            }
        }
    y[e] = found;
}
PN_EXPORT(pool)
