"""How many launches, builds and bytes an operation costs, on any machine."""

import gc

import numpy as np
import pytest

import portanet as pn
from portanet.autograd import tensor_of
from portanet.arrays import Array, from_numpy
from portanet.devices import _open, get, report
from portanet.devices import Device as DeviceOf
from portanet.dtypes import as_dtype
from portanet.errors import DeviceError
from portanet.ops import losses
from tests.null_backend import KERNELS, NullBackend


@pytest.fixture
def place():
    return DeviceOf("null", NullBackend())


def empty(place, *shape, dtype="float32"):
    dtype = as_dtype(dtype)
    return tensor_of(from_numpy(np.zeros(shape, dtype.numpy), dtype, place))


def launches(place, call):
    """The kernels that a call launches."""
    before = len(place.backend.launched)
    result = call()
    del result
    return [p.kernel for p in place.backend.launched[before:]]


def modes(place):
    return place.backend.launched[-1].modes


# Launches -----------------------------------------------------------------------------


def test_an_elementwise_operator_is_one_launch(place):
    x, y = empty(place, 3, 4), empty(place, 3, 4)
    assert launches(place, lambda: x + y) == ["elementwise"]
    assert modes(place) == "ccc"
    assert launches(place, lambda: pn.gelu(x)) == ["elementwise"]


def test_a_view_is_no_launch(place):
    x = empty(place, 4, 6)
    views = [
        lambda: x.reshape(2, 12),
        lambda: x.T,
        lambda: x[1:, ::-2],
        lambda: x[None, 2],
        lambda: pn.broadcast_to(x, (5, 4, 6)),
        lambda: pn.flip(x),
        lambda: x.T[1:, :2],
        lambda: pn.split(x, 2),
        lambda: x.squeeze(),
        lambda: pn.zeros_like(x),
    ]
    assert [launches(place, view) for view in views] == [[]] * len(views)


def test_reshape_copies_only_where_strides_do_not_allow_a_view(place):
    x = empty(place, 4, 6)
    assert launches(place, lambda: x.T.reshape(6, 2, 2)) == []
    assert launches(place, lambda: x.T.reshape(24)) == ["elementwise"]
    assert launches(place, lambda: x[:, :3].reshape(12)) == ["elementwise"]
    assert launches(place, lambda: x[::2].reshape(2, 3, 2)) == []


def test_strided_and_broadcast_operands_are_not_copied(place):
    x, y, row = empty(place, 4, 6), empty(place, 6, 4), empty(place, 6)
    assert launches(place, lambda: x + y.T) == ["elementwise"]
    assert modes(place) == "ccv"
    assert launches(place, lambda: x + row) == ["elementwise"]
    assert modes(place) == "ccv"
    assert launches(place, lambda: x + 1.5) == ["elementwise"]
    assert modes(place) == "ccs"
    assert launches(place, lambda: x.T.sum(axis=0)) == ["reduce"]
    assert launches(place, lambda: x.T @ y.T) == ["matmul"]
    assert launches(place, lambda: x[:, ::2] @ y[::2]) == ["matmul"]


def test_layouts_are_collapsed_before_a_launch(place):
    x = empty(place, 2, 3, 4, 5)
    ranks = []
    for view in (x, x.permute(1, 0, 2, 3), x[:, :, 1:], x.permute(3, 2, 1, 0)):
        launches(place, lambda view=view: -view)
        ranks.append(place.backend.launched[-1].rank)
    assert ranks == [0, 3, 2, 4]


def test_concat_of_k_tensors_is_k_launches(place):
    for k in (2, 3, 7):
        xs = [empty(place, 2, 3) for _ in range(k)]
        assert launches(place, lambda xs=xs: pn.concat(xs)) == ["elementwise"] * k
        assert launches(place, lambda xs=xs: pn.stack(xs)) == ["elementwise"] * k


def test_softmax_is_one_launch_over_rows_and_its_fallback_elsewhere(place):
    x = empty(place, 8, 10)
    assert launches(place, lambda: pn.softmax(x)) == ["elementwise"]
    expected = launches(place, lambda: losses._softmax.fallback(x, axis=0))
    assert expected == ["reduce", "elementwise", "elementwise", "reduce", "elementwise"]
    assert launches(place, lambda: pn.softmax(x, axis=0)) == expected
    place.backend.sums_rows = False
    assert launches(place, lambda: pn.softmax(empty(place, 8, 11))) == expected


