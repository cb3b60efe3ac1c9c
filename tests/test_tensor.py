"""The tensor: indexing, conversion, printing, types, assignment, on every device."""

import copy
import itertools
import pickle

import numpy as np
import pytest

import portanet as pn
from portanet import nn
from portanet.devices import get
from portanet.dtypes import ALL, as_dtype, promote
from tests.conftest import PRESENT


def counting(*shape, dtype=np.float32):
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape)


def has(device, *names):
    return set(names) <= {t.name for t in get(device).backend.dtypes}


def on(device, dtypes):
    return [t for t in dtypes if has(device, t)]


DTYPES = [
    pytest.param(device, t.name, id=f"{device}-{t.name}")
    for device in PRESENT
    for t in ALL
    if t in get(device).backend.dtypes
]

# Indexing -----------------------------------------------------------------------------

BASIC = [
    np.s_[0], np.s_[-1], np.s_[1, 2], np.s_[1, 2, 3], np.s_[..., 0], np.s_[0, ...],
    np.s_[...], np.s_[:], np.s_[()], np.s_[1:], np.s_[:-1], np.s_[::2], np.s_[::-1],
    np.s_[::-2], np.s_[5:1:-2], np.s_[-100:100], np.s_[3:1], np.s_[10:], np.s_[:, 1:3],
    np.s_[:, ::-1, ::3], np.s_[None], np.s_[:, None], np.s_[..., None],
    np.s_[None, 1, None], np.s_[1, ..., ::-1], np.s_[:, 2, None, ::2],
    np.s_[-2:, -3:-1, -1], np.s_[2:0:-1, 0, 1:1],
    np.s_[None, ..., None], np.s_[1, None, ..., 2],
]  # fmt: skip


def names(keys):
    return [str(k).replace("slice", "").replace("None", "_") for k in keys]


@pytest.mark.parametrize("key", BASIC, ids=names(BASIC))
def test_basic_indexing_is_numpys(device, key):
    a = counting(4, 5, 6)
    got = pn.tensor(a, device=device)[key]
    np.testing.assert_array_equal(got.numpy(), a[key])
    assert got.shape == a[key].shape


I2 = np.array([[0, -1, 2], [3, 1, -4]])
ADVANCED = [
    np.s_[np.array([0, 2, -1])], np.s_[I2], np.s_[[1, 1, 0]],
    np.s_[:, np.array([4, -5])],
    np.s_[..., np.array([0, 5])], np.s_[np.array([0, 1]), np.array([2, -3])],
    np.s_[np.array([0, 1]), :, np.array([2, -3])], np.s_[1, np.array([0, 2])],
    np.s_[np.array([0, 2]), 1], np.s_[np.array([0, 2]), :, 1],
    np.s_[:, 1, np.array([0, 2])],
    np.s_[I2, 1:3], np.s_[1:3, I2], np.s_[I2[:, :1], np.array([1, 2, 3])],
    np.s_[::-1, np.array([0, 2])], np.s_[None, np.array([0, 2])],
    np.s_[np.array([0, 2]), None], np.s_[np.array([], dtype=int)],
    np.s_[np.array([0, 1]), np.array([1, 2]), np.array([-1, -2])],
    np.s_[1:, np.array([0, 2]), ::2],
    np.s_[np.array([[0], [1]]), ..., np.array([1, 2])],
]  # fmt: skip


@pytest.mark.parametrize("as_tensor", [False, True], ids=["numpy", "tensor"])
@pytest.mark.parametrize("key", ADVANCED, ids=range(len(ADVANCED)))
def test_indexing_by_integers_is_numpys(device, key, as_tensor):
    a = counting(4, 5, 6)
    ours = key
    if as_tensor:
        parts = key if isinstance(key, tuple) else (key,)
        ours = tuple(
            pn.tensor(p.astype(np.int32), device=device)
            if isinstance(p, np.ndarray)
            else p
            for p in parts
        )
    got = pn.tensor(a, device=device)[ours]
    np.testing.assert_array_equal(got.numpy(), a[key])


