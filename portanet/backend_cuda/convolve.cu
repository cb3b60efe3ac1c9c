// y[n, g o' + o, p] = sum over c, t of
//     x[n, g c' + c, p * stride + t * dilation - padding] * w[g o' + o, c, t]
// for p and t of three axes; x is 0 outside its sizes. forward makes y of x and w, input
// makes x of y and w, weight makes w of x and y. Each is a matrix product for each group,
// r[i, j] = sum over l of a[i, l] b[l, j], whose matrices are read where they lie:
//   forward  i = o, j = (n, p), l = (c, t)   a = w, b = x
//   input    i = c, j = (n, q), l = (o, t)   a = w, b = y where p stride = q + padding -
//            t dilation has a solution, else 0
//   weight   i = o, j = (c, t), l = (n, p)   a = y, b = x
//
// words: splits, chunk, m, n, k (sizes of i, j, l), batch, groups, channels (c'), outputs
// (o'), x[3], y[3], kernel[3], stride[3], padding[3], dilation[3], x_offset, w_offset,
// y_offset. Split s sums l in [s chunk, min((s + 1) chunk, k)) into a partial result of its
// own; `combine` adds those, s ascending.
//
// tile: a block makes PN_BM x PN_BN of r (tile.cuh). A thread keeps the place of its j and
// works out that of each l; the kernel's sizes, strides and dilations are constants, so
// that this needs few divisions. each: a thread an element of r, where i has few. turn, mma:
// by tensor cores (convolve_mma.cuh). PN_FLAT: of axis a there is one place and one tap.
#include "keep.cuh"
#if defined(PN_STEP_turn)
#include "turn.cuh"
#elif !defined(PN_STEP_combine)
#include "tile.cuh"

typedef PN_INDEX index_t;

struct Three {
    int a, b, c;
};
PN_DEVICE int count(Three s) { return s.a * s.b * s.c; }
PN_DEVICE Three place(int e, Three s) {
    const unsigned rest = (unsigned)e / (unsigned)s.c;
    const unsigned a = PN_FLAT ? 0 : rest / (unsigned)s.b;
    return Three{(int)a, (int)(rest - a * s.b), (int)(e - rest * s.c)};
}
PN_DEVICE index_t number(Three at, Three s) {
    return ((index_t)at.a * s.b + at.b) * s.c + at.c;
}
PN_DEVICE bool is_within(Three at, Three s) {
    return (PN_FLAT || (unsigned)at.a < (unsigned)s.a) && (unsigned)at.b < (unsigned)s.b &&
           (unsigned)at.c < (unsigned)s.c;
}

// Quotient and remainder of places that are not negative.
struct Cut {
    int whole, rest;
};
PN_DEVICE Cut cut(int e, int by) {
    const int whole = (int)((unsigned)e / (unsigned)by);
    return Cut{whole, e - whole * by};
}

// What the operands and the result share.
struct Shapes {
    const pn_words &P;
    int group;
    PN_MEMBER Three sizes(int at) const {
        return Three{PN_FLAT ? 1 : (int)P[at], (int)P[at + 1], (int)P[at + 2]};
    }
    PN_MEMBER Three x() const { return sizes(9); }
    PN_MEMBER Three y() const { return sizes(12); }
    PN_MEMBER Three padding() const {
        return Three{PN_FLAT ? 0 : (int)P[21], (int)P[22], (int)P[23]};
    }
    // Places of x with one residue of the stride.
    PN_MEMBER Three units() const {
        const Three stride = {PN_STRIDE}, s = x();
        return Three{(s.a + stride.a - 1) / stride.a, (s.b + stride.b - 1) / stride.b,
                     (s.c + stride.c - 1) / stride.c};
    }
    PN_MEMBER Three taps() const { return Three{PN_TAPS}; }
    PN_MEMBER int groups() const { return (int)P[6]; }
    PN_MEMBER int channels() const { return (int)P[7]; }
    PN_MEMBER int outputs() const { return (int)P[8]; }
    // The plane of channel c (or output) of image n.
    PN_MEMBER index_t plane(int n, int channel, int channels) const {
        return ((index_t)n * groups() + group) * channels + channel;
    }
    // The corner of x that tap 0 of result p meets.
    PN_MEMBER Three corner(int p) const {
        const Three at = place(p, y()), stride = {PN_STRIDE}, padding = this->padding();
        return Three{at.a * stride.a - padding.a, at.b * stride.b - padding.b,
                     at.c * stride.c - padding.c};
    }
    // How far tap t is from it.
    PN_MEMBER Three reach(int t) const {
        const Three at = place(t, taps()), dilation = {PN_DILATION};
        return Three{at.a * dilation.a, at.b * dilation.b, at.c * dilation.c};
    }
};
PN_DEVICE Three plus(Three a, Three b) { return Three{a.a + b.a, a.b + b.b, a.c + b.c}; }

