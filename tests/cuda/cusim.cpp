// The runtime of cusim.h: one fiber a CUDA thread, one block at a time.
//
// Fibers switch at barriers and warp operations only; each warp runs ahead to its next
// block barrier. CUSIM_ORDER (forward, reverse, or the seed of a random order) sets the
// order of blocks, warps and lanes, so a kernel that misses a barrier gives other results
// in another order. Shared memory holds NaN before it is written. Copies by cp.async land
// when they are waited for, not before.
//
// A launch stops with a message (cusim_error) at a divergent barrier, a deadlock, and at a
// warp operation whose mask names lanes that left or that wait elsewhere. Built with
// -fsanitize=address, shared memory has bounds too. Not shown: races between blocks that
// are resident together, memory order, speed.
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)0)
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)0)
#endif

#include "cusim.h"
#include "cusim_tma.h"

namespace cusim {

constexpr size_t STACK = 64 * 1024;       // bytes of a fiber's stack
constexpr size_t ARENA = 256 * 1024;      // room for shared memory, of either kind
constexpr size_t STATIC_MAX = 48 * 1024;  // CUDA's limit, static
constexpr size_t DYNAMIC_MAX = 227 * 1024;  // and dynamic (sm_90, the largest)
constexpr unsigned WARP = CUSIM_WARP;

// --- Fibers ------------------------------------------------------------------------

enum State : uint8_t { RUNNING, AT_BARRIER, AT_WARP, AT_NAMED, AT_PHASE, DONE };

struct Copy { void *to; const void *from; unsigned bytes, kept; };  // of cp.async

// An mbarrier: its phase ends when all have arrived and all bytes have come.
struct Phase { unsigned arrivals : 15, left : 16, parity : 1; int bytes; };
// A box between memory and shared memory, under the 128-byte swizzle.
struct Box { cusim_map map; char *shared; Phase *barrier; int place[3]; };

struct Fiber : cusim_thread {
    unsigned warp;
    State state;
    unsigned named, threads;   // the named barrier that it waits at, and for how many
    const Phase *phase;        // what it waits for, and the parity of its end
    unsigned parity_awaited;
    std::vector<std::vector<cusim_product>> products;  // groups; the last is open
    bool may_multiply;                                 // since wgmma.fence
    std::vector<std::vector<Box>> stores;
    bool has_unseen;  // writes to shared memory that the TMA may not see
    uint8_t parity;  // which of the warp's two slots is in use
    unsigned mask;   // of the warp operation that it waits in
    int line;        // where it waits
    std::vector<std::vector<Copy>> copies;  // groups; the last is open
    char *stack;
#if defined(__x86_64__)
    void *stack_pointer;
#else
    ucontext_t context;
#endif
};

// What lanes hand each other. Two of each: a lane may be one exchange ahead.
struct Warp { alignas(16) char slot[2][WARP][CUSIM_SLOT]; };

struct Variable { const void *key; char *memory; };

struct Block : cusim_block {
    char *arena;
    size_t used, static_bytes, dynamic_bytes;
    std::vector<Variable> variables;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::vector<unsigned> warp_order, lane_order;
    void (*call)(void *kernel, void **arguments);
    void *kernel, **arguments;
    uint64_t barriers;
    unsigned counts[2];  // of __syncthreads_count, one a parity
    std::vector<Box> loads;  // under way
    bool has_unseen;         // such writes of a thread that has passed a barrier since
    bool failed;
#if defined(__x86_64__)
    void *stack_pointer;
#else
    ucontext_t context;
#endif
};

static char error[256];

inline Fiber &self() { return *(Fiber *)cusim_this_thread; }
inline Block &block() { return *(Block *)cusim_this_block; }

#if defined(__x86_64__)
extern "C" void cusim_switch(void **saved, void *to);
asm(R"(.text
.weak cusim_switch
.type cusim_switch,@function
cusim_switch:
 push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15
 mov %rsp,(%rdi); mov %rsi,%rsp
 pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp; ret
.size cusim_switch,.-cusim_switch
)");
inline void leave(Fiber &f) { cusim_switch(&f.stack_pointer, block().stack_pointer); }
inline void enter(Fiber &f) { cusim_switch(&block().stack_pointer, f.stack_pointer); }
#else
inline void leave(Fiber &f) { swapcontext(&f.context, &block().context); }
inline void enter(Fiber &f) { swapcontext(&block().context, &f.context); }
#endif

inline void fail(const char *what, int line, int other = 0) {
    const uint3 b = block().place, t = self().place;
    snprintf(error, sizeof error, "%s (block %u,%u,%u thread %u,%u,%u line %d%s%d)", what,
             b.x, b.y, b.z, t.x, t.y, t.z, line, other ? " and " : ".", other);
    block().failed = true;
}

// Fails in the middle of a kernel: the fiber does not go on.
[[noreturn]] inline void die(const char *what, int line = 0) {
    fail(what, line);
    leave(self());
    abort();
}

inline void entry() {
    Block &b = block();
    b.call(b.kernel, b.arguments);
    if (self().stores.size() > 1 || !self().stores[0].empty())
        die("a thread left before its stores of boxes were waited for");
    if (self().products.size() > 1 || !self().products[0].empty())
        die("a thread left before its products were waited for");
    self().state = DONE;
    leave(self());
    abort();
}

inline void arm(Fiber &f) {
    f.state = RUNNING, f.parity = 0, f.line = 0;
    f.copies.assign(1, {});
    f.products.assign(1, {});
    f.stores.assign(1, {});
    f.may_multiply = f.has_unseen = false;
    ASAN_UNPOISON_MEMORY_REGION(f.stack, STACK);  // of a fiber that was left
#if defined(__x86_64__)
    void **top = (void **)(f.stack + STACK);
    *--top = nullptr;        // keeps the stack aligned as after a call
    *--top = (void *)entry;  // where the first switch returns to
    top -= 6;                // the registers that it pops
    memset(top, 0, 6 * sizeof *top);
    f.stack_pointer = top;
#else
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack;
    f.context.uc_stack.ss_size = STACK;
    f.context.uc_link = nullptr;
    makecontext(&f.context, entry, 0);
#endif
}

inline void park(State state, int line, unsigned mask = 0) {
    Fiber &f = self();
    f.state = state, f.line = line, f.mask = mask;
    leave(f);
}

// --- Shared memory -----------------------------------------------------------------

// One address for each declaration in each block, with room between them that
// AddressSanitizer watches.
inline void *shared(const void *key, size_t bytes) {
    Block &b = block();
    for (auto &v : b.variables)
        if (v.key == key) return v.memory;
    char *memory = b.arena + b.used;
    b.used += (bytes + 16 + 1023) & ~(size_t)1023;
    b.static_bytes += bytes;
    if (b.used > ARENA || b.static_bytes > STATIC_MAX)
        die("more than 48 KiB of static shared memory");
    b.variables.push_back({key, memory});
    ASAN_UNPOISON_MEMORY_REGION(memory, bytes);
    memset(memory, 0xff, bytes);
    return memory;
}

// --- Scheduling --------------------------------------------------------------------

// Lets lanes go on whose whole mask has arrived. Returns whether there were any.
inline bool release_warp(Block &b, unsigned first, unsigned end) {
    bool released = false;
    for (unsigned i = first; i < end && !b.failed; ++i) {
        Fiber &f = b.fibers[i];
        if (f.state != AT_WARP) continue;
        cusim_this_thread = &f;
        const unsigned mask = f.mask;
        if (!(mask >> f.lane & 1)) fail("a lane is not in its own mask", f.line);
        bool all = true;
        for (unsigned l = 0; l < WARP && all && !b.failed; ++l) {
            if (!(mask >> l & 1)) continue;
            if (first + l >= end) {
                fail("a mask names a lane past the end of the block", f.line);
                break;
            }
            Fiber &other = b.fibers[first + l];
            if (other.state == DONE) fail("a mask names a lane that left", f.line);
            all = other.state == AT_WARP && other.mask == mask;
            if (all && other.line != f.line)
                fail("lanes of one mask are at different operations", f.line, other.line);
        }
        if (!all || b.failed) continue;
        for (unsigned l = 0; l < WARP; ++l)
            if (mask >> l & 1) {
                b.fibers[first + l].state = RUNNING;
                b.fibers[first + l].parity ^= 1;
            }
        released = true;
    }
    return released;
}

// Runs every warp until all its lanes wait at a barrier or are done.
inline void run_warps(Block &b) {
    const unsigned n = b.fibers.size();
    for (unsigned w : b.warp_order) {
        const unsigned first = w * WARP, end = first + WARP < n ? first + WARP : n;
        do {
            for (unsigned l : b.lane_order) {
                if (first + l >= end || b.fibers[first + l].state != RUNNING) continue;
                cusim_this_thread = &b.fibers[first + l];
                enter(self());
                if (b.failed) return;
            }
        } while (release_warp(b, first, end));
        if (b.failed) return;
    }
}

inline void move(const Box &box, bool is_load) {
    const cusim_map &m = box.map;
    for (unsigned z = 0; z < m.box[2]; ++z)
        for (unsigned y = 0; y < m.box[1]; ++y)
            for (unsigned x = 0; x < m.box[0]; ++x) {
                const long long at[3] = {box.place[0] + (long long)x,
                                         box.place[1] + (long long)y,
                                         box.place[2] + (long long)z};
                bool is_there = true;
                long long offset = 0;
                for (int d = 0; d < 3; ++d) {
                    is_there &= at[d] >= 0 && (unsigned long long)at[d] < m.sizes[d];
                    offset += at[d] * (long long)m.strides[d];
                }
                size_t in = ((z * m.box[1] + y) * m.box[0] + x) * m.strides[0];
                in ^= (in >> 7 & 7) << 4;
                if (is_load && is_there)
                    memcpy(box.shared + in, m.data + offset, m.strides[0]);
                else if (is_load)
                    memset(box.shared + in, 0, m.strides[0]);
                else if (is_there)
                    memcpy(m.data + offset, box.shared + in, m.strides[0]);
            }
}
inline void end_if_all(Phase &p) {
    if (p.left || p.bytes) return;
    p.left = p.arrivals, p.parity ^= 1;
}
inline void land(const Box &box) {
    move(box, true);
    box.barrier->bytes -= box.map.box[0] * box.map.box[1] * box.map.box[2] *
                          box.map.strides[0];
    end_if_all(*box.barrier);
}

// Lets threads go on that wait at a named barrier or for a phase. Whether there were any.
inline bool resume(Block &b) {
    bool any = false;
    unsigned at[16] = {};
    for (auto &f : b.fibers)
        if (f.state == AT_NAMED) ++at[f.named];
    for (auto &f : b.fibers) {
        const bool all = f.state == AT_NAMED && at[f.named] == f.threads;
        const bool over = f.state == AT_PHASE && f.phase->parity != f.parity_awaited;
        if (all || over) f.state = RUNNING, any = true;
    }
    return any;
}

inline void run_block(Block &b) {
    const unsigned n = b.fibers.size();
    for (auto &f : b.fibers) arm(f);
    b.loads.clear();
    b.has_unseen = false;
    while (!b.failed) {
        run_warps(b);
        if (b.failed) return;
        if (resume(b)) continue;
        unsigned waiting = 0, done = 0;
        int line = 0;
        for (auto &f : b.fibers) {
            done += f.state == DONE;
            if (f.state != AT_BARRIER) continue;
            cusim_this_thread = &f;
            if (waiting++ && line != f.line) return fail("divergent barrier", line, f.line);
            line = f.line;
        }
        if (!b.loads.empty()) {
            if (done == n) return fail("a box was loaded and not waited for", 0);
            land(b.loads.front());
            b.loads.erase(b.loads.begin());
            continue;
        }
        if (done == n) return;
        if (waiting + done != n) return fail("deadlock: threads wait for each other", line);
        if (done) return fail("a barrier that some threads returned before", line);
        for (auto &f : b.fibers) f.state = RUNNING;
        b.counts[++b.barriers & 1] = 0;
    }
}

inline std::vector<unsigned> order_of(size_t n) {
    std::vector<unsigned> order(n);
    for (size_t i = 0; i < n; ++i) order[i] = i;
    const char *wanted = getenv("CUSIM_ORDER");
    if (!wanted || !strcmp(wanted, "forward")) return order;
    if (!strcmp(wanted, "reverse")) return {order.rbegin(), order.rend()};
    uint64_t state = strtoull(wanted, nullptr, 10);
    for (size_t i = n; i > 1; --i) {
        // Knuth's MMIX generator.
        state = state * 6364136223846793005u + 1442695040888963407u;
        std::swap(order[i - 1], order[(state >> 33) % i]);
    }
    return order;
}

// 0, or 1 as CUDA_ERROR_INVALID_VALUE, or 719 as CUDA_ERROR_LAUNCH_FAILED.
inline int run_grid(void (*call)(void *, void **), void *kernel, dim3 grid, dim3 size,
                    size_t dynamic_bytes, void **arguments) {
    const size_t threads = (size_t)size.x * size.y * size.z;
    const size_t blocks = (size_t)grid.x * grid.y * grid.z;
    const bool fits = threads && threads <= 1024 && size.z <= 64 && blocks &&
                      grid.x <= INT_MAX && grid.y <= 65535 && grid.z <= 65535;
    if (!fits || dynamic_bytes > DYNAMIC_MAX) {
        snprintf(error, sizeof error, "a launch of %u,%u,%u blocks of %u,%u,%u", grid.x,
                 grid.y, grid.z, size.x, size.y, size.z);
        return 1;
    }
    static char *stacks, *arena;
    if (!stacks) {
        stacks = (char *)mmap(nullptr, STACK * 1024, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        arena = (char *)aligned_alloc(1024, 2 * ARENA);
        if (stacks == MAP_FAILED || !arena) abort();
    }
    Block b{};
    b.grid = grid, b.size = size, b.call = call, b.kernel = kernel, b.arguments = arguments;
    b.arena = arena, b.dynamic = arena + ARENA, b.dynamic_bytes = dynamic_bytes;
    b.fibers.resize(threads);
    b.warps.resize((threads + WARP - 1) / WARP);
    b.warp_order = order_of(b.warps.size());
    b.lane_order = order_of(WARP);
    for (unsigned i = 0; i < threads; ++i) {
        Fiber &f = b.fibers[i];
        f.place = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
        f.lane = i % WARP, f.warp = i / WARP, f.stack = stacks + STACK * i;
    }
    for (unsigned k : order_of(blocks)) {
        b.place = {k % grid.x, k / grid.x % grid.y, k / grid.x / grid.y};
        b.used = b.static_bytes = 0;
        b.variables.clear();
        ASAN_UNPOISON_MEMORY_REGION(b.dynamic, ARENA);
        memset(b.dynamic, 0xff, dynamic_bytes);
        ASAN_POISON_MEMORY_REGION(b.arena, ARENA);
        ASAN_POISON_MEMORY_REGION(b.dynamic + dynamic_bytes, ARENA - dynamic_bytes);
        cusim_this_block = &b;
        run_block(b);
        cusim_this_block = nullptr;
        if (b.failed) break;
    }
    ASAN_UNPOISON_MEMORY_REGION(arena, 2 * ARENA);
    return b.failed ? 719 : 0;
}

}  // namespace cusim

using namespace cusim;

cusim_thread *cusim_this_thread;
cusim_block *cusim_this_block;

const char *cusim_error() { return cusim::error; }

void cusim_barrier(int line) { park(AT_BARRIER, line); }

unsigned cusim_count(bool vote, int line) {
    const unsigned which = block().barriers & 1;
    block().counts[which] += vote;
    park(AT_BARRIER, line);
    return block().counts[which];
}

void cusim_warp_barrier(unsigned mask, int line) { park(AT_WARP, line, mask); }

const char *cusim_exchange(unsigned mask, const void *value, cusim_size bytes, int line) {
    Fiber &f = self();
    auto *slots = block().warps[f.warp].slot[f.parity];
    memcpy(slots[f.lane], value, bytes);
    park(AT_WARP, line, mask);
    return slots[0];
}

void *cusim_shared(const void *key, cusim_size bytes) { return shared(key, bytes); }

void cusim_copy_later(void *to, const void *from, unsigned bytes, unsigned kept) {
    self().copies.back().push_back({to, from, bytes, kept});
}
void cusim_commit() { self().copies.push_back({}); }
void cusim_land(unsigned groups_left) {
    auto &groups = self().copies;
    while (groups.size() > groups_left + 1u) {
        for (const Copy &c : groups.front()) {
            if (c.kept) memcpy(c.to, c.from, c.kept);
            memset((char *)c.to + c.kept, 0, c.bytes - c.kept);
        }
        groups.erase(groups.begin());
    }
}

unsigned cusim_shared_at(const void *p) {
    const size_t at = (const char *)p - block().dynamic;
    if (at >= ARENA) die("an address outside shared memory");
    return (unsigned)at;
}
const char *cusim_shared_from(unsigned at) { return block().dynamic + at; }

void cusim_phase_init(void *barrier, unsigned arrivals) {
    *(Phase *)barrier = {arrivals, arrivals, 0, 0};
}
void cusim_phase_arrive(void *barrier, unsigned bytes, int line) {
    Phase &p = *(Phase *)barrier;
    if (!p.left) die("an arrival too many in a phase", line);
    p.left -= 1, p.bytes += (int)bytes;
    end_if_all(p);
}
void cusim_phase_wait(void *barrier, unsigned parity, int line) {
    Fiber &f = self();
    f.phase = (const Phase *)barrier, f.parity_awaited = parity;
    if (f.phase->parity == parity) park(AT_PHASE, line);
}

static Box box_of(const void *map, const void *shared, int x, int y, int z, int line) {
    Box box{{}, (char *)shared, nullptr, {x, y, z}};
    memcpy(&box.map, map, sizeof box.map);
    if (box.map.magic != CUSIM_MAP) die("a tensor map that nobody encoded", line);
    if (cusim_shared_at(shared) % 1024) die("a box whose swizzle would be another", line);
    return box;
}
void cusim_tensor_load(void *to, const void *map, void *barrier, int x, int y, int z) {
    Box box = box_of(map, to, x, y, z, 0);
    box.barrier = (Phase *)barrier;
    const char *order = getenv("CUSIM_ORDER");
    if (order && !strcmp(order, "reverse"))
        land(box);
    else
        block().loads.push_back(box);
}
void cusim_tensor_store(const void *map, const void *from, int x, int y, int z, int line) {
    if (self().has_unseen || block().has_unseen)
        die("a box is stored before what was written can be seen", line);
    self().stores.back().push_back(box_of(map, from, x, y, z, line));
}
void cusim_store_commit() { self().stores.push_back({}); }
void cusim_store_wait() {
    auto &stores = self().stores;
    for (; stores.size() > 1; stores.erase(stores.begin()))
        for (const Box &box : stores.front()) move(box, false);
}
void cusim_async_fence() { self().has_unseen = false; }
void cusim_wrote_shared() { self().has_unseen = true; }
void cusim_named_barrier(unsigned id, unsigned threads, int line) {
    self().named = id, self().threads = threads;
    block().has_unseen |= self().has_unseen;
    park(AT_NAMED, line);
}

void cusim_product_later(const cusim_product *p) {
    if (!self().may_multiply) die("wgmma without a fence after its sums were used");
    self().products.back().push_back(*p);
}
void cusim_product_fence() { self().may_multiply = true; }
void cusim_product_commit() { self().products.push_back({}); }
void cusim_product_wait(unsigned groups_left) {
    auto &groups = self().products;
    for (; groups.size() > groups_left + 1u; groups.erase(groups.begin()))
        for (const cusim_product &p : groups.front()) p.run(p);
    if (!groups_left) self().may_multiply = false;
}

// 0, or 1 as CUDA_ERROR_INVALID_VALUE: cuTensorMapEncodeTiled of three axes and the
// 128-byte swizzle, with the rules that it has.
int cusim_encode(void *map, void *data, unsigned itemsize, const unsigned long long *sizes,
                 const unsigned long long *strides, const unsigned *box) {
    cusim_map m{CUSIM_MAP, (char *)data, {}, {itemsize, strides[0], strides[1]}, {}};
    if ((size_t)map % 64 || (size_t)data % 16 || box[0] * itemsize > 128) return 1;
    for (int d = 0; d < 3; ++d) {
        m.sizes[d] = sizes[d], m.box[d] = box[d];
        if (!sizes[d] || sizes[d] > 1ull << 32 || !box[d] || box[d] > 256) return 1;
    }
    for (int d = 1; d < 3; ++d)
        if (m.strides[d] % 16 || m.strides[d] >= 1ull << 40) return 1;
    memcpy(map, &m, sizeof m);
    return 0;
}

int cusim_launch(void (*call)(void *, void **), void *kernel, dim3 grid, dim3 size,
                 cusim_size dynamic, void **arguments) {
    return run_grid(call, kernel, grid, size, dynamic, arguments);
}
