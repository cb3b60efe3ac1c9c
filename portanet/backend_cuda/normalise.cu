// Normalisation and its gradients. Over rows, with mean and var those of row r and
// h = (x - mean) / sqrt(var + eps):
//
// rows_slope  with p = g w:  y = (p - mean p - h mean(p h)) / sqrt(var + eps); also the
//             sums of g h and of g over each STRETCH rows, (stretches, n)
//
// Over channels of x (images, channels, n), with mean and var given, but for `moments`:
//
// moments         y = mean x, and mean (x - mean)^2, over images and n
// channels_slope  y = w (g - mean g - h mean(g h)) / sqrt(var + eps), the means over images
//                 and n; also the sums of g h and of g of each channel
//
// words: images, rows or channels, n, eps (the bits of a float64), STRETCH, then the offset
//        of each input (at most five), then `each`. Inputs: as in backend_cpu/normalise.c.
//
// rows_slope: a block has the rows of a stretch, PN_T threads of it a row at a time, which
// stays in registers; if PN_PACKS is 0 it is too long for them and is read again. A thread
// keeps the sums of its columns. Over channels: planes are cut into pieces of PIECE
// elements, a warp takes one at a time; sums of a channel are made by blocks of `each`
// pieces, whose parts a second launch combines in order. PN_V neighbours are read at once.
typedef PN_X0 T;
typedef pn_pack<T, PN_V> Pack;

#define ALL 0xffffffffu
#define PIECE 4096
#define EACH ((int)P[10])

PN_DEVICE T epsilon(const pn_words &P) { return (T)__longlong_as_double(P[3]); }
PN_DEVICE float pn_scale(float x) { return 1 / sqrtf(x); }
PN_DEVICE double pn_scale(double x) { return 1 / sqrt(x); }

PN_DEVICE T of_warp(T x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        x += __shfl_xor_sync(ALL, x, distance);
    return x;
}
// The two sums of all `WARPS` warps that work on the same; `parts` holds both of each.
template <int WARPS> PN_DEVICE void together(T &a, T &b, T *parts) {
    a = of_warp(a), b = of_warp(b);
    if (WARPS == 1) return;
    const int warp = threadIdx.x / 32 % WARPS;
    __syncthreads();  // nobody reads the parts before these
    if (threadIdx.x % 32 == 0) parts[2 * warp] = a, parts[2 * warp + 1] = b;
    __syncthreads();
    a = b = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) a += parts[2 * w], b += parts[2 * w + 1];
}

// ---- rows

#if defined(PN_STEP_rows_slope)
#define BLOCK (PN_T < 128 ? 128 : PN_T)
#define TEAMS (BLOCK / PN_T)
#define WARPS (PN_T / 32)
#define E (PN_PACKS * PN_V)

// The packs of a row that a thread has: f(its number, its first column).
template <class F> PN_DEVICE void each_pack(int n, F f) {
    const int t = threadIdx.x % PN_T;
#if PN_PACKS
#pragma unroll
    for (int p = 0; p < PN_PACKS; p++) {
        const int at = (p * PN_T + t) * PN_V;
        if (p < PN_PACKS - 1 || at < n) f(p, at);
    }
#else
    for (int at = t * PN_V; at < n; at += PN_T * PN_V) f(0, at);
#endif
}

