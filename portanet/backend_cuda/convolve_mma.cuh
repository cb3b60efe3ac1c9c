// Convolutions by tensor cores (mma.cuh), for convolve.cu.
//
// What is read lies channels last, as `turn` makes it: [group][image][place][channel], the
// channels filled up with zeros to whole pieces of 16 bytes. So a piece is read whole or is
// zeros, where it is outside x or y, and goes to shared memory by itself. With that order
//   forward  i = o, j = (n, p), l = (t, c)   a: [group][o][t][c]
//   input    i = c, j = (n, u), l = (t, o)   a: [group][c][t][o]
//   weight   i = o, j = (t, c), l = (n, p)
// PN_POINTS: weight of one tap and no stride, where x and y are read as they lie, along p.
// input: x at q = stride u + phase meets on each axis the taps first, first + STEP, ...
// alone, at y's places u + corner, u + corner + DELTA, ... A block has one phase, so it sums
// over these taps and over no zeros between them.
//
// words, behind convolve.cu's: outputs (elements of the result). m, n, k: of one phase.
#include "mma.cuh"

static constexpr int PIECE = 16 / sizeof(PN_X0);
typedef pn_mma_tile<PN_X0, PN_BM, PN_BN, PN_WM, PN_WN, PN_STAGES, PN_ALONG_L, PN_ALONG_L> Tile;
static_assert(PN_SHARED_BYTES == PN_STAGES * Tile::STAGE, "convolve.py knows the bytes");

PN_DEVICE int fill(int channels) { return (channels + PIECE - 1) / PIECE * PIECE; }

// A number of four digits, d the last: of b, c and d there are so many as `radix` has.
struct Digits {
    int a, b, c, d;
};
PN_DEVICE Digits digits(int e, Digits radix) {
    const Cut d = cut(e, radix.d), c = cut(d.whole, radix.c), b = cut(c.whole, radix.b);
    return Digits{b.whole, b.rest, c.rest, d.rest};
}
PN_DEVICE int carry(int &digit, int radix) {
    const bool is_over = digit >= radix;
    digit -= is_over ? radix : 0;
    return is_over;
}
PN_DEVICE void add(Digits &at, Digits by, Digits radix) {
    at.d += by.d;
    at.c += by.c + carry(at.d, radix.d);
    at.b += by.b + carry(at.c, radix.c);
    at.a += by.a + carry(at.b, radix.b);
}

// What a block works on.
struct Part {
    unsigned split;
    int group, row, column;
    Three phase;
};
PN_DEVICE Three phases() {
#if defined(PN_OPTION_input)
    return Three{PN_STRIDE};
#else
    return Three{1, 1, 1};
#endif
}
// Blocks that run at the same time share columns.
PN_DEVICE Part part_of(const pn_words &P, unsigned block) {
    const unsigned down = (unsigned)((P[2] + PN_BM - 1) / PN_BM);
    const unsigned tiles = down * (unsigned)((P[3] + PN_BN - 1) / PN_BN);
    const unsigned which = block / tiles, tile = block - which * tiles;
    const Cut rest = cut((int)which, count(phases())), split = cut(rest.whole, (int)P[6]);
    const Cut at = cut((int)tile, (int)down);
    return Part{(unsigned)split.whole, split.rest, at.rest * PN_BM, at.whole * PN_BN,
                place(rest.rest, phases())};
}

#if PN_POINTS
// The pieces that a thread brings: PN_BM / LINES of a, PN_BN / LINES of b, all at one l.
struct Bring {
    static constexpr int ACROSS = Tile::ASlice::ACROSS, LINES = Tile::THREADS / ACROSS;
    const PN_X0 *a, *b;
    index_t rows[PN_BM / LINES], columns[PN_BN / LINES];  // where each begins
    index_t a_image, b_image;                             // from one image to the next
    Digits at, by, radix;                                 // l = (n, p); by: a step
    int begin, end;

