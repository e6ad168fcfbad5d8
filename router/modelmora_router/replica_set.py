"""The replicas of one lane: which of them may be sent a batch, and whether any is left that may."""

import math
from collections.abc import Iterator, Mapping

from modelmora.scheduling import BatchLimits
from modelmora.spec import Priority
from modelmora_router.breaker import BreakerState
from modelmora_router.outstanding import CAPACITY
from modelmora_router.replicas import Replica


class ReplicaSet:
    """By worker. Times are monotonic."""

    def __init__(self) -> None:
        self._replicas: dict[str, Replica] = {}

    def __iter__(self) -> Iterator[Replica]:
        return iter(self._replicas.values())

    def attach(self, replica: Replica) -> None:
        """From now on the replica may be sent batches."""
        self._replicas[replica.worker_id] = replica

    def detach(self, replica: Replica) -> None:
        """The replica has ended. Its place may already be that of another of the same worker."""
        if self._replicas.get(replica.worker_id) is replica:
            del self._replicas[replica.worker_id]

    @property
    def serving(self) -> int:
        """How many take requests."""
        return sum(replica.available for replica in self)

    def free_batches(self, now: float) -> int:
        """How many could be sent now; a worker that is not trusted counts for none."""
        trusted = (each for each in self if each.available and each.breaker(now) is BreakerState.CLOSED)
        return sum(max(0, CAPACITY - replica.batches) for replica in trusted)

    @property
    def trusted(self) -> bool:
        """Whether there is one to which a request that another lost may be sent."""
        return any(replica.available and replica.trusted_at is None for replica in self)

    def breakers(self, now: float) -> Mapping[str, BreakerState]:
        """By worker_id."""
        return {replica.worker_id: replica.breaker(now) for replica in self}

    def least_outstanding(
        self, priority: Priority, limits: BatchLimits, now: float
    ) -> tuple[Replica, BatchLimits] | None:
        """The replica that gets the next batch, led by that priority, and how large; None if none has room.

        Equals take turns.
        """
        rooms = ((replica, replica.room(priority, limits, now)) for replica in self)
        with_room = [(replica, room) for replica, room in rooms if room]
        return min(with_room, key=lambda pair: _burden(pair[0]), default=None)

    def silent_s(self, now: float) -> float | None:
        """If nothing is sent to any that is there, since all have failed so often: how long that lasts."""
        moments = [replica.trusted_at for replica in self if replica.available]
        until = [at for at in moments if at is not None and at > now]
        return min(until) - now if until and len(until) == len(moments) else None

    def next_room(self, limits: BatchLimits, now: float) -> float:
        """When one of them may have room by time alone."""
        return min((replica.next_room(limits, now) for replica in self), default=math.inf)


def _burden(replica: Replica) -> tuple[int, int, float]:
    return min(replica.batches, CAPACITY), replica.outstanding, replica.sent_at
