// The channels of normalise.c for one type T; included once for each. TYPE(name) is the
// name with the type's suffix.
//
// Planes are short in a network's last layers, so channels whose planes have at most
// WIDEST elements are done as columns: a strip of channels is a run of each image, and
// every element of the run has its own sums over the images. They are added up in T over
// CHUNK images, then in float64.

// What one strip needs of each of its columns.
typedef struct {
    T middle[COLUMNS], scale[COLUMNS], shift[COLUMNS], slope[COLUMNS];
    double first[COLUMNS], second[COLUMNS];
} TYPE(strip);

// Over the images, of each column: x; (x - middle)^2; or g, and g (x - middle).
static inline __attribute__((always_inline)) void TYPE(column_sums)(
    const int what, const norm *q, const T *g, const T *x, int64_t columns,
    TYPE(strip) *s) {
    int64_t step = q->rows * q->n;
    T one[COLUMNS], two[COLUMNS];
    for (int64_t j = 0; j < columns; j++) s->first[j] = s->second[j] = 0;
    for (int64_t m = 0; m < q->images;) {
        int64_t end = m + CHUNK < q->images ? m + CHUNK : q->images;
        for (int64_t j = 0; j < columns; j++) one[j] = two[j] = 0;
        for (; m < end; m++)
            for (int64_t j = 0; j < columns; j++) {
                T v = x[m * step + j], away = v - s->middle[j];
                one[j] += what == SUM ? v : what == DISTANCES ? away * away : g[m * step + j];
                if (what == SLOPES) two[j] += g[m * step + j] * away;
            }
        for (int64_t j = 0; j < columns; j++) s->first[j] += one[j], s->second[j] += two[j];
    }
}

static double TYPE(of_channel)(const double *columns, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += columns[i];
    return sum;
}

static void TYPE(fill)(T *columns, int64_t n, T value) {
    for (int64_t i = 0; i < n; i++) columns[i] = value;
}

// The sum over images of one of rows.h's sums, where planes are long.
static void TYPE(long_moments)(const norm *q, int64_t channel, double count, T *mean,
                               T *var) {
    int64_t step = q->rows * q->n;
    const T *x = TYPE(input)(q, 0, 2) + channel * q->n;
    double sum = 0;
    for (int64_t m = 0; m < q->images; m++) sum += TYPE(sum)(x + m * step, q->n);
    *mean = (T)(sum / count), sum = 0;
    for (int64_t m = 0; m < q->images; m++) sum += TYPE(spread)(x + m * step, *mean, q->n);
    *var = (T)(sum / count);
}

static void TYPE(moments)(void *context, int64_t begin, int64_t end) {
    const norm *q = context;
    T *mean = q->args->buffers[0], *var = q->args->buffers[1];
    double count = (double)q->images * (double)q->n;
    TYPE(strip) s;
    for (int64_t c = begin, channels; c < end; c += channels) {
        channels = strip_of(q, end - c);
        if (!channels) {
            TYPE(long_moments)(q, c, count, mean + c, var + c);
            channels = 1;
            continue;
        }
        const T *x = TYPE(input)(q, 0, 2) + c * q->n;
        TYPE(column_sums)(SUM, q, x, x, channels * q->n, &s);
        for (int64_t i = 0; i < channels; i++) {
            mean[c + i] = (T)(TYPE(of_channel)(s.first + i * q->n, q->n) / count);
            TYPE(fill)(s.middle + i * q->n, q->n, mean[c + i]);
        }
        TYPE(column_sums)(DISTANCES, q, x, x, channels * q->n, &s);
        for (int64_t i = 0; i < channels; i++)
            var[c + i] = (T)(TYPE(of_channel)(s.first + i * q->n, q->n) / count);
    }
}

static T TYPE(scale_of)(const norm *q, T var) {
    return (T)(1 / sqrt((double)var + q->eps));
}

static void TYPE(channels)(void *context, int64_t begin, int64_t end) {
    const norm *q = context;
    const T *w = TYPE(input)(q, 1, 1), *b = TYPE(input)(q, 2, 1);
    const T *mean = TYPE(input)(q, 3, 1), *var = TYPE(input)(q, 4, 1);
    int64_t step = q->rows * q->n;
    TYPE(strip) s;
    for (int64_t c = begin, channels; c < end; c += channels) {
        channels = strip_of(q, end - c);
        const T *x = TYPE(input)(q, 0, 1) + c * q->n;
        T *restrict y = (T *)q->args->buffers[0] + c * q->n;
        for (int64_t i = 0; i < channels; i++) {
            TYPE(fill)(s.middle + i * q->n, q->n, mean[c + i]);
            TYPE(fill)(s.scale + i * q->n, q->n, TYPE(scale_of)(q, var[c + i]) * w[c + i]);
            TYPE(fill)(s.shift + i * q->n, q->n, b[c + i]);
        }
        for (int64_t m = 0; m < q->images && channels; m++)
            for (int64_t j = 0; j < channels * q->n; j++)
                y[m * step + j] = (x[m * step + j] - s.middle[j]) * s.scale[j] + s.shift[j];
        if (channels) continue;
        channels = 1;
        T scale = TYPE(scale_of)(q, var[c]) * w[c], middle = mean[c], shift = b[c];
        for (int64_t m = 0; m < q->images; m++)
            for (int64_t j = 0; j < q->n; j++)
                y[m * step + j] = (x[m * step + j] - middle) * scale + shift;
    }
}