    PN_MEMBER Bring(const Shapes &s, const Part &p, const PN_X0 *a, const PN_X0 *b)
        : a(a + s.P[29]), b(b + s.P[27]) {
        const int places = count(s.y()), k = (int)s.P[4], m = s.outputs(), n = s.channels();
        const int line = threadIdx.x / ACROSS, side = threadIdx.x % ACROSS * PIECE;
        begin = (int)((long long)p.split * s.P[1]);
        end = begin + s.P[1] < k ? begin + (int)s.P[1] : k;
        radix = Digits{(int)s.P[5], 1, 1, places};
        at = digits(begin + side, radix), by = digits(Tile::DEPTH, radix);
        a_image = (index_t)s.groups() * m * places, b_image = (index_t)s.groups() * n * places;
#pragma unroll
        for (int q = 0; q < PN_BM / LINES; q++)  // past the last: nobody stores its sums
            rows[q] = s.plane(0, min(p.row + line + q * LINES, m - 1), m) * places;
#pragma unroll
        for (int q = 0; q < PN_BN / LINES; q++)
            columns[q] = s.plane(0, min(p.column + line + q * LINES, n - 1), n) * places;
    }
    PN_MEMBER void operator()(char *stage, int) {
        const bool is_there = at.a < radix.a;
        const PN_X0 *const left = a + (at.a * a_image + at.d);
        const PN_X0 *const top = b + (at.a * b_image + at.d);
        const int line = threadIdx.x / ACROSS, side = threadIdx.x % ACROSS * PIECE;
        PN_X0 *to = (PN_X0 *)stage + line * Tile::ASlice::PITCH + side;
#pragma unroll
        for (int q = 0; q < PN_BM / LINES; q++)
            pn_copy_async(to + q * LINES * Tile::ASlice::PITCH, left + rows[q], is_there);
        to = (PN_X0 *)(stage + Tile::ASlice::BYTES) + line * Tile::BSlice::PITCH + side;
#pragma unroll
        for (int q = 0; q < PN_BN / LINES; q++)
            pn_copy_async(to + q * LINES * Tile::BSlice::PITCH, top + columns[q], is_there);
        add(at, by, radix);
    }
};
#elif PN_ALONG_L
// The taps of one axis that a phase meets: first, first + step, ...: `count`. The first one
// meets y's place u + corner.
struct Met {
    int first, count, corner;
};
PN_DEVICE Met met(int phase, int padding, int taps, int stride, int dilation, int common) {
    const int step = stride / common;
    int first = 0;
    while (first < step && (phase + padding - first * dilation) % stride) first++;
    if (first >= step || first >= taps) return Met{0, 0, 0};
    return Met{first, (taps - first + step - 1) / step,
               (phase + padding - first * dilation) / stride};
}

// The pieces that a thread brings: PN_BM / LINES of a, PN_BN / LINES of b, all at one l.
struct Bring {
    static constexpr int ACROSS = Tile::ASlice::ACROSS, LINES = Tile::THREADS / ACROSS;
    const PN_X0 *a, *b;
    index_t rows[PN_BM / LINES], columns[PN_BN / LINES];  // where each begins
    Three corner[PN_BN / LINES], sizes, first;
    Digits at, by, radix;  // l = (tap of those met, channel); by: a step
    int begin, end;

