// Scalar functions of one element: float32 by the code below, float64 by libm.
//
// Written without branches, so that loops over them vectorise, and without fused
// multiply-add, so that every level has the same bits. Functions of float32 that work
// in double are within 0.6 ulp of the exact value; those that work in float state their
// bound. The bounds are those measured by tests/test_backend_cpu.py. Special values are
// C99's (Annex F). Coefficients: minimax fits by Lawson's iteration on Chebyshev nodes,
// relative error at most 2^-26 in float, 2^-29 in double. Reductions: Cody & Waite,
// Software Manual for the Elementary Functions (1980); logarithms by 2 atanh(f / (2 +
// f)) as Tang, ACM TOMS 16 (1990).
#ifndef PN_SCALAR_H
#define PN_SCALAR_H
#include "arithmetic.h"

#define PN_PI 3.14159265358979323846
#define PN_LN2 0.69314718055994530942
#define PN_LIBM(name) \
    static inline double pn_##name##_float64(double x) { return name(x); }
PN_LIBM(exp)
PN_LIBM(expm1)
PN_LIBM(log)
PN_LIBM(log1p)
PN_LIBM(log2)
PN_LIBM(sin)
PN_LIBM(cos)
PN_LIBM(tan)
PN_LIBM(asin)
PN_LIBM(acos)
PN_LIBM(atan)
PN_LIBM(sinh)
PN_LIBM(cosh)
PN_LIBM(tanh)
PN_LIBM(asinh)
PN_LIBM(acosh)
PN_LIBM(atanh)
PN_LIBM(erf)
static inline double pn_pow_float64(double x, double y) { return pow(x, y); }
static inline double pn_atan2_float64(double y, double x) { return atan2(y, x); }

// Polynomials c0 + c1 x + ... by Estrin's scheme: short chains of dependent operations,
// which is what these loops wait for.
#define PN_POLYNOMIALS(C, s) \
    static inline C pn_poly3##s(C x, C c0, C c1, C c2, C c3) { \
        return (c0 + c1 * x) + (c2 + c3 * x) * (x * x); \
    } \
    static inline C pn_poly4##s(C x, C c0, C c1, C c2, C c3, C c4) { \
        C xx = x * x; \
        return (c0 + c1 * x) + ((c2 + c3 * x) + c4 * xx) * xx; \
    } \
    static inline C pn_poly5##s(C x, C c0, C c1, C c2, C c3, C c4, C c5) { \
        C xx = x * x; \
        return pn_poly3##s(x, c0, c1, c2, c3) + (c4 + c5 * x) * (xx * xx); \
    } \
    static inline C pn_poly6##s(C x, C c0, C c1, C c2, C c3, C c4, C c5, C c6) { \
        C xx = x * x; \
        return pn_poly3##s(x, c0, c1, c2, c3) + \
               ((c4 + c5 * x) + c6 * xx) * (xx * xx); \
    } \
    static inline C pn_poly7##s(C x, C c0, C c1, C c2, C c3, C c4, C c5, C c6, C c7) { \
        C xx = x * x; \
        return pn_poly3##s(x, c0, c1, c2, c3) + \
               pn_poly3##s(x, c4, c5, c6, c7) * (xx * xx); \
    }
PN_POLYNOMIALS(float, f)
PN_POLYNOMIALS(double, )

// ---- exp and what is made of it

// The integer nearest to x, |x| < 2^51, and the bits that end with it.
typedef struct {
    double value;
    uint64_t bits;
} pn_nearest;
static inline pn_nearest pn_to_nearest(double x) {
    double shifted = x + 0x1.8p52;
    return (pn_nearest){shifted - 0x1.8p52, pn_bits64(shifted)};
}

// 2^k for the integer in the low bits of k; normal numbers only.
static inline double pn_power_of_two(uint64_t k) {
    return pn_float64((k << 52) + 0x3FF0000000000000u);
}

