// What the kernels that keep tiles of sums in registers share: the width of a vector, a
// multiply-add on vectors and on scalars, squares turned in registers.
#ifndef PN_VECTORS_H
#define PN_VECTORS_H
#include <stdint.h>
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define PLAIN_FMA(a, b, c) ((a) * (b) + (c))
#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define FMA_F32(a, b, c) _mm512_fmadd_ps(a, b, c)
#define FMA_F64(a, b, c) _mm512_fmadd_pd(a, b, c)
#elif defined(__AVX2__) && defined(__FMA__)
#define VECTOR_BYTES 32
#define FMA_F32(a, b, c) _mm256_fmadd_ps(a, b, c)
#define FMA_F64(a, b, c) _mm256_fmadd_pd(a, b, c)
#elif defined(__aarch64__)
#define VECTOR_BYTES 16
#define FMA_F32(a, b, c) vfmaq_f32(c, a, b)
#define FMA_F64(a, b, c) vfmaq_f64(c, a, b)
#else
#define VECTOR_BYTES 16
#define FMA_F32 PLAIN_FMA
#define FMA_F64 PLAIN_FMA
#endif
#if defined(__FMA__) || defined(__aarch64__)
#define SCALAR_FMA_F32(a, b, c) __builtin_fmaf(a, b, c)
#define SCALAR_FMA_F64(a, b, c) __builtin_fma(a, b, c)
#else
#define SCALAR_FMA_F32 PLAIN_FMA
#define SCALAR_FMA_F64 PLAIN_FMA
#endif

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t rounded_up(int64_t a, int64_t b) { return divided_up(a, b) * b; }

// SHUFFLE picks from the elements of a, numbered first, and b.
#if defined(__clang__)
#define SHUFFLE(MASK, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(MASK, a, b, ...) __builtin_shuffle(a, b, (MASK){__VA_ARGS__})
#endif
typedef int32_t mask4 __attribute__((vector_size(32)));
typedef int64_t mask8 __attribute__((vector_size(32)));
#define UNPACKED(...) __VA_ARGS__

// Rows i and i + STEP swap the blocks that lie across the diagonal of their square.
#define ROUND(MASK, v, SIZE, STEP, LOW, HIGH)                                          \
    for (int i = 0; i < SIZE; i++)                                                     \
        if (!(i & STEP)) {                                                             \
            __typeof__(v[0]) low = SHUFFLE(MASK, v[i], v[i + STEP], UNPACKED LOW);     \
            v[i + STEP] = SHUFFLE(MASK, v[i], v[i + STEP], UNPACKED HIGH);             \
            v[i] = low;                                                                \
        }
// Of the elements of a, then b: those at even and at odd places.
#define EVENS_8(a, b) SHUFFLE(mask4, a, b, 0, 2, 4, 6, 8, 10, 12, 14)
#define ODDS_8(a, b) SHUFFLE(mask4, a, b, 1, 3, 5, 7, 9, 11, 13, 15)
#define EVENS_4(a, b) SHUFFLE(mask8, a, b, 0, 2, 4, 6)
#define ODDS_4(a, b) SHUFFLE(mask8, a, b, 1, 3, 5, 7)
#define TRANSPOSE_8X8(v)                                                               \
    ROUND(mask4, v, 8, 1, (0, 8, 2, 10, 4, 12, 6, 14), (1, 9, 3, 11, 5, 13, 7, 15))    \
    ROUND(mask4, v, 8, 2, (0, 1, 8, 9, 4, 5, 12, 13), (2, 3, 10, 11, 6, 7, 14, 15))    \
    ROUND(mask4, v, 8, 4, (0, 1, 2, 3, 8, 9, 10, 11), (4, 5, 6, 7, 12, 13, 14, 15))
#define TRANSPOSE_4X4(v)                                                               \
    ROUND(mask8, v, 4, 1, (0, 4, 2, 6), (1, 5, 3, 7))                                  \
    ROUND(mask8, v, 4, 2, (0, 1, 4, 5), (2, 3, 6, 7))
#endif
