// What every kernel stands on: how an entry is named, its words, storage types, faults.
//
// The host writes this in front of each text, after these lines of its own:
//
//   #define PN_TEXT t3f9c0aa1b2c4d5e6   the text's name, a part of its entries' names
//   #define PN_WORDS 12                 how many words its entries take
//   #define PN_Y0 pn_float16            the storage type of each output and input
//   #define PN_X0 pn_float16
//   #define PN_OPTION_sum 1             each option of the program
//
// and whatever the variant chooses (`defines` of a Step in plan.py). Where a kernel is
// compiled there are no headers, not even CUDA's; a line `#include "tile.cuh"` is replaced
// by that file of this folder. It holds templated __device__ bodies, and an entry for each
// variant:
//
//   PN_ENTRY(rows, 256)(PN_Y0 *__restrict__ y, const PN_X0 *__restrict__ x, PN_P P) {
//       rows_body<256>(y, x, P);
//   }
//   PN_EXPORT(rows)
//
// Its parameters are the operands of the Step (outputs, inputs, then temporaries), then
// `pn_fault fault` if the program can fault, then the words by value: P[0], P[1], ...
#if defined(PN_SIMULATED)
#include "cusim.h"
#define PN_EXPORT_AS(name) CUSIM_EXPORT(name)
#define PN_EXPORT(name) PN_EXPORT_AS(PN_NAME(name))
#else
#define PN_EXPORT(name)
#define PN_SHARED(T, name, dims) __shared__ T name dims
#define PN_DYNAMIC_SHARED(T, name) extern __shared__ T name[]
#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fc00000)
#endif

#define PN_JOIN_(a, b) a##_##b
#define PN_JOIN(a, b) PN_JOIN_(a, b)
#define PN_NAME(name) PN_JOIN(name, PN_TEXT)
// PN_ENTRY(name, threads) or PN_ENTRY(name, threads, blocks that a multiprocessor holds)
#define PN_ENTRY(name, ...) \
    extern "C" __global__ void __launch_bounds__(__VA_ARGS__) PN_NAME(name)
#define PN_DEVICE static __device__ __forceinline__
#define PN_MEMBER __device__ __forceinline__

// The words, in the constant bank: an index that is not known there costs nothing.
struct pn_words {
    long long word[PN_WORDS];
    __device__ __forceinline__ long long operator[](int i) const { return word[i]; }
};
#define PN_P const __grid_constant__ pn_words

// ---- Storage types. pn_load(x, i) converts to the type to compute in, pn_store(y, i, v)
// back, rounding to nearest, ties to even.

struct pn_float16 {
    unsigned short bits;
};
struct pn_bfloat16 {
    unsigned short bits;
};

#if defined(PN_SIMULATED)
// As portanet/backend_cpu/storage.h, which says why.
PN_DEVICE float pn_value(pn_float16 h) {
    unsigned low = h.bits & 0x7FFFu, special = low << 13 | 0x7F800000u;
    unsigned scaled = __float_as_uint(__uint_as_float(low << 13) * 0x1p112f);
    return __uint_as_float((h.bits & 0x8000u) << 16 | (low >= 0x7C00 ? special : scaled));
}
PN_DEVICE void pn_convert(pn_float16 *y, float v) {
    unsigned u = __float_as_uint(v), sign = u >> 16 & 0x8000, a = u & 0x7FFFFFFF;
    unsigned subnormal = __float_as_uint(__uint_as_float(a) + 0.5f) - 0x3F000000;
    unsigned normal = (a - 0x38000000 + 0xFFF + (a >> 13 & 1)) >> 13;
    unsigned large = a > 0x7F800000 ? 0x7E00 | (a >> 13 & 0x3FF) : 0x7C00;
    unsigned h = a < 0x38800000 ? subnormal : normal;
    y->bits = (unsigned short)(sign | (a >= 0x477FF000 ? large : h));
}
#else
PN_DEVICE float pn_value(pn_float16 h) {
    float v;
    asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(h.bits));
    return v;
}
PN_DEVICE void pn_convert(pn_float16 *y, float v) {
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y->bits) : "f"(v));
}
#endif
PN_DEVICE float pn_value(pn_bfloat16 h) { return __uint_as_float((unsigned)h.bits << 16); }
PN_DEVICE void pn_convert(pn_bfloat16 *y, float v) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y->bits) : "f"(v));
#else
    unsigned u = __float_as_uint(v), rounded = u + 0x7FFF + (u >> 16 & 1);
    unsigned nan = u | 0x400000;
    y->bits = (unsigned short)((v != v ? nan : rounded) >> 16);
