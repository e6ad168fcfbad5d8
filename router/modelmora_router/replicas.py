"""One worker as the router sees it: whether it serves, and the one stream on which it is given work.

Two tasks follow a worker for as long as it is listed. One watches its health and reconnects at once when it is lost.
The other holds the call stream: it writes what is sent and reads results, matched by entry id. A replica has room for
one entry that runs and one that waits behind it, so that the engine never waits for the network.

What becomes of an entry is told to its owner: a result, or that it was not worked on and may go elsewhere, or that the
worker was lost with it.
"""

import asyncio
from collections.abc import Iterable
from typing import Final, Protocol, TypeAlias

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from modelmora.control import WORKER_METADATA, Worker
from modelmora.errors import ModelMoraError, WorkerUnavailable
from modelmora.v1 import worker_pb2, worker_pb2_grpc
from modelmora_router.settings import RouterSettings

log = structlog.get_logger(__name__)

CAPACITY: Final = 2  # one runs, one is staged
_BACKOFF_S: Final = (0.01, 0.02, 0.05, 0.1, 0.2)
# A pod that does not listen yet refuses at once: ask again soon. One whose network is not there yet says nothing: give
# the attempt up soon, yet not before a busy machine could have answered.
_RECONNECTING: Final = (
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.max_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),  # gRPC's name for how long one attempt may take
)
# A node that is cut off sends no end of a connection: it is noticed 14 s after its last word. Half of that is the time
# to answer, which a worker short of CPU needs too.
_KEEPALIVE: Final = (
    ("grpc.keepalive_time_ms", 7_000),
    ("grpc.keepalive_timeout_ms", 7_000),
    ("grpc.http2.ping_timeout_ms", 7_000),  # what counts in fact, and is a minute by default
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
_SERVING: Final = health_pb2.HealthCheckResponse.SERVING

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


class Replica:
    """One worker. Lives as long as `run`."""

    def __init__(self, worker: Worker, owner: Owner, settings: RouterSettings, *, model_id: str) -> None:
        self._worker = worker
        self._owner = owner
        self._settings = settings
        self._model_id = model_id
        self._terminating = worker.terminating
        self._healthy = False
        self._streaming = False
        self._state_changed = asyncio.Event()
        self._retired = asyncio.Event()
        self._outgoing = asyncio.Event()
        self._unwritten: dict[int, worker_pb2.BatchEntry] = {}
        self._written: set[int] = set()
        self._cancelled: list[int] = []

    @property
    def worker_id(self) -> str:
        return self._worker.worker_id

    @property
    def endpoint(self) -> str:
        """The address of the call port."""
        return self._worker.address

    @property
    def available(self) -> bool:
        """Whether it may be sent something, if it has room."""
        return self._healthy and self._streaming and not self._terminating

    @property
    def outstanding(self) -> int:
        """Entries that were sent and not yet answered."""
        return len(self._unwritten) + len(self._written)

    @property
    def has_room(self) -> bool:
        return self.available and self.outstanding < CAPACITY

    @property
    def retired(self) -> bool:
        """Whether the worker is no longer listed."""
        return self._retired.is_set()

    def send(self, entry: worker_pb2.BatchEntry) -> None:
        """Gives the worker an entry; its owner hears of it again, or cancels it."""
        self._unwritten[entry.entry_id] = entry
        self._outgoing.set()

    def cancel(self, entry_id: int) -> None:
        """Frees the entry's place at once and tells the worker that nobody waits for it."""
        if self._unwritten.pop(entry_id, None) is None and entry_id in self._written:
            self._written.discard(entry_id)
            self._cancelled.append(entry_id)
            self._outgoing.set()

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
                    group.create_task(self._follow_health(), name=f"health of {self.worker_id}"),
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

    # ------------------------------------------------------------------------------------------------ health

    async def _follow_health(self) -> None:
        attempt = 0
        async with grpc.aio.insecure_channel(self._worker.health_address, options=self._options()) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while True:
                if await self._watch(stub):
                    attempt = 0
                self._set(healthy=False)
                await asyncio.sleep(_BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)])
                attempt += 1

    async def _watch(self, stub: health_pb2_grpc.HealthStub) -> bool:
        """Until the watch breaks; whether it ever said anything."""
        heard = False
        try:
            # A call that waits for the channel begins when the channel does, not at our next attempt.
            async for answer in stub.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True):
                heard = True
                self._set(healthy=answer.status == _SERVING)
        except grpc.aio.AioRpcError as error:
            if heard:
                log.info("health watch broke", model=self._model_id, worker=self.worker_id, cause=error.details())
        return heard

    # ------------------------------------------------------------------------------------------------ calls

    async def _follow_calls(self) -> None:
        attempt = 0
        async with grpc.aio.insecure_channel(self._worker.address, options=self._options()) as channel:
            stub = worker_pb2_grpc.WorkerServiceStub(channel)
            while True:
                while not self._healthy:
                    attempt = 0
                    await self._state_change()
                await self._converse(channel, stub)
                await asyncio.sleep(_BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)])
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
            batch = worker_pb2.Batch(entries=self._next_frame())
            self._written.update(entry.entry_id for entry in batch.entries)
            await call.write(worker_pb2.ProcessRequest(batch=batch))

    def _next_frame(self) -> list[worker_pb2.BatchEntry]:
        """What goes out as one message: together only what is no larger than one request may be."""
        entries = list(self._unwritten.values())
        if len(entries) > 1 and sum(entry.ByteSize() for entry in entries) > self._settings.max_request_bytes:
            entries = entries[:1]
        for entry in entries:
            del self._unwritten[entry.entry_id]
        return entries

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
        for result in results:
            # An unknown id is one that was cancelled, or answered already: nobody waits for it.
            if result.entry_id in self._written:
                self._written.discard(result.entry_id)
                self._owner.finished(result)
        if not self.outstanding:
            self._announce()

    def _give_back(self) -> None:
        if entry_ids := self._forget():
            self._owner.returned(entry_ids)

    def _lose(self, cause: str) -> None:
        unwritten = list(self._unwritten)
        self._unwritten.clear()
        if entry_ids := self._forget():
            self._owner.lost(
                entry_ids,
                WorkerUnavailable(
                    f"the worker of model {self._model_id!r} went away while it had the request: {cause}",
                    model_id=self._model_id,
                    endpoint=self.endpoint,
                    remedy="send the request again",
                    retry_after_s=1.0,
                ),
            )
        if unwritten:  # the worker never heard of them
            self._owner.returned(unwritten)

    def _forget(self) -> list[int]:
        entry_ids = [*self._written, *self._unwritten]
        self._written.clear()
        self._unwritten.clear()
        self._cancelled.clear()
        return entry_ids

    def _options(self) -> list[tuple[str, int]]:
        return [
            ("grpc.max_send_message_length", -1),  # the edges bound what comes in
            ("grpc.max_receive_message_length", self._settings.max_response_bytes),
            *_RECONNECTING,
            *_KEEPALIVE,
            ("grpc.use_local_subchannel_pool", 1),  # two routers in one process do not share a connection
        ]


def least_outstanding(replicas: Iterable[Replica]) -> Replica | None:
    """The replica that gets the next entry; None if none has room."""
    return min(
        (replica for replica in replicas if replica.has_room), key=lambda replica: replica.outstanding, default=None
    )
