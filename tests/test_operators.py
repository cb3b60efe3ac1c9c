"""Every operator on every device: values, gradients, bad inputs, special values.

Nothing here names an operator: an entry in portanet/ops is enough to have it tested.
"""

import inspect

import numpy as np
import pytest

import portanet as pn
from portanet.arrays import from_numpy
from portanet.autograd import gradients
from portanet.devices import get
from portanet.dtypes import as_dtype
from portanet.op import OPS
from tests.conformance import (
    as_tuple,
    cases_of,
    cases_on,
    cells,
    check_value,
    laid_out,
    layouts_for,
    listed,
    typed,
    wide,
)
from tests.conftest import PRESENT, REQUIRED


def params(chosen):
    return [
        pytest.param(
            *cell,
            id="-".join([cell[0].name, *cell[1:]]),
            marks=[pytest.mark.swiftshader] if "wgpu" in cell else [],
        )
        for cell in chosen
    ]


CELLS = list(cells())
DIFFERENTIABLE = [
    (op, device)
    for op, device, dtype in CELLS
    if dtype == "float32" and (op.grad is not None or op.fallback is not None)
]


@pytest.mark.parametrize("op, device, dtype", params(CELLS))
def test_value(op, device, dtype):
    tried = 0
    place, layouts = get(device), layouts_for(op, dtype, device)
    for case in cases_on(op, dtype, device):
        args = typed(case, dtype)
        with np.errstate(all="ignore"):
            want = as_tuple(op.reference(*wide(args), **case.static))
        for how in layouts:
            values = [laid_out(a, t, place, how) for a, t in args]
            got = as_tuple(op(*values, **case.static))
            for i, (g, w) in enumerate(zip(got, want, strict=True)):
                shapes = [a.shape for a, _ in args]
                where = f"{op.name} {shapes} {case.static} {how} result {i}"
                check_value(g, w, op.ulps, where)
            tried += 1
    assert tried, "no case ran"


@pytest.mark.parametrize("op, device", params(DIFFERENTIABLE))
def test_gradient(op, device):
    """<v, J w> by central differences of the float64 reference against the device's vjp."""
    for case in cases_on(op, "float32", device):
        args = typed(case, "float32")
        exact = wide(args)
        floating = [i for i, (a, t) in enumerate(args) if t.is_float and a.size]
        y = op.reference(*exact, **case.static)
        if isinstance(y, tuple) or not floating or not np.size(y):
            continue
        if any(np.abs(exact[i]).max() > 100 for i in floating):
            continue  # float32 holds 1000 within 3e-5, which is past the bound below
        y = np.asarray(y)
        if not y.dtype.kind == "f":
            continue
        rng = np.random.default_rng(1)
        v = rng.normal(size=y.shape)
        w = {i: rng.normal(size=exact[i].shape) for i in floating}
        want = _difference(op, exact, case.static, v, w)
        xs = [pn.tensor(a, t, device) for a, t in args]
        for i in floating:
            xs[i].requires_grad = True
        result = op(*xs, **case.static)
        if not result.requires_grad or result.dtype != "float32":
            continue  # a cast to a narrower dtype is too coarse for differences
        found = gradients(
            result, [xs[i] for i in floating], pn.tensor(v, result.dtype, device)
        )
        parts = [
            w[i] * g.numpy().astype(np.float64)
            for i, g in zip(floating, found, strict=True)
        ]
        got = sum(p.sum() for p in parts)
        size = sum(np.abs(p).sum() for p in parts)
        # float32 rounds each of the terms of `size` by 6e-8, a few dozen times at most.
        assert abs(got - want) <= 1e-5 * max(size, abs(want), 1e-3), (
            f"{op.name} {[x.shape for x in xs]} {case.static}: "
            f"the gradient gives {got!r}, differences {want!r}"
        )


def _difference(op, exact, static, v, w, h=1e-6):
    ends = []
    for sign in (1, -1):
        moved = [a + sign * h * w[i] if i in w else a for i, a in enumerate(exact)]
        ends.append(np.asarray(op.reference(*moved, **static), np.float64))
    return float(np.sum(v * (ends[0] - ends[1])) / (2 * h))


SECOND = [(op, "cpu") for op in listed() if op.grad is not None]


