// The sum, the mean and the maximum of a row, for formulas: sum_float(x, n) and so on. 64
// bytes of partial results are folded by halves, of long rows four times as many, so that
// the order depends on the length alone. NaN is the maximum.
#ifndef PN_ROW_RESULTS_H
#define PN_ROW_RESULTS_H
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef float lanes_float __attribute__((vector_size(64)));
typedef double lanes_double __attribute__((vector_size(64)));
typedef int32_t places_float __attribute__((vector_size(64)));
typedef int64_t places_double __attribute__((vector_size(64)));
#if defined(__clang__)
#define TAKE(type, v, ...) __builtin_shufflevector(v, v, __VA_ARGS__)
#else
#define TAKE(type, v, ...) __builtin_shuffle(v, (places_##type){__VA_ARGS__})
#endif
#define FOLD_float(STEP, v)                                                          \
    v = STEP(float, v, TAKE(float, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7)); \
    v = STEP(float, v, TAKE(float, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11)); \
    v = STEP(float, v, TAKE(float, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13)); \
    v = STEP(float, v, TAKE(float, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
#define FOLD_double(STEP, v)                                                         \
    v = STEP(double, v, TAKE(double, v, 4, 5, 6, 7, 0, 1, 2, 3));                            \
    v = STEP(double, v, TAKE(double, v, 2, 3, 0, 1, 6, 7, 4, 5));                            \
    v = STEP(double, v, TAKE(double, v, 1, 0, 3, 2, 5, 4, 7, 6));
#define PLUS(type, a, b) ((a) + (b))
// b where it is larger or NaN, else a.
#define LARGER(type, a, b) TAKEN(type, ((b) > (a)) | ((b) != (b)), a, b)
#define TAKEN(type, is_b, a, b)                                                      \
    ((lanes_##type)(((is_b) & (places_##type)(b)) | (~(is_b) & (places_##type)(a))))
#define OVER_ROW(name, type, start, STEP)                                            \
    static type name##_##type(const type *x, int64_t n) {                            \
        enum { LANES = 64 / sizeof(type) };                                          \
        lanes_##type all = (lanes_##type){0} + start, v, four[4];                    \
        int64_t i = 0;                                                               \
        if (n >= 4 * LANES) {                                                        \
            for (int k = 0; k < 4; k++) four[k] = all;                               \
            for (; i + 4 * LANES <= n; i += 4 * LANES)                               \
                for (int k = 0; k < 4; k++) {                                        \
                    memcpy(&v, x + i + k * LANES, sizeof v);                         \
                    four[k] = STEP(type, four[k], v);                                \
                }                                                                    \
            four[0] = STEP(type, four[0], four[1]);                                  \
            four[2] = STEP(type, four[2], four[3]);                                  \
            all = STEP(type, four[0], four[2]);                                      \
        }                                                                            \
        for (; i + LANES <= n; i += LANES) {                                         \
            memcpy(&v, x + i, sizeof v);                                             \
            all = STEP(type, all, v);                                                    \
        }                                                                            \
        if (i < n) {                                                                 \
            v = (lanes_##type){0} + start;                                           \
            memcpy(&v, x + i, (size_t)(n - i) * sizeof(type));                       \
            all = STEP(type, all, v);                                                    \
        }                                                                            \
        FOLD_##type(STEP, all)                                                       \
        return all[0];                                                               \
    }
#define ROW_FUNCTIONS(type)                                                          \
    OVER_ROW(sum, type, (type)0, PLUS)                                               \
    OVER_ROW(max, type, -(type)INFINITY, LARGER)                                     \
    static type mean_##type(const type *x, int64_t n) {                              \
        return sum_##type(x, n) / (type)n;                                           \
    }
ROW_FUNCTIONS(float)
ROW_FUNCTIONS(double)
#endif
