"""The wish that the process ends: after what was accepted, or now. Signals, Drain and the parent's death meet here."""

import asyncio


class Stopping:
    """Wished once, seen by everyone; a second wish can only make it sooner. Used from the event loop alone."""

    def __init__(self, drain_timeout_s: float) -> None:
        self.drain_timeout_s = drain_timeout_s
        self._wished = asyncio.Event()
        self._now = asyncio.Event()

    def drain(self, timeout_s: float | None = None) -> None:
        """End after what was accepted, at most `timeout_s` from when draining begins; None: as the settings say."""
        if timeout_s is not None:
            self.drain_timeout_s = min(timeout_s, self.drain_timeout_s) if self._wished.is_set() else timeout_s
        self._wished.set()

    def end_now(self) -> None:
        """End without waiting for anything."""
        self._wished.set()
        self._now.set()

    def signalled(self) -> None:
        """The first signal drains, the second ends."""
        if self._wished.is_set():
            self.end_now()
        else:
            self.drain()

    async def wished(self) -> None:
        await self._wished.wait()

    async def now(self) -> None:
        await self._now.wait()