def test_indexing_by_masks_is_numpys(device):
    a = counting(4, 5, 6)
    x = pn.tensor(a, device=device)
    rng = np.random.default_rng(0)
    for shape in ((4,), (4, 5), (4, 5, 6)):
        mask = rng.random(shape) < 0.4
        for m in (mask, pn.tensor(mask, device=device), np.zeros(shape, bool)):
            plain = m.numpy() if isinstance(m, pn.Tensor) else m
            np.testing.assert_array_equal(x[m].numpy(), a[plain])
    column = np.array([True, False, True, False, True])
    np.testing.assert_array_equal(x[:, column].numpy(), a[:, column])
    np.testing.assert_array_equal(x[1, column, ::2].numpy(), a[1, column, ::2])
    np.testing.assert_array_equal(x[x > 50].numpy(), a[a > 50])
    with pytest.raises(IndexError, match=r"a mask of shape \(3,\) does not fit"):
        x[np.ones(3, bool)]


def test_a_view_of_a_view_is_numpys(device):
    a = counting(7, 8, 9)
    x = pn.tensor(a, device=device)
    for first, second in itertools.product(BASIC[:24], BASIC[9:16]):
        seen = a[first]
        if seen.ndim:
            got = x[first][second]
            np.testing.assert_array_equal(got.numpy(), seen[second])
    np.testing.assert_array_equal(x.permute(2, 0, 1)[::-2, 1:].numpy(),
                                  a.transpose(2, 0, 1)[::-2, 1:])  # fmt: skip


ASSIGNED = [
    (np.s_[0], 7), (np.s_[1, 2], 7), (np.s_[::2], 7), (np.s_[::-1, 1], 7),
    (np.s_[...], 7),
    (np.s_[1:3], counting(2, 5, 6)), (np.s_[:, ::-1], counting(4, 5, 6)),
    (np.s_[:, 1], counting(4, 6)), (np.s_[..., 2], counting(5)), (np.s_[3:1], 7),
    (np.s_[:, None, 1], counting(4, 1, 6)), (np.s_[2], counting(6)),
    (np.s_[np.array([0, 2])], 7), (np.s_[np.array([0, 2])], counting(2, 5, 6)),
    (np.s_[np.array([0, 2]), np.array([1, 3])], counting(2, 6)),
    (np.s_[np.array([0, 2]), :, np.array([1, 3])], counting(2, 5)),
    (np.s_[1, np.array([4, 0])], counting(6)), (np.s_[:, I2], counting(4, 2, 3, 6)),
    (np.s_[np.array([True, False, True, True])], 7),
    (np.s_[np.array([True, False, True, True])], counting(3, 5, 6)),
]  # fmt: skip


@pytest.mark.parametrize("i", range(len(ASSIGNED)))
def test_assignment_is_numpys(device, i):
    key, value = ASSIGNED[i]
    a = -counting(4, 5, 6) - 1
    x = pn.tensor(a, device=device)
    x[key] = value
    a[key] = value
    np.testing.assert_array_equal(x.numpy(), a)


