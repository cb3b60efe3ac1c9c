"""Files: what is saved comes back; what is damaged is refused and changes nothing."""

import json
import os

import numpy as np
import pytest
import safetensors.numpy

import portanet as pn
from portanet import nn
from portanet.devices import get
from portanet.dtypes import ALL
from portanet.testing import assert_close


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("dtype", [t.name for t in ALL])
def test_tensors_of_every_dtype_and_shape_come_back(dtype, path, device):
    if pn.dtype is not None and get(device).backend.dtypes.isdisjoint({_dtype(dtype)}):
        with pytest.raises(
            TypeError, match=f"load: .*: x: tensor: {device} has no {dtype}"
        ):
            pn.save({"x": pn.ones(2, dtype=dtype, device="cpu")}, path)
            pn.load(path, device=device)
        return
    saved = {
        "x": pn.tensor([[0, 1, 1], [1, 0, 1]], dtype, device).T,
        "none": pn.zeros((0, 3), dtype=dtype, device=device),
        "one": pn.ones((), dtype=dtype, device=device),
    }
    pn.save(saved, path)
    loaded = pn.load(path, device=device)
    assert list(loaded) == ["none", "one", "x"]
    for name, t in loaded.items():
        assert t.dtype == dtype and t.device == device
        assert t.shape == saved[name].shape
        np.testing.assert_array_equal(t.numpy(), saved[name].numpy())


def _dtype(name):
    return next(t for t in ALL if t.name == name)


def test_a_model_is_saved_and_loaded(path, device):
    pn.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).to(device)
    model(pn.randn(8, 4, device=device))
    pn.save(model, path)
    pn.manual_seed(1)
    other = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    other.load_state_dict(pn.load(path, device="cpu"))
    x = pn.randn(2, 4)
    assert_close(other.eval()(x), model.eval().to("cpu")(x), rtol=0, atol=0)


def test_other_programs_read_the_file_and_theirs_is_read(path):
    pn.save({"w": pn.tensor([1.5, 2.5])}, path)
    assert safetensors.numpy.load_file(path)["w"].tolist() == [1.5, 2.5]
    arrays = {"a": np.arange(3, dtype=np.int16), "b": np.ones(2)}
    safetensors.numpy.save_file(arrays, path, {"by": "another"})
    loaded = pn.load(path)
    assert loaded["a"].dtype == pn.int32 and loaded["a"].tolist() == [0, 1, 2]
    assert pn.io.load_metadata(path) == {"by": "another"}


def test_floats_are_cast_when_asked(path):
    pn.save({"w": pn.tensor([1.5]), "n": pn.tensor([3])}, path)
    loaded = pn.load(path, dtype="float64")
    assert loaded["w"].dtype == pn.float64 and loaded["n"].dtype == pn.int32
    with pytest.raises(
        TypeError, match="load: floating tensors can't be cast to int32"
    ):
        pn.load(path, dtype=pn.int32)


def test_texts_are_kept_with_the_tensors(path):
    pn.save({}, path, metadata={"epochs": "3", "note": "zażółć"})
    assert pn.load(path) == {}
    assert pn.io.load_metadata(path) == {"epochs": "3", "note": "zażółć"}


def test_only_tensors_by_name_are_saved(path):
    bad = [
        ([pn.ones(1)], "save: a Module or a dict of tensors is expected, not list"),
        ({"x": {1, 2}}, "save: 'x' is a set, not a tensor, number, text"),
        ({"x": {"y": [1, abs]}}, r"save: 'x.y.1' is a builtin_function_or_method"),
        ({"x": {(3,): pn.ones(1)}}, r"save: x: a key is a text or an integer: \(3,\)"),
        ({"m": pn.nn.Linear(1, 1)}, "save: 'm' is a Linear, .*; give its state_dict"),
    ]
    for obj, message in bad:
        with pytest.raises(TypeError, match=message):
            pn.save(obj, path)
    with pytest.raises(TypeError, match="save: metadata are texts, 'epochs': 3 is not"):
        pn.save({}, path, metadata={"epochs": 3})
    with pytest.raises(ValueError, match="key 'format' is portanet's own"):
        pn.save({}, path, metadata={"format": "x"})
    assert not path.exists()


def test_a_file_cut_short_anywhere_is_refused(path):
    pn.save({"w": pn.ones(3), "b": pn.ones(2)}, path, metadata={"a": "b"})
    whole = path.read_bytes()
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        with pytest.raises(ValueError, match=f"load: {path} is damaged"):
            pn.load(path)


def test_a_file_with_any_bit_changed_is_refused(path):
    pn.save({"w": pn.ones(3), "b": pn.ones(2)}, path, metadata={"a": "b"})
    whole = path.read_bytes()
    for i in range(len(whole)):
        for bit in (0, 5):
            changed = bytearray(whole)
            changed[i] ^= 1 << bit
            path.write_bytes(changed)
            with pytest.raises(ValueError, match="load: .*model.safetensors"):
                pn.load(path)
                raise AssertionError(f"byte {i} of {len(whole)}, bit {bit}")


