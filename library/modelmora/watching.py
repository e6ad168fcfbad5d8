"""A value that changes, and those who watch it: the newest counts, what came between is skipped."""

import asyncio
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Cell(Generic[T]):
    """Used from one event loop. A slow watcher skips what is over; a closed cell keeps its last value."""

    def __init__(self) -> None:
        self._value: T | None = None
        self._changed = asyncio.Event()
        self._closed = False

    @property
    def value(self) -> T | None:
        """None until it was first set."""
        return self._value

    def set(self, value: T) -> None:
        """Replaces the value and wakes every watcher; an equal value wakes nobody."""
        if value != self._value:
            self._value = value
            self._wake()

    def close(self) -> None:
        """Every watch ends after the value as it is now."""
        self._closed = True
        self._wake()

    async def watch(self) -> AsyncIterator[T]:
        """The value as soon as there is one, then the newest after each change, until it is closed."""
        seen: T | None = None
        while True:
            changed, closed = self._changed, self._closed
            if self._value is not None and self._value is not seen:
                seen = self._value
                yield seen
            if closed:
                return
            await changed.wait()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
