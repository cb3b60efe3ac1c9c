// The part of CPython's stable ABI that module.c uses, for machines whose Python came
// without its headers. The ABI is frozen for every CPython from 3.11 on: names, constants
// and layouts are those of https://docs.python.org/3.11/c-api/stable.html, and a test
// compares them with the real headers.
#ifndef PN_STABLE_ABI_H
#define PN_STABLE_ABI_H
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PyMODINIT_FUNC __attribute__((visibility("default"))) struct _object *

typedef ptrdiff_t Py_ssize_t;
typedef struct _typeobject PyTypeObject;
typedef struct _object {
    Py_ssize_t ob_refcnt;
    PyTypeObject *ob_type;
} PyObject;
#define PyObject_HEAD PyObject ob_base;
#define Py_TYPE(o) (((PyObject *)(o))->ob_type)
#define Py_REFCNT(o) (((PyObject *)(o))->ob_refcnt)

// ---- References
void Py_IncRef(PyObject *);
void Py_DecRef(PyObject *);
#define Py_INCREF(o) Py_IncRef((PyObject *)(o))
#define Py_DECREF(o) Py_DecRef((PyObject *)(o))
#define Py_XDECREF(o) Py_DecRef((PyObject *)(o))  // takes NULL
#define Py_CLEAR(o)                        \
    do {                                   \
        PyObject *dropped = (PyObject *)(o); \
        (o) = NULL;                        \
        Py_DecRef(dropped);                \
    } while (0)
extern PyObject _Py_NoneStruct;
#define Py_None (&_Py_NoneStruct)
#define Py_RETURN_NONE return Py_IncRef(Py_None), Py_None

// ---- Types and modules
typedef PyObject *(*PyCFunction)(PyObject *, PyObject *);
typedef PyObject *(*getter)(PyObject *, void *);
typedef int (*setter)(PyObject *, PyObject *, void *);
typedef struct {
    const char *ml_name;
    PyCFunction ml_meth;
    int ml_flags;
    const char *ml_doc;
} PyMethodDef;
typedef struct PyMemberDef {
    const char *name;
    int type;
    Py_ssize_t offset;
    int flags;
    const char *doc;
} PyMemberDef;
typedef struct {
    const char *name;
    getter get;
    setter set;
    const char *doc;
    void *closure;
} PyGetSetDef;
typedef struct {
    int slot;
    void *pfunc;
} PyType_Slot;
typedef struct {
    const char *name;
    int basicsize, itemsize;
    unsigned int flags;
    PyType_Slot *slots;
} PyType_Spec;
typedef struct {
    PyObject ob_base;
    PyObject *(*m_init)(void);
    Py_ssize_t m_index;
    PyObject *m_copy;
} PyModuleDef_Base;
typedef struct {
    int slot;
    void *value;
} PyModuleDef_Slot;
typedef struct PyModuleDef {
    PyModuleDef_Base m_base;
    const char *m_name, *m_doc;
    Py_ssize_t m_size;
    PyMethodDef *m_methods;
    PyModuleDef_Slot *m_slots;
    int (*m_traverse)(PyObject *, int (*)(PyObject *, void *), void *);
    int (*m_clear)(PyObject *);
    void (*m_free)(void *);
} PyModuleDef;
#define PyModuleDef_HEAD_INIT {{1, NULL}, NULL, 0, NULL}
enum { METH_VARARGS = 1, METH_NOARGS = 4, METH_O = 8 };
enum { T_OBJECT = 6, T_LONGLONG = 17, T_PYSSIZET = 19, READONLY = 1 };
enum { Py_bf_getbuffer = 1, Py_bf_releasebuffer = 2, Py_tp_call = 50,
       Py_tp_dealloc = 52, Py_tp_doc = 56, Py_tp_repr = 66, Py_tp_members = 72,
       Py_tp_getset = 73, Py_mod_exec = 2 };
#define Py_TPFLAGS_DEFAULT 0UL
#define Py_TPFLAGS_DISALLOW_INSTANTIATION (1UL << 7)
PyObject *PyType_FromSpec(PyType_Spec *);
PyObject *PyModuleDef_Init(PyModuleDef *);
int PyModule_AddObjectRef(PyObject *, const char *, PyObject *);