PN_ENTRY(rows_slope, BLOCK)
(T *y, T *w_parts, T *b_parts, const T *g, const T *x, const T *w, PN_P P) {
    const int n = (int)P[2], stretch = (int)P[4], team = threadIdx.x / PN_T;
    const long long first = (long long)blockIdx.x * stretch;
    const long long end = first + stretch < P[1] ? first + stretch : P[1];
    const T eps = epsilon(P);
    PN_SHARED(T, parts, [2 * (BLOCK / 32)]);
    g += P[5], x += P[6], w += P[7];
    w_parts += (long long)blockIdx.x * n, b_parts += (long long)blockIdx.x * n;
#if PN_PACKS
    T w_sum[E] = {}, b_sum[E] = {};
#endif
    for (long long row = first + team; row < end; row += TEAMS) {
        const T *const gs = g + row * n, *const xs = x + row * n;
        T *const ys = y + row * n;
#if PN_PACKS
        Pack g_kept[PN_PACKS], x_kept[PN_PACKS];
        each_pack(n, [&](int k, int at) {
            g_kept[k] = *(const Pack *)(gs + at), x_kept[k] = *(const Pack *)(xs + at);
        });
#define G_OF(k, at) g_kept[k]
#define X_OF(k, at) x_kept[k]
#else
#define G_OF(k, at) (*(const Pack *)(gs + at))
#define X_OF(k, at) (*(const Pack *)(xs + at))
#endif
        T mean = 0, p_mean = 0, var = 0, pa_mean = 0;
        each_pack(n, [&](int k, int at) {
            const Pack gp = G_OF(k, at), xp = X_OF(k, at), wp = *(const Pack *)(w + at);
#pragma unroll
            for (int l = 0; l < PN_V; l++) mean += xp.at[l], p_mean += gp.at[l] * wp.at[l];
        });
        together<WARPS>(mean, p_mean, parts);
        mean /= (T)n, p_mean /= (T)n;
        each_pack(n, [&](int k, int at) {
            const Pack gp = G_OF(k, at), xp = X_OF(k, at), wp = *(const Pack *)(w + at);
#pragma unroll
            for (int l = 0; l < PN_V; l++) {
                const T away = xp.at[l] - mean;
                var += away * away, pa_mean += gp.at[l] * wp.at[l] * away;
            }
        });
        together<WARPS>(var, pa_mean, parts);
        const T scale = pn_scale(var / (T)n + eps), ph_mean = pa_mean / (T)n * scale;
        each_pack(n, [&](int k, int at) {
            const Pack gp = G_OF(k, at), xp = X_OF(k, at), wp = *(const Pack *)(w + at);
            Pack made;
#if !PN_PACKS
            Pack w_sum = {}, b_sum = {};
            if (row > first) w_sum = *(Pack *)(w_parts + at), b_sum = *(Pack *)(b_parts + at);
#endif
#pragma unroll
            for (int l = 0; l < PN_V; l++) {
                const T h = (xp.at[l] - mean) * scale;
                made.at[l] = (gp.at[l] * wp.at[l] - p_mean - h * ph_mean) * scale;
#if PN_PACKS
                w_sum[k * PN_V + l] += gp.at[l] * h, b_sum[k * PN_V + l] += gp.at[l];
#else
                w_sum.at[l] += gp.at[l] * h, b_sum.at[l] += gp.at[l];
#endif
            }
            *(Pack *)(ys + at) = made;
#if !PN_PACKS
            *(Pack *)(w_parts + at) = w_sum, *(Pack *)(b_parts + at) = b_sum;
#endif
        });
    }
#if PN_PACKS
    // The teams' sums, in their order.
    PN_SHARED(T, sums, [TEAMS][TEAMS > 1 ? PN_T * E : 1]);
    for (int which = 0; which < 2; which++) {
        __syncthreads();  // nobody reads what is there
        each_pack(n, [&](int k, int at) {
            Pack made;
#pragma unroll
            for (int l = 0; l < PN_V; l++)
                made.at[l] = which ? b_sum[k * PN_V + l] : w_sum[k * PN_V + l];
            if (TEAMS == 1)
                *(Pack *)((which ? b_parts : w_parts) + at) = made;
            else
                *(Pack *)(sums[team] + at) = made;
        });
        __syncthreads();
        for (int at = threadIdx.x; TEAMS > 1 && at < n; at += BLOCK) {
            T sum = 0;
#pragma unroll
            for (int k = 0; k < TEAMS; k++) sum += sums[k][at];
            (which ? b_parts : w_parts)[at] = sum;
        }
    }
#endif
}
PN_EXPORT(rows_slope)
#endif

// ---- channels

#define BLOCK_OF_CHANNELS 256
#define WARPS_OF_CHANNELS (BLOCK_OF_CHANNELS / 32)

// Number u of the pieces of a channel: f(where a pack of it is, in the whole array).
template <class F>
PN_DEVICE void of_piece(const pn_words &P, long long channel, long long u, F f) {
    const int n = (int)P[2], pieces = (n + PIECE - 1) / PIECE;
    const long long image = u / pieces, base = (image * P[1] + channel) * n;
    const int first = (int)(u - image * pieces) * PIECE;
    const int end = first + PIECE < n ? first + PIECE : n;
#pragma unroll 4
    for (int at = first + threadIdx.x % 32 * PN_V; at < end; at += 32 * PN_V) f(base + at);
}
// Each channel has so many blocks; this one's channel.
PN_DEVICE int blocks_of(const pn_words &P) {
    return (int)((P[0] * ((P[2] + PIECE - 1) / PIECE) + EACH - 1) / EACH);
}
PN_DEVICE int channel_of(const pn_words &P) { return blockIdx.x / blocks_of(P); }
// The pieces of this block.
template <class F> PN_DEVICE void of_block(const pn_words &P, F f) {
    const long long all = P[0] * ((P[2] + PIECE - 1) / PIECE);
    const long long first = (long long)(blockIdx.x % blocks_of(P)) * EACH;
    const long long end = first + EACH < all ? first + EACH : all;
    for (long long u = first + threadIdx.x / 32; u < end; u += WARPS_OF_CHANNELS)
        of_piece(P, channel_of(P), u, f);
}

#if defined(PN_STEP_moments) || defined(PN_STEP_moments_second)
// So many elements, their mean, the sum of their squared distances from it. Two such make
// one: Chan, Golub and LeVeque, Algorithms for computing the sample variance (1979).
struct Moments {
    T count, mean, spread;
};
PN_DEVICE Moments merged(Moments a, Moments b) {
    const T count = a.count + b.count;
    if (b.count == 0) return a;
    const T away = b.mean - a.mean, share = b.count / count;
    return Moments{count, a.mean + away * share,
                   a.spread + b.spread + away * away * a.count * share};
}
#endif

