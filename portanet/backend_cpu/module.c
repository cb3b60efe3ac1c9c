// portanet._c: Buffer, Launch, Sequence and the pool's numbers for Python. The only file that
// knows Python; the limited API of 3.11, so one build serves every later version.
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include "level.h"
#include "memory.h"
#include "table.h"
#include "threads.h"
#include "vm.h"

// Python 3.12 put these two into the limited API, with the values that 3.11 has.
#ifndef Py_TPFLAGS_HAVE_VECTORCALL
#define Py_TPFLAGS_HAVE_VECTORCALL (1UL << 11)
typedef PyObject *(*vectorcallfunc)(PyObject *, PyObject *const *, size_t, PyObject *);
#endif
#define ARGUMENTS_OFFSET ((size_t)1 << (8 * sizeof(size_t) - 1))

enum { MAX_BUFFERS = 64 };
// Memory that may grow before Python's cycles are collected: this, or twice what lived.
#define COLLECT_BYTES ((int64_t)256 << 20)
// Bytes read and written, times instructions, that take about 20 us.
#define LONG_WORK ((int64_t)512 << 10)

static PyTypeObject *buffer_type, *launch_type, *sequence_type;
static PyObject *gc_collect;
static PyObject *name_buffer, *name_grad, *name_layout, *name_value;
static int level;                    // position in pn_levels
static int64_t live_after_collect;

// ---- Errors

// Raises module.name(message), an exception of portanet's.
static PyObject *raise_error(const char *module, const char *name, PyObject *message) {
    PyObject *found = message ? PyImport_ImportModule(module) : NULL;
    PyObject *type = found ? PyObject_GetAttrString(found, name) : NULL;
    if (type) PyErr_SetObject(type, message);
    Py_XDECREF(type);
    Py_XDECREF(found);
    Py_XDECREF(message);
    return NULL;
}

static PyObject *raise_out_of_memory(int64_t nbytes) {
    pn_memory_numbers now = pn_memory();
    return raise_error(
        "portanet.errors", "OutOfMemoryError",
        PyUnicode_FromFormat(
            "cpu: no room for %lld bytes: %lld in use, %lld in the machine; "
            "free tensors, or use a smaller batch",
            (long long)nbytes, (long long)now.used, (long long)pn_physical_memory()));
}

// Raises portanet.program.fault(code, label, value, size).
static PyObject *raise_fault(PyObject *label, const pn_fault *fault) {
    PyObject *program = PyImport_ImportModule("portanet.program");
    PyObject *error = program ? PyObject_CallMethod(program, "fault", "LOLL",
                                                    (long long)fault->code, label,
                                                    (long long)fault->value,
                                                    (long long)fault->size)
                              : NULL;
    if (error) PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    Py_XDECREF(error);
    Py_XDECREF(program);
    return NULL;
}

// ---- Buffer

typedef struct {
    PyObject_HEAD
    void *memory;
    int64_t nbytes;
    PyObject *whole;  // of a part: the buffer whose memory it is in, else NULL
    int64_t offset;   // and where, in bytes
    int64_t pins;     // who knows `memory`: views, parts, work that runs without the GIL
} Buffer;

static int collect(void) {
    PyObject *result = PyObject_CallNoArgs(gc_collect);
    live_after_collect = pn_memory().used;
    Py_XDECREF(result);
    return result ? 0 : -1;
}

// What to do when the pool and the system have nothing left.
static void *alloc_at_last(int64_t nbytes) {
    if (collect() < 0) return NULL;
    pn_trim();
    int64_t physical = pn_physical_memory();
    if (nbytes > physical || pn_memory().used + nbytes > physical) return NULL;
    return pn_alloc(nbytes);
}

static void *alloc(int64_t nbytes) {
    void *memory = NULL;
    if (nbytes < 1 << 20) {
        memory = pn_alloc(nbytes);
    } else {
        int64_t used = pn_memory().used, bound = 2 * live_after_collect;
        if (bound < COLLECT_BYTES) bound = COLLECT_BYTES;
        if (nbytes + used - live_after_collect > bound && collect() < 0) return NULL;
        if (nbytes <= pn_physical_memory() - used) memory = pn_alloc(nbytes);
    }
    return memory ? memory : alloc_at_last(nbytes);
}

