"""What a worker has been given and has not answered, by the batches in which it was sent. No I/O."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from modelmora.spec import Priority

CAPACITY: Final = 2  # batches: one runs, one is staged, so that the engine never waits for the network


@dataclass(slots=True)
class _Batch:
    priority: Priority
    left: int
    sent_at: float
    blamed: bool = False


class Outstanding:
    """Of one worker. A batch is over with its last entry, answered or cancelled."""

    __slots__ = ("_batch_of", "batches", "critical")

    def __init__(self) -> None:
        self._batch_of: dict[int, _Batch] = {}
        self.batches = 0
        self.critical = 0  # of the batches

    def __contains__(self, entry_id: int) -> bool:
        return entry_id in self._batch_of

    @property
    def entries(self) -> int:
        return len(self._batch_of)

    def room_for(self, priority: Priority) -> bool:
        """Whether one more batch may be sent. The worker runs the urgent first: CRITICAL need not wait for room."""
        return self.batches < CAPACITY or (priority == Priority.CRITICAL and not self.critical)

    def add(self, entry_ids: Iterable[int], priority: Priority, now: float) -> None:
        """A batch was sent."""
        ids = list(entry_ids)
        batch = _Batch(priority, len(ids), now)
        self._batch_of.update(dict.fromkeys(ids, batch))
        self.batches += 1
        self.critical += priority == Priority.CRITICAL

    def remove(self, entry_id: int) -> float | None:
        """An entry was answered or cancelled: when it had been sent; None: it was so before, or never sent."""
        batch = self._batch_of.pop(entry_id, None)
        if batch is None:
            return None
        batch.left -= 1
        if not batch.left:
            self.batches -= 1
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
        self.batches = self.critical = 0
        return entry_ids
