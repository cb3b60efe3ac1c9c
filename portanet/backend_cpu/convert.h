// Runs of elements from storage types to compute types and back.
#ifndef PN_CONVERT_H
#define PN_CONVERT_H
#include <stddef.h>
#include <stdint.h>
#include "pn.h"
#include "storage.h"

static inline int64_t pn_itemsize(int dtype) {
    static const uint8_t sizes[] = {1, 1, 4, 4, 8, 2, 2, 4, 8};
    return sizes[dtype];
}

// An index of dtype int32, uint32, int64 or uint8.
static inline int64_t pn_index_at(const void *x, int dtype, int64_t i) {
    switch (dtype) {
    case PN_UINT8: return ((const uint8_t *)x)[i];
    case PN_INT32: return ((const int32_t *)x)[i];
    case PN_UINT32: return ((const uint32_t *)x)[i];
    default: return ((const int64_t *)x)[i];
    }
}

#define PN_SAME(v) (v)
#define PN_NONZERO(v) ((v) != 0)

#define PN_LOAD_CASE(T, CODE, S, CONVERT)                                              \
    case CODE: {                                                                       \
        const S *s = (const S *)x + offset;                                            \
        if (stride == 1)                                                               \
            for (int64_t i = 0; i < n; i++) y[i] = (T)CONVERT(s[i]);                   \
        else                                                                           \
            for (int64_t i = 0; i < n; i++) y[i] = (T)CONVERT(s[i * stride]);          \
        return;                                                                        \
    }

// NAME(y, x, dtype, offset, stride, n): y[i] = x[offset + i * stride] as T, i < n.
#define PN_DEFINE_LOAD(NAME, T)                                                        \
    __attribute__((unused)) static void NAME(T *restrict y, const void *x, int dtype,  \
                                             int64_t offset, int64_t stride,           \
                                             int64_t n) {                              \
        switch (dtype) {                                                               \
            PN_LOAD_CASE(T, PN_BOOL, uint8_t, PN_NONZERO)                              \
            PN_LOAD_CASE(T, PN_UINT8, uint8_t, PN_SAME)                                \
            PN_LOAD_CASE(T, PN_INT32, int32_t, PN_SAME)                                \
            PN_LOAD_CASE(T, PN_UINT32, uint32_t, PN_SAME)                              \
            PN_LOAD_CASE(T, PN_INT64, int64_t, PN_SAME)                                \
            PN_LOAD_CASE(T, PN_FLOAT16, uint16_t, pn_from_float16)                    \
            PN_LOAD_CASE(T, PN_BFLOAT16, uint16_t, pn_from_bfloat16)                 \
            PN_LOAD_CASE(T, PN_FLOAT32, float, PN_SAME)                                \
            PN_LOAD_CASE(T, PN_FLOAT64, double, PN_SAME)                               \
        }                                                                              \
    }

#define PN_STORE_CASE(CODE, S, CONVERT)                                                \
    case CODE:                                                                         \
        for (int64_t i = 0; i < n; i++) ((S *)y)[offset + i] = (S)CONVERT(x[i]);       \
        return;

// NAME(y, dtype, offset, x, n): y[offset + i] = x[i] as the storage type, i < n.
#define PN_DEFINE_STORE(NAME, T)                                                       \
    __attribute__((unused)) static void NAME(void *y, int dtype, int64_t offset,       \
                                             const T *x, int64_t n) {                  \
        switch (dtype) {                                                               \
            PN_STORE_CASE(PN_BOOL, uint8_t, PN_NONZERO)                                \
            PN_STORE_CASE(PN_UINT8, uint8_t, PN_SAME)                                  \
            PN_STORE_CASE(PN_INT32, int32_t, PN_SAME)                                  \
            PN_STORE_CASE(PN_UINT32, uint32_t, PN_SAME)                                \
            PN_STORE_CASE(PN_INT64, int64_t, PN_SAME)                                  \
            PN_STORE_CASE(PN_FLOAT16, uint16_t, pn_to_float16)                      \
            PN_STORE_CASE(PN_BFLOAT16, uint16_t, pn_to_bfloat16)                   \
            PN_STORE_CASE(PN_FLOAT32, float, PN_SAME)                                  \
            PN_STORE_CASE(PN_FLOAT64, double, PN_SAME)                                 \
        }                                                                              \
    }
#endif
