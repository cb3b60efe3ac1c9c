// The body of pool.c for one type T; included once for each. TYPE(name) is the name
// with the type's suffix; IS_NAN(v) is false for integers.

// best and at of results [k, k + n), n <= BLOCK, take in tap t of the last axis, whose
// row of x starts at `row`.
static void TYPE(take)(const pooling *q, const T *x, int64_t row, int64_t t, int64_t k,
                       int64_t n, T *restrict best, int32_t *restrict at) {
    int64_t stride = q->stride[2], first = t * q->dilation[2] - q->padding[2];
    int64_t from = first < 0 ? larger(divided_up(-first, stride), k) : k, end = k + n;
    if (first + (end - 1) * stride >= q->x_sizes[2])  // some of them are past the row
        end = q->x_sizes[2] > first ? divided_up(q->x_sizes[2] - first, stride) : 0;
    const T *values = x + row + first;
    int32_t place = (int32_t)(row + first), step = (int32_t)stride;
    for (int64_t j = from; j < end; j++) {
        T v = values[j * stride], old = best[j - k];
        int32_t seen = at[j - k];
        bool wins = (seen < 0) | (v > old) | (IS_NAN(v) & !IS_NAN(old));
        best[j - k] = wins ? v : old;
        at[j - k] = wins ? place + (int32_t)j * step : seen;
    }
}

// The results of one row, windows all alike.
static void TYPE(do_row)(const pooling *q, const T *x, window u, window v, int32_t *y) {
    T best[BLOCK];
    for (int64_t k = 0; k < q->y_sizes[2]; k += BLOCK) {
        int64_t n = smaller(q->y_sizes[2] - k, BLOCK);
        for (int64_t j = 0; j < n; j++) best[j] = 0, y[k + j] = -1;
        for (int64_t a = 0; a < u.count; a++)
            for (int64_t b = 0; b < v.count; b++) {
                int64_t line = (u.begin + a * u.step) * q->x_sizes[1] + v.begin +
                               b * v.step;
                for (int64_t t = 0; t < q->kernel[2]; t++)
                    TYPE(take)(q, x, line * q->x_sizes[2], t, k, n, best, y + k);
            }
    }
}

// One result, where windows differ or rows are short. In a window of few elements a branch
// would be a coin's toss; in one of many it is seldom taken, and nothing waits for it.
static inline int32_t TYPE(find)(const pooling *q, const T *x, window u, window v, window w,
                                 const bool is_few) {
    if (u.count * v.count * w.count == 0) return -1;
    const int64_t width = q->x_sizes[2], height = q->x_sizes[1];
    int64_t found = (u.begin * height + v.begin) * width + w.begin;
    T best = x[found];
    for (int64_t a = 0; a < u.count; a++)
        for (int64_t b = 0; b < v.count; b++) {
            int64_t line = (u.begin + a * u.step) * height + v.begin + b * v.step;
            int64_t i = line * width + w.begin;
            for (int64_t c = 0; c < w.count; c++, i += w.step) {
                T value = x[i];
                if (is_few) best = x[found];
                int64_t wins = (value > best) | (IS_NAN(value) & !IS_NAN(best));
                if (is_few)
                    found ^= (found ^ i) & -wins;
                else if (wins)
                    found = i, best = value;
            }
        }
    return (int32_t)found;
}

static void TYPE(do_rows)(void *context, int64_t begin, int64_t end) {
    const pooling *q = context;
    int64_t width = q->y_sizes[2];
    bool is_long = q->kernel[2] > 0 && width >= SHORT;
    window columns[SHORT];
    for (int64_t k = 0; k < smaller(width, SHORT); k++) columns[k] = window_of(q, 2, k);
    for (int64_t r = begin; r < end; r++) {
        int64_t line = r / q->y_sizes[1];
        window v = window_of(q, 1, r % q->y_sizes[1]);
        window u = window_of(q, 0, line % q->y_sizes[0]);
        const T *x = (const T *)q->x + line / q->y_sizes[0] * q->x_size;
        int32_t *y = q->y + r * width;
        if (is_long) TYPE(do_row)(q, x, u, v, y);
        for (int64_t k = 0; k < width && !is_long; k++) {
            window w = k < SHORT ? columns[k] : window_of(q, 2, k);
            bool is_few = u.count * v.count * w.count <= FEW;
            y[k] = is_few ? TYPE(find)(q, x, u, v, w, true)
                          : TYPE(find)(q, x, u, v, w, false);
        }
    }
}

// best and at of n windows take in x[starts[j]], which is `on` from their first element.
static void TYPE(meet)(const T *restrict x, const int32_t *restrict starts, int32_t on,
                       int64_t n, T *restrict best, int32_t *restrict at) {
    for (int64_t j = 0; j < n; j++) {
        T v = x[starts[j]], old = best[j];
        bool wins = (v > old) | (IS_NAN(v) & !IS_NAN(old));
        best[j] = wins ? v : old;
        at[j] = wins ? on : at[j];
    }
}

// Planes [begin, end), several at a time. Window j of them begins at starts[j], which is
// inside[j] of its plane; all windows take in their first element, then their second ...
static void TYPE(do_planes)(void *context, int64_t begin, int64_t end) {
    const pooling *q = context;
    const int64_t width = q->x_sizes[2], height = q->x_sizes[1];
    const int64_t *k = q->kernel, *step = q->dilation;
    int64_t most = smaller(BLOCK / q->y_size, divided_up(TOGETHER, q->x_size));
    most = smaller(most, end - begin);
    int32_t starts[BLOCK], inside[BLOCK];
    T best[BLOCK];
    int64_t j = 0;
    for (int64_t u = 0; u < q->y_sizes[0]; u++)
        for (int64_t v = 0; v < q->y_sizes[1]; v++)
            for (int64_t w = 0; w < q->y_sizes[2]; w++)
                inside[j++] = (int32_t)((u * q->stride[0] * height + v * q->stride[1]) * width +
                                        w * q->stride[2]);
    for (j = 0; j < most * q->y_size; j++) {
        starts[j] = inside[j % q->y_size] + (int32_t)(j / q->y_size * q->x_size);
        inside[j] = inside[j % q->y_size];
    }
    for (int64_t p = begin, n; p < end; p += n) {
        n = smaller(most, end - p);
        const int64_t results = n * q->y_size;
        const T *x = (const T *)q->x + p * q->x_size;
        int32_t *y = q->y + p * q->y_size;
        for (j = 0; j < results; j++) best[j] = x[starts[j]], y[j] = 0;
        for (int64_t i = 1; i < k[0] * k[1] * k[2]; i++) {
            int64_t line = i / k[2], a = line / k[1] * step[0], b = line % k[1] * step[1];
            int32_t on = (int32_t)((a * height + b) * width + i % k[2] * step[2]);
            TYPE(meet)(x + on, starts, on, results, best, y);
        }
        for (j = 0; j < results; j++) y[j] += inside[j];
    }
}

#undef T
#undef TYPE
#undef IS_NAN
