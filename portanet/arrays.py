"""Array: a buffer on a device seen through a layout. Knows nothing of gradients.

Calling an operator on arrays looks up a prepared plan by (operator, statics, layouts). Only a
miss works out shapes, types, kernels and their words, through an Emitter.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import scalars
from .devices import Device
from .dtypes import Dtype
from .errors import DeviceError, OutOfMemoryError
from .op import Op, Spec
from .program import Program


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides, in elements, of a contiguous array of this shape."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))


MOST = 1 << 60  # elements of a tensor: its bytes still fit 64 bits


class Layout:
    """Shape, strides, offset (in elements), dtype and device. One object per value:
    layouts are equal if they are the same object, so a plan is found without comparing."""

    __slots__ = (
        "__weakref__",
        "contiguous",
        "device",
        "dtype",
        "offset",
        "shape",
        "size",
        "strides",
    )

    def __init__(self, shape, strides, offset, dtype, device):
        self.shape, self.strides, self.offset = shape, strides, offset
        self.dtype, self.device = dtype, device
        self.size = math.prod(shape)
        # A tensor among them would be read in the middle of a launch.
        if type(self.size) is not int and not isinstance(self.size, np.integer):
            raise TypeError(f"a shape is made of integers, not {shape}")
        if (
            self.size > MOST
            or not self.size
            and math.prod(n or 1 for n in shape) > MOST
        ):
            raise OutOfMemoryError(
                f"a tensor has at most 2 ** 60 elements, not {shape}"
            )
        self.contiguous = all(
            n == 1 or s == r
            for n, s, r in zip(shape, strides, row_major(shape), strict=True)
        )

    def view(self, shape, strides, offset=None) -> Layout:
        """The layout of the same buffer with another shape."""
        at = self.offset if offset is None else offset
        return layout(shape, self.dtype, self.device, strides, at)

    def expanded(self, shape: tuple[int, ...]) -> Layout:
        """Broadcast to `shape`: repeated dimensions get stride 0."""
        if shape == self.shape:
            return self
        lead = len(shape) - len(self.shape)
        old = zip(self.shape, self.strides, shape[lead:], strict=True)
        strides = [0 if n == 1 and n != to else s for n, s, to in old]
        return self.view(shape, (*[0] * lead, *strides))


_layouts: weakref.WeakValueDictionary[Any, Layout] = weakref.WeakValueDictionary()


def layout(shape, dtype, device, strides=None, offset=0) -> Layout:
    """The one Layout with these values; contiguous unless strides are given."""
    shape = tuple(shape)
    strides = row_major(shape) if strides is None else tuple(strides)
    key = (shape, strides, offset, dtype, device)
    found = _layouts.get(key)
    if found is None:
        found = _layouts[key] = Layout(shape, strides, offset, dtype, device)
    return found


class Array:
    """A buffer and its layout. A value: nothing changes it once it is made."""

    __slots__ = ("buffer", "layout")
    level = 0

    def __init__(self, buffer: Any, layout: Layout):
        self.buffer, self.layout = buffer, layout

    @property
    def shape(self) -> tuple[int, ...]:
        return self.layout.shape

    @property
    def dtype(self) -> Dtype:
        return self.layout.dtype

    @property
    def device(self) -> Device:
        return self.layout.device

    @property
    def ndim(self) -> int:
        return len(self.layout.shape)

    @property
    def size(self) -> int:
        return self.layout.size

    def constant(self, value: Any, dtype: Dtype) -> Array:
        """A 0-d array on the same device. The same number is uploaded once."""
        return constant(value, dtype, self.layout.device)

    def from_numpy(self, values: np.ndarray, dtype: Dtype) -> Array:
        """An array with these values on the same device."""
        return from_numpy(values, dtype, self.layout.device)

    def _apply(self, op: Op, args: Sequence[Array], static: dict[str, Any]) -> Any:
        if static:
            key = (op, *[a.layout for a in args], *static.items())
        else:
            key = (op, *[a.layout for a in args])
        plan = _plans.get(key)
        if plan is None:
            plan = _prepare(key, op, args, static)
        return plan(args)

    def numpy(self) -> np.ndarray:
        """A NumPy copy. Waits for the device."""
        x = self.layout
        if not x.size:
            return np.empty(x.shape, x.dtype.numpy)
        if not x.contiguous:
            return contiguous(self).numpy()
        read = x.device.backend.read
        return read(self.buffer, x.dtype, x.offset, x.size).reshape(x.shape)

    def item(self) -> Any:
        """The value of the one element. Waits for the device."""
        x = self.layout
        read = getattr(x.device.backend, "item", None)
        if read is None:
            return self.numpy().item()
        return read(self.buffer, x.dtype, x.offset)

    def to(self, device: Device) -> Array:
        """The same values on another device."""
        return (
            self
            if device is self.device
            else from_numpy(self.numpy(), self.dtype, device)
        )


def from_numpy(values: np.ndarray, dtype: Dtype, device: Device) -> Array:
    """A copy of the values on a device, as dtype."""
    check_dtype(dtype, device, "tensor")
    values = np.ascontiguousarray(values, dtype.numpy).reshape(values.shape)
    return Array(
        device.backend.upload(values, dtype), layout(values.shape, dtype, device)
    )


@functools.lru_cache(maxsize=4096)
def _constant(text: str, dtype: Dtype, device: Device) -> Array:
    value = {"True": True, "False": False}.get(text)
    if value is None:
        value = int(text) if dtype.is_integer else float(text)
    return from_numpy(np.array(value, dtype.numpy), dtype, device)


def constant(value: Any, dtype: Dtype, device: Device) -> Array:
    """A 0-d array of a Python number; OverflowError where an integer does not fit."""
    if dtype.is_float:
        value = float(value)
    elif dtype.is_integer:
        value = int(value)
        np.array(value, dtype.numpy)
    else:
        value = bool(value)
    # repr tells 0.0 from -0.0 and lets NaN be found again.
    return _constant(repr(value), dtype, device)


def check_dtype(dtype: Dtype, device: Device, name: str) -> None:
    """TypeError where the device lacks the dtype; it names one that works."""
    has = device.backend.dtypes
    if dtype in has:
        return
    alike = [
        t for t in has if t.kind == dtype.kind or t.is_integer and dtype.is_integer
    ]
    use = max(alike, key=lambda t: (t.itemsize, t.kind == dtype.kind)).name
    raise TypeError(f"{name}: {device} has no {dtype.name}; use {use}, or device='cpu'")


# Plans -------------------------------------------------------------------------------

_plans: dict[Any, Callable[[Sequence[Array]], Any]] = {}
MAX_PLANS = 1 << 15  # then all are forgotten: a loop over ever new shapes stays bounded


def forget_plans() -> None:
    """Calls are prepared anew: something that plans take for granted has changed."""
    _plans.clear()


class Handle(NamedTuple):
    """A buffer that a plan will have, seen through a layout."""

    slot: int
    layout: Layout


def _prepare(key, op: Op, args: Sequence[Array], static: dict[str, Any]):
    device = args[0].device
    for a in args:
        if a.device is not device:
            raise ValueError(
                f"{op.name}: tensors are on {device} and {a.device}; "
                f'move one with .to("{device}")'
            )
    given = [Spec(a.shape, a.dtype) for a in args]
    result = op.rule(*given, **static)
    is_formula = op.takes_formula(device, given, static)
    if not is_formula and uses_fallback(op, device):
        fallback: Any = op.fallback
        plan = _plans[key] = lambda args: fallback(*args, **static)
        return plan
    if op.kernel is not None and not device.backend.has(op.kernel):
        raise DeviceError(
            f"{op.name}: {device} has no kernel {op.kernel!r}; use device='cpu'"
        )
    several = not isinstance(result, Spec)
    specs = result if several else (result,)
    for spec in specs:
        check_dtype(spec.dtype, device, op.name)
    emit = Emitter(device, op.name, [a.layout for a in args])
    if is_formula:
        ends = emit.formula(op, emit.inputs, specs, static)
    else:
        ends = op.lower(emit, *emit.inputs, **static)  # type: ignore[misc]
    ends = (ends,) if isinstance(ends, Handle) else tuple(ends)
    for spec, end in zip(specs, ends, strict=True):
        assert spec == (end.layout.shape, end.layout.dtype), (op.name, spec, end)
    if len(_plans) >= MAX_PLANS:
        _plans.clear()
    plan = _plans[key] = emit.plan(ends, several)
    return plan


def uses_fallback(op: Op, device: Device) -> bool:
    """Whether a call that takes no formula runs as other operators."""
    if op.lower is None:
        return True
    if op.fallback is None or op.kernel is None:
        return False
    return not device.backend.has(op.kernel)


def elementwise_program(
    label: str,
    expression: scalars.Expression,
    outputs: Sequence[Handle],
    inputs: Sequence[Handle],
    row: int = 0,
) -> tuple[Program, list[int]]:
    """The program of an expression between these buffers, and its words; inputs broadcast
    to the shape of the outputs. `row`: elements of a row, where the expression has rows; a
    result of one element for each row is an output expanded over the rows."""
    shape = outputs[0].layout.shape
    layouts = [h.layout for h in outputs]
    layouts += [h.layout.expanded(shape) for h in inputs]
    sizes, strides = collapse(shape, [x.strides for x in layouts])
    found = [_mode(sizes, s) for s in strides]
    for k, x in enumerate(layouts if expression.has_rows else ()):
        if _is_one_a_row(x, row):
            found[k] = "r"
    modes = "".join(found)
    rank = len(sizes) if "v" in modes else 0
    words = [math.prod(shape), *(x.offset for x in layouts)]
    if rank:
        words += sizes
        for mode, s in zip(modes, strides, strict=True):
            words += s if mode == "v" else ()
    if expression.has_rows:
        assert row and words[0] % row == 0, (label, words[0], row)
        words.append(row)
    made, read = (tuple(h.layout.dtype for h in hs) for hs in (outputs, inputs))
    program = Program(
        "elementwise", made, read, (), expression, modes, rank, label=label
    )
    return program, words


class Emitter:
    """Writes down the launches of one operator for given layouts."""

    def __init__(self, device: Device, label: str, layouts: Sequence[Layout]):
        self.device, self.label = device, label
        self.inputs = [Handle(i, x) for i, x in enumerate(layouts)]
        self.sizes: list[int] = []  # bytes of the buffers made, slots after the inputs'
        self.steps: list[tuple[Callable, tuple[int, ...]]] = []

    def empty(self, shape: Sequence[int], dtype: Dtype) -> Handle:
        """A new buffer, contiguous."""
        made = layout(shape, dtype, self.device)
        self.sizes.append(made.size * self.device.backend.itemsize(dtype))
        return Handle(len(self.inputs) + len(self.sizes) - 1, made)

    def view(self, x: Handle, shape, strides, offset=None) -> Handle:
        """The same buffer under another shape."""
        return Handle(x.slot, x.layout.view(shape, strides, offset))

    def launch(self, program: Program, words, outputs, inputs) -> None:
        """One launch of a program."""
        built = self.device.backend.build(program, tuple(words))
        slots = tuple(h.slot for h in (*outputs, *inputs))
        self.steps.append((built, slots))

    def kernel(
        self, kernel: str, words, outputs, inputs, options: tuple[str, ...] = ()
    ) -> None:
        """One launch of a kernel that is a file; nothing where there is nothing to write."""
        if outputs[0].layout.size:
            self.check_sizes([h.layout for h in (*outputs, *inputs)])
            made, read = (tuple(h.layout.dtype for h in hs) for hs in (outputs, inputs))
            program = Program(kernel, made, read, options, label=self.label)
            self.launch(program, words, outputs, inputs)

    def check_sizes(self, operands: Sequence[Spec | Layout]) -> None:
        """OutOfMemoryError where one launch can't count the elements of an operand, which
        may take no memory: a number that is broadcast."""
        backend = self.device.backend
        most = getattr(backend, "max_elements", MOST)
        for x in operands:
            if (size := math.prod(x.shape)) > most:
                raise OutOfMemoryError(
                    f"{self.label}: {self.device} counts {most} elements at most, and shape "
                    f"{x.shape} has {size} ({size * backend.itemsize(x.dtype)} bytes); "
                    "split it, or use the cpu"
                )

    def kernel_dtype(self, kernel: str, dtype: Dtype) -> Dtype:
        """What a kernel of this device takes values of a dtype as: the dtype itself, or the
        one that it is computed in."""
        halves = getattr(self.device.backend, "halves", ())
        return dtype if kernel in halves else dtype.compute

    def formula(self, op: Op, inputs, specs: Sequence[Spec], static) -> list[Handle]:
        """An elementwise operator on these inputs, into new buffers."""
        self.check_sizes([*specs, *(h.layout for h in inputs)])
        dtypes = tuple(h.layout.dtype for h in inputs)
        casts = op.casts(*dtypes, **static) if op.casts else [t.compute for t in dtypes]
        expression = _traced(
            op,
            dtypes,
            tuple(casts),
            tuple(s.dtype for s in specs),
            tuple(static.items()),
        )
        outputs = [self.empty(s.shape, s.dtype) for s in specs]
        if not op.row:
            self.elementwise(expression, outputs, inputs)
            return outputs
        given = [Spec(h.layout.shape, h.layout.dtype) for h in inputs]
        shape = np.broadcast_shapes(*(x.shape for x in given))
        wide = [Handle(h.slot, h.layout.expanded(shape)) for h in outputs]
        self.elementwise(expression, wide, inputs, op.row(*given, **static))
        return outputs

    def elementwise(self, expression, outputs, inputs, row: int = 0) -> None:
        """One launch of an expression; inputs broadcast to the shape of the outputs."""
        shape = outputs[0].layout.shape
        if 0 in shape:
            return
        program, words = elementwise_program(
            self.label, expression, outputs, inputs, row
        )
        self.launch(program, words, outputs, inputs)

    def copy(self, x: Handle, into: Handle) -> None:
        """Write x, broadcast and cast, into a view of a buffer."""
        expression = _identity(x.layout.dtype, into.layout.dtype)
        self.elementwise(expression, [into], [x])

    def cast(self, x: Handle, dtype: Dtype) -> Handle:
        """x in this dtype, copied if it has another."""
        if x.layout.dtype is dtype:
            return x
        made = self.empty(x.layout.shape, dtype)
        self.copy(x, made)
        return made

    def fill(self, value: Any, into: Handle) -> None:
        """Write a number into a view of a buffer."""
        self.elementwise(_filler(repr(value), into.layout.dtype), [into], [])

    def contiguous(self, x: Handle) -> Handle:
        """x, copied if its elements are not in row-major order."""
        if x.layout.contiguous:
            return x
        made = self.empty(x.layout.shape, x.layout.dtype)
        self.copy(x, made)
        return made

    def reshape(self, x: Handle, shape: Sequence[int]) -> Handle:
        """x under another shape of the same size; a view where strides allow it."""
        strides = reshaped_strides(x.layout.shape, x.layout.strides, shape)
        if strides is None:
            x = self.contiguous(x)
            strides = row_major(shape)
        return self.view(x, tuple(shape), strides)

    def rows(self, x: Handle) -> tuple[Handle, int, int, int]:
        """x as rows along its last axis: (x, copied where its other axes don't merge; how
        many rows; from row to row; from element to element)."""
        shape = x.layout.shape
        sizes, (strides,) = collapse(shape[:-1], [x.layout.strides[:-1]])
        if len(sizes) > 1:
            x = self.contiguous(x)
            sizes, (strides,) = collapse(shape[:-1], [x.layout.strides[:-1]])
        rows = math.prod(shape[:-1])
        return x, rows, strides[0] if strides else 0, x.layout.strides[-1]

    def plan(self, ends: Sequence[Handle], several: bool) -> Callable:
        """The recorded launches as one function of the arrays."""
        count, sizes, steps = len(self.inputs), self.sizes, self.steps
        # Buffers are written by launches, whose order is theirs.
        if not several and not sizes:
            return _view_plan(ends[0])
        direct = len(sizes) == 1 and len(steps) == 1 and not several
        if direct and steps[0][1] == (count, *range(count)) and ends[0].slot == count:
            return _direct_plan(self, count, steps[0][0], ends[0].layout)
        return _general_plan(self, ends, several)


def _alloc(device: Device, label: str) -> Callable[[int], Any]:
    alloc = device.backend.alloc

    def named(nbytes):
        try:
            return alloc(nbytes)
        except OutOfMemoryError as error:
            raise OutOfMemoryError(f"{label}: {error}") from None

    return named


def _view_plan(end: Handle):
    slot, seen = end.slot, end.layout
    return lambda args: Array(args[slot].buffer, seen)


def _direct_plan(emit: Emitter, count: int, launch: Callable, seen: Layout):
    """One launch into one new buffer: most operators, so without a loop."""
    alloc, nbytes = emit.device.backend.alloc, emit.sizes[0]
    slow = _alloc(emit.device, emit.label)

    def one(args):
        try:
            out = alloc(nbytes)
        except OutOfMemoryError:
            out = slow(nbytes)
        launch(out, args[0].buffer)
        return Array(out, seen)

    def two(args):
        try:
            out = alloc(nbytes)
        except OutOfMemoryError:
            out = slow(nbytes)
        a, b = args
        launch(out, a.buffer, b.buffer)
        return Array(out, seen)

    def many(args):
        try:
            out = alloc(nbytes)
        except OutOfMemoryError:
            out = slow(nbytes)
        launch(out, *[a.buffer for a in args])
        return Array(out, seen)

    return {1: one, 2: two}.get(count, many)


def _general_plan(emit: Emitter, ends: Sequence[Handle], several: bool):
    alloc, sizes, steps = _alloc(emit.device, emit.label), emit.sizes, emit.steps

    def run(args):
        buffers = [a.buffer for a in args]
        buffers += [alloc(n) for n in sizes]
        for launch, slots in steps:
            launch(*[buffers[i] for i in slots])
        made = [Array(buffers[h.slot], h.layout) for h in ends]
        return tuple(made) if several else made[0]

    return run


@functools.lru_cache(maxsize=4096)
def _traced(op, dtypes, casts, results, static):
    """The expression of an operator's formula between these storage types."""

    def whole(*xs):
        xs = [x.astype(t) for x, t in zip(xs, casts, strict=True)]
        y = op.formula(*xs, **dict(static))
        ys = y if isinstance(y, tuple) else (y,)
        return tuple(v.astype(t.compute) for v, t in zip(ys, results, strict=True))

    return scalars.trace(whole, dtypes)


