// bits[4 b + w] = word w of philox(counter + b, 0, 0; key), Philox4x32-10 (Salmon, Moraes,
// Dror & Shaw, SC11); the new state has its counter `blocks` further. words: n, blocks,
// state_offset. State: key0, key1, counter_low, counter_high.
//
// A thread for each block b of four words, stored as one; the first thread also writes the
// new state.
#include "philox.cuh"

PN_ENTRY(random, 256)
(unsigned *__restrict__ bits, unsigned *__restrict__ after, const unsigned *__restrict__ state,
 PN_P P) {
    const long long b = (long long)blockIdx.x * 256 + threadIdx.x, n = P[0];
    state += P[2];
    const unsigned key0 = state[0], key1 = state[1];
    const unsigned long long counter = state[2] | (unsigned long long)state[3] << 32;
    if (b == 0) {
        const unsigned long long end = counter + (unsigned long long)P[1];
        after[0] = key0, after[1] = key1;
        after[2] = (unsigned)end, after[3] = (unsigned)(end >> 32);
    }
    if (b >= P[1]) return;
    const uint4 word = philox(counter + (unsigned long long)b, key0, key1);
    if (4 * b + 4 <= n) {
        *(uint4 *)(bits + 4 * b) = word;
        return;
    }
    if (4 * b < n) bits[4 * b] = word.x;
    if (4 * b + 1 < n) bits[4 * b + 1] = word.y;
    if (4 * b + 2 < n) bits[4 * b + 2] = word.z;
}
PN_EXPORT(random)
