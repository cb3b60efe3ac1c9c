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
DIGEST, FORMAT = "portanet.sha256", "format"

# The format's names of dtypes; https://huggingface.co/docs/safetensors (bfloat16 below).
_NUMPY = {
    "F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2",
    "I8": "i1", "U32": "u4", "U16": "u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip


def save(obj: Any, path: Any, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write a Module's state_dict, or a dict of tensors, to a safetensors file.

    The file is replaced only when the new one is whole on disk. metadata: texts to keep
    with it. TypeError for anything but tensors by name.

    >>> import tempfile, os
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> pn.save({"x": pn.arange(3)}, path)
    >>> pn.load(path)["x"].tolist()
    [0, 1, 2]
    """
    arrays = _arrays(obj)
    texts = {} if metadata is None else dict(metadata)
    for key, text in texts.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise TypeError(f"save: metadata are texts, {key!r}: {text!r} is not")
        if key in (DIGEST, FORMAT):
            raise ValueError(f"save: the metadata key {key!r} is portanet's own")
    texts[FORMAT] = "portanet"
    texts[DIGEST] = _digest(arrays, texts)
    _replace(Path(path), safetensors.numpy.save(arrays, texts))


def load(path: Any, *, device: Any = None, dtype: Any = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name, on a device.

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
    for name, values in _checked(path)[0].items():
        is_float = values.dtype.kind == "f" or values.dtype == bfloat16.numpy
        cast = kind if is_float else None
        stored = cast or from_numpy(values.dtype)
        is_lacking = device is None and stored not in place.backend.dtypes
        try:
            made[name] = tensor(values, cast, "cpu" if is_lacking else place)
        except TypeError as why:
            raise TypeError(f"load: {path}: {name}: {why}") from None
    return made


def load_metadata(path: Any) -> dict[str, str]:
    """The texts that `save` kept with a file."""
    return _checked(path)[1]


# Out -------------------------------------------------------------------------------------


def _arrays(obj: Any) -> dict[str, np.ndarray]:
    """NumPy copies of what is to be saved."""
    state = obj.state_dict() if hasattr(obj, "state_dict") else obj
    if not isinstance(state, Mapping):
        raise TypeError(
            f"save: a Module or a dict of tensors is expected, not {type(obj).__name__}"
        )
    for name, t in state.items():
        if not isinstance(name, str):
            raise TypeError(f"save: names are texts, {name!r} is not")
        if not isinstance(t, Tensor):
            raise TypeError(f"save: {name!r} is a {type(t).__name__}, not a Tensor")
    return {name: t.numpy() for name, t in state.items()}


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
            f"load: {path} is damaged or no safetensors file: {why}"
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
