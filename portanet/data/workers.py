"""Work done ahead by threads, given back in order."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from typing import Any

NAME = "portanet-worker"


def ahead(
    make: Callable[[Any], Any],
    tasks: Iterable[Any],
    workers: int,
    count: int,
    start: Callable[[int], None] | None = None,
) -> Generator[Any, None, None]:
    """make(task) of each task, in order, by `workers` threads, at most `count` ahead.

    start(i) is called once in thread i, before its first task. What one raises is raised
    here, in its turn, with the traceback of the thread. However the loop over it ends, no
    thread is left.
    """
    local, numbers = threading.local(), itertools.count()

    def work(task: Any) -> Any:
        if start is not None and not hasattr(local, "number"):
            local.number = next(numbers)
            start(local.number)
        return make(task)

    tasks, running = iter(tasks), deque[Future]()
    pool = ThreadPoolExecutor(workers, thread_name_prefix=NAME)
    try:
        running.extend(pool.submit(work, t) for t in itertools.islice(tasks, count))
        while running:
            done = _result(running.popleft())
            running.extend(pool.submit(work, t) for t in itertools.islice(tasks, 1))
            yield done
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _result(future: Future) -> Any:
    """Its result; in short waits, between which Ctrl-C is heard on Windows too."""
    while True:
        try:
            return future.result(timeout=0.2)
        except TimeoutError:
            # In Python 3.11 a task's own TimeoutError is the same class.
            if future.done():
                return future.result()
