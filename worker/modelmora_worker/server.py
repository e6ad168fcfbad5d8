"""The life of the process: listen, load, serve, drain, end. What `Worker.run` opens is closed when it returns.

It listens before any library of models is imported, so that whoever started it sees at once that it lives, and what it
is doing.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Final

import grpc
import structlog
from grpc_health.v1 import health_pb2_grpc

from modelmora.errors import LoadError
from modelmora.scheduling import BatchLimits, PriorityQueue
from modelmora_worker import memory
from modelmora_worker.direct_server import DirectServer
from modelmora_worker.engines import Engine
from modelmora_worker.entries import EntryQueue
from modelmora_worker.entry import Entry
from modelmora_worker.lifecycle import DRAINING, SERVING, Failure, Lifecycle
from modelmora_worker.listening import listener
from modelmora_worker.loading import load
from modelmora_worker.proving import prove
from modelmora_worker.responses import Writer
from modelmora_worker.service import WorkerService
from modelmora_worker.settings import WorkerSettings, socket_path
from modelmora_worker.stopping import Stopping

_GOODBYE_S: Final = 1.0  # for the last messages of open streams
_MOST_OF_A_ROUTER: Final = 1088 * 2**20  # more than it may be set to take (max_request_bytes), which is the bound
_log = structlog.get_logger(__name__)


class Worker:
    """One model, from its deployment to the end of the process. `settle` is called when something lasting was built."""

    def __init__(self, settings: WorkerSettings, stopping: Stopping, settle: Callable[[], None] = lambda: None) -> None:
        self._settings = settings
        self._settle = settle
        self._stopping = stopping
        self._lifecycle = Lifecycle()
        writer = Writer(settings.model_id, settings.max_message_bytes)
        self._queue = _queue(settings)
        self._service = WorkerService(
            queue=self._queue,
            writer=writer,
            lifecycle=self._lifecycle,
            stopping=stopping,
            identity=settings.identity,
        )
        self._device = ThreadPoolExecutor(max_workers=1, thread_name_prefix="device")

    def spawned(self, seconds: float) -> None:
        """How long it took from the parent's wish to this program."""
        self._lifecycle.took("spawn", seconds)

    async def run(self) -> Failure | None:
        """Serves until it is to stop; why it ended, if not by a wish.

        Raises:
            AddressInUse: it cannot listen.
        """
        direct = DirectServer(self._settings, self._queue, self._lifecycle)
        async with self._listening(), direct.listening(), asyncio.TaskGroup() as tasks:
            life = tasks.create_task(self._live(direct), name="life")
            others = [
                tasks.create_task(self._stopping.wished(), name="wish"),
                tasks.create_task(self._keep_measuring(direct), name="memory"),
            ]
            await asyncio.wait({life, others[0]}, return_when=asyncio.FIRST_COMPLETED)
            failure = life.result() if life.done() else None
            await (self._fail(failure) if failure else self._drain())
            for task in (life, *others):
                task.cancel()
        return failure

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        listeners = self._listeners()
        try:
            for each in listeners:
                await each.start()
            _log.debug("worker listens", address=self._settings.address)
            yield
        finally:
            self._queue.close("has ended")
            self._queue.abandon()
            self._service.end_streams()
            self._lifecycle.end()
            await asyncio.gather(*(each.stop(_GOODBYE_S) for each in listeners))
            self._device.shutdown(wait=False, cancel_futures=True)
            for path in socket_path(self._settings.address), socket_path(self._settings.health_address or ""):
                if path is not None:
                    path.unlink(missing_ok=True)

    def _listeners(self) -> list[grpc.aio.Server]:
        main = listener(
            self._settings.address,
            max_sent_bytes=self._settings.max_message_bytes,
            max_received_bytes=_MOST_OF_A_ROUTER,
        )
        self._service.add_to(main)
        listeners = [main]
        if self._settings.health_address:
            listeners.append(listener(self._settings.health_address))
        for each in listeners:
            health_pb2_grpc.add_HealthServicer_to_server(self._lifecycle.health, each)
        return listeners

    async def _live(self, direct: DirectServer) -> Failure:
        """Loads, then serves; returns only with a failure, ends by cancellation."""
        engine = await load(self._settings, self._lifecycle, self._device, self._settle)
        if isinstance(engine, Failure):
            return engine
        async with asyncio.TaskGroup() as tasks:
            answering = tasks.create_task(self._queue.run(engine, self._device), name="engine")
            await self._measure()  # what a model needs is known when it is said to serve
            self._queue.open()
            direct.open()
            self._lifecycle.advance(SERVING)
            failure = await self._until_unsound(engine)
            answering.cancel()
        return failure

    async def _until_unsound(self, engine: Engine) -> Failure:
        """Repeats the test inference as often as the deployment says."""
        interval_s = self._settings.deployment.spec.health.interval_seconds or math.inf
        while True:
            await asyncio.sleep(interval_s)
            try:
                await asyncio.get_running_loop().run_in_executor(
                    self._device, lambda: prove(engine, self._settings.deployment)
                )
            except LoadError as error:
                return Failure.of(error, "serve")

    async def _drain(self) -> None:
        self._queue.close("is draining")
        self._lifecycle.advance(DRAINING)
        async with asyncio.TaskGroup() as tasks:
            waits = [
                tasks.create_task(self._queue.drained(), name="drained"),
                tasks.create_task(self._stopping.now(), name="now"),
            ]
            await asyncio.wait(waits, timeout=self._stopping.drain_timeout_s, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()

    async def _fail(self, failure: Failure) -> None:  # a step of run, as _drain
        self._queue.close(f"cannot serve: {failure.message}")
        self._lifecycle.fail(failure)
        _log.error(
            "worker cannot serve",
            reason=failure.reason,
            where=failure.where,
            message=failure.message,
            remedy=failure.remedy,
        )

    async def _keep_measuring(self, direct: DirectServer) -> None:
        while True:
            await self._measure()
            self._lifecycle.used_directly(direct.meter.use())
            await asyncio.sleep(self._settings.status_interval_s)

    async def _measure(self) -> None:
        measured = await asyncio.to_thread(memory.measure)
        self._lifecycle.measured(used=measured.used, vram=measured.vram)


def _queue(settings: WorkerSettings) -> EntryQueue:
    # No batch is larger in bytes than one that a router can send.
    limits = BatchLimits.of(settings.deployment.spec.batching, max_bytes=settings.max_message_bytes)
    waiting: PriorityQueue[Entry] = PriorityQueue(ageing_s=settings.ageing_s or math.inf)
    return EntryQueue(settings.worker_id, settings.model_id, settings.max_queued_entries, limits, waiting)
