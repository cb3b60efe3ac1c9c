"""Datasets and loaders: what they give, in which order, and how they stop."""

import signal
import threading
import time
import traceback

import numpy as np
import pytest

import portanet as pn
from portanet.data import ArrayDataset, BatchSampler, ConcatDataset, DataLoader, Dataset
from portanet.data import IterableDataset, RandomSampler, SequentialSampler, Subset
from portanet.data import SubsetRandomSampler, TensorDataset, WeightedRandomSampler
from portanet.data import collate, draws, random_split, workers
from tests.conftest import PRESENT


def numbers(n, device="cpu"):
    x = pn.arange(n, device=device)
    return TensorDataset(x, x * 10)


def prefetchers():
    return [t for t in threading.enumerate() if t.name.startswith(workers.NAME)]


class Squares:
    """A dataset that is asked item by item."""

    def __len__(self):
        return 5

    def __getitem__(self, i):
        return {"x": np.float32(i), "y": (i * i, f"n{i}")}


# Datasets ------------------------------------------------------------------------------------


def test_items_of_a_tensor_dataset_are_rows(device):
    data = TensorDataset(
        pn.tensor([[1, 2], [3, 4]], device=device), pn.ones(2, device=device)
    )
    assert len(data) == 2 and isinstance(data, Dataset) and data.device == device
    x, y = data[-1]
    assert x.tolist() == [3, 4] and y.item() == 1.0
    with pytest.raises(IndexError, match="index 2 is out of range for 2 samples"):
        data[2]


def test_a_batch_of_rows_is_gathered_where_the_tensors_are(device):
    x, y = numbers(7, device).batch(np.array([5, 0, 5], np.int32))
    assert x.tolist() == [5, 0, 5] and y.tolist() == [50, 0, 50]
    assert x.device == device


def test_datasets_refuse_parts_that_do_not_fit():
    with pytest.raises(
        ValueError, match="TensorDataset: the parts have different lengths: 2, 3"
    ):
        TensorDataset(pn.ones(2), pn.ones(3))
    with pytest.raises(
        TypeError, match="TensorDataset: part 0 is a ndarray, not a Tensor"
    ):
        TensorDataset(np.ones(2))
    with pytest.raises(
        ValueError, match="TensorDataset: part 0 has no axis of samples"
    ):
        TensorDataset(pn.tensor(1.0))
    with pytest.raises(ValueError, match="ArrayDataset: at least one"):
        ArrayDataset()


def test_a_subset_of_a_subset_reads_the_first_dataset():
    part = Subset(Subset(numbers(10), [9, 7, 5, 3]), [2, 0])
    assert [x.item() for x, _ in (part[0], part[1])] == [5, 9]
    assert part.batch(np.array([1, 0]))[0].tolist() == [9, 5]
    with pytest.raises(IndexError, match="index 10 is out of range for 10 samples"):
        Subset(numbers(10), [10])


def test_a_random_split_covers_everything_once():
    parts = random_split(numbers(11), [4, 0, 7], pn.Generator(1))
    assert [len(p) for p in parts] == [4, 0, 7]
    seen = np.concatenate([p.indices for p in parts])
    assert sorted(seen) == list(range(11)) and list(seen) != list(range(11))
    again = random_split(numbers(11), [4, 0, 7], pn.Generator(1))
    np.testing.assert_array_equal(seen, np.concatenate([p.indices for p in again]))


def test_a_random_split_is_the_same_on_every_device():
    made = [
        [
            p.indices.tolist()
            for p in random_split(numbers(9, d), [0.5, 0.5], pn.Generator(3))
        ]
        for d in PRESENT
    ]
    assert all(m == made[0] for m in made)


def test_a_random_split_takes_fractions_that_add_up_to_one():
    assert [len(p) for p in random_split(numbers(10), [0.33, 0.33, 0.34])] == [4, 3, 3]
    with pytest.raises(ValueError, match="don't add up to 1"):
        random_split(numbers(10), [0.5, 0.4])
    with pytest.raises(
        ValueError, match=r"lengths \[5, 4\] don't add up to 10 samples"
    ):
        random_split(numbers(10), [5, 4])


def test_datasets_are_concatenated():
    data = ConcatDataset([numbers(3), numbers(2), numbers(0), numbers(1)])
    assert len(data) == 6 and data.device == "cpu"
    assert [x.item() for x, _ in (data[i] for i in range(6))] == [0, 1, 2, 0, 1, 0]
    assert data[-1][0].item() == 0 and data[-2][0].item() == 1
    with pytest.raises(IndexError, match="index 6 is out of range for 6 samples"):
        data[6]
    with pytest.raises(ValueError, match="at least one dataset"):
        ConcatDataset([])
    assert len(list(DataLoader(data, 4))) == 2


