// Every operation of the bytecode, once. elementwise.c includes this file twice: to
// define the functions, and to list their names. x, y, z are the operands of one
// element.
//
//   UNARY(name, type, value)      BINARY(name, type, value)    a result of the same type
//   BOUNDED(name, type, bound, value, other)  other where |x| > bound, which is rare
//   TEST(name, type, value)       COMPARE(name, type, value)   the result is bool
//   BINARY and COMPARE also make .vs and .sv, whose second or first operand is one
//   element; PLAIN makes the function of two vectors alone, where a load costs little.

//   ROW(name, type, value)        one value for each row of a block, from (x, n)
//   TWO(name, value)              two operations of float32 in one pass, rounded twice: of
//                                 x and y, then with z; each, but not both of x and y, may
//                                 be one element

#define INTEGERS(KIND, name, ...) \
    KIND(name, int32, __VA_ARGS__) \
    KIND(name, uint32, __VA_ARGS__) \
    KIND(name, int64, __VA_ARGS__)
#define FLOATS(KIND, name, ...) \
    KIND(name, float32, __VA_ARGS__) \
    KIND(name, float64, __VA_ARGS__)
#define NUMBERS(KIND, name, ...) \
    INTEGERS(KIND, name, __VA_ARGS__) \
    FLOATS(KIND, name, __VA_ARGS__)
#define COMPARABLE(KIND, name, ...) \
    KIND(name, bool, __VA_ARGS__) \
    NUMBERS(KIND, name, __VA_ARGS__)
#define LOGICAL(KIND, name, ...) \
    KIND(name, bool, __VA_ARGS__) \
    INTEGERS(KIND, name, __VA_ARGS__)