// What is read of one operand: zeros where i (j) or l is outside.
template <class S> struct Operand {
    typedef pn_pack<S, 1> Pack;
    static constexpr int VECTOR = 1;
    const S *data;
    Shapes s;
    int size, end;
};

// w of forward: row o, l = (c, t), contiguous.  w of input: row c, l = (o, t).
struct Weights : Operand<PN_X1> {
    static constexpr bool ALONG_L = true;
    typedef index_t Start;
    PN_MEMBER index_t start(int i) const {
        if (i >= size) return -1;
#if defined(PN_OPTION_forward)
        return ((index_t)s.group * s.outputs() + i) * (index_t)s.P[4];
#else
        return (index_t)s.group * s.outputs() * s.channels() * count(s.taps()) +
               (index_t)i * count(s.taps());
#endif
    }
    PN_MEMBER void load(index_t at, int l, Pack &pack) const {
        pack.at[0] = PN_X1{};
        if (at < 0 || l >= end) return;
#if defined(PN_OPTION_forward)
        pack.at[0] = data[at + l];
#else
        const Cut o = cut(l, count(s.taps()));
        pack.at[0] = data[at + (index_t)o.whole * s.channels() * count(s.taps()) + o.rest];
#endif
    }
};

// x of forward: column (n, p), l = (c, t).
struct Patches : Operand<PN_X0> {
    static constexpr bool ALONG_L = false;
    struct Start {
        index_t plane;  // negative: no such column
        Three corner;
    };
    PN_MEMBER Start start(int j) const {
        if (j >= size) return Start{-1, {}};
        const Cut n = cut(j, count(s.y()));
        return Start{s.plane(n.whole, 0, s.channels()) * count(s.x()), s.corner(n.rest)};
    }
    PN_MEMBER void load(const Start &from, int l, Pack &pack) const {
        pack.at[0] = PN_X0{};
        if (from.plane < 0 || l >= end) return;
        const Cut c = cut(l, count(s.taps()));
        const Three at = plus(from.corner, s.reach(c.rest));
        if (!is_within(at, s.x())) return;
        pack.at[0] = data[from.plane + (index_t)c.whole * count(s.x()) + number(at, s.x())];
    }
};

// y of input: column (n, q), l = (o, t).
PN_DEVICE bool divides(int &at, int by) {
    if (by == 1) return true;
    const int whole = at / by;
    const bool is_exact = whole * by == at;
    at = whole;
    return is_exact;
}
struct Spread : Operand<PN_X0> {
    static constexpr bool ALONG_L = false;
    struct Start {
        index_t plane;
        Three corner;  // q + padding
    };
    PN_MEMBER Start start(int j) const {
        if (j >= size) return Start{-1, {}};
        const Cut n = cut(j, count(s.x()));
        return Start{s.plane(n.whole, 0, s.outputs()) * count(s.y()),
                     plus(place(n.rest, s.x()), s.padding())};
    }
    PN_MEMBER void load(const Start &from, int l, Pack &pack) const {
        pack.at[0] = PN_X0{};
        if (from.plane < 0 || l >= end) return;
        const Cut o = cut(l, count(s.taps()));
        const Three back = s.reach(o.rest), stride = {PN_STRIDE};
        Three at = {from.corner.a - back.a, from.corner.b - back.b, from.corner.c - back.c};
        if (!divides(at.a, stride.a) || !divides(at.b, stride.b) ||
            !divides(at.c, stride.c) || !is_within(at, s.y()))
            return;
        pack.at[0] = data[from.plane + (index_t)o.whole * count(s.y()) + number(at, s.y())];
    }
};

// y of weight: row o, l = (n, p).
struct Results : Operand<PN_X1> {
    static constexpr bool ALONG_L = true;
    typedef int Start;
    PN_MEMBER int start(int i) const { return i < size ? i : -1; }
    PN_MEMBER void load(int i, int l, Pack &pack) const {
        pack.at[0] = PN_X1{};
        if (i < 0 || l >= end) return;
        const Cut n = cut(l, count(s.y()));
        pack.at[0] = data[s.plane(n.whole, i, s.outputs()) * count(s.y()) + n.rest];
    }
};

// x of weight: column (c, t), l = (n, p).
struct Taps : Operand<PN_X0> {
    static constexpr bool ALONG_L = true;
    struct Start {
        int channel;  // negative: no such column
        Three reach;
    };
    PN_MEMBER Start start(int j) const {
        if (j >= size) return Start{-1, {}};
        const Cut c = cut(j, count(s.taps()));
        return Start{c.whole, s.reach(c.rest)};
    }
    PN_MEMBER void load(const Start &from, int l, Pack &pack) const {
        pack.at[0] = PN_X0{};
        if (from.channel < 0 || l >= end) return;
        const Cut n = cut(l, count(s.y()));
        const Three at = plus(s.corner(n.rest), from.reach);
        if (!is_within(at, s.x())) return;
        const index_t plane = s.plane(n.whole, from.channel, s.channels());
        pack.at[0] = data[plane * count(s.x()) + number(at, s.x())];
    }
};

