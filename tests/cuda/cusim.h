// Runs a CUDA kernel on the CPU, from its own source, to test what it computes. This is
// what a text sees; cusim.cpp is the runtime, which is built once. Neither this file nor a
// kernel reads any other header, so that g++ takes a tenth of a second for a text.
//
//   g++ -std=c++17 -DPN_SIMULATED -Itests/cuda -x c++ -shared -fPIC kernel.cu
#pragma once

typedef unsigned long cusim_size;

// --- The language ------------------------------------------------------------------

#define __global__
#define __host__
#define __device__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)

struct uint3 { unsigned x, y, z; };
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct alignas(8) int2 { int x, y; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
    return {x, y, z, w};
}
static inline float4 make_float4(float x, float y, float z, float w) {
    return {x, y, z, w};
}

// --- What the runtime does ----------------------------------------------------------

struct cusim_thread { uint3 place; unsigned lane; };
struct cusim_block { uint3 place; dim3 size, grid; char *dynamic; };
extern "C" {
extern cusim_thread *cusim_this_thread;
extern cusim_block *cusim_this_block;
void cusim_barrier(int line);
unsigned cusim_count(bool vote, int line);
void cusim_warp_barrier(unsigned mask, int line);
// The address of every lane's bytes, CUSIM_SLOT apart, once all lanes of the mask came.
const char *cusim_exchange(unsigned mask, const void *value, cusim_size bytes, int line);
void *cusim_shared(const void *key, cusim_size bytes);
void cusim_copy_later(void *to, const void *from, unsigned bytes, unsigned kept);
void cusim_commit();
void cusim_land(unsigned groups_left);
int cusim_launch(void (*call)(void *kernel, void **arguments), void *kernel, dim3 grid,
                 dim3 size, cusim_size dynamic, void **arguments);
const char *cusim_error();
}
constexpr cusim_size CUSIM_SLOT = 128;  // bytes that a lane can hand over
constexpr unsigned CUSIM_WARP = 32;

#define threadIdx (cusim_this_thread->place)
#define blockIdx (cusim_this_block->place)
#define blockDim (cusim_this_block->size)
#define gridDim (cusim_this_block->grid)

