"""Ctrl-C wherever Python lets it in: parameters all new or all old, the device goes on."""

import dis
import functools
import gc
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import portanet as pn

PACKAGE = str(Path(pn.__file__).parent)


@functools.cache
def places(code):
    """Offsets of the instructions before which Python handles signals: those after a call,
    at the start of a function and of a loop's next round (CPython's CHECK_EVAL_BREAKER)."""
    found, after = set(), False
    for i in dis.get_instructions(code):
        if after:
            found.add(i.offset)
        if "JUMP_BACKWARD" in i.opname:
            found.add(i.argval)
        after = i.opname.startswith(("CALL", "RESUME"))
    return found


class At:
    """Inside, KeyboardInterrupt is raised at the `number`th place where Python might handle a
    signal while it runs portanet or wgpu-py."""

    def __init__(self, number):
        self.left = number

    def __enter__(self):
        sys.settrace(self._enter)

    def __exit__(self, kind, *_):
        sys.settrace(None)
        return kind is KeyboardInterrupt

    def _enter(self, frame, event, _):
        name = frame.f_code.co_filename
        # What is raised in a __del__ is printed and forgotten, whatever is deleted.
        if frame.f_code.co_name == "__del__":
            return None
        if not name.startswith(PACKAGE) and "/wgpu/" not in name.replace("\\", "/"):
            return None
        frame.f_trace_opcodes = True
        return self._step

    def _step(self, frame, event, _):
        if event == "opcode" and frame.f_lasti in places(frame.f_code):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self._step


def count_places(action):
    """How many there are in an action."""
    counter = At(1 << 60)
    with counter:
        action()
    return (1 << 60) - counter.left


def signalled(run, times):
    """Call `run` until a signal has raised in so many of the calls; yields after each."""
    me, stop = threading.get_ident(), threading.Event()
    armed = [False]  # no Event: the handler may run while the test holds its lock

    def interrupt():
        while not stop.wait(0.0003):
            if armed[0]:
                signal.pthread_kill(me, signal.SIGUSR1)

    def raises(*_):
        if armed[0]:
            armed[0] = False
            raise InterruptedError

    before = signal.signal(signal.SIGUSR1, raises)
    killer = threading.Thread(target=interrupt)
    killer.start()
    try:
        while times:
            try:
                armed[0] = True
                run()
                armed[0] = False
            except InterruptedError:
                times -= 1
                yield
    finally:
        armed[0] = False
        stop.set()
        killer.join()
        signal.signal(signal.SIGUSR1, before)


def training(device):
    """A step that adds 1 to some states, and what they must agree on."""
    w = pn.zeros((2, 2), device=device) * 1
    a, b = pn.zeros(300, device=device) * 1, pn.zeros(300, device=device) * 1
    ones = pn.ones((2, 2), device=device)

    def step(x):
        a.assign(a + x)
        b.assign(b + x * 2)
        w.assign(w + (ones @ ones) * 0.5)
        return b.sum()

    def count():
        n = a.numpy()[0]
        assert (a.numpy() == n).all() and (b.numpy() == 2 * n).all()
        assert (w.numpy() == n).all()
        return int(n)

    return step, count


# An object of wgpu-py that is half made when the interrupt comes complains when it goes.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_anywhere_leaves_all_or_nothing(device):
    step, count = training(device)
    run, x = pn.compile(step), pn.ones(300, device=device)
    for _ in range(3):
        run(x).item()

    def action():
        run(x)
        run(x)
        run(x).item()

    total = count_places(action)
    before, memory = count(), None
    assert total > 100
    for k in range(1, total):
        with At(k):
            action()
        after = count()
        assert before <= after <= before + 3, f"interrupted at {k}"
        before = after
        if k == total // 2:
            gc.collect()
            memory = x.device.backend.memory()["used"]
    run(x)
    assert count() == before + 1
    gc.collect()
    assert x.device.backend.memory()["used"] <= memory + 4096
    np.testing.assert_array_equal(pn.ones(5, device=device).numpy(), np.ones(5))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_while_tracing_changes_nothing():
    step, count = training("cpu")
    x = pn.ones(300, device="cpu")
    total = count_places(lambda: pn.compile(step)(x))
    before = count()
    for k in range(1, total, total // 40):
        run = pn.compile(step)
        with At(k):
            run(x)
        assert before <= count() <= before + 1, f"interrupted at {k}"
        run(x)  # no trace is left open, and none half made
        before = count()
