"""The cuda device's host: streams, memory, kernels, graphs, errors.

It runs on the fake driver of tests/cuda/fakecuda.cpp (PORTANET_FAKE_CUDA=1), whose streams
do nothing before they are waited for, and which answers with errors when it is told to.
"""

import ctypes
import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import portanet as pn
from portanet.backend_cuda import NO_GPU, lower, plan_of
from portanet.backend_cuda import host as hosts
from portanet.backend_cuda import installed
from portanet.backend_cuda import cubins as cubin_files
from portanet.backend_cuda.cubins import Cubins
from portanet.devices import get
from portanet.dtypes import as_dtype
from portanet.program import Program
from portanet.scalars import maximum, rsqrt, tanh, trace
from tests.cuda import compiled, fake

ROOT = Path(__file__).parents[1]
MANY = 3 * hosts.STAGING // 4 + 5  # floats: three halves of the pinned memory and a bit


@pytest.fixture(scope="module")
def driver():
    """The fake driver: how often a function was called, and which is to fail."""
    library = ctypes.CDLL("libcuda.so.1")
    library.fakecuda_calls.restype = ctypes.c_long

    class Driver:
        def calls(self, name):
            return library.fakecuda_calls(name.encode())

        def fail(self, name, code, after=0):
            library.fakecuda_fail(name.encode(), code, ctypes.c_long(after))

        recover = library.fakecuda_recover

    return Driver()


@pytest.fixture
def backend():
    return get("cuda").backend


def on_gpu(values, dtype="float32", device="cuda"):
    return pn.tensor(np.asarray(values), dtype, device)


def run(code, **environment):
    """Python in a process of its own on the fake driver: (status, output, errors)."""
    variables = {**os.environ, **fake.environment(), **environment}
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        env=variables,
        cwd=ROOT,
    )
    return done.returncode, done.stdout.strip(), done.stderr


# ------------------------------------------------------------------------ streams


def test_a_launch_does_not_wait_and_a_read_does(driver):
    x = on_gpu([1, 2, 3])
    before = driver.calls("cuStreamSynchronize")
    y = x + 1
    assert driver.calls("cuStreamSynchronize") == before
    assert y.tolist() == [2, 3, 4]
    assert driver.calls("cuStreamSynchronize") == before + 1


def test_a_read_that_forgets_to_wait_is_found_out(backend, monkeypatch):
    y = on_gpu(np.ones(1000)) + 1
    monkeypatch.setattr(backend._host, "wait", lambda: None)
    assert not np.array_equal(y.numpy(), np.full(1000, 2, "f4"))
    monkeypatch.undo()
    assert np.array_equal(y.numpy(), np.full(1000, 2, "f4"))


def test_an_array_may_change_once_it_is_uploaded():
    values = np.arange(1000, dtype="f4")
    x = on_gpu(values)
    values[:] = -1
    assert np.array_equal(x.numpy(), np.arange(1000, dtype="f4"))


@pytest.mark.parametrize("n", [1, 1000, MANY])
def test_copies_of_any_size_go_through_the_pinned_memory(n):
    values = np.random.default_rng(n).normal(size=n).astype("f4")
    several = [on_gpu(values + k) for k in range(3)]
    for k, x in enumerate(several):
        assert np.array_equal(x.numpy(), values + k)


def test_a_part_of_a_buffer_is_read():
    x = on_gpu(np.arange(100))
    assert x[37:40].tolist() == [37, 38, 39]
    assert x[3:3].tolist() == []


