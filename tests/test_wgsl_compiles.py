"""Every WGSL text that an operator may become, through both compilers: naga and Tint.

The programs are those of the conformance suite: each operator's cases, in each dtype
that WebGPU may have and each layout, and their gradients, written down by the null
backend.
"""

import importlib
import pkgutil
import re

import pytest

import portanet as pn
from portanet.autograd import tensor_of
import portanet.ops
from portanet.devices import Device, get
from portanet.dtypes import as_dtype
from portanet.shaders import lower, variants
from tests.conformance import LAYOUTS, as_tuple, cases_on, laid_out, listed, typed
from tests.conftest import PRESENT
from tests.null_backend import NullBackend
from tests.test_passes import optimised
from tests.tint_compiler import compile_all, entry_points

for module in pkgutil.iter_modules(portanet.ops.__path__):
    importlib.import_module(f"portanet.ops.{module.name}")

DTYPES = [as_dtype(t) for t in ("bool", "int32", "uint32", "float32", "float16")]
DEFAULT_BUFFERS = variants.MAX_BUFFERS


def run_operators(place):
    """Each operator's cases on a device, forward in every layout, and once backward.
    Gives the operators that launched nothing."""
    silent = []
    for op in listed():
        before = len(place.backend.built)
        for dtype in DTYPES:
            for case in cases_on(op, dtype.name, place):
                args = typed(case, dtype.name)
                if not {t for _, t in args} <= place.backend.dtypes:
                    continue
                for how in LAYOUTS:
                    values = [laid_out(a, t, place, how) for a, t in args]
                    op(*values, **case.static)
                run_backward(op, values, case.static)
        if len(place.backend.built) == before:
            silent.append(op.name)
    return silent


def run_backward(op, values, static):
    xs = [tensor_of(v) for v in values]
    for x in xs:
        x.requires_grad = x.dtype.is_float
    for y in as_tuple(op(*xs, **static)):
        if y.requires_grad and y.dtype.is_float and y.size:
            y.backward(tensor_of(y.value), retain_graph=True)


def texts_of(program, words):
    """(text, storage buffers it binds) of a program and of one launch of it, at the
    default limits of WebGPU and where any number of buffers may be bound."""
    steps = []
    for buffers in (DEFAULT_BUFFERS, 1 << 20):
        steps += variants.plan(program, words, buffers).steps
    return [(s.text, len(s.kinds) - 1) for s in steps] + [
        (text, len(lower.kinds(program)) - 1) for text in variants.texts(program)
    ]


@pytest.fixture(scope="module")
def place():
    """A device that claims what WebGPU may have, after all operators ran on it."""
    backend = NullBackend(kernels=tuple(variants.PLANS), dtypes=DTYPES)
    made = Device("null", backend)
    backend.silent = run_operators(made)
    return made


@pytest.fixture(scope="module")
def texts(place):
    """text -> (label, storage buffers) of each different text."""
    found = {}
    for program, words in place.backend.built:
        for text, buffers in texts_of(program, words):
            found.setdefault(text, (f"{program.kernel} of {program.label}", buffers))
    return found


def named(texts, chosen):
    return {
        f"{i} {label}": text
        for i, (text, (label, buffers)) in enumerate(texts.items())
        if chosen(buffers)
    }


def test_the_programs_are_those_of_every_operator(place, texts):
    built = place.backend.built
    assert {program.kernel for program, _ in built} == set(variants.PLANS)
    lowered = {op.name for op in listed() if op.formula is not None or op.kernel}
    # What needs float64 is not for WebGPU.
    assert lowered & set(place.backend.silent) <= {"uniform64_from_bits"}
    assert sum("_grad" in program.label for program, _ in built) >= 100
    assert {dtype for p, _ in built for dtype in (*p.outputs, *p.inputs)} == set(DTYPES)
    assert len(built) >= 3000 and len(texts) >= 900, (len(built), len(texts))


def test_a_program_lists_every_text_that_a_launch_takes(place):
    for program, words in place.backend.built:
        if len(lower.kinds(program)) - 1 <= DEFAULT_BUFFERS:
            for step in variants.plan(program, words).steps:
                assert step.text in variants.texts(program), (program, words)


def test_every_entry_point_of_every_kernel_is_in_them(texts):
    found = {entry for text in texts for entry in entry_points(text)}
    for path in lower.HERE.glob("*.wgsl"):
        assert set(entry_points(path.read_text())) <= found, path.name


def test_tint_accepts_every_text_and_makes_its_pipelines_at_default_limits(texts):
    chosen = named(texts, lambda buffers: buffers <= DEFAULT_BUFFERS)
    errors = {n: e for n, e in compile_all(chosen).items() if e}
    assert not errors, "\n".join(f"{n}: {e}\n{chosen[n]}" for n, e in errors.items())
    assert len(chosen) >= 900


