// Which of the compiled instruction-set levels this machine can run.
#ifndef PN_LEVEL_H
#define PN_LEVEL_H
#include <string.h>

#if defined(__x86_64__) || defined(_M_X64)
#include <cpuid.h>

// The registers that the operating system saves: bit 2 ymm, bits 5 to 7 zmm.
static unsigned saved_state(void) {
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static int has_all(unsigned word, unsigned bits) { return (word & bits) == bits; }

// x86-64-v3 and v4 as the psABI defines them.
static int machine_has(const char *level) {
    unsigned a, b, c, d, b7, c7, d7, c81;
    if (!strcmp(level, "base")) return 1;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    if (!has_all(c, bit_SSE3 | bit_SSSE3 | bit_FMA | bit_CMPXCHG16B | bit_SSE4_1 |
                        bit_SSE4_2 | bit_MOVBE | bit_POPCNT | bit_OSXSAVE | bit_AVX |
                        bit_F16C))
        return 0;
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7)) return 0;
    if (!__get_cpuid(0x80000001, &a, &b, &c81, &d)) return 0;
    unsigned saved = saved_state();
    int has_v3 = has_all(b7, bit_AVX2 | bit_BMI | bit_BMI2) && has_all(saved, 0x6) &&
                 has_all(c81, bit_LZCNT);
    if (!strcmp(level, "v3")) return has_v3;
    return has_v3 && has_all(saved, 0xE6) &&
           has_all(b7, bit_AVX512F | bit_AVX512BW | bit_AVX512CD | bit_AVX512DQ |
                           bit_AVX512VL);
}
#else
static int machine_has(const char *level) { return !strcmp(level, "base"); }
#endif
#endif
