"""Recordings in files: safetensors with the tensors, and the calls as JSON in them.

Nothing in a file is Python that runs: operators are names, or expressions that are
checked; static arguments are numbers, texts, tuples and dtypes.
"""

from __future__ import annotations

import importlib
import json
import math
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import io, ops
from ..autograd import Tensor
from ..dtypes import Dtype, as_dtype
from ..op import Spec, named
from ..scalars import PRIMITIVES, ROWS, SPECIAL, Expression, Instruction
from .recording import Call, Number, Recording, part, record

KEY, VERSION = "portanet.exported", 1


def export(function: Callable, example: Any, path: Any) -> None:
    """Write what a function of tensors does, and the tensors that it reads, to a file.

    function: a forward pass, or a whole training step with backward and optimizer.
    example: its arguments, a tuple (or a dict of keywords) of tensors and of what else
    it takes; the file holds for their shapes and dtypes, and other arguments are fixed.
    The function runs once or twice to be traced, which changes no tensor. The file
    needs neither it nor its modules; `load_exported` runs it on any device.

    Raises TraceError for what a trace can't hold, as `compile` does, and TypeError for
    an operator or static argument that a file can't. The file is replaced whole or not
    at all.

    >>> import tempfile, os
    >>> path = os.path.join(tempfile.mkdtemp(), "model.pnx")
    >>> model = nn.Linear(3, 2)
    >>> pn.export(model, (pn.ones((1, 3)),), path)
    >>> pn.load_exported(path)(np.ones((1, 3), "float32")).shape
    (1, 2)
    """
    made = record(function, example)
    tensors = {f"state.{name}": t for name, t in made.states.items()}
    tensors |= {
        f"constant.{i}": c
        for i, c in enumerate(made.constants)
        if isinstance(c, Tensor)
    }
    text = json.dumps(_to_json(made), separators=(",", ":"), allow_nan=False)
    io.save(tensors, path, metadata={KEY: text})


def read(path: Any, device: Any) -> Recording:
    """The recording in a file, its tensors on a device. ValueError where it is damaged,
    newer than this version, or has operators that are not defined here."""
    tensors = io.load(path, device=device)
    text = io.load_metadata(path).get(KEY)
    if text is None:
        raise ValueError(
            f"load_exported: {path} holds tensors and no exported function; use load"
        )
    try:
        found = json.loads(text)
        version = found["version"]
    except (ValueError, KeyError, TypeError) as why:
        raise _damaged(path, why) from None
    if version != VERSION:
        raise ValueError(
            f"load_exported: {path} has version {version!r} of the format and this "
            f"portanet reads version {VERSION}; install a newer portanet"
        )
    _load_operators()
    try:
        needed = {c["op"] for c in found["calls"] if "part" not in c}
        unknown = {name for name in needed if named(name) is None}
        if not unknown:
            return _from_json(found, tensors)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as why:
        raise _damaged(path, why) from None
    raise ValueError(
        f"load_exported: {path} needs operators that are not defined here: "
        f"{', '.join(sorted(unknown))}; import what defines them, or install a newer "
        "portanet"
    )


def _damaged(path: Any, why: Exception) -> ValueError:
    what = why if isinstance(why, ValueError) else f"{type(why).__name__}: {why}"
    return ValueError(f"load_exported: {Path(path)} is damaged: {what}")


def _load_operators() -> None:
    """Import every module of operators, so that all are in the list."""
    for module in pkgutil.iter_modules(ops.__path__):
        importlib.import_module(f"{ops.__name__}.{module.name}")


# Values -------------------------------------------------------------------------------


def encode(value: Any, what: str) -> Any:
    """A static value as JSON. TypeError for what a file can't hold."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, Dtype):
        return {"dtype": value.name}
    if isinstance(value, tuple):
        return {"tuple": [encode(v, what) for v in value]}
    raise TypeError(
        f"export: {what} is a {type(value).__name__}, which a file can't hold; "
        "use numbers, texts, None, tuples and dtypes"
    )


def decode(value: Any) -> Any:
    """The static value of some JSON. ValueError for what `encode` does not make."""
    if not isinstance(value, dict):
        if isinstance(value, list):
            raise ValueError(f"{value!r} is no static value")
        return value
    ((kind, inside),) = value.items()
    if kind == "tuple":
        return tuple(decode(v) for v in inside)
    if kind not in ("dtype", "float"):
        raise ValueError(f"{kind!r} is no kind of static value")
    return as_dtype(str(inside)) if kind == "dtype" else float(inside)


def _structure(tree: Any, code: Callable[[Any], Any]) -> Any:
    """A result's structure with its static values and keys encoded, or decoded."""
    if tree == "tensor":
        return tree
    ((kind, inside),) = tree.items()
    if kind == "value":
        return {kind: code(inside)}
    if kind == "dict":
        return {kind: [[code(k), _structure(v, code)] for k, v in inside]}
    if kind not in ("list", "tuple"):
        raise ValueError(f"{kind!r} is no kind of result")
    return {kind: [_structure(v, code) for v in inside]}


def leaves_in(tree: Any) -> int:
    """The number of tensors in a result."""
    if tree == "tensor":
        return 1
    ((kind, inside),) = tree.items()
    if kind == "value":
        return 0
    return sum(leaves_in(v[1] if kind == "dict" else v) for v in inside)


def _spec(spec: Spec) -> list:
    return [list(spec.shape), spec.dtype.name]


