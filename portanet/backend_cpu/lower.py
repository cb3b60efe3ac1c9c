"""Lowers an expression to the bytecode of vm.h: slots, and instructions that name them.

A value lives in one of: the operand's own memory (contiguous and stored as it is
computed in), a register (one block of scratch memory, reused when nobody reads it any
more), or, if it is the same for all elements, one element worked out once for a launch.
What is the same for all elements of a row is one element for each row, in the first
elements of a register. Where whole blocks are read it is expanded into another; but where
rows are long, an instruction goes over them one by one and reads the element itself, and so
it does with an operand that is one row for all of them.
"""

from __future__ import annotations

import functools
import math
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..dtypes import Dtype, float32
from ..program import Program, combined_in
from ..scalars import ROWS, Expression, Instruction
from .rows import Rows

# The kinds of a slot, in the order of vm.h's enum.
OPERAND, REGISTER, CONSTANT, UNIFORM, SCALAR, VIEW, ONE_A_ROW = range(7)
HEADER = "<Q18i"  # pn_header of vm.h
PER_ROW = 1 << 24  # PN_PER_ROW of vm.h
FOR_ROWS = "rows: "  # before the name of an operation on one element for each row
OVER_ROWS = ("row_sum", "row_mean", "row_max")
PAIRED = ("add", "sub", "mul")  # two of them are done in one pass, TWO of operations.h
WHOLE, ONE_FOR_A_ROW, FIXED = range(3)  # how far an operand moves on with a row; vm.h
L1_BYTES = 24 * 1024  # of registers, leaving room for the operands
PACK = {
    "bool": "<?7x",
    "int32": "<i4x",
    "uint32": "<I4x",
    "int64": "<q",
    "float32": "<f4x",
    "float64": "<d",
}
# About how many times the work of an addition; what is not named here is 1.
COSTS = {
    **dict.fromkeys("exp expm1 log log1p log2 sin cos sinh cosh tanh erf".split(), 8),
    **dict.fromkeys("sinpi cospi asin acos atan asinh acosh atanh tan".split(), 12),
    **dict.fromkeys("pow atan2 floordiv mod".split(), 20),
    **dict.fromkeys("div sqrt rsqrt".split(), 2),
}


class Step(NamedTuple):
    """An instruction: the operation's name, the slot that it writes, those that it reads.
    `by_rows`: of each slot how it moves on with a row and the bytes of an element, where the
    instruction goes over the rows of a block one by one."""

    name: str
    slots: tuple[int, ...]
    by_rows: tuple[tuple[int, int], ...] = ()