# Samplers ------------------------------------------------------------------------------------


def test_samplers_cover_what_they_say():
    g = pn.Generator(3)
    assert list(SequentialSampler("abc")) == [0, 1, 2]
    assert sorted(RandomSampler(range(9), generator=g)) == list(range(9))
    assert len(set(RandomSampler(range(9), num_samples=4))) == 4
    drawn = list(RandomSampler(range(3), replacement=True, num_samples=50))
    assert len(drawn) == 50 and set(drawn) == {0, 1, 2}
    assert sorted(SubsetRandomSampler([5, 7, 7, 1])) == [1, 5, 7, 7]
    assert list(RandomSampler([])) == [] == list(SubsetRandomSampler([]))


def test_samplers_follow_their_generator_and_differ_each_time():
    def passes():
        sampler = RandomSampler(range(20), generator=pn.Generator(3))
        return [list(sampler), list(sampler)]

    first, second = passes()
    assert first != second and passes() == [first, second]


def test_weights_are_the_frequencies():
    weights = [0.0, 1.0, 3.0, 0.0]
    sampler = WeightedRandomSampler(weights, 4000, generator=pn.Generator(5))
    counts = np.bincount(list(sampler), minlength=4)
    assert counts[0] == counts[3] == 0
    # 3000 expected; five standard deviations of a binomial are 137.
    assert abs(counts[2] - 3000) < 137
    firsts = [
        next(iter(WeightedRandomSampler([1, 3], 1, False, pn.Generator(i))))
        for i in range(200)
    ]
    assert abs(sum(firsts) - 150) < 31  # also five of them
    both = WeightedRandomSampler([2, 0, 1], 2, replacement=False)
    assert sorted(both) == [0, 2]


@pytest.mark.parametrize("kind", [RandomSampler, DataLoader])
def test_a_seed_is_no_generator(kind):
    with pytest.raises(TypeError, match="a pn.Generator is expected, not int"):
        kind(TensorDataset(pn.arange(3)), generator=0)


def test_samplers_refuse_what_can_not_be_drawn():
    with pytest.raises(ValueError, match="1 samples can't be drawn of 0"):
        WeightedRandomSampler([0.0], 1)
    with pytest.raises(ValueError, match="3 samples can't be drawn of 2"):
        WeightedRandomSampler([1, 0, 1], 3, replacement=False)
    with pytest.raises(ValueError, match="weights are finite and at least 0"):
        WeightedRandomSampler([1, float("nan")], 1)
    with pytest.raises(ValueError, match="num_samples 4 is not in 0 to 3"):
        RandomSampler(range(3), num_samples=4)
    with pytest.raises(ValueError, match="batch_size is an integer of at least 1"):
        BatchSampler(range(3), 0)


def test_loaders_take_samplers_of_indices_and_of_batches():
    data = numbers(10)
    loader = DataLoader(data, 2, sampler=[3, 1, 4, 1, 5])
    assert [x.tolist() for x, _ in loader] == [[3, 1], [4, 1], [5]] and len(loader) == 3
    loader = DataLoader(data, batch_sampler=[[1, 2, 3], [9]], num_workers=2)
    assert [x.tolist() for x, _ in loader] == [[1, 2, 3], [9]] and len(loader) == 2
    with pytest.raises(ValueError, match="shuffle and sampler given; choose one"):
        DataLoader(data, shuffle=True, sampler=[1])
    with pytest.raises(ValueError, match="batch_sampler decides batch_size"):
        DataLoader(data, 2, batch_sampler=[[1]])


# Batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefetch", [0, 2])
def test_batches_come_in_order_and_again(prefetch, device):
    loader = DataLoader(numbers(5, device), batch_size=2, prefetch=prefetch)
    assert len(loader) == 3
    for _ in range(2):
        got = list(loader)
        assert [x.tolist() for x, _ in got] == [[0, 1], [2, 3], [4]]
        assert [y.tolist() for _, y in got] == [[0, 10], [20, 30], [40]]
        assert all(x.device == device for x, _ in got)


@pytest.mark.parametrize(
    "count, full, lengths", [(0, 0, []), (2, 0, [2]), (6, 2, [3, 3])]
)
def test_the_last_batch_can_be_dropped(count, full, lengths):
    assert [len(x) for x, _ in DataLoader(numbers(count), 3)] == lengths
    loader = DataLoader(numbers(count), 3, drop_last=True)
    assert len(loader) == full == len(list(loader))


@pytest.mark.parametrize("prefetch", [0, 3])
def test_shuffling_covers_everything_in_another_order_each_time(prefetch):
    def passes():
        loader = DataLoader(
            numbers(20), 6, shuffle=True, generator=pn.Generator(4), prefetch=prefetch
        )
        return [[i for x, _ in loader for i in x.tolist()] for _ in range(2)]

    first, second = passes()
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second != list(range(20))
    assert passes() == [first, second]


