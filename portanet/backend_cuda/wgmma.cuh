// Hopper's matrix product (sm_90a): two warpgroups multiply slices of 64 of l that lie in
// shared memory (wgmma), while one thread of a third asks the tensor memory accelerator
// (TMA) for the next ones. All of its PTX is here; the simulator has it in C++
// (cusim_tma.h). Names as in the PTX manual: "Asynchronous Warpgroup Level Matrix
// Instructions", "cp.async.bulk.tensor", "mbarrier".
//
// Every slice is written and read under the 128-byte swizzle: the piece of 16 bytes c of
// line r (of 128 bytes) lies at c ^ r % 8. That needs lines that start at multiples of 1024.
struct alignas(64) pn_tensor_map {
    unsigned long long opaque[16];  // CUtensorMap; the host writes it at each launch
};
#define PN_MAP const __grid_constant__ pn_tensor_map
struct alignas(1024) pn_lines {
    char at[1024];
};
typedef unsigned long long pn_phases;  // an mbarrier

#if defined(PN_SIMULATED)
#include "cusim_tma.h"
PN_DEVICE void pn_init(pn_phases *b, int arrivals) { cusim_phase_init(b, arrivals); }
PN_DEVICE void pn_init_done() {}
PN_DEVICE void pn_arrive(pn_phases *b) { cusim_phase_arrive(b, 0, __LINE__); }
PN_DEVICE void pn_expect(pn_phases *b, int bytes) { cusim_phase_arrive(b, bytes, __LINE__); }
PN_DEVICE void pn_await(pn_phases *b, unsigned parity) {
    cusim_phase_wait(b, parity, __LINE__);
}
PN_DEVICE void pn_bring(void *to, const pn_tensor_map &map, pn_phases *b, int x, int y, int z) {
    cusim_tensor_load(to, &map, b, x, y, z);
}
PN_DEVICE void pn_take(const pn_tensor_map &map, const void *from, int x, int y, int z) {
    cusim_tensor_store(&map, from, x, y, z, __LINE__);
}
PN_DEVICE void pn_take_commit() { cusim_store_commit(); }
PN_DEVICE void pn_taken() { cusim_store_wait(); }
PN_DEVICE void pn_show_to_tma() { cusim_async_fence(); }
PN_DEVICE void pn_group_barrier(int group) { cusim_named_barrier(1 + group, 128, __LINE__); }
PN_DEVICE void pn_store_rows(void *row, const unsigned (&words)[4]) {
    cusim::store_matrix(row, words, __LINE__);
}
PN_DEVICE unsigned pn_shared_at(const void *p) { return cusim_shared_at(p); }
PN_DEVICE void pn_wgmma_fence() { cusim_product_fence(); }
PN_DEVICE void pn_wgmma_commit() { cusim_product_commit(); }
PN_DEVICE void pn_wgmma_all_but_one() { cusim_product_wait(1); }
template <int N> PN_DEVICE void pn_wgmma_all(float (&)[N]) { cusim_product_wait(0); }
template <int MORE> PN_DEVICE void pn_registers() {}
template <bool A_ALONG_L, bool B_ALONG_L, int N>
PN_DEVICE void pn_wgmma(float (&d)[N], unsigned long long a, unsigned long long b, int adds) {
    cusim::wgmma<PN_X0, A_ALONG_L, B_ALONG_L, N>(d, a, b, adds);
}
#else
PN_DEVICE unsigned pn_shared_at(const void *p) {
    return (unsigned)__cvta_generic_to_shared(p);
}
PN_DEVICE void pn_init(pn_phases *b, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(pn_shared_at(b)),
                 "r"(arrivals)
                 : "memory");
}
PN_DEVICE void pn_init_done() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
PN_DEVICE void pn_arrive(pn_phases *b) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(pn_shared_at(b)) : "memory");
}
// Arrives; the phase ends when so many bytes have come too.
PN_DEVICE void pn_expect(pn_phases *b, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                     pn_shared_at(b)),
                 "r"(bytes)
                 : "memory");
}
// Returns once the phase of this parity is over; before the first, the one of parity 1 is.
PN_DEVICE void pn_await(pn_phases *b, unsigned parity) {
    unsigned is_over;
    do {
        asm volatile(
            "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; "
            "selp.u32 %0, 1, 0, p; }"
            : "=r"(is_over)
            : "r"(pn_shared_at(b)), "r"(parity)
            : "memory");
    } while (!is_over);
}
// A box from memory, zeros where the tensor ends; a box to memory, cut off where it ends.
PN_DEVICE void pn_bring(void *to, const pn_tensor_map &map, pn_phases *b, int x, int y, int z) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(pn_shared_at(to)),
        "l"(&map), "r"(pn_shared_at(b)), "r"(x), "r"(y), "r"(z)
        : "memory");
}
PN_DEVICE void pn_take(const pn_tensor_map &map, const void *from, int x, int y, int z) {
    asm volatile(
        "cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4}], [%1];" ::
            "l"(&map),
        "r"(pn_shared_at(from)), "r"(x), "r"(y), "r"(z)
        : "memory");
}
PN_DEVICE void pn_take_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
PN_DEVICE void pn_taken() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
// What this thread wrote in shared memory is what the TMA reads after the next barrier.
PN_DEVICE void pn_show_to_tma() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
PN_DEVICE void pn_group_barrier(int group) {
    asm volatile("bar.sync %0, 128;" ::"r"(1 + group) : "memory");
}
// The opposite of pn_load_rows in mma.cuh: lane l names row l % 8 of matrix l / 8.
PN_DEVICE void pn_store_rows(void *row, const unsigned (&words)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(
                     pn_shared_at(row)),
                 "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
                 : "memory");
}
PN_DEVICE void pn_wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
PN_DEVICE void pn_wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
PN_DEVICE void pn_wgmma_all_but_one() {
    asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
}
// Waits for all; the compiler, too, reads d no earlier.
template <int N> PN_DEVICE void pn_wgmma_all(float (&d)[N]) {
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(d[i])::"memory");
}
// This warpgroup's registers a thread: what one gives away, the others get.
template <int N> PN_DEVICE void pn_registers() {
    if (N < 168)
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
    else
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}
// clang-format off
#define PN_F4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define PN_F16(i) PN_F4(i), PN_F4(i + 4), PN_F4(i + 8), PN_F4(i + 12)
#define PN_F64 PN_F16(0), PN_F16(16), PN_F16(32), PN_F16(48)
#define PN_NAMES_64 \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22," \
    "%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43," \
    "%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define PN_NAMES_128 \
    PN_NAMES_64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80," \
    "%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100," \
    "%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116," \
    "%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#if PN_BN == 256
