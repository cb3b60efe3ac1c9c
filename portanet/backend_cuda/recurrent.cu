// One step of a recurrent layer: the products with the state, then the cell.
// forward: h[s + 1] = cell(x[s] + b + h[s] w^T), and c, and what the cell keeps.
// backward: gh[j] = sum over l of gx[s, l] w[l, j], then the cell of step s - 1; gx of
// step s - 1 and, where s is 0, gh0. Cells: program.py, and backend_cpu/recurrent.c.
//
// A step needs all of the state before it, and blocks can wait for each other only where all
// of them are resident at once, which the memory of other work decides. So a step is a
// launch: a compiled sequence is one graph, in which they follow without the host.
//
// Words: s, then steps, batch, size, offset of the first input, its strides by step and
// row, offsets of the other inputs.
//
// step: a warp has ROWS rows of the batch by COLUMNS rows of the weights: the gates of one
// element j of the state, or four j. Its lanes share the depth, PN_V neighbours at a time,
// straight from the caches: what a step reads is read by few warps, and soon. Sums are
// exchanged so that lane n gets sum n. start: the first state. turn: w transposed, for
// backward, whose sums run over the rows of w.
typedef PN_Y0 T;
typedef pn_pack<T, PN_V> Pack;

#define ALL 0xffffffffu
#define ROWS 8
#define STEP ((int)P[0])
#define STEPS ((int)P[1])
#define BATCH ((int)P[2])
#define SIZE ((int)P[3])

PN_DEVICE float pn_fma(float a, float b, float c) { return fmaf(a, b, c); }
PN_DEVICE double pn_fma(double a, double b, double c) { return fma(a, b, c); }
PN_DEVICE float pn_tanh(float x) { return tanhf(x); }
PN_DEVICE double pn_tanh(double x) { return tanh(x); }
PN_DEVICE T sigmoid(T x) {
    const T e = exp(x < 0 ? x : -x);
    return (x >= 0 ? 1 : e) / (1 + e);
}

// An element of h, c and the like: (steps, batch, size); of what is kept, four of each.
PN_DEVICE long long place(const pn_words &P, int step, int row, int j) {
    return ((long long)step * BATCH + row) * SIZE + j;
}
PN_DEVICE long long of_four(const pn_words &P, int step, int row, int k, int j) {
    return (((long long)step * BATCH + row) * 4 + k) * SIZE + j;
}
PN_DEVICE long long first_at(const pn_words &P, int step, int row, int column) {
    return P[4] + step * P[5] + row * P[6] + column;
}

// Each cell: PARAMETERS of every entry and GIVEN, GATES, how deep sums are, `begin` of an
// element, rows of the state and of the weights, `finish`.
#if defined(PN_OPTION_tanh)
PN_DEVICE T act(T x) { return pn_tanh(x); }
PN_DEVICE T slope(T y) { return pn_fma(-y, y, 1); }
#elif defined(PN_OPTION_relu)
PN_DEVICE T act(T x) { return x > 0 || x != x ? x : 0; }
PN_DEVICE T slope(T y) { return y > 0; }
#endif

#if defined(PN_OPTION_forward)
PN_DEVICE int depth(const pn_words &P) { return SIZE; }
#else
#define GATES 1
#endif

