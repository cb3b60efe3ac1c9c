// y[r, q] = how many elements of the ascending row r of x are below v[r, q] ("left"), or
// not above it ("right"). NaN is above all.
//
// words: n (of y), count (v of a row), size (x of a row), x_offset, x_row, x_step,
//        v_offset, v_row, v_step; y contiguous (rows, count), int32.
// options: left | right
#include "order.h"

#define PIECE ((int64_t)1 << 10)  // searches worth a thread: each takes about 50 ns

typedef struct {
    const pn_args *args;
    bool is_right;
} search;

static uint64_t key_at(const pn_args *args, int input, int64_t at) {
    uint64_t key = 0;
    pn_load_keys_64(&key, args->buffers[1 + input], args->dtypes[1 + input], at, 1, 1);
    return key;
}

static void do_searches(void *context, int64_t begin, int64_t end) {
    const search *s = context;
    const int64_t *w = s->args->words;
    int32_t *y = s->args->buffers[0];
    for (int64_t e = begin; e < end; e++) {
        int64_t row = e / w[1], low = 0, high = w[2];
        uint64_t key = key_at(s->args, 1, w[6] + row * w[7] + e % w[1] * w[8]);
        while (low < high) {
            int64_t middle = low + (high - low) / 2;
            uint64_t other = key_at(s->args, 0, w[3] + row * w[4] + middle * w[5]);
            if (other < key || (s->is_right && other == key)) low = middle + 1;
            else high = middle;
        }
        y[e] = (int32_t)low;
    }
}

void PN_KERNEL(search)(const pn_args *args) {
    search s = {args, !strcmp(args->options[0], "right")};
    pn_parallel_for(args->words[0], PIECE, do_searches, &s);
}