// From scalar.h: pn_<name>_<type>.
#define FUNCTION(name) \
    UNARY(name, float32, pn_##name##_float32(x)) \
    UNARY(name, float64, pn_##name##_float64(x))
#define FUNCTION2(name, type) PLAIN(name, type, pn_##name##_##type(x, y))

NUMBERS(BINARY, add, x + y)
NUMBERS(BINARY, sub, x - y)
NUMBERS(BINARY, mul, x *y)
FLOATS(BINARY, div, x / y)
NUMBERS(UNARY, neg, -x)
UNARY(abs, int32, x < 0 ? -x : x)
UNARY(abs, uint32, x)
UNARY(abs, int64, x < 0 ? -x : x)
UNARY(abs, float32, fabsf(x))
UNARY(abs, float64, fabs(x))
UNARY(sign, int32, (x > 0) - (x < 0))
UNARY(sign, uint32, x != 0)
UNARY(sign, int64, (x > 0) - (x < 0))
FLOATS(UNARY, sign, x > 0 ? 1 : x < 0 ? -1 : x)
NUMBERS(BINARY, maximum, x >= y || x != x ? x : y)
NUMBERS(BINARY, minimum, x <= y || x != x ? x : y)

TWO(add_add, (x + y) + z)
TWO(add_mul, (x + y) * z)
TWO(add_sub, (x + y) - z)
TWO(add_rsub, z - (x + y))
TWO(mul_add, x *y + z)
TWO(mul_mul, x *y *z)
TWO(mul_sub, x *y - z)
TWO(mul_rsub, z - x * y)
TWO(sub_add, (x - y) + z)
TWO(sub_mul, (x - y) * z)
TWO(sub_sub, (x - y) - z)
TWO(sub_rsub, z - (x - y))

FUNCTION2(floordiv, int32)
FUNCTION2(floordiv, uint32)
FUNCTION2(floordiv, int64)
FUNCTION2(floordiv, float32)
FUNCTION2(floordiv, float64)
FUNCTION2(mod, int32)
FUNCTION2(mod, uint32)
FUNCTION2(mod, int64)
FUNCTION2(mod, float32)
FUNCTION2(mod, float64)
FUNCTION2(pow, int32)
FUNCTION2(pow, uint32)
FUNCTION2(pow, int64)
FUNCTION2(pow, float32)
FUNCTION2(pow, float64)
FUNCTION2(atan2, float32)
FUNCTION2(atan2, float64)

UNARY(sqrt, float32, sqrtf(x))
UNARY(sqrt, float64, sqrt(x))
UNARY(rsqrt, float32, 1 / sqrtf(x))
UNARY(rsqrt, float64, 1 / sqrt(x))
FUNCTION(exp)
FUNCTION(expm1)
FUNCTION(log)
FUNCTION(log1p)
FUNCTION(log2)
// Up to PN_TURNS by scalar.h, beyond it by libm.
BOUNDED(sin, float32, PN_TURNS, pn_sin_float32(x), sinf(x))
BOUNDED(cos, float32, PN_TURNS, pn_cos_float32(x), cosf(x))
BOUNDED(tan, float32, PN_TURNS, pn_tan_float32(x), tanf(x))
UNARY(sin, float64, pn_sin_float64(x))
UNARY(cos, float64, pn_cos_float64(x))
UNARY(tan, float64, pn_tan_float64(x))
FUNCTION(asin)
FUNCTION(acos)
FUNCTION(atan)
FUNCTION(sinh)
FUNCTION(cosh)
FUNCTION(tanh)
FUNCTION(asinh)
FUNCTION(acosh)
FUNCTION(atanh)
FUNCTION(erf)
FUNCTION(sinpi)
FUNCTION(cospi)
FUNCTION(floor)
FUNCTION(ceil)
FUNCTION(round)
FUNCTION(trunc)

COMPARABLE(COMPARE, eq, x == y)
COMPARABLE(COMPARE, ne, x != y)
COMPARABLE(COMPARE, lt, x < y)
COMPARABLE(COMPARE, le, x <= y)
COMPARABLE(COMPARE, gt, x > y)
COMPARABLE(COMPARE, ge, x >= y)
FLOATS(TEST, isnan, x != x)
TEST(isinf, float32, fabsf(x) == INFINITY)
TEST(isinf, float64, fabs(x) == INFINITY)
TEST(isfinite, float32, fabsf(x) < INFINITY)
TEST(isfinite, float64, fabs(x) < INFINITY)
LOGICAL(BINARY, and, x &y)
LOGICAL(BINARY, or, x | y)
LOGICAL(BINARY, xor, x ^ y)
UNARY(not, bool, x ^ 1)
INTEGERS(UNARY, not, ~x)
BINARY(shl, int32, (uint32_t)y < 32 ? (int32_t)((uint32_t)x << (y & 31)) : 0)
BINARY(shl, uint32, y < 32 ? x << (y & 31) : 0)
BINARY(shl, int64, (uint64_t)y < 64 ? (int64_t)((uint64_t)x << (y & 63)) : 0)
BINARY(shr, int32, x >> ((uint32_t)y < 32 ? y : 31))
BINARY(shr, uint32, y < 32 ? x >> (y & 31) : 0)
BINARY(shr, int64, x >> ((uint64_t)y < 64 ? y : 63))

WHERE(bool)
WHERE(int32)
WHERE(uint32)
WHERE(int64)
WHERE(float32)
WHERE(float64)

CAST(bool, int32, x)
CAST(bool, uint32, x)
CAST(bool, int64, x)
CAST(bool, float32, x)
CAST(bool, float64, x)
CAST(int32, bool, x != 0)
CAST(int32, uint32, x)
CAST(int32, int64, x)
CAST(int32, float32, x)
CAST(int32, float64, x)
CAST(uint32, bool, x != 0)
CAST(uint32, int32, x)
CAST(uint32, int64, x)
CAST(uint32, float32, x)
CAST(uint32, float64, x)
CAST(int64, bool, x != 0)
CAST(int64, int32, x)
CAST(int64, uint32, x)
CAST(int64, float32, x)
CAST(int64, float64, x)
CAST(float32, bool, x != 0)
CAST(float32, int32, pn_to_int32(x))
CAST(float32, uint32, pn_to_uint32(x))
CAST(float32, int64, pn_to_int64(x))
CAST(float32, float64, x)
CAST(float64, bool, x != 0)
CAST(float64, int32, pn_to_int32(x))
CAST(float64, uint32, pn_to_uint32(x))
CAST(float64, int64, pn_to_int64(x))
CAST(float64, float32, x)
CHECKED(float32, int32)
CHECKED(float32, uint32)
CHECKED(float32, int64)
CHECKED(float64, int32)
CHECKED(float64, uint32)
CHECKED(float64, int64)

NUMBERS(INDEX, index)
NUMBERS(ROW_INDEX, row_index)
FLOATS(ROW, row_sum, sum)
FLOATS(ROW, row_mean, mean)
FLOATS(ROW, row_max, max)
INTEGERS(WRAP, wrap_index)

// STORAGE(type, stored as, computed as, from storage, to storage)
STORAGE(bool, uint8_t, uint8_t, x, x)
STORAGE(uint8, uint8_t, int32_t, x, x)
STORAGE(int32, int32_t, int32_t, x, x)
STORAGE(uint32, uint32_t, uint32_t, x, x)
STORAGE(int64, int64_t, int64_t, x, x)
STORAGE(float16, uint16_t, float, pn_from_float16(x), pn_to_float16(x))
STORAGE(bfloat16, uint16_t, float, pn_from_bfloat16(x), pn_to_bfloat16(x))
STORAGE(float32, float, float, x, x)
STORAGE(float64, double, double, x, x)
FILL(1, uint8_t)
FILL(4, uint32_t)
FILL(8, uint64_t)
EXPAND(1, uint8_t)
EXPAND(4, uint32_t)
EXPAND(8, uint64_t)

#undef INTEGERS
#undef FLOATS
#undef NUMBERS
#undef COMPARABLE
#undef LOGICAL
#undef FUNCTION
#undef FUNCTION2
#undef UNARY
#undef BOUNDED
#undef TEST
#undef BINARY
#undef TWO
#undef PLAIN
#undef COMPARE
#undef WHERE
#undef CAST
#undef CHECKED
#undef INDEX
#undef ROW
#undef ROW_INDEX
#undef WRAP
#undef STORAGE
#undef FILL
#undef EXPAND