// (e^r - 1) / r for |r| <= log(2) / 2, relative error 2^-32.
static inline double pn_expm1_ratio(double r) {
    return pn_poly6(r, 1.0000000000313252, 0.5000000046791784, 0.1666666624833061,
                    0.04166635382614185, 0.008333403047337365, 0.0013941057006888271,
                    0.00019841245771127887);
}

// e^x - 1 = 2^k (e^r - 1) + (2^k - 1); |x| is kept below where a float is 0 or
// infinite.
static inline double pn_expm1_wide(double x) {
    double y = x < -200 ? -200 : x > 200 ? 200 : x;
    pn_nearest k = pn_to_nearest(y * (1 / PN_LN2));
    double r = y - k.value * PN_LN2, two_k = pn_power_of_two(k.bits);
    return two_k * (r * pn_expm1_ratio(r)) + (two_k - 1);
}

// 2^x for the same range.
static inline double pn_exp2_wide(double x) {
    double y = x < -300 ? -300 : x > 300 ? 300 : x;
    pn_nearest k = pn_to_nearest(y);
    double r = (y - k.value) * PN_LN2;
    return pn_power_of_two(k.bits) * (1 + r * pn_expm1_ratio(r));
}

// e^x = (1 + q) 2^k, for a k of a float's exponent or half of that. Works in float, 1
// ulp. log(2) in two parts of which the first times k is exact.
typedef struct {
    float q;
    int32_t k;
} pn_scaled;
static inline pn_scaled pn_exp_scaled(float x) {
    float shifted = x * 1.44269504f + 0x1.8p23f, k = shifted - 0x1.8p23f;
    float r = (x - k * 0.693359375f) - k * -2.12194440e-4f;
    float p = pn_poly4f(r, 0.49999998119f, 0.16666505899f, 0.04166713721f,
                        0.00836910428f, 0.0013888868878f);
    return (pn_scaled){p * (r * r) + r, (int32_t)(pn_bits32(shifted) - 0x4B400000)};
}

// 2^k, a normal number.
static inline float pn_power_of_two_float32(int32_t k) {
    return pn_float32((uint32_t)(k + 127) << 23);
}

static inline float pn_exp_float32(float x) {
    pn_scaled e = pn_exp_scaled(x < -104.0f ? -104.0f : x > 89.0f ? 89.0f : x);
    // 2^k in two factors: k reaches from -150 to 128, past the exponents of a float.
    int32_t half = e.k >> 1;
    float first = pn_power_of_two_float32(half);
    return (e.q + 1) * first * pn_power_of_two_float32(e.k - half);
}

// e^x for |x| <= 87, where 2^k is one factor; beyond, as there.
static inline float pn_exp_normal_float32(float x) {
    pn_scaled e = pn_exp_scaled(x < -87.0f ? -87.0f : x > 87.0f ? 87.0f : x);
    return (e.q + 1) * pn_power_of_two_float32(e.k);
}

static inline float pn_expm1_float32(float x) {
    return x == 0 ? x : (float)pn_expm1_wide(x);
}

static inline float pn_sinh_float32(float x) {
    double e = pn_expm1_wide(fabsf(x));
    return copysignf((float)(0.5 * (e + e / (e + 1))), x);
}

static inline float pn_cosh_float32(float x) {
    double e = pn_expm1_wide(fabsf(x)) + 1;
    return (float)(0.5 * (e + 1 / e));
}

// x + x^3 P(x^2) below 0.63, else 1 - 2 / (e^2x + 1). Works in float, 1.5 ulp.
static inline float pn_tanh_float32(float x) {
    float a = fabsf(x), y = a > 9.05f ? 9.05f : a, z = a * a;
    float p = pn_poly4f(z, -0.333332802f, 0.133313836f, -0.0537339997f, 0.0206181218f,
                        -0.00567930385f);
    float small = a + a * (z * p), large = 1 - 2 / (pn_exp_normal_float32(2 * y) + 1);
    return copysignf(a < 0.63f ? small : large, x);
}

