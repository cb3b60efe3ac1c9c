// The body of group_norm.c for one type T; included once for each. TYPE(name) is the name
// with the type's suffix.
#include "normalise_rows.h"

static const T *TYPE(input)(const group_norm *q, int k, int outputs) {
    return (const T *)q->args->buffers[outputs + k] + q->args->words[5 + k];
}

// wide[c n + i] = narrow[c]
static void TYPE(spread_over)(const group_norm *q, const T *narrow, T *wide) {
    for (int64_t c = 0; c < q->channels; c++)
        for (int64_t i = 0; i < q->n; i++) *wide++ = narrow[c];
}

static void TYPE(forward)(void *context, int64_t begin, int64_t end) {
    group_norm *q = context;
    const int64_t row = q->row, nbytes = 2 * row * (int64_t)sizeof(T);
    T *scratch = pn_alloc(nbytes), *restrict w = scratch, *restrict b = scratch + row;
    if (!scratch) {
        q->out_of_memory = true;
        return;
    }
    for (int64_t t = begin; t < end; t++) {
        int64_t group, image, last = images_of(q, t, &group, &image);
        TYPE(spread_over)(q, TYPE(input)(q, 1, 1) + group * q->channels, w);
        TYPE(spread_over)(q, TYPE(input)(q, 2, 1) + group * q->channels, b);
        for (; image < last; image++) {
            int64_t at = (image * q->groups + group) * row;
            const T *x = TYPE(input)(q, 0, 1) + at;
            T *restrict y = (T *)q->args->buffers[0] + at, mean, scale;
            TYPE(row_moments)(x, row, q->eps, &mean, &scale);
            for (int64_t i = 0; i < row; i++) y[i] = (x[i] - mean) * scale * w[i] + b[i];
        }
    }
    pn_free(scratch, nbytes);
}

// sums[c] = the sum over i of wide[c n + i]
static void TYPE(gather_sums)(const group_norm *q, const T *wide, T *sums) {
    for (int64_t c = 0; c < q->channels; c++) {
        double sum = 0;
        for (int64_t i = 0; i < q->n; i++) sum += *wide++;
        sums[c] = (T)sum;
    }
}

static void TYPE(slope)(void *context, int64_t begin, int64_t end) {
    group_norm *q = context;
    const int64_t row = q->row, nbytes = 3 * row * (int64_t)sizeof(T);
    T *w = pn_alloc(nbytes), *w_sum = w + row, *b_sum = w + 2 * row;
    if (!w) {
        q->out_of_memory = true;
        return;
    }
    for (int64_t t = begin; t < end; t++) {
        int64_t group, image, last = images_of(q, t, &group, &image);
        int64_t of_all = q->groups * q->channels;
        T *sums = (T *)q->parts + image / STRETCH * 2 * of_all + group * q->channels;
        TYPE(spread_over)(q, TYPE(input)(q, 2, 3) + group * q->channels, w);
        memset(w_sum, 0, 2 * (size_t)row * sizeof(T));
        for (; image < last; image++) {
            int64_t at = (image * q->groups + group) * row;
            TYPE(row_slope)(TYPE(input)(q, 0, 3) + at, TYPE(input)(q, 1, 3) + at, w, row,
                            q->eps, (T *)q->args->buffers[0] + at, w_sum, b_sum);
        }
        TYPE(gather_sums)(q, w_sum, sums);
        TYPE(gather_sums)(q, b_sum, sums + of_all);
    }
    pn_free(w, nbytes);
}

static void TYPE(add_parts)(const group_norm *q, int64_t stretches) {
    int64_t of_all = q->groups * q->channels;
    for (int k = 0; k < 2; k++)
        for (int64_t c = 0; c < of_all; c++) {
            double sum = 0;
            for (int64_t s = 0; s < stretches; s++)
                sum += ((const T *)q->parts)[(2 * s + k) * of_all + c];
            ((T *)q->args->buffers[1 + k])[c] = (T)sum;
        }
}

#undef T
#undef TYPE
