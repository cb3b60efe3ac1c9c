// Tensor cores by the whole warp, from shared memory: the instructions, and a tile made of
// them. All PTX of matrix products is here; the simulator has each in C++ (cusim_mma.h).
//
// pn_mma<S>(d, a, b): d += a * b, 16 x 8, over 32 bytes of l: 16 elements of 2 bytes, or 8
// of float32, which are rounded to TF32 (10 bits). Sums are float32. Fragments are those of
// mma.sync in the PTX manual, "Matrix Fragments for mma.m16n8k16" and "m16n8k8": of lane
// 4 g + t, a[0] is word t of row g, a[1] of row g + 8, a[2] and a[3] words t + 4; b[0] and
// b[1] words t and t + 4 of column g; d[0] and d[1] columns 2 t and 2 t + 1 of row g, d[2]
// and d[3] of row g + 8. Turing (PN_ARCH 75) has float16, 8 elements at a time.
template <class A, class B> static constexpr bool pn_is_same = false;
template <class A> static constexpr bool pn_is_same<A, A> = true;

#if defined(PN_SIMULATED)
#include "cusim_mma.h"
template <class S>
PN_DEVICE void pn_mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    cusim::mma(d, a, b, __LINE__, [](unsigned word, int half) {
        if (sizeof(S) == 4) return cusim::to_tf32(word);
        S s;
        const unsigned short bits = (unsigned short)(word >> 16 * half);
        __builtin_memcpy(&s, &bits, sizeof s);
        return (float)pn_value(s);
    }, 4 / (int)sizeof(S));
}
PN_DEVICE void pn_load_rows(unsigned (&words)[4], const void *row) {
    cusim::load_matrix(words, row, false, __LINE__);
}
PN_DEVICE void pn_load_columns(unsigned (&words)[4], const void *row) {
    cusim::load_matrix(words, row, true, __LINE__);
}
PN_DEVICE void pn_copy_async(void *to, const void *from, bool is_there) {
    cusim::copy_later(to, from, 16, is_there ? 16 : 0);
}
PN_DEVICE void pn_commit() { cusim::commit(); }
template <int LEFT> PN_DEVICE void pn_wait() { cusim::land(LEFT); }
template <class S> PN_DEVICE unsigned pn_two(float low, float high) {
    S two[2];
    pn_convert(two, low), pn_convert(two + 1, high);
    return two[0].bits | (unsigned)two[1].bits << 16;
}
#else
template <class S> struct pn_tensor;
template <> struct pn_tensor<pn_float16> {
    static PN_MEMBER void multiply(float (&d)[4], const unsigned (&a)[4],
                                   const unsigned (&b)[2]) {
#if PN_ARCH >= 80
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
            "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
#pragma unroll
        for (int half = 0; half < 2; half++)
            asm volatile(
                "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
                "{%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
#endif
    }
};
#if PN_ARCH >= 80
template <> struct pn_tensor<pn_bfloat16> {
    static PN_MEMBER void multiply(float (&d)[4], const unsigned (&a)[4],
                                   const unsigned (&b)[2]) {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
            "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
};
PN_DEVICE unsigned pn_to_tf32(unsigned word) {
    unsigned rounded;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(word)));
    return rounded;
}
template <> struct pn_tensor<float> {
    static PN_MEMBER void multiply(float (&d)[4], const unsigned (&a)[4],
                                   const unsigned (&b)[2]) {
        asm volatile(
            "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
            "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(pn_to_tf32(a[0])), "r"(pn_to_tf32(a[1])), "r"(pn_to_tf32(a[2])),
              "r"(pn_to_tf32(a[3])), "r"(pn_to_tf32(b[0])), "r"(pn_to_tf32(b[1])));
    }
};
#endif
template <class S>
PN_DEVICE void pn_mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    pn_tensor<S>::multiply(d, a, b);
}
#if PN_ARCH >= 80
// Two numbers as a word of a fragment.
template <class S> PN_DEVICE unsigned pn_two(float low, float high) {
    unsigned word;
    if constexpr (pn_is_same<S, pn_float16>)
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    else
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}
#endif
PN_DEVICE unsigned pn_shared_at(const void *p) {
    return (unsigned)__cvta_generic_to_shared(p);
}
// Four matrices of 8 rows of 16 bytes; lane l names row l % 8 of matrix l / 8. Lane 4 g + t
// gets word t of row g of each; or, of 2-byte elements, column g of rows 2 t and 2 t + 1.
PN_DEVICE void pn_load_rows(unsigned (&words)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(pn_shared_at(row))
                 : "memory");
}
PN_DEVICE void pn_load_columns(unsigned (&words)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(pn_shared_at(row))
                 : "memory");
}
// 16 bytes to shared memory, zeros if they are not there, on their way until waited for.
PN_DEVICE void pn_copy_async(void *to, const void *from, bool is_there) {
#if PN_ARCH >= 80
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(pn_shared_at(to)),
                 "l"(from), "r"(is_there ? 16 : 0)
                 : "memory");
