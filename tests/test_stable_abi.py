"""The project's declarations of the stable ABI are those of CPython's own headers."""

import re
import subprocess
import sysconfig
from pathlib import Path

CPU = Path(__file__).parent.parent / "portanet" / "backend_cpu"
OWN = CPU / "stable_abi"
PROBE = r"""
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include <stddef.h>
#define NUMBER(x) printf(#x " %lld\n", (long long)(x));
#define AT(type, field) printf(#type "." #field " %zu\n", offsetof(type, field));
int main(void) {
    NUMBERS
    AT(PyObject, ob_refcnt) AT(PyObject, ob_type)
    AT(PyMethodDef, ml_flags) AT(PyMemberDef, offset) AT(PyGetSetDef, closure)
    AT(PyType_Slot, pfunc) AT(PyType_Spec, flags) AT(PyType_Spec, slots)
    AT(PyModuleDef, m_name) AT(PyModuleDef, m_size) AT(PyModuleDef, m_slots)
    AT(PyModuleDef, m_free) AT(Py_buffer, ndim) AT(Py_buffer, internal)
    return 0;
}
"""
SIZES = (
    "PyObject PyMethodDef PyMemberDef PyGetSetDef PyType_Slot PyType_Spec PyModuleDef"
)


def numbers_used():
    """The constants of the ABI that module.c names."""
    text = (CPU / "module.c").read_text()
    found = re.findall(
        r"\b(?:METH|Py_tp|Py_bf|Py_mod)_\w+|\bT_[A-Z]+\b|\bREADONLY\b", text
    )
    return sorted({*found, "Py_TPFLAGS_DEFAULT", "Py_TPFLAGS_DISALLOW_INSTANTIATION"})


def printed(folder, include):
    names = [*numbers_used(), *(f"sizeof({t})" for t in SIZES.split())]
    source = PROBE.replace("NUMBERS", " ".join(f"NUMBER({n})" for n in names))
    (folder / "probe.c").write_text(source)
    # Not linked with Python: only numbers are asked for, which -O1 leaves no symbols of.
    command = ["cc", "-O1", "-w", f"-I{include}", "probe.c", "-o", "probe"]
    command += ["-Wl,--unresolved-symbols=ignore-all"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return subprocess.run([folder / "probe"], capture_output=True, text=True).stdout


def test_constants_and_layouts_are_cpythons(tmp_path):
    headers = Path(sysconfig.get_paths()["include"])
    if not (headers / "Python.h").exists():
        return  # this Python came without headers: the build used ours
    ours = printed(tmp_path, OWN)
    assert ours.count("\n") > 25
    assert ours == printed(tmp_path, headers)