static PyObject *make_buffer(PyObject *module, PyObject *size) {
    (void)module;
    long long nbytes = PyLong_AsLongLong(size);
    if (nbytes < 0) {
        if (!PyErr_Occurred())
            PyErr_Format(PyExc_ValueError, "alloc: %lld bytes; 0 or more", nbytes);
        return NULL;
    }
    void *memory = alloc(nbytes);
    if (!memory) return PyErr_Occurred() ? NULL : raise_out_of_memory(nbytes);
    Buffer *self = PyObject_New(Buffer, buffer_type);
    if (!self) {
        pn_free(memory, nbytes);
        return NULL;
    }
    self->memory = memory;
    self->nbytes = nbytes;
    self->whole = NULL;
    self->offset = self->pins = 0;
    return (PyObject *)self;
}

// part(buffer, offset, nbytes)
static PyObject *make_part(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *object;
    long long offset, nbytes;
    if (!PyArg_ParseTuple(args, "O!LL", buffer_type, &object, &offset, &nbytes))
        return NULL;
    Buffer *whole = (Buffer *)object;
    if (offset < 0 || nbytes < 0 || nbytes > whole->nbytes - offset)
        return PyErr_Format(PyExc_ValueError, "part: bytes %lld to %lld of %lld", offset,
                            offset + nbytes, (long long)whole->nbytes);
    Buffer *self = PyObject_New(Buffer, buffer_type);
    if (!self) return NULL;
    self->memory = (char *)whole->memory + offset;
    self->nbytes = nbytes;
    Py_INCREF(object);
    whole->pins++;
    self->whole = object;
    self->offset = offset;
    self->pins = 0;
    return (PyObject *)self;
}

// Gives the memory back, or the part of another buffer's.
static void let_go(void *memory, int64_t nbytes, PyObject *whole) {
    if (!whole) {
        pn_free(memory, nbytes);
        return;
    }
    ((Buffer *)whole)->pins--;
    Py_DECREF(whole);
}

// vacate(buffers, slot, refs)
static PyObject *vacate(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *buffers;
    Py_ssize_t slot;
    long refs;
    if (!PyArg_ParseTuple(args, "O!nl", &PyList_Type, &buffers, &slot, &refs)) return NULL;
    PyObject *object = PyList_GetItem(buffers, slot);
    if (!object) return NULL;
    if (Py_TYPE(object) != buffer_type)
        return PyErr_Format(PyExc_TypeError, "vacate: slot %zd is no cpu buffer: %R", slot,
                            object);
    Buffer *self = (Buffer *)object;
    if (Py_REFCNT(object) <= refs) return PyBool_FromLong(1);
    Py_INCREF(object);
    void *memory = alloc(self->nbytes);  // may run Python, so the rest comes after it
    if (!memory) {
        Py_DECREF(object);
        return PyErr_Occurred() ? NULL : raise_out_of_memory(self->nbytes);
    }
    int is_pinned = self->pins > 0;
    if (is_pinned) {
        pn_free(memory, self->nbytes);
    } else {
        memcpy(memory, self->memory, (size_t)self->nbytes);
        let_go(self->memory, self->nbytes, self->whole);
        self->memory = memory;
        self->whole = NULL;
        self->offset = 0;
    }
    Py_DECREF(object);
    return PyBool_FromLong(!is_pinned);
}

static void buffer_dealloc(PyObject *object) {
    Buffer *self = (Buffer *)object;
    PyTypeObject *type = Py_TYPE(object);
    let_go(self->memory, self->nbytes, self->whole);
    PyObject_Free(object);
    Py_DECREF(type);
}

static int buffer_get(PyObject *object, Py_buffer *view, int flags) {
    Buffer *self = (Buffer *)object;
    if (PyBuffer_FillInfo(view, object, self->memory, self->nbytes, 0, flags) < 0)
        return -1;
    self->pins++;
    return 0;
}

static void buffer_release(PyObject *object, Py_buffer *view) {
    (void)view;
    ((Buffer *)object)->pins--;
}

static PyObject *buffer_address(PyObject *object, void *closure) {
    (void)closure;
    return PyLong_FromVoidPtr(((Buffer *)object)->memory);
}

static PyObject *buffer_repr(PyObject *object) {
    Buffer *self = (Buffer *)object;
    return PyUnicode_FromFormat("Buffer(%lld bytes at %p)", (long long)self->nbytes,
                                self->memory);
}

