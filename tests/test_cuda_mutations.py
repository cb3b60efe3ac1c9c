"""Would the tests of the CUDA kernels notice? Faults are planted, one by one.

Each goes into one file of the backend, in memory; the named tests of the kernels run on it
in a process of their own, some built with AddressSanitizer, and must fail. Without a fault
they pass: the files in KERNELS run them so.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("cuda.bindings")
pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="the simulator is built by g++"
)
TESTS = Path(__file__).parent
KERNELS = [
    f"tests/test_cuda_{name}.py"
    for name in (
        "kernels",
        "convolve",
        "rows",
        "attention",
        "normalise",
        "recurrent",
        "beside",
    )
]
BARRIER = "__syncthreads();"


@dataclass(frozen=True)
class Fault:
    """In `file`, `right` becomes `wrong`; of the tests `-k chosen` one fails."""

    name: str
    file: str
    right: str
    wrong: str
    chosen: str
    is_sanitized: bool = False


def missing(name, file, before, after, chosen):
    """A barrier that is not there; `before` and `after` are what it stands between."""
    lines = f"{before}{BARRIER}{after}"
    return Fault(name, file, lines, lines.replace(BARRIER, ""), chosen)


ROWS = "rows_and_columns and sum"
SMALL_TILE = "matmul_of_every_layout and shape1"
MMA = "by_tensor_cores and 80 and ab"
TENSORS = "its_gradients and case5"
TURNED = "convolve_by_tensor_cores and 0-forward"
WGMMA = "matmul_by_wgmma and not ab"
FAULTS = (
    missing("rows: partial sums are read at once", "reduce.cu",
            "parts[t / 32] = a;\n    ", "", ROWS),
    missing("columns: rows are added at once", "reduce.cu",
            "half /= 2) {\n        ", "\n        if (ty < half)", ROWS),
    missing("tile: the first slice is read at once", "tile.cuh",
            "b_loader.put(b_slice[0]);\n        ", "", SMALL_TILE),
    missing("tile: the next slice is read at once", "tile.cuh",
            "b_loader.put(b_slice[which]);\n            ", "", SMALL_TILE),
    missing("scan: warps' sums are read at once", "scan.cu",
            "parts[warp] = sum;\n    ", "", "test_scan and float32-sum-inclusive"),
    missing("scan: sums are replaced while they are read", "scan.cu",
            "left = initial();\n    ", "", "test_scan and float32-sum-inclusive"),
    missing("scatter: counts are read at once", "scatter.cu",
            "of_warp[warp] = __popc(mine);\n        ", "", "test_scatter and 0-add"),
    missing("scatter: the list is read at once", "scatter.cu",
            "found_row[at] = (int)row;\n        }\n        ", "", "test_scatter and 0-add"),
    missing("mma: a slice is replaced while it is read", "mma.cuh",
            "pn_wait<STAGES - 2>();\n            ", "", MMA),
    Fault("mma: copies are not waited for", "mma.cuh",
          "pn_wait<STAGES - 2>();", "pn_wait<STAGES - 1>();", MMA),
    Fault("mma: halves of a fragment are exchanged", "mma.cuh",
          "deep = is_a ? matrix / 2 : matrix % 2;", "deep = matrix % 2;", MMA),
    Fault("wgmma: slices are read before they have come", "matmul.cu",
          "pn_await(full + stage, parity);", "", WGMMA),
    Fault("wgmma: slices are replaced while they are read", "matmul.cu",
          "pn_await(empty + stage, parity ^ 1);", "", WGMMA),
    Fault("wgmma: a phase is mistaken for the one before", "matmul.cu",
          "stage = 0, parity ^= 1;", "stage = 0;", WGMMA),
    Fault("wgmma: a stage is given back before its products are done", "matmul.cu",
          "pn_arrive(empty + before);\n            before", "pn_arrive(empty + stage);\n            before",
          WGMMA),
    Fault("wgmma: too few bytes are waited for", "matmul.cu",
          "pn_expect(full + stage, STAGE)", "pn_expect(full + stage, ASlice::BYTES)", WGMMA),
    Fault("wgmma: sums are used before they are done", "matmul.cu",
          "pn_wgmma_all(sums);", "", WGMMA),
    Fault("wgmma: no fence before the products", "matmul.cu",
          "pn_wgmma_fence();", "", WGMMA),
    Fault("wgmma: products that are not committed", "matmul.cu",
          "pn_wgmma_commit();", "", WGMMA),
    Fault("wgmma: the result under another swizzle", "matmul.cu",
          "(piece ^ line % 8)", "(piece ^ line % 4)", WGMMA),
    Fault("wgmma: the slices under another swizzle", "wgmma.cuh",
          "swizzle_128 = 1;", "swizzle_128 = 2;", WGMMA),
    Fault("wgmma: boxes that lie closer", "wgmma.cuh",
          "ALONG_L ? 1 : BOX >> 4", "ALONG_L ? 1 : BOX >> 5", WGMMA),
    Fault("wgmma: the result is stored before it can be seen", "matmul.cu",
          "pn_show_to_tma();", "", WGMMA),
    Fault("wgmma: the result is stored before it is written", "matmul.cu",
          "pn_show_to_tma();\n    pn_group_barrier(group);", "pn_show_to_tma();", WGMMA),
    Fault("wgmma: a result is replaced while it is stored", "matmul.cu",
          "if (thread == 0) pn_taken();", "", WGMMA),
    Fault("wgmma: the last results are not waited for", "matmul.cu",
          "if (threadIdx.x % 128 == 0) pn_taken();", "", WGMMA),
    Fault("beside: the first block of a launch is taken for the one before", "pn.cuh",
          "table.first[copy + step] <= block", "table.first[copy + step] < block",
          "updated_by_its_own and float32"),
    Fault("beside: the search for a launch ends early", "pn.cuh",
          "int step = 256; step > 0", "int step = 256; step > 1",
          "updated_by_its_own and float32"),
    Fault("tile: a stale slice", "tile.cuh", "which ^= 1;", "", SMALL_TILE),
    Fault("rows: a barrier that not all reach", "reduce.cu",
          "parts[t / 32] = a;\n    __syncthreads();",
          "{ parts[t / 32] = a; __syncthreads(); }", ROWS),
    Fault("warps: half a warp is left out", "reduce.cu",
          "int distance = 16; distance", "int distance = 8; distance", ROWS),
    Fault("warps: one output too many", "reduce.cu",
          "if (o >= (count_t)P[3]) return;", "if (o > (count_t)P[3] + 4) return;",
          "rows_and_columns and max"),
    Fault("tile: a column past the last is written", "matmul.cu",
          "            if (j >= q.n) continue;\n", "",
          "every_layout and shape0"),
    Fault("tile: a row past the last is read", "matmul.cu",
          "if (i >= size) i = size - VECTOR_ACROSS;", "",
          "every_layout and shape0", is_sanitized=True),
    Fault("tile: one element of l too many", "matmul.cu",
          "    PN_MEMBER void load(index_t at, int l, Pack &pack) const {\n        if (l < end)",
          "    PN_MEMBER void load(index_t at, int l, Pack &pack) const {\n        if (l <= end)",
          "every_layout and shape0"),
    Fault("tile: a short array", "tile.cuh",
          "PN_SHARED(T, b_slice, [2][BK][BLoader::PITCH]);",
          "PN_SHARED(T, b_slice, [1][BK][BLoader::PITCH]);", SMALL_TILE, is_sanitized=True),
    Fault("rows: a short array", "reduce.cu",
          "PN_SHARED(A, parts, [8]);", "PN_SHARED(A, parts, [7]);", ROWS,
          is_sanitized=True),
    Fault("scatter: places in a list that two share", "scatter.cu",
          "((1u << t % 32) - 1)", "((2u << t % 32) - 1)", "test_scatter and 0-add"),
    Fault("index: the size is inside", "index.cuh",
          "place < size", "place <= size", "out_of_range"),
    Fault("random: no carry into the high word", "random.cu",
          "(unsigned)(end >> 32)", "(unsigned)(counter >> 32)", "random_has"),
    Fault("convolve: the padding on the right is missed", "convolve.cu",
          "(unsigned)at.c < (unsigned)s.c", "(unsigned)at.c <= (unsigned)s.c",
          "test_convolve and forward and case0"),
    missing("convolve: what is turned is written at once", "turn.cuh",
            "((PN_X0 *)tile[column])[row] = value;\n    }\n    ", "", TURNED),
    Fault("convolve: channels that fill are left as they are", "turn.cuh",
          "PN_X0 value = {};", "PN_X0 value;\n        __builtin_memset(&value, 0xff, sizeof value);", TURNED),
    Fault("convolve: a row past the last is turned", "turn.cuh",
          "i < rows && j < columns", "i <= rows && j < columns", TURNED),
    Fault("convolve: a step's carry is lost", "convolve_mma.cuh",
          "at.c += by.c + carry(at.d, radix.d);", "at.c += by.c, carry(at.d, radix.d);",
          "tensor_cores and 2-forward"),
    Fault("convolve: a tap past the last", "convolve_mma.cuh",
          "const bool is_there = at.a < radix.a;\n        const Three tap",
          "const bool is_there = at.a <= radix.a;\n        const Three tap",
          "tensor_cores and 0-forward"),
    Fault("convolve: a place past the last, of the weight", "convolve_mma.cuh",
          "at.a < radix.a && is_within(seen, sizes)", "is_within(seen, sizes)",
          "tensor_cores and 0-weight", is_sanitized=True),
    Fault("convolve: the first tap of each phase is tap 0", "convolve_mma.cuh",
          "return Met{first, (taps", "return Met{0, (taps", "tensor_cores and 1-input"),
    Fault("convolve: a row past the last is stored", "convolve_mma.cuh",
          "                if (i >= m) continue;\n", "", "tensor_cores and 0-forward"),
    Fault("convolve: places that x does not have are stored", "convolve_mma.cuh",
          "    if (!is_within(q, s.x())) return -1;\n", "", "tensor_cores and 1-input"),
    Fault("convolve: parts of a sum overlap", "convolve_mma.cuh",
          "end = begin + P[1] < k ? begin + (int)P[1] : k;\n        at",
          "end = begin + P[1] < k ? begin + (int)P[1] + Tile::DEPTH : k;\n        at",
          "tensor_cores and 2-input"),
    Fault("rows of formulas: a warp's part is read at once", "rows.cu",
          "PN_DEVICE void meet() { __syncthreads(); }", "PN_DEVICE void meet() {}",
          "every_length and 1500"),
    Fault("rows of formulas: half the lanes are left out", "rows.cu",
          "int distance = n / 2; distance", "int distance = n / 4; distance",
          "every_length and 65"),
    Fault("attention: slices are replaced while they are read", "attention.cu",
          "__syncthreads();  // nobody reads the slices any more\n            if (j == 0",
          "if (j == 0", "its_gradients and case0"),
    Fault("attention: slices are read at once", "attention.cu",
          "__syncthreads();  // and now they are there\n            multiply", "multiply",
          "its_gradients and case0"),
    Fault("attention backward: slices are replaced while they are read", "attention.cu",
          "__syncthreads();  // nobody reads the slices any more\n        if (is_first",
          "if (is_first", "its_gradients and case0"),
    Fault("attention: one key too many", "attention.cuh",
          "(j < keys) &", "(j <= keys) &",
          "its_gradients and case1"),
    Fault("attention: rows past the last are read", "attention.cu",
          "if (first + row < m.rows) {", "if (first + row <= m.rows) {",
          "its_gradients and case0", is_sanitized=True),
    Fault("attention: what was summed is not rescaled", "attention.cu",
          "sums[n][r][e] *= before[r];", ";", "its_gradients and case1"),
    Fault("attention by tensor cores: copies are not waited for", "attention_mma.cuh",
          "= LOWEST;\n    for (int j = 0; j < end; j += OTHER) {\n        pn_wait<0>();",
          "= LOWEST;\n    for (int j = 0; j < end; j += OTHER) {\n", TENSORS),
    missing("attention by tensor cores: a stage is read and replaced at once",
            "attention_mma.cuh",
            "step < steps; step++) {\n        pn_wait<0>();\n        ", "", TENSORS),
    Fault("attention by tensor cores: stages that are one", "attention_mma.cuh",
          "return stages + step % 2 * STAGE;", "return stages;", TENSORS),
    Fault("attention by tensor cores: keys past the last", "attention_mma.cuh",
          "j + OTHER > keys || (f.causal && j + OTHER > low + 1), first, j, s);",
          "j > keys || (f.causal && j + OTHER > low + 1), first, j, s);",
          "its_gradients and case8"),
    Fault("attention by tensor cores: a diagonal that is cut short", "attention_mma.cuh",
          "i + OTHER <= low", "i + OTHER <= low + MT * 16", TENSORS),
    Fault("attention by tensor cores: a stale row maximum", "attention_mma.cuh",
          "top[m][half] = most, sum", "sum", TENSORS),
    Fault("attention by tensor cores: rows past the last are copied", "attention_mma.cuh",
          "is_there && c < m.width", "c < m.width", TENSORS),
    Fault("attention by tensor cores: statistics of another head", "attention_mma.cuh",
          "(b * heads + h) * P[39]", "(b * heads + g) * P[39]", TENSORS),
    Fault("attention by tensor cores: words of other keys", "attention_mma.cuh",
          "j / 4 + r / 2 * 2", "j / 4 + r / 2", "its_gradients and case8"),
    missing("recurrent: the weights are turned at once", "recurrent.cu",
            "tile[ty][tx] = WEIGHTS[(long long)(first_l + ty) * SIZE + first_j + tx];\n    ",
            "", "recurrent_is and lstm and 36"),
    Fault("recurrent: a row past the last", "recurrent.cu",
          "row < BATCH && own < SIZE", "own < SIZE", "recurrent_is and lstm and 36"),
    Fault("recurrent: an element past the last", "recurrent.cu",
          "GATES == 1 && j + c < SIZE ?", "GATES == 1 ?", "recurrent_is and relu",
          is_sanitized=True),
    Fault("normalise: parts are replaced while they are read", "normalise.cu",
          "__syncthreads();  // nobody reads the parts before these\n    ", "",
          "layer_norm and 1500"),
    Fault("normalise: the teams' sums are read at once", "normalise.cu",
          "});\n        __syncthreads();\n        for (int at = threadIdx.x",
          "});\n        for (int at = threadIdx.x", "layer_norm and 132"),
    Fault("normalise: means count alike, whatever they are of", "normalise.cu",
          "share = b.count / count;", "share = (T)0.5;", "batch_norm and 49"),
    Fault("pool: the last of equals", "pool.cu", "value > best", "value >= best",
          "pool_finds and float32-sizes1"),
)  # fmt: skip


def sanitizer():
    """The environment of a process whose shared objects have AddressSanitizer."""
    library = subprocess.run(
        ["g++", "-print-file-name=libasan.so"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    return {
        "CUSIM_SANITIZE": "1",
        "LD_PRELOAD": f"{library} {library.replace('libasan', 'libstdc++')}",
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0:redzone=2048",
    }


class Kernels:
    """The kernels' tests in a process of their own, without a device but the cpu."""

    def __init__(self, **environment):
        given = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        given.pop("PORTANET_FAKE_CUDA", None)
        given |= {"PORTANET_REQUIRE_DEVICES": "cpu", "PORTANET_NO_SKIPS": ""}
        given |= {
            "PORTANET_SOFTWARE_DRIVER": "none",
            "VK_DRIVER_FILES": "/nothing.json",
        }
        given |= {"VK_ICD_FILENAMES": "/nothing.json"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.cuda.planted", *KERNELS],
            cwd=TESTS.parent,
            env=given | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, chosen, fault=None):
        """(status, output) of pytest."""
        chosen = f"({chosen}) and not code_keeps"
        self.process.stdin.write(json.dumps([fault, chosen]) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the process that runs the kernels' tests has ended"
        return json.loads(answer)

    def end(self):
        self.process.communicate()


@pytest.fixture(scope="module")
def plain():
    kernels = Kernels()
    yield kernels
    kernels.end()


@pytest.fixture(scope="module")
def sanitized():
    kernels = Kernels(**sanitizer())
    yield kernels
    kernels.end()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.name)
