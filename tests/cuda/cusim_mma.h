// The warp's tensor-core instructions in C++, for portanet/backend_cuda/mma.cuh: lanes hand
// each other the fragments that the PTX manual gives them, so a wrong place shows.
#pragma once
#include "cusim.h"

namespace cusim {

// Rounded to 10 bits of fraction, ties away from zero, as cvt.rna.tf32.f32.
inline float to_tf32(unsigned word) {
    if ((word & 0x7f800000) != 0x7f800000) word += 0x1000;
    return __uint_as_float(word & 0xffffe000);
}

// d += a * b, 16 x 8 over 8 words of l, each of `parts` elements that `decode` gives.
template <class Decode>
inline void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], int line,
                Decode decode, int parts) {
    struct Fragment {
        unsigned a[4], b[2];
    } mine;
    __builtin_memcpy(mine.a, a, sizeof mine.a);
    __builtin_memcpy(mine.b, b, sizeof mine.b);
    const char *lanes = cusim_exchange(0xffffffffu, &mine, sizeof mine, line);
    const int g = cusim_this_thread->lane / 4, t = cusim_this_thread->lane % 4;
    for (int e = 0; e < 4; ++e) {
        const int row = g + e / 2 * 8, column = 2 * t + e % 2;
        float sum = 0;
        for (int word = 0; word < 8; ++word) {
            const int of_a = row % 8 * 4 + word % 4, of_b = column * 4 + word % 4;
            const auto *from_a = (const Fragment *)(lanes + of_a * CUSIM_SLOT);
            const auto *from_b = (const Fragment *)(lanes + of_b * CUSIM_SLOT);
            const unsigned left = from_a->a[row / 8 + word / 4 * 2];
            const unsigned top = from_b->b[word / 4];
            for (int part = 0; part < parts; ++part)
                sum += decode(left, part) * decode(top, part);
        }
        d[e] += sum;
    }
}

// ldmatrix.x4: lane l names row l % 8 of matrix l / 8. Rows are aligned to 16 bytes, or
// hold nothing that means anything.
inline void load_matrix(unsigned (&words)[4], const void *row, bool is_turned, int line) {
    struct Row {
        unsigned short at[8];
    } mine;
    if ((cusim_size)row % 16)
        __builtin_memset(&mine, 0xff, sizeof mine);
    else
        __builtin_memcpy(&mine, row, sizeof mine);
    const char *lanes = cusim_exchange(0xffffffffu, &mine, sizeof mine, line);
    const int g = cusim_this_thread->lane / 4, t = cusim_this_thread->lane % 4;
    for (int m = 0; m < 4; ++m) {
        unsigned halves[2];
        for (int h = 0; h < 2; ++h) {
            const int from = is_turned ? 2 * t + h : g, at = is_turned ? g : 2 * t + h;
            halves[h] = ((const Row *)(lanes + (m * 8 + from) * CUSIM_SLOT))->at[at];
        }
        words[m] = halves[0] | halves[1] << 16;
    }
}

}  // namespace cusim