@pytest.mark.parametrize("op, device", params(SECOND))
def test_gradient_of_the_gradient(op, device):
    """In float64, where differences are sharp, on the first case that has a gradient."""
    for case in cases_of(op, "float32"):
        args = typed(case, "float32")
        if any(a.size == 0 or a.size > 300 for a, _ in args):
            continue
        xs = [
            pn.tensor(a.astype(np.float64) if t.is_float else a, device=device)
            for a, t in args
        ]
        if not any(x.dtype.is_float for x in xs):
            continue
        y = op(*xs, **case.static)
        if isinstance(y, tuple) or y.dtype != "float64" or not y.size:
            continue
        pn.testing.check_grads(
            lambda *a, static=case.static: op(*a, **static), *xs, order=2, rtol=1e-5
        )
        return


BAD = [
    (op, device, i)
    for op in OPS.values()
    for device in PRESENT
    for i in range(len(op.bad))
]


@pytest.mark.parametrize(
    "op, device, i", [pytest.param(*b, id=f"{b[0].name}-{b[1]}-{b[2]}") for b in BAD]
)
def test_bad_input_is_refused_with_its_message(op, device, i):
    bad = op.bad[i]
    place = get(device)
    xs = [
        from_numpy(np.zeros(shape, as_dtype(t).numpy), as_dtype(t), place)
        for shape, t in bad.specs
    ]
    with pytest.raises(bad.error, match=bad.message):
        op(*xs, **bad.static)


SPECIAL = np.array(
    [
        np.nan,
        np.inf,
        -np.inf,
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        -0.5,
        2.0,
        -2.0,
        3.0,
        2.5,
        -2.5,
    ]
    + [100.0, -100.0, 1e-20, -1e-20, 1e20, -1e20, 3e38, 16777216.0]
)
# Where NumPy itself is no model: these are checked in tests of their own.
NOT_NUMPY = {"astype", "wrap_index", "floor_divide", "remainder"}
# Which of 0.0 and -0.0 is larger is for each implementation to say.
EITHER_ZERO = {"maximum", "minimum", "relu", "elu"}
ELEMENTWISE = [
    (op, device)
    for op, device, dtype in CELLS
    if op.formula and not op.row and dtype == "float32" and op.name not in NOT_NUMPY
    and "types" not in op.name
]  # fmt: skip


@pytest.mark.parametrize("op, device", params(ELEMENTWISE))
def test_special_values_are_numpys(op, device):
    case = cases_of(op, "float32")[0]
    if any(np.asarray(a).dtype.kind in "iu" for a in case.args) or len(case.args) > 2:
        return
    arity = len(inspect.signature(op.formula).parameters) - len(case.static)
    grids = np.meshgrid(*[SPECIAL] * arity, indexing="ij")
    args = [g.astype(np.float32) for g in grids]
    with np.errstate(all="ignore"):
        want = op.reference(*(a.astype(np.float64) for a in args), **case.static)
    place = get(device)
    xs = [from_numpy(a, as_dtype("float32"), place) for a in args]
    got = op(*xs, **case.static)
    if not got.dtype.is_float:
        np.testing.assert_array_equal(got.numpy(), want)
        return
    _check_special(op, got.numpy(), np.asarray(want), args)


def _check_special(op, got, want, args):
    with np.errstate(over="ignore"):
        want32 = want.astype(np.float32)
    for index in np.ndindex(want.shape):
        g, w = got[index], want32[index]
        at = f"{op.name}({', '.join(str(a[index]) for a in args)}) = {g}, expected {w}"
        if np.isnan(w):
            assert np.isnan(g), at
        elif np.isinf(w):
            assert g == w or abs(g) > 3.3e38, at
        elif abs(w) < 1.2e-38:  # denormals may be flushed
            assert abs(g) <= 1.2e-38, at
            if want[index] == 0 and op.name not in EITHER_ZERO:
                assert np.signbit(g) == np.signbit(w), at
        else:
            close = abs(float(g) - want[index]) <= (op.ulps + 0.5) * 2.0**-23 * abs(
                want[index]
            )
            size = max(
                [abs(float(a[index])) for a in args if np.isfinite(a[index])] or [0]
            )
            assert close or abs(float(g) - want[index]) <= op.ulps * 2.0**-23 * size, at


def test_no_device_and_no_operator_is_lost():
    assert set(REQUIRED) <= set(PRESENT)
    for device in PRESENT:
        mine = {op.name for op, d, _ in CELLS if d == device}
        lacks = {op.name for op in listed()} - mine
        assert lacks <= {"uniform64_from_bits"} and (device != "cpu" or not lacks), (
            lacks
        )
    assert len(listed()) >= 100
    assert len(CELLS) >= 250 * len(PRESENT) // 2
