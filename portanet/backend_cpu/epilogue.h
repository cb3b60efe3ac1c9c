// What a kernel does to its result before it is stored: an expression, which elementwise.c
// interprets over parts of the result while they are in a cache (portanet/program.py). And
// what a reduction does to its operands before it reduces: a producer, whose only result is
// written where the reduction wants it.
#ifndef PN_EPILOGUE_H
#define PN_EPILOGUE_H
#include "vm.h"

typedef struct {
    pn_job job;
    pn_args args;
    void *buffers[PN_MAX_OPERANDS];
    int dtypes[PN_MAX_OPERANDS];
    void *held;  // where the result must be when it is run, whole and in order; or NULL
} pn_epilogue;

// The header of a launch's epilogue or producer, NULL if it has none.
static inline const pn_header *pn_epilogue_of(const pn_args *args) {
    const pn_code *code = args->code;
    return code && code->header.operands ? &code->header : NULL;
}

// Reads the words behind those of the kernel; what `e` becomes has pointers into itself.
#define PN_EPILOGUE_BEGIN PN_LEVELED(pn_epilogue_begin)
void PN_EPILOGUE_BEGIN(pn_epilogue *e, const pn_args *args, const int64_t *words);

// The same for a producer.
#define PN_PRODUCER_BEGIN PN_LEVELED(pn_producer_begin)
void PN_PRODUCER_BEGIN(pn_epilogue *e, const pn_args *args, const int64_t *words);

// Runs it over `rows` times `width` elements of the result, `step` apart, from number
// `first` on; their values are in e->held or, where that is NULL, at `result`,
// `result_step` apart; a producer writes them there. Any thread may.
#define PN_EPILOGUE_RUN PN_LEVELED(pn_epilogue_run)
void PN_EPILOGUE_RUN(const pn_epilogue *e, int64_t first, int64_t rows, int64_t width,
                     int64_t step, const void *result, int64_t result_step);
#endif