@dataclass
class Lowering:
    """The state of lowering one program."""

    program: Program
    opcodes: Mapping[str, int]
    rows: Rows = Rows()
    is_epilogue: bool = False  # input 0 is a kernel's result
    is_producer: bool = False  # output 0 is what a kernel reads
    slots: dict[tuple[int, int], int] = field(default_factory=dict)
    constants: list[bytes] = field(default_factory=list)
    prologue: list[Step] = field(default_factory=list)
    fills: list[Step] = field(default_factory=list)
    body: list[Step] = field(default_factory=list)
    where: dict[int, int] = field(default_factory=dict)  # value -> slot
    filled: dict[int, int] = field(default_factory=dict)  # uniform value -> register
    expanded: dict[int, int] = field(default_factory=dict)  # value of rows -> register
    free: dict[int, list[int]] = field(default_factory=dict)  # width -> register slots
    width_of: dict[int, int] = field(default_factory=dict)  # register slot -> width
    register_bytes: int = 0
    uniforms: int = 0

    def __post_init__(self):
        expression = self.program.expression
        assert expression is not None
        self.expression: Expression = expression
        self.inputs = len(expression.inputs)
        self.outputs = len(self.program.outputs)
        self.modes = self.program.modes
        self.holder = self._find_holder() if self.is_epilogue else -1
        self.uniform = self._find_uniform()
        self.per_row = self._find_per_row()
        self.last_use = self._find_last_uses()
        self.first_of = self._find_pairs()
        for k, mode in enumerate(self.modes):
            if mode == "r":
                self._slot(ONE_A_ROW, k)
            elif mode != "v" and (mode == "c" or k < self.outputs):
                self._slot(OPERAND, k)

    def _slot(self, kind: int, value: int) -> int:
        return self.slots.setdefault((kind, value), len(self.slots))

    def _find_holder(self) -> int:
        """The output in whose memory a kernel's result may wait for its epilogue: the one
        that is the result itself, else any of its type that is whole; -1 if there is none."""
        passed = [k for k, v in enumerate(self.expression.outputs) if v == 0]
        for k in passed or range(self.outputs):
            same = self.program.outputs[k] is self.program.inputs[0]
            if same and self.modes[k] == "c":
                return k
        return -1

    def _find_uniform(self) -> list[bool]:
        """Which values are the same for all elements."""
        known = [self.modes[self.outputs + i] == "s" for i in range(self.inputs)]
        for i in self.expression.instructions:
            varies = i.name == "index" or i.name in ROWS
            known.append(not varies and all(known[o] for o in i.operands))
        return known

    def _find_per_row(self) -> list[bool]:
        """Which values are the same for all elements of a row, and not for all."""
        known = [self.modes[self.outputs + i] == "r" for i in range(self.inputs)]
        for j, i in enumerate(self.expression.instructions):
            both = [known[o] or self.uniform[o] for o in i.operands]
            of_rows = not self.uniform[self.inputs + j] and bool(both) and all(both)
            known.append(i.name in OVER_ROWS or of_rows and i.name not in ROWS)
        return known

    def _find_last_uses(self) -> dict[int, int]:
        """The last instruction that reads each value; the stores come after all."""
        last = {}
        for j, i in enumerate(self.expression.instructions):
            last.update(dict.fromkeys(i.operands, j))
        last.update(dict.fromkeys(self.expression.outputs, 1 << 30))
        return last

    def _find_pairs(self) -> dict[int, int]:
        """Instruction -> an earlier one that is done in the same pass, since nothing else
        reads its result."""
        code, uses = self.expression.instructions, Counter(self.expression.outputs)
        for i in code:
            uses.update(i.operands)
        found: dict[int, int] = {}
        for j, i in enumerate(code):
            if not self._may_pair(j):
                continue
            for o in i.operands:
                k = o - self.inputs
                if k >= 0 and uses[o] == 1 and k not in found and self._may_pair(k):
                    found[j] = k
                    for v in code[k].operands:
                        self.last_use[v] = max(self.last_use[v], j)
                    break
        return found

    def _may_pair(self, j: int) -> bool:
        i, value = self.expression.instructions[j], self.inputs + j
        is_plain = i.name in PAIRED and i.dtype is float32
        return is_plain and not self.uniform[value] and not self.per_row[value]

    def _pair(self, j: int, k: int) -> tuple[str, list[int]]:
        """The name of instruction k and then j, which reads its result; what they read."""
        first, then = (self.expression.instructions[n] for n in (k, j))
        a, b = first.operands
        if self._is_single(a) and first.name != "sub":
            a, b = b, a
        x, y = then.operands
        is_left = x == self.inputs + k
        second = then.name if is_left or then.name != "sub" else "rsub"
        return f"{first.name}_{second}.float32", [a, b, y if is_left else x]

    def _is_single(self, value: int) -> bool:
        """Whether instructions can read it as one element."""
        return self.uniform[value] or self.rows.are_long and self.per_row[value]

    def _register(self, dtype: Dtype) -> int:
        width = dtype.itemsize
        if self.free.get(width):
            return self.free[width].pop()
        slot = self._slot(REGISTER, self.register_bytes)
        self.register_bytes += width
        self.width_of[slot] = width
        return slot

    def _own_register(self, dtype: Dtype) -> int:
        """One that is written once and read by every block, so never free."""
        slot = self._slot(REGISTER, self.register_bytes)
        self.register_bytes += dtype.itemsize
        return slot

    def _cell(self) -> int:
        self.uniforms += 1
        return self._slot(UNIFORM, self.uniforms - 1)

    def _constant(self, i: Instruction) -> int:
        layout, value = PACK[i.dtype.name], i.immediate
        try:
            packed = struct.pack(layout, value)
        except OverflowError:  # where a float64 rounds to an infinite float32
            packed = struct.pack(layout, math.copysign(math.inf, value))
        self.constants.append(packed)
        return self._slot(CONSTANT, len(self.constants) - 1)

    def _load(self, value: int) -> int:
        """The slot of an input, with the instruction that loads it if it needs one."""
        if value == 0 and self.holder >= 0:
            return self._slot(OPERAND, self.holder)
        k = self.outputs + value
        mode, storage = self.modes[k], self.program.inputs[value]
        in_place = storage is storage.compute
        if mode == "s" and in_place:
            return self._slot(SCALAR, k)
        if mode == "s":
            cell = self._cell()
            self.prologue.append(
                Step(f"load.{storage.name}", (cell, self._slot(SCALAR, k)))
            )
            return cell
        if mode == "c" and in_place:
            return self._slot(OPERAND, k)
        if mode == "r" and in_place:
            return self._slot(ONE_A_ROW, k)
        register = self._register(storage.compute)
        if mode == "r":
            source, name = self._slot(ONE_A_ROW, k), f"{FOR_ROWS}load.{storage.name}"
        elif mode == "c":
            source, name = self._slot(OPERAND, k), f"load.{storage.name}"
        else:
            source, name = self._slot(VIEW, k), f"gather.{storage.name}"
        self.body.append(Step(name, (register, source)))
        return register

    def _at(self, value: int) -> int:
        """The slot that holds a value, one element if it is uniform."""
        if value not in self.where:
            self.where[value] = self._load(value)
        return self.where[value]

    def _vector(self, value: int) -> int:
        """The slot of a whole block of a value."""
        slot = self._at(value)
        if self.per_row[value]:
            if value not in self.expanded:
                dtype = self.expression.dtype_of(value)
                self.expanded[value] = register = self._register(dtype)
                self.body.append(Step(f"expand.{dtype.itemsize}", (register, slot)))
            return self.expanded[value]
        if not self.uniform[value]:
            return slot
        if value not in self.filled:
            dtype = self.expression.dtype_of(value)
            register = self._own_register(dtype)
            self.fills.append(Step(f"fill.{dtype.itemsize}", (register, slot)))
            self.filled[value] = register
        return self.filled[value]

    def _name(self, i: Instruction) -> str:
        if i.name in ("cast", "cast_checked"):
            source = self.expression.dtype_of(i.operands[0])
            return f"{i.name}.{source.name}.{i.dtype.name}"
        if i.name == "where" or not i.operands:
            return f"{i.name}.{i.dtype.name}"
        return f"{i.name}.{self.expression.dtype_of(i.operands[0]).name}"

    def _read(self, name: str, values: Sequence[int]) -> Step:
        """The operation in the variant for single elements if it exists, and what it reads;
        the slot that it writes is left out."""
        letters = "".join("s" if self._is_single(v) else "v" for v in values)
        variant = f"{name}.{letters}"
        takes = {f"{name}.vs", f"{name}.vvs", variant} & self.opcodes.keys()
        if variant in self.opcodes:
            name = variant
        elif "s" in letters:
            letters = "v" * len(values)
        slots, moves = [], []
        for v, letter in zip(values, letters, strict=True):
            how = WHOLE
            if letter == "s":
                slot, how = self._at(v), FIXED if self.uniform[v] else ONE_FOR_A_ROW
            elif takes and self._is_fixed(v):
                slot, how = self._slot(SCALAR, self.outputs + v), FIXED
            else:
                slot = self._vector(v)
            slots.append(slot)
            moves.append((how, self.expression.dtype_of(v).itemsize))
        by_rows = any(
            how == ONE_FOR_A_ROW or how == FIXED and letter == "v"
            for (how, _), letter in zip(moves, letters, strict=True)
        )
        return Step(name, tuple(slots), tuple(moves) if by_rows else ())

    def _is_fixed(self, value: int) -> bool:
        """Whether it is an operand that is one row for all, to be read where it is."""
        k = self.outputs + value
        if value >= self.inputs or k not in self.rows.fixed or value in self.where:
            return False
        return self.program.inputs[value] is self.program.inputs[value].compute

    def _read_per_row(self, name: str, i: Instruction) -> Step:
        """The same for an operation on one element for each row."""
        letters = "".join("s" if self.uniform[o] else "v" for o in i.operands)
        if "s" in letters and f"{name}.{letters}" in self.opcodes:
            return Step(f"{name}.{letters}", tuple(self._at(o) for o in i.operands))
        slots = [
            self._vector(o) if self.uniform[o] else self._at(o) for o in i.operands
        ]
        return Step(name, tuple(slots))

    def _release(self, operands: Sequence[int], j: int) -> None:
        for o in set(operands):
            if self.last_use[o] == j and not self.uniform[o]:
                for at in (self.where, self.expanded):
                    if (slot := at.get(o, -1)) in self.width_of:
                        self.free.setdefault(self.width_of[slot], []).append(slot)

    def _output_of(self, value: int, j: int) -> int | None:
        """The output's slot that instruction j may write in place.

        Only when every input has been read: an output may be an input's memory.
        """
        if any(self.last_use.get(v, -1) > j for v in range(self.inputs)):
            return None
        for k, v in enumerate(self.expression.outputs):
            storage = self.program.outputs[k]
            is_plain = self.modes[k] not in "rv" and storage is storage.compute
            if v == value and is_plain:
                return k
        return None

    def _instruction(self, j: int, i: Instruction) -> None:
        value = self.inputs + j
        if i.name == "const":
            self.where[value] = self._constant(i)
        elif self.uniform[value]:
            slots = [self._at(o) for o in i.operands]
            self.where[value] = cell = self._cell()
            self.prologue.append(Step(self._name(i), (cell, *slots)))
        elif i.name == "row_index":  # blocks are whole rows: the same for each
            self.where[value] = register = self._own_register(i.dtype)
            self.fills.append(Step(self._name(i), (register,)))
        elif j in self.first_of.values():
            return  # done with the instruction that reads it
        else:
            self._compute(j, i)

    def _compute(self, j: int, i: Instruction) -> None:
        value, k = self.inputs + j, self.first_of.get(j)
        for_rows = self.per_row[value] and i.name not in ROWS
        values = list(i.operands)
        if for_rows:
            step = self._read_per_row(self._name(i), i)
        elif k is None:
            step = self._read(self._name(i), values)
        else:
            step = self._read(*self._pair(j, k))
            values += self.expression.instructions[k].operands
        # One element for each row is still read when the result of the first row is there.
        held = [v for v in values if step.by_rows and self.per_row[v]]
        self._release([v for v in values if v not in held], j)
        output = None if self.per_row[value] else self._output_of(value, j)
        if output is None:
            out = self._register(i.dtype)
        else:
            out = self._slot(OPERAND, output)
        self._release(held, j)
        self.where[value] = out
        moves = ((WHOLE, i.dtype.itemsize), *step.by_rows) if step.by_rows else ()
        name = FOR_ROWS + step.name if for_rows else step.name
        self.body.append(Step(name, (out, *step.slots), moves))

    def _store(self, k: int, value: int) -> None:
        storage, mode = self.program.outputs[k], self.modes[k]
        if mode == "r":
            self._store_one_a_row(k, value)
            return
        out = self._slot(VIEW if mode == "v" else OPERAND, k)
        slot = self._at(value)
        if slot == out:
            return
        if self.uniform[value] and mode != "v" and storage is storage.compute:
            self.body.append(Step(f"fill.{storage.itemsize}", (out, slot)))
            return
        verb = "spread" if mode == "v" else "store"
        self.body.append(Step(f"{verb}.{storage.name}", (out, self._vector(value))))

    def _store_one_a_row(self, k: int, value: int) -> None:
        storage = self.program.outputs[k]
        if self.per_row[value]:
            slot = self._at(value)
        elif self.uniform[value]:
            slot = self._vector(value)
        else:  # of inputs that are the same for a row, which their strides don't show
            slot = self._register(storage.compute)
            name = f"row_max.{storage.compute.name}"  # of equals
            self.body.append(Step(name, (slot, self._at(value))))
        name = f"{FOR_ROWS}store.{storage.name}"
        self.body.append(Step(name, (self._slot(ONE_A_ROW, k), slot)))

    def run(self) -> Lowering:
        for j, i in enumerate(self.expression.instructions):
            self._instruction(j, i)
        # A load is a read too: all of them before the first store.
        for value in self.expression.outputs:
            self._at(value)
        for k, value in enumerate(self.expression.outputs):
            self._store(k, value)
        return self

    def block(self) -> int:
        """Elements of a block: what keeps the registers in L1, within [64, 1024]."""
        fitting = L1_BYTES // max(self.register_bytes, 1)
        return max(64, min(1024, 1 << (fitting.bit_length() - 1)))

    def cost(self) -> int:
        return sum(_cost(step.name) for step in self.body)

    def _result_slot(self) -> int:
        """The slot of what lies where the kernel says; -1 if there is none."""
        if self.is_producer:
            return self.slots[OPERAND, 0]
        return self.slots[OPERAND, self.outputs] if self.is_epilogue else -1

    def _result_code(self) -> int:
        if self.is_producer:
            return self.program.outputs[0].code
        return self.program.inputs[0].code if self.is_epilogue else -1

    def _opcode(self, name: str) -> int:
        short = name.removeprefix(FOR_ROWS)
        return self.opcodes[short] | (PER_ROW if short != name else 0)

    def pack(self) -> bytes:
        """The bytes that Launch takes."""
        moving = sum(kind in (OPERAND, ONE_A_ROW) for kind, _ in self.slots)
        strided = sum(1 << k for k, mode in enumerate(self.modes) if mode == "v")
        instructions = self.prologue + self.fills + self.body
        header = struct.pack(
            HEADER,
            strided,
            self.program.rank,
            len(self.modes),
            len(self.constants),
            len(self.slots),
            moving,
            len(self.prologue),
            len(self.fills),
            len(self.body),
            self.block(),
            self.register_bytes,
            self.uniforms,
            max(512, 65536 // max(self.cost(), 2)),
            self.expression.has_rows,
            self._result_slot(),
            self.outputs,
            self.holder,
            self._result_code(),
            self.is_epilogue,
        )
        slots = [struct.pack("<2i", *key) for key in self.slots]
        code = [
            struct.pack(
                "<5iI",
                self._opcode(step.name),
                *(step.slots + (0, 0, 0))[:4],
                sum((how << 4 | n) << 8 * k for k, (how, n) in enumerate(step.by_rows)),
            )
            for step in instructions
        ]
        return b"".join([header, *self.constants, *slots, *code])


def _cost(name: str) -> int:
    if name.startswith(FOR_ROWS):
        return 0
    verb, _, rest = name.partition(".")
    cost = COSTS.get(verb, 1)
    return cost * 3 if "float64" in rest and cost > 2 else cost


def lower(
    program: Program, opcodes: Mapping[str, int], rows: Rows = Rows()
) -> Lowering:
    """The lowering of an elementwise program, or of the epilogue or the producer of another;
    `opcodes` numbers the operations."""
    is_epilogue, is_producer = program.has_epilogue, program.has_producer
    if is_epilogue:
        program = program.epilogue
    elif is_producer:
        made, result = program.producer.outputs[0], program.outputs[0].compute
        if made is not combined_in(program.options[0], made, result):
            raise TypeError(f"{program.label}: {made} is not what it combines in")
        program = program.producer
    _check(program)
    return Lowering(program, opcodes, rows, is_epilogue, is_producer).run()


def _check(program: Program) -> None:
    """Raises where a program contradicts itself: C would write past a buffer's end."""
    expression = program.expression
    assert expression is not None
    operands = (*program.outputs, *program.inputs)
    if len(program.modes) != len(operands) or set(program.modes) - set("crsv"):
        raise ValueError(f"{program.label}: modes {program.modes!r}, {operands}")
    if expression.inputs != tuple(t.compute for t in program.inputs):
        raise TypeError(f"{program.label}: inputs {program.inputs} of other types")
    for storage, value in zip(program.outputs, expression.outputs, strict=True):
        if expression.dtype_of(value) is not storage.compute:
            raise TypeError(
                f"{program.label}: a value of {expression.dtype_of(value).name} can't "
                f"be stored as {storage.name}; cast it to {storage.compute.name} first"
            )


@functools.lru_cache(maxsize=4096)
def pack(program: Program, rows: Rows = Rows()) -> bytes:
    """The packed bytecode of a program, cached."""
    from .. import _c

    return lower(program, _c.OPCODES, rows).pack()
