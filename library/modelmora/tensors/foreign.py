"""The arenas of the other side of a session: opened once each, and looked at where a handle says.

They are mapped so that who writes gets a copy of the page, which the other side never sees. Such a copy would hide what
the other side writes there later: so pages with copies are given back when nobody looks at them any more, and a new
look at them while somebody does gets a mapping of its own.
"""

import os
import threading
import weakref
from dataclasses import dataclass

from modelmora.errors import InvalidRequest, QuotaExceeded
from modelmora.tensors import layouts, mappings, memory
from modelmora.tensors.layouts import Layout
from modelmora.tensors.mappings import PAGE_BYTES, Bytes
from modelmora.tensors.pool import Quota
from modelmora.v1.types_pb2 import Tensor


@dataclass(eq=False, slots=True)
class Sight:
    """Some bytes of a mapping, at which somebody looks."""

    bytes: Bytes
    begin: int
    end: int

    def meets(self, mapped: Bytes, begin: int, end: int) -> bool:
        """Whether it has a page in common with other bytes."""
        first, last = self.begin // PAGE_BYTES, -(-self.end // PAGE_BYTES)
        return self.bytes is mapped and first * PAGE_BYTES < end and begin < last * PAGE_BYTES


@dataclass(eq=False, slots=True)
class _Arena:
    fd: int
    bytes: Bytes
    writable: Bytes | None = None

    @property
    def size_bytes(self) -> int:
        return len(self.bytes)


class ForeignArenas:
    """Used by any number of threads. A quota bounds them, whatever the other side counts itself.

    Memory of a closed arena counts as long as somebody looks at it.
    """

    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        self._arenas: dict[int, _Arena] = {}
        self._closed: list[weakref.ref[Bytes]] = []
        self._sights: list[Sight] = []
        self._highest = 0
        self._lock = threading.Lock()

    @property
    def size_bytes(self) -> int:
        return sum(self._sizes())

    def _sizes(self) -> list[int]:
        with self._lock:
            self._closed = [closed for closed in self._closed if closed() is not None]
            looked_at = [found for closed in self._closed if (found := closed()) is not None]
            return [len(found) for found in looked_at] + [arena.size_bytes for arena in self._arenas.values()]

    def open(self, number: int, size_bytes: int, fd: int) -> None:
        """Takes the descriptor, also where it refuses.

        Raises:
            QuotaExceeded: with it the session would have too much.
            InvalidRequest: the number was used before, or the file is not what it is said to be.
        """
        try:
            self._admit(number, size_bytes)
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
        used = self._sizes()
        if sum(used) + size_bytes > self._quota.bytes or len(used) >= self._quota.arenas:
            raise QuotaExceeded(
                f"an arena of {size_bytes} bytes is above what the session may have: {sum(used)} of "
                f"{self._quota.bytes} bytes are open, in {len(used)} of {self._quota.arenas} arenas",
                field="sharedMemory.sessionQuota",
                remedy="close arenas, or allow more (spec.sharedMemory.sessionQuota)",
            )

    def close(self, number: int) -> None:
        """Forgets it; its memory stays as long as an array looks at it."""
        with self._lock:
            arena = self._arenas.pop(number, None)
            if arena:
                os.close(arena.fd)
                mapped = (arena.bytes, arena.writable)
                self._closed += [weakref.ref(each) for each in mapped if each is not None]

    def end(self) -> None:
        """The session is over."""
        for number in list(self._arenas):
            self.close(number)
        with self._lock:
            self._sights.clear()

    def forked(self) -> None:
        """In a child, which has the arrays of its parent, but not its session."""
        arenas, self._arenas = self._arenas, {}
        for arena in arenas.values():
            os.close(arena.fd)

    # ------------------------------------------------------------------------------------------------ looks

    def look(self, tensor: Tensor, *, field: str) -> tuple[Sight, Layout]:
        """What a handle names, until `leave`, and how the tensor lies in the arena.

        Raises:
            InvalidRequest: no such arena is open, or the handle reaches out of it.
        """
        with self._lock:
            arena = self._find(tensor.region.arena, f"{field}.region.arena")
            layout = layouts.from_message(tensor, arena.size_bytes, field=field)
            begin, end = tensor.region.offset, tensor.region.offset + layout.extent_bytes
            self._see_anew(arena, begin, end)
            sight = Sight(arena.bytes, begin, end)
            self._sights.append(sight)
            return sight, layout

    def _see_anew(self, arena: _Arena, begin: int, end: int) -> None:
        """A mapping of its own, if somebody looks at these pages and has written copies of them."""
        met = any(sight.meets(arena.bytes, begin, end) for sight in self._sights)
        if met and mappings.written(arena.bytes, begin, end):
            self._closed.append(weakref.ref(arena.bytes))
            arena.bytes = memory.foreign(arena.fd, arena.size_bytes)

    def leave(self, sight: Sight) -> None:
        """Nobody looks there any more."""
        with self._lock:
            if sight not in self._sights:  # the session is over
                return
            self._sights.remove(sight)
            if not any(other.meets(sight.bytes, sight.begin, sight.end) for other in self._sights):
                mappings.restore(sight.bytes, sight.begin, sight.end)

    def room(self, number: int, offset: int, size_bytes: int) -> Bytes:
        """Where the other side asks to be written to.

        Raises:
            InvalidRequest: that is in no arena of it.
        """
        with self._lock:  # until it is mapped: another file may get the number of a descriptor that is closed
            arena = self._find(number, "sharedMemory.resultsArena")
            if offset + size_bytes > arena.size_bytes:
                raise InvalidRequest(
                    f"the place for results reaches to byte {offset + size_bytes} of an arena of {arena.size_bytes}",
                    field="sharedMemory.resultsOffset",
                    remedy="send handles as the client SDK makes them",
                )
            if arena.writable is None:
                arena.writable = memory.writable(arena.fd, arena.size_bytes)
            return arena.writable[offset : offset + size_bytes]

    def _find(self, number: int, field: str) -> _Arena:
        arena = self._arenas.get(number)
        if arena is None:
            raise InvalidRequest(
                f"no arena {number} is open in this session", field=field, remedy="open it before you send its tensors"
            )
        return arena