// Sums of g and of g (x - mean) over a long channel. Vectors run on from image to image,
// and are added up every BLOCK elements.
static void TYPE(channel_sums)(const norm *q, int64_t channel, T mean, double *g_sum,
                               double *gx_sum) {
    const int64_t lanes = sizeof(TYPE(vec)) / sizeof(T);
    TYPE(vec) g_part = {0}, gx_part = {0};
    int64_t held = 0;
    *g_sum = *gx_sum = 0;
    for (int64_t m = 0; m < q->images; m++) {
        int64_t at = (m * q->rows + channel) * q->n, i = 0;
        const T *g = TYPE(input)(q, 0, 3) + at, *x = TYPE(input)(q, 1, 3) + at;
        T g_rest = 0, gx_rest = 0;
        for (; i + lanes <= q->n; i += lanes, held += lanes) {
            if (held >= BLOCK) {
                for (int64_t l = 0; l < lanes; l++) {
                    *g_sum += g_part[l];
                    *gx_sum += gx_part[l];
                }
                g_part = gx_part = (TYPE(vec)){0};
                held = 0;
            }
            g_part += TYPE(VECTOR_AT)(g);
            gx_part += TYPE(VECTOR_AT)(g) * (TYPE(VECTOR_AT)(x) - mean);
        }
        for (; i < q->n; i++) {
            g_rest += g[i];
            gx_rest += g[i] * (x[i] - mean);
        }
        *g_sum += g_rest;
        *gx_sum += gx_rest;
    }
    for (int64_t l = 0; l < lanes; l++) {
        *g_sum += g_part[l];
        *gx_sum += gx_part[l];
    }
}

// Of one channel: its sums to the outputs; y = (g - shift - (x - middle) slope) factor.
typedef struct {
    T shift, middle, slope, factor;
} TYPE(line);

static TYPE(line) TYPE(line_of)(const norm *q, int64_t c, double g_sum, double gx_sum) {
    double count = (double)q->images * (double)q->n;
    double scale = 1 / sqrt((double)TYPE(input)(q, 4, 3)[c] + q->eps);
    ((T *)q->args->buffers[1])[c] = (T)(gx_sum * scale);
    ((T *)q->args->buffers[2])[c] = (T)g_sum;
    return (TYPE(line)){(T)(g_sum / count), TYPE(input)(q, 3, 3)[c],
                        (T)(gx_sum * scale * scale / count),
                        (T)((double)TYPE(input)(q, 2, 3)[c] * scale)};
}

static void TYPE(channels_slope)(void *context, int64_t begin, int64_t end) {
    const norm *q = context;
    const T *mean = TYPE(input)(q, 3, 3);
    int64_t step = q->rows * q->n;
    TYPE(strip) s;
    for (int64_t c = begin, channels; c < end; c += channels) {
        channels = strip_of(q, end - c);
        const T *g = TYPE(input)(q, 0, 3) + c * q->n, *x = TYPE(input)(q, 1, 3) + c * q->n;
        T *restrict y = (T *)q->args->buffers[0] + c * q->n;
        for (int64_t i = 0; i < channels; i++)
            TYPE(fill)(s.middle + i * q->n, q->n, mean[c + i]);
        if (channels) TYPE(column_sums)(SLOPES, q, g, x, channels * q->n, &s);
        for (int64_t i = 0; i < channels; i++) {
            TYPE(line) v = TYPE(line_of)(q, c + i, TYPE(of_channel)(s.first + i * q->n, q->n),
                                         TYPE(of_channel)(s.second + i * q->n, q->n));
            TYPE(fill)(s.scale + i * q->n, q->n, v.factor);
            TYPE(fill)(s.shift + i * q->n, q->n, v.shift);
            TYPE(fill)(s.slope + i * q->n, q->n, v.slope);
        }
        for (int64_t m = 0; m < q->images && channels; m++)
            for (int64_t j = 0; j < channels * q->n; j++) {
                int64_t at = m * step + j;
                T inner = g[at] - s.shift[j] - (x[at] - s.middle[j]) * s.slope[j];
                y[at] = inner * s.scale[j];
            }
        if (channels) continue;
        channels = 1;
        double g_sum, gx_sum;
        TYPE(channel_sums)(q, c, mean[c], &g_sum, &gx_sum);
        TYPE(line) v = TYPE(line_of)(q, c, g_sum, gx_sum);
        for (int64_t m = 0; m < q->images; m++)
            for (int64_t j = 0; j < q->n; j++) {
                int64_t at = m * step + j;
                y[at] = (g[at] - v.shift - (x[at] - v.middle) * v.slope) * v.factor;
            }
    }
}

#undef T
#undef TYPE