// x P(x^2) / Q(x^2), and 1 from 3.92 on. Works in float, 5 ulp.
static inline float pn_erf_float32(float x) {
    float a = fabsf(x), y = a > 3.92f ? 3.92f : a, z = y * y;
    float p = pn_poly6f(z, 1.12837923f, 0.185168728f, 0.0542747714f, 0.00384336291f,
                        0.000377938588f, 4.64048935e-06f, -1.29673197e-08f);
    float q = pn_poly5f(z, 1, 0.497434914f, 0.113910906f, 0.0154437097f,
                        0.00130406325f, 6.26930196e-05f);
    return copysignf(a >= 3.92f ? 1 : y * (p / q), x);
}

// ---- Logarithms and what is made of them

// x = 2^exponent m with m in [sqrt(1/2), sqrt(2)); x positive and normal.
typedef struct {
    double exponent, m;
} pn_split;
static inline pn_split pn_split_wide(double x) {
    // 1024 more in the exponent, so that it shifts and converts as an unsigned number.
    uint64_t bits = pn_bits64(x), moved = bits - 0x3FE6A09E667F3BCDu + (1024ull << 52);
    uint64_t biased = moved >> 52;
    double exponent = pn_float64(biased | 0x4330000000000000u) - (0x1p52 + 1024);
    return (pn_split){exponent, pn_float64(bits - (biased << 52) + (1024ull << 52))};
}

// log(1 + f) = 2 atanh(s), s = f / (2 + f), for 1 + f in [sqrt(1/2), sqrt(2)).
static inline double pn_log_near_one(double f) {
    double s = f / (f + 2), z = s * s;
    return s * pn_poly5(z, 1.9999999999999465, 0.6666666667971164, 0.3999999485367616,
                        0.28572170002840086, 0.22174090826366952, 0.19610387996572862);
}

// y, where it is the logarithm of a finite x > 0; else what the logarithm is.
static inline double pn_log_special(double x, double y) {
    y = x == INFINITY ? INFINITY : y;
    y = x == 0 ? -INFINITY : y;
    return x < 0 || x != x ? NAN : y;
}

// Works in float, 1 ulp. 2 atanh(s) = f - (f^2 / 2 - s (f^2 / 2 + s^2 P(s^2))) keeps
// what f is exactly; log(2) in two parts of which the first times the exponent is
// exact.
static inline float pn_log_float32(float x) {
    int is_tiny = x < 0x1p-126f;
    uint32_t bits = pn_bits32(is_tiny ? x * 0x1p23f : x);
    int32_t exponent = (int32_t)(bits - 0x3F3504F3) >> 23;
    float f = pn_float32(bits - ((uint32_t)exponent << 23)) - 1;
    float s = f / (f + 2), z = s * s, half = 0.5f * f * f;
    float e = (float)exponent - (is_tiny ? 23.0f : 0.0f);
    float p = 0.298731006f;
    p = p * z + 0.399774944f;
    p = p * z + 0.666667767f;
    float low = s * (half + z * p) + e * 9.0580006145e-06f;
    float y = e * 0.69313812256f - ((half - low) - f);
    y = x == INFINITY ? INFINITY : y;
    y = x == 0 ? -INFINITY : y;
    return x < 0 || x != x ? NAN : y;
}

// A zero, an infinity or NaN gives what C99 says; a negative x gives NaN.
static inline double pn_log2_wide(double x) {
    pn_split parts = pn_split_wide(x);
    double y = parts.exponent + pn_log_near_one(parts.m - 1) * (1 / PN_LN2);
    return pn_log_special(x, y);
}
static inline float pn_log2_float32(float x) { return (float)pn_log2_wide(x); }

// Where 1 + x needs no scaling f is x itself, so that nothing is lost of a small x.
static inline double pn_log1p_wide(double x) {
    double u = 1 + x;
    pn_split parts = pn_split_wide(u);
    double f = parts.exponent == 0 ? x : parts.m - 1;
    double y = parts.exponent * PN_LN2 + pn_log_near_one(f);
    return x == 0 ? x : pn_log_special(u, y);
}
static inline float pn_log1p_float32(float x) { return (float)pn_log1p_wide(x); }

