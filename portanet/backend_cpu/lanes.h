// 64 bytes of partial results, at every level, folded by halves: FOLD_float(STEP, v) leaves
// their result in v[0].
#ifndef PN_LANES_H
#define PN_LANES_H
#include <stdint.h>

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
#endif
