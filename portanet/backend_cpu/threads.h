// The thread pool's controls, for module.c; kernels see pn.h only.
#ifndef PN_THREADS_H
#define PN_THREADS_H
#include "pn.h"

// A fault with the index of its element; pn_args.fault points to its first member.
typedef struct {
    pn_fault fault;
    int64_t index;
} pn_fault_record;

void pn_set_num_threads(int count);
#endif