static PyMemberDef buffer_members[] = {
    {"nbytes", T_LONGLONG, offsetof(Buffer, nbytes), READONLY, "its size in bytes"},
    {"whole", T_OBJECT, offsetof(Buffer, whole), READONLY, "what it is a part of, or None"},
    {"offset", T_LONGLONG, offsetof(Buffer, offset), READONLY, "where it begins there"},
    {NULL, 0, 0, 0, NULL}};
static PyGetSetDef buffer_getset[] = {
    {"address", buffer_address, NULL, "where it begins, a multiple of 64", NULL},
    {NULL, NULL, NULL, NULL, NULL}};
static PyType_Slot buffer_slots[] = {
    {Py_tp_doc, "Aligned memory from the pool, uninitialised; alloc() makes one."},
    {Py_tp_dealloc, buffer_dealloc},
    {Py_tp_repr, buffer_repr},
    {Py_bf_getbuffer, buffer_get},
    {Py_bf_releasebuffer, buffer_release},
    {Py_tp_members, buffer_members},
    {Py_tp_getset, buffer_getset},
    {0, NULL}};
static PyType_Spec buffer_spec = {
    "portanet._c.Buffer", sizeof(Buffer), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, buffer_slots};

// ---- Launch

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    pn_kernel_fn function;
    int count;              // buffers of a call
    int weight;             // instructions, for the guess of a call's work
    int *dtypes;            // these four belong to the launch
    int64_t *words;
    const char **options;
    char *code_bytes;
    int64_t word_count;
    pn_code code;
    PyObject *option_objects;  // keeps the text of the options
    PyObject *label;
} Launch;

static int get_buffers(const Launch *self, PyObject *const *args, size_t count,
                       void **buffers, int64_t *work) {
    if ((int)count != self->count) {
        PyErr_Format(PyExc_TypeError, "%S: %d buffers expected, %zu given", self->label,
                     self->count, count);
        return -1;
    }
    for (size_t k = 0; k < count; k++) {
        if (Py_TYPE(args[k]) != buffer_type) {
            PyErr_Format(PyExc_TypeError, "%S: argument %zu is no cpu buffer: %R",
                         self->label, k, args[k]);
            return -1;
        }
        buffers[k] = ((Buffer *)args[k])->memory;
        *work += ((Buffer *)args[k])->nbytes;
    }
    return 0;
}

static PyObject *launch_call(PyObject *object, PyObject *const *args, size_t nargsf,
                             PyObject *names) {
    Launch *self = (Launch *)object;
    void *buffers[MAX_BUFFERS];
    int64_t work = 0;
    if (names && PyTuple_Size(names)) {
        PyErr_SetString(PyExc_TypeError, "a launch takes no keywords");
        return NULL;
    }
    if (get_buffers(self, args, nargsf & ~ARGUMENTS_OFFSET, buffers, &work) < 0)
        return NULL;
    pn_fault_record record = {{0, 0, 0}, 0};
    pn_args launch = {self->words, buffers, self->dtypes, self->options, &record.fault,
                      &self->code};
    if (work * self->weight < LONG_WORK) {
        self->function(&launch);
    } else {
        for (int k = 0; k < self->count; k++) ((Buffer *)args[k])->pins++;
        Py_BEGIN_ALLOW_THREADS
        self->function(&launch);
        Py_END_ALLOW_THREADS
        for (int k = 0; k < self->count; k++) ((Buffer *)args[k])->pins--;
    }
    if (record.fault.code) return raise_fault(self->label, &record.fault);
    Py_RETURN_NONE;
}

// Calls with a tuple, as f(*buffers) from C makes them.
static PyObject *launch_call_tuple(PyObject *object, PyObject *args, PyObject *names) {
    PyObject *items[MAX_BUFFERS];
    Py_ssize_t count = PyTuple_Size(args);
    if (names && PyDict_Size(names)) {
        PyErr_SetString(PyExc_TypeError, "a launch takes no keywords");
        return NULL;
    }
    for (Py_ssize_t k = 0; k < count && k < MAX_BUFFERS; k++)
        items[k] = PyTuple_GetItem(args, k);
    return launch_call(object, items, (size_t)count, NULL);
}