// Where r[i, j] lies.
PN_DEVICE index_t result_at(const Shapes &s, int i, int j) {
#if defined(PN_OPTION_forward)
    const Cut n = cut(j, count(s.y()));
    return s.plane(n.whole, i, s.outputs()) * count(s.y()) + n.rest;
#elif defined(PN_OPTION_input)
    const Cut n = cut(j, count(s.x()));
    return s.plane(n.whole, i, s.channels()) * count(s.x()) + n.rest;
#else
    return ((index_t)s.group * s.outputs() + i) * (index_t)s.P[3] + j;
#endif
}

// The inputs of each option: forward x, w; input y, w; weight x, y.
#if defined(PN_OPTION_forward)
typedef Weights A;
typedef Patches B;
#define A_AT (second + P[28])
#define B_AT (first + P[27])
#elif defined(PN_OPTION_input)
typedef Weights A;
typedef Spread B;
#define A_AT (second + P[28])
#define B_AT (first + P[29])
#else
typedef Results A;
typedef Taps B;
#define A_AT (second + P[29])
#define B_AT (first + P[27])
#endif

#if defined(PN_STEP_tile)
typedef pn_tile<T, PN_BM, PN_BN, PN_BK, PN_TM, PN_TN> Tile;
PN_ENTRY(tile, PN_BM / PN_TM * (PN_BN / PN_TN), 1)
(PN_RESULTS, const PN_X0 *__restrict__ first, const PN_X1 *__restrict__ second PN_FURTHER,
 PN_P P) {
    const unsigned across = (unsigned)((P[3] + PN_BN - 1) / PN_BN);
    const unsigned tiles = (unsigned)((P[2] + PN_BM - 1) / PN_BM) * across;
    const unsigned which = blockIdx.x / tiles, tile = blockIdx.x - which * tiles;
    const unsigned split = which / (unsigned)P[6];
    const Shapes s = {P, (int)(which - split * (unsigned)P[6])};
    const int first_row = (int)(tile / across) * PN_BM;
    const int first_column = (int)(tile % across) * PN_BN;
    const int m = (int)P[2], n = (int)P[3], begin = (int)((long long)split * P[1]);
    const int end = begin + P[1] < P[4] ? begin + (int)P[1] : (int)P[4];
    const A a = {{A_AT, s, m, end}};
    const B b = {{B_AT, s, n, end}};
    T sums[PN_TM][PN_TN];
    Tile::multiply(a, b, first_row, first_column, begin, end, sums);
    const index_t part = (index_t)split * (index_t)P[6] * m * n;
#pragma unroll
    for (int c = 0; c < PN_TN; c++) {
        const int j = first_column + Tile::column(c);
        if (j >= n) continue;
#pragma unroll
        for (int i = 0; i < PN_TM; i++) {
            const int row = first_row + Tile::row(i);
            if (row < m) PN_KEEP(part + result_at(s, row, j), 0, 0, sums[i][c]);
        }
    }
}
PN_EXPORT(tile)
#endif

#if defined(PN_STEP_each)
PN_ENTRY(each, 128)
(PN_RESULTS, const PN_X0 *__restrict__ first, const PN_X1 *__restrict__ second PN_FURTHER,
 PN_P P) {
    const int m = (int)P[2], n = (int)P[3];
    const long long e = (long long)blockIdx.x * 128 + threadIdx.x;
    if (e >= P[0] * P[6] * m * n) return;
    const unsigned row = (unsigned)(e / n), which = row / (unsigned)m;
    const int i = (int)(row - which * (unsigned)m), j = (int)(e - (long long)row * n);
    const unsigned split = which / (unsigned)P[6];
    const Shapes s = {P, (int)(which - split * (unsigned)P[6])};
    const int begin = (int)((long long)split * P[1]);
    const int end = begin + P[1] < P[4] ? begin + (int)P[1] : (int)P[4];
    const A a = {{A_AT, s, m, end}};
    const B b = {{B_AT, s, n, end}};
    const typename A::Start left = a.start(i);
    const typename B::Start top = b.start(j);
    T sum = 0;
    for (int l = begin; l < end; l++) {
        typename A::Pack u;
        typename B::Pack v;
        a.load(left, l, u);
        b.load(top, l, v);
        sum = pn_fma((T)pn_value(u.at[0]), (T)pn_value(v.at[0]), sum);
    }
    const index_t part = (index_t)split * (index_t)P[6] * m * n;
    PN_KEEP(part + result_at(s, i, j), 0, 0, sum);
}
PN_EXPORT(each)
#endif

#if defined(PN_STEP_mma)
#include "convolve_mma.cuh"
#endif
#endif