#if defined(PN_OPTION_forward) && defined(PN_OPTION_lstm)
#define GATES 4
#define PARAMETERS T *h, T *c, T *kept, const T *x, const T *h0, const T *c0, const T *w, const T *b
#define GIVEN h, c, kept, x, h0, c0, w, b
#define WEIGHTS (w + P[9])
PN_DEVICE void begin(PARAMETERS, const pn_words &P, long long e) {
    h[e] = h0[P[7] + e], c[e] = c0[P[8] + e];
}
PN_DEVICE void finish(PARAMETERS, const pn_words &P, int row, int j, const T (&sums)[GATES]) {
    T gate[4];
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const int column = k * SIZE + j;
        gate[k] = x[first_at(P, STEP, row, column)] + b[P[10] + column] + sums[k];
        gate[k] = k == 2 ? pn_tanh(gate[k]) : sigmoid(gate[k]);
        kept[of_four(P, STEP, row, k, j)] = gate[k];
    }
    const T next = gate[1] * c[place(P, STEP, row, j)] + gate[0] * gate[2];
    c[place(P, STEP + 1, row, j)] = next;
    h[place(P, STEP + 1, row, j)] = gate[3] * pn_tanh(next);
}
#elif defined(PN_OPTION_forward) && defined(PN_OPTION_gru)
#define GATES 3
#define PARAMETERS T *h, T *kept, const T *x, const T *h0, const T *w, const T *b
#define GIVEN h, kept, x, h0, w, b
#define WEIGHTS (w + P[8])
PN_DEVICE void begin(PARAMETERS, const pn_words &P, long long e) { h[e] = h0[P[7] + e]; }
PN_DEVICE void finish(PARAMETERS, const pn_words &P, int row, int j, const T (&sums)[GATES]) {
    const T *const bias = b + P[9] + j;
    const T *const in = x + first_at(P, STEP, row, j);
    const T r = sigmoid(in[0] + bias[0] + sums[0]);
    const T z = sigmoid(in[SIZE] + bias[SIZE] + sums[1]);
    const T q = bias[3 * SIZE] + sums[2];
    const T n = pn_tanh(in[2 * SIZE] + bias[2 * SIZE] + r * q);
    const T before = h[place(P, STEP, row, j)];
    T *const keep = kept + of_four(P, STEP, row, 0, j);
    keep[0] = r, keep[SIZE] = z, keep[2 * SIZE] = n, keep[3 * SIZE] = q;
    h[place(P, STEP + 1, row, j)] = n + z * (before - n);
}
#elif defined(PN_OPTION_forward)
#define GATES 1
#define PARAMETERS T *h, const T *x, const T *h0, const T *w, const T *b
#define GIVEN h, x, h0, w, b
#define WEIGHTS (w + P[8])
PN_DEVICE void begin(PARAMETERS, const pn_words &P, long long e) { h[e] = h0[P[7] + e]; }
PN_DEVICE void finish(PARAMETERS, const pn_words &P, int row, int j, const T (&sums)[GATES]) {
    const T in = x[first_at(P, STEP, row, j)] + b[P[9] + j];
    h[place(P, STEP + 1, row, j)] = act(in + sums[0]);
}
#elif defined(PN_OPTION_lstm)
#define DEPTH 4
#define PARAMETERS                                                                     \
    T *gx, T *gh0, T *gc0, const T *g, const T *gc, const T *kept, const T *c, const T *w
