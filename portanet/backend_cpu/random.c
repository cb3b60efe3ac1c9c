// bits[4 b + w] = word w of philox(counter + b, 0, 0; key), and state' = state with the
// counter `blocks` further.
//
// Philox4x32-10 of Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2,
// 3" (SC11): ten rounds, constants from their table 2. Words 0 and 1 of the counter are
// one 64-bit number; words 2 and 3 are 0. Work is divided by blocks of 4 words; LANES
// blocks run side by side, as vectors.
//
// words: n, blocks, state_offset
// buffers: bits uint32[n], new state uint32[4], state uint32[4] (key0, key1, counter_low,
//          counter_high)
#include "convert.h"

#define LANES 32  // fewer, and GCC unrolls the loops instead of making vectors
#define ROUNDS 10
#define PIECE ((int64_t)1 << 12)  // blocks worth a thread, about 10 us

typedef struct {
    uint32_t *bits;
    int64_t n;
    uint32_t key[2];
    uint64_t counter;
} request;

// One round on every lane: two products, their high halves crossed with the other words.
static inline void one_round(uint32_t c[4][LANES], uint32_t key0, uint32_t key1) {
    for (int i = 0; i < LANES; i++) {
        uint64_t p = (uint64_t)0xD2511F53u * c[0][i], q = (uint64_t)0xCD9E8D57u * c[2][i];
        uint32_t c1 = c[1][i], c3 = c[3][i];
        c[0][i] = (uint32_t)(q >> 32) ^ c1 ^ key0;
        c[1][i] = (uint32_t)q;
        c[2][i] = (uint32_t)(p >> 32) ^ c3 ^ key1;
        c[3][i] = (uint32_t)p;
    }
}

static void philox(uint32_t c[4][LANES], const uint32_t key[2]) {
    uint32_t key0 = key[0], key1 = key[1];
    for (int round = 0; round < ROUNDS; round++) {
        one_round(c, key0, key1);
        key0 += 0x9E3779B9u;  // the golden ratio
        key1 += 0xBB67AE85u;  // sqrt(3) - 1
    }
}

static void do_blocks(void *context, int64_t begin, int64_t end) {
    const request *r = context;
    for (int64_t b = begin; b < end; b += LANES) {
        uint32_t c[4][LANES], words[4 * LANES];
        for (int i = 0; i < LANES; i++) {
            uint64_t counter = r->counter + (uint64_t)(b + i);
            c[0][i] = (uint32_t)counter;
            c[1][i] = (uint32_t)(counter >> 32);
            c[2][i] = c[3][i] = 0;
        }
        philox(c, r->key);
        for (int i = 0; i < LANES; i++)
            for (int w = 0; w < 4; w++) words[4 * i + w] = c[w][i];
        int64_t last = 4 * (end < b + LANES ? end : b + LANES);
        if (last > r->n) last = r->n;
        memcpy(r->bits + 4 * b, words, (size_t)(last - 4 * b) * 4);
    }
}

void PN_KERNEL(random)(const pn_args *args) {
    const int64_t *w = args->words;
    const uint32_t *state = (const uint32_t *)args->buffers[2] + w[2];
    uint32_t *next = args->buffers[1];
    uint64_t counter = state[2] | (uint64_t)state[3] << 32;
    request r = {.bits = args->buffers[0], .n = w[0], .counter = counter,
                 .key = {state[0], state[1]}};
    counter += (uint64_t)w[1];
    next[0] = r.key[0], next[1] = r.key[1];
    next[2] = (uint32_t)counter, next[3] = (uint32_t)(counter >> 32);
    pn_parallel_for((w[0] + 3) / 4, PIECE, do_blocks, &r);
}
