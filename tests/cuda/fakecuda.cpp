// A libcuda.so.1 for machines without a GPU, to test portanet's host code unmodified.
//
// Device memory is host memory, kernels run on the CPU: an entry's name ends with the name
// of its text, which is found in FAKECUDA_TEXTS and built by g++ with cusim.h. What a GPU
// would do later happens later: streams are lazy and run at a synchronisation only, so that
// host code which forgets one reads stale bytes. New memory holds NaN, freed memory other
// bytes, and what is written past the end of a block is found at the next synchronisation.
//
// Before cuInit, by the environment: FAKECUDA_GPUS (1), FAKECUDA_VERSION (13000),
// FAKECUDA_ARCH (80), FAKECUDA_MEMORY (bytes, 2 GiB), FAKECUDA_TEXTS, FAKECUDA_BUILD (the
// command that builds a text). From a test, by ctypes: fakecuda_fail, fakecuda_calls.
#include <dlfcn.h>
#include <elf.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

extern "C" const char *cusim_error();  // of cusim.cpp
extern "C" int cusim_encode(void *map, void *data, unsigned itemsize,
                            const unsigned long long *sizes,
                            const unsigned long long *strides, const unsigned *box);

using Address = unsigned long long;
using Work = std::function<void()>;

enum Result {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100,
    INVALID_DEVICE = 101, INVALID_IMAGE = 200, INVALID_CONTEXT = 201, INVALID_HANDLE = 400,
    NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700, LAUNCH_FAILED = 719,
    NOT_SUPPORTED = 801, CAPTURE_UNSUPPORTED = 900,
};