#define GIVEN gx, gh0, gc0, g, gc, kept, c, w
#define WEIGHTS (w + P[10])
PN_DEVICE void begin(PARAMETERS, const pn_words &P, long long e) { gc0[e] = gc[P[7] + e]; }
PN_DEVICE void finish(PARAMETERS, const pn_words &P, int row, int j, const T (&sums)[GATES]) {
    const long long e = place(P, 0, row, j);
    if (STEP == 0) {
        gh0[e] = sums[0];
        return;
    }
    const int step = STEP - 1;
    const T *const keep = kept + P[8] + of_four(P, step, row, 0, j);
    const T i = keep[0], f = keep[SIZE], m = keep[2 * SIZE], o = keep[3 * SIZE];
    const T y = pn_tanh(c[P[9] + place(P, step + 1, row, j)]);
    const T slope = g[first_at(P, step, row, j)] + sums[0];
    const T v = gc0[e] + slope * o * (1 - y * y), before = c[P[9] + place(P, step, row, j)];
    T *const made = gx + of_four(P, step, row, 0, j);
    made[0] = v * m * (i * (1 - i)), made[SIZE] = v * before * (f * (1 - f));
    made[2 * SIZE] = v * i * (1 - m * m), made[3 * SIZE] = slope * y * (o * (1 - o));
    gc0[e] = v * f;
}
#elif defined(PN_OPTION_gru)
#define DEPTH 3
#define PARAMETERS T *gx, T *gh0, const T *g, const T *kept, const T *h, const T *w
#define GIVEN gx, gh0, g, kept, h, w
#define WEIGHTS (w + P[9])
// gh0 keeps what h takes past the product.
PN_DEVICE void begin(PARAMETERS, const pn_words &P, long long e) { gh0[e] = 0; }
PN_DEVICE void finish(PARAMETERS, const pn_words &P, int row, int j, const T (&sums)[GATES]) {
    const long long e = place(P, 0, row, j);
    const T carry = gh0[e];
    if (STEP == 0) {
        gh0[e] = carry + sums[0];
        return;
    }
    const int step = STEP - 1;
    const T *const keep = kept + P[7] + of_four(P, step, row, 0, j);
    const T r = keep[0], z = keep[SIZE], n = keep[2 * SIZE], q = keep[3 * SIZE];
    const T slope = g[first_at(P, step, row, j)] + sums[0] + carry;
    const T of_n = slope * (1 - z) * (1 - n * n), before = h[P[8] + place(P, step, row, j)];
    T *const made = gx + of_four(P, step, row, 0, j);
    made[0] = of_n * q * (r * (1 - r)), made[SIZE] = slope * (before - n) * (z * (1 - z));
    made[2 * SIZE] = of_n, made[3 * SIZE] = of_n * r;
    gh0[e] = slope * z;
}
#else
#define DEPTH 1
#define PARAMETERS T *gx, T *gh0, const T *g, const T *h, const T *w
#define GIVEN gx, gh0, g, h, w
#define WEIGHTS (w + P[8])
PN_DEVICE void begin(PARAMETERS, const pn_words &P, long long e) {}
PN_DEVICE void finish(PARAMETERS, const pn_words &P, int row, int j, const T (&sums)[GATES]) {
    if (STEP == 0) {
        gh0[place(P, 0, row, j)] = sums[0];
        return;
    }
    const int step = STEP - 1;
    const T up = g[first_at(P, step, row, j)] + sums[0];
    gx[place(P, step, row, j)] = up * slope(h[P[7] + place(P, step + 1, row, j)]);
}
#endif

#if defined(PN_OPTION_forward)
// The state, its element l, and the weights' row for gate k of j.
PN_DEVICE const T *state_of(PARAMETERS, const pn_words &P, int row) {
    return h + place(P, STEP, row, 0);
}
PN_DEVICE int seen(const pn_words &P, int l) { return l; }
PN_DEVICE const T *row_of(const T *weights, const pn_words &P, int k, int j) {
    return weights + ((long long)k * SIZE + j) * SIZE;
}
#define WEIGHTS_PARAMETER
#define WEIGHTS_GIVEN WEIGHTS
#else
// No step follows the last one.
PN_DEVICE int depth(const pn_words &P) { return STEP < STEPS ? DEPTH * SIZE : 0; }
#if DEPTH == 1
PN_DEVICE const T *state_of(PARAMETERS, const pn_words &P, int row) {
    return gx + place(P, STEP, row, 0);
}
#else
PN_DEVICE const T *state_of(PARAMETERS, const pn_words &P, int row) {
    return gx + of_four(P, STEP, row, 0, 0);
}
#endif
// Of r, z, n, q the product with the state has r, z and q.
PN_DEVICE int seen(const pn_words &P, int l) {
    return DEPTH == 3 && l >= 2 * SIZE ? l + SIZE : l;
}
PN_DEVICE const T *row_of(const T *turned, const pn_words &P, int k, int j) {
    return turned + (long long)j * (DEPTH * SIZE);
}
#define WEIGHTS_PARAMETER , const T *turned
#define WEIGHTS_GIVEN turned

