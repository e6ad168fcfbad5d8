"""One worker as the router sees it: whether it serves, how far it is trusted, and the stream on which it is given work.

Two tasks follow a worker for as long as it is listed. One watches its health. The other holds the call stream: it
writes batches and reads results, matched by entry id. A replica has room for one batch that runs and one that waits
behind it, which may grow while it waits.

What becomes of an entry is told to its owner: a result, or that it was not worked on and may go elsewhere, or that the
worker was lost with it.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol, TypeAlias

import grpc
import structlog

from modelmora.control import WORKER_METADATA, Worker
from modelmora.errors import ModelMoraError, WorkerUnavailable
from modelmora.scheduling import BatchLimits
from modelmora.spec import Priority
from modelmora.v1 import worker_pb2, worker_pb2_grpc
from modelmora_router.breaker import BreakerState
from modelmora_router.outstanding import Outstanding
from modelmora_router.settings import RouterSettings
from modelmora_router.trust import Trust
from modelmora_router.worker_health import backoff_s, channel_options, follow_health

log = structlog.get_logger(__name__)

_Call: TypeAlias = "grpc.aio.StreamStreamCall[worker_pb2.ProcessRequest, worker_pb2.ProcessResponse]"


class Owner(Protocol):
    """Who sends the entries, and is told what became of them."""

    def finished(self, result: worker_pb2.EntryResult) -> None:
        """A worker answered an entry, or refused it."""

    def returned(self, entry_ids: Iterable[int]) -> None:
        """The worker ended in order without working on them."""

    def lost(self, entry_ids: Iterable[int], error: ModelMoraError) -> None:
        """The worker went away while it had them."""

    def changed(self) -> None:
        """The replica began or stopped to be available."""


class Sendable(Protocol):
    """An entry on its way to a worker."""

    @property
    def entry_id(self) -> int: ...

    @property
    def size_bytes(self) -> int: ...

    def add_to(self, batch: worker_pb2.Batch) -> None:
        """Writes its message there."""


class Replica:
    """One worker. Lives as long as `run`."""

    def __init__(
        self,
        worker: Worker,
        owner: Owner,
        settings: RouterSettings,
        *,
        model_id: str,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._worker = worker
        self._owner = owner
        self._settings = settings
        self._model_id = model_id
        self._now = now
        self._options = channel_options(max_response_bytes=settings.max_response_bytes)
        self._terminating = worker.terminating
        self._healthy = False
        self._streaming = False
        self._state_changed = asyncio.Event()
        self._retired = asyncio.Event()
        self._outgoing = asyncio.Event()
        self._outstanding = Outstanding()
        self._unwritten: deque[Sequence[Sendable]] = deque()
        self._cancelled: list[int] = []
        self._trust = Trust(settings)

    @property
    def worker_id(self) -> str:
        return self._worker.worker_id

    @property
    def endpoint(self) -> str:
        """The address of the call port."""
        return self._worker.address

    @property
    def available(self) -> bool:
        """Whether it may be sent something, if it is trusted and has room."""
        return self._healthy and self._streaming and not self._terminating

    @property
    def outstanding(self) -> int:
        """Entries that were sent and not yet answered."""
        return self._outstanding.entries

    @property
    def batches(self) -> int:
        """Batches that were sent and not yet answered."""
        return self._outstanding.batches

    @property
    def sent_at(self) -> float:
        """When it was given its last batch."""
        return self._outstanding.sent_at

    def breaker(self, now: float) -> BreakerState:
        """Whether it is trusted."""
        return self._trust.state(now)

    @property
    def trusted_at(self) -> float | None:
        """When one request may be tried again; None: it is trusted."""
        return self._trust.regained_at

    def room(self, priority: Priority, limits: BatchLimits, now: float) -> BatchLimits | None:
        """How large a batch, led by that priority, may be sent now; None: none may. One request tries a worker."""
        if not self.available:
            return None
        match self._trust.state(now):
            case BreakerState.CLOSED:
                return self._outstanding.room(priority, limits, now)
            case BreakerState.HALF_OPEN if not self._outstanding.batches:
                return replace(limits, max_size=1)
        return None

    def next_room(self, limits: BatchLimits, now: float) -> float:
        """When it may have room by time alone."""
        if self._trust.state(now) is BreakerState.CLOSED:
            return self._outstanding.joins_at(limits) if self.available else math.inf
        at = self._trust.regained_at
        return math.inf if at is None or at <= now else at

    @property
    def retired(self) -> bool:
        """Whether the worker is no longer listed."""
        return self._retired.is_set()

    def send(self, batch: Sequence[Sendable], priority: Priority) -> None:
        """Gives the worker a batch; its owner hears of each entry again, or cancels it."""
        size_bytes = sum(entry.size_bytes for entry in batch)
        self._outstanding.add((entry.entry_id for entry in batch), priority, self._now(), size_bytes=size_bytes)
        self._unwritten.append(batch)
        self._outgoing.set()

    def cancel(self, entry_id: int) -> None:
        """Frees the entry's place at once and tells the worker that nobody waits for it."""
        if self._outstanding.remove(entry_id) is None:
            return
        if not self._unsend(entry_id):
            self._cancelled.append(entry_id)
            self._outgoing.set()
        if not self._outstanding.batches:
            self._announce()

    def _unsend(self, entry_id: int) -> bool:
        """Takes out what is not written yet; a worker that does not read may not keep the bytes of those that left."""
        for place, batch in enumerate(self._unwritten):
            kept = [entry for entry in batch if entry.entry_id != entry_id]
            if len(kept) < len(batch):
                self._unwritten[place] = kept
                if not kept:
                    del self._unwritten[place]
                return True
        return False

    def gave_no_answer(self, entry_id: int, *, overdue: bool) -> None:
        """An entry is given up that the worker has; `overdue`: since its time is over. Counts once a batch."""
        sent_at, now = self._outstanding.unblamed_since(entry_id), self._now()
        if sent_at is None or not self._trust.is_silent(sent_at, now, overdue=overdue):
            return
        self._outstanding.blame(entry_id)
        if self._trust.failed(now):
            self._lost_trust(now)

    def is_of(self, worker: Worker) -> bool:
        """Whether it is that worker; another may come to have its name."""
        mine = self._worker
        return (mine.key, mine.address, mine.health_address) == (worker.key, worker.address, worker.health_address)

    def update(self, worker: Worker) -> None:
        """What is listed of the worker changed."""
        self._set(terminating=worker.terminating)

    def retire(self) -> None:
        """The worker is no longer listed: takes nothing new, waits a moment for the last results, ends."""
        self._set(terminating=True)
        self._retired.set()

    async def run(self) -> None:
        """Follows the worker until it is retired."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(
                        follow_health(self._worker, self._options, self._heard, model_id=self._model_id),
                        name=f"health of {self.worker_id}",
                    ),
                    group.create_task(self._follow_calls(), name=f"calls of {self.worker_id}"),
                ]
                await self._retired.wait()
                await self._linger()
                for task in tasks:
                    task.cancel()
        finally:
            self._set(healthy=False, streaming=False)
            self._lose("it was removed")

    async def _linger(self) -> None:
        try:
            async with asyncio.timeout(self._settings.linger_s):
                while self.outstanding and self._streaming:
                    await self._state_change()
        except TimeoutError:
            return

    # ------------------------------------------------------------------------------------------------ state

    def _set(
        self, *, healthy: bool | None = None, streaming: bool | None = None, terminating: bool | None = None
    ) -> None:
        before = self.available
        self._healthy = self._healthy if healthy is None else healthy
        self._streaming = self._streaming if streaming is None else streaming
        self._terminating = self._terminating if terminating is None else terminating
        self._announce()
        if self.available != before:
            log.debug(
                "worker serves" if self.available else "worker stopped serving",
                model=self._model_id,
                worker=self.worker_id,
            )
            self._owner.changed()

    def _announce(self) -> None:
        changed, self._state_changed = self._state_changed, asyncio.Event()
        changed.set()

    async def _state_change(self) -> None:
        await self._state_changed.wait()

    def _heard(self, serving: bool) -> None:  # noqa: FBT001 - that is what is heard
        self._set(healthy=serving)

    def _lost_trust(self, now: float) -> None:
        log.warning(
            "worker fails, nothing is sent to it for a while",
            model=self._model_id,
            worker=self.worker_id,
            failures=self._trust.failures,
            seconds=round((self._trust.regained_at or now) - now, 2),
        )
        self._owner.changed()

    # ------------------------------------------------------------------------------------------------ calls

    async def _follow_calls(self) -> None:
        attempt = 0
        async with grpc.aio.insecure_channel(self._worker.address, options=self._options) as channel:
            stub = worker_pb2_grpc.WorkerServiceStub(channel)
            while True:
                while not self._healthy:
                    attempt = 0
                    await self._state_change()
                await self._converse(channel, stub)
                await asyncio.sleep(backoff_s(attempt))
                attempt += 1

    async def _converse(self, channel: grpc.aio.Channel, stub: "worker_pb2_grpc.WorkerServiceAsyncStub") -> None:
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                await channel.channel_ready()
        except TimeoutError:
            log.warning("worker cannot be reached", model=self._model_id, worker=self.worker_id, endpoint=self.endpoint)
            return
        call: _Call = stub.Process()
        try:
            if await self._is_ours(call):
                self._set(streaming=True)
                await self._exchange(call)
        finally:
            self._set(streaming=False)
            call.cancel()

    async def _is_ours(self, call: _Call) -> bool:
        """Whether the worker itself accepted the stream: its address may have become another's, unheard.

        A stranger is asked again when its health is news.
        """
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                who = dict(await call.initial_metadata()).get(WORKER_METADATA)
        except TimeoutError:
            log.warning("worker does not answer", model=self._model_id, worker=self.worker_id, endpoint=self.endpoint)
            return False
        if who not in {None, self.worker_id}:
            log.warning("another worker is there", model=self._model_id, worker=self.worker_id, endpoint=self.endpoint)
            self._set(healthy=False)
        return who == self.worker_id

    async def _exchange(self, call: _Call) -> None:
        async with asyncio.TaskGroup() as group:
            writer = group.create_task(self._write(call), name=f"writer of {self.worker_id}")
            cause = await self._read(call)
            writer.cancel()
        self._set(streaming=False)
        if cause is None:
            self._give_back()
        else:
            self._lose(cause)

    async def _write(self, call: _Call) -> None:
        while True:
            await self._outgoing.wait()
            self._outgoing.clear()
            try:
                await self._write_pending(call)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return  # the reader sees the same end, and its cause

    async def _write_pending(self, call: _Call) -> None:
        if self._cancelled:
            ids, self._cancelled = self._cancelled, []
            await call.write(worker_pb2.ProcessRequest(cancel=worker_pb2.Cancel(entry_ids=ids)))
        while self._unwritten:
            entries = [entry for entry in self._unwritten[0] if entry.entry_id in self._outstanding]
            self._unwritten.popleft()
            if entries:
                await call.write(_batch(entries))

    async def _read(self, call: _Call) -> str | None:
        """Hands on results until the stream ends: None where it ended in order, else the cause."""
        try:
            async for response in call:
                if response is None:  # so gRPC says that it could not be read
                    return "it sent bytes that are no message"
                self._take(response.results)
        except grpc.aio.AioRpcError as error:
            return error.details() or error.code().name
        return None

    def _take(self, results: Iterable[worker_pb2.EntryResult]) -> None:
        sent_at = None
        for result in results:
            # An unknown id is one that was cancelled, or answered already: nobody waits for it.
            if (sent := self._outstanding.remove(result.entry_id)) is not None:
                sent_at = sent
                self._owner.finished(result)
        if sent_at is not None:
            self._count_answer(sent_at)
        if not self._outstanding.batches:
            self._announce()

    def _count_answer(self, sent_at: float) -> None:
        if self._trust.answered(sent_at, self._now()):
            log.info("worker answers again", model=self._model_id, worker=self.worker_id)
            self._owner.changed()

    def _give_back(self) -> None:
        if entry_ids := self._forget():
            self._owner.returned(entry_ids)

    def _lose(self, cause: str) -> None:
        unwritten = {entry.entry_id for batch in self._unwritten for entry in batch}
        entry_ids = self._forget()
        lost = [entry_id for entry_id in entry_ids if entry_id not in unwritten]
        if lost:
            if self._trust.failed(now := self._now()):
                self._lost_trust(now)
            self._owner.lost(lost, self._gone(cause))
        if returned := [entry_id for entry_id in entry_ids if entry_id in unwritten]:  # the worker never heard of them
            self._owner.returned(returned)

    def _gone(self, cause: str) -> WorkerUnavailable:
        return WorkerUnavailable(
            f"the worker of model {self._model_id!r} went away while it had the request: {cause}",
            model_id=self._model_id,
            endpoint=self.endpoint,
            remedy="send the request again",
            retry_after_s=1.0,
        )

    def _forget(self) -> list[int]:
        self._unwritten.clear()
        self._cancelled.clear()
        return self._outstanding.clear()


def _batch(entries: Iterable[Sendable]) -> worker_pb2.ProcessRequest:
    request = worker_pb2.ProcessRequest()
    for entry in entries:
        entry.add_to(request.batch)
    return request
