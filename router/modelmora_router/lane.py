"""One model's lane: every request for it passes here, and one task owns it.

A request enters as a ticket. It waits in the queue until a replica has room, goes out in a batch, and comes back as a
result that settles the ticket. Whatever happens to it (an answer, a failure, its time is over, its caller left, a more
urgent one took its place, the model cannot be loaded) settles the ticket exactly once, and a settled ticket is nowhere
in the lane any more.

Submitting, results and changes only change the state and wake the task; the task expires and dispatches. So everything
that arrived in one turn of the event loop is ordered before anything is sent.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from modelmora.errors import (
    InferenceFailed,
    InternalError,
    ModelMoraError,
    QueueFull,
    ServerUnavailable,
    WorkerUnavailable,
)
from modelmora.scheduling import Arrivals, BatchLimits, form, wait_s
from modelmora.spec import ModelDeployment, Priority
from modelmora.v1 import worker_pb2
from modelmora.wire.status import from_rpc
from modelmora_router import refusals
from modelmora_router.alarm import Alarm
from modelmora_router.calls import Answer, InferenceCall, is_output
from modelmora_router.lane_log import LaneLog
from modelmora_router.ledger import Ledger
from modelmora_router.metrics import ModelMeters
from modelmora_router.replica_set import ReplicaSet
from modelmora_router.replicas import Replica
from modelmora_router.retries import given_back_too_often, later
from modelmora_router.settings import RouterSettings
from modelmora_router.tickets import LaneStatistics, Ticket, ticket_for

log = structlog.get_logger(__name__)

_TURNS: Final = 8
_SOONER_S: Final = 0.05


class Lane:
    """The lane of one deployment."""

    def __init__(
        self,
        deployment: ModelDeployment,
        settings: RouterSettings,
        meters: ModelMeters,
        *,
        now: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._deployment = deployment
        self._settings = settings
        self._meters = meters
        self._now = now
        self._limits = self._limits_of(deployment)
        self._ledger = Ledger(ageing_s=settings.ageing_s, chance=chance)
        self._arrivals = Arrivals()
        self._replicas = ReplicaSet()
        self._serving = 0
        self._awake = False
        self._closed: ModelMoraError | None = None
        self._waiting_for_load = 0
        self._last_used_at: float | None = None
        self._log = LaneLog()
        self._look_at = math.inf  # when the next batch may be due by time alone
        self._wake = asyncio.Event()
        self._state_changed = asyncio.Event()
        self._alarm = Alarm(self._wake.set)

    @property
    def deployment(self) -> ModelDeployment:
        return self._deployment

    @property
    def busy(self) -> bool:
        """Whether requests wait or run."""
        return len(self._ledger) > 0

    @property
    def urgency(self) -> int:
        """The most urgent priority among the requests that wait or run, or of a load that is waited for; 0: none."""
        of_load = Priority[self._deployment.spec.queue.default_priority] if self._waiting_for_load else 0
        return min(filter(None, (self._ledger.urgency, of_load)), default=0)

    def statistics(self) -> LaneStatistics:
        queued = self._ledger.queued
        return LaneStatistics(
            queued=queued,
            running=len(self._ledger) - queued,
            waiting_for_load=self._waiting_for_load,
            serving=self._replicas.serving,
            last_used_at=self._last_used_at,
            queued_by_priority=self._ledger.queue.lengths(),
            breakers=self._replicas.breakers(self._now()),
        )

    def _limits_of(self, deployment: ModelDeployment) -> BatchLimits:
        return BatchLimits.of(deployment.spec.batching, max_bytes=self._settings.max_request_bytes)

    # ------------------------------------------------------------------------------------------------ for callers

    async def infer(self, call: InferenceCall) -> Answer:
        """The answer to a call, which waits here for its turn; cancelling the wait withdraws the call.

        Raises:
            ModelMoraError: why there is none.
        """
        ticket = self._admit(call)
        try:
            return await ticket.future
        except asyncio.CancelledError:
            self._withdraw(ticket)
            self._wake.set()
            if ticket.future.done() and not ticket.future.cancelled():
                ticket.future.exception()  # it came too late; asked for, so that nobody logs it as lost
            raise

    async def until_serving(self) -> None:
        """Returns once a replica serves.

        Raises:
            ModelUnhealthy, ModelSuspended: that will not be.
            ColdStartTimeout: not within queue.coldStartTimeoutSeconds.
        """
        self._used()
        self._waiting_for_load += 1
        try:
            async with asyncio.timeout(self._deployment.spec.queue.cold_start_timeout_seconds):
                while True:
                    self._refuse()
                    if self._awake:
                        return
                    await self._state_changed.wait()
        except TimeoutError:
            raise refusals.cold_start_timeout(self._deployment, retry_after_s=self._settings.retry_after_s) from None
        finally:
            self._waiting_for_load -= 1

    def _admit(self, call: InferenceCall) -> Ticket:
        self._used()
        self._refuse()
        ticket = ticket_for(call, self._deployment, entry_id=self._ledger.next_id(), awake=self._awake)
        self._make_place(ticket)
        self._ledger.add(ticket)
        self._ledger.retrying.earned()
        self._arrivals.note(call.received_at)
        self._log.queued(self._deployment.model_id, ticket)
        self._wake.set()
        return ticket

    def _make_place(self, ticket: Ticket) -> None:
        """In a queue that is full, a more urgent request takes the place of the newest of the least urgent."""
        waiting, most = len(self._ledger.queue), self._deployment.spec.queue.max_length
        self._log.filling(self._deployment.model_id, waiting, most, ticket.arrived_at)
        if waiting < most or waiting - most < self._replicas.free_batches(self._now()) * self._limits.max_size:
            return
        victim = self._ledger.queue.pop_last(less_urgent_than=ticket.priority)
        if victim is None:
            self._meters.shed("QueueFull")
            raise refusals.queue_full(self._deployment)
        self._meters.shed("Displaced")
        self._fail(victim, refusals.displaced(self._deployment))

    def _used(self) -> None:
        self._last_used_at = time.time()

    def _refuse(self) -> None:
        if refusal := self._find_refusal():
            raise refusal

    def _find_refusal(self) -> ModelMoraError | None:
        """A new one each time: its traceback is the request's own, and the time to wait goes down."""
        if self._closed:
            return self._closed.located()
        refusal = refusals.refusal(
            self._deployment, serving=self._awake, now=time.time(), retry_after_s=self._settings.retry_after_s
        )
        silent_s = self._replicas.silent_s(self._now())
        if refusal or silent_s is None:
            return refusal
        return refusals.unresponsive(self._deployment, retry_after_s=silent_s)

    # ------------------------------------------------------------------------------------------------ for the control

    def update(self, deployment: ModelDeployment) -> None:
        """The deployment or its status changed."""
        self._deployment = deployment
        self._limits = self._limits_of(deployment)
        self._announce()

    def attach(self, replica: Replica) -> None:
        """From now on the replica may be sent entries."""
        self._replicas.attach(replica)
        self.changed()

    def detach(self, replica: Replica) -> None:
        """The replica has ended."""
        self._replicas.detach(replica)
        self.changed()

    async def until_empty(self) -> None:
        """Returns once nothing waits or runs."""
        while tickets := self._ledger.all():
            await asyncio.wait([ticket.future for ticket in tickets])

    def close(self, error: ModelMoraError) -> None:
        """From now on the lane refuses with this error, those that are in it first; the first such error stays."""
        self._closed = self._closed or error
        self._settle_all(error)
        self._announce()

    def _settle_all(self, error: ModelMoraError) -> None:
        for ticket in self._ledger.all():
            self._fail(ticket, error)

    # ------------------------------------------------------------------------------------------------ for replicas

    def finished(self, result: worker_pb2.EntryResult) -> None:
        if result.batch_size and not result.batch_index:
            self._meters.ran(size=result.batch_size, limit=self._limits.max_size)
        ticket = self._ledger.find(result.entry_id)
        if ticket is None:
            return
        match result.WhichOneof("kind"):
            case "error":
                self._refused(ticket, from_rpc(result.error), begun=result.inference_ms > 0)
            case "output" if is_output(result.output):
                self._settle(ticket, result)
            case _:
                self._fail(ticket, InferenceFailed("the worker answered with no output", remedy="see its log"))
        self._wake.set()

    def returned(self, entry_ids: Iterable[int]) -> None:
        gone = WorkerUnavailable(
            "the worker ended before it worked on the request", remedy="send the request again", retry_after_s=1.0
        )
        for entry_id in entry_ids:
            if ticket := self._ledger.find(entry_id):
                self._requeue(ticket, gone)
        self._wake.set()

    def lost(self, entry_ids: Iterable[int], error: ModelMoraError) -> None:
        for entry_id in entry_ids:
            if ticket := self._ledger.find(entry_id):
                self._retry(ticket, error)
        self._wake.set()

    def changed(self) -> None:
        self._count_loads()
        awake = self._serving > 0
        if awake != self._awake:
            self._awake = awake
            self._turn(self._now())
        self._announce()

    def _count_loads(self) -> None:
        before, self._serving = self._serving, self._replicas.serving
        for _ in range(before, self._serving):
            self._meters.loaded()
        for _ in range(self._serving, before):
            self._meters.unloaded()

    def _turn(self, now: float) -> None:
        for ticket in self._ledger.waiting() if self._awake else ():
            self._meters.held(now - ticket.clock.since)
        self._ledger.turn(awake=self._awake, now=now)

    def _announce(self) -> None:
        changed, self._state_changed = self._state_changed, asyncio.Event()
        changed.set()
        self._wake.set()

    # ------------------------------------------------------------------------------------------------ the task

    async def run(self) -> None:
        """Owns the lane until cancelled; whatever is then left is told that the server ends."""
        try:
            while True:
                self._wake.clear()
                await self._gather()
                self._step()
                await self._wake.wait()
        finally:
            self._alarm.cancel()
            self.close(ServerUnavailable("the server ended before the request was answered", retry_after_s=1.0))

    async def _gather(self) -> None:
        """While many ask at once, each turn of the event loop brings more: what came in a few of them goes together.

        A turn takes no time of its own. A caller who is alone does not wait even for that.
        """
        for _ in range(_TURNS if len(self._ledger.queue) > 1 else 0):
            before = len(self._ledger.queue)
            await asyncio.sleep(0)
            if len(self._ledger.queue) <= before:
                return

    def _step(self) -> None:
        try:
            now = self._now()
            self._expire(now)
            self._release_held()
            self._ledger.unpark(now)
            self._dispatch(now)
            self._alarm.set(min(self._ledger.next_at(), self._look_at), now)
        except Exception as error:  # the task's top: one bug must not end the lane
            log.exception("lane failed", model=self._deployment.model_id)
            wrapped = InternalError("the router failed on this request", remedy="see its log, and report it")
            wrapped.__cause__ = error
            self._settle_all(wrapped)

    def _expire(self, now: float) -> None:
        for ticket in self._ledger.overdue(now):
            if ticket.replica:
                ticket.replica.gave_no_answer(ticket.entry_id, overdue=True)
            else:
                self._meters.shed("Expired")
            self._fail(ticket, self._overdue(ticket))

    def _release_held(self) -> None:
        """Tells those that wait, as soon as it is known that they wait in vain."""
        if self.busy and (refusal := self._find_refusal()):
            for ticket in self._ledger.waiting():
                self._fail(ticket, refusal)

    def _dispatch(self, now: float) -> None:
        self._look_at = math.inf
        while head := self._ledger.queue.head(now):
            target = self._replicas.least_outstanding(head.priority, self._limits, now)
            if target is None:
                self._look_at = self._replicas.next_room(self._limits, now)
                return
            replica, room = target
            wait = wait_s(self._ledger.queue, room, self._arrivals, idle=not replica.batches, now=now)
            if wait > 0:
                self._look_at = now + wait
                return
            self._send(replica, room, now)

    def _send(self, replica: Replica, room: BatchLimits, now: float) -> None:
        batch = form(self._ledger.queue, room, now)
        self._meters.dispatched(now - ticket.arrived_at for ticket in batch)
        for ticket in batch:
            ticket.sent(replica)
        self._log.started(self._deployment.model_id, batch)
        replica.send(batch, batch[0].priority)

    # ------------------------------------------------------------------------------------------------ settling

    def _settle(self, ticket: Ticket, result: worker_pb2.EntryResult) -> None:
        self._ledger.drop(ticket)
        call, now = ticket.call, self._now()
        answer = Answer(
            model_id=self._deployment.model_id,
            version=self._deployment.version,
            output=result.output,
            # What was not the engine was waiting: here, on the way, and behind others in the worker.
            queue_ms=max(0.0, (now - call.received_at) * 1e3 - result.inference_ms),
            inference_ms=result.inference_ms,
            total_ms=(now - call.received_at) * 1e3,
            request_id=call.request_id,
            deployment=self._deployment.metadata.name,
            batch_size=result.batch_size,
        )
        if not ticket.future.done():
            ticket.future.set_result(answer)

    def _refused(self, ticket: Ticket, error: ModelMoraError, *, begun: bool) -> None:
        """A worker that has begun to drain, or is full, refuses what crossed with its notice: that goes elsewhere.

        What had `begun`, and ran when its worker ended, is as good as lost.
        """
        if not isinstance(error, ServerUnavailable | WorkerUnavailable | QueueFull):
            self._fail(ticket, error)
        elif begun:
            self._retry(ticket, error)
        else:
            self._requeue(ticket, error)

    def _requeue(self, ticket: Ticket, error: ModelMoraError) -> None:
        """It was not worked on: it is sent again, and first of its line."""
        if given_back_too_often(ticket):
            self._fail(ticket, error)
            return
        self._ledger.take_back(ticket, awake=self._awake, now=self._now())
        if later(ticket, error):
            self._ledger.retrying.park(ticket, ticket.sends, self._now())
        else:
            self._ledger.queue.push_front(ticket)

    def _retry(self, ticket: Ticket, error: ModelMoraError) -> None:
        """Its worker ended with it: it is sent to another, if it may be, and after a while."""
        ticket.losses += 1
        if not self._ledger.retrying.may(ticket, elsewhere=self._replicas.trusted):
            self._fail(ticket, error)
            return
        affordable = self._ledger.retrying.spend()
        self._meters.retried("Retried" if affordable else "BudgetSpent")
        if not affordable:
            self._fail(ticket, error)
            return
        self._ledger.take_back(ticket, awake=self._awake, now=self._now())
        self._ledger.retrying.park(ticket, ticket.losses, self._now())

    def _fail(self, ticket: Ticket, error: ModelMoraError) -> None:
        self._ledger.drop(ticket)
        if not ticket.future.done():
            model_id, request_id = self._deployment.model_id, ticket.call.request_id
            ticket.future.set_exception(error.located(model_id=model_id, request_id=request_id))

    def _withdraw(self, ticket: Ticket) -> None:
        """Its caller left: perhaps since its own deadline, which it knows a little sooner than the lane, is over."""
        if ticket.replica and self._ledger.find(ticket.entry_id):
            overdue = self._now() > ticket.clock.ends_at - _SOONER_S
            ticket.replica.gave_no_answer(ticket.entry_id, overdue=overdue)
        self._ledger.drop(ticket)

    def _overdue(self, ticket: Ticket) -> ModelMoraError:
        return refusals.overdue(
            self._deployment,
            ending=ticket.clock.ending,
            allowed_s=ticket.allowed_s,
            retry_after_s=self._settings.retry_after_s,
        )
