// What every C kernel sees: its arguments, the levels, and the parallel loop.
// A kernel is one file of its stem, compiled once for each instruction-set level, that
// defines PN_KERNEL(stem). Nothing here includes Python.h.
#ifndef PN_H
#define PN_H
#include <stdbool.h>
#include <stdint.h>

// Storage types, as in portanet/dtypes.py.
enum { PN_BOOL, PN_UINT8, PN_INT32, PN_UINT32, PN_INT64, PN_FLOAT16, PN_BFLOAT16,
       PN_FLOAT32, PN_FLOAT64 };

// Faults, as in portanet/program.py; code 0 is none.
typedef struct { int64_t code, value, size; } pn_fault;

typedef struct {
    const int64_t *words;        // as portanet/program.py lays them out
    void *const *buffers;        // outputs, then inputs
    const int *dtypes;           // storage type of each buffer
    const char *const *options;  // Program.options, then NULL
    pn_fault *fault;             // pn_set_fault keeps the first in index order
    const void *code;            // pn_code, of no operands if there is no expression
} pn_args;

// A kernel: void PN_KERNEL(stem)(const pn_args *args).
typedef void (*pn_kernel_fn)(const pn_args *args);

// Reports bad data at element `index` of the launch's work. Of several reports, from any
// threads, the one of the lowest index stays.
void pn_set_fault(const pn_args *args, int64_t index, int64_t code, int64_t value,
                  int64_t size);
enum { PN_INDEX_OUT_OF_RANGE = 1, PN_NAN_TO_INTEGER = 2, PN_NO_SCRATCH = 3 };

#define PN_PASTE2(a, b) a##b
#define PN_PASTE(a, b) PN_PASTE2(a, b)
// PN_LEVEL is base, v3, v4 (x86-64) or base (elsewhere), given by the build.
#define PN_KERNEL(stem) PN_PASTE(pn_##stem##_, PN_LEVEL)
// For symbols shared by the kernels of one level.
#define PN_LEVELED(name) PN_PASTE(name##_, PN_LEVEL)

// Runs fn(context, begin, end) over [0, n) in pieces of at least `grain`. The pieces are
// not part of any result: fn must give the same whatever they are.
typedef void (*pn_range_fn)(void *context, int64_t begin, int64_t end);
void pn_parallel_for(int64_t n, int64_t grain, pn_range_fn fn, void *context);
int pn_num_threads(void);

// Scratch memory from the pool, aligned to 64 bytes; NULL if there is none. pn_free takes
// the size that pn_alloc was asked for.
void *pn_alloc(int64_t nbytes);
void pn_free(void *memory, int64_t nbytes);
#endif