static const std::map<int, const char *> names{
    {0, "CUDA_SUCCESS"}, {1, "CUDA_ERROR_INVALID_VALUE"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY"}, {3, "CUDA_ERROR_NOT_INITIALIZED"},
    {100, "CUDA_ERROR_NO_DEVICE"}, {101, "CUDA_ERROR_INVALID_DEVICE"},
    {200, "CUDA_ERROR_INVALID_IMAGE"}, {201, "CUDA_ERROR_INVALID_CONTEXT"},
    {400, "CUDA_ERROR_INVALID_HANDLE"}, {500, "CUDA_ERROR_NOT_FOUND"},
    {600, "CUDA_ERROR_NOT_READY"}, {700, "CUDA_ERROR_ILLEGAL_ADDRESS"},
    {719, "CUDA_ERROR_LAUNCH_FAILED"}, {801, "CUDA_ERROR_NOT_SUPPORTED"},
    {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"},
};

struct Graph { std::vector<Work> works; };

struct Stream {
    int device;
    std::deque<std::pair<uint64_t, Work>> waiting;
    uint64_t put = 0, done = 0;
    Graph *capture = nullptr;
    std::map<size_t, std::vector<Address>> free;  // for allocations later in the stream
};

struct Event { Stream *stream = nullptr; uint64_t at = 0; };

struct Function {
    std::string name;
    int (*launch)(unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, size_t,
                  void **);
    int parameters;
    size_t sizes[96];
    int shared = 48 << 10;
};

struct Module {
    std::vector<char> image;
    std::map<std::string, Function> functions;
};

struct Device { size_t used = 0, reserved = 0, high = 0; };

struct Block { size_t nbytes; int device; };

static std::recursive_mutex lock;
static std::vector<Stream *> streams;
static std::vector<Device> devices;
static std::map<Address, Block> blocks;
static std::map<std::string, long> calls;
static std::map<std::string, std::pair<long, int>> failing;  // name -> (calls left, code)
static int failed;  // the error that every call gives once a kernel has failed
static thread_local int current = -1;
static const size_t GUARD = 256;

static long setting(const char *name, long otherwise) {
    const char *found = getenv(name);
    return found ? atol(found) : otherwise;
}

// Counts the call; the code that it must fail with, or 0.
static int enter(const char *name) {
    ++calls[name];
    auto found = failing.find(name);
    if (found != failing.end() && found->second.first-- <= 0) {
        const int code = found->second.second;
        failing.erase(found);
        return code;
    }
    return devices.empty() && strcmp(name, "cuInit") ? NOT_INITIALIZED : failed;
}

#define API extern "C" __attribute__((visibility("default")))
#define CALL(name, ...)                                                                \
    static int name##_body(__VA_ARGS__);                                               \
    static const char *const name##_name = #name;                                      \
    template <class... A> static int name##_call(A... a) {                             \
        std::lock_guard<std::recursive_mutex> guard(lock);                             \
        const int code = enter(name##_name);                                           \
        return code ? code : name##_body(a...);                                        \
    }

API void fakecuda_fail(const char *name, int code, long after) {
    failing[name] = {after, code};
}
API long fakecuda_calls(const char *name) { return calls[name]; }
API void fakecuda_recover() { failed = 0; }

// --- Running -----------------------------------------------------------------------

static void check_guards(Address address, const Block &block) {
    const char *p = (const char *)address;
    for (size_t i = 0; i < GUARD; ++i)
        if (p[-1 - (long)i] != 0x5A || p[block.nbytes + i] != 0x5A) {
            fprintf(stderr, "fakecuda: written outside a block of %zu bytes\n",
                    block.nbytes);
            failed = ILLEGAL_ADDRESS;
            return;
        }
}

static void run(Stream *s, uint64_t until) {
    while (!s->waiting.empty() && s->done < until) {
        auto next = std::move(s->waiting.front());
        s->waiting.pop_front();
        s->done = next.first;
        if (!failed) next.second();
    }
}

static int synchronize(Stream *s) {
    run(s, ~0ull);
    for (auto &[address, block] : blocks) check_guards(address, block);
    return failed;
}

// The default streams have the numbers 0 to 2.
static Stream *stream_of(Stream *s) {
    static std::map<int, Stream *> defaults;
    if ((uintptr_t)s > 2) return s;
    Stream *&found = defaults[current];
    if (!found) {
        found = new Stream;
        found->device = current;
        streams.push_back(found);
    }
    return found;
}

static int later(Stream *s, Work work) {
    s = stream_of(s);
    if (s->device != current) return INVALID_CONTEXT;
    if (s->capture) {
        s->capture->works.push_back(std::move(work));
        return SUCCESS;
    }
    s->waiting.emplace_back(++s->put, std::move(work));
    return SUCCESS;
}

// --- Devices -----------------------------------------------------------------------

API int cuInit(unsigned) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    if (const int code = enter("cuInit")) return code;
    const long n = setting("FAKECUDA_GPUS", 1);
    if (!n) return NO_DEVICE;
    devices.resize(n);
    return SUCCESS;
}
API int cuDriverGetVersion(int *v) { return *v = setting("FAKECUDA_VERSION", 13000), 0; }
API int cuDeviceGetCount(int *n) { return *n = devices.size(), 0; }
API int cuDeviceGet(int *device, int i) {
    if (i < 0 || i >= (int)devices.size()) return INVALID_DEVICE;
    return *device = i, 0;
}
API int cuDeviceGetName(char *name, int n, int) {
    return snprintf(name, n, "fake GPU (simulated on the CPU)"), 0;
}
static size_t memory() { return setting("FAKECUDA_MEMORY", 2l << 30); }
API int cuDeviceTotalMem(size_t *n, int) { return *n = memory(), 0; }
API int cuMemGetInfo(size_t *free, size_t *total) {
    *total = memory();
    *free = *total - (current < 0 ? 0 : devices[current].reserved);
    return SUCCESS;
}
API int cuDeviceGetAttribute(int *v, int what, int) {
    const long arch = setting("FAKECUDA_ARCH", 80);
    switch (what) {
    case 16: *v = 2; break;            // multiprocessors
    case 75: *v = arch / 10; break;
    case 76: *v = arch % 10; break;
    case 97: *v = arch >= 90 ? 227 << 10 : arch == 75 ? 64 << 10 : 99 << 10; break;
    case 115: *v = 1; break;           // memory pools
    default: *v = 0;
    }
    return SUCCESS;
}
API int cuDevicePrimaryCtxRetain(void **context, int device) {
    return *context = (void *)(uintptr_t)(device + 1), 0;
}
API int cuCtxSetCurrent(void *context) { return current = (int)(uintptr_t)context - 1, 0; }
API int cuCtxGetCurrent(void **context) {
    return *context = (void *)(uintptr_t)(current + 1), 0;
}
API int cuGetErrorName(int code, const char **name) {
    auto found = names.find(code);
    *name = found == names.end() ? "CUDA_ERROR_UNKNOWN" : found->second;
    return SUCCESS;
}
API int cuGetErrorString(int code, const char **s) { return cuGetErrorName(code, s); }

// --- Memory ------------------------------------------------------------------------

API int cuMemPoolCreate(void **pool, const void *) {
    return current < 0 ? INVALID_CONTEXT : (*pool = (void *)(uintptr_t)(current + 1), 0);
}
API int cuMemPoolDestroy(void *) { return SUCCESS; }
API int cuMemPoolSetAttribute(void *, int, void *) { return SUCCESS; }
API int cuMemPoolGetAttribute(void *pool, int what, void *value) {
    const Device &d = devices[(uintptr_t)pool - 1];
    *(uint64_t *)value = what == 5 ? d.reserved : what == 7 ? d.used : d.high;
    return SUCCESS;
}
CALL(cuMemAllocFromPoolAsync, Address *address, size_t nbytes, void *pool, Stream *s)
static int cuMemAllocFromPoolAsync_body(Address *address, size_t nbytes, void *, Stream *s) {
    if (!nbytes) return INVALID_VALUE;
    if (s->capture) return CAPTURE_UNSUPPORTED;
    Device &d = devices[s->device];
    auto &free = s->free[nbytes];
    if (!free.empty()) {
        *address = free.back();
        free.pop_back();
    } else {
        if (d.reserved + nbytes > memory()) return OUT_OF_MEMORY;
        char *p = (char *)aligned_alloc(256, (nbytes + 2 * GUARD + 255) & ~(size_t)255);
        if (!p) return OUT_OF_MEMORY;
        memset(p, 0x5A, GUARD);
        memset(p + GUARD + nbytes, 0x5A, GUARD);
        *address = (Address)(p + GUARD);
        d.reserved += nbytes;
    }
    blocks[*address] = {nbytes, s->device};
    d.used += nbytes;
    d.high = std::max(d.high, d.used);
    return later(s, [p = (void *)*address, nbytes] { memset(p, 0xFF, nbytes); });
}
API int cuMemAllocFromPoolAsync(Address *a, size_t n, void *pool, Stream *s) {
    return cuMemAllocFromPoolAsync_call(a, n, pool, s);
}
CALL(cuMemFreeAsync, Address address, Stream *s)
static int cuMemFreeAsync_body(Address address, Stream *s) {
    auto found = blocks.find(address);
    if (found == blocks.end() || s->capture) return INVALID_VALUE;
    const size_t nbytes = found->second.nbytes;
    check_guards(address, found->second);
    blocks.erase(found);
    devices[s->device].used -= nbytes;
    s->free[nbytes].push_back(address);
    const int was = current;  // a finaliser may run anywhere
    current = s->device;
    later(s, [p = (void *)address, nbytes] { memset(p, 0xEE, nbytes); });
    current = was;
    return SUCCESS;
}
API int cuMemFreeAsync(Address a, Stream *s) { return cuMemFreeAsync_call(a, s); }
API int cuMemPoolTrimTo(void *pool, size_t) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    for (Stream *s : streams) {
        if (s->device != (int)(uintptr_t)pool - 1 || !s->waiting.empty()) continue;
        for (auto &[nbytes, addresses] : s->free)
            for (Address a : addresses) {
                free((char *)a - GUARD);
                devices[s->device].reserved -= nbytes;
            }
        s->free.clear();
    }
    return SUCCESS;
}
API int cuMemHostAlloc(void **p, size_t nbytes, unsigned) {
    return (*p = aligned_alloc(4096, (nbytes + 4095) & ~(size_t)4095)) ? 0 : OUT_OF_MEMORY;
}
API int cuMemFreeHost(void *p) { return free(p), 0; }