static void launch_dealloc(PyObject *object) {
    Launch *self = (Launch *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyMem_Free(self->dtypes);
    PyMem_Free(self->words);
    PyMem_Free(self->options);
    PyMem_Free(self->code_bytes);
    Py_XDECREF(self->option_objects);
    Py_XDECREF(self->label);
    PyObject_Free(object);
    Py_DECREF(type);
}

static void *copy_bytes(const void *bytes, size_t size) {
    void *copy = PyMem_Malloc(size ? size : 1);
    if (copy) memcpy(copy, bytes, size);
    else PyErr_NoMemory();
    return copy;
}

static pn_kernel_fn find_kernel(const char *stem) {
    for (const pn_kernel *k = pn_kernels; k->stem; k++)
        if (!strcmp(k->stem, stem)) return k->functions[level];
    PyErr_Format(PyExc_KeyError, "cpu has no kernel %s", stem);
    return NULL;
}

static int set_options(Launch *self, PyObject *options) {
    Py_ssize_t count = PyTuple_Size(options);
    if (count < 0) return -1;
    self->options = PyMem_Calloc((size_t)count + 1, sizeof *self->options);
    if (!self->options) return -1;
    Py_INCREF(options);
    self->option_objects = options;
    for (Py_ssize_t k = 0; k < count; k++) {
        self->options[k] = PyUnicode_AsUTF8AndSize(PyTuple_GetItem(options, k), NULL);
        if (!self->options[k]) return -1;
    }
    return 0;
}

// Finds the parts of the packed bytecode, whose sizes the header has.
static int set_code(Launch *self, const char *bytes, Py_ssize_t size) {
    self->weight = 1;
    if (!size) return 0;
    if (!(self->code_bytes = copy_bytes(bytes, (size_t)size))) return -1;
    pn_header *h = &self->code.header;
    memcpy(h, self->code_bytes, sizeof *h);
    const char *at = self->code_bytes + sizeof *h;
    self->code.constants = (const int64_t *)at;
    at += sizeof(int64_t) * (size_t)h->constants;
    self->code.slots = (const pn_slot *)at;
    at += sizeof(pn_slot) * (size_t)h->slots;
    self->code.instructions = (const pn_instruction *)at;
    at += sizeof(pn_instruction) * (size_t)(h->prologue + h->fills + h->body);
    self->weight = h->body > 0 ? h->body : 1;
    // An epilogue reads the kernel's result in place of the kernel's two inputs.
    int operands = h->operands + h->others;
    if (at - self->code_bytes == size && operands == self->count) return 0;
    PyErr_SetString(PyExc_ValueError, "Launch: the bytecode is damaged");
    return -1;
}

// launch(kernel, words, dtypes, options, code, label)
static PyObject *make_launch(PyObject *module, PyObject *args) {
    (void)module;
    const char *stem, *words, *dtypes, *code;
    Py_ssize_t words_size, dtypes_size, code_size;
    PyObject *options, *label;
    if (!PyArg_ParseTuple(args, "sy#y#O!y#U", &stem, &words, &words_size, &dtypes,
                          &dtypes_size, &PyTuple_Type, &options, &code, &code_size,
                          &label))
        return NULL;
    pn_kernel_fn function = find_kernel(stem);
    if (!function) return NULL;
    if (dtypes_size > MAX_BUFFERS)
        return PyErr_Format(PyExc_ValueError, "%U: %zd buffers; at most %d", label,
                            dtypes_size, MAX_BUFFERS);
    Launch *self = PyObject_New(Launch, launch_type);
    if (!self) return NULL;
    memset((char *)self + offsetof(Launch, vectorcall), 0,
           sizeof *self - offsetof(Launch, vectorcall));
    self->vectorcall = launch_call;
    self->function = function;
    self->count = (int)dtypes_size;
    self->word_count = words_size / 8;
    Py_INCREF(label);
    self->label = label;
    self->words = copy_bytes(words, (size_t)words_size);
    self->dtypes = PyMem_Calloc((size_t)dtypes_size + 1, sizeof(int));
    for (Py_ssize_t k = 0; self->dtypes && k < dtypes_size; k++)
        self->dtypes[k] = dtypes[k];
    if (self->words && self->dtypes && !set_options(self, options) &&
        !set_code(self, code, code_size))
        return (PyObject *)self;
    if (!PyErr_Occurred()) PyErr_NoMemory();
    Py_DECREF(self);
    return NULL;
}

static PyObject *launch_words(PyObject *object, void *closure) {
    (void)closure;
    Launch *self = (Launch *)object;
    PyObject *list = PyList_New((Py_ssize_t)self->word_count);
    for (Py_ssize_t k = 0; list && k < self->word_count; k++)
        PyList_SetItem(list, k, PyLong_FromLongLong(self->words[k]));
    return list;
}

static PyMemberDef launch_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Launch, vectorcall), READONLY, NULL},
    {"label", T_OBJECT, offsetof(Launch, label), READONLY, "the operator that asked"},
    {NULL, 0, 0, 0, NULL}};