static inline float pn_asinh_float32(float x) {
    double a = fabsf(x), y = pn_log1p_wide(a + a * a / (1 + sqrt(a * a + 1)));
    return copysignf(a == INFINITY ? INFINITY : (float)y, x);
}

static inline float pn_acosh_float32(float x) {
    double t = (double)x - 1, y = pn_log1p_wide(t + sqrt(t * (t + 2)));
    return x < 1 ? NAN : (float)y;
}

static inline float pn_atanh_float32(float x) {
    double a = fabsf(x), y = 0.5 * pn_log1p_wide(2 * a / (1 - a));
    return copysignf((float)y, x);
}

// 2^(y log2 |x|), with the sign of an odd power, and C99's special cases.
static inline float pn_pow_float32(float base, float exponent) {
    double x = base, y = exponent, a = fabs(x), half = y * 0.5;
    double r = pn_exp2_wide(y * pn_log2_wide(a));
    int is_whole = pn_round_float64(y) == y;
    int is_odd = is_whole & (pn_round_float64(half) != half);
    r = a == 1 && fabs(y) == INFINITY ? 1 : r;
    r = x < 0 && a != INFINITY && !is_whole ? NAN : r;
    r = is_odd ? copysign(r, x) : r;
    return x == 1 || y == 0 ? 1 : (float)r;
}

// ---- Trigonometry

// sin and cos of r, |r| <= pi/4, turned by k quarters.
static inline double pn_sin_near_zero(double r) {
    return r * pn_poly4(r * r, 0.9999999999954275, -0.16666666630300703,
                        0.008333328676194086, -0.0001983917417425784,
                        2.7171143707679646e-06);
}
static inline double pn_cos_near_zero(double r) {
    return pn_poly5(r * r, 0.999999999999934, -0.49999999999267336, 0.04166666653315922,
                    -0.0013888879908500718, 2.4798839056254145e-05,
                    -2.716761417929352e-07);
}
// Chosen by bits, as SSE2 can't compare integers of 64.
static inline double pn_sin_turned(double r, uint64_t k) {
    uint64_t sine = pn_bits64(pn_sin_near_zero(r));
    uint64_t cosine = pn_bits64(pn_cos_near_zero(r));
    uint64_t odd = 0 - (k & 1);
    return pn_float64(((sine & ~odd) | (cosine & odd)) ^ ((k & 2) << 62));
}

// x less the nearest multiple of pi/2. The first part of pi/2 has 33 bits, so that its
// multiples are exact for |x| <= PN_TURNS; beyond that libm takes over.
#define PN_TURNS 0x1p20f
typedef struct {
    double r;
    uint64_t k;
} pn_turned;
static inline pn_turned pn_reduce_turns(double x) {
    pn_nearest k = pn_to_nearest(x * (2 / PN_PI));
    double r = x - k.value * 0x1.921fb544p+0;
    return (pn_turned){r - k.value * 0x1.0b4611a626331p-34, k.bits};
}

static inline float pn_sin_float32(float x) {
    pn_turned t = pn_reduce_turns(x);
    return (float)pn_sin_turned(t.r, t.k);
}
static inline float pn_cos_float32(float x) {
    pn_turned t = pn_reduce_turns(x);
    return (float)pn_sin_turned(t.r, t.k + 1);
}
static inline float pn_tan_float32(float x) {
    pn_turned t = pn_reduce_turns(x);
    uint64_t s = pn_bits64(pn_sin_near_zero(t.r)), c = pn_bits64(pn_cos_near_zero(t.r));
    uint64_t odd = 0 - (t.k & 1), swap = (s ^ c) & odd;
    return (float)(pn_float64(s ^ swap ^ (odd << 63)) / pn_float64(c ^ swap));
}