// Whether [p, p + n) lies in one live block.
static bool is_inside(Address p, size_t n) {
    auto found = blocks.upper_bound(p);
    if (found == blocks.begin()) return false;
    --found;
    return p + n <= found->first + found->second.nbytes;
}
static int copy(Address to, Address from, size_t n, Stream *s, bool into, bool out_of) {
    if (into && !is_inside(to, n) || out_of && !is_inside(from, n)) return INVALID_VALUE;
    return later(s, [=] { memmove((void *)to, (void *)from, n); });
}
CALL(cuMemcpyHtoDAsync, Address to, const void *from, size_t n, Stream *s)
static int cuMemcpyHtoDAsync_body(Address to, const void *from, size_t n, Stream *s) {
    return copy(to, (Address)from, n, s, true, false);
}
API int cuMemcpyHtoDAsync(Address to, const void *from, size_t n, Stream *s) {
    return cuMemcpyHtoDAsync_call(to, from, n, s);
}
CALL(cuMemcpyDtoHAsync, void *to, Address from, size_t n, Stream *s)
static int cuMemcpyDtoHAsync_body(void *to, Address from, size_t n, Stream *s) {
    return copy((Address)to, from, n, s, false, true);
}
API int cuMemcpyDtoHAsync(void *to, Address from, size_t n, Stream *s) {
    return cuMemcpyDtoHAsync_call(to, from, n, s);
}
CALL(cuMemcpyDtoDAsync, Address to, Address from, size_t n, Stream *s)
static int cuMemcpyDtoDAsync_body(Address to, Address from, size_t n, Stream *s) {
    return copy(to, from, n, s, true, true);
}
API int cuMemcpyDtoDAsync(Address to, Address from, size_t n, Stream *s) {
    return cuMemcpyDtoDAsync_call(to, from, n, s);
}
CALL(cuMemsetD8Async, Address p, unsigned char v, size_t n, Stream *s)
static int cuMemsetD8Async_body(Address p, unsigned char v, size_t n, Stream *s) {
    if (!is_inside(p, n)) return INVALID_VALUE;
    return later(s, [=] { memset((void *)p, v, n); });
}
API int cuMemsetD8Async(Address p, unsigned char v, size_t n, Stream *s) {
    return cuMemsetD8Async_call(p, v, n, s);
}

