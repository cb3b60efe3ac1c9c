"""What computing and moving elements costs, in units of about one addition an element."""

from __future__ import annotations

from ..scalars import Expression
from .graph import Work

# Of one instruction; what is not named here is 1.
INSTRUCTIONS = {
    "const": 0,
    "index": 0,
    "cast": 1,
    **dict.fromkeys(("div", "sqrt", "rsqrt"), 2),
    **dict.fromkeys(
        "exp expm1 log log1p log2 sin cos tan sinh cosh tanh erf sinpi cospi asin acos "
        "atan asinh acosh atanh".split(),
        10,
    ),
    **dict.fromkeys(("pow", "atan2", "floordiv", "mod"), 20),
}
MOVE = 2  # to read or write an element in memory
LAUNCH = 4096  # about a microsecond of one core


def of(expression: Expression) -> int:
    """Of one element."""
    return sum(INSTRUCTIONS.get(i.name, 1) for i in expression.instructions)


def varying(w: Work) -> int:
    """How many inputs differ from element to element."""
    return sum(any(h.layout.expanded(w.shape).strides) for h in w.ins)