def test_threads_share_the_device():
    failures = []

    def work(seed):
        try:
            for k in range(10):
                x = on_gpu(np.full(100, seed + k))
                assert (x + x * 2).tolist() == [3.0 * (seed + k)] * 100
        except Exception as why:
            failures.append(why)

    threads = [threading.Thread(target=work, args=(10 * i,)) for i in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not failures


def test_the_second_gpu_is_a_device_of_its_own():
    x = on_gpu([1, 2], device="cuda:1")
    assert str(x.device) == "cuda:1" and (x + 1).tolist() == [2, 3]
    assert (x.to("cuda") * 2).tolist() == [2, 4]
    with pytest.raises(ValueError, match="tensors are on cuda:1 and cuda"):
        x + on_gpu([1, 2])
    with pytest.raises(pn.DeviceError, match="there is no cuda:2; there are: cuda:0 f"):
        pn.zeros(2, device="cuda:2")


# ------------------------------------------------------------------------- memory


def test_memory_is_counted_and_goes_back(backend):
    gc.collect()
    before = backend.memory()["used"]
    x = pn.zeros(1000, device="cuda") + 1
    used = backend.memory()["used"]
    assert used >= before + 4000
    del x
    gc.collect()
    assert backend.memory()["used"] <= used - 4000
    assert backend.memory()["peak"] >= used


def test_freed_memory_is_used_again_in_order(backend):
    x = on_gpu(np.arange(1000))
    y = x + 1
    del x
    z = on_gpu(np.zeros(1000))  # may take the memory of x, which the sum still reads
    assert y.tolist()[:3] == [1, 2, 3] and z.tolist()[:2] == [0, 0]


def test_a_tensor_that_does_not_fit_is_an_error_with_the_sizes(backend):
    with pytest.raises(
        pn.OutOfMemoryError, match=r"no room for 4,294,967,296 bytes on fake GPU.*use"
    ):
        backend.alloc(1 << 32)
    assert (on_gpu([1]) + 1).tolist() == [2]


def test_memory_that_is_only_kept_is_given_back_before_giving_up(driver):
    driver.fail("cuMemAllocFromPoolAsync", 2)
    before = driver.calls("cuMemAllocFromPoolAsync")
    assert (on_gpu([1, 2]) + 1).tolist() == [2, 3]
    assert driver.calls("cuMemAllocFromPoolAsync") >= before + 2


def test_writes_past_the_end_of_a_buffer_are_found_out(backend, driver):
    x = backend.alloc(100)
    ctypes.memset(x.address + 100, 0, 1)
    with pytest.raises(pn.DeviceError, match="outside its memory .*started again"):
        backend.wait()
    ctypes.memset(x.address + 100, 0x5A, 1)
    driver.recover()
    backend.wait()


# ------------------------------------------------------------------------- errors


def test_a_launch_that_fails_names_the_operator_and_the_device_goes_on(driver):
    x = on_gpu([1.0, 2.0])
    driver.fail("cuLaunchKernel", 1)
    with pytest.raises(
        pn.DeviceError, match="add: cuLaunchKernel failed: CUDA_ERROR_INVALID_VALUE"
    ):
        x + x
    assert (x + x).tolist() == [2, 4]


def test_a_kernel_that_fails_says_that_the_memory_is_lost(driver):
    x = on_gpu([1.0, 2.0])
    driver.fail("cuStreamSynchronize", 719)
    with pytest.raises(
        pn.DeviceError,
        match="a kernel failed .CUDA_ERROR_LAUNCH_FAILED.; the GPU's mem",
    ):
        x.numpy()


def test_nan_cast_to_an_integer_is_raised_at_the_read_by_name():
    y = on_gpu([1.0, np.nan]).astype("int32")
    with pytest.raises(ValueError, match="astype: NaN has no integer value"):
        y.numpy()
    assert on_gpu([1.5, -2.5]).astype("int32").tolist() == [1, -2]


def test_a_fault_is_raised_once_by_whatever_waits_first(backend):
    y = on_gpu([np.nan]).astype("int32")
    with pytest.raises(ValueError, match="NaN"):
        backend.wait()
    backend.wait()
    del y


# ------------------------------------------------------------------------ kernels


def cubins(tmp_path, monkeypatch):
    monkeypatch.setenv("PORTANET_CACHE", str(tmp_path))
    return Cubins("sm_80")


TEXT = 'extern "C" __global__ void f(float *y) { y[threadIdx.x] = 1.0f; }\n'


def test_a_kernel_is_compiled_once_and_then_read_from_disk(tmp_path, monkeypatch):
    first = cubins(tmp_path, monkeypatch)
    made = first.get(TEXT, "f")
    assert made[:4] == b"\x7fELF" and (first.compiled, first.loaded) == (1, 0)
    second = cubins(tmp_path, monkeypatch)
    assert second.get(TEXT, "f") == made and (second.compiled, second.loaded) == (0, 1)
    second.get(TEXT, "f", ("fma",))
    assert second.compiled == 1, "other options, another kernel"


def test_several_kernels_are_compiled_at_once(tmp_path, monkeypatch):
    texts = [TEXT.replace("1.0f", f"{k}.0f") for k in range(3)]
    alone = [cubins(tmp_path / "alone", monkeypatch).get(t, "f") for t in texts]
    kept = cubins(tmp_path, monkeypatch)
    kept.get(texts[1], "f")
    threads, compile = set(), Cubins.compile

    def noted(self, *given):
        threads.add(threading.get_ident())
        return compile(self, *given)

    monkeypatch.setattr(Cubins, "compile", noted)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    wanted = [(t, "f", ()) for t in texts]
    assert kept.get_all(wanted) == alone
    assert (kept.compiled, kept.loaded) == (3, 1)
    assert threading.get_ident() not in threads
    wanted = [(t.replace("y[", "z["), "f", ()) for t in texts]
    with pytest.raises(pn.DeviceError, match="f does not compile for sm_80"):
        kept.get_all(wanted)
    assert kept.get(TEXT, "f") == alone[1]


def test_a_compiled_function_has_its_kernels_compiled_together(backend, monkeypatch):
    asked = []
    prepare = backend._host.prepare
    monkeypatch.setattr(
        backend._host, "prepare", lambda ks: prepare(asked.append(k) or k for k in ks)
    )
    step = pn.compile(lambda x: (pn.exp(x * 3) @ x).sum())
    step(on_gpu(np.ones((3, 3))))
    launches = len(asked) // 2  # once all, then each
    assert launches > 1 and {*asked[:launches]} == {*asked[launches:]}


FIRST = """
import time
import portanet as pn
start = time.process_time()
x = pn.ones((256, 256), device="cuda")
(x + x).sum().item()
print(time.process_time() - start)
"""


def test_the_first_result_takes_little_time_of_a_core(tmp_path):
    """The simulated kernels are there already, or their g++ is another process."""
    kept = {"PORTANET_CACHE": str(tmp_path)}
    assert float(run(FIRST, **kept)[1]) < 1
    assert min(float(run(FIRST, **kept)[1]) for _ in range(2)) < 0.3


@pytest.mark.parametrize("damage", [b"", b"x" * 100, None])
def test_a_damaged_file_is_compiled_anew(tmp_path, monkeypatch, damage):
    made = cubins(tmp_path, monkeypatch).get(TEXT, "f")
    files = [p for p in (tmp_path / "cuda").rglob("*") if p.is_file()]
    (largest,) = [p for p in files if p.stat().st_size > len(made)]
    data = largest.read_bytes()
    largest.write_bytes(data[:200] + b"?" + data[201:] if damage is None else damage)
    again = cubins(tmp_path, monkeypatch)
    assert again.get(TEXT, "f") == made and again.compiled == 1
    assert cubins(tmp_path, monkeypatch).get(TEXT, "f") == made


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path, monkeypatch):
    (tmp_path / "cuda").write_text("a file where the folder should be")
    with pytest.warns(RuntimeWarning, match="can't be kept in .* set PORTANET_CACHE"):
        made = cubins(tmp_path, monkeypatch)
    assert made.get(TEXT, "f")[:4] == b"\x7fELF"