def test_shuffling_follows_the_seed_and_not_what_the_model_draws():
    orders = []
    for drawn in (0, 3):
        pn.manual_seed(7)
        loader = DataLoader(numbers(20), 20, shuffle=True)
        for _ in range(drawn):
            pn.rand(5)
        orders.append(next(iter(loader))[0].tolist())
    assert orders[0] == orders[1]


def test_shuffling_is_the_same_on_every_device():
    orders = []
    for device in PRESENT:
        loader = DataLoader(
            numbers(20, device), 20, shuffle=True, generator=pn.Generator(4)
        )
        orders.append(next(iter(loader))[0].tolist())
    assert all(o == orders[0] for o in orders)


def test_arrays_are_copied_to_the_device_named(device):
    data = ArrayDataset(np.arange(4, dtype=np.float32), np.arange(4, dtype=np.int32))
    for prefetch in (0, 1):
        x, y = next(iter(DataLoader(data, 4, device=device, prefetch=prefetch)))
        assert (
            x.device == device and x.dtype == pn.float32 and x.tolist() == [0, 1, 2, 3]
        )


def test_arrays_go_to_the_default_device_of_who_iterates(device):
    data = ArrayDataset(np.ones(2, np.float32))
    with pn.device(device):
        ((x,),) = DataLoader(data, 2, prefetch=1)
    assert x.device == device


def test_samples_of_any_structure_are_collated():
    (batch,) = DataLoader(Squares(), 5)
    assert batch["x"].tolist() == [0, 1, 2, 3, 4] and batch["x"].dtype == pn.float32
    squares, names = batch["y"]
    assert squares.tolist() == [0, 1, 4, 9, 16] and names == [
        "n0",
        "n1",
        "n2",
        "n3",
        "n4",
    ]
    assert collate([pn.ones(2), pn.zeros(2)]).shape == (2, 2)
    with pytest.raises(ValueError, match="collate: samples have 1 and 2 parts"):
        collate([(1,), (1, 2)])


def test_a_collate_of_ones_own_gets_the_samples():
    loader = DataLoader(numbers(3), 2, collate_fn=len)
    assert list(loader) == [2, 1]


def test_batches_are_not_recorded():
    x = pn.ones(4, requires_grad=True)
    ((batch,),) = DataLoader(TensorDataset(x), 4)
    assert not batch.requires_grad


def test_options_are_checked():
    data = numbers(3)
    with pytest.raises(
        ValueError, match="batch_size is an integer of at least 1, not 0"
    ):
        DataLoader(data, 0)
    with pytest.raises(ValueError, match="prefetch is a number of batches, not -1"):
        DataLoader(data, prefetch=-1)
    with pytest.raises(ValueError, match="num_workers is a number of threads, not -1"):
        DataLoader(data, num_workers=-1)
    with pytest.raises(
        TypeError, match="DataLoader: a set_iterator|a int has no __len__"
    ):
        DataLoader(3)


# Prefetching -----------------------------------------------------------------------------------


class Broken:
    def __len__(self):
        return 10

    def __getitem__(self, i):
        if i == 5:
            raise KeyError("sample 5 is broken")
        return i


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_what_goes_wrong_in_the_thread_reaches_the_loop(prefetch):
    seen = []
    with pytest.raises(KeyError, match="sample 5 is broken"):
        for x in DataLoader(Broken(), 2, prefetch=prefetch):
            seen.append(x.tolist())
    assert seen == [[0, 1], [2, 3]]
    assert prefetchers() == []


def test_leaving_the_loop_early_ends_the_thread():
    for x, _ in DataLoader(numbers(100), 1, prefetch=2):
        if x.item() == 3:
            break
    assert prefetchers() == []
    with pytest.raises(RuntimeError, match="stop"):
        for _ in DataLoader(numbers(100), 1, prefetch=2):
            raise RuntimeError("stop")
    time.sleep(0.01)
    assert prefetchers() == []


def test_an_iterator_that_is_closed_or_dropped_ends_its_thread():
    iterator = iter(DataLoader(numbers(100), 1, prefetch=2))
    next(iterator)
    assert len(prefetchers()) == 1
    iterator.close()
    assert prefetchers() == []
    iter(DataLoader(numbers(100), 1, prefetch=2))
    assert prefetchers() == []


class Counted:
    """Remembers how far it was read."""

    def __init__(self):
        self.read = 0

    def __len__(self):
        return 100

    def __getitem__(self, i):
        self.read = max(self.read, i + 1)
        return i


