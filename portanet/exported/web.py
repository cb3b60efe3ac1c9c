"""`export_web`: a function as a folder for a browser: JavaScript, WGSL and weights.

The recording is planned for a device that does not exist, whose backend keeps the steps
of each launch instead of building them. What the plan says goes to program.json, and
the runtime, which is the same for every function, is copied beside it.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import io
from ..arrays import Array, from_numpy, layout
from ..autograd import Tensor, tensor_of
from ..compiler.graph import lower
from ..compiler.lazy import Tracer
from ..compiler.plan import Plan, optimise
from ..creation import tensor
from ..devices import Device
from ..dtypes import Dtype, bool_, float32, int32, uint32
from ..program import Program
from ..shaders import GROUPS, variants
from ..shaders.host import DEFAULT_LIMITS
from ..shaders.lower import launch_words
from ..shaders.pace import START
from ..shaders.step import in_pieces
from . import names
from .loaded import lifted
from .recording import Number, Recording, as_tensor, record

HERE = Path(__file__).parent
LARGEST = DEFAULT_LIMITS["max-storage-buffer-binding-size"]
BUFFERS = DEFAULT_LIMITS["max-storage-buffers-per-shader-stage"]


def export_web(function: Callable, example: Any, folder: Any) -> None:
    """Write a folder that runs a function of tensors in a browser, on WebGPU.

    function and example: as for `export`; a training step trains in the page. The
    folder has model.js, program.json, kernels/*.wgsl and weights.safetensors, needs
    nothing else, and stays within WebGPU's default limits; index.html shows the result
    on the example. Serve it over HTTP (`python -m http.server`): pages from files may
    not load modules.

    TypeError where a value is not bool, int32, uint32 or float32; ValueError where a
    tensor is larger than the 128 MiB that every WebGPU device can bind.

    >>> import tempfile, os
    >>> folder = tempfile.mkdtemp()
    >>> pn.export_web(nn.Linear(3, 2), (pn.ones((1, 3)),), folder)
    >>> sorted(os.listdir(folder))[:4]
    ['example.safetensors', 'index.html', 'kernels', 'model.js']
    """
    made = record(function, example)
    page = Page(made)
    place = Path(folder)
    kernels = place / "kernels"
    kernels.mkdir(parents=True, exist_ok=True)
    for old in kernels.glob("*.wgsl"):
        old.unlink()
    for name, text in page.kernels.items():
        (kernels / name).write_text(text, encoding="utf-8")
    (place / "program.json").write_text(_in_lines(page.program()), encoding="utf-8")
    io.save(page.weights(), place / "weights.safetensors")
    io.save(_examples(made, example), place / "example.safetensors")
    shutil.copyfile(HERE / "runtime.js", place / "model.js")
    shutil.copyfile(HERE / "index.html", place / "index.html")


def _in_lines(program: Mapping[str, Any]) -> str:
    """JSON with a line for each step, and for each other part."""
    parts = {name: json.dumps(part, allow_nan=False) for name, part in program.items()}
    steps = ",\n".join(json.dumps(step) for step in program["steps"])
    parts["steps"] = f"[\n{steps}\n]"
    lines = ",\n".join(f"{json.dumps(name)}: {text}" for name, text in parts.items())
    return "{\n" + lines + "\n}\n"


def _examples(made: Recording, example: Any) -> dict[str, Tensor]:
    """The example's tensors by name."""
    args = example if isinstance(example, tuple | list) else (example,)
    given = (
        example
        if isinstance(example, Mapping)
        else dict(zip(made.parameters, args, strict=True))
    )
    found = dict(pair for name in given for pair in names.leaves(given[name], name))
    return {name: as_tensor(found[name]) for name in made.inputs}


class Room:
    """A buffer that the page will make."""

    def __init__(self, nbytes: int):
        self.nbytes = nbytes


class Target:
    """A backend that runs nothing: launches are their steps, uploads their values."""

    name = "web"
    runs = False
    dtypes = frozenset((bool_, int32, uint32, float32))
    max_operands = BUFFERS - 1  # one binding is left for the status
    copies = frozenset(("reduce",))
    writes_in_place: frozenset[str] = frozenset()

    has = staticmethod(variants.has)
    alloc = staticmethod(Room)

    def itemsize(self, dtype: Dtype) -> int:
        return 4

    def upload(self, array: np.ndarray, dtype: Dtype) -> np.ndarray:
        return array

    def build(
        self, program: Program, words: Sequence[int]
    ) -> tuple[Program, variants.Plan]:
        if not variants.has(program.kernel):
            raise ValueError(
                f"export_web: {program.label}: WebGPU has no kernel {program.kernel!r}"
            )
        plan = variants.plan(program, words, BUFFERS, on_cpu=False)
        return program, in_pieces(plan)


class Page:
    """A plan of a recording, in the numbers of its buffers."""

    def __init__(self, made: Recording):
        self.made, self.device = made, Device("web", Target())
        self.sizes: list[int] = []
        self.kernels: dict[str, str] = {}  # name of a file -> its text
        self.files: dict[str, str] = {}  # and back
        self.labels: list[str] = []
        tracer = Tracer()
        inputs = [
            self._argument(tracer, i, *pair)
            for i, pair in enumerate(made.inputs.items())
        ]
        self.states = {name: self._moved(name, t) for name, t in made.states.items()}
        states = [tracer.read(t) for t in self.states.values()]
        constants = [self._constant(tracer, i, c) for i, c in enumerate(made.constants)]
        values = made.play([*inputs, *states, *constants])
        ends = [values[i] for i in (*made.results, *made.assigned.values())]
        graph = lower(self.device, tracer.calls, ends)
        for call in tracer.calls:
            for spec in call.specs:
                self._check(f"a result of {call.op.name}", spec.dtype)
        optimise(graph)
        self.plan = Plan(graph)
        # What Target.build gave, and the slots of its buffers.
        self.launches: list[tuple[Any, tuple[int, ...]]] = list(self.plan.launches)
        self.ends = ends
        self._number(inputs, states)
        self.steps = [s for launch in self.launches for s in self._steps(*launch)]

    # What the tracer is given ---------------------------------------------------------

    def _check(self, what: str, dtype: Dtype) -> None:
        if dtype not in Target.dtypes:
            raise TypeError(
                f"export_web: {what} is {dtype.name}, which WebGPU does not have; "
                "cast it to float32 or int32 first"
            )

    def _argument(self, tracer: Tracer, i: int, name: str, spec: Any) -> Any:
        self._check(name, spec.dtype)
        return tracer.argument(
            Array(None, layout(spec.shape, spec.dtype, self.device)), i
        )

    def _moved(self, name: str, t: Tensor) -> Tensor:
        self._check(name, t.dtype)
        return tensor_of(from_numpy(t.numpy(), t.dtype, self.device))

    def _constant(self, tracer: Tracer, i: int, constant: Number | Tensor) -> Any:
        self._check(f"constant {i}", constant.dtype)
        if isinstance(constant, Tensor):
            constant = self._moved(f"constant {i}", constant)
        return lifted(constant, tracer, self.device)

    # Buffers --------------------------------------------------------------------------

    def _buffer(self, nbytes: int, what: str) -> int:
        if nbytes > LARGEST:
            raise ValueError(
                f"export_web: {what} takes {nbytes} bytes, more than the {LARGEST} "
                "that every WebGPU device can bind"
            )
        self.sizes.append(max(nbytes, 4))
        return len(self.sizes) - 1

    def _number(self, inputs: list, states: list) -> None:
        """Give every slot of the plan, every input and every state its buffer."""
        plan, specs = self.plan, self.made.inputs
        self.inputs = {
            name: self._buffer(4 * math.prod(spec.shape), name)
            for name, spec in specs.items()
        }
        self.state_buffers = {
            name: self._buffer(4 * t.size, name) for name, t in self.states.items()
        }
        outer = [*self.inputs.values(), *self.state_buffers.values()]
        of_source = {
            id(x.origin): b for x, b in zip([*inputs, *states], outer, strict=True)
        }
        self.constants: dict[str, tuple[int, np.ndarray]] = {}
        self.slots: dict[int, int] = {}
        rooms: dict[int, int] = {}
        for i, slot in enumerate(plan.graph.slots):
            kept = plan.fixed[i]
            if slot.source is not None and id(slot.source) in of_source:
                self.slots[i] = of_source[id(slot.source)]
            elif isinstance(kept, np.ndarray):
                number = self._buffer(4 * kept.size, "a constant")
                self.constants[f"constant.{len(self.constants)}"] = number, kept
                self.slots[i] = number
            elif isinstance(kept, Room):
                if id(kept) not in rooms:
                    rooms[id(kept)] = self._buffer(kept.nbytes, "a temporary")
                self.slots[i] = rooms[id(kept)]
        for slot, nbytes in zip(plan.made, plan.sizes, strict=True):
            self.slots[slot] = self._buffer(nbytes, "a result")
        room = max((p.temporary for (_, p), _ in self.launches), default=0)
        self.temporary = self._buffer(room, "a temporary") if room else -1

    # Steps ----------------------------------------------------------------------------

    def _steps(
        self, launch: tuple[Program, variants.Plan], slots: Sequence[int]
    ) -> list:
        program, plan = launch
        if program.label not in self.labels:
            self.labels.append(program.label)
        label = self.labels.index(program.label)
        made = []
        for step in plan.steps:
            buffers = [
                self.temporary if i < 0 else self.slots[slots[i]] for i in step.operands
            ]
            words = launch_words(step.words, label, step.first)
            rows = -(-step.groups // GROUPS)
            made.append(
                {
                    "kernel": self._kernel(step.text, program.kernel),
                    "entry": step.entry,
                    "kinds": step.kinds,
                    "buffers": buffers,
                    "groups": [-(-step.groups // rows), rows],
                    "words": [w & 0xFFFFFFFF for w in words],
                    "work": step.work,
                }
            )
        return made

    def _kernel(self, text: str, stem: str) -> str:
        if text not in self.files:
            name = f"{len(self.files):03}-{stem}.wgsl"
            self.files[text] = name
            self.kernels[name] = text
        return self.files[text]

    # Files ----------------------------------------------------------------------------

    def program(self) -> dict[str, Any]:
        """program.json."""
        count = len(self.made.results)
        assigned = zip(self.made.assigned, self.plan.made[count:], strict=True)
        return {
            "buffers": self.sizes,
            "inputs": {
                name: _described(self.inputs[name], *spec)
                for name, spec in self.made.inputs.items()
            },
            "states": {
                name: _described(self.state_buffers[name], t.shape, t.dtype)
                for name, t in self.states.items()
            },
            "constants": {
                name: {"buffer": b} for name, (b, _) in self.constants.items()
            },
            "labels": self.labels,
            "steps": self.steps,
            "work": START,  # of the steps that one submit may have, about
            "results": [
                _described(self.slots[slot], x.shape, x.dtype)
                for slot, x in zip(self.plan.made, self.ends[:count], strict=False)
            ],
            "structure": _plain(self.made.structure),
            "assigned": [
                [self.slots[s], self.state_buffers[name]] for name, s in assigned
            ],
        }

    def weights(self) -> dict[str, Tensor]:
        """weights.safetensors: the states, and constants that are arrays."""
        constants = {
            name: tensor(values, device="cpu")
            for name, (_, values) in self.constants.items()
        }
        return {**{f"state.{n}": t for n, t in self.made.states.items()}, **constants}


def _described(buffer: int, shape: tuple[int, ...], dtype: Dtype) -> dict[str, Any]:
    return {"buffer": buffer, "shape": list(shape), "dtype": dtype.name}


def _plain(tree: Any) -> Any:
    """A result's structure for JavaScript: tuples as lists, what JSON lacks as text."""
    if tree == "tensor":
        return tree
    ((kind, inside),) = tree.items()
    if kind == "value":
        is_plain = inside is None or isinstance(inside, bool | int | str)
        finite = isinstance(inside, float) and math.isfinite(inside)
        return {"value": inside if is_plain or finite else str(inside)}
    if kind == "dict":
        return {"dict": [[str(k), _plain(v)] for k, v in inside]}
    return {"list": [_plain(v) for v in inside]}
