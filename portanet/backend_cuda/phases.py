"""An expression with sums over rows, as phases: each ends in the sums that the next needs.

A value of an element is computed in the first phase that reads it, and kept in a register
for later ones; one that is the same for the whole row is computed once, outside the loops.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..program import Program
from ..scalars import Expression
from . import lower

SUMS = {"row_sum": "pn_sum", "row_mean": "pn_sum", "row_max": "pn_most"}
AGAIN = ("index", "row_index")  # cheaper to compute than to keep


@dataclass
class Phases:
    """When each value is computed and read, by value number."""

    expression: Expression
    is_one: list[bool]  # the same for all elements of a row
    level: list[int]  # the first phase in which it can be computed
    uses: list[set[int]] = field(default_factory=list)  # phases that read it
    count: int = 1

    @staticmethod
    def of(program: Program, within: str) -> Phases:
        """`within`: for each operand a letter, "o" where it is one for a row."""
        x = program.expression
        assert x is not None
        k, level = len(x.inputs), [0] * len(x.inputs)
        is_one = [letter == "o" for letter in within[len(program.outputs) :]]
        for i in x.instructions:
            is_sum = i.name in SUMS
            level.append(max((level[o] for o in i.operands), default=0) + is_sum)
            same = i.name not in AGAIN and all(is_one[o] for o in i.operands)
            is_one.append(is_sum or same)
        made = Phases(x, is_one, level)
        made.count = 1 + max(level[v] for v in made._read_in_the_end())
        made.uses = [set() for _ in level]
        for p in range(made.count):
            for v in made.ends(p):
                made.uses[v].add(p)
        for v in range(len(level) - 1, -1, -1):
            if v >= k and made.uses[v] and not is_one[v]:
                first = {min(made.uses[v])}
                again = x.instructions[v - k].name in AGAIN
                for o in x.instructions[v - k].operands:
                    made.uses[o] |= made.uses[v] if again else first
        return made

    def _read_in_the_end(self) -> list[int]:
        """Everything that a result depends on."""
        k, found = len(self.expression.inputs), set(self.expression.outputs)
        for j in range(len(self.level) - 1, k - 1, -1):
            if j in found:
                found.update(self.expression.instructions[j - k].operands)
        return sorted(found)

    def sums(self, phase: int) -> list[int]:
        """The sums that end a phase."""
        k, needed = len(self.expression.inputs), set(self._read_in_the_end())
        return [
            k + j
            for j, i in enumerate(self.expression.instructions)
            if k + j in needed and i.name in SUMS and self.level[k + j] == phase + 1
        ]

    def ends(self, phase: int) -> list[int]:
        """What is computed of each element in a phase: terms of sums, or the results."""
        if phase == self.count - 1:
            return list(self.expression.outputs)
        k = len(self.expression.inputs)
        return [
            self.expression.instructions[s - k].operands[0] for s in self.sums(phase)
        ]

    def is_kept(self, v: int) -> bool:
        """Whether a value of an element is needed in a later phase than its first."""
        k = len(self.expression.inputs)
        plain = v >= k and self.expression.instructions[v - k].name not in AGAIN
        return plain and not self.is_one[v] and len(self.uses[v]) > 1

    def kept_words(self) -> float:
        """Registers of 4 bytes that an element takes at the most."""
        k, most = len(self.expression.inputs), 1.0
        for p in range(self.count):
            before = after = 0.0
            for v, uses in enumerate(self.uses):
                if self.is_one[v] or not uses or not (v < k or self.is_kept(v)):
                    continue
                words = self.expression.dtype_of(v).itemsize / 4
                before += words * (min(uses) + (v >= k) <= p <= max(uses))
                after += words * (min(uses) <= p < max(uses))
            most = max(most, before, after)
        return most

    def of_row(self, phase: int) -> list[int]:
        """Values of the whole row that can be computed in a phase, but for sums."""
        k = len(self.expression.inputs)
        needed = set(self._read_in_the_end())
        return [
            v
            for v in range(k, len(self.level))
            if v in needed
            and self.is_one[v]
            and self.level[v] == phase
            and self.expression.instructions[v - k].name not in SUMS
        ]

    def of_element(self, phase: int, keeps: bool) -> list[int]:
        """Values of an element that a phase computes or reads, in order."""
        k = len(self.expression.inputs)
        needed = {v for v in self.ends(phase) if not self.is_one[v]}
        for v in range(len(self.level) - 1, k - 1, -1):
            if v in needed and not (keeps and self.is_read(v, phase)):
                operands = self.expression.instructions[v - k].operands
                needed.update(o for o in operands if not self.is_one[o])
        return sorted(needed)

    def is_read(self, v: int, phase: int) -> bool:
        """Whether a value was kept by an earlier phase."""
        return self.is_kept(v) and min(self.uses[v]) < phase


# ------------------------------------------------------------------------- text


def kernel(program: Program, defines: dict) -> list[str]:
    """From a row's place to its stores."""
    phases = Phases.of(program, defines["PN_WITHIN"])
    writer = _Writer(program, phases, defines)
    lines = writer.places()
    for p in range(phases.count):
        lines += writer.of_row(p)
        lines += writer.loop(p)
        lines += writer.sums(p)
    return lines