def test_a_disk_that_is_full_is_a_warning_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*files):
        raise OSError(28, "No space left on device")

    kept = cubins(tmp_path, monkeypatch)
    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(RuntimeWarning, match="can't be kept in .*No space left"):
        made = kept.get(TEXT, "f")
    assert made[:4] == b"\x7fELF" and kept.get(TEXT, "f") == made
    assert not list((tmp_path / "cuda").iterdir())


def test_kernels_that_were_read_longest_ago_go_first(tmp_path, monkeypatch):
    kept, files = cubins(tmp_path, monkeypatch), {}
    monkeypatch.setattr(kept, "compile", lambda text, *_: text.encode() * 100)
    for k, text in enumerate("abc"):
        before = set((tmp_path / "cuda").iterdir())
        kept.get(text, "f")
        (files[text],) = set((tmp_path / "cuda").iterdir()) - before
        os.utime(files[text], (1000 + k, 1000 + k))
    kept.get("a", "f")  # is of use now
    monkeypatch.setattr(cubin_files, "BYTES", 2 * (32 + 100))
    kept._shrink()
    assert set((tmp_path / "cuda").iterdir()) == {files["a"], files["c"]}


def test_a_text_that_does_not_compile_is_an_error_with_the_compilers_words(
    tmp_path, monkeypatch
):
    with pytest.raises(pn.DeviceError, match="f does not compile for sm_80.*"):
        cubins(tmp_path, monkeypatch).get("this is no kernel", "f")