// ---- Memory and objects
PyObject *_PyObject_New(PyTypeObject *);
#define PyObject_New(type, typeobject) ((type *)_PyObject_New(typeobject))
void PyObject_Free(void *);
void *PyMem_Malloc(size_t);
void *PyMem_Calloc(size_t, size_t);
void *PyMem_Realloc(void *, size_t);
void PyMem_Free(void *);
PyObject *PyObject_GetAttr(PyObject *, PyObject *);
PyObject *PyObject_GetAttrString(PyObject *, const char *);
int PyObject_SetAttr(PyObject *, PyObject *, PyObject *);
PyObject *PyObject_CallNoArgs(PyObject *);
PyObject *PyObject_CallMethod(PyObject *, const char *, const char *, ...);
PyObject *PyImport_ImportModule(const char *);

// ---- Values
PyObject *PyBool_FromLong(long);
PyObject *PyLong_FromLong(long);
PyObject *PyLong_FromSsize_t(Py_ssize_t);
PyObject *PyLong_FromLongLong(long long);
PyObject *PyLong_FromVoidPtr(void *);
int PyObject_IsTrue(PyObject *);
long PyLong_AsLong(PyObject *);
Py_ssize_t PyLong_AsSsize_t(PyObject *);
long long PyLong_AsLongLong(PyObject *);
PyObject *PyUnicode_FromString(const char *);
PyObject *PyUnicode_InternFromString(const char *);
PyObject *PyUnicode_FromFormat(const char *, ...);
const char *PyUnicode_AsUTF8AndSize(PyObject *, Py_ssize_t *);
extern PyTypeObject PyTuple_Type, PyList_Type;
Py_ssize_t PyTuple_Size(PyObject *);
PyObject *PyTuple_GetItem(PyObject *, Py_ssize_t);
PyObject *PyList_New(Py_ssize_t);
Py_ssize_t PyList_Size(PyObject *);
PyObject *PyList_GetItem(PyObject *, Py_ssize_t);
int PyList_SetItem(PyObject *, Py_ssize_t, PyObject *);
int PyList_Append(PyObject *, PyObject *);
PyObject *PyDict_New(void);
Py_ssize_t PyDict_Size(PyObject *);
int PyDict_SetItemString(PyObject *, const char *, PyObject *);
PyObject *PyFrozenSet_New(PyObject *);
int PySet_Add(PyObject *, PyObject *);
// With PY_SSIZE_T_CLEAN, '#' is a Py_ssize_t.
int _PyArg_ParseTuple_SizeT(PyObject *, const char *, ...);
PyObject *_Py_BuildValue_SizeT(const char *, ...);
#define PyArg_ParseTuple _PyArg_ParseTuple_SizeT
#define Py_BuildValue _Py_BuildValue_SizeT

typedef struct {
    void *buf;
    PyObject *obj;
    Py_ssize_t len, itemsize;
    int readonly, ndim;
    char *format;
    Py_ssize_t *shape, *strides, *suboffsets;
    void *internal;
} Py_buffer;
int PyBuffer_FillInfo(Py_buffer *, PyObject *, void *, Py_ssize_t, int, int);

// ---- Errors and the lock
extern PyObject *PyExc_TypeError, *PyExc_ValueError, *PyExc_KeyError;
PyObject *PyErr_Format(PyObject *, const char *, ...);
void PyErr_SetString(PyObject *, const char *);
void PyErr_SetObject(PyObject *, PyObject *);
PyObject *PyErr_NoMemory(void);
PyObject *PyErr_Occurred(void);
typedef struct _ts PyThreadState;
PyThreadState *PyEval_SaveThread(void);
void PyEval_RestoreThread(PyThreadState *);
#define Py_BEGIN_ALLOW_THREADS \
    {                          \
        PyThreadState *saved = PyEval_SaveThread();
#define Py_END_ALLOW_THREADS       \
        PyEval_RestoreThread(saved); \
    }
#endif
