"""One model's lane: every request for it passes here, and one task owns it.

A request enters as a ticket. It waits in the queue until a replica has room, goes out as an entry, and comes back as a
result that settles the ticket. Whatever happens to it (an answer, a failure, its time is over, its caller left, the
model cannot be loaded) settles the ticket exactly once, and a settled ticket is nowhere in the lane any more.

Submitting, results and changes only change the state and wake the task; the task expires and dispatches. So everything
that arrived in one turn of the event loop is ordered before anything is sent.
"""

import asyncio
import time
from collections.abc import Callable, Iterable

import structlog

from modelmora.errors import InferenceFailed, InternalError, ModelMoraError, ServerUnavailable, WorkerUnavailable
from modelmora.spec import ModelDeployment
from modelmora.v1 import worker_pb2
from modelmora.wire.status import from_rpc
from modelmora_router import refusals
from modelmora_router.calls import Answer, InferenceCall
from modelmora_router.queueing import Deadlines, PriorityQueue
from modelmora_router.replicas import CAPACITY, Replica, least_outstanding
from modelmora_router.settings import RouterSettings
from modelmora_router.tickets import LaneStatistics, Ticket, ticket_for

log = structlog.get_logger(__name__)

_MAX_SENDS = 3  # an entry that workers gave back unworked so often is not sent again


