"""The arenas of the other side of a session: opened once each, and looked at where a handle says."""

import os
import threading
from dataclasses import dataclass

from modelmora.errors import InvalidRequest, QuotaExceeded
from modelmora.tensors import layouts, memory
from modelmora.tensors.layouts import Layout
from modelmora.tensors.pool import Quota
from modelmora.v1.types_pb2 import Tensor


@dataclass(eq=False, slots=True)
class _Arena:
    fd: int
    bytes: memory.Bytes
    writable: memory.Bytes | None = None

    @property
    def size_bytes(self) -> int:
        return len(self.bytes)


class ForeignArenas:
    """Used by any number of threads. A quota bounds them, whatever the other side counts itself."""

    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        self._arenas: dict[int, _Arena] = {}
        self._highest = 0
        self._lock = threading.Lock()

    @property
    def size_bytes(self) -> int:
        return sum(arena.size_bytes for arena in list(self._arenas.values()))

    def open(self, number: int, size_bytes: int, fd: int) -> None:
        """Takes the descriptor, also where it refuses.

        Raises:
            QuotaExceeded: with it the session would have too much.
            InvalidRequest: the number was used before, or the file is not what it is said to be.
        """
        try:
            self._admit(number, size_bytes)
            memory.check(fd, size_bytes)
            arena = _Arena(fd, memory.foreign(fd, size_bytes))
        except BaseException:
            os.close(fd)
            raise
        with self._lock:
            self._arenas[number] = arena
            self._highest = number

    def _admit(self, number: int, size_bytes: int) -> None:
        if number <= self._highest:
            raise InvalidRequest(
                f"the arena {number} is not new", field="arena", remedy="count the arenas of a session from 1 upwards"
            )
        if not size_bytes:
            raise InvalidRequest(f"the arena {number} is empty", field="sizeBytes", remedy="open arenas with bytes")
        if self.size_bytes + size_bytes > self._quota.bytes or len(self._arenas) >= self._quota.arenas:
            raise QuotaExceeded(
                f"an arena of {size_bytes} bytes is above what the session may have: {self.size_bytes} of "
                f"{self._quota.bytes} bytes are open, in {len(self._arenas)} of {self._quota.arenas} arenas",
                field="sharedMemory.sessionQuota",
                remedy="close arenas, or allow more (spec.sharedMemory.sessionQuota)",
            )

    def close(self, number: int) -> None:
        """Forgets it; its memory stays as long as an array looks at it."""
        with self._lock:
            arena = self._arenas.pop(number, None)
        if arena:
            os.close(arena.fd)

    def end(self) -> None:
        """The session is over."""
        for number in list(self._arenas):
            self.close(number)

    def find(self, tensor: Tensor, *, field: str) -> tuple[memory.Bytes, Layout]:
        """The arena that a handle names, and how the tensor lies in it.

        Raises:
            InvalidRequest: no such arena is open, or the handle reaches out of it.
        """
        arena = self._find(tensor.region.arena, f"{field}.region.arena")
        return arena.bytes, layouts.from_message(tensor, arena.size_bytes, field=field)

    def room(self, number: int, offset: int, size_bytes: int) -> memory.Bytes:
        """Where the other side asks to be written to.

        Raises:
            InvalidRequest: that is in no arena of it.
        """
        arena = self._find(number, "sharedMemory.resultsArena")
        if offset + size_bytes > arena.size_bytes:
            raise InvalidRequest(
                f"the place for results reaches to byte {offset + size_bytes} of an arena of {arena.size_bytes}",
                field="sharedMemory.resultsOffset",
                remedy="send handles as the client SDK makes them",
            )
        with self._lock:
            if arena.writable is None:
                arena.writable = memory.shared(arena.fd, arena.size_bytes)
        return arena.writable[offset : offset + size_bytes]

    def _find(self, number: int, field: str) -> _Arena:
        arena = self._arenas.get(number)
        if arena is None:
            raise InvalidRequest(
                f"no arena {number} is open in this session", field=field, remedy="open it before you send its tensors"
            )
        return arena