// PN_SHARED(float, tile, [16][32]): `float tile[16][32]` in shared memory.
#define PN_SHARED(T, name, dims)                                                       \
    static char name##_key;                                                            \
    T(&name) dims = *(T(*) dims)cusim_shared(&name##_key, sizeof(T dims))
#define PN_DYNAMIC_SHARED(T, name) T *const name = (T *)cusim_this_block->dynamic

// --- Barriers, warp operations, cp.async --------------------------------------------

namespace cusim {
template <class T> inline T from_lane(unsigned mask, T value, unsigned lane, int line) {
    static_assert(sizeof(T) <= CUSIM_SLOT, "too much to exchange");
    const char *slots = cusim_exchange(mask, &value, sizeof(T), line);
    T result;
    if (lane != cusim_this_thread->lane && !(mask >> lane & 1))
        __builtin_memset((void *)&result, 0xff, sizeof result);  // undefined on a GPU
    else
        __builtin_memcpy((void *)&result, slots + lane * CUSIM_SLOT, sizeof result);
    return result;
}
template <class T> inline T shfl(unsigned m, T v, int from, int width, int line) {
    const unsigned l = cusim_this_thread->lane;
    return from_lane(m, v, (l & ~(width - 1)) | (from & (width - 1)), line);
}
template <class T> inline T shfl_down(unsigned m, T v, unsigned d, int width, int line) {
    const unsigned l = cusim_this_thread->lane, last = l | (width - 1);
    return from_lane(m, v, l + d > last ? l : l + d, line);
}
template <class T> inline T shfl_up(unsigned m, T v, unsigned d, int width, int line) {
    const unsigned l = cusim_this_thread->lane, first = l & ~(width - 1);
    return from_lane(m, v, l < first + d ? l : l - d, line);
}
template <class T> inline T shfl_xor(unsigned m, T v, int x, int width, int line) {
    const unsigned l = cusim_this_thread->lane, other = l ^ x;
    return from_lane(m, v, other > (l | (width - 1)) ? l : other, line);
}
inline unsigned ballot(unsigned mask, bool vote, int line) {
    const char *slots = cusim_exchange(mask, &vote, sizeof vote, line);
    unsigned result = 0;
    for (unsigned l = 0; l < CUSIM_WARP; ++l)
        if ((mask >> l & 1) && slots[l * CUSIM_SLOT]) result |= 1u << l;
    return result;
}
inline void copy_later(void *to, const void *from, unsigned bytes, unsigned kept) {
    cusim_copy_later(to, from, bytes, kept);
}
inline void commit() { cusim_commit(); }
inline void land(unsigned groups_left) { cusim_land(groups_left); }

// --- Calls -------------------------------------------------------------------------

template <class T> struct plain { typedef T type; };
template <class T> struct plain<const T> { typedef T type; };
template <int...> struct numbers {};
template <class... A> struct caller {
    template <int... I> static void apply(void (*kernel)(A...), void **a, numbers<I...>) {
        kernel(*(typename plain<A>::type *)a[I]...);
    }
    static void call(void *kernel, void **a) {
        apply((void (*)(A...))kernel, a, numbers<__integer_pack(sizeof...(A))...>());
    }
};
template <class... A>
inline int launch(void (*kernel)(A...), dim3 grid, dim3 size, cusim_size dynamic,
                  void **a) {
    return cusim_launch(&caller<A...>::call, (void *)kernel, grid, size, dynamic, a);
}
template <class... A> inline void sizes_of(void (*)(A...), int *n, cusim_size *bytes) {
    const cusim_size sizes[] = {sizeof(A)..., 0};
    *n = sizeof...(A);
    for (int i = 0; i < *n; ++i) bytes[i] = sizes[i];
}
}  // namespace cusim

// cusim_launch_NAME and cusim_params_NAME, by which a kernel is found and its arguments
// are sized, as a driver would.
#define CUSIM_EXPORT(name)                                                             \
    extern "C" int cusim_launch_##name(unsigned gx, unsigned gy, unsigned gz,          \
                                       unsigned bx, unsigned by, unsigned bz,          \
                                       cusim_size dynamic, void **a) {                 \
        return cusim::launch(&name, {gx, gy, gz}, {bx, by, bz}, dynamic, a);           \
    }                                                                                  \
    extern "C" void cusim_params_##name(int *n, cusim_size *bytes) {                   \
        cusim::sizes_of(&name, n, bytes);                                              \
    }

#define __syncthreads() cusim_barrier(__LINE__)
#define __syncthreads_count(vote) cusim_count((vote) != 0, __LINE__)
#define __syncthreads_or(vote) (cusim_count((vote) != 0, __LINE__) != 0)
#define __syncwarp(...) cusim_warp_barrier(cusim_mask(__VA_ARGS__), __LINE__)
static inline unsigned cusim_mask(unsigned mask = 0xffffffffu) { return mask; }
#define CUSIM_FOUR(...) CUSIM_FIRST_FOUR(__VA_ARGS__, 32, 0)
#define CUSIM_FIRST_FOUR(m, v, d, width, ...) m, v, d, width, __LINE__
#define __shfl_sync(...) cusim::shfl(CUSIM_FOUR(__VA_ARGS__))
#define __shfl_down_sync(...) cusim::shfl_down(CUSIM_FOUR(__VA_ARGS__))
#define __shfl_up_sync(...) cusim::shfl_up(CUSIM_FOUR(__VA_ARGS__))
#define __shfl_xor_sync(...) cusim::shfl_xor(CUSIM_FOUR(__VA_ARGS__))
#define __ballot_sync(mask, vote) cusim::ballot(mask, (vote) != 0, __LINE__)
#define __any_sync(mask, vote) (cusim::ballot(mask, (vote) != 0, __LINE__) != 0)
#define __all_sync(mask, vote) (cusim::ballot(mask, !(vote), __LINE__) == 0)
#define __threadfence() ((void)0)

