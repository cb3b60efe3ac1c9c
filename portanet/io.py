"""Saving and loading: safetensors files, written whole or not at all, checked when read."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from .autograd import Tensor
from .creation import tensor
from .devices import default_device, get
from .dtypes import as_dtype, bfloat16, from_numpy

# Texts of our own in a file's metadata: the checksum, and that there must be one.
# And the form of what is more than a dict of tensors.
DIGEST, FORMAT, TREE = "portanet.sha256", "format", "portanet.tree"

# The format's names of dtypes; https://huggingface.co/docs/safetensors (bfloat16 below).
_NUMPY = {
    "F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2",
    "I8": "i1", "U32": "u4", "U16": "u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip


def save(obj: Any, path: Any, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write a Module's state_dict, or a dict of tensors, to a safetensors file.

    The dict may hold others, lists, tuples, numbers, texts and None, as a checkpoint does:
    `load` gives the same back, and other readers of the format find the tensors under the
    keys joined by dots. The file is replaced only when the new one is whole on disk.
    metadata: texts to keep with it. TypeError for anything else.

    >>> import tempfile, os
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> pn.save({"x": pn.arange(3)}, path)
    >>> pn.load(path)["x"].tolist()
    [0, 1, 2]
    >>> pn.save({"epoch": 3, "model": {"x": pn.ones(1)}}, path)
    >>> pn.load(path)
    {'epoch': 3, 'model': {'x': tensor([1.])}}
    """
    arrays, tree = _arrays(obj)
    texts = {} if metadata is None else dict(metadata)
    for key, text in texts.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise TypeError(f"save: metadata are texts, {key!r}: {text!r} is not")
        if key in (DIGEST, FORMAT, TREE):
            raise ValueError(f"save: the metadata key {key!r} is portanet's own")
    texts[FORMAT] = "portanet"
    if tree is not None:
        texts[TREE] = json.dumps(tree)
    texts[DIGEST] = _digest(arrays, texts)
    _replace(Path(path), safetensors.numpy.save(arrays, texts))


def load(path: Any, *, device: Any = None, dtype: Any = None) -> dict[Any, Any]:
    """The tensors of a safetensors file, by name, on a device; or the dict that was saved.

    device: None is the default one, and the cpu for a tensor whose dtype that one lacks, as
    int64 on wgpu; load_state_dict casts and moves it. dtype: what floating tensors are cast
    to. ValueError names the file and what is wrong with it: cut short, changed since it was
    saved, or no safetensors file.
    """
    place = default_device() if device is None else get(device)
    kind = None if dtype is None else as_dtype(dtype)
    if kind is not None and not kind.is_float:
        raise TypeError(f"load: floating tensors can't be cast to {kind.name}")
    made = {}
    arrays, texts = _checked(path)
    for name, values in arrays.items():
        is_float = values.dtype.kind == "f" or values.dtype == bfloat16.numpy
        cast = kind if is_float else None
        stored = cast or from_numpy(values.dtype)
        is_lacking = device is None and stored not in place.backend.dtypes
        try:
            made[name] = tensor(values, cast, "cpu" if is_lacking else place)
        except TypeError as why:
            raise TypeError(f"load: {path}: {name}: {why}") from None
    return _grown(json.loads(texts[TREE]), made) if TREE in texts else made


def load_metadata(path: Any) -> dict[str, str]:
    """The texts that `save` kept with a file."""
    texts = _checked(path)[1]
    texts.pop(TREE, None)
    return texts


# Out -------------------------------------------------------------------------------------


def _arrays(obj: Any) -> tuple[dict[str, np.ndarray], Any]:
    """NumPy copies of what is to be saved, and its form if it is no dict of tensors."""
    state = obj.state_dict() if hasattr(obj, "state_dict") else obj
    if not isinstance(state, Mapping):
        raise TypeError(
            f"save: a Module or a dict of tensors is expected, not {type(obj).__name__}"
        )
    tensors: dict[str, Tensor] = {}
    tree = _shrunk(state, (), tensors)
    is_flat = all(isinstance(k, str) and tensors.get(k) is t for k, t in state.items())
    return {name: t.numpy() for name, t in tensors.items()}, None if is_flat else tree