def test_a_kernel_that_a_backend_lacks_gives_way_to_the_fallback():
    from portanet.op import OPS

    fused = [op for op in OPS.values() if op.kernel and op.fallback]
    known = {op.kernel for op in OPS.values() if op.kernel}
    lacks = {op.kernel for op in fused}
    bare = DeviceOf("bare", NullBackend(kernels=set(KERNELS) - lacks))
    for op in fused:
        case = op.cases(np.random.default_rng(0))[0]
        xs = []
        for a in map(np.asarray, case.args):
            dtype = as_dtype("float32" if a.dtype.kind == "f" else a.dtype)
            xs.append(from_numpy(a, dtype, bare))
        launched = launches(
            bare, lambda op=op, xs=xs, case=case: op(*xs, **case.static)
        )
        assert launched and op.kernel not in launched
    assert known - lacks <= set(KERNELS)


def test_a_kernel_that_is_missing_with_no_fallback_is_an_error_that_names_it():
    place = DeviceOf("null", NullBackend(kernels=("elementwise",)))
    x = empty(place, 3, 4)
    assert launches(place, lambda: x + x) == ["elementwise"]
    with pytest.raises(DeviceError, match="sum: null has no kernel 'reduce'"):
        x.sum()


def test_a_result_without_elements_is_no_launch(place):
    x = empty(place, 0, 4)
    calls = [
        lambda: x + x,
        lambda: x @ empty(place, 4, 3),
        lambda: pn.cumulative_sum(x, axis=1),
        lambda: x.sum(axis=1),
        lambda: pn.take(x, empty(place, 2, dtype="int32"), axis=1),
    ]
    assert [launches(place, call) for call in calls] == [[]] * len(calls)
    assert launches(place, lambda: x.sum(axis=0)) == ["elementwise"]  # zeros


def test_an_optimizer_step_is_one_launch_a_parameter(place):
    from portanet.ops.optimise import adam

    x, lr = empty(place, 3, 4), empty(place)
    static = dict(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, decoupled=True)
    assert launches(place, lambda: adam(x, x, x, x, lr, lr, **static)) == [
        "elementwise"
    ]


def training_step(x, y, w1, w2):
    loss = pn.cross_entropy(pn.relu(x @ w1) @ w2, y)
    loss.backward()
    with pn.no_grad():
        for w in (w1, w2):
            w.assign(w - 0.1 * w.grad)
            w.zero_grad()


def test_a_second_training_step_builds_nothing_and_launches_the_same(place):
    x, y = empty(place, 32, 8), empty(place, 32, dtype="int32")
    w1 = empty(place, 8, 16).requires_grad_()
    w2 = empty(place, 16, 10).requires_grad_()
    first = launches(place, lambda: training_step(x, y, w1, w2))
    built, uploads, live = len(place.backend.built), place.backend.uploads, None
    for _ in range(3):
        assert launches(place, lambda: training_step(x, y, w1, w2)) == first
        gc.collect()
        assert live in (None, place.backend.live)
        live = place.backend.live
    assert len(place.backend.built) == built
    assert place.backend.uploads == uploads
    assert first.count("matmul") == 5  # two forward, three backward: x needs none


# The plan cache -----------------------------------------------------------------------


def test_a_call_made_before_builds_nothing(place):
    x, y = empty(place, 3, 4), empty(place, 3, 4)
    calls = [
        lambda: x + y,
        lambda: x.sum(axis=0),
        lambda: x @ y.T,
        lambda: pn.softmax(x),
        lambda: pn.concat([x, y]),
        lambda: x + 1.5,
        lambda: pn.clip(x, 0, 1),
    ]
    for call in calls:
        call()
    built, uploads = len(place.backend.built), place.backend.uploads
    for call in calls:
        call()
        call()
    assert len(place.backend.built) == built
    assert place.backend.uploads == uploads


def test_another_tensor_of_the_same_layout_is_the_same_call(place):
    pn.exp(empty(place, 3, 4))
    built = len(place.backend.built)
    pn.exp(empty(place, 3, 4))
    assert len(place.backend.built) == built
    pn.exp(empty(place, 4, 3))
    assert len(place.backend.built) == built + 1


def test_shapes_are_words_and_not_part_of_a_program(place):
    for shape in ((3, 4), (7, 9), (1000, 1)):
        pn.exp(empty(place, *shape))
        empty(place, *shape).sum(axis=0)
    programs = {p for p, _ in place.backend.built if p.label in ("exp", "sum")}
    assert len(programs) == 2


def test_a_number_is_uploaded_once(place):
    x = empty(place, 3)
    x * 2.5
    uploads = place.backend.uploads
    x * 2.5
    pn.multiply(2.5, x)
    assert place.backend.uploads == uploads
    x * 3.5
    assert place.backend.uploads == uploads + 1