// --- Streams and events ------------------------------------------------------------

API int cuStreamCreate(Stream **s, unsigned) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    if (current < 0) return INVALID_CONTEXT;
    *s = new Stream;
    (*s)->device = current;
    streams.push_back(*s);
    return SUCCESS;
}
CALL(cuStreamSynchronize, Stream *s)
static int cuStreamSynchronize_body(Stream *s) {
    s = stream_of(s);
    return s->capture ? CAPTURE_UNSUPPORTED : synchronize(s);
}
API int cuStreamSynchronize(Stream *s) { return cuStreamSynchronize_call(s); }
API int cuStreamQuery(Stream *s) { return s->waiting.empty() ? failed : NOT_READY; }
API int cuEventCreate(Event **e, unsigned) { return *e = new Event, 0; }
API int cuEventDestroy(Event *e) { return delete e, 0; }
API int cuEventRecord(Event *e, Stream *s) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    s = stream_of(s);
    if (s->device != current) return INVALID_HANDLE;
    e->stream = s;
    e->at = s->put;
    return failed;
}
API int cuEventSynchronize(Event *e) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    if (e->stream) run(e->stream, e->at);
    return failed;
}
API int cuStreamWaitEvent(Stream *s, Event *e, unsigned) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    Stream *other = e->stream;
    return other ? later(s, [other, at = e->at] { run(other, at); }) : failed;
}

// --- Kernels -----------------------------------------------------------------------