#if defined(PN_STEP_moments)
PN_ENTRY(moments, BLOCK_OF_CHANNELS)(Moments *parts, const T *x, PN_P P) {
    PN_SHARED(Moments, of_warps, [WARPS_OF_CHANNELS]);
    Moments mine = {};
    of_block(P, [&](long long at) {
        const Pack pack = *(const Pack *)(x + P[5] + at);
        Moments made = {(T)PN_V, 0, 0};
#pragma unroll
        for (int l = 0; l < PN_V; l++) made.mean += pack.at[l];
        made.mean /= (T)PN_V;
#pragma unroll
        for (int l = 0; l < PN_V; l++)
            made.spread += (pack.at[l] - made.mean) * (pack.at[l] - made.mean);
        mine = merged(mine, made);
    });
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        mine = merged(mine, Moments{__shfl_down_sync(ALL, mine.count, distance),
                                    __shfl_down_sync(ALL, mine.mean, distance),
                                    __shfl_down_sync(ALL, mine.spread, distance)});
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = mine;
    __syncthreads();
    if (threadIdx.x) return;
    for (int k = 1; k < WARPS_OF_CHANNELS; k++) mine = merged(mine, of_warps[k]);
    parts[blockIdx.x] = mine;
}
PN_EXPORT(moments)
#endif

#if defined(PN_STEP_moments_second)
PN_ENTRY(moments_second, 128)(T *mean, T *var, const Moments *parts, PN_P P) {
    const long long c = (long long)blockIdx.x * 128 + threadIdx.x;
    if (c >= P[1]) return;
    Moments all = parts[c * EACH];
    for (int k = 1; k < EACH; k++) all = merged(all, parts[c * EACH + k]);
    mean[c] = all.mean, var[c] = all.spread / all.count;
}
PN_EXPORT(moments_second)
#endif

#if defined(PN_STEP_slope_sums)
struct Sums {
    T g, ga;  // of g, of g (x - mean)
};
PN_ENTRY(slope_sums, BLOCK_OF_CHANNELS)
(Sums *parts, const T *g, const T *x, const T *mean, PN_P P) {
    PN_SHARED(T, of_warps, [2 * WARPS_OF_CHANNELS]);
    const T middle = mean[P[8] + channel_of(P)];
    T g_sum = 0, ga_sum = 0;
    of_block(P, [&](long long at) {
        const Pack gp = *(const Pack *)(g + P[5] + at), xp = *(const Pack *)(x + P[6] + at);
#pragma unroll
        for (int l = 0; l < PN_V; l++)
            g_sum += gp.at[l], ga_sum += gp.at[l] * (xp.at[l] - middle);
    });
    together<WARPS_OF_CHANNELS>(g_sum, ga_sum, of_warps);
    if (threadIdx.x == 0)
        parts[blockIdx.x] = Sums{g_sum, ga_sum};
}
PN_EXPORT(slope_sums)
#endif

#if defined(PN_STEP_slope_second)
struct Sums {
    T g, ga;
};
PN_ENTRY(slope_second, 128)
(T *gh_sum, T *g_sum, const Sums *parts, const T *var, PN_P P) {
    const long long c = (long long)blockIdx.x * 128 + threadIdx.x;
    if (c >= P[1]) return;
    Sums all = {};
    for (int k = 0; k < EACH; k++)
        all.g += parts[c * EACH + k].g, all.ga += parts[c * EACH + k].ga;
    g_sum[c] = all.g, gh_sum[c] = all.ga * pn_scale(var[P[9] + c] + epsilon(P));
}
PN_EXPORT(slope_second)
#endif

// A warp a piece of all channels' planes: f(channel, where a pack is).
template <class F> PN_DEVICE void of_all(const pn_words &P, F f) {
    const long long pieces = (P[2] + PIECE - 1) / PIECE;
    const long long u = (long long)blockIdx.x * WARPS_OF_CHANNELS + threadIdx.x / 32;
    if (u >= P[0] * P[1] * pieces) return;
    const long long plane = u / pieces, image = plane / P[1], channel = plane - image * P[1];
    of_piece(P, channel, image * pieces + (u - plane * pieces), f(channel));
}

#if defined(PN_STEP_slope)
PN_ENTRY(slope, BLOCK_OF_CHANNELS)
(T *y, const T *gh_sum, const T *g_sum, const T *g, const T *x, const T *w, const T *mean,
 const T *var, PN_P P) {
    const T count = (T)P[0] * (T)P[2];
    of_all(P, [&](long long c) {
        const T scale = pn_scale(var[P[9] + c] + epsilon(P)), middle = mean[P[8] + c];
        const T g_mean = g_sum[c] / count, slope = gh_sum[c] / count * scale;
        const T factor = w[P[7] + c] * scale;
        return [=, &P](long long at) {
            const Pack gp = *(const Pack *)(g + P[5] + at), xp = *(const Pack *)(x + P[6] + at);
            Pack made;
#pragma unroll
            for (int l = 0; l < PN_V; l++)
                made.at[l] = (gp.at[l] - g_mean - (xp.at[l] - middle) * slope) * factor;
            *(Pack *)(y + at) = made;
        };
    });
}
PN_EXPORT(slope)
#endif
