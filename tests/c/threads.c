// The pool under ThreadSanitizer: several callers, nested loops, forks of memory,
// faults.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "memory.h"
#include "threads.h"

#include <pthread.h>

enum { N = 20000, ROUNDS = 300, CALLERS = 3 };

static void add_one(void *context, int64_t begin, int64_t end) {
    int *x = context;
    for (int64_t i = begin; i < end; i++) x[i]++;
}

static void nested(void *context, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++)
        pn_parallel_for(100, 10, add_one, (int *)context + 100 * i);
}

static void find_faults(void *context, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++)
        if (i >= 77) pn_set_fault(context, i, 1, i, 0);
}

static void check(int is_right, const char *what) {
    if (is_right) return;
    fprintf(stderr, "threads: wrong: %s\n", what);
    exit(1);
}

static void *caller(void *unused) {
    (void)unused;
    for (int round = 0; round < ROUNDS; round++) {
        int *x = pn_alloc(N * sizeof *x);
        memset(x, 0, N * sizeof *x);
        pn_parallel_for(N, 100, add_one, x);
        pn_parallel_for(N / 100, 1, nested, x);
        for (int i = 0; i < N; i++) check(x[i] == 2, "every element twice");
        pn_free(x, N * sizeof *x);
        pn_fault_record record = {{0, 0, 0}, 0};
        pn_args args = {.fault = &record.fault};
        pn_parallel_for(1000, 10, find_faults, &args);
        check(record.fault.value == 77, "the first fault");
    }
    return NULL;
}

int main(void) {
    pthread_t threads[CALLERS];
    pn_set_num_threads(4);
    for (int k = 0; k < CALLERS; k++) pthread_create(&threads[k], NULL, caller, NULL);
    for (int k = 0; k < CALLERS; k++) pthread_join(threads[k], NULL);
    check(pn_memory().used == 0, "all memory given back");
    puts("threads: ok");
    return 0;
}
