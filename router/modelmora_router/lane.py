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
from dataclasses import replace
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
from modelmora.scheduling import Arrivals, BatchLimits, PriorityQueue, form, wait_s
from modelmora.spec import ModelDeployment, Priority
from modelmora.v1 import worker_pb2
from modelmora.wire.status import from_rpc
from modelmora_router import refusals
from modelmora_router.breaker import BreakerState
from modelmora_router.calls import Answer, InferenceCall, is_output
from modelmora_router.deadlines import Deadlines
from modelmora_router.lane_log import LaneLog
from modelmora_router.metrics import ModelMeters
from modelmora_router.replica_set import ReplicaSet
from modelmora_router.replicas import Replica
from modelmora_router.retries import Retrying, given_back_too_often, later
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
        self._queue: PriorityQueue[Ticket] = PriorityQueue(ageing_s=settings.ageing_s or math.inf)
        self._tickets: dict[int, Ticket] = {}  # all of them, waiting and running
        self._deadlines = Deadlines()
        self._retrying = Retrying(chance)
        self._arrivals = Arrivals()
        self._replicas = ReplicaSet()
        self._serving = 0
        self._awake = False
        self._closed: ModelMoraError | None = None
        self._waiting_for_load = 0
        self._last_id = 0
        self._last_used_at: float | None = None
        self._log = LaneLog()
        self._look_at = math.inf  # when the next batch may be due by time alone
        self._wake = asyncio.Event()
        self._state_changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    @property
    def deployment(self) -> ModelDeployment:
        return self._deployment

    @property
    def busy(self) -> bool:
        """Whether requests wait or run."""
        return bool(self._tickets)

    @property
    def urgency(self) -> int:
        """The most urgent priority among the requests that wait or run, or of a load that is waited for; 0: none."""
        priorities = {ticket.priority for ticket in self._tickets.values()}
        if self._waiting_for_load:
            priorities.add(Priority[self._deployment.spec.queue.default_priority])
        return min(priorities, default=0)

    def statistics(self) -> LaneStatistics:
        waiting = len(self._queue) + len(self._retrying)
        return LaneStatistics(
            queued=waiting,
            running=len(self._tickets) - waiting,
            waiting_for_load=self._waiting_for_load,
            serving=self._replicas.serving,
            last_used_at=self._last_used_at,
            queued_by_priority=self._queue.lengths(),
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
        ticket = self._ticket(call)
        self._make_place(ticket)
        self._tickets[ticket.entry_id] = ticket
        self._queue.push(ticket)
        self._deadlines.set(ticket.entry_id, ticket.clock.ends_at)
        self._arrivals.note(call.received_at)
        self._retrying.earned()
        self._log.queued(self._deployment.model_id, ticket)
        self._wake.set()
        return ticket

    def _ticket(self, call: InferenceCall) -> Ticket:
        self._last_id += 1
        return ticket_for(call, self._deployment, entry_id=self._last_id, awake=self._awake)

    def _make_place(self, ticket: Ticket) -> None:
        """In a queue that is full, a more urgent request takes the place of the newest of the least urgent."""
        waiting, most = len(self._queue), self._deployment.spec.queue.max_length
        self._log.filling(self._deployment.model_id, waiting, most, ticket.arrived_at)
        if waiting < most or waiting - most < self._replicas.free_batches(self._now()) * self._limits.max_size:
            return
        victim = self._queue.pop_last(less_urgent_than=ticket.priority)
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
        while self._tickets:
            await asyncio.wait([ticket.future for ticket in self._tickets.values()])

    def close(self, error: ModelMoraError) -> None:
        """From now on the lane refuses with this error, those that are in it first; the first such error stays."""
        self._closed = self._closed or error
        self._settle_all(error)
        self._announce()

    def _settle_all(self, error: ModelMoraError) -> None:
        for ticket in list(self._tickets.values()):
            self._fail(ticket, error)

    # ------------------------------------------------------------------------------------------------ for replicas

    def finished(self, result: worker_pb2.EntryResult) -> None:
        ticket = self._tickets.get(result.entry_id)
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
            if ticket := self._tickets.get(entry_id):
                self._requeue(ticket, gone)
        self._wake.set()

    def lost(self, entry_ids: Iterable[int], error: ModelMoraError) -> None:
        for entry_id in entry_ids:
            if ticket := self._tickets.get(entry_id):
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
        for ticket in self._waiting():
            if self._awake:
                self._meters.held(now - ticket.clock.since)
            ticket.clock = ticket.clock.turned(awake=self._awake, now=now)
            self._deadlines.set(ticket.entry_id, ticket.clock.ends_at)

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
            if self._timer:
                self._timer.cancel()
            self.close(ServerUnavailable("the server ended before the request was answered", retry_after_s=1.0))

    async def _gather(self) -> None:
        """While many ask at once, each turn of the event loop brings more: what came in a few of them goes together.

        A turn takes no time of its own. A caller who is alone does not wait even for that.
        """
        for _ in range(_TURNS if len(self._queue) > 1 else 0):
            last_id = self._last_id
            await asyncio.sleep(0)
            if self._last_id == last_id:
                return

    def _step(self) -> None:
        try:
            now = self._now()
            self._expire(now)
            self._release_held()
            self._unpark(now)
            self._dispatch(now)
            self._arm(now)
        except Exception as error:  # the task's top: one bug must not end the lane
            log.exception("lane failed", model=self._deployment.model_id)
            wrapped = InternalError("the router failed on this request", remedy="see its log, and report it")
            wrapped.__cause__ = error
            self._settle_all(wrapped)

    def _expire(self, now: float) -> None:
        for entry_id in self._deadlines.pop_due(now):
            if ticket := self._tickets.get(entry_id):
                if ticket.replica:
                    ticket.replica.gave_no_answer(entry_id, overdue=True)
                else:
                    self._meters.shed("Expired")
                self._fail(ticket, self._overdue(ticket, now))

    def _release_held(self) -> None:
        """Tells those that wait, as soon as it is known that they wait in vain."""
        if self._tickets and (refusal := self._find_refusal()):
            for ticket in self._waiting():
                self._fail(ticket, refusal)

    def _waiting(self) -> list[Ticket]:
        return [ticket for ticket in self._tickets.values() if ticket.replica is None]

    def _unpark(self, now: float) -> None:
        for entry_id in self._retrying.due(now):
            self._queue.push_front(self._tickets[entry_id])

    def _dispatch(self, now: float) -> None:
        self._look_at = math.inf
        while head := self._queue.head(now):
            target = self._replicas.least_outstanding(head.priority, now)
            if target is None:
                self._look_at = self._replicas.next_trial(now)
                return
            wait = wait_s(self._queue, self._limits, self._arrivals, idle=not target.batches, now=now)
            if wait > 0:
                self._look_at = now + wait
                return
            self._send(target, now)

    def _send(self, target: Replica, now: float) -> None:
        trusted = target.breaker(now) is BreakerState.CLOSED
        batch = form(self._queue, self._limits if trusted else replace(self._limits, max_size=1), now)
        size = len(batch)
        self._meters.dispatched(
            size=size, limit=self._limits.max_size, waited_s=[now - ticket.arrived_at for ticket in batch]
        )
        for ticket in batch:
            ticket.sent(target, now=now, batch_size=size)
        self._log.started(self._deployment.model_id, batch)
        target.send(batch, batch[0].priority)

    def _arm(self, now: float) -> None:
        """One timer for the lane. It may ring too early, which is harmless, so it is seldom set anew."""
        moments = (self._deadlines.next_at(), self._retrying.next_at(), self._look_at)
        at = min((moment for moment in moments if moment is not None), default=math.inf)
        if at == math.inf or (self._timer and self._timer_at <= at):
            return
        if self._timer:
            self._timer.cancel()
        self._timer_at = at
        self._timer = asyncio.get_running_loop().call_later(max(0.0, at - now), self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._wake.set()

    # ------------------------------------------------------------------------------------------------ settling

    def _settle(self, ticket: Ticket, result: worker_pb2.EntryResult) -> None:
        self._drop(ticket)
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
            batch_size=ticket.batch_size,
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
        self._take_back(ticket)
        if later(ticket, error):
            self._retrying.park(ticket, ticket.sends, self._now())
        else:
            self._queue.push_front(ticket)

    def _retry(self, ticket: Ticket, error: ModelMoraError) -> None:
        """Its worker ended with it: it is sent to another, if it may be, and after a while."""
        ticket.losses += 1
        if not self._retrying.may(ticket, elsewhere=self._replicas.trusted):
            self._fail(ticket, error)
            return
        affordable = self._retrying.spend()
        self._meters.retried("Retried" if affordable else "BudgetSpent")
        if not affordable:
            self._fail(ticket, error)
            return
        self._take_back(ticket)
        self._retrying.park(ticket, ticket.losses, self._now())

    def _take_back(self, ticket: Ticket) -> None:
        ticket.replica = None
        ticket.clock = ticket.clock.turned(awake=self._awake, now=self._now())
        self._deadlines.set(ticket.entry_id, ticket.clock.ends_at)

    def _fail(self, ticket: Ticket, error: ModelMoraError) -> None:
        self._drop(ticket)
        if not ticket.future.done():
            model_id, request_id = self._deployment.model_id, ticket.call.request_id
            ticket.future.set_exception(error.located(model_id=model_id, request_id=request_id))

    def _withdraw(self, ticket: Ticket) -> None:
        """Its caller left: perhaps since its own deadline, which it knows a little sooner than the lane, is over."""
        if ticket.replica and ticket.entry_id in self._tickets:
            overdue = self._now() > ticket.clock.ends_at - _SOONER_S
            ticket.replica.gave_no_answer(ticket.entry_id, overdue=overdue)
        self._drop(ticket)

    def _drop(self, ticket: Ticket) -> None:
        """Takes the ticket out of everything; a worker that has it is told."""
        self._deadlines.remove(ticket.entry_id)
        if self._tickets.pop(ticket.entry_id, None) is None:
            return
        if ticket.replica:
            ticket.replica.cancel(ticket.entry_id)
        elif not self._queue.remove(ticket):
            self._retrying.forget(ticket)

    def _overdue(self, ticket: Ticket, now: float) -> ModelMoraError:
        return refusals.overdue(
            self._deployment,
            ending=ticket.clock.ending,
            waited_s=now - ticket.call.received_at,
            retry_after_s=self._settings.retry_after_s,
        )
