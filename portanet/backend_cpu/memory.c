// The memory pool: aligned blocks in size classes, kept for reuse up to a bound.
//
// Classes: multiples of 64 bytes to 1 KiB, then four to each doubling. A free block's
// first word links to the next of its class. Blocks of MAPPED bytes or more come from
// the system directly and go back to it; smaller ones come from malloc.
#include "memory.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "platform.h"
#ifndef _WIN32
#include <sys/mman.h>
#include <unistd.h>
#endif

enum { ALIGNMENT = 64, SMALL = 1024, CLASSES = 16 + 4 * 38 };
#ifdef PN_EXACT_MEMORY
#define MAPPED INT64_MAX
#else
#define MAPPED ((int64_t)1 << 20)
#endif
#define HUGE_PAGE ((int64_t)1 << 21)

typedef struct block {
    struct block *next;
} block;

static block *free_blocks[CLASSES];
static int64_t used, pooled, peak;
static atomic_flag busy = ATOMIC_FLAG_INIT;

// Held for a few nanoseconds: a spin lock costs half of a mutex.
void pn_memory_lock(void);
void pn_memory_unlock(void);
void pn_memory_lock(void) {
    for (int spins = 0; atomic_flag_test_and_set_explicit(&busy, memory_order_acquire);
         spins++)
        if (spins < 1000) pn_pause();
        else pn_yield();
}
void pn_memory_unlock(void) { atomic_flag_clear_explicit(&busy, memory_order_release); }

#ifdef PN_EXACT_MEMORY
// For sanitizers: no rounding and no reuse, so that they see every end of a block.
static int class_of(int64_t nbytes, int64_t *rounded) {
    *rounded = nbytes ? nbytes : 1;
    return 0;
}
#else
// The class of a size; *rounded is what its blocks hold.
static int class_of(int64_t nbytes, int64_t *rounded) {
    if (nbytes <= SMALL) {
        int k = nbytes <= ALIGNMENT ? 0 : (int)((nbytes - 1) / ALIGNMENT);
        *rounded = (int64_t)(k + 1) * ALIGNMENT;
        return k;
    }
    int top = 63 - __builtin_clzll((uint64_t)(nbytes - 1));  // 2^top < nbytes
    int64_t quarter = ((int64_t)1 << top) / 4;
    int64_t steps = (nbytes - 1) / quarter + 1;  // 5..8 quarters
    *rounded = steps * quarter;
    return 16 + (top - 10) * 4 + (int)(steps - 5);
}
#endif

#ifdef _WIN32
static void *from_system(int64_t nbytes) { return _aligned_malloc((size_t)nbytes, 64); }
static void to_system(void *memory, int64_t nbytes) {
    (void)nbytes;
    _aligned_free(memory);
}
static int64_t total_memory(void) {
    MEMORYSTATUSEX status = {.dwLength = sizeof status};
    return GlobalMemoryStatusEx(&status) ? (int64_t)status.ullTotalPhys : INT64_MAX;
}
#else
static void *from_system(int64_t nbytes) {
    void *memory = NULL;
    if (nbytes < MAPPED)
        return posix_memalign(&memory, ALIGNMENT, (size_t)nbytes) ? NULL : memory;
    memory = mmap(NULL, (size_t)nbytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return NULL;
#ifdef MADV_HUGEPAGE
    // Fewer page faults: 2 MB at a time instead of 4 KB.
    if (nbytes >= 2 * HUGE_PAGE) madvise(memory, (size_t)nbytes, MADV_HUGEPAGE);
#endif
    return memory;
}
static void to_system(void *memory, int64_t nbytes) {
    if (nbytes < MAPPED) free(memory);
    else munmap(memory, (size_t)nbytes);
}
// The least of the machine's memory and the control group's limit.
static int64_t total_memory(void) {
    int64_t total = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    long long group = 0;
    FILE *file = fopen("/sys/fs/cgroup/memory.max", "r");
    if (!file) return total;
    if (fscanf(file, "%lld", &group) == 1 && group > 0 && group < total) total = group;
    fclose(file);
    return total;
}
#endif

int64_t pn_physical_memory(void) {
    static _Atomic int64_t known;
    int64_t total = atomic_load_explicit(&known, memory_order_relaxed);
    if (!total) atomic_store(&known, total = total_memory());
    return total;
}

// Free bytes that the pool keeps: an eighth of the machine.
#ifdef PN_EXACT_MEMORY
static int64_t keep_bound(void) { return 0; }
#else
static int64_t keep_bound(void) { return pn_physical_memory() / 8; }
#endif

static void count_use(int64_t nbytes) {
    used += nbytes;
    if (used > peak) peak = used;
}

void *pn_alloc(int64_t nbytes) {
    int64_t rounded;
    if (nbytes < 0 || nbytes > (int64_t)1 << 46) return NULL;
    int k = class_of(nbytes, &rounded);
    pn_memory_lock();
    block *found = free_blocks[k];
    if (found) {
        free_blocks[k] = found->next;
        pooled -= rounded;
        count_use(rounded);
        pn_memory_unlock();
        return found;
    }
    pn_memory_unlock();
    void *memory = from_system(rounded);
    if (!memory) return NULL;
    pn_memory_lock();
    count_use(rounded);
    pn_memory_unlock();
    return memory;
}

void pn_free(void *memory, int64_t nbytes) {
    if (!memory) return;
    int64_t rounded, bound = keep_bound();
    int k = class_of(nbytes, &rounded);
    pn_memory_lock();
    used -= rounded;
    int is_kept = pooled + rounded <= bound;
    if (is_kept) {
        ((block *)memory)->next = free_blocks[k];
        free_blocks[k] = memory;
        pooled += rounded;
    }
    pn_memory_unlock();
    if (!is_kept) to_system(memory, rounded);
}

static int64_t class_size(int k) {
    if (k < 16) return (int64_t)(k + 1) * ALIGNMENT;
    return ((int64_t)256 << ((k - 16) / 4)) * (5 + (k - 16) % 4);
}

void pn_trim(void) {
    for (int k = 0; k < CLASSES; k++) {
        pn_memory_lock();
        block *first = free_blocks[k];
        free_blocks[k] = NULL;
        for (block *b = first; b; b = b->next) pooled -= class_size(k);
        pn_memory_unlock();
        while (first) {
            block *next = first->next;
            to_system(first, class_size(k));
            first = next;
        }
    }
}

pn_memory_numbers pn_memory(void) {
    pn_memory_lock();
    pn_memory_numbers numbers = {used, used + pooled, peak};
    pn_memory_unlock();
    return numbers;
}

void pn_reset_peak(void) {
    pn_memory_lock();
    peak = used;
    pn_memory_unlock();
}
