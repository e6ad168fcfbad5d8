"""When the time of a request is over. No I/O; times are passed in.

A request has two budgets of time, and at each moment one of them runs: `asleep_left_s` while its model has no worker to
go to, `awake_left_s` while it has. Both only ever shrink, so a model that comes and goes cannot hold a request for
ever. The caller's own deadline ends it in any case.
"""

import heapq
import math
from dataclasses import dataclass
from enum import Enum


class Deadlines:
    """At most one moment for each id, and the ids whose moment has come.

    A heap with the truth beside it: an id that was removed or moved stays in the heap until it comes up, or until the
    stale ones outnumber the others.
    """

    def __init__(self) -> None:
        self._at: dict[int, float] = {}
        self._heap: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._at)

    def set(self, entry_id: int, at: float) -> None:
        """Sets or moves the moment of an id."""
        self._at[entry_id] = at
        heapq.heappush(self._heap, (at, entry_id))
        if len(self._heap) > 64 + 2 * len(self._at):
            self._heap = [(at, entry_id) for entry_id, at in self._at.items()]
            heapq.heapify(self._heap)

    def remove(self, entry_id: int) -> None:
        """Forgets an id; it need not be known."""
        self._at.pop(entry_id, None)

    def next_at(self) -> float | None:
        """The earliest moment; None if there is none."""
        while self._heap and self._at.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> list[int]:
        """Takes the ids whose moment has come, earliest first."""
        due: list[int] = []
        while (at := self.next_at()) is not None and at <= now:
            entry_id = heapq.heappop(self._heap)[1]
            del self._at[entry_id]
            due.append(entry_id)
        return due


class Ending(Enum):
    """What ended a request's time."""

    CALLER = "the caller's own deadline"
    AWAKE = "timeoutSeconds"
    ASLEEP = "coldStartTimeoutSeconds"


@dataclass(frozen=True, slots=True)
class Clock:
    """A request's time as of the last moment at which its model woke or fell asleep."""

    awake: bool
    since: float
    awake_left_s: float
    asleep_left_s: float
    deadline: float = math.inf  # the caller's own

    @property
    def ends_at(self) -> float:
        """When the request's time is over, if nothing changes."""
        left_s = self.awake_left_s if self.awake else self.asleep_left_s
        return min(self.deadline, self.since + left_s)

    @property
    def ending(self) -> Ending:
        """What will then have ended it."""
        if self.deadline <= self.ends_at:
            return Ending.CALLER
        return Ending.AWAKE if self.awake else Ending.ASLEEP

    def turned(self, *, awake: bool, now: float) -> "Clock":
        """The clock after the model woke or fell asleep at `now`."""
        if awake == self.awake:
            return self
        spent_s = max(0.0, now - self.since)
        return Clock(
            awake=awake,
            since=now,
            awake_left_s=self.awake_left_s - (spent_s if self.awake else 0.0),
            asleep_left_s=self.asleep_left_s - (0.0 if self.awake else spent_s),
            deadline=self.deadline,
        )
