"""A request while it is in a lane, and what a lane shows of all of them."""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from modelmora.spec import ModelDeployment, Priority
from modelmora.v1 import worker_pb2
from modelmora.v1.types_pb2 import Value
from modelmora_router.breaker import BreakerState
from modelmora_router.calls import Answer, InferenceCall
from modelmora_router.deadlines import Clock, Ending
from modelmora_router.replicas import Replica

_BYTES_A_TOKEN: Final = 4  # about; the engine knows it exactly, and cuts a batch that turns out too large


@dataclass(slots=True, eq=False)
class Ticket:
    """A request in the lane. Its future is settled by the lane, or cancelled by the caller that waits for it."""

    call: InferenceCall
    entry_id: int
    priority: Priority
    clock: Clock
    timeout_s: float  # once its model serves; the caller's, or the deployment's default
    future: asyncio.Future[Answer]
    tokens: int = 0
    sends: int = 0
    losses: int = 0  # workers that ended with it
    replica: Replica | None = None  # that has it; None while it waits

    @property
    def arrived_at(self) -> float:
        return self.call.received_at

    @property
    def size_bytes(self) -> int:
        return self.call.size_bytes

    @property
    def alone(self) -> bool:
        """It may be what ended a worker."""
        return self.losses > 0

    @property
    def allowed_s(self) -> float:
        """All the time that it has, by what will end it."""
        by_caller = self.clock.ending is Ending.CALLER
        return self.clock.deadline - self.arrived_at if by_caller else self.timeout_s

    def sent(self, replica: Replica) -> None:
        """This replica has it from now on."""
        self.replica = replica
        self.sends += 1

    def add_to(self, batch: worker_pb2.Batch) -> None:
        """Its message, made where it is to be: one that is put into another is written out and read again."""
        call = self.call
        batch.entries.add(
            entry_id=self.entry_id,
            request=call.payload.data,
            request_id=call.request_id,
            priority=int(self.priority),
            traceparent=call.traceparent,
            alone=self.alone,
        )


@dataclass(frozen=True, slots=True)
class LaneStatistics:
    """A lane at one moment."""

    queued: int
    running: int
    waiting_for_load: int
    serving: int  # replicas that take requests
    last_used_at: float | None  # Unix time
    queued_by_priority: Mapping[Priority, int] = field(default_factory=dict)
    breakers: Mapping[str, BreakerState] = field(default_factory=dict)  # by worker_id

    @property
    def outstanding(self) -> int:
        return self.queued + self.running + self.waiting_for_load


UNUSED: Final = LaneStatistics(queued=0, running=0, waiting_for_load=0, serving=0, last_used_at=None)


def ticket_for(call: InferenceCall, deployment: ModelDeployment, *, entry_id: int, awake: bool) -> Ticket:
    """The ticket of a call: what the caller left open, the deployment's queue decides."""
    queue = deployment.spec.queue
    timeout_s = queue.timeout_seconds if call.timeout_s is None else call.timeout_s
    clock = Clock(
        awake=awake,
        since=call.received_at,
        awake_left_s=timeout_s,
        asleep_left_s=queue.cold_start_timeout_seconds,
        deadline=math.inf if call.deadline is None else call.deadline,
    )
    priority = Priority[queue.default_priority] if call.priority is None else call.priority
    tokens = estimated_tokens(call.payload.message().input) if deployment.spec.batching.max_tokens is not None else 0
    call.payload.checked()
    return Ticket(call, entry_id, priority, clock, timeout_s, asyncio.get_running_loop().create_future(), tokens)


def estimated_tokens(values: Mapping[str, Value]) -> int:
    """About how many tokens the texts of a request are, padding included: their number × the longest of them."""
    texts = [text for value in values.values() if value.HasField("text") for text in value.text.items]
    return len(texts) * (max(map(len, texts)) // _BYTES_A_TOKEN + 1) if texts else 0