    PN_MEMBER Bring(const Shapes &s, const Part &p, const PN_X0 *a, const PN_X0 *b) : a(a), b(b) {
        const pn_words &P = s.P;
        const Three taps = s.taps();
        const int m = (int)P[2], n = (int)P[3];
#if defined(PN_OPTION_forward)
        const Three units = s.y();
        sizes = s.x(), first = Three{0, 0, 0};
        const int filled = fill(s.channels());
        const Three counts = taps;
#else
        const Three stride = {PN_STRIDE}, dilation = {PN_DILATION}, common = {PN_COMMON};
        const Three padding = s.padding();
        const Met on_a = met(p.phase.a, padding.a, taps.a, stride.a, dilation.a, common.a);
        const Met on_b = met(p.phase.b, padding.b, taps.b, stride.b, dilation.b, common.b);
        const Met on_c = met(p.phase.c, padding.c, taps.c, stride.c, dilation.c, common.c);
        const Three units = s.units(), from = {on_a.corner, on_b.corner, on_c.corner};
        sizes = s.y(), first = Three{on_a.first, on_b.first, on_c.first};
        const int filled = fill(s.outputs());
        const Three counts = {on_a.count, on_b.count, on_c.count};
#endif
        const int line = threadIdx.x / ACROSS, side = threadIdx.x % ACROSS * PIECE;
        radix = Digits{counts.a, max(counts.b, 1), max(counts.c, 1), filled};
        const int k = count(counts) * filled;
        begin = (int)((long long)p.split * P[1]);
        end = begin + P[1] < k ? begin + (int)P[1] : k;
        at = digits(begin + side, radix), by = digits(Tile::DEPTH, radix);
#pragma unroll
        for (int q = 0; q < PN_BM / LINES; q++) {
            int i = p.row + line + q * LINES;
            if (i >= m) i = m - 1;  // nobody stores these sums
            rows[q] = ((index_t)p.group * m + i) * count(taps) * filled;
        }
#pragma unroll
        for (int q = 0; q < PN_BN / LINES; q++) {
            const int j = p.column + line + q * LINES;
            const Cut image = cut(j, count(units));
#if defined(PN_OPTION_forward)
            corner[q] = s.corner(image.rest);
#else
            corner[q] = plus(place(image.rest, units), from);
#endif
            const index_t plane = (index_t)p.group * (int)P[5] + image.whole;
            columns[q] = (plane * count(sizes) + number(corner[q], sizes)) * filled;
            if (j >= n) corner[q].c = -(1 << 29);  // outside with every tap
        }
    }
    PN_MEMBER void operator()(char *stage, int) {
        const bool is_there = at.a < radix.a;
        const Three tap = {PN_FLAT ? 0 : at.a, at.b, at.c};
#if defined(PN_OPTION_forward)
        const Three of_a = tap, delta = {PN_DILATION};
#else
        const Three stride = {PN_STRIDE}, dilation = {PN_DILATION}, common = {PN_COMMON};
        const Three delta = {-dilation.a / common.a, -dilation.b / common.b,
                             -dilation.c / common.c};
        const Three of_a = {first.a + tap.a * (stride.a / common.a),
                            first.b + tap.b * (stride.b / common.b),
                            first.c + tap.c * (stride.c / common.c)};
#endif
        const Three reach = {tap.a * delta.a, tap.b * delta.b, tap.c * delta.c};
        const PN_X0 *const left = a + (number(of_a, Three{PN_TAPS}) * radix.d + at.d);
        const PN_X0 *const top = b + (number(reach, sizes) * radix.d + at.d);
        const int line = threadIdx.x / ACROSS, side = threadIdx.x % ACROSS * PIECE;
        PN_X0 *to = (PN_X0 *)stage + line * Tile::ASlice::PITCH + side;
#pragma unroll
        for (int q = 0; q < PN_BM / LINES; q++)
            pn_copy_async(to + q * LINES * Tile::ASlice::PITCH, left + rows[q], is_there);
        to = (PN_X0 *)(stage + Tile::ASlice::BYTES) + line * Tile::BSlice::PITCH + side;
#pragma unroll
        for (int q = 0; q < PN_BN / LINES; q++)
            pn_copy_async(to + q * LINES * Tile::BSlice::PITCH, top + columns[q],
                          is_there && is_within(plus(corner[q], reach), sizes));
        add(at, by, radix);
    }
};
#else
// The pieces that a thread brings: of a and of b each at one i (j) and some l.
struct Bring {
    static constexpr int A_ACROSS = Tile::ASlice::ACROSS, A_LINES = Tile::THREADS / A_ACROSS;
    static constexpr int B_ACROSS = Tile::BSlice::ACROSS, B_LINES = Tile::THREADS / B_ACROSS;
    static_assert(Tile::THREADS % A_ACROSS == 0 && Tile::THREADS % B_ACROSS == 0, "columns");
    const PN_X0 *a, *b;
    Three corner, sizes;  // of this thread's tap
    int width, stop;      // of b; where l of a ends
    index_t step;         // of a, a pass
    int l;
    Digits at, by, radix;  // l = (n, p) of b; by: a pass
    int begin, end;