#define PN_WGMMA_D PN_F64, PN_F16(64), PN_F16(80), PN_F16(96), PN_F16(112)
#define PN_WGMMA_NAMES "n256k16.f32." PN_TENSOR_TYPE "." PN_TENSOR_TYPE " {" PN_NAMES_128 "}, " \
    "%128, %129, p, 1, 1, %131, %132; }"
#define PN_WGMMA_ADDS "%130"
#else
#define PN_WGMMA_D PN_F64
#define PN_WGMMA_NAMES "n128k16.f32." PN_TENSOR_TYPE "." PN_TENSOR_TYPE " {" PN_NAMES_64 "}, " \
    "%64, %65, p, 1, 1, %67, %68; }"
#define PN_WGMMA_ADDS "%66"
#endif
// clang-format on
// d (+)= a * b, 64 x 2 N over 16 of l, done when it is waited for. Of lane 4 g + t of warp
// w, d[4 j], d[4 j + 1] are columns 8 j + 2 t and 8 j + 2 t + 1 of row 16 w + g, and the next
// two those of row 16 w + g + 8. a and b are pn_matrix; `adds` 0 forgets what d held.
template <bool A_ALONG_L, bool B_ALONG_L, int N>
PN_DEVICE void pn_wgmma(float (&d)[N], unsigned long long a, unsigned long long b, int adds) {
    static_assert(2 * N == PN_BN, "one instruction makes all columns");
    asm volatile("{ .reg .pred p; setp.ne.b32 p, " PN_WGMMA_ADDS
                 ", 0; wgmma.mma_async.sync.aligned.m64" PN_WGMMA_NAMES
                 : PN_WGMMA_D
                 : "l"(a), "l"(b), "r"(adds), "n"((int)!A_ALONG_L), "n"((int)!B_ALONG_L));
}
#endif

// A slice of ROWS rows (or columns) and 64 of l: boxes of 64 lines of 128 bytes. A line
// holds 64 elements along l of a row, or of 64 rows one element of l.
template <int ROWS, bool ALONG_L> struct pn_boxes {
    static constexpr int BOX = 64 * 128;
    static constexpr int BYTES = ROWS / 64 * BOX;

    static PN_MEMBER void bring(char *slice, const pn_tensor_map &map, pn_phases *full, int i,
                                int l, int batch) {
        if constexpr (ALONG_L) {
            pn_bring(slice, map, full, l, i, batch);  // all rows by one box
        } else {
#pragma unroll
            for (int c = 0; c < ROWS / 64; c++)
                pn_bring(slice + c * BOX, map, full, i + c * 64, l, batch);
        }
    }
    // Rows from i (a multiple of 64) on, and the 16 of l from 16 k on, as wgmma is told of
    // them ("Matrix Descriptor Format"): address, then two distances, in units of 16 bytes.
    // Groups of 8 lines are 1024 bytes apart, boxes that hold 64 more rows one BOX.
    static PN_MEMBER unsigned long long matrix(const char *slice, int i, int k) {
        const unsigned at = pn_shared_at(slice + i / 64 * BOX + k * (ALONG_L ? 32 : 16 * 128));
        const unsigned long long box = ALONG_L ? 1 : BOX >> 4, swizzle_128 = 1;
        return (at & 0x3ffff) >> 4 | box << 16 | (1024ull >> 4) << 32 | swizzle_128 << 62;
    }
};
