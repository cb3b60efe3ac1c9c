"""Program: what a backend needs to build one kernel, and the words it reads.

A program is plain data. The words that go with a launch are integers, packed here once,
which every backend reads in the same order (int64 on cpu and cuda, two's complement u32 on
wgpu). Sizes, strides and offsets count elements. Rank-1 to rank-3 views are called
(outer, axis, inner). Operands of a launch are the buffers of the outputs, then the inputs.

  elementwise   n, then the offset of each operand, shape[rank], then strides[rank] of each
                operand whose mode is "v". Modes (one letter an operand, outputs first):
                "c" contiguous from its offset, "s" one element for all, "v" strided, and
                where the expression has rows "r": one element for each row, contiguous. rank
                is 0 if no operand is "v". Where the expression has rows, the number of
                elements of a row follows: it divides n.
  reduce        kept, reduced, kept_rank, reduced_rank, offset, kept_shape[], kept_strides[],
                reduced_shape[], reduced_strides[]. Output contiguous, `kept` elements,
                row-major over kept_shape. options: (which,) one of sum mean prod max min any
                all argmax argmin. argmax and argmin give the row-major position over
                reduced_shape as int32, the first of equals; NaN wins max, min, argmax and
                argmin. sum, mean and prod accumulate in float32 or better.
                y[k] = which over r of x[k, r]. options (which, "made"): an expression makes x
                (below).
  matmul        batch, m, n, k, batch_rank, a_offset, a_row, a_column, b_offset, b_row,
                b_column, batch_shape[], a_batch_strides[], b_batch_strides[]. Output
                contiguous (batch, m, n). y[b, i, j] = sum_l a[b, i, l] * x[b, l, j].
                float16 and bfloat16 accumulate in float32, integers wrap. options: () or
                ("tf32",): factors of float32 may be rounded to 10 bits of fraction. May have
                an epilogue (below).
  convolve      n, groups, channels, outputs (of a group), x[3], y[3], kernel[3], stride[3],
                padding[3] (in front), dilation[3], x_offset, w_offset, y_offset. All
                contiguous and of one floating dtype; axes that are missing, in front, have
                size 1. options: (which,): "forward" makes y of x and w, "input" makes x of
                y and w, "weight" makes w of x and y; then "tf32", as of matmul.
                y[n, g o' + o, p] = sum over c, t of
                x[n, g c' + c, p stride + t dilation - padding] * w[g o' + o, c, t].
                May have an epilogue.
  pool          planes, x[3], y[3], kernel[3], stride[3], padding[3], dilation[3], x_offset.
                Input and output contiguous, axes in front of size 1; y is int32: y[n, p] =
                the row-major place in plane n of the first largest x[n, p stride + t
                dilation - padding] inside x, NaN before all. An axis whose kernel is 0 has
                adaptive windows: p takes [p x / y, (p + 1) x / y), widened.
  recurrent     steps, batch, size, the first input's offset and its strides by step and by row,
                offsets of the other inputs. options: (cell, way): cell is tanh, relu, lstm
                or gru. All but the first input contiguous, of one floating dtype.
                "forward": h (steps + 1, batch, size), [lstm: c alike,] [lstm, gru: kept
                (steps, batch, 4 size)] of x (steps, batch, gates size), h0, [lstm: c0,] w
                (gates size, size), b.  h[0] = h0, h[t + 1] = cell(x[t] + b + h[t] w^T);
                kept: the gates i f g o of lstm; r z n and q = b_q + h w_n^T of gru.
                "backward": gx (steps, batch, gates size; gru: r z n q), gh0, [lstm: gc0] of
                g, the gradient of h[1:], and [lstm: that of the last c, kept, c,] [gru:
                kept, h,] [else h,] w.  "inputs", of backends that leave it out: the same
                where nobody reads gh0, which is left as it is.
  scan          outer, n, inner, offset, outer_stride, axis_stride, inner_stride. Output
                contiguous (outer, n, inner). options: (which, mode): which is sum, prod,
                logsumexp, or argmax or argmin, the last place, int32, of the extreme so far,
                NaN before all; mode "inclusive" or, of sum and prod, "exclusive" (which leaves
                out the element itself).  y[o, j, i] = which over l <= j of x[o, l, i].
  gather        outer, count, inner, size, x_offset, x_outer, x_axis, x_inner, i_offset,
                i_outer, i_axis, i_inner. Inputs x, indices; output contiguous
                (outer, count, inner). An index in [-size, 0) counts from the end; outside
                [-size, size) is a fault.  y[o, j, i] = x[o, index[o, j, i], i].
  scatter       outer, count, inner, size, v_offset, v_outer, v_axis, v_inner, i_offset,
                i_outer, i_axis, i_inner. Inputs v, indices; the output y, contiguous
                (outer, size, inner), already holds values and is changed in place, j
                ascending, so that the result is deterministic. options: ("add",) or
                ("set",).  y[o, index[o, j, i], i] += v[o, j, i].
  sort          rows, n, kept, offset, row_stride, step. Output contiguous (rows, kept),
                int32. options: (order,), ascending or descending. x[r, y[r, 0]],
                x[r, y[r, 1]] ... are the first `kept` in order, of equals the first first,
                NaN above all.
  search        n (of y), count, size, x_offset, x_row, x_step, v_offset, v_row, v_step.
                Inputs x (rows, size), ascending, and v (rows, count); output contiguous,
                int32. options: (side,).  y[r, q] = how many of x[r] are below v[r, q]
                ("left") or not above it ("right"), NaN above all.
  fold          n, planes, y[2], q[2], t[2], stride[2], dilation[2], x_offset. Contiguous, of
                one floating dtype.  y[n, p] = sum of x[n, t, q] over t, q with q * stride + t
                * dilation = p, for p, t and q of two axes.
  resample      n, outer, count, inner, size, taps, x_offset, first_offset, weights_offset.
                Inputs x (outer, size, inner), first (count), int32, weights (count, taps).
                y[o, p, i] = sum over t of weights[p, t] * x[o, first[p] + t, i].
  normalise     images, rows, n, eps (the bits of a float64), stretch, then the offset of each
                input. All contiguous, of one floating dtype. options: (which,). With h = (x -
                mean) / sqrt(var + eps): "rows_slope", of g, x (rows, n), w, makes the
                gradient of x and, for each `stretch` rows, the sums of g h and of g;
                "channels_slope", of g, x, w, mean, var, is the same for x (images, rows, n),
                whose rows are channels, summed over images and n.
  group_norm    images, groups, channels (of a group), n, eps (the bits of a float64), then the
                offset of each input. All contiguous, of one floating dtype. With h as above for
                each group of each image of x (images, groups, channels, n), options:
                ("forward",), of x, w, b (groups, channels), y = h w + b; ("slope",), of g, x,
                w, the gradient of x, and the sums of g h and of g over images and n.
  random        n, blocks, state_offset. Input state: uint32[4] key0, key1, counter_low,
                counter_high. Outputs: bits uint32[n], and the new state uint32[4], whose
                counter is `blocks` = ceil(n / 4) further. Philox4x32-10 (Salmon et al.,
                SC11): bits[4 b + w] = word w of philox(counter + b, 0, 0; key).

An epilogue is an expression that a kernel applies to its result instead of storing it. The
result, in the type of the expression's first input, is that input; the others follow the two
inputs of the kernel, and the outputs are the expression's. The words of an elementwise launch
over the elements of the result follow the kernel's; modes has a letter for each output, "c"
for the result, whose offset is 0, and one for each further input.

A producer is an expression whose only result, contiguous and of the type that the reduction
combines in, is its input. It is not stored: the inputs of the launch are those of the
expression, and the words of an elementwise launch that would write it follow the reduction's;
modes has "c" for the result, whose offset is 0, and a letter for each input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from .dtypes import Dtype, bool_, int32
from .errors import OutOfMemoryError
from .scalars import Expression

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Program:
    """A kernel with everything that is compiled into it."""

    kernel: str  # "elementwise", or the stem of the kernel's file
    outputs: tuple[Dtype, ...]
    inputs: tuple[Dtype, ...]
    options: tuple[str, ...] = ()
    expression: Expression | None = None
    modes: str = ""
    rank: int = 0
    label: str = ""  # the operator that asked, for messages
    # So many launches of one program side by side, each with its part of the outputs and of
    # the inputs. The words: for each how many it has and, of reductions, the offset of its
    # output; then those of each.
    copies: int = 0
    # The program of each of them, where reductions that compute what they reduce are among
    # them; on a backend with `mixes`, not all need be alike.
    each: tuple[Program, ...] = ()
    # Of elementwise programs and of copies: the number of each operand's buffer, where some
    # outputs, or some inputs, are known to be in one. Else empty.
    buffers: tuple[int, ...] = ()

    @property
    def can_fault(self) -> bool:
        """Whether a launch may find bad data: an index out of range, a NaN to cast."""
        if self.expression is not None:
            return self.expression.can_fault
        return self.kernel in ("gather", "scatter")

    @property
    def over(self) -> tuple[tuple[int, int], ...]:
        """(output, input), both contiguous, that may be one buffer on a backend that writes
        this kernel in place: each element is read before it is written."""
        if self.kernel != "recurrent":
            return ()
        pairs = {
            "lstm forward": ((2, 0),),  # kept over x
            "lstm backward": ((0, 2),),  # gx over kept
            "lstm inputs": ((0, 2),),
            "gru backward": ((0, 1),),
            "gru inputs": ((0, 1),),
        }
        return pairs.get(" ".join(self.options), ())

    @property
    def has_epilogue(self) -> bool:
        """Whether a kernel applies an expression to its result."""
        is_own = self.kernel == "elementwise" or self.has_producer
        return self.expression is not None and not is_own

    @property
    def has_producer(self) -> bool:
        """Whether a reduction computes what it reduces."""
        return self.kernel == "reduce" and self.options[1:] == (MADE,)

    @property
    def producer(self) -> Program:
        """The elementwise program that makes what a reduction reduces."""
        assert self.expression is not None
        made = self.expression.dtype_of(self.expression.outputs[0])
        return replace(self, kernel="elementwise", outputs=(made,), options=())

    @property
    def epilogue(self) -> Program:
        """The elementwise program that a kernel applies to its result."""
        assert self.expression is not None
        inputs = (self.expression.inputs[0], *self.inputs[OWN_INPUTS:])
        return replace(self, kernel="elementwise", inputs=inputs, options=())

    @property
    def without_epilogue(self) -> Program:
        """The kernel that stores its result."""
        if self.expression is None:
            return self
        made, own = self.expression.inputs[0], self.inputs[:OWN_INPUTS]
        return Program(self.kernel, (made,), own, self.options, label=self.label)

    @property
    def without_producer(self) -> Program:
        """The reduction of what the producer would store."""
        made, which = self.producer.outputs, self.options[:1]
        return Program(self.kernel, self.outputs, made, which, label=self.label)

    @property
    def one_copy(self) -> Program:
        """The program of one of the launches side by side, of the first where not all are
        alike."""
        if self.each:
            return self.each[0]
        outs, ins = (len(x) // self.copies for x in (self.outputs, self.inputs))
        return replace(
            self,
            outputs=self.outputs[:outs],
            inputs=self.inputs[:ins],
            copies=0,
            buffers=(),
        )

    @property
    def members(self) -> tuple[Program, ...]:
        """The program of each of the launches side by side."""
        return self.each or (self.one_copy,) * self.copies

    def copies_of(self, words: Sequence[int]) -> list[tuple[int, tuple[int, ...]]]:
        """(offset of the output, words) of each of the launches side by side."""
        found, at = [], 2 * self.copies
        for c in range(self.copies):
            length, offset = words[2 * c : 2 * c + 2]
            found.append((offset, tuple(words[at : at + length])))
            at += length
        return found


MADE = "made"  # the option of a reduction that computes what it reduces


def combined_in(which: str, source: Dtype, target: Dtype) -> Dtype:
    """The type that a reduction from one type to another combines in."""
    if which in ("any", "all"):
        return bool_
    if which in ("max", "min", "argmax", "argmin"):
        return int32 if source is bool_ else source
    return target


OWN_INPUTS = 2  # of a kernel that may have an epilogue

# Bytes; WebGPU's minStorageBufferOffsetAlignment is at most this.
ALIGNMENT = 256

# What a kernel may find wrong with its data. A kernel stores (code, value, size) once.
INDEX_OUT_OF_RANGE = 1
NAN_TO_INTEGER = 2
NO_SCRATCH = 3  # the cpu had no memory for its own work


def fault(code: int, label: str, value: int, size: int) -> Exception:
    """The exception for a fault that a kernel of operator `label` reported."""
    if code == INDEX_OUT_OF_RANGE:
        if 1 << 31 <= value < 1 << 32 and size < 1 << 31:
            value -= 1 << 32  # a negative index, kept in 32 bits
        return IndexError(
            f"{label}: index {value} is out of range for an axis of size {size}"
        )
    if code == NAN_TO_INTEGER:
        return ValueError(
            f"{label}: NaN has no integer value; "
            "replace it first, as in where(isnan(x), 0, x)"
        )
    if code == NO_SCRATCH:
        return OutOfMemoryError(f"{label}: cpu: no memory for the kernel's own work")
    return RuntimeError(f"{label}: unknown fault {code}")


class Backend(Protocol):
    """What a device must do. Its buffers are its own; nobody else looks inside one.

    A backend is a class whose instances open one device; `__init__(index=0)` raises
    DeviceError, with the reason and the cure, where that can't be.
    """

    name: str  # "cpu", "wgpu", ...
    dtypes: frozenset[Dtype]  # storage types that it has

    def has(self, kernel: str) -> bool:
        """Whether a kernel of this stem exists."""
        ...

    def itemsize(self, dtype: Dtype) -> int:
        """Bytes that an element takes on this device."""
        ...

    def alloc(self, nbytes: int) -> Any:
        """An uninitialised buffer, given back when Python drops it. OutOfMemoryError."""
        ...

    def part(self, buffer: Any, offset: int, nbytes: int) -> Any:
        """A buffer that is a range of another (its `whole`, from byte `offset` on, a
        multiple of ALIGNMENT), which it keeps alive. A backend may lack it."""
        ...

    def upload(self, array: np.ndarray, dtype: Dtype) -> Any:
        """A buffer with the values of a C-contiguous array of dtype.numpy."""
        ...

    def read(self, buffer: Any, dtype: Dtype, offset: int, count: int) -> np.ndarray:
        """`count` elements from `offset` on, as a fresh 1-D array. Waits; raises faults."""
        ...

    def build(self, program: Program, words: Sequence[int]) -> Callable[..., None]:
        """A launch: called with the buffers, outputs first, it starts and doesn't wait.

        A fault in the data is raised by the launch on cpu, else by the next read or wait.
        """
        ...

    def wait(self) -> None:
        """Return when all launches are done; raises their faults."""
        ...

    # For compiled functions. A backend without `sequence` gets its launches one by one.

    max_operands: int  # buffers that a launch may have
    max_elements: int  # that a launch may count of an operand; may be missing
    sums_rows: bool  # an expression may have rows; without the attribute, none has
    long_rows: int  # so many rows at least may have any length; may be missing
    formulas_first: bool  # an operator that has both runs its formula, not its kernel
    epilogues: frozenset[str]  # kernels that take one; without the attribute, none does
    leaves_out: frozenset[str]  # kernels that leave out what nobody reads; the same

    # The value of one element; without the attribute, `read` gives it.
    item: Callable[[Any, Dtype, int], Any]
    # Whether a reduction of these words computes what it reduces, which is of this dtype and
    # contiguous; without the attribute, none does.
    produces: Callable[[Dtype, Sequence[int]], bool]
    has_tf32: bool  # products take that option; without the attribute, they do not
    # Kernels that take operands of 16 bits, where others get them widened by a launch of
    # their own; may be missing.
    halves: frozenset[str]
    copies: frozenset[str]  # kernels whose launches may go side by side; may be missing
    mixes: (
        bool  # reductions side by side may have producers that differ; may be missing
    )
    max_copied: int  # buffers that such a launch may have; without it, max_operands
    # Kernels of which an output may be an input that is read in the same order, or, of those
    # with words, one of `Program.over`; without the attribute, none.
    writes_in_place: frozenset[str]

    def sequence(
        self, steps: Sequence[tuple[Any, tuple[int, ...]]], buffers: int
    ) -> Callable[[list[Any]], None]:
        """The launches, each with the slots of its buffers, as one call that is given the
        buffers of all slots."""
        ...

    def vacate(self, buffers: list[Any], slot: int, refs: int) -> bool:
        """Whether the memory of a part in `buffers` is free: at most `refs` references hold
        the part, or what it holds could be moved to memory of its own. A backend with it
        lets gradients lie among temporaries, and its sequences take a second argument: the
        leaves whose gradient they set to None where a launch fails."""
        ...

    # A backend whose memory other packages can see also has `dlpack_device`, and `lend` and
    # `borrow` as the cuda backend has them.

    def memory(self) -> dict[str, int]:
        """Bytes: {"used": held by live buffers, "reserved": with the pool's, "peak"}."""
        ...

    def info(self) -> dict[str, Any]:
        """What `portanet info` prints: adapter, driver, limits, level, threads ..."""
        ...

    def text(self, program: Program) -> str:
        """The program as this backend's language has it, for `portanet show`."""
        ...