def test_the_fault_is_caught(fault, request):
    kernels = request.getfixturevalue("sanitized" if fault.is_sanitized else "plain")
    planted = [fault.file, fault.right, fault.wrong]
    status, output = kernels.run(fault.chosen, planted)
    # The fault was planted, and compiles.
    assert "times" not in output and "g++" not in output, output[-3000:]
    # A wild write may also end the process.
    assert status == pytest.ExitCode.TESTS_FAILED or status < 0, output[-3000:]
    assert status != -signal.SIGALRM, "out of time"
    if fault.is_sanitized:
        assert "AddressSanitizer" in output, output[-3000:]


# Tests of the kernels, of all kinds, that run with AddressSanitizer.
SANITIZED = [
    "every_shape and (float32 or uint8) or every_layout",
    "tensor_cores and 80 or cores and 1-in",
    "rows_and_columns and argmax or test_scan and bfloat16",
    "test_gather or test_scatter and add or random_has or pool_finds and bfloat16",
    "test_convolve and case0 or test_convolve and case4",
    "every_length and 10 or one_for_a_row or batch_norm and 49 or 132",
    "its_gradients and case1 or recurrent_is and gru",
    "its_gradients and case5",
    "updated_by_its_own and float32 or reduced_by_its_own and sum",
]


@pytest.mark.parametrize("chosen", SANITIZED)
def test_kernels_read_and_write_only_what_is_theirs(chosen, sanitized):
    """Kernels built with AddressSanitizer, without a fault."""
    status, output = sanitized.run(chosen)
    assert status == 0, output[-4000:]