def test_assignment_by_a_mask_and_of_a_tensor(device):
    a = counting(4, 5)
    x = pn.tensor(a, device=device)
    x[x > 10] = 0
    a[a > 10] = 0
    np.testing.assert_array_equal(x.numpy(), a)
    x[x == 3] = pn.tensor([1.5], device=device)
    a[a == 3] = 1.5
    np.testing.assert_array_equal(x.numpy(), a)
    x[1:3] = pn.tensor([1, 2, 3, 4, 5], device=device)  # integers become floats
    a[1:3] = [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(x.numpy(), a)
    assert x.dtype == pn.float32


def test_of_equal_indices_the_last_assigned_wins(device):
    x = pn.zeros(3, device=device)
    x[pn.tensor([1, 1, 1], device=device)] = pn.tensor([5.0, 6.0, 7.0], device=device)
    assert x.tolist() == [0, 7, 0]


@pytest.mark.parametrize("key", [4, -5, (0, 5), (0, 0, 6), (slice(None), -6)])
def test_an_integer_out_of_range_is_an_error_at_once(device, key):
    x = pn.zeros((4, 5, 6), device=device)
    with pytest.raises(
        IndexError, match=r"is out of range for axis \d of shape \(4, 5, 6\)"
    ):
        x[key]
    with pytest.raises(IndexError, match="is out of range for axis"):
        x[key] = 1


@pytest.mark.parametrize(
    "key, message",
    [
        ((0, 0, 0, 0), r"4 indices for shape \(4, 5, 6\)"),
        ((..., 0, ...), "one ellipsis"),
        ("x", "str can't index"),
        (1.5, "float can't index"),
        (True, "a single bool is not supported"),
    ],
)
def test_what_can_not_index_is_an_error(key, message):
    with pytest.raises(IndexError, match=message):
        pn.zeros((4, 5, 6))[key]


def test_a_float_tensor_can_not_index(device):
    with pytest.raises((TypeError, IndexError), match="integer"):
        pn.zeros(4, device=device)[pn.tensor([1.0], device=device)]


def test_iteration_and_length(device):
    x = pn.tensor(counting(3, 2), device=device)
    assert [row.tolist() for row in x] == [[0, 1], [2, 3], [4, 5]]
    a, b, c = x
    assert len(x) == 3 and c.shape == (2,)
    with pytest.raises(TypeError, match="0-d"):
        iter(x[0, 0])
    with pytest.raises(TypeError, match="0-d"):
        len(x[0, 0])


# Out and in ---------------------------------------------------------------------------


@pytest.mark.parametrize("device, dtype", DTYPES)
def test_values_go_in_and_come_out_in_every_dtype(device, dtype):
    t = as_dtype(dtype)
    a = np.array([[0, 1, 2], [3, 100, 1]]).astype(t.numpy)
    x = pn.tensor(a, device=device)
    assert x.dtype is t and x.device == device and x.nbytes == a.nbytes
    for out in (x.numpy(), np.asarray(x), np.array(x)):
        assert out.dtype == a.dtype
        np.testing.assert_array_equal(out, a)
    assert x.tolist() == a.tolist()
    assert type(x[0, 1].item()) is type(a[0, 1].item())
    assert x[1, 0].item() == a[1, 0].item()
    back = pickle.loads(pickle.dumps(x))
    assert back.dtype is t and back.device == device
    np.testing.assert_array_equal(back.numpy(), a)


def test_numpy_is_a_copy(device):
    x = pn.tensor([1.0, 2.0], device=device)
    x.numpy()[:] = 9
    np.asarray(x)[:] = 9
    assert x.tolist() == [1, 2]
    a = np.ones(3, np.float32)
    y = pn.tensor(a, device=device)
    a[:] = 5
    assert y.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="copy=False"):
        x.__array__(copy=False)
    assert np.asarray(x, dtype=np.float64).dtype == np.float64


def test_arrays_of_any_layout_come_in(device):
    a = counting(4, 6)
    for view in (
        a.T,
        a[::-1],
        a[:, ::2],
        np.asfortranarray(a),
        np.broadcast_to(a[0], (3, 6)),
    ):
        np.testing.assert_array_equal(pn.tensor(view, device=device).numpy(), view)


def test_dtypes_of_what_comes_in():
    assert pn.tensor([1, 2]).dtype == pn.int32
    assert pn.tensor([1.0, 2]).dtype == pn.float32
    assert pn.tensor([True]).dtype == pn.bool
    assert pn.tensor(2**40).dtype == pn.int64
    assert pn.tensor([]).dtype == pn.float32
    assert pn.tensor(np.array([1, 2])).dtype == pn.int64
    assert pn.tensor(np.array([1.0])).dtype == pn.float64
    assert pn.tensor(np.int16([1])).dtype == pn.int32
    assert pn.tensor(np.uint16([65535])).tolist() == [65535]
    assert pn.tensor([pn.tensor(1.0), pn.tensor(2.0)]).tolist() == [1, 2]
    assert pn.tensor([1, 2], dtype="float16").dtype == pn.float16
    assert pn.tensor([1.9, -1.9], dtype=pn.int32).tolist() == [1, -1]
    assert pn.asarray(np.float32(3)).shape == ()


def test_item_needs_one_element(device):
    x = pn.zeros((2, 2), device=device)
    with pytest.raises(
        ValueError, match=r"item: a tensor of shape \(2, 2\) has 4 elements"
    ):
        x.item()
    assert pn.full((1, 1), 3.0, device=device).item() == 3
    assert float(pn.tensor(1.5, device=device)) == 1.5
    assert int(pn.tensor(3, device=device)) == 3
    assert complex(pn.tensor(1.5, device=device)) == 1.5
    assert list(range(5))[pn.tensor(3, device=device)] == 3
    assert f"{pn.tensor(1.23456, device=device):.2f}" == "1.23"
    with pytest.raises(TypeError, match="index"):
        [1, 2][pn.tensor(1.0, device=device)]


