"""Keys to be reconciled: each at most once in the queue, never twice at the same time.

A key that is added while it is being worked on runs once more afterwards, so no change is lost and none is handled
twice at once. A reconcile answers with the seconds after which it wants to look again; a failed one is retried with
back-off. The queue is bounded by the number of keys; a fixed number of tasks works on it.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from modelmora_operator.backoff import Backoff

K = TypeVar("K")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the queue is doing; `oldest_s` is the age of the oldest key that waits or runs, 0 when idle."""

    waiting: int
    running: int
    scheduled: int
    finished: int
    failed: int
    oldest_s: float


class WorkQueue(Generic[K]):
    """Used from one event loop. `run` works on the keys until it is cancelled."""

    def __init__(
        self,
        *,
        concurrency: int = 4,
        backoff: Backoff | None = None,
        expected: tuple[type[Exception], ...] = (),
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._concurrency = concurrency
        self._backoff = backoff or Backoff()
        self._expected = expected  # no bugs: told in words, without a traceback
        self._clock = clock
        self._chance = chance
        self._waiting: dict[K, float] = {}  # in order of arrival, with its time
        self._running: dict[K, float] = {}
        self._again: set[K] = set()  # added while running
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._finished = 0
        self._failed = 0
        self._wake = asyncio.Event()

    def add(self, key: K) -> None:
        """To be reconciled now, or once more when its present reconcile has ended."""
        if key in self._running:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting[key] = self._clock()
            self._wake.set()

    def add_after(self, key: K, delay_s: float) -> None:
        """To be reconciled at that time, unless a later call names another."""
        self._unschedule(key)
        self._timers[key] = asyncio.get_running_loop().call_later(delay_s, self._due, key)

    def statistics(self) -> Statistics:
        """Numbers of the moment."""
        oldest = min([*self._waiting.values(), *self._running.values()], default=None)
        return Statistics(
            waiting=len(self._waiting),
            running=len(self._running),
            scheduled=len(self._timers),
            finished=self._finished,
            failed=self._failed,
            oldest_s=0.0 if oldest is None else self._clock() - oldest,
        )

    async def run(self, reconcile: Callable[[K], Awaitable[float | None]]) -> None:
        """Works on the keys, several side by side, until it is cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for number in range(self._concurrency):
                    tasks.create_task(self._work(reconcile), name=f"reconcile-{number}")
        finally:
            for key in list(self._timers):
                self._unschedule(key)

    async def _work(self, reconcile: Callable[[K], Awaitable[float | None]]) -> None:
        while True:
            key = await self._take()
            try:
                await self._handle(key, reconcile)
            finally:
                self._done(key)

    async def _take(self) -> K:
        while not self._waiting:
            self._wake.clear()
            await self._wake.wait()
        key = next(iter(self._waiting))
        del self._waiting[key]
        self._running[key] = self._clock()
        self._unschedule(key)
        return key

    async def _handle(self, key: K, reconcile: Callable[[K], Awaitable[float | None]]) -> None:
        try:
            again_after_s = await reconcile(key)
        except Exception as error:  # noqa: BLE001 - whatever it is, the key comes again
            self._fail(key, error)
            return
        self._finished += 1
        self._failures.pop(key, None)
        if again_after_s is not None:
            self.add_after(key, again_after_s)

    def _fail(self, key: K, error: Exception) -> None:
        self._failed += 1
        self._failures[key] = self._failures.get(key, 0) + 1
        delay_s = self._backoff.delay_s(self._failures[key], self._chance())
        told = {"key": str(key), "failures": self._failures[key], "retry_after_s": round(delay_s, 3)}
        if isinstance(error, self._expected):
            log.warning("reconcile failed", **told, cause=str(error) or type(error).__name__)
        else:
            log.error("reconcile failed", **told, exc_info=error)
        self.add_after(key, delay_s)

    def _done(self, key: K) -> None:
        del self._running[key]
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def _due(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _unschedule(self, key: K) -> None:
        if timer := self._timers.pop(key, None):
            timer.cancel()
