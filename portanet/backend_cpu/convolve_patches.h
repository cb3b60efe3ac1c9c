// Convolution forward of few results a plane, a part of convolve_tile.h: each result is
// the product of a row of weights, as it lies in memory, and the patch of x that it covers,
// copied with its zeros. Nothing else is worth preparing for so few.

// patches[p][c, t] of a group, of all images and results.
static void TYPE(copy_patches)(const convolution *c, int64_t group, T *to) {
    const axis *a = c->axes;
    for (int64_t i = 0; i < c->n * c->y_size; i++) {
        int64_t image = i / c->y_size, p = i % c->y_size;
        int64_t p0 = p / (a[1].y * a[2].y), p1 = p / a[2].y % a[1].y, p2 = p % a[2].y;
        const T *x = (const T *)c->source +
                     (image * c->groups + group) * c->channels * c->x_size;
        for (int64_t l = 0; l < c->channels; l++, x += c->x_size)
            for (int64_t k0 = 0; k0 < a[0].kernel; k0++) {
                int64_t u = read_at(a, p0, k0);
                for (int64_t k1 = 0; k1 < a[1].kernel; k1++) {
                    int64_t v = read_at(a + 1, p1, k1), line = (u * a[1].x + v) * a[2].x;
                    bool inside = u >= 0 && v >= 0;
                    for (int64_t k2 = 0; k2 < a[2].kernel; k2++) {
                        int64_t w = read_at(a + 2, p2, k2);
                        *to++ = inside && w >= 0 ? x[line + w] : 0;
                    }
                }
            }
    }
}

// Rows [begin, end) of PATCH_ROWS results of a group, by all patches.
static void TYPE(do_patches)(void *context, int64_t begin, int64_t end) {
    const convolution *c = context;
    const int64_t depth = c->channels * c->kernel, count = c->n * c->y_size;
    const int64_t down = divided_up(c->outputs, PATCH_ROWS);
    for (int64_t i = begin; i < end; i++) {
        int64_t group = i / down, o = i % down * PATCH_ROWS;
        const T *w[PATCH_ROWS], *x[PATCHES];
        for (int64_t r = 0; r < PATCH_ROWS; r++)
            w[r] = (const T *)c->weight +
                   (group * c->outputs + smaller(o + r, c->outputs - 1)) * depth;
        for (int64_t p = 0; p < count; p += PATCHES) {
            for (int64_t j = 0; j < PATCHES; j++)
                x[j] = (const T *)c->copy + (group * count + smaller(p + j, count - 1)) * depth;
            VEC sum[PATCH_ROWS][PATCHES] = {{{0}}};
            int64_t l = 0;
            for (; l + LANES <= depth; l += LANES) {
                VEC v[PATCHES];
#pragma GCC unroll 4
                for (int j = 0; j < PATCHES; j++) v[j] = *(const LOOSE *)(x[j] + l);
#pragma GCC unroll 4
                for (int r = 0; r < PATCH_ROWS; r++) {
                    VEC s = *(const LOOSE *)(w[r] + l);
#pragma GCC unroll 4
                    for (int j = 0; j < PATCHES; j++) sum[r][j] = FMA(s, v[j], sum[r][j]);
                }
            }
            for (int64_t r = 0; r < smaller(PATCH_ROWS, c->outputs - o); r++)
                for (int64_t j = 0; j < smaller(PATCHES, count - p); j++) {
                    VEC all = sum[r][j];
                    T rest = 0;
                    for (int64_t k = l; k < depth; k++) rest += w[r][k] * x[j][k];
                    for (int64_t half = LANES / 2; half; half /= 2)
                        for (int64_t s = 0; s < half; s++) all[s] += all[s + half];
                    int64_t image = (p + j) / c->y_size * c->groups + group;
                    ((T *)c->result)[(image * c->outputs + o + r) * c->y_size +
                                     (p + j) % c->y_size] = all[0] + rest;
                }
        }
    }
}

static bool TYPE(convolve_patches)(convolution *c) {
    const int64_t depth = c->channels * c->kernel, of_group = c->n * c->y_size * depth;
    int64_t nbytes = c->groups * of_group * (int64_t)sizeof(T);
    c->copy = pn_alloc(nbytes);
    if (!c->copy) return false;
    for (int64_t g = 0; g < c->groups; g++)
        TYPE(copy_patches)(c, g, (T *)c->copy + g * of_group);
    int64_t tasks = c->groups * divided_up(c->outputs, PATCH_ROWS);
    pn_parallel_for(tasks, PIECE / (PATCH_ROWS * of_group) + 1, TYPE(do_patches), c);
    pn_free(c->copy, nbytes);
    return true;
}
