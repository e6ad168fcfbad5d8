"""What a worker has been given and has not answered, by the batches in which it was sent. No I/O.

One batch runs and one is staged, so that the engine never waits for the network. Who comes while both are there may
join the staged one, as long as it is not full: the worker forms its batches of whatever it has. Without that, callers
who ask again and again fall into three groups, of which each waits for the other two.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from modelmora.scheduling import BatchLimits
from modelmora.spec import Priority

CAPACITY: Final = 2  # batches: one runs, one is staged
JOIN_AFTER_S: Final = 0.005  # since the last message: an engine that is quicker is not worth another


@dataclass(slots=True, eq=False)
class _Batch:
    priority: Priority
    left: int
    size_bytes: int
    sent_at: float
    blamed: bool = False


class Outstanding:
    """Of one worker. A batch is over with its last entry, answered or cancelled. Times are monotonic."""

    __slots__ = ("_batch_of", "_batches", "critical", "sent_at")

    def __init__(self) -> None:
        self._batch_of: dict[int, _Batch] = {}
        self._batches: list[_Batch] = []  # in the order in which they were sent
        self.critical = 0  # of the batches
        self.sent_at = -math.inf  # the last of all

    def __contains__(self, entry_id: int) -> bool:
        return entry_id in self._batch_of

    @property
    def entries(self) -> int:
        return len(self._batch_of)

    @property
    def batches(self) -> int:
        return len(self._batches)

    def room(self, priority: Priority, limits: BatchLimits, now: float) -> BatchLimits | None:
        """How large a batch, led by that priority, may be sent now; None: none may.

        The worker runs the urgent first: CRITICAL need not wait for room.
        """
        if self.batches < CAPACITY or (priority == Priority.CRITICAL and not self.critical):
            return limits
        return self._left_in_staged(limits) if now >= self.sent_at + JOIN_AFTER_S else None

    def joins_at(self, limits: BatchLimits) -> float:
        """When the staged batch may be joined; never, if it is full."""
        return self.sent_at + JOIN_AFTER_S if self._left_in_staged(limits) else math.inf

    def _left_in_staged(self, limits: BatchLimits) -> BatchLimits | None:
        """All but the oldest batch is staged, or no longer so: then there is more room than this knows."""
        staged = list(islice(self._batches, 1, None))
        size = limits.max_size - sum(batch.left for batch in staged)
        size_bytes = limits.max_bytes - sum(batch.size_bytes for batch in staged)
        return replace(limits, max_size=size, max_bytes=size_bytes) if size > 0 and size_bytes > 0 else None

    def add(self, entry_ids: Iterable[int], priority: Priority, now: float, *, size_bytes: int = 0) -> None:
        """A batch was sent."""
        ids = list(entry_ids)
        batch = _Batch(priority, len(ids), size_bytes, now)
        self._batch_of.update(dict.fromkeys(ids, batch))
        self._batches.append(batch)
        self.critical += priority == Priority.CRITICAL
        self.sent_at = now

    def remove(self, entry_id: int) -> float | None:
        """An entry was answered or cancelled: when it had been sent; None: it was so before, or never sent."""
        batch = self._batch_of.pop(entry_id, None)
        if batch is None:
            return None
        batch.left -= 1
        if not batch.left:
            self._batches.remove(batch)
            self.critical -= batch.priority == Priority.CRITICAL
        return batch.sent_at

    def unblamed_since(self, entry_id: int) -> float | None:
        """When the batch of an entry was sent; None: it was blamed already, or is over."""
        batch = self._batch_of.get(entry_id)
        return None if batch is None or batch.blamed else batch.sent_at

    def blame(self, entry_id: int) -> None:
        """The worker's silence about the batch of an entry has been counted; that of its other entries is the same."""
        self._batch_of[entry_id].blamed = True

    def clear(self) -> list[int]:
        """Takes all entries, in the order in which they were sent."""
        entry_ids = list(self._batch_of)
        self._batch_of.clear()
        self._batches.clear()
        self.critical = 0
        return entry_ids