def test_a_missing_compiler_is_named(tmp_path, monkeypatch):
    class Nothing:
        @staticmethod
        def nvrtcVersion():
            raise RuntimeError("Failure finding libnvrtc.so\nand more")

    load = installed.load
    monkeypatch.setattr(
        installed, "load", lambda name: Nothing if "nvrtc" in name else load(name)
    )
    with pytest.raises(
        pn.DeviceError, match=r"NVRTC, .* not load \(.*libnvrtc.so\); pip install"
    ):
        cubins(tmp_path, monkeypatch).get(TEXT, "f")


def test_a_compiler_newer_than_the_driver_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(installed, "driver_version", lambda found: 12040)
    with pytest.raises(
        pn.DeviceError, match=r"NVRTC is of CUDA 13, .*not know; update .*cuda12"
    ):
        cubins(tmp_path, monkeypatch).get(TEXT, "f")


def test_a_kernel_that_does_not_load_is_an_error_and_loads_later(driver):
    x = on_gpu([1.0, 2.0])
    driver.fail("cuModuleLoadData", 1)
    with pytest.raises(
        pn.DeviceError, match="cuModuleLoadData failed: CUDA_ERROR_INVAL"
    ):
        pn.atan2(x, x * 3 - 1)
    np.testing.assert_allclose(
        pn.atan2(x, x * 3 - 1).numpy(), np.arctan2([1, 2], [2, 5]), 1e-6
    )


def test_a_step_without_memory_for_its_results_changes_no_state(backend, monkeypatch):
    w = on_gpu(np.ones(100))

    @pn.compile
    def step():
        w.assign(w * 2)
        return pn.zeros(1000, device="cuda") + w.sum()

    step()
    host = backend._host

    def none(nbytes):
        raise pn.OutOfMemoryError("cuda: no room")

    monkeypatch.setattr(host, "alloc", none)
    with pytest.raises(pn.OutOfMemoryError):
        step()
    monkeypatch.undo()
    assert w.tolist() == [2] * 100
    assert step().tolist()[0] == 400 and w.tolist() == [4] * 100


def test_the_texts_are_kept_under_the_names_of_their_entries(backend):
    name = "t" + "0" * 16
    folder = Path(os.environ["PORTANET_CUDA_TEXTS"])
    on_gpu([1.0]) + 1
    texts = list(folder.glob("t*.cu"))
    assert texts and all(len(p.stem) == len(name) for p in texts)
    assert texts[0].read_text().startswith(f"#define PN_TEXT {texts[0].stem}\n")