static PyGetSetDef launch_getset[] = {
    {"words", launch_words, NULL, "the integers that the kernel reads", NULL},
    {NULL, NULL, NULL, NULL, NULL}};
static PyType_Slot launch_slots[] = {
    {Py_tp_doc, "A kernel and its parameters; called with the buffers, outputs first."},
    {Py_tp_dealloc, launch_dealloc},
    {Py_tp_call, launch_call_tuple},
    {Py_tp_members, launch_members},
    {Py_tp_getset, launch_getset},
    {0, NULL}};
static PyType_Spec launch_spec = {
    "portanet._c.Launch", sizeof(Launch), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_HAVE_VECTORCALL,
    launch_slots};

// ---- Sequence: the launches of a replay, run by one call.

typedef struct {
    PyObject_HEAD
    Py_ssize_t count;    // launches
    Py_ssize_t buffers;  // that a call gives
    Launch **launches;   // owned
    int32_t *slots;      // for each launch in turn, the numbers of its buffers
} Sequence;

static void sequence_dealloc(PyObject *object) {
    Sequence *self = (Sequence *)object;
    PyTypeObject *type = Py_TYPE(object);
    for (Py_ssize_t k = 0; k < self->count; k++)
        Py_DECREF((PyObject *)self->launches[k]);
    PyMem_Free(self->launches);
    PyMem_Free(self->slots);
    PyObject_Free(object);
    Py_DECREF(type);
}

// Runs the launches on the memory of the buffers; the one that found a fault, or NULL.
static Launch *run_sequence(const Sequence *self, void *const *memory,
                            pn_fault_record *record) {
    const int32_t *slots = self->slots;
    for (Py_ssize_t k = 0; k < self->count; k++) {
        Launch *launch = self->launches[k];
        void *buffers[MAX_BUFFERS];
        for (int i = 0; i < launch->count; i++) buffers[i] = memory[*slots++];
        pn_args args = {launch->words, buffers, launch->dtypes, launch->options,
                        &record->fault, &launch->code};
        launch->function(&args);
        if (record->fault.code) return launch;
    }
    return NULL;
}

// Takes a reference to each buffer of the list and pins it, so that it outlives the run.
static int hold_buffers(const Sequence *self, PyObject *list, PyObject **held,
                        void **memory) {
    for (Py_ssize_t k = 0; k < self->buffers; k++) {
        PyObject *item = PyList_GetItem(list, k);
        if (!item) return -1;
        if (item != Py_None && Py_TYPE(item) != buffer_type) {
            PyErr_Format(PyExc_TypeError, "a replay's slot %zd is no cpu buffer: %R", k,
                         item);
            return -1;
        }
        Py_INCREF(item);
        held[k] = item;
        if (item == Py_None) continue;
        ((Buffer *)item)->pins++;
        memory[k] = ((Buffer *)item)->memory;
    }
    return 0;
}

static void drop_buffers(PyObject **held, Py_ssize_t count) {
    for (Py_ssize_t k = 0; k < count && held[k]; k++) {
        if (held[k] != Py_None) ((Buffer *)held[k])->pins--;
        Py_DECREF(held[k]);
    }
}

// Forgets the gradients of these leaves.
static int forget_gradients(PyObject *leaves) {
    for (Py_ssize_t k = 0; leaves && k < PyTuple_Size(leaves); k++)
        if (PyObject_SetAttr(PyTuple_GetItem(leaves, k), name_grad, Py_None) < 0) return -1;
    return 0;
}

