// Philox4x32-10 of Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2,
// 3" (SC11): ten rounds, constants from their table 2. PHILOX_LANES blocks of four words
// run side by side, as vectors. Words 0 and 1 of the counter are one 64-bit number; words
// 2 and 3 are 0.
#ifndef PN_PHILOX_H
#define PN_PHILOX_H
#include <stdint.h>

#define PHILOX_LANES 32  // fewer, and GCC unrolls the loops instead of making vectors
#define PHILOX_ROUNDS 10

// One round on every lane: two products, their high halves crossed with the other words.
static inline void one_round(uint32_t c[4][PHILOX_LANES], uint32_t key0, uint32_t key1) {
    for (int i = 0; i < PHILOX_LANES; i++) {
        uint64_t p = (uint64_t)0xD2511F53u * c[0][i], q = (uint64_t)0xCD9E8D57u * c[2][i];
        uint32_t c1 = c[1][i], c3 = c[3][i];
        c[0][i] = (uint32_t)(q >> 32) ^ c1 ^ key0;
        c[1][i] = (uint32_t)q;
        c[2][i] = (uint32_t)(p >> 32) ^ c3 ^ key1;
        c[3][i] = (uint32_t)p;
    }
}

// words[4 i + w] = word w of philox(counter + i, 0, 0; key), i < PHILOX_LANES.
static void philox(const uint32_t key[2], uint64_t counter,
                   uint32_t words[4 * PHILOX_LANES]) {
    uint32_t c[4][PHILOX_LANES];
    for (int i = 0; i < PHILOX_LANES; i++) {
        c[0][i] = (uint32_t)(counter + (uint64_t)i);
        c[1][i] = (uint32_t)((counter + (uint64_t)i) >> 32);
        c[2][i] = c[3][i] = 0;
    }
    uint32_t key0 = key[0], key1 = key[1];
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        one_round(c, key0, key1);
        key0 += 0x9E3779B9u;  // the golden ratio
        key1 += 0xBB67AE85u;  // sqrt(3) - 1
    }
    for (int i = 0; i < PHILOX_LANES; i++)
        for (int w = 0; w < 4; w++) words[4 * i + w] = c[w][i];
}
#endif