def test_the_thread_is_at_most_so_many_batches_ahead():
    data = Counted()
    iterator = iter(DataLoader(data, 1, prefetch=3))
    next(iterator)
    deadline = time.monotonic() + 5
    while data.read < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert data.read == 4  # the one that was taken, and three ahead
    iterator.close()


class Slow:
    def __len__(self):
        return 100

    def __getitem__(self, i):
        time.sleep(0.1)
        return i


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers on this system")
def test_an_interrupt_while_waiting_ends_loop_and_thread():
    def interrupt(*args):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt):
            for _ in DataLoader(Slow(), 4, prefetch=1):
                pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# Workers -------------------------------------------------------------------------------------


class Uneven:
    """Its early samples take longer, and each is made of random numbers."""

    def __len__(self):
        return 24

    def __getitem__(self, i):
        time.sleep(0.002 * (24 - i) / 24)
        return i, draws.rng().integers(1 << 30, size=3)


@pytest.mark.parametrize("shuffle", [False, True])
def test_order_and_random_numbers_are_the_same_for_any_workers(shuffle):
    def passes(count):
        loader = DataLoader(
            Uneven(), 5, shuffle, generator=pn.Generator(2), num_workers=count
        )
        return [[(i.tolist(), r.tolist()) for i, r in loader] for _ in range(2)]

    alone = passes(0)
    assert alone[0] != alone[1]  # another pass, other numbers
    assert passes(1) == passes(4) == alone
    assert prefetchers() == []


class Rising(IterableDataset):
    def __init__(self, count):
        self.count = count

    def __iter__(self):
        for i in range(self.count):
            if i == 50:
                raise OSError("row 50 can't be read")
            yield i, draws.rng().integers(1 << 30)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_an_iterable_dataset_is_read_in_order(count):
    def batches(**options):
        loader = DataLoader(
            Rising(7), 3, generator=pn.Generator(2), num_workers=count, **options
        )
        return [(i.tolist(), r.tolist()) for i, r in loader]

    assert [i for i, _ in batches()] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [i for i, _ in batches(drop_last=True)] == [[0, 1, 2], [3, 4, 5]]
    again = [
        (i.tolist(), r.tolist())
        for i, r in DataLoader(Rising(7), 3, generator=pn.Generator(2))
    ]
    assert batches() == again
    seen = []
    with pytest.raises(OSError, match="row 50"):
        for i, _ in DataLoader(Rising(60), 20, num_workers=count):
            seen.append(len(i))
    assert seen == [20, 20] and prefetchers() == []


def test_an_iterable_dataset_has_no_length_and_no_order_to_choose():
    with pytest.raises(TypeError, match="has no length"):
        len(DataLoader(Rising(3)))
    with pytest.raises(ValueError, match="shuffle given; an IterableDataset has its"):
        DataLoader(Rising(3), shuffle=True)


def test_an_error_in_a_worker_comes_with_its_traceback():
    with pytest.raises(KeyError) as caught:
        list(DataLoader(Broken(), 2, num_workers=3))
    frames = [f.name for f in traceback.extract_tb(caught.value.__traceback__)]
    assert "__getitem__" in frames
    assert prefetchers() == []


def test_a_worker_s_own_timeout_is_an_error_like_others():
    def late(samples):
        raise TimeoutError("the disk sleeps")

    with pytest.raises(TimeoutError, match="the disk sleeps"):
        list(DataLoader(numbers(3), 2, num_workers=1, collate_fn=late))


def test_each_worker_is_started_once():
    started = []
    loader = DataLoader(Uneven(), 1, num_workers=3, worker_init_fn=started.append)
    list(loader)
    assert sorted(started) == [0, 1, 2]

    def fails(number):
        raise ValueError(f"worker {number} can't start")

    with pytest.raises(ValueError, match="worker 0 can't start"):
        list(DataLoader(Uneven(), 1, num_workers=1, worker_init_fn=fails))
    assert prefetchers() == []


def test_leaving_early_ends_all_workers_and_asks_for_no_more():
    data = Counted()
    for _ in DataLoader(data, 1, num_workers=4, prefetch=6):
        break
    assert prefetchers() == [] and data.read <= 1 + 6 + 1


def test_workers_fill_batches_on_each_device(device):
    data = ArrayDataset(np.arange(40, dtype=np.float32).reshape(20, 2))
    loader = DataLoader(data, 3, device=device, num_workers=3)
    found = np.concatenate([x.numpy() for (x,) in loader])
    np.testing.assert_array_equal(found, data.arrays[0])


def test_options_of_pytorch_that_change_nothing_are_taken():
    loader = DataLoader(numbers(3), 2, pin_memory=True, persistent_workers=True)
    assert len(list(loader)) == 2
