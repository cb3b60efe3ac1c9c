"""Data sets from files: small ones in the true formats, damaged ones, and downloads.

The server is on this machine; nothing here needs a network.
"""

import gzip
import hashlib
import http.server
import io
import struct
import tarfile
import threading

import numpy as np
import pytest
from portanet import data
from portanet.data import CIFAR10, MNIST, Corpus, Dictionary, ImageFolder, PennTreebank
from portanet.data import DataLoader, FashionMNIST, batchify, download, get_batch
from portanet.data.download import RemoteFile, fetch
from portanet.data.images import read_cifar10, read_idx


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """A cache of its own, and no proxy between a test and its server."""
    monkeypatch.setenv("PORTANET_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PORTANET_OFFLINE", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def idx(array, kind=8):
    head = struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape)
    return head + array.astype(data.images.IDX_TYPES[kind]).tobytes()


def digits(n):
    images = np.random.default_rng(0).integers(0, 256, (n, 28, 28), np.uint8)
    return images, np.arange(n) % 10


# idx -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", data.images.IDX_TYPES)
@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_of_every_type_are_read(tmp_path, kind, packed):
    array = np.arange(24).reshape(2, 3, 4)
    content = idx(array, kind)
    path = tmp_path / "x"
    path.write_bytes(gzip.compress(content) if packed else content)
    found = read_idx(path)
    assert found.dtype.isnative and found.dtype.itemsize == int(
        data.images.IDX_TYPES[kind][-1]
    )
    np.testing.assert_array_equal(found, array)


def test_damaged_idx_files_are_refused_by_name(tmp_path):
    good = idx(np.arange(24).reshape(2, 3, 4))
    packed = gzip.compress(good)
    for content, message in [
        (b"", "no idx file: it begins with $"),
        (b"\1\0\x08\3" + good[4:], "no idx file: it begins with 01000803"),
        (b"\0\0\x07\3" + good[4:], "no idx file"),
        (good[:10], "ends in its header, at byte 10"),
        (good[:-1], r"\(2, 3, 4\) of uint8 is 40 bytes, the file has 39"),
        (good + b"x", "is 40 bytes, the file has 41"),
        (good[:4] + b"\xff" * 12 + good[16:], "the file has 40"),
        (packed[:-9], "damaged: "),
        (packed[:20] + b"\xff" * 9 + packed[29:], "damaged: "),
        (packed[:-5] + b"\0\0\0\0\0", "damaged: "),
    ]:
        path = tmp_path / "train-images"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"train-images: .*{message}"):
            read_idx(path)


