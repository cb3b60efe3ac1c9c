// Sums over a row, for the kernels that pass over a row more than once. The order
// of a sum depends on its length only: a vector of sums runs over BLOCK elements, its lanes
// are added by halving, and blocks one after the other in float64.
#ifndef PN_ROWS_H
#define PN_ROWS_H
#include <math.h>
#include "convert.h"
#include "scalar.h"

#define BLOCK ((int64_t)512)
#define PIECE ((int64_t)1 << 13)  // elements worth a thread

// 64 bytes at every level: where registers are shorter, a vector takes several.
typedef float vec_f32 __attribute__((vector_size(64)));
typedef double vec_f64 __attribute__((vector_size(64)));
typedef float loose_f32 __attribute__((vector_size(64), aligned(4)));
typedef double loose_f64 __attribute__((vector_size(64), aligned(8)));

#define VECTOR_AT_f32(p) (*(const loose_f32 *)((p) + i))
#define VECTOR_AT_f64(p) (*(const loose_f64 *)((p) + i))
#define SCALAR_AT(p) ((p)[i])

// NAME_S(PARAMS, n): the sum over i < n of VALUE(AT), where AT(p) is p[i].
#define DEFINE_SUM(NAME, T, S, PARAMS, VALUE)                                          \
    static double NAME##_##S(PARAMS, int64_t n) {                                      \
        const int64_t lanes = sizeof(vec_##S) / sizeof(T);                             \
        double all = 0;                                                                \
        for (int64_t i = 0; i < n;) {                                                  \
            int64_t end = i + BLOCK < n ? i + BLOCK : n;                               \
            vec_##S total = {0};                                                       \
            T rest = 0;                                                                \
            for (; i + lanes <= end; i += lanes) total += VALUE(VECTOR_AT_##S);        \
            for (; i < end; i++) rest += VALUE(SCALAR_AT);                             \
            for (int64_t half = lanes / 2; half; half /= 2)                            \
                for (int64_t l = 0; l < half; l++) total[l] += total[l + half];        \
            all += total[0] + rest;                                                    \
        }                                                                              \
        return all;                                                                    \
    }
#define ITSELF(AT) (AT(x))
#define PRODUCT(AT) (AT(a) * AT(b))
#define DISTANCE(AT) ((AT(x) - middle) * (AT(x) - middle))
#define COMMA ,
DEFINE_SUM(sum, float, f32, const float *x, ITSELF)
DEFINE_SUM(sum, double, f64, const double *x, ITSELF)
DEFINE_SUM(dot, float, f32, const float *a COMMA const float *b, PRODUCT)
DEFINE_SUM(dot, double, f64, const double *a COMMA const double *b, PRODUCT)
DEFINE_SUM(spread, float, f32, const float *x COMMA float middle, DISTANCE)
DEFINE_SUM(spread, double, f64, const double *x COMMA double middle, DISTANCE)
#endif