@pytest.mark.parametrize("n", [1, 65, 1025, 5000])
def test_long_rows_are_sorted_in_runs_that_are_merged(n):
    rng = np.random.default_rng(n)
    values = rng.integers(0, n // 3 + 2, (2, n)).astype("f4")
    values[:, :: n // 7 + 1] = np.nan
    places = pn.argsort(on_gpu(values), axis=1).numpy()
    assert np.array_equal(places, np.argsort(values, axis=1, kind="stable"))


def elementwise(formula, dtypes, modes, words, rank=0, result=None):
    """The text of an elementwise launch."""
    inputs = tuple(as_dtype(t) for t in dtypes)
    expression = trace(formula, inputs)
    outputs = (as_dtype(result or dtypes[0]),)
    program = Program("elementwise", outputs, inputs, (), expression, modes, rank)
    (step,) = plan_of(program, words, NO_GPU).steps
    return step, "#define PN_TEXT text\n" + lower.text(program, step)


def tanh_sum(x, y):
    return tanh(x) + y


CODE = {
    # name: the launch, and loads and stores that its code must have
    "contiguous": (
        elementwise(tanh_sum, ["float32"] * 2, "ccc", [4096, 0, 0, 0]),
        ["LDG.E.128", "STG.E.128"],
    ),
    "of 16 bits": (
        elementwise(tanh_sum, ["bfloat16"] * 2, "ccc", [4096, 0, 0, 0]),
        ["LDG.E.128", "STG.E.128"],
    ),
    "a row for all rows": (
        elementwise(
            tanh_sum, ["float32"] * 2, "ccv", [4096, 0, 0, 0, 64, 64, 0, 1], rank=2
        ),
        ["LDG.E.128", "STG.E.128"],
    ),
    "batch norm, then ReLU": (
        elementwise(
            lambda x, m, v, w, b: maximum((x - m) * rsqrt(v + 1e-5) * w + b, 0),
            ["float32"] * 5,
            "ccvvvv",
            [64 * 3136, *[0] * 6, 1, 64, 3136, *[0, 1, 0] * 4],
            rank=3,
        ),
        ["LDG.E.128", "STG.E.128"],
    ),
    "an odd offset": (
        elementwise(tanh_sum, ["float32"] * 2, "ccc", [4096, 0, 1, 0]),
        ["LDG.E", "STG.E"],
    ),
    "to bytes": (
        elementwise(lambda x: x > 0, ["float32"], "cc", [4096, 0, 0], result="bool"),
        ["LDG.E.128", "STG.E"],
    ),
}


@pytest.mark.parametrize("arch", ["75", "90a", "120"])
@pytest.mark.parametrize("name", CODE)
def test_elementwise_code_keeps_to_registers_and_moves_wide(name, arch):
    (step, text), moves = CODE[name]
    (entry,) = compiled.entries(text, arch).values()
    assert (entry.spills, entry.stack) == (0, 0)
    assert entry.registers <= 64, "a multiprocessor holds few blocks"
    assert all(entry.count(move) for move in moves), (moves, entry.code)


# ------------------------------------------------------------------------- graphs


def chain(x, y):
    a = pn.tanh(x * y + 1)
    b = a - a.sum()
    return b * b.max(), a - (b * b).sum()


def test_a_replay_becomes_a_graph_when_its_buffers_come_again(driver):
    x, y = on_gpu(np.linspace(-1, 1, 64)), on_gpu(np.linspace(2, 3, 64))
    want = [t.numpy() for t in chain(x, y)]
    step = pn.compile(chain)
    before = driver.calls("cuGraphLaunch")
    for _ in range(6):
        got = step(x, y)
        for g, w in zip(got, want, strict=True):
            np.testing.assert_allclose(g.numpy(), w, rtol=1e-6)
        del got, g
    assert driver.calls("cuGraphLaunch") > before
    assert driver.calls("cuGraphInstantiate") < driver.calls("cuGraphLaunch")
    x.assign(x * 0)
    got = step(x, y)
    np.testing.assert_allclose(got[1].numpy(), chain(x, y)[1].numpy(), rtol=1e-6)


def test_a_graph_that_cannot_be_recorded_is_recorded_at_the_next_call(driver):
    x, y = on_gpu(np.linspace(-1, 1, 64)), on_gpu(np.linspace(2, 3, 64))
    want = [t.numpy() for t in chain(x, y)]
    step = pn.compile(chain)
    step(x, y)
    before, failed = driver.calls("cuGraphLaunch"), 0
    for _ in range(6):
        driver.fail("cuLaunchKernel", 1, after=1)
        try:
            step(x, y)
        except pn.DeviceError as why:
            assert "cuLaunchKernel failed" in str(why)
            failed += 1
    driver.fail("cuLaunchKernel", 0)
    assert failed
    for _ in range(4):
        for g, w in zip(step(x, y), want, strict=True):
            np.testing.assert_allclose(g.numpy(), w, rtol=1e-6)
    assert driver.calls("cuGraphLaunch") > before


def test_a_state_is_written_in_place():
    w = on_gpu(np.ones(100))
    rate = on_gpu(0.5)

    @pn.compile
    def step():
        w.assign(w - w * rate)

    for _ in range(5):
        step()
    np.testing.assert_allclose(w.numpy(), np.full(100, 0.5**5), rtol=1e-6)


def test_tf32_is_for_who_asks_for_it():
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(40, 48)).astype("f4") for _ in range(2))
    x, y = on_gpu(a), on_gpu(b)
    product = pn.compile(lambda x, y: x @ y.mT)
    exact = a.astype("f8") @ b.T.astype("f8")
    magnitude = np.abs(a) @ np.abs(b).T

    def errors():
        found = [
            (x @ y.mT).numpy(),
            product(x, y).numpy(),
            pn.einsum("ik,jk->ij", x, y),
        ]
        return [np.max(np.abs(np.asarray(r) - exact) / magnitude) for r in found]

    true = errors()
    assert max(true) < 1e-6
    pn.set_float32_matmul_precision("high")
    try:
        assert all(1e-5 < error < 2.0**-10 for error in errors())
        wide = on_gpu(a, "float64") @ on_gpu(b.T, "float64")
        assert np.allclose(wide.numpy(), exact, 1e-12, 1e-12)
    finally:
        pn.set_float32_matmul_precision("highest")
    assert errors() == true


