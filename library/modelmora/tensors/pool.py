"""The arenas of this process in one session, and the places in them that tensors have.

An arena is used again and again: memory that was never touched costs fifteen times what touched memory costs. Small
tensors share arenas; a large one has one of its size. A place is free again once nobody here looks at it any more and
nobody has it lent.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelmora.errors import InsufficientMemory, ModelMoraError, QuotaExceeded, SharedMemoryUnavailable
from modelmora.tensors import mappings, memory, settings
from modelmora.tensors.allocator import Allocator, rounded
from modelmora.tensors.looks import Look

SMALL_ARENA_BYTES: Final = 16 * 2**20
_LET_GO_WITHIN_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Quota:
    """Of one side of a session."""

    bytes: int
    arenas: int


@dataclass(eq=False, slots=True)
class Arena:
    """One file in memory of ours. Its number is never used again in the session."""

    number: int
    fd: int
    bytes: mappings.Bytes | None
    allocator: Allocator

    @property
    def size_bytes(self) -> int:
        return self.allocator.size_bytes

    def close(self) -> None:
        """Its memory stays as long as an array looks at it, and no longer, whoever still has a place in it."""
        self.bytes = None
        os.close(self.fd)


@dataclass(eq=False, slots=True)
class Place:
    """Some bytes of an arena."""

    arena: Arena
    offset: int
    size_bytes: int
    lent: int = 0  # times
    seen: bool = True  # somebody here looks at it
    freed: bool = False


class Pool:
    """Used by any number of threads. `opened` tells the other side of a new arena, and raises if that cannot be."""

    def __init__(
        self,
        quota: Quota,
        *,
        folder: Path | None = None,
        opened: Callable[[Arena], None],
        closed: Callable[[Arena], None],
    ) -> None:
        self.quota = quota
        self._folder = folder
        self._opened = opened
        self._closed = closed
        self._small_bytes = max(mappings.PAGE_BYTES, min(SMALL_ARENA_BYTES, quota.bytes // 8))
        self._arenas: list[Arena] = []
        self._number = 0
        self._lock = threading.Lock()
        # A look may go at any moment, in any thread, also in one that holds the lock, and what is given back is heard
        # of by the thread for which `opened` waits: so both are only noted, and looked at when a place is needed.
        self._unseen: deque[Place] = deque()
        self._given_back: deque[Place] = deque()
        self._pid = os.getpid()
        self._ended: ModelMoraError | None = None

    @property
    def size_bytes(self) -> int:
        """Of all arenas."""
        return sum(arena.size_bytes for arena in self._arenas)

    @property
    def taken_bytes(self) -> int:
        """Of all places."""
        with self._lock:
            self._sweep()
            return sum(arena.allocator.taken_bytes for arena in self._arenas)

    def take(self, size_bytes: int) -> Look:
        """A place for so many bytes, as an array would see it.

        Raises:
            QuotaExceeded: the session may not have so much.
            InsufficientMemory: the machine, or the volume, has not.
            SharedMemoryUnavailable: this process was forked from the one whose session it is.
            PeerGone: the session is over.
        """
        if os.getpid() != self._pid:
            raise SharedMemoryUnavailable(
                "the session is that of the process this one was forked from", remedy="open a session after the fork"
            )
        with self._lock:
            if self._ended:
                raise self._ended.located()
            self._sweep()
            place = self._placed(size_bytes) or self._enlarged(size_bytes)
            assert place.arena.bytes is not None, "an arena in the list is open"  # noqa: S101
            at = place.arena.bytes[place.offset : place.offset + size_bytes]
        return Look(at, place, self, self._unseen.append)

    def lend(self, place: Place) -> None:
        """The other side may look at it."""
        with self._lock:
            place.lent += 1

    def take_back(self, place: Place) -> None:
        """The other side does not look at it any more."""
        self._given_back.append(place)

    def end(self, error: ModelMoraError) -> None:
        """The session is over; what is still looked at here stays until nobody does."""
        with self._lock:
            self._ended = self._ended or error
            arenas, self._arenas = self._arenas, []
            self._opened = self._closed = _nobody  # so that who holds the pool does not hold the session
        for arena in arenas:
            arena.close()

    def forked(self) -> None:
        """In a child, which has the arrays of its parent, but not its session."""
        arenas, self._arenas = self._arenas, []
        for arena in arenas:
            arena.close()

    def _sweep(self) -> None:
        while self._unseen:
            place = self._unseen.popleft()
            place.seen = False
            self._free(place)
        while self._given_back:
            place = self._given_back.popleft()
            place.lent -= 1
            self._free(place)

    def _free(self, place: Place) -> None:
        if not place.seen and not place.lent and not place.freed:
            place.freed = True
            place.arena.allocator.free(place.offset)

    def _placed(self, size_bytes: int) -> Place | None:
        for arena in self._arenas:
            offset = arena.allocator.take(size_bytes)
            if offset is not None:
                return Place(arena, offset, size_bytes)
        return None

    def _enlarged(self, size_bytes: int) -> Place:
        size = pages(max(rounded(size_bytes), self._small_bytes))
        shown = [(arena.size_bytes, arena.allocator.empty) for arena in self._arenas]
        closing = to_close(shown, size, self.quota)
        if closing is None and size > pages(rounded(size_bytes)):
            size = pages(rounded(size_bytes))
            closing = to_close(shown, size, self.quota)
        if closing is None:
            raise self._exceeded(size_bytes)
        for arena in [self._arenas[index] for index in closing]:
            self._close(arena)
        arena = self._open(size)
        offset = arena.allocator.take(size_bytes)
        assert offset is not None, "a new arena has room for what it was made for"  # noqa: S101
        return Place(arena, offset, size_bytes)

    def _open(self, size_bytes: int) -> Arena:
        chosen = settings.required()
        fd, mapped = self._created(size_bytes, self._folder or chosen.shared_memory_dir)
        self._number += 1
        arena = Arena(self._number, fd, mapped, Allocator(size_bytes))
        try:
            self._opened(arena)
        except BaseException:
            arena.close()
            raise
        self._arenas.append(arena)
        return arena

    def _created(self, size_bytes: int, folder: Path | None) -> tuple[int, mappings.Bytes]:
        """Gives empty arenas away where memory is short; it is there once the other side has let go of them, too."""
        try:
            return memory.create(size_bytes, folder)
        except InsufficientMemory:
            empty = [arena for arena in self._arenas if arena.allocator.empty]
            if not empty:
                raise
        for arena in empty:
            self._close(arena)
        ends_at = time.monotonic() + _LET_GO_WITHIN_S
        while True:
            try:
                return memory.create(size_bytes, folder)
            except InsufficientMemory:
                if time.monotonic() > ends_at:
                    raise
                time.sleep(_LET_GO_WITHIN_S / 100)

    def _close(self, arena: Arena) -> None:
        self._arenas.remove(arena)
        arena.close()
        self._closed(arena)

    def _exceeded(self, size_bytes: int) -> QuotaExceeded:
        used = sum(arena.allocator.taken_bytes for arena in self._arenas)
        return QuotaExceeded(
            f"{size_bytes} bytes more are above what the session may have: {used} of {self.quota.bytes} bytes are "
            f"taken, in {len(self._arenas)} of {self.quota.arenas} arenas",
            field="sharedMemory.sessionQuota",
            remedy="release tensors, send smaller ones, or allow more (spec.sharedMemory.sessionQuota)",
        )


def _nobody(_: Arena) -> None:
    """Nobody is to hear of it."""


def pages(size_bytes: int) -> int:
    """As whole pages."""
    return -(-size_bytes // mappings.PAGE_BYTES) * mappings.PAGE_BYTES


def to_close(arenas: Sequence[tuple[int, bool]], wanted_bytes: int, quota: Quota) -> list[int] | None:
    """Which arenas, of (size, whether it is empty), to close so that one more of that size may be; None: none help.

    The smallest first, and no more than needed.
    """
    used, closing = sum(size for size, _ in arenas), list[int]()
    empty = sorted((size, index) for index, (size, is_empty) in enumerate(arenas) if is_empty)
    while used + wanted_bytes > quota.bytes or len(arenas) - len(closing) >= quota.arenas:
        if not empty:
            return None
        size, index = empty.pop(0)
        used -= size
        closing.append(index)
    return closing
