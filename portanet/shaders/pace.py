"""How much work a submit may hold: so little that no watchdog fires, measured as it goes.

Work counts scalar operations, about, as portanet.shaders.variants does. Windows resets a GPU
whose submit takes 2 s (TdrDelay, learn.microsoft.com). A submit costs the host 40 to 125 us
(wgpu-py 0.32), so a fast GPU is given more at once.
"""

from __future__ import annotations

import math
import time

START = 2e8  # within 2 s even at 1e8 operations a second
LEAST, MOST = 1e6, 3.2e9
WANTED_S = 0.1  # of a submit, at most
BATCH = 64  # launches, at most: the device shall not wait for the first for long


class Pace:
    """The limit of one device, raised and lowered by what the waits for it show."""

    def __init__(self):
        self.limit, self.under_way, self.since = START, 0.0, 0.0

    def sent(self, work: float) -> None:
        """So much work is submitted now."""
        if not self.under_way:
            self.since = time.perf_counter()
        self.under_way += work

    def done(self, waited_from: float) -> None:
        """All of it is done, and was waited for from then on."""
        now = time.perf_counter()
        work, self.under_way = self.under_way, 0.0
        waited, took = now - waited_from, max(now - self.since, 1e-6)
        if waited > WANTED_S:
            # The device was busy at least as long as it was waited for.
            self._set(min(self.limit, work / waited * WANTED_S))
        elif work >= self.limit and work / took * WANTED_S > 2 * self.limit:
            # And at most as long as since the first submit.
            self._set(2 * self.limit)

    def _set(self, limit: float) -> None:
        # A power of two times START, since replays are cut into batches by it.
        times = 2.0 ** math.floor(math.log2(max(limit, LEAST) / START) + 1e-9)
        self.limit = min(max(START * times, LEAST), MOST)