// A replay: called with the list of all buffers, and with the leaves whose gradients lie in
// memory that the launches write.
static PyObject *sequence_call(PyObject *object, PyObject *args, PyObject *names) {
    Sequence *self = (Sequence *)object;
    PyObject *list, *leaves = NULL;
    if (names && PyDict_Size(names))
        return PyErr_Format(PyExc_TypeError, "a replay takes no keywords");
    if (!PyArg_ParseTuple(args, "O!|O!", &PyList_Type, &list, &PyTuple_Type, &leaves))
        return NULL;
    if (PyList_Size(list) != self->buffers)
        return PyErr_Format(PyExc_TypeError, "a replay takes %zd buffers, %zd given",
                            self->buffers, PyList_Size(list));
    size_t room = (size_t)self->buffers + 1;
    PyObject **held = PyMem_Calloc(room, sizeof *held);
    void **memory = PyMem_Calloc(room, sizeof *memory);
    pn_fault_record record = {{0, 0, 0}, 0};
    Launch *failed = NULL;
    int ready = held && memory ? hold_buffers(self, list, held, memory) : -1;
    if (ready == 0) {
        Py_BEGIN_ALLOW_THREADS
        failed = run_sequence(self, memory, &record);
        Py_END_ALLOW_THREADS
    } else if (!PyErr_Occurred()) {
        PyErr_NoMemory();
    }
    if (held) drop_buffers(held, self->buffers);
    PyMem_Free(held);
    PyMem_Free(memory);
    if (ready < 0 || (failed && forget_gradients(leaves) < 0)) return NULL;
    if (failed) return raise_fault(failed->label, &record.fault);
    Py_RETURN_NONE;
}

// Reads (launch, slots) pairs into the sequence; the number of slots in all, or -1.
static int set_steps(Sequence *self, PyObject *steps) {
    Py_ssize_t at = 0, room = 0;
    for (Py_ssize_t k = 0; k < PyList_Size(steps); k++) {
        PyObject *step = PyList_GetItem(steps, k), *launch, *slots;
        if (!PyArg_ParseTuple(step, "O!O!", launch_type, &launch, &PyTuple_Type, &slots))
            return -1;
        int count = ((Launch *)launch)->count;
        if (PyTuple_Size(slots) != count) {
            PyErr_Format(PyExc_TypeError, "step %zd has %zd slots, its launch %d buffers",
                         k, PyTuple_Size(slots), count);
            return -1;
        }
        if (at + count > room) {
            room = 2 * (at + count);
            int32_t *more = PyMem_Realloc(self->slots, (size_t)room * sizeof *more);
            if (!more) return -1;
            self->slots = more;
        }
        for (int i = 0; i < count; i++) {
            long slot = PyLong_AsLong(PyTuple_GetItem(slots, i));
            if (slot < 0 || slot >= self->buffers) {
                if (!PyErr_Occurred())
                    PyErr_Format(PyExc_ValueError, "step %zd: slot %ld of %zd", k, slot,
                                 self->buffers);
                return -1;
            }
            self->slots[at++] = (int32_t)slot;
        }
        Py_INCREF(launch);
        self->launches[self->count++] = (Launch *)launch;
    }
    return 0;
}

// sequence(steps, buffers): steps is a list of (Launch, slots), buffers how many there are.
static PyObject *make_sequence(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *steps;
    Py_ssize_t buffers;
    if (!PyArg_ParseTuple(args, "O!n", &PyList_Type, &steps, &buffers)) return NULL;
    Sequence *self = PyObject_New(Sequence, sequence_type);
    if (!self) return NULL;
    self->count = 0;
    self->buffers = buffers;
    self->slots = NULL;
    self->launches = PyMem_Calloc((size_t)PyList_Size(steps) + 1, sizeof(Launch *));
    if (self->launches && set_steps(self, steps) == 0) return (PyObject *)self;
    if (!PyErr_Occurred()) PyErr_NoMemory();
    Py_DECREF(self);
    return NULL;
}

static PyType_Slot sequence_slots[] = {
    {Py_tp_doc, "Launches in order; called with the list of all buffers."},
    {Py_tp_dealloc, sequence_dealloc},
    {Py_tp_call, sequence_call},
    {0, NULL}};
static PyType_Spec sequence_spec = {
    "portanet._c.Sequence", sizeof(Sequence), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, sequence_slots};

