// Locks, threads, conditions and clocks: POSIX, or Windows through a thin shim.
#ifndef PN_PLATFORM_H
#define PN_PLATFORM_H
#include <stdint.h>

#ifdef _WIN32
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#include <windows.h>
typedef SRWLOCK pn_mutex;
typedef CONDITION_VARIABLE pn_condition;
#define PN_MUTEX_INIT SRWLOCK_INIT
#define PN_CONDITION_INIT CONDITION_VARIABLE_INIT
static inline void pn_lock(pn_mutex *m) { AcquireSRWLockExclusive(m); }
static inline void pn_unlock(pn_mutex *m) { ReleaseSRWLockExclusive(m); }
static inline void pn_wait(pn_condition *c, pn_mutex *m) {
    SleepConditionVariableSRW(c, m, INFINITE, 0);
}
static inline void pn_wake_all(pn_condition *c) { WakeAllConditionVariable(c); }
static inline void pn_yield(void) { SwitchToThread(); }
static inline int64_t pn_now_ns(void) {
    LARGE_INTEGER count, rate;
    QueryPerformanceCounter(&count);
    QueryPerformanceFrequency(&rate);
    return (int64_t)((double)count.QuadPart * 1e9 / (double)rate.QuadPart);
}
#define PN_THREAD_BODY(name, arg) static DWORD WINAPI name(LPVOID arg)
static inline int pn_start_thread(LPTHREAD_START_ROUTINE body, void *arg) {
    HANDLE handle = CreateThread(NULL, 0, body, arg, 0, NULL);
    if (!handle) return 0;
    CloseHandle(handle);
    return 1;
}
#else
#include <pthread.h>
#include <sched.h>
#include <time.h>
typedef pthread_mutex_t pn_mutex;
typedef pthread_cond_t pn_condition;
#define PN_MUTEX_INIT PTHREAD_MUTEX_INITIALIZER
#define PN_CONDITION_INIT PTHREAD_COND_INITIALIZER
static inline void pn_lock(pn_mutex *m) { pthread_mutex_lock(m); }
static inline void pn_unlock(pn_mutex *m) { pthread_mutex_unlock(m); }
static inline void pn_wait(pn_condition *c, pn_mutex *m) { pthread_cond_wait(c, m); }
static inline void pn_wake_all(pn_condition *c) { pthread_cond_broadcast(c); }
static inline void pn_yield(void) { sched_yield(); }
static inline int64_t pn_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
#define PN_THREAD_BODY(name, arg) static void *name(void *arg)
static inline int pn_start_thread(void *(*body)(void *), void *arg) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, body, arg)) return 0;
    pthread_detach(thread);
    return 1;
}
#endif

static inline void pn_pause(void) {
#if defined(__x86_64__) || defined(_M_X64)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}
#endif