class _Writer:
    """Lines of one kernel."""

    def __init__(self, program: Program, phases: Phases, defines: dict):
        self.program, self.phases = program, phases
        self.within: str = defines["PN_WITHIN"]
        self.packs: int = defines["PN_PACKS"]
        self.threads: int = defines["PN_T"]
        assert program.expression is not None
        self.made = lower.body(program.expression)
        self.outputs, self.inputs = len(program.outputs), len(program.inputs)

    def type_of(self, v: int) -> str:
        assert self.program.expression is not None
        return lower.COMPUTED_AS[self.program.expression.dtype_of(v)]

    def places(self) -> list[str]:
        """Where each operand's part of the row begins, and the arrays that stay."""
        lines = lower.coordinates(self.program, "first")
        for j, (at, letter) in enumerate(
            zip(lower.positions(self.program, "first"), self.within, strict=True)
        ):
            if letter != "e":
                lines.append(f"const PN_INDEX o{j} = {at};")
        for j in range(self.inputs):
            letter = self.within[self.outputs + j]
            if letter == "o":
                at = f"o{self.outputs + j}"
                lines.append(f"const auto v{j} = pn_load(x{j}, {at});")
            elif self.packs:
                lines.append(f"pn_pack<PN_X{j}, PN_V> a{j}[PN_PACKS];")
        if self.packs:
            for v in range(self.inputs, len(self.phases.level)):
                if self.phases.is_kept(v):
                    lines.append(f"{self.type_of(v)} k{v}[PN_PACKS * PN_V];")
        return lines

    def of_row(self, phase: int) -> list[str]:
        return [self.made[v - self.inputs] for v in self.phases.of_row(phase)]

    def loop(self, phase: int) -> list[str]:
        """Loads, then what is computed of each element; sums of packs, or stores."""
        values = self.phases.of_element(phase, bool(self.packs))
        loads = [
            line for j in values if j < self.inputs for line in self._load(j, phase)
        ]
        sums = self.phases.sums(phase)
        lines = [f"{self.type_of(s)} s{s} = {self._how(s)}::start<{self.type_of(s)}>();"
                 for s in sums]  # fmt: skip
        if not self.packs:
            for j in values:
                if j < self.inputs:
                    loads.insert(0, f"pn_pack<PN_X{j}, PN_V> a{j}[1];")
            head = "for (int at = t * PN_V; at < n; at += T * PN_V) {"
            inner = [
                "constexpr int p = 0;",
                *loads,
                *self._of_pack(values, phase, sums),
            ]
            return [*lines, head, *_indented(inner), "}"]
        if loads:
            lines += self._each_pack(loads)
        return lines + self._each_pack(self._of_pack(values, phase, sums))

    def _each_pack(self, inner: list[str]) -> list[str]:
        """A loop over the packs that are there: all but the last are, of whole warps."""
        test = "p < PN_PACKS - 1 || at < n" if self.threads else "at < n"
        return [
            "#pragma unroll",
            "for (int p = 0; p < PN_PACKS; ++p) {",
            "    const int at = (p * T + t) * PN_V;",
            f"    if ({test}) {{",
            *_indented(_indented(inner)),
            "    }",
            "}",
        ]

    def _load(self, j: int, phase: int) -> list[str]:
        """Input j's pack, in the first phase that reads it."""
        if self.packs and min(self.phases.uses[j]) < phase:
            return []
        operand = self.outputs + j
        letter = self.within[operand]
        if letter == "p":
            source = f"*(const pn_pack<PN_X{j}, PN_V> *)(x{j} + o{operand} + at)"
            return [f"a{j}[p] = {source};"]
        lines = ["#pragma unroll", "for (int l = 0; l < PN_V; ++l) {"]
        return [*lines, *self._anyhow(operand, f"a{j}[p].at[l] = x{j}[{{}}];"), "}"]

    def _anyhow(self, operand: int, line: str) -> list[str]:
        """A line with the place of element at + l of an operand."""
        if self.within[operand] in "np":
            return [f"    {line.format(f'o{operand} + at + l')}"]
        inner = ["const PN_INDEX i = first + at + l;"]
        inner += lower.coordinates(self.program, "i")
        inner.append(line.format(lower.positions(self.program, "i")[operand]))
        return ["    {", *_indented(_indented(inner)), "    }"]

    def _of_pack(self, values: Sequence[int], phase: int, sums: list[int]) -> list[str]:
        """The elements of a pack, then its part of each sum, or its stores."""
        lines = [f"{self.type_of(s)} m{s}[PN_V];" for s in sums]
        stored = (
            [] if sums else [j for j in range(self.outputs) if self.within[j] != "r"]
        )
        lines += [f"pn_pack<PN_Y{j}, PN_V> b{j};" for j in stored]
        lines += ["#pragma unroll", "for (int l = 0; l < PN_V; ++l) {"]
        lines += _indented(self._element(values, phase))
        ends = self.phases.ends(phase)
        for j in stored:
            lines.append(f"    pn_convert(&b{j}.at[l], v{ends[j]});")
            if self.within[j] != "p":
                lines += self._anyhow(j, f"y{j}[{{}}] = b{j}.at[l];")
        if not sums:
            lines += [f"    if (j == 0) pn_store(y{j}, o{j}, v{v});"
                      for j, v in enumerate(ends) if self.within[j] == "r"]  # fmt: skip
        lines += [f"    m{s}[l] = v{v};" for s, v in zip(sums, ends)]
        lines.append("}")
        for j in stored:
            if self.within[j] == "p":
                to = f"*(pn_pack<PN_Y{j}, PN_V> *)(y{j} + o{j} + at)"
                lines.append(f"{to} = b{j};")
        for s in sums:
            how = self._how(s)
            lines.append(f"s{s} = {how}::of(s{s}, of_pack<{how}, PN_V>(m{s}));")
        return lines

    def _element(self, values: Iterable[int], phase: int) -> list[str]:
        """A line for each value of element at + l."""
        lines = [
            "const int e = p * PN_V + l, j = at + l;",
            "const PN_INDEX i = first + j;",
        ]
        for v in values:
            if v < self.inputs:
                lines.append(f"const auto v{v} = pn_value(a{v}[p].at[l]);")
            elif self.packs and self.phases.is_read(v, phase):
                lines.append(f"const {self.type_of(v)} v{v} = k{v}[e];")
            else:
                lines.append(self.made[v - self.inputs])
                if self.packs and self.phases.is_kept(v):
                    lines.append(f"k{v}[e] = v{v};")
        return lines

    def sums(self, phase: int) -> list[str]:
        """The threads' sums, combined."""
        expression, sums = self.program.expression, self.phases.sums(phase)
        assert expression is not None
        lines = [f"s{s} = of_lanes<{self._how(s)}>(s{s}, lanes);" for s in sums]
        if self.threads > 32:
            for s in sums:
                lines.append(f"PN_SHARED({self.type_of(s)}, parts{s}, [WARPS]);")
                lines.append(f"leave(parts{s}, s{s});")
            lines += ["meet();"] if sums else []
            lines += [f"s{s} = of_warps<{self._how(s)}>(parts{s});" for s in sums]
        for s in sums:
            kind, name = self.type_of(s), expression.instructions[s - self.inputs].name
            mean = f" / ({kind})row" if name == "row_mean" else ""
            lines.append(f"const {kind} v{s} = s{s}{mean};")
        return lines

    def _how(self, s: int) -> str:
        assert self.program.expression is not None
        return SUMS[self.program.expression.instructions[s - self.inputs].name]


def _indented(lines: Iterable[str]) -> list[str]:
    return [line if line.startswith("#") else f"    {line}" for line in lines]