// ---- Memory of old values, for replays; portanet/compiler/reuse.py says what is what.

// The buffer of an old value, a new reference; NULL, perhaps with an error, where somebody
// else holds the value too, its layout is not the one wanted, or it is not the buffer that
// is there already.
static PyObject *free_buffer(PyObject *old, PyObject *there) {
    PyObject *x = PyTuple_GetItem(old, 1);  // the owner
    long refs = PyLong_AsLong(PyTuple_GetItem(old, 3));
    if (PyObject_IsTrue(PyTuple_GetItem(old, 2))) {
        PyObject *tensor = PyObject_GetAttr(x, name_grad);
        int alone = tensor && tensor != Py_None && Py_REFCNT(tensor) == 2;
        x = alone ? PyObject_GetAttr(tensor, name_value) : NULL;
        Py_XDECREF(tensor);
    } else {
        x = PyObject_GetAttr(x, name_value);
    }
    if (!x) return NULL;
    PyObject *buffer = NULL, *layout = NULL;
    if (Py_REFCNT(x) == 2) buffer = PyObject_GetAttr(x, name_buffer);
    if (buffer) layout = PyObject_GetAttr(x, name_layout);
    if (layout != PyTuple_GetItem(old, 4) || Py_REFCNT(buffer) != refs + 1 ||
        (there != Py_None && there != buffer))
        Py_CLEAR(buffer);
    Py_XDECREF(layout);
    Py_DECREF(x);
    return buffer;
}

// take(olds, buffers)
static PyObject *take(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *olds, *buffers;
    if (!PyArg_ParseTuple(args, "O!O!", &PyTuple_Type, &olds, &PyList_Type, &buffers))
        return NULL;
    PyObject *held = PyList_New(0);
    for (Py_ssize_t k = 0; held && k < PyTuple_Size(olds); k++) {
        PyObject *old = PyTuple_GetItem(olds, k), *buffer = NULL;
        Py_ssize_t slot = PyLong_AsSsize_t(PyTuple_GetItem(old, 0));
        PyObject *there = PyList_GetItem(buffers, slot);
        if (there && PyTuple_Size(old) == 5) buffer = free_buffer(old, there);
        if (buffer) {
            if (PyList_SetItem(buffers, slot, buffer) < 0) Py_CLEAR(held);
            continue;
        }
        PyObject *number = PyErr_Occurred() ? NULL : PyLong_FromSsize_t(k);
        if (!number || PyList_Append(held, number) < 0) Py_CLEAR(held);
        Py_XDECREF(number);
    }
    return held;
}

// ---- The module

static PyObject *memory(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    pn_memory_numbers now = pn_memory();
    return Py_BuildValue("{sLsLsL}", "used", (long long)now.used, "reserved",
                         (long long)now.reserved, "peak", (long long)now.peak);
}

static PyObject *trim(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    pn_trim();
    Py_RETURN_NONE;
}

static PyObject *num_threads(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return PyLong_FromLong(pn_num_threads());
}

static PyObject *set_num_threads(PyObject *module, PyObject *value) {
    (void)module;
    long count = PyLong_AsLong(value);
    if (count == -1 && PyErr_Occurred()) return NULL;
    if (count < 1)
        return PyErr_Format(PyExc_ValueError, "set_num_threads: %ld; 1 or more", count);
    pn_set_num_threads(count > 1 << 20 ? 1 << 20 : (int)count);
    Py_RETURN_NONE;
}

static PyObject *get_level(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return PyUnicode_FromString(pn_levels[level]);
}

static PyObject *set_level(PyObject *module, PyObject *name) {
    (void)module;
    const char *wanted = PyUnicode_AsUTF8AndSize(name, NULL);
    if (!wanted) return NULL;
    for (int k = 0; pn_levels[k]; k++) {
        if (strcmp(pn_levels[k], wanted)) continue;
        if (!machine_has(wanted))
            return PyErr_Format(PyExc_ValueError, "this machine can't run level %s",
                                wanted);
        level = k;
        Py_RETURN_NONE;
    }
    return PyErr_Format(PyExc_ValueError, "level %s was not built", wanted);
}

