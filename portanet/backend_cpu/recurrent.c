// A recurrent layer over a whole sequence: the products with the state, and the cells.
//
// forward, for step t and the state h[t] (h[0] is given):
//   tanh, relu:  h[t + 1] = act(x[t] + b + h[t] w^T)
//   lstm:  i, f, g, o = act(x[t] + b + h[t] w^T), act = sigmoid, but tanh for g
//          c[t + 1] = f c[t] + i g,  h[t + 1] = o tanh(c[t + 1])
//   gru:   r, z = sigmoid(x[t] + b + h[t] w^T),  q = b_q + h[t] w_n^T
//          n = tanh(x_n[t] + b_n + r q),  h[t + 1] = (1 - z) n + z h[t]
// backward: the gradients of what goes into the cells, from the last step to the first,
// and those of h[0] (and c[0]).
//
// The weights are packed once. Each step is one parallel loop over units, blocks of
// UNIT elements of the state: the sums of a unit's gates stay in registers and L1 and go
// into the cell at once. Forward a thread takes the same units at each step, so that its
// part of the weights stays in its cache. Backward it takes the same rows of the batch where
// all weights are near: the gradients that units would exchange are as many as the gates
// of the state, and cores that share no cache exchange slowly. Sums run in an order that
// the sizes fix.
//
// words and buffers: program.py.
#include <string.h>
#include "convert.h"
#include "scalar.h"
#include "vectors.h"

// Rows of the batch whose sums, by 2 vectors, fit the registers: 32 of 64 bytes, 16 of
// 32, 32 of 16 (arm), 16 of 16.
#if defined(__AVX512F__)
#define TILE_ROWS 14
#define EACH_HEIGHT(F) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11) F(12) \
    F(13) F(14)
#elif defined(__aarch64__)
#define TILE_ROWS 12
#define EACH_HEIGHT(F) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11) F(12)
#elif defined(__AVX2__)
#define TILE_ROWS 6
#define EACH_HEIGHT(F) F(1) F(2) F(3) F(4) F(5) F(6)
#else
#define TILE_ROWS 4
#define EACH_HEIGHT(F) F(1) F(2) F(3) F(4)
#endif
#define TILE_VECTORS 2
#define PIECE ((int64_t)1 << 17)  // multiply-adds worth a thread: about 3 us of a core
#define MAX_GATES 4
#define RESIDENT ((int64_t)4 << 20)  // bytes of weights that a core can read at each step

enum { TANH, RELU, LSTM, GRU };

typedef struct {
    const pn_args *args;
    int cell;
    int64_t steps, rows, size;
    int64_t gates;   // products with the state: rows of w / size
    int64_t kept;    // values a cell keeps of each element for the way back
    int64_t depth;   // elements of a row of `state`
    int64_t stride;  // of the rows of `state`: not of a power of 2, for the cache's sets
    int64_t units;           // blocks of the state
    int64_t groups, height;  // blocks of the batch, and the rows of one
    bool wants_first;        // backward: the gradient of the first state
    bool by_unit;            // whether pieces are numbered by unit first, or by group
    void *panels;    // weights: [unit][gate][l][UNIT]
    void *state[2];  // what the weights are multiplied with, of this step and the last
    int64_t step;
    const void *in[6];  // inputs at their offsets
} recurrence;

static int cell_of(const char *name) {
    return !strcmp(name, "tanh") ? TANH : !strcmp(name, "relu") ? RELU
         : !strcmp(name, "lstm") ? LSTM : GRU;
}

// Gates: shorter than the operators of scalar.h. In float, sigmoid is within 2 ulp, off by
// e^-87 where the exact value is less; tanh, e / (e + 2) for e = e^2x - 1, within 2.6 ulp.
static inline float sigmoid_f32(float x) { return 1 / (1 + pn_exp_normal_float32(-x)); }
static inline double sigmoid_f64(double x) {
    double e = exp(-fabs(x));
    return (x >= 0 ? 1 : e) / (1 + e);
}
static inline float tanh_f32(float x) {
    float a = fabsf(x), y = a > 9.05f ? 9.05f : a;
    pn_scaled s = pn_exp_scaled(2 * y);
    float two_k = pn_power_of_two_float32(s.k), e = two_k * s.q + (two_k - 1);
    return copysignf(e / (e + 2), x);
}
static inline double tanh_f64(double x) { return tanh(x); }

#define T float
#define TYPE(name) name##_f32
#define FMA FMA_F32
#define TRANSPOSE TRANSPOSE_8X8
#include "recurrent_steps.h"

#define T double
#define TYPE(name) name##_f64
#define FMA FMA_F64
#define TRANSPOSE TRANSPOSE_4X4
#include "recurrent_steps.h"

void PN_KERNEL(recurrent)(const pn_args *args) {
    const int64_t *w = args->words;
    recurrence r = {.args = args, .cell = cell_of(args->options[0]),
                    .steps = w[0], .rows = w[1], .size = w[2]};
    r.gates = r.cell == LSTM ? 4 : r.cell == GRU ? 3 : 1;
    r.kept = r.cell >= LSTM ? 4 : 1;
    r.groups = divided_up(r.rows, TILE_ROWS);
    r.height = divided_up(r.rows, r.groups);
    bool is_forward = args->options[1][0] == 'f';
    r.wants_first = args->options[1][0] == 'b';
    if (args->dtypes[0] == PN_FLOAT64)
        run_f64(&r, is_forward);
    else
        run_f32(&r, is_forward);
}