// x - 2 round(x / 2), and the quarters in it, are exact.
static inline pn_turned pn_reduce_halves(double x) {
    double r = x - 2 * pn_round_float64(x * 0.5);
    pn_nearest k = pn_to_nearest(2 * r);
    return (pn_turned){(r - k.value * 0.5) * PN_PI, k.bits};
}

// At whole x, sin(pi x) is a zero of the sign of x; at odd halves, cos(pi x) is +0.
static inline float pn_sinpi_float32(float x) {
    pn_turned t = pn_reduce_halves(x);
    float y = (float)pn_sin_turned(t.r, t.k);
    return y == 0 ? copysignf(0, x) : y;
}
static inline float pn_cospi_float32(float x) {
    pn_turned t = pn_reduce_halves(x);
    return (float)pn_sin_turned(t.r, t.k + 1) + 0.0f;
}
static inline double pn_sinpi_float64(double x) {
    pn_turned t = pn_reduce_halves(x);
    double y = t.k & 1 ? cos(t.r) : sin(t.r);
    y = t.k & 2 ? -y : y;
    return y == 0 ? copysign(0, x) : y;
}
static inline double pn_cospi_float64(double x) {
    pn_turned t = pn_reduce_halves(x);
    double y = t.k & 1 ? -sin(t.r) : cos(t.r);
    return (t.k & 2 ? -y : y) + 0.0;
}

// asin(x) for |x| <= 1/2.
static inline double pn_asin_near_zero(double x) {
    return x * pn_poly7(x * x, 0.9999999999849024, 0.16666667421644088,
                        0.07499938200533925, 0.044662035189048814, 0.030092213323791084,
                        0.024711518879695197, 0.0072238980749768, 0.03495147383702023);
}

// Above 1/2: asin(x) = pi/2 - 2 asin(sqrt((1 - x) / 2)).
static inline float pn_asin_float32(float x) {
    double a = fabsf(x);
    int is_small = a <= 0.5;
    double t = pn_asin_near_zero(is_small ? a : sqrt(0.5 - 0.5 * a));
    return copysignf((float)(is_small ? t : PN_PI / 2 - 2 * t), x);
}
static inline float pn_acos_float32(float x) {
    double a = fabsf(x);
    int is_small = a <= 0.5;
    double t = pn_asin_near_zero(is_small ? x : sqrt(0.5 - 0.5 * a));
    double large = x < 0 ? PN_PI - 2 * t : 2 * t;
    return (float)(is_small ? PN_PI / 2 - t : large);
}

// atan(a / b) for 0 <= a <= b: above tan(pi/8), pi/4 + atan((a - b) / (a + b)).
static inline double pn_atan_ratio(double a, double b) {
    int is_large = a > 0.41421356237309503 * b;
    double q = (is_large ? a - b : a) / (is_large ? a + b : b), z = q * q;
    double p = pn_poly6(z, 0.9999999999791624, -0.3333333212832262, 0.19999885862238956,
                        -0.14281636709846252, 0.11041007128564939, -0.08458770698435775,
                        0.047121561019726074);
    return q * p + (is_large ? PN_PI / 4 : 0);
}

static inline float pn_atan2_float32(float y, float x) {
    double a = fabsf(y), b = fabsf(x);
    int is_both = a == INFINITY && b == INFINITY, is_steep = a > b;
    double least = is_both ? 1 : is_steep ? b : a;
    double most = is_both ? 1 : is_steep ? a : b;
    double t = pn_atan_ratio(least, most == 0 ? 1 : most == INFINITY ? 0x1p300 : most);
    t = is_steep ? PN_PI / 2 - t : t;
    t = pn_bits32(x) >> 31 ? PN_PI - t : t;
    return x != x || y != y ? NAN : copysignf((float)t, y);
}
static inline float pn_atan_float32(float x) {
    double a = fabsf(x), b = a == INFINITY ? 0x1p300 : a;
    int is_steep = b > 1;
    double t = pn_atan_ratio(is_steep ? 1 : b, is_steep ? b : 1);
    return copysignf((float)(is_steep ? PN_PI / 2 - t : t), x);
}
#endif
