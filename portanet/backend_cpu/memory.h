// The pool's numbers and controls, for module.c; kernels see pn.h only.
#ifndef PN_MEMORY_H
#define PN_MEMORY_H
#include "pn.h"

typedef struct {
    int64_t used, reserved, peak;  // bytes in live blocks, with the pool's, most ever used
} pn_memory_numbers;

pn_memory_numbers pn_memory(void);
void pn_reset_peak(void);
void pn_trim(void);                   // gives every free block back to the system
int64_t pn_physical_memory(void);     // bytes that this process may hope for
#endif
