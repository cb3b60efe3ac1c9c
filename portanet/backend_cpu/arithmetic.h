// Casts, rounding, division and integer powers, as scalars.PRIMITIVES has them.
#ifndef PN_ARITHMETIC_H
#define PN_ARITHMETIC_H
#include <math.h>

#include "storage.h"

// Rounding to an integer, ties to even. Adding and subtracting 2^23 (2^52) rounds
// there; from SSE4.1 on there is an instruction. All are exact, so the bits agree.
#if defined(__SSE4_1__) || defined(__aarch64__)
#define PN_ROUNDING(type, C, s, big) \
    static inline C pn_round_##type(C x) { return rint##s(x); } \
    static inline C pn_floor_##type(C x) { return floor##s(x); } \
    static inline C pn_ceil_##type(C x) { return ceil##s(x); } \
    static inline C pn_trunc_##type(C x) { return trunc##s(x); }
#else
#define PN_ROUNDING(type, C, s, big) \
    static inline C pn_round_##type(C x) { \
        C a = fabs##s(x), r = (a + big) - big; \
        return copysign##s(a < big ? r : a, x); \
    } \
    static inline C pn_floor_##type(C x) { \
        C r = pn_round_##type(x); \
        return r > x ? r - 1 : r; \
    } \
    static inline C pn_ceil_##type(C x) { \
        C r = pn_round_##type(x); \
        return copysign##s(r < x ? r + 1 : r, x); \
    } \
    static inline C pn_trunc_##type(C x) { \
        C a = fabs##s(x), r = pn_round_##type(a); \
        return copysign##s(r > a ? r - 1 : r, x); \
    }
#endif
PN_ROUNDING(float32, float, f, 0x1p23f)
PN_ROUNDING(float64, double, , 0x1p52)

// Floats to integers: towards zero, saturating, NaN is 0.
#define PN_TO_INTEGER(name, type, low, high, least, most) \
    static inline type name(double x) { \
        double t = x > low && x < high ? x : 0; \
        type y = (type)t; \
        y = x >= high ? most : y; \
        return x <= low ? least : y; \
    }
PN_TO_INTEGER(pn_to_int32, int32_t, -0x1p31, 0x1p31, INT32_MIN, INT32_MAX)
PN_TO_INTEGER(pn_to_uint32, uint32_t, -1.0, 0x1p32, 0, UINT32_MAX)
PN_TO_INTEGER(pn_to_int64, int64_t, -0x1p63, 0x1p63, INT64_MIN, INT64_MAX)

// x / 0 and x mod 0 are 0; the quotient rounds down; INT_MIN / -1 wraps.
static inline int64_t pn_floordiv_int64(int64_t x, int64_t y) {
    if (y == 0) return 0;
    if (y == -1) return -x;
    int64_t q = x / y;
    return q - (x % y != 0 && (x < 0) != (y < 0));
}
static inline int64_t pn_mod_int64(int64_t x, int64_t y) {
    if (y == 0 || y == -1) return 0;
    int64_t r = x % y;
    return r + (r != 0 && (r < 0) != (y < 0) ? y : 0);
}
// 32 bits divide in double, where loops vectorise: a quotient of such integers that is not
// whole is at least 2^-32 of itself from a whole number, so it rounds to no other one.
static inline int32_t pn_floordiv_int32(int32_t x, int32_t y) {
    int32_t d = y == 0 || y == -1 ? 1 : y, q = (int32_t)((double)x / (double)d);
    int32_t r = x - q * d, down = q - ((r != 0) & ((r ^ d) < 0));
    down = y == -1 ? -x : down;
    return y == 0 ? 0 : down;
}
static inline int32_t pn_mod_int32(int32_t x, int32_t y) {
    int32_t d = y == 0 || y == -1 ? 1 : y, r = x - (int32_t)((double)x / (double)d) * d;
    return r + ((r != 0) & ((r ^ d) < 0) ? d : 0);
}
static inline uint32_t pn_floordiv_uint32(uint32_t x, uint32_t y) {
    uint32_t q = (uint32_t)((double)x / (double)(y ? y : 1));
    return y ? q : 0;
}
static inline uint32_t pn_mod_uint32(uint32_t x, uint32_t y) {
    uint32_t d = y ? y : 1;
    return x - (uint32_t)((double)x / (double)d) * d;
}

// Wrapping powers; a negative exponent gives 0 but for the bases 1 and -1.
static inline uint64_t pn_power(uint64_t x, uint64_t y) {
    uint64_t r = 1;
    for (; y; y >>= 1, x *= x)
        if (y & 1) r *= x;
    return r;
}
static inline int64_t pn_pow_int64(int64_t x, int64_t y) {
    if (y < 0) return x == 1 ? 1 : x == -1 ? (y & 1 ? -1 : 1) : 0;
    return (int64_t)pn_power((uint64_t)x, (uint64_t)y);
}
static inline int32_t pn_pow_int32(int32_t x, int32_t y) {
    return (int32_t)pn_pow_int64(x, y);
}
static inline uint32_t pn_pow_uint32(uint32_t x, uint32_t y) {
    return (uint32_t)pn_power(x, y);
}

// The quotient rounded down and what is left, with the divisor's sign, as NumPy has
// them.
#define PN_FLOAT_DIVISION(type, C, s) \
    static inline C pn_mod_##type(C x, C y) { \
        C r = fmod##s(x, y); \
        if (y == 0) return r; \
        if (r == 0) return copysign##s(0, y); \
        return (r < 0) != (y < 0) ? r + y : r; \
    } \
    static inline C pn_floordiv_##type(C x, C y) { \
        if (y == 0) return x / y; \
        C r = fmod##s(x, y), q = (x - r) / y; \
        if (r != 0 && (r < 0) != (y < 0)) q -= 1; \
        if (q == 0) return copysign##s(0, x / y); \
        C down = floor##s(q); \
        return q - down > (C)0.5 ? down + 1 : down; \
    }
PN_FLOAT_DIVISION(float32, float, f)
PN_FLOAT_DIVISION(float64, double, )
#endif