#endif
}
PN_DEVICE bool pn_value(bool v) { return v; }
PN_DEVICE int pn_value(unsigned char v) { return v; }
PN_DEVICE int pn_value(int v) { return v; }
PN_DEVICE unsigned pn_value(unsigned v) { return v; }
PN_DEVICE long long pn_value(long long v) { return v; }
PN_DEVICE float pn_value(float v) { return v; }
PN_DEVICE double pn_value(double v) { return v; }
template <class T, class C> PN_DEVICE void pn_convert(T *y, C v) { *y = (T)v; }

template <class T> PN_DEVICE auto pn_load(const T *x, long long i) { return pn_value(x[i]); }
template <class T, class C> PN_DEVICE void pn_store(T *y, long long i, C v) {
    T made;
    pn_convert(&made, v);
    y[i] = made;
}

// pn_compute<T>: the type that values stored as T are computed in.
template <class T> struct pn_computed {
    typedef T type;
};
template <> struct pn_computed<unsigned char> {
    typedef int type;
};
template <> struct pn_computed<pn_float16> {
    typedef float type;
};
template <> struct pn_computed<pn_bfloat16> {
    typedef float type;
};
template <class T> using pn_compute = typename pn_computed<T>::type;

template <class T> struct pn_counted;
template <> struct pn_counted<int> {
    typedef unsigned type;
};
template <> struct pn_counted<long long> {
    typedef unsigned long long type;
};
// What an index is divided in: unsigned is faster.
template <class T> using pn_unsigned = typename pn_counted<T>::type;

// N neighbours, loaded and stored as one where N * sizeof(T) is 4, 8 or 16 bytes.
template <class T, int N> struct alignas(sizeof(T) * N) pn_pack {
    T at[N];
};

// a / b of indices that are not negative.
PN_DEVICE int pn_quotient(int a, int b) { return (int)((unsigned)a / (unsigned)b); }
PN_DEVICE long long pn_quotient(long long a, long long b) {
    return (long long)((unsigned long long)a / (unsigned long long)b);
}

// ---- Launches side by side: a table of what each would get (beside.py). A block finds which
// one it is of.

#if defined(PN_COPIES)
struct pn_table {
    void *at[PN_COPIES][PN_OPERANDS];
    long long first[PN_COPIES];  // the number of each one's first block, ascending
    pn_words words[PN_COPIES];
};
#define PN_T const __grid_constant__ pn_table
// The last launch that begins with this block or before it.
PN_DEVICE int pn_copy(const pn_table &table, unsigned block) {
    int copy = 0;
#pragma unroll
    for (int step = 256; step > 0; step /= 2)
        if (step < PN_COPIES)
            if (copy + step < PN_COPIES && table.first[copy + step] <= block) copy += step;
    return copy;
}
#endif

// ---- Faults, as portanet/program.py numbers them. The first one is kept until a read.

enum { PN_INDEX_OUT_OF_RANGE = 1, PN_NAN_TO_INTEGER = 2 };
struct pn_fault_record {
    unsigned long long word;  // code | label << 8; 0 is none
    long long value, size;
};
struct pn_fault {
    pn_fault_record *first;
    unsigned long long label;  // of the operator that asked
};
PN_DEVICE void pn_set_fault(pn_fault fault, int code, long long value, long long size) {
    unsigned long long word = (unsigned long long)code | fault.label << 8;
    if (atomicCAS(&fault.first->word, 0ull, word) == 0) {
        fault.first->value = value;
        fault.first->size = size;
    }
}
