// r[i, j] = sum over l of a[i, l] * b[l, j] for a tile of BM x BN of r, without tensor
// cores: what matmul.cu and convolve.cu share.
//
// Slices of BK of l are double-buffered in shared memory: while one is multiplied, the
// next is on its way in registers, so there is one barrier a slice. a's slice is kept
// transposed, [l][i], so that both are read by 128-bit loads. A thread keeps TM x TN sums,
// in groups of G neighbours; a warp's lanes lie 4 x 8, so that each read of shared memory
// by a warp is one of at most 128 bytes. The order of each sum is l ascending.
//
// An operand is a class with
//   Pack, VECTOR, ALONG_L   a load takes VECTOR neighbours along l, or along i (j)
//   start(i)                what a thread keeps of row (column) i
//   load(start, l, &pack)   zeros where i or l is outside
PN_DEVICE float pn_fma(float a, float b, float c) { return fmaf(a, b, c); }
PN_DEVICE double pn_fma(double a, double b, double c) { return fma(a, b, c); }
PN_DEVICE int pn_fma(int a, int b, int c) { return (int)((unsigned)a * b + c); }
PN_DEVICE unsigned pn_fma(unsigned a, unsigned b, unsigned c) { return a * b + c; }
PN_DEVICE long long pn_fma(long long a, long long b, long long c) {
    return (long long)((unsigned long long)a * b + c);
}

// What one thread brings of one operand's slice: PACKS loads of VECTOR elements.
template <class T, int ROWS, int BK, int THREADS, class Operand> struct pn_loader {
    static constexpr int VECTOR = Operand::VECTOR;
    static constexpr int PACKS = ROWS * BK / VECTOR / THREADS;
    static constexpr int ACROSS = (Operand::ALONG_L ? BK : ROWS) / VECTOR;
    static constexpr int PITCH = ROWS + 16 / sizeof(T);  // rows start in other banks
    static_assert(PACKS * THREADS * VECTOR == ROWS * BK, "threads share a slice evenly");

    typename Operand::Pack packs[PACKS];
    typename Operand::Start starts[PACKS];

    static PN_MEMBER int row(int q) {
        const int p = threadIdx.x + q * THREADS;
        return Operand::ALONG_L ? p / ACROSS : p % ACROSS * VECTOR;
    }
    static PN_MEMBER int depth(int q) {
        const int p = threadIdx.x + q * THREADS;
        return Operand::ALONG_L ? p % ACROSS * VECTOR : p / ACROSS;
    }
    PN_MEMBER void begin(const Operand &operand, int first) {
#pragma unroll
        for (int q = 0; q < PACKS; q++) starts[q] = operand.start(first + row(q));
    }
    PN_MEMBER void fetch(const Operand &operand, int l) {
#pragma unroll
        for (int q = 0; q < PACKS; q++) operand.load(starts[q], l + depth(q), packs[q]);
    }
    PN_MEMBER void put(T (*slice)[PITCH]) const {
#pragma unroll
        for (int q = 0; q < PACKS; q++) {
            const int i = row(q), l = depth(q);
            if constexpr (Operand::ALONG_L) {
#pragma unroll
                for (int v = 0; v < VECTOR; v++) slice[l + v][i] = (T)pn_value(packs[q].at[v]);
            } else if constexpr (VECTOR > 1) {
                constexpr int G = VECTOR * sizeof(T) > 16 ? 16 / sizeof(T) : VECTOR;
#pragma unroll
                for (int g = 0; g < VECTOR; g += G) {
                    pn_pack<T, G> made;
#pragma unroll
                    for (int v = 0; v < G; v++) made.at[v] = (T)pn_value(packs[q].at[g + v]);
                    *(pn_pack<T, G> *)&slice[l][i + g] = made;
                }
            } else {
                slice[l][i] = (T)pn_value(packs[q].at[0]);
            }
        }
    }
};

template <class T, int BM, int BN, int BK, int TM, int TN> struct pn_tile {
    static constexpr int G = 16 / sizeof(T) < 4 ? 16 / sizeof(T) : 4;
    static constexpr int WARPS_ACROSS = BN / (8 * TN);
    static constexpr int THREADS = BM / TM * (BN / TN);
    static_assert(BM % (4 * TM) == 0 && BN % (8 * TN) == 0, "warps cover the tile");
    static_assert(TM % G == 0 && TN % G == 0, "groups cover a thread's sums");

    // Where a thread's sums lie in the tile.
    static PN_MEMBER int row(int i) {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        return warp / WARPS_ACROSS * 4 * TM + i / G * 4 * G + lane / 8 * G + i % G;
    }
    static PN_MEMBER int column(int j) {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        return warp % WARPS_ACROSS * 8 * TN + j / G * 8 * G + lane % 8 * G + j % G;
    }

    // The sums over l in [begin, end) of the tile whose first row and column are given.
    template <class A, class B>
    static PN_MEMBER void multiply(const A &a, const B &b, int first_row,
                                                    int first_column, int begin, int end,
                                                    T (&sums)[TM][TN]) {
        typedef pn_loader<T, BM, BK, THREADS, A> ALoader;
        typedef pn_loader<T, BN, BK, THREADS, B> BLoader;
        PN_SHARED(T, a_slice, [2][BK][ALoader::PITCH]);
        PN_SHARED(T, b_slice, [2][BK][BLoader::PITCH]);
#pragma unroll
        for (int i = 0; i < TM; i++)
#pragma unroll
            for (int j = 0; j < TN; j++) sums[i][j] = 0;
        ALoader a_loader;
        BLoader b_loader;
        a_loader.begin(a, first_row);
        b_loader.begin(b, first_column);
        a_loader.fetch(a, begin);
        b_loader.fetch(b, begin);
        a_loader.put(a_slice[0]);
        b_loader.put(b_slice[0]);
        __syncthreads();
        int which = 0;
        for (int l = begin; l < end; l += BK) {
            const bool is_last = l + BK >= end;
            if (!is_last) {
                a_loader.fetch(a, l + BK);
                b_loader.fetch(b, l + BK);
            }
#pragma unroll
            for (int k = 0; k < BK; k++) {
                pn_pack<T, G> left[TM / G], top[TN / G];
#pragma unroll
                for (int g = 0; g < TM / G; g++)
                    left[g] = *(const pn_pack<T, G> *)&a_slice[which][k][row(g * G)];
#pragma unroll
                for (int g = 0; g < TN / G; g++)
                    top[g] = *(const pn_pack<T, G> *)&b_slice[which][k][column(g * G)];
#pragma unroll
                for (int i = 0; i < TM; i++)
#pragma unroll
                    for (int j = 0; j < TN; j++)
                        sums[i][j] =
                            pn_fma(left[i / G].at[i % G], top[j / G].at[j % G], sums[i][j]);
            }
            if (is_last) return;
            which ^= 1;
            a_loader.put(a_slice[which]);
            b_loader.put(b_slice[which]);
            __syncthreads();
        }
    }
};