def test_forgetting_all_plans_changes_nothing(place, monkeypatch):
    from portanet import arrays

    monkeypatch.setattr(arrays, "_plans", {})
    monkeypatch.setattr(arrays, "MAX_PLANS", 4)
    for n in range(1, 20):
        x = empty(place, n)
        assert (x + x).shape == (n,)
        assert len(arrays._plans) <= 4


# Memory -------------------------------------------------------------------------------


def test_a_buffer_is_freed_with_the_last_tensor_that_sees_it(place):
    backend = place.backend
    x = empty(place, 256)
    assert backend.live == 1024
    seen = x[10:20]
    del x
    assert backend.live == 1024
    del seen
    assert backend.live == 0


def test_temporaries_are_freed_when_the_call_returns(place):
    x = empty(place, 256)
    y = pn.softmax(x, axis=0)
    constants = 64  # a few 0-d arrays are kept
    assert place.backend.live <= 2 * 1024 + constants
    del x, y
    assert place.backend.live <= constants


def test_a_chain_keeps_two_buffers_alive(place):
    x = empty(place, 256)
    for _ in range(100):
        x = -x
    assert place.backend.peak == 2 * 1024


def test_a_constant_tensor_takes_the_room_of_one_number(place):
    backend = place.backend
    _open["null"] = place
    try:
        x = pn.ones((1000, 1000), device="null")
        assert backend.live <= 4
        y = x + x
        assert backend.live >= 4_000_000
        assert (x.shape, y.shape) == ((1000, 1000), (1000, 1000))
    finally:
        del _open["null"]


def test_repr_of_a_large_tensor_reads_only_its_edges(place, monkeypatch):
    read, count = place.backend.read, []
    monkeypatch.setattr(
        place.backend, "read", lambda b, t, o, n: (count.append(n), read(b, t, o, n))[1]
    )
    repr(empty(place, 1000, 1000))
    assert sum(count) <= 64
    count.clear()
    repr(empty(place, 5, 5))
    assert sum(count) == 25


# Devices from outside -----------------------------------------------------------------


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A distribution with a device in it, as pip would leave it on the path."""
    folder = tmp_path / "portanet_null-1.0.dist-info"
    folder.mkdir()
    folder.joinpath("METADATA").write_text(
        "Metadata-Version: 2.1\nName: portanet-null\nVersion: 1.0\n"
    )
    folder.joinpath("entry_points.txt").write_text(
        "[portanet.backends]\n"
        "null = tests.null_backend:NullBackend\n"
        "broken = tests.null_backend:NoSuchBackend\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in [n for n in _open if n.startswith("null")]:
        del _open[name]


def test_a_backend_from_outside_opens_by_its_name(installed):
    x = pn.zeros((2, 3), device="null")
    assert str(x.device) == "null" and x.device.type == "null"
    assert isinstance(x.device.backend, NullBackend)
    assert (x + 1).device == "null"
    assert (x + 1).numpy().shape == (2, 3)
    assert pn.tensor([1.0]).to("null").device is get("null")
    assert "null" in pn.devices()
    assert repr(x) == "tensor([[0., 0., 0.],\n        [0., 0., 0.]], device='null')"
    with pn.device("null"):
        assert pn.ones(3).device == "null"


def test_the_number_after_the_colon_is_given_to_the_backend(installed):
    assert get("null:1").backend.index == 1
    assert get("null:0") is get("null")
    with pytest.raises(DeviceError, match="null:2: there are 2 null devices"):
        get("null:2")
    with pytest.raises(DeviceError, match="'x' is not an adapter number"):
        get("null:x")


def test_a_backend_that_does_not_load_is_reported_and_hides_no_other(installed):
    found = report()
    with pytest.raises(
        DeviceError, match="'broken' .tests.null_backend:NoSuchBackend. "
    ):
        raise found["broken"]
    assert "broken" not in pn.devices()
    assert {"cpu", "null"} <= set(pn.devices())


def test_an_unknown_name_lists_those_that_are_known(installed):
    with pytest.raises(
        DeviceError, match="'gpu' is unknown; known are cpu, wgpu, cuda"
    ):
        get("gpu")
    with pytest.raises(DeviceError, match="null"):
        pn.zeros(2, device="gpu")
    with pytest.raises(TypeError, match="a name such as 'cpu' is expected, not 3"):
        pn.zeros(2, device=3)


def test_gradients_of_an_array_need_no_tensor(place):
    """The operators run on bare arrays too, with nothing recorded."""
    x = from_numpy(np.zeros(3, np.float32), as_dtype("float32"), place)
    assert isinstance(pn.exp(x), Array)
    assert launches(place, lambda: pn.exp(x)) == ["elementwise"]