def small_mnist(folder, monkeypatch, kind=MNIST, n=7, labels=None, images=None):
    """The four files with n images, and their checksums in the table."""
    made_images, made_labels = digits(n)
    images = made_images if images is None else images
    labels = made_labels if labels is None else labels
    sums = {}
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train", "t10k"):
        for what, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = gzip.compress(idx(array))
            (folder / f"{part}-{what}-ubyte.gz").write_bytes(content)
            sums[f"{part}-{what}-ubyte.gz"] = sha256(content)
    monkeypatch.setattr(kind, "sha256", sums)
    return images, labels


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST])
def test_mnist_is_read_from_a_folder_without_a_network(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("PORTANET_OFFLINE", "1")
    images, labels = small_mnist(tmp_path, monkeypatch, kind)
    for train in (True, False):
        found = kind(train, root=tmp_path)
        assert len(found) == 7 and len(found.classes) == 10
        image, label = found[3]
        assert image.shape == (1, 28, 28) and image.dtype == np.uint8 and label == 3
        np.testing.assert_array_equal(found.images[:, 0], images)
    x, y = next(iter(DataLoader(found, 7, device="cpu")))
    assert x.shape == (7, 1, 28, 28) and y.tolist() == list(labels)
    assert repr(found) == f"{kind.__name__}(7 images of (1, 28, 28))"
    halves = kind(
        root=tmp_path, transform=lambda x: x / 2, target_transform=lambda y: y + 1
    )
    x, y = next(iter(DataLoader(halves, 7, device="cpu", num_workers=2)))
    assert y.tolist() == [n + 1 for n in labels]
    np.testing.assert_array_equal(x.numpy()[:, 0], images / 2)
    found.transform = halves.transform  # one that comes later is obeyed too
    x, _ = next(iter(DataLoader(found, 7, device="cpu")))
    np.testing.assert_array_equal(x.numpy()[:, 0], images / 2)


def test_counts_and_labels_that_do_not_fit_are_refused(tmp_path, monkeypatch):
    small_mnist(tmp_path, monkeypatch, labels=np.arange(6))
    with pytest.raises(
        ValueError, match=r"\(7, 28, 28\) don't fit labels of shape \(6"
    ):
        MNIST(root=tmp_path)
    small_mnist(tmp_path, monkeypatch, labels=np.arange(7) + 4)
    with pytest.raises(ValueError, match="MNIST: train: a label is 10"):
        MNIST(root=tmp_path)
    small_mnist(tmp_path, monkeypatch, images=np.zeros((7, 27, 28)))
    with pytest.raises(ValueError, match=r"\(n, 28, 28\) and \(n,\) are expected"):
        MNIST(root=tmp_path)


# CIFAR-10 --------------------------------------------------------------------------------


def cifar(n=4, names=None, cut=0, label=None):
    """An archive of the true layout with n images a file: its bytes, images, labels."""
    rng = np.random.default_rng(1)
    names = names or [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    stream, images, labels = io.BytesIO(), {}, {}
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name in ["batches.meta.txt", *reversed(names)]:
            images[name] = rng.integers(0, 256, (n, 3, 32, 32), np.uint8)
            labels[name] = rng.integers(0, 10, n).astype(np.uint8)
            if label is not None:
                labels[name][-1] = label
            rows = np.concatenate(
                [labels[name][:, None], images[name].reshape(n, 3072)], 1
            )
            content = rows.tobytes()[: rows.nbytes - cut]
            content = b"airplane\n" if name.endswith(".txt") else content
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue(), images, labels


def place_cifar(folder, monkeypatch, content):
    (folder / CIFAR10.file.name).write_bytes(content)
    file = CIFAR10.file._replace(checksum=f"sha256:{sha256(content)}")
    monkeypatch.setattr(CIFAR10, "file", file)


def test_cifar10_is_read_where_it_is_packed(tmp_path, monkeypatch):
    content, images, labels = cifar()
    place_cifar(tmp_path, monkeypatch, content)
    train, test = CIFAR10(root=tmp_path), CIFAR10(False, root=tmp_path)
    assert len(train) == 20 and len(test) == 4 and len(train.classes) == 10
    names = [f"data_batch_{i}.bin" for i in range(1, 6)]
    np.testing.assert_array_equal(
        train.images, np.concatenate([images[n] for n in names])
    )
    np.testing.assert_array_equal(test.labels, labels["test_batch.bin"])
    assert train[0][0].shape == (3, 32, 32)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == [CIFAR10.file.name]


def test_damaged_archives_are_refused_by_name(tmp_path):
    good = cifar()[0]
    path = tmp_path / "cifar.tar.gz"
    for content, message in [
        (b"", "damaged: "),
        (b"no archive", "damaged: "),
        (good[: len(good) // 2], "damaged: "),
        (good[:5000] + bytes(100) + good[5100:], "damaged: "),
        (cifar(cut=5)[0], "_batch.*.bin: 12287 bytes are not a whole number"),
        (cifar(n=0)[0], "_batch.*.bin: 0 bytes"),
        (cifar(label=10)[0], "_batch.*.bin: a label is 10"),
        (cifar(names=["data_batch_1.bin"])[0], "test_batch.bin is not in the archive"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"cifar.tar.gz: .*{message}"):
            read_cifar10(path, ["data_batch_1.bin", "test_batch.bin"])


# Downloads -------------------------------------------------------------------------------


class Server:
    """Answers by path: bytes, a status, or bytes cut short; counts what is asked."""

    def __init__(self):
        self.answers, self.asked = {}, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append(self.path)
                answer = outer.answers.get(self.path, 404)
                answer = answer.pop(0) if isinstance(answer, list) else answer
                if isinstance(answer, int):
                    self.send_error(answer)
                    return
                content, length = answer if isinstance(answer, tuple) else (answer,) * 2
                self.send_response(200)
                size = length if isinstance(length, int) else len(length)
                self.send_header("Content-Length", str(size))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # pooch's rests
    made = Server()
    yield made
    made.close()


GOOD = b"the true content" * 100


def remote(server, *paths, checksum=f"sha256:{sha256(GOOD)}"):
    return RemoteFile("file.bin", checksum, [server.url + p for p in paths])


def test_a_file_is_downloaded_once(server, tmp_path):
    server.answers["/a"] = GOOD
    for _ in range(2):
        path = fetch(remote(server, "/a"), tmp_path / "deep" / "folder")
        assert path.read_bytes() == GOOD
    assert server.asked == ["/a"]
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


def test_another_try_and_then_another_address(server, tmp_path):
    server.answers |= {"/a": [503, GOOD], "/b": 404, "/c": GOOD}
    fetch(remote(server, "/a"), tmp_path / "1")
    assert server.asked == ["/a", "/a"]
    fetch(remote(server, "/b", "/c"), tmp_path / "2")
    assert server.asked[2:] == ["/b"] * download.TRIES + ["/c"]


@pytest.mark.parametrize(
    "answer",
    [b"wrong content", (GOOD[:700], len(GOOD)), GOOD[:700], 404],
    ids=["wrong", "cut", "short", "404"],
)
def test_what_is_not_whole_and_right_leaves_nothing(server, tmp_path, answer):
    server.answers["/a"] = answer
    with pytest.raises(
        ConnectionError, match=r"file.bin can't be downloaded to .*/a: "
    ):
        fetch(remote(server, "/a"), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("answer", [b"wrong", 404])
def test_a_damaged_file_is_replaced_by_a_good_one_alone(server, tmp_path, answer):
    path = tmp_path / "file.bin"
    path.write_bytes(b"damaged")
    (tmp_path / "other.bin").write_bytes(b"of somebody else")
    server.answers["/a"] = answer
    message = (
        rf"file.bin: damaged: its sha256 is {sha256(b'damaged')}, not .*; file.bin"
    )
    with pytest.raises(ValueError, match=message):
        fetch(remote(server, "/a"), tmp_path)
    assert path.read_bytes() == b"damaged"
    server.answers["/a"] = GOOD
    assert fetch(remote(server, "/a"), tmp_path).read_bytes() == GOOD
    assert (tmp_path / "other.bin").read_bytes() == b"of somebody else"
    assert len(list(tmp_path.iterdir())) == 2


def test_offline_names_file_address_and_folder(server, tmp_path, monkeypatch):
    monkeypatch.setenv("PORTANET_OFFLINE", "1")
    with pytest.raises(FileNotFoundError) as caught:
        fetch(remote(server, "/a"), tmp_path)
    for word in ("file.bin", f"{server.url}/a", str(tmp_path), "PORTANET_OFFLINE"):
        assert word in str(caught.value)
    (tmp_path / "file.bin").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="damaged: .*PORTANET_OFFLINE"):
        fetch(remote(server, "/a"), tmp_path)
    assert server.asked == []
    monkeypatch.setenv("PORTANET_OFFLINE", "0")
    server.answers["/a"] = GOOD
    fetch(remote(server, "/a"), tmp_path)


def test_without_pooch_the_extra_is_named(server, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pooch", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'portanet\[data\]'"):
        fetch(remote(server, "/a"), tmp_path)


def test_progress_is_shown_where_somebody_watches(
    server, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    server.answers["/a"] = GOOD
    fetch(remote(server, "/a"), tmp_path)
    assert "file.bin" in capsys.readouterr().err


def test_mnist_comes_from_its_addresses_to_the_cache(server, tmp_path, monkeypatch):
    images, _ = small_mnist(tmp_path / "served", monkeypatch)
    for path in (tmp_path / "served").iterdir():
        server.answers[f"/{path.name}"] = path.read_bytes()
    addresses = [f"{server.url}/nothing/", f"{server.url}/"]
    monkeypatch.setattr(MNIST, "addresses", addresses)
    found = MNIST()
    np.testing.assert_array_equal(found.images[:, 0], images)
    kept = tmp_path / "cache" / "data" / "mnist"
    assert {p.name for p in kept.iterdir()} == {
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
    }


def test_every_published_file_has_a_checksum_and_an_address():
    for kind in (MNIST, FashionMNIST):
        assert len(kind.sha256) == 4 and len(kind.addresses) == 2
        assert all(len(bytes.fromhex(s)) == 32 for s in kind.sha256.values())
        assert all(a.endswith("/") for a in kind.addresses)
    assert not set(MNIST.sha256.values()) & set(FashionMNIST.sha256.values())
    assert CIFAR10.file.checksum.startswith("sha256:")
    assert set(PennTreebank.MD5) == set(PennTreebank.FILES.values())
    assert all(len(bytes.fromhex(s)) == 16 for s in PennTreebank.MD5.values())


# Text ------------------------------------------------------------------------------------

TRAIN = " no it was n't black monday \n but while the <unk> did N \n"


def place_ptb(folder, monkeypatch, times=1):
    """The three files, their lines so many times, and their checksums in the table."""
    texts = {"train": TRAIN, "valid": " black tuesday \n", "test": " it did \n"}
    sums = {}
    for part, text in texts.items():
        content = (text * times).encode()
        (folder / f"ptb.{part}.txt").write_bytes(content)
        sums[f"ptb.{part}.txt"] = hashlib.md5(content).hexdigest()
    monkeypatch.setattr(PennTreebank, "MD5", sums)
    return folder


def test_the_penn_treebank_is_a_corpus_of_words(tmp_path, monkeypatch):
    place_ptb(tmp_path, monkeypatch)
    monkeypatch.setenv("PORTANET_OFFLINE", "1")
    corpus = PennTreebank(root=tmp_path)
    assert len(corpus.train) == 14 and corpus.train.dtype == np.int32
    assert corpus.decode(
        corpus.train
    ) == "no it was n't black monday\n but while the " + ("<unk> did N\n")
    assert corpus.dictionary.encode(["never", "black"]) == [10, 4]
    assert corpus.decode(corpus.valid) == "black tuesday\n"
    assert len(PennTreebank(1, root=tmp_path).train) == 7
    (tmp_path / "ptb.test.txt").write_text(" it did")
    with pytest.raises(ValueError, match="ptb.test.txt: damaged: its md5 is"):
        PennTreebank(root=tmp_path)


def test_any_text_is_a_corpus_of_words_or_characters(tmp_path):
    (tmp_path / "train.txt").write_text("the cat\nsat\n", encoding="utf-8")
    (tmp_path / "test.txt").write_text("the ünicode\n", encoding="utf-8")
    words = Corpus(tmp_path)
    assert words.dictionary.idx2word == ["the", "cat", "<eos>", "sat", "ünicode"]
    assert words.valid.size == 0
    letters = Corpus(tmp_path, level="characters")
    assert letters.decode(letters.test) == "the ünicode\n"
    split = Corpus.from_text("one two three four", level="words", held_out=0.4)
    assert split.decode(split.train) == "one two three"
    assert split.decode(split.test) == "four\n"
    (tmp_path / "test.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ValueError, match="test.txt: no UTF-8 text"):
        Corpus(tmp_path)
    (tmp_path / "test.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"test\.txt"):
        Corpus(tmp_path)
    with pytest.raises(ValueError, match="level is 'words' or 'characters', not 'x'"):
        Corpus.from_text("a", level="x")


def test_a_dictionary_names_what_it_lacks():
    words = Dictionary(["a", "b", "a"])
    assert len(words) == 2 and words.decode(np.array([1, 0])) == ["b", "a"]
    with pytest.raises(KeyError, match="'c' is not in it, nor is <unk>"):
        words.encode(["a", "c"])


def test_batches_of_text_are_in_time_order(device):
    batches = batchify(np.arange(26), 4)
    assert batches.shape == (6, 4) and batches[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    for i, steps in ((0, 3), (2, 3), (3, 2), (4, 1)):
        x, y = get_batch(batches, i, 3, device)
        assert x.shape == (steps, 4) and y.shape == (steps * 4,) and x.device == device
        np.testing.assert_array_equal(y.numpy(), x.numpy().reshape(-1) + 1)
    with pytest.raises(IndexError, match="row 5 is not in 0 to 4"):
        get_batch(batches, 5, 3)
    with pytest.raises(ValueError, match="batch_size 27 is not in 1 to 26"):
        batchify(np.arange(26), 27)


# Folders of pictures -----------------------------------------------------------------------


def test_pictures_are_read_by_class(tmp_path):
    from PIL import Image

    for name, colour in (("dog", (255, 0, 0)), ("cat", (0, 0, 255))):
        (tmp_path / name / "deep").mkdir(parents=True)
        Image.new("RGB", (5, 4), colour).save(tmp_path / name / "a.png")
        Image.new("L", (5, 4), 7).save(tmp_path / name / "deep" / "b.BMP")
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    found = ImageFolder(tmp_path, transform=lambda x: x.astype(np.float32))
    assert found.classes == ["cat", "dog"] and len(found) == 4
    image, label = found[0]
    assert (
        label == 0
        and image.shape == (3, 4, 5)
        and image[:, 0, 0].tolist() == [0, 0, 255]
    )
    assert found[1][0][0, 0, 0] == 7 and found[3][1] == 1
    x, y = next(iter(DataLoader(found, 4, device="cpu", num_workers=2)))
    assert x.shape == (4, 3, 4, 5) and y.tolist() == [0, 0, 1, 1]


def test_a_broken_picture_and_an_empty_class_are_named(tmp_path):
    with pytest.raises(ValueError, match="holds no folders"):
        ImageFolder(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(ValueError, match="cat holds no picture"):
        ImageFolder(tmp_path)
    (tmp_path / "cat" / "x.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(ValueError, match=r"x.png: no picture that can be read"):
        ImageFolder(tmp_path)[0]
    with pytest.raises(FileNotFoundError):
        ImageFolder(tmp_path / "nowhere")
