"""The text that an operator becomes on a device: WGSL, CUDA C++, bytecode or C.

The operator is run on one of its own test cases, with no data, and each program that it
launches is printed. No adapter is needed.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Sequence
from typing import Any

from .messages import CommandError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("operator", metavar="OPERATOR", help="its name: gelu, sum ...")
    parser.add_argument("--device", default="wgpu", metavar="D", help="default: wgpu")
    parser.add_argument(
        "--dtype", metavar="T", help="of its inputs (default: the first)"
    )


def run(arguments: argparse.Namespace) -> int:
    op = _operator(arguments.operator)
    recorder = Recorder(arguments.device)
    shapes = _launch(op, recorder, arguments.dtype)
    if not recorder.programs:
        print(f"{op.name}: a view; only strides change and there is nothing to launch")
        return 0
    mark = _comment(recorder.kind)
    print(f"{mark} {op.name} of {shapes} on {recorder.kind}")
    for number, (program, words) in enumerate(recorder.programs.items(), 1):
        types = [
            " ".join(t.name for t in ts) for ts in (program.inputs, program.outputs)
        ]
        print(f"\n{mark} {number}. {program.kernel}: {types[0]} -> {types[1]}")
        print(recorder.text(program, words).strip())
    return 0


def _comment(kind: str) -> str:
    return ";" if kind == "cpu" else "//"


def _operator(name: str) -> Any:
    import portanet  # noqa: F401, all operators are listed once it is imported
    from ..op import OPS

    if name in OPS:
        return OPS[name]
    close = difflib.get_close_matches(name, OPS, n=4, cutoff=0.5)
    tail = f"; close to it are {', '.join(close)}" if close else ""
    raise CommandError(f"show: there is no operator {name!r}{tail}")


class Recorder:
    """A device that keeps the programs that it is asked to build, and computes nothing."""

    def __init__(self, name: str):
        from ..devices import Device

        self.kind = name.partition(":")[0]
        self.programs: dict[Any, Sequence[int]] = {}  # with the words of a launch
        self.text, self.has, self.dtypes = _language(name)
        self.device = Device(name, self)

    def itemsize(self, dtype: Any) -> int:
        return dtype.itemsize

    def alloc(self, nbytes: int) -> None:
        return None

    def upload(self, array: Any, dtype: Any) -> None:
        return None

    def build(self, program: Any, words: Sequence[int]) -> Callable[..., None]:
        self.programs.setdefault(program, words)
        return lambda *buffers: None


def _language(name: str) -> tuple[Callable, Callable, frozenset]:
    """What a device says of programs: their text, the kernels and dtypes that it has.

    WGSL and CUDA C++ are made without a device, with the dtypes that one may have.
    """
    if name.partition(":")[0] == "wgpu":
        from ..shaders import lower, variants

        wgsl = lower.wgsl
        return (
            (lambda program, words: wgsl(program)),
            variants.has,
            frozenset(lower.STORED_AS),
        )
    if name.partition(":")[0] == "cuda":
        from .. import backend_cuda

        return backend_cuda.text, backend_cuda.has, backend_cuda.Backend.dtypes
    from ..devices import get

    backend = get(name).backend
    text = backend.text
    return (lambda program, words: text(program)), backend.has, backend.dtypes


def _launch(op: Any, recorder: Recorder, dtype: str | None) -> str:
    """Run the operator on the first of its cases that launches something."""
    import numpy as np

    cases = op.cases(np.random.default_rng(0)) if op.cases else []
    cases = [c for c in cases if all(np.size(a) for a in c.args)]
    if not cases:
        raise CommandError(f"show: {op.name} has no test case to run it on")
    shapes = ""
    # Matrices first: a kernel has more to show on them than on a scalar.
    for case in sorted(cases, key=lambda c: max(map(np.ndim, c.args)) < 2):
        shapes = ", ".join(str(np.shape(a)) for a in case.args)
        _run(op, case, recorder, dtype)
        if recorder.programs:
            break
    return shapes


def _run(op: Any, case: Any, recorder: Recorder, dtype: str | None) -> None:
    import numpy as np

    from ..arrays import Array, check_dtype, layout

    types = _dtypes(case, dtype)
    try:
        args = []
        for a, t in zip(case.args, types, strict=True):
            check_dtype(t, recorder.device, op.name)
            args.append(Array(None, layout(np.shape(a), t, recorder.device)))
        op(*args, **case.static)
    except (TypeError, ValueError) as error:
        raise CommandError(f"show: {error}") from None


def _dtypes(case: Any, asked: str | None) -> list[Any]:
    """The dtype of each input: floating ones vary; all of them do where none is."""
    import numpy as np

    from ..dtypes import as_dtype, int32

    try:
        chosen = as_dtype(asked or case.dtypes[0])
    except TypeError as error:
        raise CommandError(f"show: {error}") from None
    floating = [np.asarray(a).dtype.kind == "f" for a in case.args]
    if not any(floating):
        return [chosen] * len(floating)
    return [chosen if f else int32 for f in floating]
