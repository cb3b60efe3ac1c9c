"""Handwritten digits: the data, the model and the training of `demo` and `bench`.

`demos/digits.py` is the same to read from top to bottom, without what a command needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from .messages import CommandError, extra

SIDE = 8  # pixels
HOLD_OUT = 5  # every fifth image is for the test
WIDTHS = (256, 128)  # of the hidden layers
BATCH = 32
LEARNING_RATE = 2e-3
IMPATIENT_S = 0.3  # a second Ctrl-C later than this stops at once
MODEL_FILE = "digits.safetensors"


class Digits(NamedTuple):
    """Images as rows of 64 values from 0 to 1, float32; labels 0 to 9, int32."""

    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load() -> Digits:
    """scikit-learn's 1797 digits; those with index 0, 5, 10 ... are held out."""
    found = extra("sklearn.datasets").load_digits()
    images = (found.data / 16).astype(np.float32)
    labels = found.target.astype(np.int32)
    held_out = np.arange(len(images)) % HOLD_OUT == 0
    return Digits(
        images[~held_out], labels[~held_out], images[held_out], labels[held_out]
    )


def build(device: Any, widths: tuple[int, int] = WIDTHS) -> Any:
    """The model, an MLP, with weights drawn from the library's generator."""
    import portanet as pn
    from portanet import nn

    with pn.device(device):
        return nn.Sequential(
            nn.Linear(SIDE * SIDE, widths[0]),
            nn.ReLU(),
            nn.Linear(widths[0], widths[1]),
            nn.ReLU(),
            nn.Linear(widths[1], 10),
        )


def read(path: str, device: Any) -> Any:
    """The model with the weights of a file that the demo saved."""
    import portanet as pn

    model = build(device)
    try:
        model.load_state_dict(pn.load(path, device=device))
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        if isinstance(error, pn.DeviceError):
            raise
        text = " ".join(str(error).split())
        raise CommandError(f"{path}: not a model of the demo: {text}") from None
    return model


@dataclass
class Curves:
    """What one device's training gave. `finished` is False where it was stopped."""

    device: str
    losses: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    accuracies: list[float] = field(default_factory=list)  # after each epoch
    seconds: list[float] = field(default_factory=list)  # of each epoch
    finished: bool = False

    @property
    def epoch_s(self) -> float:
        """The median; the first epoch, which compiles, hardly counts."""
        return float(np.median(self.seconds)) if self.seconds else float("nan")

    @property
    def step_ms(self) -> float:
        steps = len(self.losses) / max(len(self.seconds), 1)
        return self.epoch_s / steps * 1e3 if steps else float("nan")


def stepper(model: Any) -> Callable[[Any, Any], Any]:
    """A training step: (images, labels) -> the loss, which stays on the device."""
    from portanet import nn, optim

    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters(), lr=LEARNING_RATE)

    def step(images: Any, labels: Any) -> Any:
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def train(
    model: Any,
    data: Digits,
    device: str,
    epochs: int,
    on_step: Callable[[Curves], bool],
) -> Curves:
    """Train; `on_step` is told after every step and stops the training by True.

    Losses are read back once an epoch: a read waits for the device.
    """
    import portanet as pn
    from portanet.data import DataLoader, TensorDataset

    images, labels = (pn.tensor(a, device=device) for a in data[:2])
    loader = DataLoader(TensorDataset(images, labels), batch_size=BATCH, shuffle=True)
    step, curves = stepper(model), Curves(device)
    for _ in range(epochs):
        start, losses = time.perf_counter(), []
        for batch in loader:
            losses.append(step(*batch))
            if on_step(curves):
                return curves
        values = pn.stack(losses).numpy()
        curves.seconds.append(time.perf_counter() - start)
        curves.losses = np.concatenate([curves.losses, values])
        curves.accuracies.append(accuracy(model, data, device))
    curves.finished = True
    return curves


def accuracy(model: Any, data: Digits, device: str) -> float:
    """The part of the held-out images that the model reads right."""
    import portanet as pn

    with pn.no_grad():
        scores = model(pn.tensor(data.test_images, device=device))
    return float((scores.numpy().argmax(axis=1) == data.test_labels).mean())


def steps_an_epoch(data: Digits) -> int:
    return -(-len(data.images) // BATCH)


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Inside, Ctrl-C is noted instead of raised, so that no step is cut in half; one more
    of it later is raised. Gives a function that says whether there was one."""
    import signal
    import threading

    before = signal.getsignal(signal.SIGINT)
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or before is not signal.default_int_handler:
        yield lambda: False  # Ctrl-C is ignored, or somebody else's
        return
    noted: list[float] = []

    def note(number: int, frame: Any) -> None:
        # `timeout -s INT` sends two at once; that is no second wish.
        if noted and time.monotonic() - noted[0] > IMPATIENT_S:
            raise KeyboardInterrupt
        noted.append(time.monotonic())

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(noted)
    finally:
        signal.signal(signal.SIGINT, before)
