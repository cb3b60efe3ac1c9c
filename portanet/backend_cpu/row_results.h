// The sum, the mean and the maximum of a row, for formulas: sum_float(x, n) and so on. 64
// bytes of partial results are folded by halves, of long rows four times as many, so that
// the order depends on the length alone. NaN is the maximum.
#ifndef PN_ROW_RESULTS_H
#define PN_ROW_RESULTS_H
#include <math.h>
#include <string.h>
#include "lanes.h"

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
