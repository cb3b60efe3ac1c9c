// Sums over a row, for the kernels that pass over a row more than once. The order
// of a sum depends on its length only: a vector of sums runs over BLOCK elements, its lanes
// are added by halving, and blocks one after the other in float64.
#ifndef PN_ROWS_H
#define PN_ROWS_H
#include <math.h>
#include "convert.h"
#include "lanes.h"
#include "scalar.h"

#define BLOCK ((int64_t)512)
#define PIECE ((int64_t)1 << 13)  // elements worth a thread

typedef lanes_float vec_f32;
typedef lanes_double vec_f64;
typedef float loose_f32 __attribute__((vector_size(64), aligned(4)));
typedef double loose_f64 __attribute__((vector_size(64), aligned(8)));

#define VECTOR_AT_f32(p) (*(const loose_f32 *)((p) + i))
#define VECTOR_AT_f64(p) (*(const loose_f64 *)((p) + i))
#define SCALAR_AT(p) ((p)[i])

static inline float folded_f32(vec_f32 v) {
    FOLD_float(PLUS, v)
    return v[0];
}
static inline double folded_f64(vec_f64 v) {
    FOLD_double(PLUS, v)
    return v[0];
}

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
            all += folded_##S(total) + rest;                                           \
        }                                                                              \
        return all;                                                                    \
    }
#define ITSELF(AT) (AT(x))
#define DISTANCE(AT) ((AT(x) - middle) * (AT(x) - middle))
#define COMMA ,
DEFINE_SUM(sum, float, f32, const float *x, ITSELF)
DEFINE_SUM(sum, double, f64, const double *x, ITSELF)
DEFINE_SUM(spread, float, f32, const float *x COMMA float middle, DISTANCE)
DEFINE_SUM(spread, double, f64, const double *x COMMA double middle, DISTANCE)
#endif