// Atomics: fibers switch at barriers and warp operations only.
template <class T, class F> static inline T cusim_update(T *p, F f) {
    const T old = *p;
    *p = f(old);
    return old;
}
template <class T> struct cusim_itself { typedef T type; };
template <class T> using cusim_same = typename cusim_itself<T>::type;
template <class T> static inline T atomicAdd(T *p, cusim_same<T> v) {
    return cusim_update(p, [=](T old) { return (T)(old + v); });
}
template <class T> static inline T atomicMax(T *p, cusim_same<T> v) {
    return cusim_update(p, [=](T old) { return old > v ? old : v; });
}
template <class T> static inline T atomicExch(T *p, cusim_same<T> v) {
    return cusim_update(p, [=](T) { return v; });
}
template <class T> static inline T atomicCAS(T *p, cusim_same<T> seen, cusim_same<T> v) {
    return cusim_update(p, [=](T old) { return old == seen ? v : old; });
}

// --- Functions that NVRTC knows without a header --------------------------------------

template <class T> static inline T __ldg(const T *p) { return *p; }
#define CUSIM_BITS(name, To, From)                                                     \
    static inline To name(From x) { return __builtin_bit_cast(To, x); }
CUSIM_BITS(__float_as_int, int, float)
CUSIM_BITS(__float_as_uint, unsigned, float)
CUSIM_BITS(__int_as_float, float, int)
CUSIM_BITS(__uint_as_float, float, unsigned)
CUSIM_BITS(__double_as_longlong, long long, double)
CUSIM_BITS(__longlong_as_double, double, long long)
static inline unsigned __umulhi(unsigned a, unsigned b) {
    return (unsigned)((unsigned long long)a * b >> 32);
}
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
template <class T> static inline T max(T a, T b) { return a < b ? b : a; }
template <class T> static inline T min(T a, T b) { return b < a ? b : a; }

#if !defined(INFINITY)
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#endif
// Of double, of float under its own name, and of float under the name of double.
#define CUSIM_ONE(name)                                                                \
    extern "C" double name(double) throw();                                            \
    extern "C" float name##f(float) throw();                                           \
    static inline float name(float x) { return name##f(x); }
#define CUSIM_TWO(name)                                                                \
    extern "C" double name(double, double) throw();                                    \
    extern "C" float name##f(float, float) throw();                                    \
    static inline float name(float x, float y) { return name##f(x, y); }
CUSIM_ONE(sqrt) CUSIM_ONE(exp) CUSIM_ONE(exp2) CUSIM_ONE(expm1) CUSIM_ONE(log)
CUSIM_ONE(log1p) CUSIM_ONE(log2) CUSIM_ONE(sin) CUSIM_ONE(cos) CUSIM_ONE(tan)
CUSIM_ONE(asin) CUSIM_ONE(acos) CUSIM_ONE(atan) CUSIM_ONE(sinh) CUSIM_ONE(cosh)
CUSIM_ONE(tanh) CUSIM_ONE(asinh) CUSIM_ONE(acosh) CUSIM_ONE(atanh) CUSIM_ONE(erf)
CUSIM_ONE(erfc) CUSIM_ONE(fabs) CUSIM_ONE(floor) CUSIM_ONE(ceil) CUSIM_ONE(trunc)
CUSIM_ONE(rint) CUSIM_TWO(pow) CUSIM_TWO(fmod) CUSIM_TWO(atan2) CUSIM_TWO(copysign)
CUSIM_TWO(fmin) CUSIM_TWO(fmax)
extern "C" double fma(double, double, double) throw();
extern "C" float fmaf(float, float, float) throw();
extern "C" double ldexp(double, int) throw();
extern "C" float ldexpf(float, int) throw();
static inline float rsqrtf(float x) { return 1 / sqrtf(x); }
static inline double rsqrt(double x) { return 1 / sqrt(x); }
#define __expf(x) expf(x)
#define __logf(x) logf(x)
#define __fdividef(a, b) ((a) / (b))

// sin(pi x), or the cosine: the reduction is exact.
static inline double cusim_turn(double x, bool is_sine) {
    const double pi = 3.14159265358979323846, r = x - 2 * rint(x / 2);  // in [-1, 1]
    const double k = rint(2 * r), y = (r - k / 2) * pi;                 // k quarters
    const int quarter = ((int)k + (is_sine ? 0 : 1)) & 3;
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
