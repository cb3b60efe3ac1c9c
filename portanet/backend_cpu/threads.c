// The thread pool behind pn_parallel_for, and the fault that a launch keeps.
//
// One job at a time. A thread begins with a share of its own, the same part of the range
// each time, as its cache holds what it wrote there in the job before; then it helps with
// the others' shares. The caller opens the job, works on it, closes it when no piece is left
// and waits for the workers that are inside. A worker that comes late finds it closed,
// so a caller never waits for one that has not begun. Workers spin for a moment after a
// job, as the next is usually microseconds away, then sleep. A second caller, or a
// caller inside a piece, runs its loop alone.
#include "threads.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "platform.h"

enum { MAX_THREADS = 256, PIECES_PER_THREAD = 4, SPIN_NS = 60000 };

static struct {
    pn_range_fn fn;
    void *context;
    int64_t n, piece;
    int shares;
} job;
// Where the next piece of a share begins; each in a cache line of its own.
static struct {
    _Alignas(64) _Atomic int64_t next;
} shares[MAX_THREADS];
static atomic_int job_open;            // whether workers may enter
static atomic_int workers_inside;
static atomic_uint generation;         // counts jobs
static atomic_int sleepers, pool_busy; // pool_busy: somebody's job is running
static int workers_started;            // changed only by the holder of pool_busy
static atomic_int limit;               // threads that a job may use; 0: not known yet
static pn_mutex sleep_lock = PN_MUTEX_INIT;
static pn_condition sleep_condition = PN_CONDITION_INIT;
static _Thread_local int inside_piece;

// The first element of a share, in whole pieces.
static int64_t share_begin(int share) {
    int64_t pieces = (job.n + job.piece - 1) / job.piece;
    int64_t begin = pieces * share / job.shares * job.piece;
    return begin < job.n ? begin : job.n;
}

static void run_pieces(int number) {
    for (int k = 0; k < job.shares; k++) {
        int share = (number + k) % job.shares;
        int64_t last = share_begin(share + 1);
        for (;;) {
            int64_t begin = atomic_fetch_add(&shares[share].next, job.piece);
            if (begin >= last) break;
            int64_t end = begin + job.piece < last ? begin + job.piece : last;
            job.fn(job.context, begin, end);
        }
    }
}

// Returns when there is a job newer than `seen`.
static unsigned next_generation(unsigned seen) {
    int64_t until = pn_now_ns() + SPIN_NS;
    do {
        for (int i = 0; i < 32; i++) {
            unsigned now = atomic_load(&generation);
            if (now != seen) return now;
            pn_pause();
        }
    } while (pn_now_ns() < until);
    pn_lock(&sleep_lock);
    atomic_fetch_add(&sleepers, 1);
    while (atomic_load(&generation) == seen) pn_wait(&sleep_condition, &sleep_lock);
    atomic_fetch_sub(&sleepers, 1);
    pn_unlock(&sleep_lock);
    return atomic_load(&generation);
}

PN_THREAD_BODY(worker, arg) {
    int number = (int)(intptr_t)arg;
    unsigned seen = 0;
    inside_piece = 1;
    for (;;) {
        seen = next_generation(seen);
        if (number >= atomic_load(&limit)) continue;
        atomic_fetch_add(&workers_inside, 1);
        if (atomic_load(&job_open)) run_pieces(number);
        atomic_fetch_sub(&workers_inside, 1);
    }
    return 0;
}

#ifdef _WIN32
static int default_threads(void) {
    int n = (int)GetActiveProcessorCount(ALL_PROCESSOR_GROUPS);
    return n > 1 ? n / 2 : 1;  // two hardware threads a core is the rule there
}
static void watch_forks(void) {}
#else
#ifdef __APPLE__
#include <sys/sysctl.h>
static int default_threads(void) {
    int n = 1;
    size_t size = sizeof n;
    return sysctlbyname("hw.physicalcpu", &n, &size, NULL, 0) ? 1 : n;
}
#else
// The lowest-numbered hardware thread of the core that `cpu` is on.
static int first_sibling(int cpu) {
    char path[96];
    int first = cpu;
    snprintf(path, sizeof path,
             "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    FILE *file = fopen(path, "r");
    if (!file) return cpu;
    if (fscanf(file, "%d", &first) != 1) first = cpu;
    fclose(file);
    return first;
}

// Cores among the processors that this process may run on.
static int default_threads(void) {
    cpu_set_t allowed, cores;
    CPU_ZERO(&cores);
    if (sched_getaffinity(0, sizeof allowed, &allowed)) return 1;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &allowed)) CPU_SET(first_sibling(cpu), &cores);
    return CPU_COUNT(&cores) ? CPU_COUNT(&cores) : 1;
}
#endif