// Bytes of an ELF image, by its own headers; 0 if it is none.
static size_t image_bytes(const char *p) {
    if (memcmp(p, ELFMAG, SELFMAG)) return 0;
    const auto *head = (const Elf64_Ehdr *)p;
    size_t end = head->e_shoff + (size_t)head->e_shnum * head->e_shentsize;
    end = std::max(end, head->e_phoff + (size_t)head->e_phnum * head->e_phentsize);
    for (int i = 0; i < head->e_shnum; ++i) {
        const auto *s = (const Elf64_Shdr *)(p + head->e_shoff + i * head->e_shentsize);
        if (s->sh_type != SHT_NOBITS) end = std::max(end, (size_t)s->sh_offset + s->sh_size);
    }
    return end;
}
CALL(cuModuleLoadData, Module **m, const void *image)
static int cuModuleLoadData_body(Module **m, const void *image) {
    const size_t n = image_bytes((const char *)image);
    if (!n) return INVALID_IMAGE;
    *m = new Module;
    (*m)->image.assign((const char *)image, (const char *)image + n);
    return SUCCESS;
}
API int cuModuleLoadData(Module **m, const void *i) { return cuModuleLoadData_call(m, i); }

// The text's shared object, built unless another process has built it.
static void *built(const std::string &text) {
    const std::string from = std::string(getenv("FAKECUDA_TEXTS")) + "/" + text;
    const std::string to = from + ".so", made = to + "." + std::to_string(getpid());
    if (access(to.c_str(), R_OK)) {
        const std::string command = getenv("FAKECUDA_BUILD"), line = command + " '" + from + ".cu' -o '" + made;
        if (system((line + "'").c_str()) || rename(made.c_str(), to.c_str()))
            return nullptr;
    }
    void *found = dlopen(to.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!found) fprintf(stderr, "fakecuda: %s\n", dlerror());
    return found;
}
CALL(cuModuleGetFunction, Function **f, Module *m, const char *name)
static int cuModuleGetFunction_body(Function **f, Module *m, const char *name) {
    auto found = m->functions.find(name);
    if (found == m->functions.end()) {
        const std::string wanted = name;
        const std::vector<char> &image = m->image;
        if (std::search(image.begin(), image.end(), wanted.begin(), wanted.end()) ==
            image.end())
            return NOT_FOUND;
        void *library = built(wanted.substr(wanted.rfind('_') + 1));
        if (!library) return INVALID_IMAGE;
        Function made{wanted};
        auto size = (void (*)(int *, size_t *))dlsym(
            library, ("cusim_params_" + wanted).c_str());
        *(void **)&made.launch = dlsym(library, ("cusim_launch_" + wanted).c_str());
        if (!size || !made.launch) return NOT_FOUND;
        size(&made.parameters, made.sizes);
        found = m->functions.emplace(wanted, made).first;
    }
    *f = &found->second;
    return SUCCESS;
}
API int cuModuleGetFunction(Function **f, Module *m, const char *name) {
    return cuModuleGetFunction_call(f, m, name);
}
API int cuFuncSetAttribute(Function *f, int what, int value) {
    if (what != 8) return SUCCESS;
    int most;
    cuDeviceGetAttribute(&most, 97, 0);
    return value > most ? INVALID_VALUE : (f->shared = value, 0);
}
CALL(cuLaunchKernel, Function *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
     unsigned by, unsigned bz, unsigned shared, Stream *s, void **values, void **extra)
static int cuLaunchKernel_body(Function *f, unsigned gx, unsigned gy, unsigned gz,
                               unsigned bx, unsigned by, unsigned bz, unsigned shared,
                               Stream *s, void **values, void **extra) {
    const bool fits = gx && gy && gz && bx && by && bz && bx * by * bz <= 1024 &&
                      gx <= 0x7fffffff && gy <= 65535 && gz <= 65535;
    if (!fits || extra || (int)shared > f->shared) return INVALID_VALUE;
    // CUDA copies the values when it is called.
    auto copied = std::make_shared<std::vector<std::vector<char>>>();
    for (int i = 0; i < f->parameters; ++i)
        copied->emplace_back((char *)values[i], (char *)values[i] + f->sizes[i]);
    return later(s, [=] {
        std::vector<void *> arguments;
        for (auto &value : *copied) arguments.push_back(value.data());
        if (f->launch(gx, gy, gz, bx, by, bz, shared, arguments.data())) {
            fprintf(stderr, "fakecuda: %s: %s\n", f->name.c_str(), cusim_error());
            failed = LAUNCH_FAILED;
        }
    });
}
API int cuLaunchKernel(Function *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                       unsigned by, unsigned bz, unsigned shared, Stream *s, void **values,
                       void **extra) {
    return cuLaunchKernel_call(f, gx, gy, gz, bx, by, bz, shared, s, values, extra);
}

