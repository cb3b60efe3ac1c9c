"""What the conformance suite shares: cells, inputs in every dtype and layout, bounds."""

import importlib
import os
import pkgutil

import numpy as np

import portanet.ops
from portanet.arrays import Array, from_numpy
from portanet.devices import get
from portanet.dtypes import as_dtype
from portanet.op import OPS, Spec
from tests.conftest import PRESENT

# Every operator is tested, also those that only nn and optim load.
for _module in pkgutil.iter_modules(portanet.ops.__path__):
    importlib.import_module(f"portanet.ops.{_module.name}")

LAYOUTS = ("contiguous", "transposed", "sliced", "reversed")
EPS = {
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
    "float32": 2.0**-23,
    "float64": 2.0**-52,
}


def listed():
    """Operators with test cases."""
    return [op for op in OPS.values() if op.cases is not None]


def named_dtypes(op):
    """The dtypes of an operator's cases, each once, in their order."""
    cases = op.cases(np.random.default_rng(0))
    return dict.fromkeys(d for c in cases for d in c.dtypes)


def cells():
    """(operator, device, dtype) for each dtype that the operator names and the device has."""
    for op in listed():
        for device in PRESENT:
            has = get(device).backend.dtypes
            for name in named_dtypes(op):
                if as_dtype(name) in has and any(cases_on(op, name, device)):
                    yield op, device, name


def cases_of(op, dtype):
    return [c for c in op.cases(np.random.default_rng(0)) if dtype in c.dtypes]


def cases_on(op, dtype, device):
    """The cases of a dtype whose results the device has a dtype for."""
    has = get(device).backend.dtypes
    for case in cases_of(op, dtype):
        specs = [Spec(a.shape, t) for a, t in typed(case, dtype)]
        made = op.rule(*specs, **case.static)
        if {x.dtype for x in ([made] if isinstance(made, Spec) else made)} <= has:
            yield case


def layouts_for(op, dtype, device):
    """The layouts to try. On the simulated GPU, where each costs a compilation of a tenth of
    a second, formulas take those that are not contiguous in their first dtype only: there a
    dtype is a word in loads and stores, and a layout is where these are."""
    is_simulated = device == "cuda" and os.environ.get("PORTANET_FAKE_CUDA")
    if not is_simulated or op.formula is None:
        return LAYOUTS
    first = next(d for d in named_dtypes(op) if any(cases_on(op, d, device)))
    return LAYOUTS if dtype == first else LAYOUTS[:1]


def whole(a, dtype):
    """Random reals as integers that are not 0 where the real was not."""
    a = np.sign(a) * np.ceil(np.abs(a))
    return np.abs(a) if dtype.kind == "unsigned" else a


def typed(case, name):
    """The arguments as NumPy arrays of the dtype; integer arguments of a floating case
    (indices, conditions) keep int32."""
    dtype = as_dtype(name)
    args = []
    for a in map(np.asarray, case.args):
        if dtype.is_float and a.dtype.kind in "iu":
            args.append((a.astype(np.int32), as_dtype("int32")))
        elif dtype.is_integer and a.dtype.kind in "iu" and len(case.dtypes) > 1:
            a = np.abs(a) if dtype.kind == "unsigned" else a
            args.append((a.astype(dtype.numpy), dtype))
        elif dtype.is_integer:
            args.append((whole(a, dtype).astype(dtype.numpy), dtype))
        elif dtype.kind == "bool":
            args.append((a > 0, dtype))
        else:
            args.append((a.astype(dtype.numpy), dtype))
    return args


def wide(args):
    """The same numbers in float64 or int64, for the reference."""
    up = {"f": np.float64, "V": np.float64, "i": np.int64, "u": np.int64, "b": np.bool_}
    return [a.astype(up[a.dtype.kind]) for a, _ in args]


def laid_out(a, dtype, device, how):
    """The values on a device, under a layout that is not the plain one."""
    if how == "transposed" and a.ndim > 1:
        axes = tuple(reversed(range(a.ndim)))
        stored = from_numpy(np.ascontiguousarray(a.transpose(axes)), dtype, device)
        seen = stored.layout.view(a.shape, tuple(reversed(stored.layout.strides)))
        return Array(stored.buffer, seen)
    if how == "sliced" and a.ndim:
        big = np.zeros([2 * n + 3 for n in a.shape], a.dtype)
        at = tuple(slice(2, 2 + 2 * n, 2) for n in a.shape)
        big[at] = a
        stored = from_numpy(big, dtype, device)
        strides = tuple(2 * s for s in stored.layout.strides)
        start = sum(2 * s for s in stored.layout.strides)
        return Array(stored.buffer, stored.layout.view(a.shape, strides, start))
    if how == "reversed" and a.ndim:
        stored = from_numpy(np.ascontiguousarray(np.flip(a)), dtype, device)
        strides = tuple(-s for s in stored.layout.strides)
        start = sum(
            (n - 1) * s for n, s in zip(a.shape, stored.layout.strides, strict=True)
        )
        return Array(stored.buffer, stored.layout.view(a.shape, strides, max(start, 0)))
    return from_numpy(a, dtype, device)


def as_tuple(y):
    return y if isinstance(y, tuple) else (y,)


def check_value(got, want, ulps, where):
    """got, from a device, against the reference's float64, within `ulps` of the dtype."""
    dtype = got.dtype
    value = got.numpy()
    want = np.asarray(want)
    assert value.shape == want.shape, (
        f"{where}: shape {value.shape}, expected {want.shape}"
    )
    if not dtype.is_float:
        want = want.astype(np.float64) if want.dtype == object else want
        expected = want.astype(np.int64).astype(dtype.numpy) if dtype.is_integer else (
            want.astype(bool)
        )  # fmt: skip
        np.testing.assert_array_equal(value, expected, err_msg=where)
        return
    value, want = value.astype(np.float64), want.astype(np.float64)
    with np.errstate(over="ignore"):
        want = want if dtype.itemsize == 8 else _limited(want, dtype)
    np.testing.assert_array_equal(np.isnan(value), np.isnan(want), err_msg=where)
    finite = np.isfinite(want)
    np.testing.assert_array_equal(value[~finite], want[~finite], err_msg=where)
    value, want = value[finite], want[finite]
    if not value.size:
        return
    scale = np.maximum(np.abs(want), np.abs(want).mean())
    # Half an ulp more: the reference itself is rounded when it is stored.
    bound = (ulps + 0.5) * EPS[dtype.name] * scale + 1e-37
    worst = np.max(np.abs(value - want) / bound)
    assert worst <= 1, f"{where}: off by {worst * (ulps + 0.5):.1f} ulp, bound {ulps}"


def _limited(want, dtype):
    """Numbers past the largest of a dtype are infinite in it."""
    as_stored = want.astype(dtype.numpy).astype(np.float64)
    return np.where(np.isinf(as_stored), as_stored, want)
