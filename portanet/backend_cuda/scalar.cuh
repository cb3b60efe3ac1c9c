// Scalar functions with the meanings of PRIMITIVES in portanet/scalars.py.
//
// CUDA's own functions serve where they are within 4 ulp for every input, which is all of
// them (CUDA C++ Programming Guide, "Mathematical Functions": powf 4, tanf 4, acoshf 4,
// the others less; double: at most 2). What is here is what C++ leaves undefined, or what
// CUDA lacks. lower.py takes of this file the functions that a text uses, each with the
// comment above it: parts are divided by empty lines.

// Signed integers wrap, which C++ does not promise.
PN_DEVICE int pn_add(int x, int y) { return (int)((unsigned)x + (unsigned)y); }
PN_DEVICE long long pn_add(long long x, long long y) {
    return (long long)((unsigned long long)x + (unsigned long long)y);
}

PN_DEVICE int pn_sub(int x, int y) { return (int)((unsigned)x - (unsigned)y); }
PN_DEVICE long long pn_sub(long long x, long long y) {
    return (long long)((unsigned long long)x - (unsigned long long)y);
}

PN_DEVICE int pn_mul(int x, int y) { return (int)((unsigned)x * (unsigned)y); }
PN_DEVICE long long pn_mul(long long x, long long y) {
    return (long long)((unsigned long long)x * (unsigned long long)y);
}

PN_DEVICE int pn_neg(int x) { return (int)(0u - (unsigned)x); }
PN_DEVICE long long pn_neg(long long x) {
    return (long long)(0ull - (unsigned long long)x);
}

PN_DEVICE int pn_abs(int x) { return x < 0 ? pn_neg(x) : x; }
PN_DEVICE long long pn_abs(long long x) { return x < 0 ? pn_neg(x) : x; }
PN_DEVICE float pn_abs(float x) { return fabsf(x); }
PN_DEVICE double pn_abs(double x) { return fabs(x); }

// NaN in either operand gives NaN.
template <class T> PN_DEVICE T pn_maximum(T x, T y) { return x >= y || x != x ? x : y; }

template <class T> PN_DEVICE T pn_minimum(T x, T y) { return x <= y || x != x ? x : y; }

PN_DEVICE int pn_sign(int x) { return (x > 0) - (x < 0); }
PN_DEVICE unsigned pn_sign(unsigned x) { return x != 0; }
PN_DEVICE long long pn_sign(long long x) { return (x > 0) - (x < 0); }
PN_DEVICE float pn_sign(float x) { return x > 0 ? 1.0f : x < 0 ? -1.0f : x; }
PN_DEVICE double pn_sign(double x) { return x > 0 ? 1.0 : x < 0 ? -1.0 : x; }

// x / 0 is 0; the quotient rounds down; the least number / -1 wraps.
template <class T> PN_DEVICE T pn_floordiv(T x, T y) {
    if (y == 0) return 0;
    if (y == -1) return pn_neg(x);
    T q = x / y;
    return q - (T)(x % y != 0 && (x < 0) != (y < 0));
}
PN_DEVICE unsigned pn_floordiv(unsigned x, unsigned y) { return y ? x / y : 0; }
PN_DEVICE float pn_floordiv(float x, float y) {
    if (y == 0) return x / y;
    float r = fmodf(x, y), q = (x - r) / y;
    if (r != 0 && (r < 0) != (y < 0)) q -= 1;
    if (q == 0) return copysignf(0, x / y);
    float down = floorf(q);
    return q - down > 0.5f ? down + 1 : down;
}
PN_DEVICE double pn_floordiv(double x, double y) {
    if (y == 0) return x / y;
    double r = fmod(x, y), q = (x - r) / y;
    if (r != 0 && (r < 0) != (y < 0)) q -= 1;
    if (q == 0) return copysign(0.0, x / y);
    double down = floor(q);
    return q - down > 0.5 ? down + 1 : down;
}

