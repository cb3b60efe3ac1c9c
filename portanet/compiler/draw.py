"""A plan as a picture (SVG) and as a timeline (Chrome's trace format)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

from .explain import Row
from .plan import Plan

WIDTH, HEIGHT, GAP, ROW = 260, 34, 24, 62
COLOURS = {"elementwise": "#dbe9f6", "matmul": "#fde2c8", "reduce": "#dcefdc"}


def _levels(plan: Plan) -> list[int]:
    """For each launch, one more than the deepest launch that it reads from."""
    level_of: dict[int, int] = {}  # slot -> level of its last writer
    levels = []
    for w in plan.graph.work:
        read = plan.graph.touched(h.slot for h in w.ins)
        level = 1 + max((level_of.get(s, -1) for s in read), default=-1)
        levels.append(level)
        level_of |= dict.fromkeys(plan.graph.touched(h.slot for h in w.outs), level)
    return levels


def _edges(plan: Plan) -> list[tuple[int, int]]:
    """(writer, reader) of each temporary."""
    last: dict[int, int] = {}
    found = set()
    for i, w in enumerate(plan.graph.work):
        found.update(
            (last[s], i) for s in plan.graph.touched(h.slot for h in w.ins) if s in last
        )
        last |= dict.fromkeys(plan.graph.touched(h.slot for h in w.outs), i)
    return sorted(found)


def svg(plan: Plan, rows: Sequence[Row]) -> str:
    """The launches as boxes, those that depend on nothing on top, with an arrow for each
    value that one reads from another. Source lines are in the tooltips."""
    levels = _levels(plan)
    taken: dict[int, int] = {}
    places = []
    for level in levels:
        column = taken.get(level, 0)
        taken[level] = column + 1
        places.append((GAP + column * (WIDTH + GAP), GAP + level * ROW))
    wide = GAP + max(taken.values(), default=1) * (WIDTH + GAP)
    high = GAP + (max(levels, default=0) + 1) * ROW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{high}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{wide}" height="{high}" fill="white"/>',
    ]
    for a, b in _edges(plan):
        (x1, y1), (x2, y2) = places[a], places[b]
        parts.append(
            f'<line x1="{x1 + WIDTH / 2}" y1="{y1 + HEIGHT}" x2="{x2 + WIDTH / 2}" '
            f'y2="{y2}" stroke="#999"/>'
        )
    parts += [_box(r, *at) for r, at in zip(rows, places, strict=True)]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _box(row: Row, x: int, y: int) -> str:
    colour = COLOURS.get(row.kernel, "#eeeeee")
    names = " ".join(row.operators)
    short = names if len(names) < 42 else names[:40] + "..."
    shape = "x".join(map(str, row.shape)) or "1"
    time = "" if row.time_us is None else f", {row.time_us:.1f} us"
    return (
        f"<g><title>{escape(f'{names} ({row.line})')}</title>"
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="4" '
        f'fill="{colour}" stroke="#666"/>'
        f'<text x="{x + 6}" y="{y + 14}">{row.number} {escape(short)}</text>'
        f'<text x="{x + 6}" y="{y + 28}" fill="#555">{row.kernel} {shape}{time}</text></g>'
    )


def chrome_trace(rows: Sequence[Row], device: str) -> str:
    """The launches one after another with their times, for chrome://tracing and Perfetto."""
    events, now = [], 0.0
    for r in rows:
        took = r.time_us or 0.0
        events.append(
            {
                "name": " ".join(r.operators),
                "cat": r.kernel,
                "ph": "X",
                "ts": now,
                "dur": took,
                "pid": 0,
                "tid": device,
                "args": {
                    "line": r.line,
                    "bytes": r.nbytes,
                    "flops": r.flops,
                    "of roof": r.of_roof,
                },
            }
        )
        now += took
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ns"})