    PN_MEMBER Bring(const Shapes &s, const Part &p, const PN_X0 *a, const PN_X0 *b) : a(a), b(b) {
        const pn_words &P = s.P;
        const int k = (int)P[4], images = (int)P[5];
        const Three y = s.y(), padding = s.padding();
        begin = (int)((long long)p.split * P[1]);
        end = begin + P[1] < k ? begin + (int)P[1] : k;
        sizes = s.x(), width = fill(s.channels());
        const int filled = fill(s.outputs());
        const int i = p.row + threadIdx.x % A_ACROSS * PIECE;
        l = begin + threadIdx.x / A_ACROSS;
        stop = i < filled ? k : 0;
        step = (index_t)A_LINES * filled;
        this->a += ((index_t)p.group * k + l) * filled + i;
        const int j = p.column + threadIdx.x % B_ACROSS * PIECE;
        const Cut tap = cut(j, width);
        const Three reach = s.reach(tap.whole);
        corner = Three{PN_FLAT ? 0 : reach.a - padding.a, reach.b - padding.b,
                       reach.c - padding.c};
        if (j >= P[3]) corner.c = -(1 << 29);  // outside at every place
        this->b += (index_t)p.group * images * count(sizes) * width + tap.rest;
        radix = Digits{images, y.a, y.b, y.c};
        at = digits(begin + threadIdx.x / B_ACROSS, radix), by = digits(B_LINES, radix);
    }
    PN_MEMBER void operator()(char *stage, int) {
        PN_X0 *to = (PN_X0 *)stage + threadIdx.x / A_ACROSS * Tile::ASlice::PITCH +
                    threadIdx.x % A_ACROSS * PIECE;
#pragma unroll
        for (int q = 0; q < Tile::DEPTH / A_LINES; q++, l += A_LINES, a += step)
            pn_copy_async(to + q * A_LINES * Tile::ASlice::PITCH, a, l < stop);
        to = (PN_X0 *)(stage + Tile::ASlice::BYTES) +
             threadIdx.x / B_ACROSS * Tile::BSlice::PITCH + threadIdx.x % B_ACROSS * PIECE;
        const Three stride = {PN_STRIDE};
#pragma unroll
        for (int q = 0; q < Tile::DEPTH / B_LINES; q++, add(at, by, radix)) {
            const Three seen = {PN_FLAT ? 0 : at.b * stride.a + corner.a,
                                at.c * stride.b + corner.b, at.d * stride.c + corner.c};
            const index_t place = (index_t)at.a * count(sizes) + number(seen, sizes);
            pn_copy_async(to + q * B_LINES * Tile::BSlice::PITCH, b + place * width,
                          at.a < radix.a && is_within(seen, sizes));
        }
    }
};
#endif

// Where r[0, j] lies in the result, or -1: j is outside, or no place of x, or a channel that
// fills. Rows are row_step apart.
PN_DEVICE index_t column_at(const Shapes &s, const Part &p, int j) {
    if (j >= s.P[3]) return -1;
#if defined(PN_OPTION_forward)
    return result_at(s, 0, j);
#elif defined(PN_OPTION_input)
    const Cut n = cut(j, count(s.units()));
    const Three u = place(n.rest, s.units()), stride = {PN_STRIDE};
    const Three q = {u.a * stride.a + p.phase.a, u.b * stride.b + p.phase.b,
                     u.c * stride.c + p.phase.c};
    if (!is_within(q, s.x())) return -1;
    return s.plane(n.whole, 0, s.channels()) * count(s.x()) + number(q, s.x());
#else
    const Cut t = cut(j, PN_POINTS ? s.channels() : fill(s.channels()));
    if (t.rest >= s.channels()) return -1;
    return ((index_t)s.group * s.outputs() * s.channels() + t.rest) * count(s.taps()) + t.whole;
#endif
}
PN_DEVICE index_t row_step(const Shapes &s) {
#if defined(PN_OPTION_forward)
    return count(s.y());
#elif defined(PN_OPTION_input)
    return count(s.x());
#else
    return (index_t)s.channels() * count(s.taps());
#endif
}

PN_ENTRY(mma, Tile::THREADS, PN_BLOCKS)
(PN_RESULTS, const PN_X0 *__restrict__ a, const PN_X0 *__restrict__ b PN_FURTHER, PN_P P) {
    PN_DYNAMIC_SHARED(uint4, shared);
    float sums[PN_WM / 16][PN_WN / 8][4];
    {
        const Part p = part_of(P, blockIdx.x);
        Bring bring({P, p.group}, p, a, b);
        const int steps = (bring.end - bring.begin + Tile::DEPTH - 1) / Tile::DEPTH;
        Tile::sum((char *)shared, steps, bring, sums);
    }
    // Worked out again: there are no registers to keep it in.
    unsigned block = blockIdx.x;
    asm volatile("" : "+r"(block));
    const Part p = part_of(P, block);
    const Shapes s = {P, p.group};
    const index_t step = row_step(s), part = (index_t)p.split * (index_t)P[30];
    const int m = (int)P[2];
#pragma unroll
    for (int c = 0; c < PN_WN / 8; c++)
#pragma unroll
        for (int v = 0; v < 2; v += PN_Y_VECTOR) {
            const index_t at = column_at(s, p, p.column + Tile::column(c, v));
            if (at < 0) continue;
#pragma unroll
            for (int h = 0; h < PN_WM / 8; h++) {
                const int i = p.row + Tile::row(h / 2, h % 2 * 2);
                if (i >= m) continue;
                PN_KEEP_SOME(PN_Y_VECTOR, part + at + i * step, 0, 0,
                             sums[h / 2][c] + h % 2 * 2 + v);
            }
        }
}
PN_EXPORT(mma)