#else
    *(uint4 *)to = is_there ? *(const uint4 *)from : uint4{0, 0, 0, 0};
#endif
}
PN_DEVICE void pn_commit() {
#if PN_ARCH >= 80
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int LEFT> PN_DEVICE void pn_wait() {
#if PN_ARCH >= 80
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
#endif
}
#endif

// ---- Fragments of a matrix in shared memory

// The fragments of rows [i, i + 16) and of 32 bytes of l from `l` on: those of a, or those of
// b for two times 8 columns. Lines lie PITCH apart: [row][l] or, not ALONG_L, [l][row].
template <class S, int PITCH, bool ALONG_L>
PN_DEVICE void pn_fragments(const S *at, int i, int l, bool is_a, unsigned (&words)[4]) {
    const int lane = threadIdx.x % 32, matrix = lane / 8;
    // Which half, of the rows and of l, a matrix is.
    const int across = is_a ? matrix % 2 : matrix / 2, deep = is_a ? matrix / 2 : matrix % 2;
    // What depends on the lane comes first: the rest is a constant of an unrolled loop.
    if constexpr (ALONG_L) {
        at += (across * 8 + lane % 8) * PITCH + deep * (16 / (int)sizeof(S));
        pn_load_rows(words, at + (i * PITCH + l));
    } else if constexpr (sizeof(S) == 2) {
        at += (deep * 8 + lane % 8) * PITCH + across * 8;
        pn_load_columns(words, at + (l * PITCH + i));
    } else {
#pragma unroll
        for (int w = 0; w < 4; w++) {
            const int row = i + (is_a ? w % 2 : w / 2) * 8 + lane / 4;
            const int of_l = l + (is_a ? w / 2 : w % 2) * 4 + lane % 4;
            words[w] = __float_as_uint(at[of_l * PITCH + row]);
        }
    }
}

// ---- A tile

// One operand's slice of 64 bytes of l in shared memory, ROWS rows (or columns) wide:
// [row][l] if its elements are neighbours along l, else [l][row]. Rows are padded so that
// the 8 rows of a matrix lie in different banks.
template <class S, int ROWS, bool ALONG_L> struct pn_slice {
    static constexpr int DEPTH = 64 / sizeof(S);
    static constexpr int PITCH = ALONG_L ? DEPTH + 16 / sizeof(S)
                                         : ROWS + (sizeof(S) == 4 ? 32 : 16) / sizeof(S);
    static constexpr int BYTES = (ALONG_L ? ROWS : DEPTH) * PITCH * sizeof(S);
    static constexpr int PIECE = 16 / sizeof(S);  // elements of a copy
    static constexpr int ACROSS = (ALONG_L ? DEPTH : ROWS) / PIECE;

    // Starts to copy [first, first + ROWS) x [l, l + DEPTH). IS_WHOLE: pieces of 16 bytes
    // lie so in memory; else each element is loaded.
    template <int THREADS, bool IS_WHOLE, class Matrix>
    static PN_MEMBER void copy(S *slice, const Matrix &m, int first, int l) {
        static_assert(ROWS * DEPTH / PIECE % THREADS == 0, "threads share a slice evenly");
#pragma unroll
        for (int q = 0; q < ROWS * DEPTH / PIECE / THREADS; q++) {
            const int p = threadIdx.x + q * THREADS;
            const int down = p / ACROSS, side = p % ACROSS * PIECE;
            const int i = first + (ALONG_L ? down : side), k = l + (ALONG_L ? side : down);
            S *to = slice + down * PITCH + side;
            if constexpr (IS_WHOLE) {
                pn_copy_async(to, m.at(i, k), k < m.end);
            } else {
                pn_pack<S, PIECE> made;
#pragma unroll
                for (int e = 0; e < PIECE; e++) {
                    const int ke = ALONG_L ? k + e : k;
                    made.at[e] = ke < m.end ? *m.at(ALONG_L ? i : i + e, ke) : S{};
                }
                *(pn_pack<S, PIECE> *)to = made;
            }
        }
    }

    // The fragments of rows [i, i + 16) and step k, 32 bytes of l.
    static PN_MEMBER void load(const S *slice, int i, int k, bool is_a, unsigned (&words)[4]) {
        pn_fragments<S, PITCH, ALONG_L>(slice, i, k * (32 / (int)sizeof(S)), is_a, words);
    }
};

// BM x BN by warps of WM x WN, from STAGES slices, all but one on their way.
template <class S, int BM, int BN, int WM, int WN, int STAGES, bool A_ALONG_L, bool B_ALONG_L>
struct pn_mma_tile {
    typedef pn_slice<S, BM, A_ALONG_L> ASlice;
    typedef pn_slice<S, BN, B_ALONG_L> BSlice;
    static constexpr int DEPTH = ASlice::DEPTH, THREADS = BM / WM * (BN / WN) * 32;
    static constexpr int STAGE = ASlice::BYTES + BSlice::BYTES;  // bytes

    // The rows and columns of sums[i][j][0..3], of this lane.
    static PN_MEMBER int row(int i, int e) {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        return warp / (BN / WN) * WM + i * 16 + lane / 4 + e / 2 * 8;
    }
    static PN_MEMBER int column(int j, int e) {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        return warp % (BN / WN) * WN + j * 8 + lane % 4 * 2 + e % 2;
    }

    template <bool A_WHOLE, bool B_WHOLE, class A, class B>
    static PN_MEMBER void multiply(char *shared, const A &a, const B &b, int first_row,
                                   int first_column, int begin, int end,
                                   float (&sums)[WM / 16][WN / 8][4]) {
        auto bring = [&](char *stage, int step) {
            const int l = begin + step * DEPTH;
            ASlice::template copy<THREADS, A_WHOLE>((S *)stage, a, first_row, l);
            BSlice::template copy<THREADS, B_WHOLE>((S *)(stage + ASlice::BYTES), b,
                                                    first_column, l);
        };
        sum(shared, (end - begin + DEPTH - 1) / DEPTH, bring, sums);
    }
    // bring(stage, step) starts to copy the slices of a step: step 0, then 1, ...
    template <class Bring>
    static PN_MEMBER void sum(char *shared, int steps, Bring &bring,
                              float (&sums)[WM / 16][WN / 8][4]) {
        const int warp = threadIdx.x / 32;
        const int i0 = warp / (BN / WN) * WM, j0 = warp % (BN / WN) * WN;
        auto fetch = [&](int step) {
            if (step < steps) bring(shared + step % STAGES * STAGE, step);
            pn_commit();
        };
#pragma unroll
        for (int i = 0; i < WM / 16; i++)
#pragma unroll
            for (int j = 0; j < WN / 8; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) sums[i][j][e] = 0;
#pragma unroll
        for (int s = 0; s < STAGES - 1; s++) fetch(s);
        for (int step = 0; step < steps; step++) {
            pn_wait<STAGES - 2>();
            __syncthreads();  // the slice is there, and nobody reads the one before it
            fetch(step + STAGES - 1);
            const char *stage = shared + step % STAGES * STAGE;
#pragma unroll
            for (int k = 0; k < 2; k++) {
                unsigned left[WM / 16][4];
#pragma unroll
                for (int i = 0; i < WM / 16; i++)
                    ASlice::load((const S *)stage, i0 + i * 16, k, true, left[i]);
#pragma unroll
                for (int j = 0; j < WN / 16; j++) {
                    unsigned top[4];
                    BSlice::load((const S *)(stage + ASlice::BYTES), j0 + j * 16, k, false, top);
                    const unsigned first[2] = {top[0], top[1]}, second[2] = {top[2], top[3]};
#pragma unroll
                    for (int i = 0; i < WM / 16; i++) {
                        pn_mma<S>(sums[i][2 * j], left[i], first);
                        pn_mma<S>(sums[i][2 * j + 1], left[i], second);
                    }
                }
            }
        }
        pn_wait<0>();
    }
};
