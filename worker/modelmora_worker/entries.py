"""The entries that a worker has accepted, and the one task that puts them through the engine.

The entries of all streams stand in one line, the more urgent first; batches are formed of whatever is there when the
engine is free. Nobody is waited for: routers have done that. So what is urgent goes before what a router sent earlier,
entries of several routers share a batch, and each router gets its part of the answers.

What is cancelled while it waits has left at once; what runs, runs to its end on the device thread, unless the engine
looks at `EngineInput.wanted`.
"""

import asyncio
import itertools
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import structlog

from modelmora.errors import InternalError, ModelMoraError, QueueFull, WorkerUnavailable
from modelmora.scheduling import BatchLimits, PriorityQueue, form
from modelmora_worker import request_log
from modelmora_worker.engines import Engine, TokenCounter
from modelmora_worker.entry import Done, Entry, Owner
from modelmora_worker.inference import Answer, count_tokens, run_batch

_log = structlog.get_logger(__name__)
_Reply: TypeAlias = tuple[Owner, list[Entry], list[bytes]]


@dataclass(frozen=True, slots=True)
class EntryStatistics:
    queued: int
    running: int
    answered: int


@dataclass(slots=True)
class EntryQueue:
    """Owns what was accepted and is not answered; used from the event loop alone."""

    worker_id: str
    model_id: str
    max_entries: int
    limits: BatchLimits
    waiting: PriorityQueue[Entry] = field(default_factory=PriorityQueue)
    _weighs: bool = False  # the engine counts tokens, and somebody wants to know
    _unweighed: dict[int, Entry] = field(default_factory=dict)
    _running: Sequence[Entry] = ()
    _began_at: float = 0.0  # what runs
    _answered: int = 0
    _closed: str = "is not serving yet"
    _ids: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _empty: asyncio.Event = field(default_factory=asyncio.Event)

    def open(self) -> None:
        """From now on entries are accepted."""
        self._closed = ""

    def close(self, why: str) -> None:
        """From now on none are; `why` ends the sentence "worker … of model … "."""
        self._closed = why

    def submit(self, entries: Sequence[Entry]) -> None:
        """Takes all of them; their owners get a reply for each that is not cancelled, on the event loop.

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
        if len(self.waiting) + len(entries) > self.max_entries:
            raise self._full()
        now = time.monotonic()
        for entry in entries:
            entry.entry_id, entry.arrived_at = next(self._ids), now
            self.waiting.push(entry)
            if self._weighs:
                self._unweighed[entry.entry_id] = entry
        self._arrived.set()

    def cancel(self, entries: Iterable[Entry]) -> None:
        """Nobody waits for them any more: those that wait leave, those that run are marked so."""
        for entry in entries:
            entry.cancelled = True
            self._unweighed.pop(entry.entry_id, None)
            if self.waiting.remove(entry):
                entry.owner.left(entry)

    def statistics(self) -> EntryStatistics:
        running = sum(not entry.cancelled for entry in self._running)
        return EntryStatistics(len(self.waiting), running, self._answered)

    async def drained(self) -> None:
        """Returns when nothing waits and nothing runs."""
        while len(self.waiting) or self._running:
            self._empty.clear()
            await self._empty.wait()

    def abandon(self) -> None:
        """Answers everything that is left with an error: the process is about to end.

        What has run for a while says so, by its time in the engine: it may not be worked on twice unasked.
        """
        running, waiting, error = self._running, self.waiting.entries(), self._ended()
        ran_ms = (time.monotonic() - self._began_at) * 1e3
        replies = _replies(running, [error] * len(running), ran_ms)
        replies += _replies(waiting, [error] * len(waiting))
        self.cancel([*running, *waiting])
        self._running = ()
        self._send(replies)

    async def run(self, engine: Engine, device: ThreadPoolExecutor) -> None:
        """Puts batch after batch through the engine; ends by cancellation."""
        self._weighs = self.limits.max_tokens is not None and isinstance(engine, TokenCounter)
        context = copy_context()  # what is bound to every line of the log, on the device thread too
        while True:
            await self._weigh(engine, device)
            batch = form(self.waiting, self.limits, time.monotonic())
            if not batch:
                self._empty.set()
                self._arrived.clear()
                await self._arrived.wait()
                continue
            await self._pass(engine, batch, device, context)

    async def _pass(self, engine: Engine, batch: Sequence[Entry], device: ThreadPoolExecutor, context: Context) -> None:
        """Keeps nothing of the batch: while nothing else comes, its memory is not to wait for the next one."""
        self._running, self._began_at = batch, time.monotonic()
        request_log.started(batch)
        replies = await asyncio.get_running_loop().run_in_executor(device, context.run, self._work, engine, batch)
        if self._running is batch:  # else it was abandoned meanwhile, and has its answers
            self._running = ()
            self._send(replies)
        for entry in batch:
            entry.owner.left(entry)

    async def _weigh(self, engine: Engine, device: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while self._unweighed:
            entries, self._unweighed = list(self._unweighed.values()), {}
            inputs = [entry.input() for entry in entries]
            count = partial(count_tokens, engine, inputs, model_id=self.model_id)
            for entry, tokens in zip(entries, await loop.run_in_executor(device, count), strict=True):
                entry.tokens = tokens

    def _work(self, engine: Engine, batch: Sequence[Entry]) -> list[_Reply]:
        """On the device thread, up to the messages: the engine may use the memory of its answers again."""
        try:
            done = run_batch(engine, [entry.input() for entry in batch], model_id=self.model_id)
            took_ms = done.seconds * 1e3
            request_log.ended(batch, done.answers, inference_ms=took_ms)
            return _replies(batch, done.answers, took_ms, batch_size=len(batch))
        except Exception:  # noqa: BLE001 - the top of a batch: a bug of ours must not end the others
            _log.exception("worker has a bug", model=self.model_id, worker=self.worker_id)
            error = InternalError(f"worker {self.worker_id} of model {self.model_id} failed", model_id=self.model_id)
            return _replies(batch, [error] * len(batch))

    def _send(self, replies: Iterable[_Reply]) -> None:
        for owner, entries, messages in replies:
            self._answered += len(entries)
            owner.reply(entries, messages)

    def _full(self) -> QueueFull:
        return QueueFull(
            f"{len(self.waiting)} entries wait in worker {self.worker_id} of model {self.model_id}",
            model_id=self.model_id,
            remedy="send fewer at once, or allow more workers (spec.scaling.maxReplicas)",
            retry_after_s=1.0,
        )

    def _ended(self) -> ModelMoraError:
        return WorkerUnavailable(
            f"worker {self.worker_id} of model {self.model_id} ended before its answer",
            model_id=self.model_id,
            remedy="send it again; another worker will take it",
        )


def _replies(
    entries: Sequence[Entry], answers: Sequence[Answer], inference_ms: float = 0.0, *, batch_size: int = 0
) -> list[_Reply]:
    """The messages for each owner; none for what nobody waits for any more."""
    parts: dict[Owner, list[tuple[Entry, Done]]] = {}
    wanted = ((entry, answer) for entry, answer in zip(entries, answers, strict=True) if entry.wanted())
    for index, (entry, answer) in enumerate(wanted):
        done = Done(entry.sent_id, answer, inference_ms, batch_size, index)
        parts.setdefault(entry.owner, []).append((entry, done))
    return [
        (owner, [entry for entry, _ in part], owner.written([done for _, done in part]))
        for owner, part in parts.items()
    ]
