// Keys: unsigned integers in the order of the elements. -0 is 0; NaN is above all, and
// equal to every other NaN.
#ifndef PN_ORDER_H
#define PN_ORDER_H
#include "convert.h"

// Two's complement with the sign bit flipped; IEEE 754 orders magnitudes as integers, so
// negative numbers have all their bits flipped.
static inline uint32_t pn_key_i32(int32_t x) { return (uint32_t)x ^ 0x80000000; }
static inline uint64_t pn_key_i64(int64_t x) { return (uint64_t)x ^ ((uint64_t)1 << 63); }
static inline uint32_t pn_key_f32(float x) {
    uint32_t u = pn_bits32(x), top = 0x80000000, magnitude = u & ~top;
    uint32_t key = u & top ? ~u : u | top;
    key = magnitude == 0 ? top : key;
    return magnitude > 0x7F800000 ? UINT32_MAX : key;
}
static inline uint64_t pn_key_f64(double x) {
    uint64_t u = pn_bits64(x), top = (uint64_t)1 << 63, magnitude = u & ~top;
    uint64_t key = u & top ? ~u : u | top;
    key = magnitude == 0 ? top : key;
    return magnitude > (uint64_t)0x7FF << 52 ? UINT64_MAX : key;
}
static inline uint32_t pn_key_f16(uint16_t x) { return pn_key_f32(pn_from_float16(x)); }
static inline uint32_t pn_key_bf16(uint16_t x) { return pn_key_f32(pn_from_bfloat16(x)); }

static inline bool pn_has_wide_keys(int dtype) {
    return dtype == PN_INT64 || dtype == PN_FLOAT64;
}

#define PN_KEY_CASES(T)                                                                \
    PN_LOAD_CASE(T, PN_BOOL, uint8_t, PN_NONZERO)                                      \
    PN_LOAD_CASE(T, PN_UINT8, uint8_t, PN_SAME)                                        \
    PN_LOAD_CASE(T, PN_INT32, int32_t, pn_key_i32)                                     \
    PN_LOAD_CASE(T, PN_UINT32, uint32_t, PN_SAME)                                      \
    PN_LOAD_CASE(T, PN_FLOAT16, uint16_t, pn_key_f16)                                  \
    PN_LOAD_CASE(T, PN_BFLOAT16, uint16_t, pn_key_bf16)                                \
    PN_LOAD_CASE(T, PN_FLOAT32, float, pn_key_f32)

// y[i] = the key of x[offset + i * stride]. 32 bits are for all types but the wide ones.
__attribute__((unused)) static void pn_load_keys_32(uint32_t *restrict y, const void *x,
                                                    int dtype, int64_t offset,
                                                    int64_t stride, int64_t n) {
    switch (dtype) { PN_KEY_CASES(uint32_t) }
}
__attribute__((unused)) static void pn_load_keys_64(uint64_t *restrict y, const void *x,
                                                    int dtype, int64_t offset,
                                                    int64_t stride, int64_t n) {
    switch (dtype) {
        PN_KEY_CASES(uint64_t)
        PN_LOAD_CASE(uint64_t, PN_INT64, int64_t, pn_key_i64)
        PN_LOAD_CASE(uint64_t, PN_FLOAT64, double, pn_key_f64)
    }
}
#endif