static PyMethodDef methods[] = {
    {"alloc", make_buffer, METH_O, "A Buffer of so many bytes."},
    {"part", make_part, METH_VARARGS,
     "part(buffer, offset, nbytes): a Buffer in the memory of another."},
    {"vacate", vacate, METH_VARARGS,
     "vacate(buffers, slot, refs): whether a buffer's memory is free, that of a part say:\n"
     "at most `refs` references hold it, or what it holds could move to memory of its own."},
    {"launch", make_launch, METH_VARARGS,
     "launch(kernel, words, dtypes, options, code, label): a Launch."},
    {"sequence", make_sequence, METH_VARARGS,
     "sequence(steps, buffers): launches in order, each with the slots of its buffers"},
    {"take", take, METH_VARARGS,
     "take(olds, buffers): see portanet.compiler.reuse.take, which it does in C."},
    {"memory", memory, METH_NOARGS, "Bytes used, reserved and used at the peak."},
    {"trim", trim, METH_NOARGS, "Gives the pool's free blocks back to the system."},
    {"num_threads", num_threads, METH_NOARGS, "Threads that a kernel may use."},
    {"set_num_threads", set_num_threads, METH_O, "Sets the threads a kernel may use."},
    {"level", get_level, METH_NOARGS, "The instruction-set level in use."},
    {"set_level", set_level, METH_O, "Sets the level of launches made from now on."},
    {NULL, NULL, 0, NULL}};

static PyObject *opcodes(void) {
    PyObject *dict = PyDict_New();
    for (int k = 0; dict && pn_op_name_base(k); k++) {
        PyObject *number = PyLong_FromLong(k);
        if (!number || PyDict_SetItemString(dict, pn_op_name_base(k), number) < 0)
            Py_CLEAR(dict);
        Py_XDECREF(number);
    }
    return dict;
}

static PyObject *kernels(void) {
    PyObject *set = PyFrozenSet_New(NULL);
    for (const pn_kernel *k = pn_kernels; set && k->stem; k++) {
        PyObject *stem = PyUnicode_FromString(k->stem);
        if (!stem || PySet_Add(set, stem) < 0) Py_CLEAR(set);
        Py_XDECREF(stem);
    }
    return set;
}

static PyObject *levels(void) {
    PyObject *list = PyList_New(0);
    for (int k = 0; list && pn_levels[k]; k++) {
        PyObject *name = PyUnicode_FromString(pn_levels[k]);
        if (!name || PyList_Append(list, name) < 0) Py_CLEAR(list);
        Py_XDECREF(name);
    }
    return list;
}

static int add_new(PyObject *module, const char *name, PyObject *value) {
    int status = value ? PyModule_AddObjectRef(module, name, value) : -1;
    Py_XDECREF(value);
    return status;
}

static int execute(PyObject *module) {
    for (int k = 0; pn_levels[k]; k++)
        if (machine_has(pn_levels[k])) level = k;
    PyObject *gc = PyImport_ImportModule("gc");
    if (!gc) return -1;
    gc_collect = PyObject_GetAttrString(gc, "collect");
    Py_DECREF(gc);
    name_buffer = PyUnicode_InternFromString("buffer");
    name_grad = PyUnicode_InternFromString("grad");
    name_layout = PyUnicode_InternFromString("layout");
    name_value = PyUnicode_InternFromString("value");
    if (!name_buffer || !name_grad || !name_layout || !name_value) return -1;
    buffer_type = (PyTypeObject *)PyType_FromSpec(&buffer_spec);
    launch_type = (PyTypeObject *)PyType_FromSpec(&launch_spec);
    sequence_type = (PyTypeObject *)PyType_FromSpec(&sequence_spec);
    if (!gc_collect || !buffer_type || !launch_type || !sequence_type) return -1;
    if (PyModule_AddObjectRef(module, "Buffer", (PyObject *)buffer_type) < 0 ||
        PyModule_AddObjectRef(module, "Launch", (PyObject *)launch_type) < 0 ||
        PyModule_AddObjectRef(module, "Sequence", (PyObject *)sequence_type) < 0)
        return -1;
    return add_new(module, "OPCODES", opcodes()) < 0 ||
                   add_new(module, "KERNELS", kernels()) < 0 ||
                   add_new(module, "LEVELS", levels()) < 0
               ? -1
               : 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, execute}, {0, NULL}};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "portanet._c", "The compiled part of the cpu backend.", 0,
    methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__c(void) { return PyModuleDef_Init(&definition); }