PN_ENTRY(turn, 256)(T *turned, const T *w, PN_P P) {
    PN_SHARED(T, tile, [32][33]);
    const int deep = DEPTH * SIZE, across = (SIZE + 31) / 32, tx = threadIdx.x % 32;
    const int first_l = blockIdx.x / across * 32, first_j = blockIdx.x % across * 32;
    for (int ty = threadIdx.x / 32; ty < 32; ty += 8)
        if (first_l + ty < deep && first_j + tx < SIZE)
            tile[ty][tx] = WEIGHTS[(long long)(first_l + ty) * SIZE + first_j + tx];
    __syncthreads();
    for (int ty = threadIdx.x / 32; ty < 32; ty += 8)
        if (first_j + ty < SIZE && first_l + tx < deep)
            turned[(long long)(first_j + ty) * deep + first_l + tx] = tile[tx][ty];
}
PN_EXPORT(turn)
#endif

#define COLUMNS (GATES == 1 ? 4 : GATES)
#define JS (COLUMNS / GATES)  // elements j of a warp

PN_ENTRY(start, 256)(PARAMETERS, PN_P P) {
    const long long e = (long long)blockIdx.x * 256 + threadIdx.x;
    if (e < (long long)BATCH * SIZE) begin(GIVEN, P, e);
}
PN_EXPORT(start)

// Of 2 HALF sums a lane keeps those of its half of the lanes, added to the other half's.
template <int HALF> PN_DEVICE void exchange(T *sums) {
    const bool is_upper = threadIdx.x & HALF;
#pragma unroll
    for (int i = 0; i < HALF; i++) {
        const T given = is_upper ? sums[i] : sums[i + HALF];
        const T kept = is_upper ? sums[i + HALF] : sums[i];
        sums[i] = kept + __shfl_xor_sync(ALL, given, HALF);
    }
    if constexpr (HALF > 1) exchange<HALF / 2>(sums);
}

PN_ENTRY(step, 256)(PARAMETERS WEIGHTS_PARAMETER, PN_P P) {
    const int lane = threadIdx.x % 32, columns = (SIZE + JS - 1) / JS;
    const long long warp = (long long)blockIdx.x * 8 + threadIdx.x / 32;
    const int first = (int)(warp / columns) * ROWS, j = (int)(warp % columns) * JS;
    if (first >= BATCH) return;  // the whole warp
    const T *states[ROWS], *weights[COLUMNS];
#pragma unroll
    for (int r = 0; r < ROWS; r++)
        states[r] = state_of(GIVEN, P, first + r < BATCH ? first + r : BATCH - 1);
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
        const int at = GATES == 1 && j + c < SIZE ? j + c : j;
        weights[c] = row_of(WEIGHTS_GIVEN, P, GATES == 1 ? 0 : c, at);
    }
    T sums[32] = {};  // number 8 c + r
    for (int l = lane * PN_V; l < depth(P); l += 32 * PN_V) {
        Pack a[ROWS], b[COLUMNS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) a[r] = *(const Pack *)(states[r] + seen(P, l));
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) b[c] = *(const Pack *)(weights[c] + l);
#pragma unroll
        for (int c = 0; c < COLUMNS; c++)
#pragma unroll
            for (int r = 0; r < ROWS; r++)
#pragma unroll
                for (int v = 0; v < PN_V; v++)
                    sums[c * ROWS + r] = pn_fma(a[r].at[v], b[c].at[v], sums[c * ROWS + r]);
    }
    exchange<16>(sums);
    T of_gates[GATES];
#pragma unroll
    for (int k = 0; k < GATES; k++)
        of_gates[k] = GATES == 1 ? sums[0] : __shfl_sync(ALL, sums[0], lane % ROWS + k * ROWS);
    const int row = first + lane % ROWS, own = j + lane / ROWS;
    if (lane < JS * ROWS && row < BATCH && own < SIZE) finish(GIVEN, P, row, own, of_gates);
}
PN_EXPORT(step)