def test_dlpack_goes_both_ways():
    x = pn.tensor(counting(3, 4))
    np.testing.assert_array_equal(np.from_dlpack(x), counting(3, 4))
    np.testing.assert_array_equal(np.from_dlpack(x.T), counting(3, 4).T)
    back = pn.from_dlpack(counting(3, 4)[::-1])
    np.testing.assert_array_equal(back.numpy(), counting(3, 4)[::-1])
    assert pn.from_dlpack(x).tolist() == x.tolist()
    assert x.__dlpack_device__() == (1, 0)


def test_dlpack_from_a_gpu_asks_for_a_copy(monkeypatch):
    others = [d for d in PRESENT if d == "wgpu"]
    for device in others:
        with pytest.raises(BufferError, match=f"on {device}; use .to"):
            np.from_dlpack(pn.ones(2, device=device))
    assert others or "wgpu" not in PRESENT


@pytest.mark.parametrize("there", PRESENT)
def test_to_moves_and_casts(device, there):
    x = pn.tensor([1.5, -2.5], device=device)
    y = x.to(there)
    assert y.device == there and y.tolist() == [1.5, -2.5]
    assert (y is x) == (there == device)
    z = x.to(there, pn.int32)
    assert (z.device, z.dtype) == (get(there), pn.int32)
    assert z.tolist() == [1, -2]
    assert x.to("int32").dtype == pn.int32
    assert x.cpu().device == "cpu"


@pytest.mark.parametrize("there", PRESENT)
def test_views_move_as_their_values(device, there):
    x = pn.tensor(counting(4, 6), device=device)
    for view in (x.T, x[::-1, ::2], x[1:1], x[0, 0], pn.broadcast_to(x[0], (3, 6))):
        np.testing.assert_array_equal(view.to(there).numpy(), view.numpy())


def test_copies_and_pickles(device):
    x = pn.tensor([[1.0, 2.0]], device=device, requires_grad=True)
    shallow, deep = copy.copy(x), copy.deepcopy({"x": [x]})["x"][0]
    assert deep.requires_grad and deep.is_leaf and deep is not x
    (deep * 2).sum().backward()
    assert x.grad is None and deep.grad.tolist() == [[2, 2]]
    (shallow * 3).sum().backward()
    assert x.grad.tolist() == [[3, 3]]  # a shallow copy is the same leaf
    for view in (x.detach().T, x.detach()[:, ::-1], pn.zeros((0, 3), device=device)):
        back = pickle.loads(pickle.dumps(view))
        np.testing.assert_array_equal(back.numpy(), view.numpy())
        assert back.device == device


def test_device_and_dtype_pickle_as_themselves():
    for t in ALL:
        assert pickle.loads(pickle.dumps(t)) is t
    assert pickle.loads(pickle.dumps(get("cpu"))) is get("cpu")


# Printing -----------------------------------------------------------------------------


def where(device):
    return "" if device == "cpu" else f", device='{device}'"


def test_repr_is_numpys_with_dtype_and_device(device):
    at = where(device)
    assert repr(pn.tensor([1.5, 2.0], device=device)) == f"tensor([1.5, 2. ]{at})"
    assert (
        repr(pn.tensor([1, -2], device=device)) == f"tensor([ 1, -2], dtype=int32{at})"
    )
    assert repr(pn.tensor(3.0, device=device)) == f"tensor(3.{at})"
    assert repr(pn.tensor([True], device=device)) == f"tensor([ True]{at})"
    empty = repr(pn.zeros((0, 3), device=device))
    assert empty == f"tensor([], shape=(0, 3){at})"
    rows = repr(pn.tensor([[1.0, 2.0], [3.0, 4.0]], device=device))
    assert rows == f"tensor([[1., 2.],\n        [3., 4.]]{at})"
    assert str(pn.tensor(np.float64([1]))) == "tensor([1.], dtype=float64)"
    assert "bfloat16" in repr(pn.tensor([1.5], dtype="bfloat16"))


