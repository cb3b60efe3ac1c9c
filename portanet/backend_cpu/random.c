// bits[4 b + w] = word w of philox(counter + b, 0, 0; key), and state' = state with the
// counter `blocks` further.
//
// Philox4x32-10, see philox.h. Work is divided by blocks of 4 words.
//
// words: n, blocks, state_offset
// buffers: bits uint32[n], new state uint32[4], state uint32[4] (key0, key1, counter_low,
//          counter_high)
#include "convert.h"
#include "philox.h"

#define PIECE ((int64_t)1 << 12)  // blocks worth a thread, about 10 us

typedef struct {
    uint32_t *bits;
    int64_t n;
    uint32_t key[2];
    uint64_t counter;
} request;

static void do_blocks(void *context, int64_t begin, int64_t end) {
    const request *r = context;
    for (int64_t b = begin; b < end; b += PHILOX_LANES) {
        uint32_t words[4 * PHILOX_LANES];
        philox(r->key, r->counter + (uint64_t)b, words);
        int64_t last = 4 * (end < b + PHILOX_LANES ? end : b + PHILOX_LANES);
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
