// One row that is normalised, for one type T; included once for each. TYPE(name) is the
// name with the type's suffix. h = (x - mean) / sqrt(var + eps).

static void TYPE(row_moments)(const T *x, int64_t n, double eps, T *mean, T *scale) {
    *mean = (T)(TYPE(sum)(x, n) / (double)n);
    double var = TYPE(spread)(x, *mean, n) / (double)n;
    *scale = (T)(1 / sqrt(var + eps));
}

// With p = g w:  y = (p - mean p - h mean(p h)) / sqrt(var + eps); g h is added to w_sum
// and g to b_sum. Sums are those of rows.h.
static void TYPE(row_slope)(const T *g, const T *x, const T *w, int64_t n, double eps,
                            T *restrict y, T *restrict w_sum, T *restrict b_sum) {
    const int64_t lanes = sizeof(TYPE(vec)) / sizeof(T);
    double p_sum = 0, pa_sum = 0;
    T mean, scale;
    TYPE(row_moments)(x, n, eps, &mean, &scale);
    for (int64_t i = 0; i < n;) {
        int64_t end = i + BLOCK < n ? i + BLOCK : n;
        TYPE(vec) p_part = {0}, pa_part = {0};
        T p_rest = 0, pa_rest = 0;
        for (; i + lanes <= end; i += lanes) {
            TYPE(vec) gs = TYPE(VECTOR_AT)(g), away = TYPE(VECTOR_AT)(x) - mean;
            TYPE(vec) p = gs * TYPE(VECTOR_AT)(w);
            p_part += p, pa_part += p * away;
            *(TYPE(loose) *)(w_sum + i) += gs * (away * scale);
            *(TYPE(loose) *)(b_sum + i) += gs;
        }
        for (; i < end; i++) {
            T away = x[i] - mean, p = g[i] * w[i];
            p_rest += p, pa_rest += p * away;
            w_sum[i] += g[i] * (away * scale);
            b_sum[i] += g[i];
        }
        p_sum += TYPE(folded)(p_part) + p_rest, pa_sum += TYPE(folded)(pa_part) + pa_rest;
    }
    T p_mean = (T)(p_sum / (double)n);
    T ph_mean = (T)(pa_sum * (double)scale / (double)n);
    for (int64_t i = 0; i < n; i++)
        y[i] = (g[i] * w[i] - p_mean - (x[i] - mean) * scale * ph_mean) * scale;
}