def test_repr_of_a_large_tensor_is_numpys_summary(device):
    for shape in ((1001,), (50, 60), (2000, 3), (11, 12, 13)):
        a = counting(*shape)
        body = np.array2string(a, separator=", ", prefix="tensor(", threshold=1000)
        got = repr(pn.tensor(a, device=device))
        assert got == f"tensor({body}, shape={shape}{where(device)})"


def test_repr_reads_back_only_the_edges(device, monkeypatch):
    x = pn.zeros((2000, 2000), device=device) + 1
    backend, nbytes = get(device).backend, []
    read = type(backend).read

    def counted(self, buffer, dtype, offset, count):
        nbytes.append(count * dtype.itemsize)
        return read(self, buffer, dtype, offset, count)

    monkeypatch.setattr(type(backend), "read", counted)
    assert "1., 1., 1., ..., 1., 1., 1." in repr(x)
    assert 0 < sum(nbytes) <= 4 * 64


# Truth and comparison -----------------------------------------------------------------


def test_truth_of_several_elements_is_an_error(device):
    x = pn.tensor([1.0, 0.0], device=device)
    with pytest.raises(ValueError, match=r"shape \(2,\) is neither true nor false"):
        bool(x)
    with pytest.raises(ValueError, match="neither true nor false"):
        bool(x[:0])
    assert bool(x[0]) and not bool(x[1])
    assert bool((x == x).all())


def test_comparison_with_none_and_strings(device):
    x = pn.tensor([1.0, 2.0], device=device)
    assert (x == None) is False  # noqa: E711
    assert (x != None) is True  # noqa: E711
    assert (x == "x") is False and (x != "x") is True
    assert x not in [None, "x"]
    for compare in ("__lt__", "__le__", "__gt__", "__ge__"):
        assert getattr(x, compare)("x") is NotImplemented
    with pytest.raises(TypeError):
        x < "x"  # noqa: B015


def test_comparisons_give_bools(device):
    x, y = pn.tensor([1, 2, 3], device=device), pn.tensor([3, 2, 1], device=device)
    assert (x == y).tolist() == [False, True, False]
    assert (x != 2).tolist() == [True, False, True]
    assert (x < y).tolist() == (y > x).tolist() == [True, False, False]
    assert (2 <= x).tolist() == [False, True, True]
    assert (x == y).dtype == pn.bool


def test_tensors_hash_by_identity():
    x, y = pn.ones(2), pn.ones(2)
    assert len({x, y, x}) == 2
    assert {x: 1}[x] == 1


def test_numpy_leaves_the_operators_to_tensors(device):
    x, a = pn.tensor([1.0, 2.0], device=device), np.float32(3)
    assert isinstance(a * x, pn.Tensor)
    assert (a * x).tolist() == [3, 6]
    with pytest.raises(TypeError):
        np.ones(2) * x
    with pytest.raises(TypeError, match="ndarray is not a tensor or a number"):
        x * np.ones(2)


# Types --------------------------------------------------------------------------------

# The lattice of the array API standard (2024.12, Type Promotion Rules), as far as our
# dtypes are in it; where it says nothing, as for an integer with a float, PyTorch's.
PROMOTION = """
uint8  uint8  uint8
uint8  uint32 uint32
uint8  int32  int32
uint8  int64  int64
uint32 uint32 uint32
uint32 int32  int64
uint32 int64  int64
int32  int32  int32
int32  int64  int64
int64  int64  int64
float32 float32 float32
float32 float64 float64
float64 float64 float64
bool bool bool
float16 float16 float16
float16 bfloat16 float32
float16 float32 float32
float16 float64 float64
bfloat16 bfloat16 bfloat16
bfloat16 float32 float32
bfloat16 float64 float64
"""
TABLE = [line.split() for line in PROMOTION.split("\n") if line]
FLOATS, INTEGERS = (
    ("float16", "bfloat16", "float32", "float64"),
    ("uint8", "uint32", "int32", "int64"),
)
TABLE += [[i, f, f] for i in (*INTEGERS, "bool") for f in FLOATS]
TABLE += [["bool", i, i] for i in INTEGERS]