// --- Tensor maps -------------------------------------------------------------------

// Of 16-bit elements, three axes, and the 128-byte swizzle: what the kernels use.
API int cuTensorMapEncodeTiled(void *map, int type, unsigned rank, void *data,
                               const uint64_t *sizes, const uint64_t *strides,
                               const unsigned *box, const unsigned *steps, int interleave,
                               int swizzle, int, int) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    if (setting("FAKECUDA_ARCH", 80) < 90) return NOT_SUPPORTED;
    const bool is_known = (type == 6 || type == 9) && rank == 3 && !interleave && swizzle == 3;
    if (!is_known || steps[0] != 1 || steps[1] != 1 || steps[2] != 1) return INVALID_VALUE;
    uint64_t reach = sizes[0] * 2;
    for (int d = 1; d < 3; ++d) reach += (sizes[d] - 1) * strides[d - 1];
    if (!is_inside((Address)data, reach)) return INVALID_VALUE;
    return cusim_encode(map, data, 2, (const unsigned long long *)sizes,
                        (const unsigned long long *)strides, box);
}

// --- Graphs ------------------------------------------------------------------------

API int cuStreamBeginCapture(Stream *s, int) {
    if (s->capture) return CAPTURE_UNSUPPORTED;
    return s->capture = new Graph, 0;
}
API int cuStreamEndCapture(Stream *s, Graph **g) {
    if (!s->capture) return CAPTURE_UNSUPPORTED;
    *g = s->capture;
    s->capture = nullptr;
    return failed;
}
API int cuGraphInstantiateWithFlags(Graph **made, Graph *g, unsigned long long) {
    ++calls["cuGraphInstantiate"];
    return *made = new Graph(*g), 0;
}
CALL(cuGraphLaunch, Graph *g, Stream *s)
static int cuGraphLaunch_body(Graph *g, Stream *s) {
    auto works = g->works;
    return later(s, [works] { for (auto &work : works) if (!failed) work(); });
}
API int cuGraphLaunch(Graph *g, Stream *s) { return cuGraphLaunch_call(g, s); }
API int cuGraphDestroy(Graph *g) { return delete g, 0; }
API int cuGraphExecDestroy(Graph *g) { return delete g, 0; }

// --- How cuda.bindings finds all this ----------------------------------------------

// What is not written here says so when it is called.
constexpr int STUBS = 1024;
static std::string stub_names[STUBS];
template <int I> static int stub() {
    fprintf(stderr, "fakecuda: %s is not implemented\n", stub_names[I].c_str());
    return NOT_SUPPORTED;
}
template <int... I> static void *stub_of(int i, std::integer_sequence<int, I...>) {
    static int (*const table[])() = {stub<I>...};
    return (void *)table[i];
}
static void *missing(const char *name) {
    static int count;
    for (int i = 0; i < count; ++i)
        if (stub_names[i] == name)
            return stub_of(i, std::make_integer_sequence<int, STUBS>());
    if (count == STUBS) return nullptr;
    stub_names[count] = name;
    return stub_of(count++, std::make_integer_sequence<int, STUBS>());
}

API int cuGetProcAddress_v2(const char *name, void **p, int, uint64_t, int *status) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    static void *self;
    if (!self) {
        Dl_info info;
        dladdr((void *)cuInit, &info);
        self = dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    }
    static const std::map<std::string, const char *> other{
        {"cuGetProcAddress", "cuGetProcAddress_v2"},
        {"cuGraphInstantiate", "cuGraphInstantiateWithFlags"},
    };
    auto found = other.find(name);
    *p = dlsym(self, found == other.end() ? name : found->second);
    if (!*p) *p = missing(name);
    if (status) *status = 0;
    return SUCCESS;
}
// NVRTC asks for these.
API int cuGetExportTable(const void **table, const void *) {
    return *table = nullptr, NOT_FOUND;
}
API int cuGetProcAddress(const char *name, void **p, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, p, version, flags, nullptr);
}