def test_tint_accepts_reductions_that_compute_what_they_reduce():
    """Of columns, of planes, of truths, in one pass and in two."""
    made = {}

    functions = [
        lambda x, y: pn.sum(x * y, axis=0),
        lambda x, y: pn.mean(pn.square(x - y).reshape(10, -1, 7, 10), axis=(0, 1, 3)),
        lambda x, y: pn.max((x.T + y.T)[::-1], axis=1),
        lambda x, y: pn.any(x < y, axis=0),
        lambda x, y: pn.sum(x == y, axis=0),
        lambda x, y: (pn.max(x * y, axis=0), pn.max(x - y, axis=0), pn.max(x, axis=0)),
    ]
    place = Device("null", NullBackend(kernels=tuple(variants.PLANS), dtypes=DTYPES))
    place.backend.produces = lambda dtype, words: True
    place.backend.mixes, place.backend.copies = True, frozenset({"reduce"})
    for function in functions:
        for shape in ((90, 70), (20000, 70)):
            optimised(place, function, shape, shape)
    for program, words in place.backend.built:
        for text, buffers in texts_of(program, words):
            made[text] = (f"{program.kernel} of {program.label}", buffers)
    chosen = named(made, lambda buffers: buffers <= DEFAULT_BUFFERS)
    assert sum("fn made(" in text for text in chosen.values()) == 10
    assert sum(
        "fn load_x0_1(" in text and "load_m1_1(" in text for text in chosen.values()
    )
    errors = {n: e for n, e in compile_all(chosen).items() if e}
    assert not errors, "\n".join(f"{n}: {e}\n{chosen[n]}" for n, e in errors.items())


def test_tint_accepts_the_texts_that_need_more_buffers(texts):
    chosen = named(texts, lambda buffers: buffers > DEFAULT_BUFFERS)
    errors = {n: e for n, e in compile_all(chosen, pipelines=False).items() if e}
    assert not errors, "\n".join(f"{n}: {e}" for n, e in errors.items())
    assert len(chosen) >= 1


@pytest.mark.skipif("wgpu" not in PRESENT, reason="naga is reached through an adapter")
def test_naga_accepts_every_text(texts):
    host = get("wgpu").backend._host
    compiled, refused = 0, []
    for text, (label, _) in texts.items():
        if "enable f16" in text and "shader-f16" not in host.features:
            continue
        try:
            host.device.create_shader_module(code=text)
        except Exception as why:
            refused.append(f"{label}: {why}\n{text}")
        compiled += 1
    assert not refused, "\n".join(refused[:3])
    assert compiled >= 500
    with pytest.raises(Exception, match="(?i)expected|error"):
        host.device.create_shader_module(code="fn broken( {")


# Barriers -----------------------------------------------------------------------------
# Compilers accept a missing barrier, and a driver may run a group in lockstep and hide
# it. So the texts are read: in each entry point, with its loops walked twice, between a
# write of workgroup memory and a read of another thread's element there is a barrier,
# and between such a read and a later write too. A function with barriers is read alone,
# called twice.


def tokens(body, alone=False):
    """(statement, whether thread 0 alone runs it) of a body, in the order they run, the
    bodies of loops twice."""
    result, at = [], 0
    while at < len(body):
        loop = re.compile(r"\s*(for|while|loop)\b").match(body, at)
        brace, semicolon = body.find("{", at), body.find(";", at)
        if loop:
            brace = body.find("{", at)
            end = closing(body, brace)
            inner = tokens(body[brace + 1 : end], alone)
            result += [*inner, *inner]
            at = end + 1
        elif brace >= 0 and (semicolon < 0 or brace < semicolon):
            end = closing(body, brace)
            head = body[at:brace]
            inner = tokens(body[brace + 1 : end], alone or "thread == 0u" in head)
            result += [(head, alone), *inner]
            at = end + 1
        elif semicolon >= 0:
            result.append((body[at:semicolon], alone))
            at = semicolon + 1
        else:
            break
    return result


def closing(text, start):
    depth = 0
    for i in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if not depth:
            return i
    raise AssertionError("braces do not match")


def accesses(statement, name, own):
    """(whether it reads another thread's element, whether it writes) of a statement;
    `own` are the indices of the thread itself."""
    write = re.match(rf"\s*{name}\s*\[[^=]*?\]\s*([+\-*/|&]?=)(?!=)", statement)
    right = statement[write.end() :] if write else statement
    indices = re.findall(rf"\b{name}\s*\[([^\]]*)\]", right)
    return any(i.strip() not in own for i in indices), bool(write)


def races(text):
    """Places where workgroup memory is used without a barrier between."""
    text = re.sub(r"//[^\n]*", "", text)
    names = re.findall(r"var<workgroup>\s+(\w+)", text)
    found = []
    for match in re.finditer(r"(@compute[^{;]*?)?fn\s+(\w+)\s*\(", text):
        brace = text.find("{", text.find(")", match.end()))
        body = text[brace + 1 : closing(text, brace)]
        if not match[1]:
            body = 2 * body if "workgroupBarrier" in body else ""
        for name in names:
            written = read = False
            for statement, alone in tokens(body):
                if "workgroupBarrier" in statement:
                    written = read = False
                    continue
                reads, writes = accesses(
                    statement, name, {"thread", "0"} if alone else {"thread"}
                )
                if reads and written or writes and read:
                    found.append(f"{match[2]}: {name}: {statement.strip()}")
                written, read = written or writes, read or reads
    return found


KERNELS = sorted(lower.HERE.glob("*.wgsl"))


@pytest.mark.parametrize("path", KERNELS, ids=lambda p: p.stem)
def test_workgroup_memory_is_shared_only_across_a_barrier(path):
    assert not races(path.read_text(encoding="utf-8"))


def test_each_barrier_that_is_left_out_is_missed():
    """The reader above is no ornament: without any one barrier it finds a race."""
    tried = 0
    for path in KERNELS:
        text = path.read_text(encoding="utf-8")
        for barrier in re.finditer(r"workgroupBarrier\(\);", text):
            without = text[: barrier.start()] + text[barrier.end() :]
            line = text.count("\n", 0, barrier.start()) + 1
            assert races(without), (
                f"{path.name}:{line} is not needed, or not seen to be"
            )
            tried += 1
    assert tried >= 8