// The sign of the divisor, as in Python; x mod 0 is 0 for integers.
template <class T> PN_DEVICE T pn_mod(T x, T y) {
    if (y == 0 || y == -1) return 0;
    T r = x % y;
    return r + (r != 0 && (r < 0) != (y < 0) ? y : 0);
}
PN_DEVICE unsigned pn_mod(unsigned x, unsigned y) { return y ? x % y : 0; }
PN_DEVICE float pn_mod(float x, float y) {
    float r = fmodf(x, y);
    if (y == 0) return r;
    if (r == 0) return copysignf(0, y);
    return (r < 0) != (y < 0) ? r + y : r;
}
PN_DEVICE double pn_mod(double x, double y) {
    double r = fmod(x, y);
    if (y == 0) return r;
    if (r == 0) return copysign(0.0, y);
    return (r < 0) != (y < 0) ? r + y : r;
}

// Integer powers wrap; a negative exponent gives 0 but for the bases 1 and -1.
PN_DEVICE unsigned long long pn_power(unsigned long long x, unsigned long long y) {
    unsigned long long r = 1;
    for (; y; y >>= 1, x *= x)
        if (y & 1) r *= x;
    return r;
}
PN_DEVICE long long pn_pow(long long x, long long y) {
    if (y < 0) return x == 1 ? 1 : x == -1 ? (y & 1 ? -1 : 1) : 0;
    return (long long)pn_power((unsigned long long)x, (unsigned long long)y);
}
PN_DEVICE int pn_pow(int x, int y) { return (int)pn_pow((long long)x, (long long)y); }
PN_DEVICE unsigned pn_pow(unsigned x, unsigned y) { return (unsigned)pn_power(x, y); }
PN_DEVICE float pn_pow(float x, float y) { return powf(x, y); }
PN_DEVICE double pn_pow(double x, double y) { return pow(x, y); }

// Shifting by the width or more gives 0.
PN_DEVICE int pn_shl(int x, int y) {
    return (unsigned)y < 32 ? (int)((unsigned)x << y) : 0;
}
PN_DEVICE unsigned pn_shl(unsigned x, unsigned y) { return y < 32 ? x << y : 0; }
PN_DEVICE long long pn_shl(long long x, long long y) {
    return (unsigned long long)y < 64 ? (long long)((unsigned long long)x << y) : 0;
}

// Shifting by the width or more gives 0, or -1 for a negative number.
PN_DEVICE int pn_shr(int x, int y) { return x >> ((unsigned)y < 32 ? y : 31); }
PN_DEVICE unsigned pn_shr(unsigned x, unsigned y) { return y < 32 ? x >> y : 0; }
PN_DEVICE long long pn_shr(long long x, long long y) {
    return x >> ((unsigned long long)y < 64 ? y : 63);
}

// Towards zero, saturating, NaN is 0. The bounds are exact in float and in double.
template <class C> PN_DEVICE int pn_to_int(C x) {
    if (x != x) return 0;
    if (x >= (C)2147483648.0) return 2147483647;
    return x < (C)-2147483648.0 ? -2147483647 - 1 : (int)x;
}

template <class C> PN_DEVICE unsigned pn_to_unsigned(C x) {
    if (x != x || x <= (C)-1.0) return 0;
    return x >= (C)4294967296.0 ? 0xFFFFFFFFu : (unsigned)x;
}

template <class C> PN_DEVICE long long pn_to_long(C x) {
    if (x != x) return 0;
    if (x >= (C)9223372036854775808.0) return 9223372036854775807ll;
    return x < (C)-9223372036854775808.0 ? -9223372036854775807ll - 1 : (long long)x;
}

// A cast whose NaN is a fault.
template <class C> PN_DEVICE C pn_checked(C x, pn_fault fault) {
    if (x != x) pn_set_fault(fault, PN_NAN_TO_INTEGER, 0, 0);
    return x;
}

// i, or i + n where i < 0; outside [0, n) a fault, and 0.
template <class T> PN_DEVICE T pn_wrap_index(T i, T n, pn_fault fault) {
    T at = i < 0 ? i + n : i;
    if (at >= 0 && at < n) return at;
    pn_set_fault(fault, PN_INDEX_OUT_OF_RANGE, (long long)i, (long long)n);
    return 0;
}
