// In place of ../cusim.h for kernels without barriers, warp operations and shared memory,
// as all elementwise ones are: threads run one after the other, in a plain loop. No other
// header is read, so that g++ takes a tenth of the time: the suite builds thousands.
#pragma once

#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__

struct cusim_three { unsigned x, y, z; };
static cusim_three threadIdx, blockIdx, blockDim, gridDim;

template <class T> struct cusim_plain { typedef T type; };
template <class T> struct cusim_plain<const T> { typedef T type; };
template <int...> struct cusim_numbers {};
template <class... A, int... I>
static int cusim_run(void (*kernel)(A...), void **a, cusim_numbers<I...>) {
    const cusim_three g = gridDim, b = blockDim;
    for (unsigned k = 0; k < g.x * g.y * g.z; ++k) {
        blockIdx = {k % g.x, k / g.x % g.y, k / g.x / g.y};
        for (unsigned t = 0; t < b.x * b.y * b.z; ++t) {
            threadIdx = {t % b.x, t / b.x % b.y, t / b.x / b.y};
            kernel(*(typename cusim_plain<A>::type *)a[I]...);
        }
    }
    return 0;
}
template <class... A> static int cusim_start(void (*kernel)(A...), void **a) {
    return cusim_run(kernel, a, cusim_numbers<__integer_pack(sizeof...(A))...>());
}
template <class... A> static void cusim_sizes(void (*)(A...), int *n, unsigned long *bytes) {
    const unsigned long sizes[] = {sizeof(A)..., 0};
    *n = sizeof...(A);
    for (int i = 0; i < *n; ++i) bytes[i] = sizes[i];
}
#define CUSIM_EXPORT(name)                                                             \
    extern "C" int cusim_launch_##name(unsigned gx, unsigned gy, unsigned gz,          \
                                       unsigned bx, unsigned by, unsigned bz,          \
                                       unsigned long, void **a) {                      \
        gridDim = {gx, gy, gz};                                                        \
        blockDim = {bx, by, bz};                                                       \
        return cusim_start(&name, a);                                                  \
    }                                                                                  \
    extern "C" void cusim_params_##name(int *n, unsigned long *bytes) {                \
        cusim_sizes(&name, n, bytes);                                                  \
    }

static inline unsigned long long atomicCAS(unsigned long long *p, unsigned long long seen,
                                           unsigned long long v) {
    const unsigned long long old = *p;
    if (old == seen) *p = v;
    return old;
}

// Functions that NVRTC knows without a header; sinpi and cospi reduce exactly.
static inline float __uint_as_float(unsigned x) { return __builtin_bit_cast(float, x); }
static inline unsigned __float_as_uint(float x) { return __builtin_bit_cast(unsigned, x); }
static inline float rsqrtf(float x) { return 1 / __builtin_sqrtf(x); }
static inline double rsqrt(double x) { return 1 / __builtin_sqrt(x); }
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define fabs __builtin_fabs
#define fabsf __builtin_fabsf
#define sqrt __builtin_sqrt
#define sqrtf __builtin_sqrtf
#define copysign __builtin_copysign
#define copysignf __builtin_copysignf
#define fmod __builtin_fmod
#define fmodf __builtin_fmodf
#define pow __builtin_pow
#define powf __builtin_powf
#define atan2 __builtin_atan2
#define atan2f __builtin_atan2f
#define CUSIM_FUNCTIONS(DO)                                                            \
    DO(exp) DO(expm1) DO(log) DO(log1p) DO(log2) DO(sin) DO(cos) DO(tan) DO(asin)      \
    DO(acos) DO(atan) DO(sinh) DO(cosh) DO(tanh) DO(asinh) DO(acosh) DO(atanh) DO(erf) \
    DO(floor) DO(ceil) DO(trunc) DO(rint)
#define CUSIM_DECLARE(name)                                                            \
    extern "C" double name(double) throw();                                            \
    extern "C" float name##f(float) throw();
CUSIM_FUNCTIONS(CUSIM_DECLARE)
static inline double cusim_turn(double x, bool sine) {
    const double pi = 3.14159265358979323846, r = x - 2 * rint(x / 2);  // in [-1, 1]
    const double k = rint(2 * r), y = (r - k / 2) * pi;                 // k quarters
    const int quarter = ((int)k + (sine ? 0 : 1)) & 3;
    const double v = quarter & 1 ? cos(y) : sin(y);
    return quarter & 2 ? -v : v;
}
static inline double sinpi(double x) {
    const double y = cusim_turn(x, true);
    return y == 0 ? copysign(0.0, x) : y;
}
static inline double cospi(double x) { return cusim_turn(x, false) + 0.0; }
static inline float sinpif(float x) { return (float)sinpi(x); }
static inline float cospif(float x) { return (float)cospi(x); }
