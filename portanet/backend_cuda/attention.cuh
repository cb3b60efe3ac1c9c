// What both kinds of attention kernels share (attention.cu, attention_mma.cuh): rows of the
// operands, masks and dropout, the statistics of rows. Words: _words of
// portanet/ops/attention.py; P[38] whether rows lie in pieces that are loaded at once, P[39]
// the statistics of a head. S is what is stored, T what is computed in.
#include "philox.cuh"

typedef PN_Y0 S;
typedef pn_compute<S> T;

#define ALL 0xffffffffu
#define LOWEST ((T)-1e37)  // scores below count as masked

// A number among the words: the bits of a float32, then the halves of a float64.
PN_DEVICE float number(const pn_words &P, int k, float) {
    return __uint_as_float((unsigned)P[k]);
}
PN_DEVICE double number(const pn_words &P, int k, double) {
    return __longlong_as_double((long long)((unsigned long long)P[k + 2] << 32 |
                                            (unsigned)P[k + 1]));
}

// One head's rows of a matrix.
struct Rows {
    const S *x;
    long long step;
    int rows, width;
    bool is_aligned;  // rows start and end at pieces
};
// At words k: offset, then steps by batch, head and row.
PN_DEVICE Rows rows_of(const S *x, const pn_words &P, int k, int b, int h, int rows, int width) {
    return Rows{x + P[k] + b * P[k + 1] + h * P[k + 2], P[k + 3], rows, width, P[38] != 0};
}

// What masks and drops: of head h of batch b, whose rows are counted from `before` on.
struct Filter {
    const pn_words &P;
    int b, h, queries, keys;
    bool causal;
#if PN_MASK
    const PN_M *mask;
#endif
#if PN_DROPS
    const unsigned *state;
#endif
    PN_MEMBER bool is_seen(int i, int j) const {
        return (i < queries) & (j < keys) & (!causal | (j <= i));
    }
    // A score, in units of `unit`, with what is added to it.
    PN_MEMBER T masked(T x, T unit, int i, int j) const {
#if PN_MASK
        const long long at = P[PN_MASK_AT] + b * P[PN_MASK_AT + 1] + h * P[PN_MASK_AT + 2] +
                             i * P[PN_MASK_AT + 3] + j * P[PN_MASK_AT + 4];
#if PN_MASK == 1
        if (!mask[at]) x = LOWEST;
#else
        x += unit * (T)pn_load(mask, at);
#endif
#endif
        return x < LOWEST ? LOWEST : x;
    }
#if PN_DROPS
    // Random words of row i, for keys from 4 * block on.
    PN_MEMBER uint4 drawn(int i, int block) const {
        const unsigned long long blocks = ((unsigned)keys + 3) / 4;
        const unsigned long long row = ((unsigned long long)b * (int)P[1] + h) * queries + i;
        return philox(start() + row * blocks + block, state[0], state[1]);
    }
    PN_MEMBER unsigned long long start() const {
        return state[2] | (unsigned long long)state[3] << 32;
    }
    PN_MEMBER T kept(unsigned word) const {
        return word >= (unsigned)P[9] ? number(P, 13, T()) : 0;
    }
    // The state after all that is drawn.
    PN_MEMBER void advance(unsigned *after) const {
        const unsigned long long rows = (unsigned long long)P[0] * (int)P[1] * queries;
        const unsigned long long end = start() + rows * (((unsigned)keys + 3) / 4);
        after[0] = state[0], after[1] = state[1];
        after[2] = (unsigned)end, after[3] = (unsigned)(end >> 32);
    }
#endif
    // What dropout multiplies a weight by.
    PN_MEMBER T factor(int i, int j) const {
#if PN_DROPS
        const uint4 w = drawn(i, j / 4);
        return kept(j % 4 < 2 ? (j % 2 ? w.y : w.x) : j % 2 ? w.w : w.z);
#else
        return 1;
#endif
    }
};
#if PN_MASK
#define MASK_PARAMETER , const PN_M *mask
#define MASK_GIVEN , mask
#else
#define MASK_PARAMETER
#define MASK_GIVEN
#endif
#if PN_DROPS
#define STATE_PARAMETER , const unsigned *state
#define STATE_GIVEN , state + P[PN_STATE_AT]
#define AFTER_PARAMETER , unsigned *after
#else
#define STATE_PARAMETER
#define STATE_GIVEN
#define AFTER_PARAMETER
#endif

// Of a row, for the steps that follow: its lse, and dy . y.
struct alignas(2 * sizeof(T)) Statistics {
    T lse, inner;
};