def test_the_table_of_promotion_is_whole():
    assert {frozenset(row[:2]) for row in TABLE} == {
        frozenset((a.name, b.name)) for a in ALL for b in ALL
    }


@pytest.mark.parametrize("a, b, result", TABLE)
def test_promotion_is_the_standards(device, a, b, result):
    assert (
        promote(as_dtype(a), as_dtype(b)) == promote(as_dtype(b), as_dtype(a)) == result
    )
    assert pn.result_type(a, b) == result
    if has(device, a, b, result):
        x, y = (pn.ones(2, dtype=t, device=device) for t in (a, b))
        z = pn.zeros(2, dtype=a, device=device)
        found = [x + y, y * x, pn.where(x == x, x, y), pn.concat([x, y])]
        if result != "bool":
            found += [pn.maximum(x, y), x - y, x // y]
        assert {t.dtype.name for t in found} == {result}
        assert (x == y).all().item() and not (z == y).any().item()
        divided = result if result in FLOATS else "float32"
        assert (x / y).dtype == divided


@pytest.mark.parametrize("a", [t.name for t in ALL])
def test_numbers_are_weak(device, a):
    if not has(device, a):
        assert device != "cpu"
        return
    x = pn.ones(2, dtype=a, device=device)
    assert (x * True).dtype == a
    assert (x + 1).dtype == (a if a != "bool" else "int32")
    assert (1.5 * x).dtype == (a if a in FLOATS else "float32")
    assert pn.where(x == x, x, 0).dtype == (a if a != "bool" else "int32")
    assert pn.result_type(a, 1.5) == (a if a in FLOATS else "float32")


def test_numbers_that_do_not_fit_are_an_error(device):
    x = pn.ones(2, dtype="int32", device=device)
    with pytest.raises(OverflowError, match="add: 4294967296 does not fit int32"):
        x + 2**32
    with pytest.raises(OverflowError, match="add: -1 does not fit uint32"):
        pn.ones(2, dtype="uint32", device=device) + -1


def test_names_of_dtypes_compare():
    assert (
        pn.float32 == "float32" and pn.float32 == np.float32 and pn.float32 != pn.int32
    )
    python = {pn.float32: float, pn.int32: int, pn.bool: bool}
    assert all(ours == theirs for ours, theirs in python.items())
    assert pn.float32 != None and pn.float32 != "nothing"  # noqa: E711
    with pytest.raises(
        TypeError, match="is not a portanet dtype; use one of bool, uint8"
    ):
        as_dtype("complex64")
    assert [t.name for t in ALL if pn.isdtype(t, "integral")] == [
        "uint8",
        "int32",
        "uint32",
        "int64",
    ]
    assert pn.isdtype("float16", "real floating") and pn.isdtype(
        pn.bool, (pn.int32, "bool")
    )
    assert pn.can_cast("int32", "float32") and not pn.can_cast("float32", "int32")
    assert pn.finfo(pn.float16).eps == 2.0**-10 and pn.iinfo("uint8").max == 255


# A tensor is a value ------------------------------------------------------------------


def test_views_never_see_a_later_write(device):
    x = pn.tensor(counting(3, 4), device=device)
    seen, whole, turned, wide = x[0], x.reshape(12), x.T, pn.broadcast_to(x, (2, 3, 4))
    x[0] = -1
    assert x[0].tolist() == [-1] * 4
    assert seen.tolist() == [0, 1, 2, 3]
    assert whole.tolist() == list(range(12))
    assert turned[0].tolist() == [0, 4, 8]
    assert wide[1, 0].tolist() == [0, 1, 2, 3]
    row = x[1]
    row[:] = 7
    assert x[1].tolist() == [4, 5, 6, 7]


def test_a_second_handle_keeps_the_old_value(device):
    x = pn.tensor([1.0, 2.0], device=device)
    y = x.detach()
    x += 1
    assert x.tolist() == [2, 3] and y.tolist() == [1, 2]
    x.assign(pn.tensor([5.0, 6.0], device=device))
    assert x.tolist() == [5, 6] and y.tolist() == [1, 2]


def test_constants_are_not_changed_by_a_write(device):
    x, y = pn.zeros(3, device=device), pn.zeros(3, device=device)
    x[1] = 5
    y += 1
    assert x.tolist() == [0, 5, 0] and y.tolist() == [1, 1, 1]
    assert pn.zeros(3, device=device).tolist() == [0, 0, 0]


def test_assign_takes_only_what_is_alike(device):
    x = pn.zeros(3, device=device)
    with pytest.raises(
        ValueError, match=r"assign: the shape is \(3,\), the new value's is \(4"
    ):
        x.assign(pn.zeros(4, device=device))
    with pytest.raises(ValueError, match="assign: the dtype is"):
        x.assign(pn.zeros(3, dtype="int32", device=device))
    for other in PRESENT:
        if other != device:
            with pytest.raises(ValueError, match="assign: the device is"):
                x.assign(pn.zeros(3, device=other))


IN_PLACE = ["+=", "-=", "*=", "/=", "//=", "%=", "**="]


@pytest.mark.parametrize("operator", IN_PLACE)
def test_in_place_operators_are_numpys(device, operator):
    a = np.float32([1.5, 4.0, 7.0])
    x = handle = pn.tensor(a, device=device)
    names = {"x": x, "a": a.copy()}
    exec(f"x {operator} 2; a {operator} 2", names)
    assert names["x"] is handle
    np.testing.assert_allclose(x.numpy(), names["a"], rtol=1e-6)


def test_in_place_operators_of_integers(device):
    x = pn.tensor([12, 10], device=device)
    for operator, expected in [("&=", [4, 2]), ("|=", [7, 3]), ("^=", [1, 5]),
                               ("<<=", [4, 20]), (">>=", [1, 5])]:  # fmt: skip
        n = {"&=": 6, "|=": 3, "^=": 6}.get(operator, 2)
        names = {"x": x}
        exec(f"x {operator} {n}", names)
        assert names["x"].tolist() == expected


def test_a_ramp_past_32_bits_is_int64():
    x = pn.arange(2**31 - 2, 2**31 + 2)
    assert x.dtype == pn.int64 and x.tolist() == list(range(2**31 - 2, 2**31 + 2))
    assert pn.arange(2**31 - 2, 2**31).tolist() == [2**31 - 2, 2**31 - 1]
    assert pn.arange(2**31 - 2, 2**31).dtype == pn.int32


def test_an_integer_that_takes_a_float_in_place_requires_no_gradient(device):
    x, w = pn.tensor([1, 2], device=device), pn.tensor([1.5, 2.0], device=device)
    w.requires_grad = True
    x *= w
    assert x.tolist() == [1, 4] and not x.requires_grad
    x[0] = w[1]
    assert x.tolist() == [2, 4] and not x.requires_grad


def test_in_place_keeps_the_dtype_and_the_shape(device):
    x = pn.tensor([1, 2], device=device)
    x *= 2.5
    assert x.dtype == pn.int32 and x.tolist() == [2, 5]
    with pytest.raises(
        ValueError, match=r"add: the result is \(2, 2\), which \(2,\) can't hold"
    ):
        x += pn.ones((2, 2), device=device)


# In place and gradients ---------------------------------------------------------------


def test_a_leaf_that_requires_a_gradient_changes_only_inside_no_grad(device):
    w = pn.ones(3, device=device, requires_grad=True)
    with pytest.raises(
        RuntimeError, match=r"can't be changed in place.*inside no_grad"
    ):
        w += 1
    with pytest.raises(RuntimeError, match="can't be changed in place"):
        w[0] = 1
    with pn.no_grad():
        w += 1
        w[0] = 5
    assert w.tolist() == [5, 2, 2] and w.requires_grad and w.is_leaf
    (w * w).sum().backward()
    assert w.grad.tolist() == [10, 4, 4]


def test_in_place_on_a_result_is_recorded(device):
    x = pn.tensor([1.0, 2.0, 3.0], device=device, requires_grad=True)
    y = x * 2
    before = y.detach()
    y *= x
    y[0] = 10
    assert y.tolist() == [10, 8, 18] and before.tolist() == [2, 4, 6]
    y.sum().backward()
    assert x.grad.tolist() == [0, 8, 12]


def test_assignment_has_a_gradient_in_both_values(device):
    x = pn.tensor([[1.0, 2.0], [3.0, 4.0]], device=device, requires_grad=True)
    v = pn.tensor([5.0, 6.0], device=device, requires_grad=True)
    scale = pn.tensor([[1.0, 10.0], [100.0, 1000.0]], device=device)
    y = x * 1
    y[1] = v
    (y * scale).sum().backward()
    assert x.grad.tolist() == [[1, 10], [0, 0]]
    assert v.grad.tolist() == [100, 1000]


def test_assignment_by_indices_has_a_gradient_where_the_last_wins(device):
    x = pn.zeros(3, device=device, requires_grad=True)
    v = pn.tensor([5.0, 6.0, 7.0], device=device, requires_grad=True)
    y = x * 1
    y[pn.tensor([0, 2, 0], device=device)] = v
    assert y.tolist() == [7, 0, 6]
    (y * pn.tensor([1.0, 10.0, 100.0], device=device)).sum().backward()
    assert x.grad.tolist() == [0, 10, 0]
    assert v.grad.tolist() == [0, 100, 1]


# The namespace ------------------------------------------------------------------------


def test_the_namespace_is_portanet():
    x = pn.ones(2)
    assert x.__array_namespace__() is pn
    assert x.__array_namespace__(api_version="2024.12") is pn
    assert pn.__array_api_version__ == "2024.12"


def test_every_public_name_is_there():
    for name in dir(pn):
        assert hasattr(pn, name), name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        pn.nothing  # noqa: B018


def test_the_default_device_is_the_innermost_choice():
    assert pn.default_device() == "cpu"
    for name in PRESENT:
        with pn.device(name):
            assert pn.zeros(1).device == name
            with pn.device("cpu"):
                assert pn.zeros(1).device == "cpu"
            assert pn.zeros(1).device == name
        assert pn.zeros(1).device == "cpu"
        pn.set_default_device(name)
        assert pn.zeros(1).device == name
        assert pn.zeros(1, device="cpu").device == "cpu"
        pn.set_default_device("cpu")


def test_lists_and_arrays_are_assigned_on_any_device(device):
    x = pn.zeros((4, 3), device=device)
    x[0] = [1, 2, 3]
    x[1] = np.ones(3)
    x[2] = [True, False, True]
    x[3] = np.array([7], np.int64)
    assert x.tolist() == [[1, 2, 3], [1, 1, 1], [1, 0, 1], [7, 7, 7]]
    n = pn.zeros(2, dtype="int32", device=device)
    n[:] = [1.9, -1.9]
    assert n.tolist() == [1, -1]


def test_the_class_gives_float32_copies_of_data(device):
    x = pn.tensor([1, 2], device=device)
    made = pn.Tensor(x, device=device)
    assert type(made) is pn.Tensor and made.dtype == "float32" and made.device == device
    assert (made + 1).tolist() == [2.0, 3.0] and not made.requires_grad
    assert pn.Tensor(np.array([[1.0], [2.0]])).dtype == "float32"
    assert pn.Tensor([[1, 2], [3, 4]]).shape == (2, 2)
    assert isinstance(pickle.loads(pickle.dumps(made)), pn.Tensor)


@pytest.mark.parametrize("data", [(2, 3), (5,), (), ([1], [2]), (np.int64(3),)])
def test_the_class_takes_no_sizes(data):
    with pytest.raises(TypeError, match=r"^Tensor: one list.*zeros\(2, 3\)"):
        pn.Tensor(*data)
    with pytest.raises(TypeError, match=r"tensor\(5, dtype=int32\)"):
        pn.Tensor([1.0], dtype=pn.float16)


def test_a_parameter_is_made_of_floats():
    with pytest.raises(
        TypeError, match="Parameter: a floating dtype.*not int32; write"
    ):
        nn.Parameter([1, 2])
    with pytest.raises(TypeError, match="Parameter: a floating dtype.*not int32"):
        nn.Parameter(pn.tensor([1, 2]))
    assert nn.Parameter(pn.Tensor([1, 2])).tolist() == [1.0, 2.0]
    with pytest.raises(AttributeError, match=r"here it is nn\.Parameter"):
        _ = pn.Parameter
    with pytest.raises(AttributeError, match=r"here it is tensor\(data, dtype=int64\)"):
        _ = pn.LongTensor
