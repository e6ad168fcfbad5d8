"""Which requests go through the engine together, and how long it is worth waiting for more of them.

Nothing here waits or knows a clock: the same decisions are taken in the router, for what it sends to a worker, and in
the worker, for what several routers and its own clients send.

A batch takes entries in the order in which they leave the queue and ends at the first that does not fit, so that none
overtakes another for its size. Less urgent ones ride along in slots that would stay free, but not behind CRITICAL: a
longer batch takes longer.
"""

import math
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from modelmora.scheduling.queueing import PriorityQueue, Queued
from modelmora.spec import Batching, Priority


class Weighed(Queued, Protocol):
    """What can go into a batch."""

    @property
    def tokens(self) -> int:
        """Of its longest text; 0: not known, or of no meaning for its model."""
        ...

    @property
    def size_bytes(self) -> int: ...

    @property
    def alone(self) -> bool:
        """It shares a batch with nobody: a worker ended while it had it, perhaps because of it."""
        ...


T = TypeVar("T", bound=Weighed)

_BURST_ENDS_AFTER: Final = 2.0  # usual gaps between arrivals without one: nothing more is coming


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How large a batch may be, and how long one may be waited for."""

    max_size: int = 1
    max_wait_s: float = 0.0
    max_tokens: int | None = None  # entries × the longest of them: what the engine computes, padding included
    max_bytes: int = 2**31

    @classmethod
    def of(cls, batching: Batching, *, max_bytes: int) -> "BatchLimits":
        """As a deployment says."""
        return cls(batching.max_size, batching.max_wait_milliseconds / 1e3, batching.max_tokens, max_bytes)


@dataclass(slots=True)
class Room:
    """What is left in a batch while it is filled."""

    limits: BatchLimits
    count: int = 0
    longest: int = 0
    size_bytes: int = 0

    @property
    def full(self) -> bool:
        return self.count >= self.limits.max_size

    def take(self, entry: Weighed) -> bool:
        """Whether the entry fits, and has been counted; the first always does."""
        longest, size_bytes = max(self.longest, entry.tokens), self.size_bytes + entry.size_bytes
        if self.count and (self.full or self._too_large(longest, size_bytes)):
            return False
        self.count, self.longest, self.size_bytes = self.count + 1, longest, size_bytes
        return True

    def _too_large(self, longest: int, size_bytes: int) -> bool:
        max_tokens = self.limits.max_tokens
        too_long = max_tokens is not None and (self.count + 1) * longest > max_tokens
        return too_long or size_bytes > self.limits.max_bytes


def form(queue: PriorityQueue[T], limits: BatchLimits, now: float) -> list[T]:
    """Takes the next batch out of the queue; empty if the queue is."""
    batch: list[T] = []
    room = Room(limits)
    while (entry := queue.head(now)) is not None and _may_ride(entry, batch) and room.take(entry):
        batch.append(entry)
        queue.pop(now)
    return batch


def _may_ride(entry: Weighed, batch: list[T]) -> bool:
    if not batch:
        return True
    apart = entry.alone or batch[0].alone
    return not apart and (batch[0].priority != Priority.CRITICAL or entry.priority == Priority.CRITICAL)


@dataclass(slots=True)
class Arrivals:
    """When entries come. Changed in place: this is on the way of every request."""

    last_at: float = -math.inf
    gap_s: float = math.inf  # usual time between two of late

    def note(self, now: float) -> None:
        """One more has come."""
        gap_s, self.last_at = max(0.0, now - self.last_at), now
        self.gap_s = gap_s if self.gap_s == math.inf else self.gap_s + (gap_s - self.gap_s) / 8


def wait_s(queue: PriorityQueue[T], limits: BatchLimits, arrivals: Arrivals, *, idle: bool, now: float) -> float:
    """How long to wait for more before the next batch is formed; 0: not at all.

    Nobody waits for a replica that is idle, for CRITICAL, for a batch that is full, or when nothing more is coming.
    """
    head = queue.head(now)
    if idle or head is None or head.priority == Priority.CRITICAL or len(queue) >= limits.max_size:
        return 0.0
    left_s = head.arrived_at + limits.max_wait_s - now
    more_until = arrivals.last_at + _BURST_ENDS_AFTER * arrivals.gap_s
    return max(0.0, min(left_s, more_until - now)) if arrivals.gap_s <= left_s else 0.0