def _shrunk(value: Any, path: tuple[str, ...], tensors: dict[str, Tensor]) -> Any:
    """What JSON can hold of a value; its tensors are put among `tensors`."""
    name = ".".join(path)
    if isinstance(value, Tensor):
        while name in tensors:
            name += "_"
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str | int) or isinstance(key, bool):
                raise TypeError(f"save: {name}: a key is a text or an integer: {key!r}")
        pairs = [(k, _shrunk(v, (*path, str(k)), tensors)) for k, v in value.items()]
        return {"dict": pairs}
    if isinstance(value, list | tuple):
        items = [_shrunk(v, (*path, str(i)), tensors) for i, v in enumerate(value)]
        return {"list" if isinstance(value, list) else "tuple": items}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    cure = "; give its state_dict()" if hasattr(value, "state_dict") else ""
    raise TypeError(
        f"save: {name!r} is a {type(value).__name__}, not a tensor, number, text, or a "
        f"dict or list of them{cure}"
    )


def _grown(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value that `_shrunk` took apart."""
    ((kind, held),) = tree.items()
    if kind == "tensor":
        return tensors[held]
    if kind == "dict":
        return {key: _grown(v, tensors) for key, v in held}
    if kind == "value":
        return held
    items = [_grown(v, tensors) for v in held]
    return items if kind == "list" else tuple(items)


def _digest(arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> str:
    """The SHA-256 of names, dtypes, shapes, values and texts, in the order of names."""
    made = hashlib.sha256()
    for key in sorted(texts):
        made.update(f"{key}={texts[key]}\n".encode())
    for name in sorted(arrays):
        a = arrays[name]
        made.update(f"{name} {a.dtype.name} {a.shape}\n".encode())
        made.update(a.tobytes())
    return made.hexdigest()


def _replace(path: Path, data: bytes) -> None:
    """Put a file with this content in the place of another, in one step."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"save: {path}: there is no folder {path.parent}")
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the new name itself
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


# In --------------------------------------------------------------------------------------


def _checked(path: Any) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and texts of a file; ValueError where it is not as it was saved."""
    data = Path(path).read_bytes()
    try:
        found = safetensors.deserialize(data)
        texts = _texts(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as why:
        raise ValueError(
            f"load: {path} is damaged or no safetensors file: {_other(data) or why}"
        ) from None
    arrays = {
        name: _array(path, name, entry) for name, entry in sorted(found, key=_name)
    }
    digest, ours = texts.pop(DIGEST, None), texts.get(FORMAT) == "portanet"
    if (ours or digest is not None) and digest != _digest(arrays, texts):
        raise ValueError(
            f"load: {path} is damaged: its content is not what its checksum says"
        )
    texts.pop(FORMAT, None)
    return arrays, texts


def _other(data: bytes) -> str:
    """What a file is that PyTorch or NumPy wrote, and the way out; "" for another."""
    if (
        data[:4] == b"PK\x03\x04"
        and b"data.pkl" in data[:4096]
        or data[:2] == b"\x80\x02"
    ):
        return (
            "it is PyTorch's; there, save the state_dict with "
            "safetensors.torch.save_file"
        )
    if data[:6] == b"\x93NUMPY" or data[:4] == b"PK\x03\x04":
        return "it may be NumPy's; load it with numpy.load and pn.tensor"
    return ""


def _name(entry: tuple[str, Any]) -> str:
    return entry[0]


def _texts(data: bytes) -> dict[str, str]:
    """The metadata in the header, which is JSON after its length in 8 bytes."""
    length = int.from_bytes(data[:8], "little")
    return dict(json.loads(data[8 : 8 + length]).get("__metadata__") or {})


def _array(path: Any, name: str, entry: Mapping[str, Any]) -> np.ndarray:
    kind = entry["dtype"]
    if kind != "BF16" and kind not in _NUMPY:
        raise ValueError(
            f"load: {path}: {name} is {kind}, which portanet does not have"
        )
    dtype = (
        bfloat16.numpy if kind == "BF16" else np.dtype(_NUMPY[kind]).newbyteorder("<")
    )
    return np.frombuffer(entry["data"], dtype).reshape(entry["shape"])
