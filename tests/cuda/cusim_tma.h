// Hopper's asynchronous instructions in C++, for portanet/backend_cuda/wgmma.cuh. All of
// them happen as late as they may: products when they are waited for, loads when nobody can
// go on without one (with CUSIM_ORDER=reverse, at once), stores when their group is waited
// for. So a wait that is missing shows in the numbers. A descriptor is read bit by bit, as
// the PTX manual has it, under the 128-byte swizzle.
#pragma once
#include "cusim.h"

// What stands in the 128 bytes of a tensor map here.
struct cusim_map {
    unsigned long long magic;
    char *data;
    unsigned long long sizes[3], strides[3];  // bytes; the first is that of an element
    unsigned box[3];
};
constexpr unsigned long long CUSIM_MAP = 0x70616d20726f736e;

// A product that was asked for: run(*this) adds it to this lane's part of d.
struct cusim_product {
    void (*run)(const cusim_product &);
    float *d;
    unsigned long long a, b;
    int adds;
};
extern "C" {
unsigned cusim_shared_at(const void *p);
const char *cusim_shared_from(unsigned at);
void cusim_phase_init(void *barrier, unsigned arrivals);
void cusim_phase_arrive(void *barrier, unsigned bytes, int line);
void cusim_phase_wait(void *barrier, unsigned parity, int line);
void cusim_tensor_load(void *to, const void *map, void *barrier, int x, int y, int z);
void cusim_tensor_store(const void *map, const void *from, int x, int y, int z, int line);
void cusim_store_commit();
void cusim_store_wait();
void cusim_async_fence();
void cusim_wrote_shared();
void cusim_named_barrier(unsigned id, unsigned threads, int line);
void cusim_product_later(const cusim_product *p);
void cusim_product_fence();
void cusim_product_commit();
void cusim_product_wait(unsigned groups_left);
int cusim_encode(void *map, void *data, unsigned itemsize, const unsigned long long *sizes,
                 const unsigned long long *strides, const unsigned *box);
}

namespace cusim {

// The element (i, l) of an operand of wgmma: where its descriptor says.
template <class S>
inline float element(unsigned long long matrix, bool along_l, unsigned i, unsigned l) {
    const unsigned start = (unsigned)(matrix & 0x3fff) << 4;
    const unsigned lead = (unsigned)(matrix >> 16 & 0x3fff) << 4;
    const unsigned stride = (unsigned)(matrix >> 32 & 0x3fff) << 4;
    unsigned at = start;
    if (matrix >> 62 != 1) return NAN;  // another swizzle than that of 128 bytes
    if (along_l)
        at += i / 8 * stride + i % 8 * 128 + l * 2;
    else
        at += i / 64 * lead + i % 64 * 2 + l / 8 * stride + l % 8 * 128;
    at ^= (at >> 7 & 7) << 4;
    S found;
    __builtin_memcpy(&found, cusim_shared_from(at), sizeof found);
    return (float)pn_value(found);
}

template <class S, bool A_ALONG_L, bool B_ALONG_L, int N>
void run_wgmma(const cusim_product &p) {
    const unsigned thread = threadIdx.x % 128, lane = thread % 32;
    const unsigned row = thread / 32 * 16 + lane / 4;
    for (unsigned l = 0; l < 16; ++l) {
        const float left[2] = {element<S>(p.a, A_ALONG_L, row, l),
                               element<S>(p.a, A_ALONG_L, row + 8, l)};
        for (int c = 0; c < N / 2; ++c) {
            const unsigned column = c / 2 * 8 + lane % 4 * 2 + c % 2;
            const float top = element<S>(p.b, B_ALONG_L, column, l);
            for (int h = 0; h < 2; ++h) {
                float &sum = p.d[c / 2 * 4 + h * 2 + c % 2];
                sum = (l || p.adds ? sum : 0) + left[h] * top;
            }
        }
    }
}
template <class S, bool A_ALONG_L, bool B_ALONG_L, int N>
inline void wgmma(float (&d)[N], unsigned long long a, unsigned long long b, int adds) {
    const cusim_product p = {run_wgmma<S, A_ALONG_L, B_ALONG_L, N>, d, a, b, adds};
    cusim_product_later(&p);
}

// stmatrix.x4: lane l names row l % 8 of matrix l / 8, and has word l % 4 of row l / 4 of
// each.
inline void store_matrix(void *row, const unsigned (&words)[4], int line) {
    const char *lanes = cusim_exchange(0xffffffffu, words, sizeof words, line);
    const int lane = cusim_this_thread->lane;
    for (int t = 0; t < 4; ++t) {
        const char *from = lanes + (lane % 8 * 4 + t) * CUSIM_SLOT + lane / 8 * 4;
        __builtin_memcpy((char *)row + 4 * t, from, 4);
    }
    cusim_wrote_shared();
}

}  // namespace cusim