def test_convolutions_of_a_compiled_function_share_what_they_turn():
    """Replayed, also as a graph, with the bits of the calls one by one."""
    rng = np.random.default_rng(0)
    x = on_gpu(rng.normal(size=(2, 8, 6, 6)), "bfloat16")
    v, w = (on_gpu(rng.normal(size=(8, 8, 3, 3)) / 9, "bfloat16") for _ in range(2))

    def two(x, v, w):
        return pn.nn.functional.conv2d(
            pn.nn.functional.conv2d(x, v, padding=1), w, padding=1
        )

    compiled = pn.compile(two)
    for scale in (1, 2, 4, 8):
        y = compiled(x * scale, v, w)
        assert np.array_equal(y.numpy(), two(x * scale, v, w).numpy())
    words = [2, 1, 8, 8, *[1, 6, 6] * 2, 1, 3, 3, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 0, 0]
    few = [1, *words[1:]]
    t, backend = x.dtype, x.device.backend
    made = Program("convolve", (t,), (t, t), ("forward",))
    launches = [backend.build(made, given) for given in (words, few)]
    shared = backend.sequence(
        [(launch, (0, 1, 2)) for launch in launches], 3
    ).temporaries
    assert [b.nbytes for b in shared] == [2 * 8 * 36 * 2, 8 * 9 * 8 * 2]


HOPPER = """
import numpy as np, portanet as pn
from portanet.devices import get
rng = np.random.default_rng(0)
x, w = (rng.normal(size=(136, 136)) for _ in range(2))
x, w = (pn.tensor(a, "bfloat16", "cuda") for a in (x, w))
def close(y, a, b):
    want = a.numpy().astype("f8") @ b.numpy().astype("f8")
    return np.allclose(y.numpy().astype("f8"), want, 1e-2, 0.1)
maps = get("cuda").backend._host.maps
assert close(x @ w, x, w) and len(maps) == 3, maps
assert close(x.mT @ w.mT, x.mT, w.mT) and len(maps) >= 5
product = pn.compile(lambda a, b: (a @ b) @ b)
for k in range(5):
    y = product(x, w)
    assert close(y, x @ w, w), k
    x = pn.tensor(rng.normal(size=(136, 136)), "bfloat16", "cuda") if k > 2 else x
print("right")
"""


def test_hopper_multiplies_what_lies_in_each_buffer():
    status, output, errors = run(HOPPER, FAKECUDA_ARCH="90")
    assert (status, output) == (0, "right"), errors


# ------------------------------------------------------------------------- DLPack


def test_memory_is_lent_and_borrowed_without_a_copy():
    x = on_gpu(np.arange(12).reshape(3, 4))
    assert x.__dlpack_device__() == (2, 0)
    y = pn.from_dlpack(x.mT[1:])
    assert y.device == "cuda" and y.tolist() == x.numpy().T[1:].tolist()
    assert abs(y.value.buffer.address - x.value.buffer.address) <= 16
    assert (y + 1).tolist() == (x.numpy().T[1:] + 1).tolist()
    assert pn.from_dlpack(x, copy=True).tolist() == x.tolist()
    assert pn.from_dlpack(x, device="cpu").tolist() == x.tolist()


