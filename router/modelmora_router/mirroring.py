"""Copies of requests for the mirror of a route; of whatever becomes of them, the caller of the request hears nothing.

A copy is LOW, so that the mirror's own callers go first and a full queue drops it first. Only so many of them are under
way for one mirror, and all of them hold only so many bytes, which are not those of callers: one more is dropped, not
queued.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, replace

import structlog

from modelmora.errors import MemoryFull, ModelMoraError
from modelmora.spec import Priority
from modelmora_router.calls import InferenceCall
from modelmora_router.catalog import key_of
from modelmora_router.held_bytes import HeldBytes
from modelmora_router.lane import Lane
from modelmora_router.metrics import ModelMeters

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class MirrorStatistics:
    """Of all copies since the start."""

    under_way: int
    answered: int
    failed: int
    dropped: int


class Mirroring:
    """Owns the copies, and what `held` counts."""

    def __init__(self, held: HeldBytes, *, limit: int) -> None:
        self._held = held
        self._limit = limit
        self._under_way: Counter[str] = Counter()  # by mirror
        self._tasks: set[asyncio.Task[None]] = set()
        self._answered = self._failed = self._dropped = 0
        self._closed = False

    def statistics(self) -> MirrorStatistics:
        return MirrorStatistics(len(self._tasks), self._answered, self._failed, self._dropped)

    def copy(self, call: InferenceCall, lane: Lane, meters: ModelMeters) -> None:
        """Sends a copy there, or drops it; returns at once and raises nothing."""
        mirror = str(key_of(lane.deployment))
        if self._closed or self._under_way[mirror] >= self._limit:
            self._dropped += 1
            meters.copied("Closing" if self._closed else "TooMany")
            return
        self._under_way[mirror] += 1
        task = asyncio.create_task(self._send(copy_of(call), lane, meters, mirror), name=f"copy for {mirror}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Drops those that are under way and takes no more: nobody waits for them."""
        self._closed = True
        for task in self._tasks:
            task.cancel()

    async def _send(self, call: InferenceCall, lane: Lane, meters: ModelMeters, mirror: str) -> None:
        try:
            with self._held.hold(call.size_bytes, Priority.CRITICAL):  # among themselves copies are equal
                await lane.infer(call)
            self._answered += 1
            meters.copied("Answered")
        except MemoryFull:
            self._dropped += 1
            meters.copied("HeldBytes")
        except ModelMoraError as error:
            self._failed += 1
            meters.copied("Failed")
            log.debug("copy failed", mirror=mirror, request_id=call.request_id, code=error.code, why=error.message)
        except Exception:  # the task's top: nobody else hears of it
            self._failed += 1
            meters.copied("Failed")
            log.exception("copy failed", mirror=mirror, request_id=call.request_id)
        finally:
            self._under_way[mirror] -= 1
            if not self._under_way[mirror]:
                del self._under_way[mirror]


def copy_of(call: InferenceCall) -> InferenceCall:
    """The same request, least urgent, for which nobody waits: its time is the mirror's own. It is never sent twice."""
    return replace(call, priority=Priority.LOW, timeout_s=None, deadline=None, idempotent=False)