@functools.cache
def _identity(source: Dtype, target: Dtype):
    return scalars.trace(lambda x: x.astype(target.compute), (source,))


@functools.lru_cache(maxsize=1024)
def _filler(text: str, dtype: Dtype):
    builder = scalars.Builder(())
    value = {"True": True, "False": False}.get(text)
    value = float(text) if value is None else value
    if dtype.is_integer and not isinstance(value, bool):
        value = int(text)
    made = builder.emit("const", dtype.compute, (), value)
    return scalars.finish(builder, [made.value])


def contiguous(x: Array) -> Array:
    """x with its elements in row-major order; x itself where they are."""
    if x.layout.contiguous:
        return x
    emit = Emitter(x.device, "contiguous", [x.layout])
    end = emit.contiguous(emit.inputs[0])
    return emit.plan([end], False)([x])


# Strides -----------------------------------------------------------------------------


def collapse(shape, strides):
    """The same elements in fewer dimensions: those of size 1 dropped, those that every
    operand walks in one step merged. Sizes, and the strides of each operand."""
    sizes: list[int] = []
    merged: list[list[int]] = [[] for _ in strides]
    for d in range(len(shape)):
        n = shape[d]
        if n == 1:
            continue
        now = [s[d] for s in strides]
        if sizes and all(m[-1] == s * n for m, s in zip(merged, now, strict=True)):
            sizes[-1] *= n
            for m, s in zip(merged, now, strict=True):
                m[-1] = s
        else:
            sizes.append(n)
            for m, s in zip(merged, now, strict=True):
                m.append(s)
    return tuple(sizes), [tuple(m) for m in merged]


def _is_one_a_row(x: Layout, row: int) -> bool:
    """Whether a layout has one element for each row, one after the other."""
    k = len(x.shape)
    while k and not x.strides[k - 1]:
        k -= 1
    inside = math.prod(x.shape[k:])
    return row > 1 and inside == row and x.strides[:k] == row_major(x.shape[:k])


def _mode(sizes, strides) -> str:
    if not any(strides):
        return "c" if not sizes else "s"
    return "c" if strides == row_major(sizes) else "v"


def reshaped_strides(shape, strides, target) -> tuple[int, ...] | None:
    """Strides under which a view has the shape `target`, or None if it needs a copy."""
    if 0 in target:
        return row_major(target)
    sizes, (steps,) = collapse(shape, [strides])
    groups = list(zip(sizes, steps, strict=True)) or [(1, 1)]
    result: list[int] = []
    d = 0
    for n, step in groups:
        part, left = [], n
        while left > 1 and d < len(target):
            if left % target[d]:
                return None
            left //= target[d]
            part.append(target[d])
            d += 1
        if left > 1:
            return None
        result += [s * step for s in row_major(part)]
    return (*result, *[1] * (len(target) - d))