void pn_memory_lock(void);
void pn_memory_unlock(void);

static void before_fork(void) {
    pn_lock(&sleep_lock);
    pn_memory_lock();
}

static void in_parent(void) {
    pn_memory_unlock();
    pn_unlock(&sleep_lock);
}

// The child has this thread only: it starts workers anew at its first job.
static void in_child(void) {
    pn_memory_unlock();
    pthread_mutex_init(&sleep_lock, NULL);
    pthread_cond_init(&sleep_condition, NULL);
    workers_started = 0;
    atomic_store(&workers_inside, 0);
    atomic_store(&job_open, 0);
    atomic_store(&sleepers, 0);
    atomic_store(&generation, 0);
    atomic_store(&pool_busy, 0);
    inside_piece = 0;
}

static void watch_forks(void) { pthread_atfork(before_fork, in_parent, in_child); }
#endif

int pn_num_threads(void) {
    int n = atomic_load_explicit(&limit, memory_order_relaxed);
    if (n) return n;
    pn_set_num_threads(default_threads());
    return atomic_load(&limit);
}

void pn_set_num_threads(int count) {
    atomic_store(&limit, count < 1 ? 1 : count > MAX_THREADS ? MAX_THREADS : count);
}

// Starts the workers that are missing; with fewer the job still runs.
static void start_workers(int threads) {
    static int is_watching;
    if (!is_watching) watch_forks();
    is_watching = 1;
    while (workers_started < threads - 1) {
        if (!pn_start_thread(worker, (void *)(intptr_t)(workers_started + 1))) return;
        workers_started++;
    }
}

// Pieces of at least `grain`, a few for each thread so that they end together; long
// ones begin at multiples of 64, whole cache lines of any type.
static int64_t piece_size(int64_t n, int64_t grain, int threads) {
    int64_t pieces = (int64_t)threads * PIECES_PER_THREAD;
    int64_t piece = (n + pieces - 1) / pieces;
    if (piece < grain) piece = grain;
    return piece >= 1024 ? (piece + 63) / 64 * 64 : piece;
}

static void run_job(int64_t n, int64_t piece, int threads, pn_range_fn fn,
                    void *context) {
    job.fn = fn, job.context = context, job.n = n, job.piece = piece;
    job.shares = threads;
    for (int k = 0; k < threads; k++) atomic_store(&shares[k].next, share_begin(k));
    atomic_store(&job_open, 1);
    atomic_fetch_add(&generation, 1);
    if (atomic_load(&sleepers)) {
        pn_lock(&sleep_lock);
        pn_wake_all(&sleep_condition);
        pn_unlock(&sleep_lock);
    }
    inside_piece = 1;
    run_pieces(0);
    inside_piece = 0;
    atomic_store(&job_open, 0);
    for (int spins = 0; atomic_load(&workers_inside); spins++)
        if (spins < 4096) pn_pause();
        else pn_yield();
}

void pn_parallel_for(int64_t n, int64_t grain, pn_range_fn fn, void *context) {
    if (n <= 0) return;
    if (grain < 1) grain = 1;
    int threads = pn_num_threads();
    if (n <= grain || threads == 1 || inside_piece ||
        atomic_exchange(&pool_busy, 1)) {
        fn(context, 0, n);
        return;
    }
    if (workers_started < threads - 1) start_workers(threads);
    run_job(n, piece_size(n, grain, threads), threads, fn, context);
    atomic_store(&pool_busy, 0);
}

void pn_set_fault(const pn_args *args, int64_t index, int64_t code, int64_t value,
                  int64_t size) {
    static pn_mutex fault_lock = PN_MUTEX_INIT;
    pn_fault_record *record = (pn_fault_record *)args->fault;
    pn_lock(&fault_lock);
    if (!record->fault.code || index < record->index)
        *record = (pn_fault_record){{code, value, size}, index};
    pn_unlock(&fault_lock);
}
