"""The entries that a worker has accepted, and the one task that puts them through the engine, in order of arrival.

A batch of a stream is one job. Jobs wait here, bounded by the number of their entries; what was cancelled while it
waited is dropped when its job is formed; what runs, runs to its end on the device thread.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import structlog

from modelmora.errors import InferenceFailed, InternalError, ModelMoraError, QueueFull, WorkerUnavailable
from modelmora_worker.engines import Engine, EngineInput
from modelmora_worker.inference import Answer, run_batch

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Entry:
    """One request in this worker."""

    entry_id: int
    input: EngineInput
    request_id: str = ""
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """What became of an entry; time in the engine, of its whole batch."""

    entry_id: int
    answer: Answer
    inference_ms: float = 0.0


Reply = Callable[[list[Done]], None]


@dataclass(slots=True)
class _Job:
    entries: list[Entry]
    reply: Reply


@dataclass(frozen=True, slots=True)
class EntryStatistics:
    queued: int
    running: int
    answered: int


@dataclass(slots=True)
class EntryQueue:
    """Owns what was accepted and is not answered; used from the event loop alone."""

    model_id: str
    worker_id: str
    max_entries: int
    _jobs: deque[_Job] = field(default_factory=deque)
    _running: _Job | None = None
    _answered: int = 0
    _closed: str = "is not serving yet"
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _empty: asyncio.Event = field(default_factory=asyncio.Event)

    def open(self) -> None:
        """From now on entries are accepted."""
        self._closed = ""

    def close(self, why: str) -> None:
        """From now on none are; `why` ends the sentence "worker … of model … "."""
        self._closed = why

    def submit(self, entries: Sequence[Entry], reply: Reply) -> None:
        """Takes a batch; `reply` is called once for it, on the event loop, with what was not cancelled.

        Raises:
            WorkerUnavailable: the worker does not serve yet, or drains.
            QueueFull: more entries wait than may.
        """
        if self._closed:
            raise WorkerUnavailable(
                f"worker {self.worker_id} of model {self.model_id} {self._closed}",
                model_id=self.model_id,
                remedy="send it again; another worker will take it",
            )
        waiting = self.statistics().queued
        if waiting + len(entries) > self.max_entries:
            raise QueueFull(
                f"{waiting} entries wait in worker {self.worker_id} of model {self.model_id}",
                model_id=self.model_id,
                remedy="send fewer at once, or allow more workers (spec.scaling.maxReplicas)",
                retry_after_s=1.0,
            )
        self._jobs.append(_Job(list(entries), reply))
        self._empty.clear()
        self._arrived.set()

    def statistics(self) -> EntryStatistics:
        queued = sum(not entry.cancelled for job in self._jobs for entry in job.entries)
        return EntryStatistics(queued, len(self._running.entries) if self._running else 0, self._answered)

    async def drained(self) -> None:
        """Returns when nothing waits and nothing runs."""
        while self._jobs or self._running:
            self._empty.clear()
            await self._empty.wait()

    def abandon(self) -> None:
        """Answers everything that is left with an error: the process is about to end."""
        left = [*([self._running] if self._running else []), *self._jobs]
        self._jobs.clear()
        for job in left:
            job.reply([Done(entry.entry_id, self._ended()) for entry in job.entries if not entry.cancelled])

    async def run(self, engine: Engine, device: ThreadPoolExecutor) -> None:
        """Puts job after job through the engine; ends by cancellation."""
        while True:
            while not self._jobs:
                self._empty.set()
                self._arrived.clear()
                await self._arrived.wait()
            job = self._jobs.popleft()
            job.entries = [entry for entry in job.entries if not entry.cancelled]
            if job.entries:
                self._running = job
                done = await self._through(engine, device, job.entries)
                self._running = None
                self._answered += len(done)
                job.reply(done)

    async def _through(self, engine: Engine, device: ThreadPoolExecutor, entries: list[Entry]) -> list[Done]:
        inputs = [entry.input for entry in entries]
        loop = asyncio.get_running_loop()
        try:
            batch = await loop.run_in_executor(device, lambda: run_batch(engine, inputs, model_id=self.model_id))
        except Exception:  # noqa: BLE001 - the top of a batch: a bug of ours must not end the others
            _log.exception("worker has a bug", model=self.model_id, worker=self.worker_id)
            error = InternalError(f"worker {self.worker_id} of model {self.model_id} failed", model_id=self.model_id)
            return [Done(entry.entry_id, error) for entry in entries]
        for entry, answer in zip(entries, batch.answers, strict=True):
            if isinstance(answer, InferenceFailed):
                _log.debug("request failed", model=self.model_id, request_id=entry.request_id, cause=answer.message)
        took_ms = batch.seconds * 1e3
        return [Done(entry.entry_id, answer, took_ms) for entry, answer in zip(entries, batch.answers, strict=True)]

    def _ended(self) -> ModelMoraError:
        return WorkerUnavailable(
            f"worker {self.worker_id} of model {self.model_id} ended before its answer",
            model_id=self.model_id,
            remedy="send it again; another worker will take it",
        )