def test_a_renamed_tensor_is_noticed(path):
    pn.save({"w": pn.ones(3)}, path)
    path.write_bytes(path.read_bytes().replace(b'"w":', b'"v":'))
    with pytest.raises(ValueError, match="content is not what its checksum says"):
        pn.load(path)


def test_files_of_another_kind_are_refused(path):
    for content in (b"", b"hello", b"\xff" * 64, b"PK\x03\x04" + bytes(100)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged or no safetensors file"):
            pn.load(path)
    header = json.dumps(
        {"x": {"dtype": "U64", "shape": [1], "data_offsets": [0, 8]}}
    ).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ValueError, match="x is U64, which portanet does not have"):
        pn.load(path)
    with pytest.raises(FileNotFoundError):
        pn.load(path.with_name("absent"))


def test_a_damaged_file_changes_nothing_in_a_model(path):
    model = nn.Linear(2, 2)
    pn.save(model, path)
    before = model.state_dict()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="damaged"):
        model.load_state_dict(pn.load(path))
    for name, value in model.state_dict().items():
        assert_close(value, before[name], rtol=0, atol=0)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_save_that_fails_leaves_the_old_file_and_no_other(path, monkeypatch, step):
    pn.save({"w": pn.ones(1)}, path)

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        pn.save({"w": pn.zeros(1000)}, path)
    monkeypatch.undo()
    assert os.listdir(path.parent) == [path.name]
    assert pn.load(path)["w"].tolist() == [1.0]


def test_a_saved_file_has_the_permissions_of_any_new_file(path):
    path.with_name("plain").write_bytes(b"")
    pn.save({}, path)
    assert path.stat().st_mode == path.with_name("plain").stat().st_mode


def test_saving_into_no_folder_is_an_error_that_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        pn.save({}, tmp_path / "absent" / "x")


def test_counts_of_int64_are_loaded_for_any_default_device(path, device):
    """PyTorch counts batches in int64, which wgpu does not have."""
    state = nn.BatchNorm1d(3).state_dict()
    state["num_batches_tracked"] = pn.tensor(7, dtype="int64", device="cpu")
    pn.save(state, path)
    with pn.device(device):
        model = nn.BatchNorm1d(3)
        model.load_state_dict(pn.load(path))
    assert model.num_batches_tracked.item() == 7
    assert {b.device.type for b in model.buffers()} == {device}
    if "int64" not in {
        t.name for t in pn.zeros(1, device=device).device.backend.dtypes
    }:
        with pytest.raises(TypeError, match="has no int64"):
            pn.load(path, device=device)


def test_a_checkpoint_is_given_back_as_it_was(path, device):
    model = pn.nn.Linear(2, 2).to(device)
    optimizer = pn.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = pn.optim.lr_scheduler.StepLR(optimizer, 1)

    def train(model, optimizer, scheduler):
        optimizer.zero_grad()
        model(pn.ones((1, 2), device=device)).square().sum().backward()
        optimizer.step()
        scheduler.step()

    train(model, optimizer, scheduler)
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "epoch": 3,
        "best": float("inf"),
        "names": ["a", None, True, (1, 2.5)],
        "model.weight": pn.ones(1, device=device),
        "random": pn.Generator(3).get_state(),
    }
    pn.save(state, path, metadata={"by": "me"})
    found = pn.load(path, device=device)
    assert pn.io.load_metadata(path) == {"by": "me"}
    assert list(found) == list(state)
    for key in ("epoch", "best", "names", "random", "scheduler"):
        assert found[key] == state[key]
    assert found["model.weight"].tolist() == [1.0]
    other = pn.nn.Linear(2, 2).to(device)
    resumed = pn.optim.AdamW(other.parameters())
    later = pn.optim.lr_scheduler.StepLR(resumed, 1)
    other.load_state_dict(found["model"])
    resumed.load_state_dict(found["optimizer"])
    later.load_state_dict(found["scheduler"])
    train(model, optimizer, scheduler)
    train(other, resumed, later)
    assert other.weight.tolist() == model.weight.tolist()
    assert later.get_last_lr() == scheduler.get_last_lr()


def test_other_readers_find_the_tensors_of_a_checkpoint(path):
    pn.save({"epoch": 1, "model": {"w": pn.ones(2)}}, path)
    from safetensors.numpy import load_file

    assert {k: v.tolist() for k, v in load_file(path).items()} == {
        "model.w": [1.0, 1.0]
    }


def test_files_of_others_are_named(path):
    start = b"PK\x03\x04\x00\x00archive/data.pkl\x80\x02"
    for data, message in (
        (start, "load: .* it is PyTorch's; there, save the state_dict with"),
        (b"\x93NUMPY\x01\x00", "it may be NumPy's"),
        (b"hello, world", "is damaged or no safetensors file: "),
    ):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=message):
            pn.load(path)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="save: .*there is no folder .*nowhere"):
        pn.save({"x": pn.ones(1)}, tmp_path / "nowhere" / "x")