def _read_spec(found: Sequence) -> Spec:
    shape, dtype = found
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"{shape} is no shape")
    return Spec(tuple(shape), as_dtype(dtype))


# Out ----------------------------------------------------------------------------------


def _to_json(made: Recording) -> dict[str, Any]:
    return {
        "version": VERSION,
        "parameters": made.parameters,
        "inputs": {name: _spec(spec) for name, spec in made.inputs.items()},
        "fixed": {name: _fixed(value) for name, value in made.fixed.items()},
        "states": list(made.states),
        "constants": [_constant(c) for c in made.constants],
        "calls": [_call(c) for c in made.calls],
        "results": made.results,
        "structure": _structure(
            made.structure, lambda v: encode(v, "a part of the result")
        ),
        "assigned": made.assigned,
    }


def _fixed(value: Any) -> Any:
    """An argument that is no tensor; {"object": its type} for what no file can hold."""
    try:
        return encode(value, "")
    except TypeError:
        return {"object": type(value).__name__}


def _constant(constant: Number | Tensor) -> Any:
    if isinstance(constant, Tensor):
        return None
    return [encode(constant.value, "a constant"), constant.dtype.name]


def _call(call: Call) -> dict[str, Any]:
    what = f"an argument of {call.op.name}"
    made = {
        "op": call.op.name,
        "args": list(call.args),
        "static": {k: encode(v, what) for k, v in call.static.items()},
        "specs": [_spec(s) for s in call.specs],
    }
    if call.part is not None:
        made["part"] = {
            "inputs": [t.name for t in call.part.inputs],
            "instructions": [
                [i.name, i.dtype.name, list(i.operands), encode(i.immediate, what)]
                for i in call.part.instructions
            ],
            "outputs": list(call.part.outputs),
        }
    return made


# In -----------------------------------------------------------------------------------


def _from_json(found: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Recording:
    constants = [
        tensors[f"constant.{i}"] if c is None else Number(decode(c[0]), as_dtype(c[1]))
        for i, c in enumerate(found["constants"])
    ]
    made = Recording(
        [str(name) for name in found["parameters"]],
        {name: _read_spec(spec) for name, spec in found["inputs"].items()},
        dict(found["fixed"]),
        {name: tensors[f"state.{name}"] for name in found["states"]},
        constants,
    )
    count = len(made.inputs) + len(made.states) + len(made.constants)
    for entry in found["calls"]:
        made.calls.append(_read_call(entry, count))
        count += len(made.calls[-1].specs)
    made.structure = _structure(found["structure"], decode)
    made.results = _numbers(found["results"], count)
    made.assigned = {str(k): v for k, v in found["assigned"].items()}
    _numbers(made.assigned.values(), count)
    if leaves_in(made.structure) != len(made.results):
        raise ValueError("the result does not have as many tensors as its structure")
    if unknown := set(made.assigned) - set(made.states):
        raise ValueError(f"there is no state {', '.join(unknown)}")
    return made


def _numbers(found: Any, below: int) -> list[int]:
    """Numbers of values that exist."""
    numbers = list(found)
    for i in numbers:
        if type(i) is not int or not 0 <= i < below:
            raise ValueError(f"there is no value {i!r} of {below}")
    return numbers


def _read_call(entry: Mapping[str, Any], count: int) -> Call:
    name, args = entry["op"], tuple(_numbers(entry["args"], count))
    static = {k: decode(v) for k, v in entry["static"].items()}
    specs = tuple(map(_read_spec, entry["specs"]))
    if "part" not in entry:
        op = named(name)
        assert op is not None  # the caller looked
        return Call(op, args, static, specs)
    expression = _expression(entry["part"])
    if len(expression.inputs) != len(args) or len(expression.outputs) != len(specs):
        raise ValueError(
            f"{name} does not have the arguments or results of its formula"
        )
    return Call(part(str(name), expression, specs), args, {}, specs, expression)


def _expression(entry: Mapping[str, Any]) -> Expression:
    """An expression whose instructions have operands of the types that they take."""
    inputs = tuple(map(as_dtype, entry["inputs"]))
    types = list(inputs)
    instructions = []
    for name, dtype, operands, immediate in entry["instructions"]:
        made = Instruction(
            name,
            as_dtype(dtype),
            tuple(_numbers(operands, len(types))),
            decode(immediate),
        )
        _check(made, [types[i] for i in made.operands])
        instructions.append(made)
        types.append(made.dtype)
    outputs = tuple(_numbers(entry["outputs"], len(types)))
    return Expression(inputs, tuple(instructions), outputs)


# Operands of the instructions that are no plain function. None of those over rows: the
# operators that have them are kept by name.
_OPERANDS = {
    "const": 0,
    "index": 0,
    "cast": 1,
    "cast_checked": 1,
    "where": 3,
    "wrap_index": 2,
}
assert set(_OPERANDS) == set(SPECIAL) - set(ROWS)


def _check(made: Instruction, types: Sequence[Dtype]) -> None:
    name = made.name
    if name in _OPERANDS:
        fits = len(types) == _OPERANDS[name] and made.dtype.compute is made.dtype
        if name == "const":
            fits = fits and isinstance(made.immediate, bool | int | float)
    else:
        count, known = PRIMITIVES.get(name, (-1, ()))
        fits = len(types) == count and types[0] in known and len(set(types)) == 1
    if not fits:
        listed = ", ".join(t.name for t in types)
        raise ValueError(f"there is no instruction {name} of ({listed})")