class Lane:
    """The lane of one deployment."""

    def __init__(
        self, deployment: ModelDeployment, settings: RouterSettings, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._deployment = deployment
        self._settings = settings
        self._now = now
        self._queue: PriorityQueue[Ticket] = PriorityQueue()
        self._tickets: dict[int, Ticket] = {}  # all of them, waiting and running
        self._deadlines = Deadlines()
        self._replicas: dict[str, Replica] = {}
        self._awake = False
        self._closed: ModelMoraError | None = None
        self._waiting_for_load = 0
        self._last_id = 0
        self._last_used_at: float | None = None
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

    def statistics(self) -> LaneStatistics:
        return LaneStatistics(
            queued=len(self._queue),
            running=len(self._tickets) - len(self._queue),
            waiting_for_load=self._waiting_for_load,
            serving=sum(replica.available for replica in self._replicas.values()),
            last_used_at=self._last_used_at,
        )

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
            self._drop(ticket)
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
        surplus = len(self._queue) - self._deployment.spec.queue.max_length
        if surplus >= 0 and surplus >= self._free_places():
            raise refusals.queue_full(self._deployment)
        ticket = self._ticket(call)
        self._tickets[ticket.entry_id] = ticket
        self._queue.push(ticket.entry_id, ticket, ticket.priority)
        self._deadlines.set(ticket.entry_id, ticket.clock.ends_at)
        self._wake.set()
        return ticket

    def _ticket(self, call: InferenceCall) -> Ticket:
        self._last_id += 1
        return ticket_for(call, self._deployment.spec.queue, entry_id=self._last_id, awake=self._awake)

    def _used(self) -> None:
        self._last_used_at = time.time()

    def _refuse(self) -> None:
        if refusal := self._find_refusal():
            raise refusal

    def _find_refusal(self) -> ModelMoraError | None:
        """A new one each time: its traceback is the request's own, and the time to wait goes down."""
        if self._closed:
            return self._closed.located()
        return refusals.refusal(
            self._deployment, serving=self._awake, now=time.time(), retry_after_s=self._settings.retry_after_s
        )

    def _free_places(self) -> int:
        return sum(CAPACITY - replica.outstanding for replica in self._replicas.values() if replica.has_room)

    # ------------------------------------------------------------------------------------------------ for the control

    def update(self, deployment: ModelDeployment) -> None:
        """The deployment or its status changed."""
        self._deployment = deployment
        self._announce()

    def attach(self, replica: Replica) -> None:
        """From now on the replica may be sent entries."""
        self._replicas[replica.worker_id] = replica
        self.changed()

    def detach(self, replica: Replica) -> None:
        """The replica has ended. Its place may already be that of another of the same worker."""
        if self._replicas.get(replica.worker_id) is replica:
            del self._replicas[replica.worker_id]
        self.changed()

    async def until_empty(self) -> None:
        """Returns once nothing waits or runs."""
        while self._tickets:
            await asyncio.wait([ticket.future for ticket in self._tickets.values()])

    def close(self, error: ModelMoraError) -> None:
        """From now on the lane refuses with this error, those that are in it first."""
        self._closed = error
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
            case "output":
                self._settle(ticket, result)
            case "error":
                self._refused(ticket, from_rpc(result.error))
            case None:
                self._fail(ticket, InferenceFailed("the worker answered without a result", remedy="see its log"))
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
                self._fail(ticket, error)
        self._wake.set()

    def changed(self) -> None:
        awake = any(replica.available for replica in self._replicas.values())
        if awake != self._awake:
            self._awake = awake
            self._turn(self._now())
        self._announce()

    def _turn(self, now: float) -> None:
        for ticket in self._queue.entries():
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
                self._step()
                await self._wake.wait()
        finally:
            if self._timer:
                self._timer.cancel()
            self.close(ServerUnavailable("the server ended before the request was answered", retry_after_s=1.0))

    def _step(self) -> None:
        try:
            self._expire(self._now())
            self._release_held()
            self._dispatch()
            self._arm()
        except Exception as error:  # the task's top: one bug must not end the lane
            log.exception("lane failed", model=self._deployment.model_id)
            wrapped = InternalError("the router failed on this request", remedy="see its log, and report it")
            wrapped.__cause__ = error
            self._settle_all(wrapped)

    def _expire(self, now: float) -> None:
        for entry_id in self._deadlines.pop_due(now):
            if ticket := self._tickets.get(entry_id):
                self._fail(ticket, self._overdue(ticket, now))

    def _release_held(self) -> None:
        """Tells those that wait, as soon as it is known that they wait in vain."""
        if refusal := self._find_refusal():
            for ticket in self._queue.entries():
                self._fail(ticket, refusal)

    def _dispatch(self) -> None:
        while len(self._queue) and (replica := least_outstanding(self._replicas.values())):
            ticket = self._queue.pop()
            if ticket:
                self._send(ticket, replica)

    def _send(self, ticket: Ticket, replica: Replica) -> None:
        call = ticket.call
        ticket.replica = replica
        ticket.sends += 1
        replica.send(
            worker_pb2.BatchEntry(
                entry_id=ticket.entry_id, input=call.input, parameters=call.parameters, request_id=call.request_id
            )
        )

    def _arm(self) -> None:
        """One timer for the lane. It may ring too early, which is harmless, so it is seldom set anew."""
        at = self._deadlines.next_at()
        if at is None or (self._timer and self._timer_at <= at):
            return
        if self._timer:
            self._timer.cancel()
        self._timer_at = at
        self._timer = asyncio.get_running_loop().call_later(max(0.0, at - self._now()), self._ring)

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
            output=result.output.values,
            # What was not the engine was waiting: here, on the way, and behind others in the worker.
            queue_ms=max(0.0, (now - call.received_at) * 1e3 - result.inference_ms),
            inference_ms=result.inference_ms,
            total_ms=(now - call.received_at) * 1e3,
            request_id=call.request_id,
        )
        if not ticket.future.done():
            ticket.future.set_result(answer)

    def _refused(self, ticket: Ticket, error: ModelMoraError) -> None:
        """A worker that has begun to drain refuses what crossed with its notice: that goes elsewhere."""
        if isinstance(error, ServerUnavailable | WorkerUnavailable):
            self._requeue(ticket, error)
        else:
            self._fail(ticket, error)

    def _requeue(self, ticket: Ticket, error: ModelMoraError) -> None:
        if ticket.sends >= _MAX_SENDS:
            self._fail(ticket, error)
            return
        ticket.replica = None
        ticket.clock = ticket.clock.turned(awake=self._awake, now=self._now())
        self._deadlines.set(ticket.entry_id, ticket.clock.ends_at)
        self._queue.push_front(ticket.entry_id, ticket, ticket.priority)

    def _fail(self, ticket: Ticket, error: ModelMoraError) -> None:
        self._drop(ticket)
        if not ticket.future.done():
            model_id, request_id = self._deployment.model_id, ticket.call.request_id
            ticket.future.set_exception(error.located(model_id=model_id, request_id=request_id))

    def _drop(self, ticket: Ticket) -> None:
        """Takes the ticket out of everything; a worker that has it is told."""
        self._deadlines.remove(ticket.entry_id)
        if self._tickets.pop(ticket.entry_id, None) is None:
            return
        if ticket.replica:
            ticket.replica.cancel(ticket.entry_id)
        else:
            self._queue.remove(ticket.entry_id, ticket.priority)

    def _overdue(self, ticket: Ticket, now: float) -> ModelMoraError:
        return refusals.overdue(
            self._deployment,
            ending=ticket.clock.ending,
            waited_s=now - ticket.call.received_at,
            retry_after_s=self._settings.retry_after_s,
        )