@pytest.mark.parametrize("dtype", [t.name for t in get("cuda").backend.dtypes])
def test_every_dtype_is_lent(dtype):
    x = on_gpu([0, 1, 1, 0, 1], dtype)
    y = pn.from_dlpack(x[1:])
    assert y.dtype == dtype and y.tolist() == [1, 1, 0, 1]


def test_what_is_lent_lives_as_long_as_the_borrower(backend):
    gc.collect()
    before = backend.memory()["used"]
    x = on_gpu(np.arange(1000))
    y = pn.from_dlpack(x)
    del x
    gc.collect()
    assert backend.memory()["used"] >= before + 4000
    assert y.tolist()[:2] == [0, 1]
    del y
    gc.collect()
    assert backend.memory()["used"] <= before
    unused = on_gpu(np.arange(1000)).__dlpack__()
    del unused
    gc.collect()
    assert backend.memory()["used"] <= before


def test_who_borrows_waits_for_the_lenders_stream(backend, driver):
    host = backend._host
    other = host.call("cuStreamCreate", 1)
    x = on_gpu(np.arange(10)) + 1
    before = driver.calls("cuStreamSynchronize")
    capsule = x.__dlpack__(stream=int(other))
    out = np.zeros(10, "f4")
    host.call("cuMemcpyDtoHAsync", out.ctypes.data, x.value.buffer.address, 40, other)
    host.call("cuStreamSynchronize", other)
    assert out.tolist() == list(range(1, 11))
    assert driver.calls("cuStreamSynchronize") == before + 1
    del capsule


def test_dlpack_refuses_what_it_cannot_do():
    x = on_gpu([1.0])
    with pytest.raises(BufferError, match="on cuda; use .to"):
        x.__dlpack__(dl_device=(1, 0))
    with pytest.raises(ValueError, match="stream 0 is ambiguous"):
        x.__dlpack__(stream=0)
    with pytest.raises(BufferError, match="without a copy"):
        x.__dlpack__(copy=True)


# ---------------------------------------------------------------- what is missing

OPEN = "import portanet as pn; pn.zeros(2, device='cuda'); print('opened')"


def reason(code=OPEN, **environment):
    status, _, errors = run(code, **environment)
    assert status, "it opened"
    return errors.strip().splitlines()[-1]


def test_one_gpu_opens():
    assert run(OPEN, FAKECUDA_GPUS="1")[1] == "opened"


def test_a_driver_without_a_gpu_is_told():
    assert "finds no GPU; see nvidia-smi" in reason(FAKECUDA_GPUS="0")


@pytest.mark.parametrize(
    "version, cure", [(12040, r"portanet[cuda12]"), (11040, "CUDA 12 needs R525")]
)
def test_an_old_driver_is_told_with_the_extra_that_fits(version, cure):
    told = reason(FAKECUDA_VERSION=str(version))
    assert f"knows CUDA {version // 1000}" in told and cure in told


def test_an_old_gpu_is_told_with_the_extra_that_fits():
    told = reason(FAKECUDA_ARCH="61")
    assert "capability 6.1" in told and "portanet[cuda12]" in told


def test_no_driver_is_told():
    code = """
import cuda.bindings.driver as d
def no(flags): raise RuntimeError("Failure finding \\"libcuda.so\\"")
import types, sys
module = types.SimpleNamespace(cuInit=no)
import portanet.backend_cuda.installed as h
load = h.load
h.load = lambda name: module if name.endswith("driver") else load(name)
"""
    told = reason(code + OPEN)
    assert "no NVIDIA driver is installed" in told and "device='wgpu'" in told


def test_missing_packages_are_told_with_the_extras():
    code = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "cuda":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
"""
    told = reason(code + OPEN)
    assert "pip install 'portanet[cuda]'" in told and "portanet[cuda12]" in told


def test_info_and_doctor_tell_what_is_there(backend):
    about = backend.info()
    assert about["adapter"].startswith("fake GPU") and about["capability"] == "8.0"
    assert about["gpus"] and about["driver"] == "CUDA 13.0"
    from portanet import doctor

    found = doctor._cuda()
    assert found.ok and "fake GPU" in found.detail
