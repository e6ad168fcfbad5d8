"""How much the callers at a worker's own socket use it: no router counts them, so the worker tells the operator."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from modelmora_worker.lifecycle import DirectUse


class DirectMeter:
    """Counts calls. Used from the event loop alone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = 0
        self._open = 0
        self._open_s = 0.0  # of all calls together, since the last look
        self._looked_at = self._counted_at = clock()

    @contextmanager
    def call(self) -> Iterator[None]:
        """The block of one call, waiting and running."""
        self._count()
        self._begun += 1
        self._open += 1
        try:
            yield
        finally:
            self._count()
            self._open -= 1

    def use(self) -> DirectUse:
        """Until now; the load is that since the last time it was asked for."""
        self._count()
        passed_s = self._counted_at - self._looked_at
        load = self._open_s / passed_s if passed_s else float(self._open)
        self._open_s, self._looked_at = 0.0, self._counted_at
        return DirectUse(self._begun, round(load, 2))

    def _count(self) -> None:
        now = self._clock()
        self._open_s += self._open * (now - self._counted_at)
        self._counted_at = now
