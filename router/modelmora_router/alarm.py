"""One timer of the event loop, for whoever looks at everything anew each time it rings."""

import asyncio
import math
from collections.abc import Callable


class Alarm:
    """May ring too early, which is harmless, so it is seldom set anew."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0

    def set(self, at: float, now: float) -> None:
        """Rings at that moment at the latest, by the clock by which it is `now`; never, if that is infinite."""
        if at == math.inf or (self._timer and self._at <= at):
            return
        self.cancel()
        self._at = at
        self._timer = asyncio.get_running_loop().call_later(max(0.0, at - now), self._rings)

    def cancel(self) -> None:
        """It does not ring any more."""
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _rings(self) -> None:
        self._timer = None
        self._ring()
