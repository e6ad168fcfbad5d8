"""A request while it is in a lane, and what a lane shows of all of them."""

import asyncio
import math
from dataclasses import dataclass
from typing import Final

from modelmora.spec import Priority, Queue
from modelmora_router.calls import Answer, InferenceCall
from modelmora_router.queueing import Clock
from modelmora_router.replicas import Replica


@dataclass(slots=True, eq=False)
class Ticket:
    """A request in the lane. Its future is settled by the lane, or cancelled by the caller that waits for it."""

    call: InferenceCall
    entry_id: int
    priority: Priority
    clock: Clock
    future: asyncio.Future[Answer]
    sends: int = 0
    replica: Replica | None = None  # that has it; None while it waits


@dataclass(frozen=True, slots=True)
class LaneStatistics:
    """A lane at one moment."""

    queued: int
    running: int
    waiting_for_load: int
    serving: int  # replicas that take requests
    last_used_at: float | None  # Unix time

    @property
    def outstanding(self) -> int:
        return self.queued + self.running + self.waiting_for_load


UNUSED: Final = LaneStatistics(queued=0, running=0, waiting_for_load=0, serving=0, last_used_at=None)


def ticket_for(call: InferenceCall, queue: Queue, *, entry_id: int, awake: bool) -> Ticket:
    """The ticket of a call: what the caller left open, the deployment's queue decides."""
    clock = Clock(
        awake=awake,
        since=call.received_at,
        awake_left_s=queue.timeout_seconds if call.timeout_s is None else call.timeout_s,
        asleep_left_s=queue.cold_start_timeout_seconds,
        deadline=math.inf if call.deadline is None else call.deadline,
    )
    priority = Priority[queue.default_priority] if call.priority is None else call.priority
    return Ticket(call, entry_id, priority, clock, asyncio.get_running_loop().create_future())
