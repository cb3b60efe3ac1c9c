"""The table of a model: one line for each call of a layer, in order."""

from __future__ import annotations

from typing import Any

from ..autograd import Tensor, no_grad
from ..creation import zeros
from ..devices import default_device
from .module import Module, watch, watching

HEADER = ("layer", "output", "parameters")


def summary(module: Module, input_shape: Any, dtype: Any = "float32") -> str:
    """See Module.summary."""
    shapes = [input_shape] if _is_shape(input_shape) else list(input_shape)
    first = next(module.parameters(), None)
    place = default_device() if first is None else first.device
    xs = [zeros(s, dtype=dtype, device=place) for s in shapes]
    calls = _calls(module, xs)
    names = {id(m): name for name, m in module.named_modules()}
    rows, counted = [], set()
    for m, y in calls:
        if m is module and len(calls) > 1:
            continue
        name = names.get(id(m), "?")
        label = f"{name} ({type(m).__name__})" if name else type(m).__name__
        own = [p for _, p in m._own("parameter") if id(p) not in counted]
        counted.update(map(id, own))
        rows.append((label, _shape_of(y), f"{sum(p.size for p in own):,}"))
    return _table(rows, _totals(module))


def _is_shape(value: Any) -> bool:
    return isinstance(value, int) or all(isinstance(n, int) for n in value)


def _calls(module: Module, xs: list[Tensor]) -> list[tuple[Module, Any]]:
    """Each call of a module below that has no children of its own, or parameters."""
    made: list[tuple[Module, Any]] = []

    def seen(m: Module, y: Any) -> None:
        if m is module or next(m.children(), None) is None or next(m._own(), None):
            made.append((m, y))

    modes = {m: m.training for m in module.modules()}
    watching.append(module)
    watch.seen = seen
    try:
        module.eval()
        with no_grad():
            module(*xs)
    finally:
        watching.pop()
        watch.seen = None
        for m, training in modes.items():
            m.__dict__["training"] = training
    return made


def _shape_of(y: Any) -> str:
    if isinstance(y, Tensor):
        return str(y.shape)
    if isinstance(y, tuple | list):
        return ", ".join(map(_shape_of, y))
    return type(y).__name__


def _totals(module: Module) -> list[str]:
    parameters = list(module.parameters())
    count = sum(p.size for p in parameters)
    trained = sum(p.size for p in parameters if p.requires_grad)
    tensors = [*parameters, *module.buffers()]
    lines = [f"{count:,} parameters, {sum(t.nbytes for t in tensors):,} bytes"]
    if trained != count:
        lines.append(f"{trained:,} of them trained")
    return lines


def _table(rows: list[tuple[str, str, str]], end: list[str]) -> str:
    widths = [max(len(r[i]) for r in [HEADER, *rows]) for i in range(3)]
    rule = "-" * (sum(widths) + 4)

    def line(r):
        return f"{r[0]:<{widths[0]}}  {r[1]:<{widths[1]}}  {r[2]:>{widths[2]}}"

    return "\n".join([line(HEADER), rule, *map(line, rows), rule, *end])
