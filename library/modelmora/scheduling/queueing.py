"""The order in which requests leave a queue. No I/O; times are passed in.

One first-in-first-out line for each priority; the head of the most urgent line that is not empty is next. With ageing,
an entry counts as one level more urgent for each `ageing_s` that it has waited, but never as CRITICAL: those wait for
nobody else. Of heads that count alike, the older goes first. Every entry can leave from the middle in constant time, so
that a caller who hangs up leaves nothing behind.
"""

import math
from collections import OrderedDict
from itertools import takewhile
from typing import Final, Generic, Protocol, TypeVar

from modelmora.spec import Priority


class Queued(Protocol):
    """What can wait in a queue."""

    @property
    def entry_id(self) -> int:
        """Unique in the queue, and growing: of two, the smaller came first."""
        ...

    @property
    def priority(self) -> Priority: ...

    @property
    def arrived_at(self) -> float:
        """When it began to wait, by the clock of whoever asks the queue."""
        ...


T = TypeVar("T", bound=Queued)

_CRITICAL: Final = Priority.CRITICAL
_MOST_AGED: Final = Priority.HIGH


class PriorityQueue(Generic[T]):
    """Strict priority, first in first out inside a level."""

    __slots__ = ("_ageing_s", "_length", "_lines")

    def __init__(self, *, ageing_s: float = math.inf) -> None:
        self._ageing_s = ageing_s
        # By priority, of which the numbers are small: 0 is unused.
        self._lines: list[OrderedDict[int, T]] = [OrderedDict() for _ in range(max(Priority) + 1)]
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def push(self, entry: T) -> None:
        """Puts the entry at the end of its line."""
        self._lines[entry.priority][entry.entry_id] = entry
        self._length += 1

    def push_front(self, entry: T) -> None:
        """Puts the entry back to the front of its line, behind older ones: it had left, and was not worked on."""
        line = self._lines[entry.priority]
        older = list(takewhile(lambda other: other < entry.entry_id, line))
        line[entry.entry_id] = entry
        for each in (entry.entry_id, *reversed(older)):
            line.move_to_end(each, last=False)
        self._length += 1

    def head(self, now: float) -> T | None:
        """The entry that is next; None if there is none."""
        line = self._next_line(now)
        return next(iter(line.values())) if line else None

    def pop(self, now: float) -> T | None:
        """Takes the entry that is next; None if there is none."""
        line = self._next_line(now)
        if not line:
            return None
        self._length -= 1
        return line.popitem(last=False)[1]

    def pop_last(self, *, less_urgent_than: Priority) -> T | None:
        """Takes the newest of the least urgent entries, if it is less urgent than that: who has waited least."""
        for priority in range(len(self._lines) - 1, less_urgent_than, -1):
            if line := self._lines[priority]:
                self._length -= 1
                return line.popitem()[1]
        return None

    def remove(self, entry: T) -> bool:
        """Takes this entry out of its line; False if it is not in it."""
        if self._lines[entry.priority].pop(entry.entry_id, None) is None:
            return False
        self._length -= 1
        return True

    def entries(self) -> list[T]:
        """All entries, the most urgent lines first, the oldest first in each."""
        return [entry for line in self._lines for entry in line.values()]

    def lengths(self) -> dict[Priority, int]:
        """How many entries wait in each line."""
        return {priority: len(self._lines[priority]) for priority in Priority}

    def _next_line(self, now: float) -> OrderedDict[int, T] | None:
        waiting = [line for line in self._lines if line]
        if len(waiting) < 2 or self._lines[_CRITICAL] or self._ageing_s == math.inf:  # noqa: PLR2004 - nobody competes
            return waiting[0] if waiting else None
        return min(waiting, key=lambda line: self._urgency(next(iter(line.values())), now))

    def _urgency(self, entry: T, now: float) -> tuple[int, int]:
        levels = int(max(0.0, now - entry.arrived_at) / self._ageing_s)
        return max(entry.priority - levels, _MOST_AGED), entry.entry_id
