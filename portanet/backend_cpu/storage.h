// Conversions between storage types and the types that kernels compute in.
//
// float16 and bfloat16 round to nearest, ties to even, NaN stays NaN. Branch-free, so
// that loops over them vectorise; the bits are the same at every instruction-set level.
#ifndef PN_STORAGE_H
#define PN_STORAGE_H
#include <stdint.h>
#include <string.h>

// Lets a loop vectorise although its output may be exactly one of its inputs.
#if defined(__clang__)
#define PN_LOOP _Pragma("clang loop vectorize(assume_safety)")
#else
#define PN_LOOP _Pragma("GCC ivdep")
#endif

static inline uint32_t pn_bits32(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}
static inline float pn_float32(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}
static inline uint64_t pn_bits64(double x) {
    uint64_t u;
    memcpy(&u, &x, 8);
    return u;
}
static inline double pn_float64(uint64_t u) {
    double x;
    memcpy(&x, &u, 8);
    return x;
}

static inline float pn_from_bfloat16(uint16_t h) {
    return pn_float32((uint32_t)h << 16);
}

static inline uint16_t pn_to_bfloat16(float x) {
    uint32_t u = pn_bits32(x);
    uint32_t rounded = u + 0x7FFF + ((u >> 16) & 1);
    uint32_t nan = u | 0x400000;  // quiet
    return (uint16_t)(((u & 0x7FFFFFFF) > 0x7F800000 ? nan : rounded) >> 16);
}

// Exponent and fraction move into place, times 2^112 corrects the bias and normalises
// subnormals exactly; infinities and NaN keep all exponent bits.
static inline float pn_from_float16(uint16_t h) {
    uint32_t magnitude = (uint32_t)(h & 0x7FFF) << 13;
    uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t scaled = pn_bits32(pn_float32(magnitude) * 0x1p112f);
    uint32_t special = magnitude | 0x7F800000;
    return pn_float32(sign | ((h & 0x7FFF) >= 0x7C00 ? special : scaled));
}

// Adding a number whose last bit is the last bit wanted makes the hardware round there.
static inline uint16_t pn_to_float16(float x) {
    uint32_t u = pn_bits32(x), sign = (u >> 16) & 0x8000, a = u & 0x7FFFFFFF;
    uint32_t subnormal = pn_bits32(pn_float32(a) + 0.5f) - 0x3F000000;
    uint32_t normal = (a - 0x38000000 + 0xFFF + ((a >> 13) & 1)) >> 13;
    uint32_t large = a > 0x7F800000 ? 0x7E00 | ((a >> 13) & 0x3FF) : 0x7C00;
    uint32_t h = a < 0x38800000 ? subnormal : normal;
    return (uint16_t)(sign | (a >= 0x477FF000 ? large : h));
}
#endif
