"""How a caller who found nothing gets its model: by a load of its own, or by waiting for that of another.

Said once, as a coroutine, for threads and for event loops. What differs is how to wait and where a loader runs; in a
thread both end before they return, so that the coroutine never stops half way.
"""

import asyncio
import copy
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import TypeVar

from modelmora.errors import DeadlineExceeded, ModelMoraError
from modelmora.registry.entries import Claim, Entry, Step, Unload
from modelmora.registry.keeper import Keeper
from modelmora.registry.loading import Loader, Loading
from modelmora.registry.nesting import refuse_endless_wait

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request for a model."""

    key: Hashable
    loader: Loader
    size_bytes: int | None
    unload: Unload | None
    ends_at: float  # by time.monotonic()

    def left_s(self) -> float:
        """For how long it may still wait."""
        return min(max(0.0, self.ends_at - time.monotonic()), threading.TIMEOUT_MAX)


@dataclass(frozen=True, slots=True)
class _Manner:
    """Of a kind of caller. `wait` says why the step failed, or None; it raises TimeoutError."""

    wait: Callable[[Step, float], Awaitable[ModelMoraError | None]]
    start: Callable[[Claim, Loader, float], None]
    blocking: bool


class Acquiring:
    """Takes references in one registry."""

    def __init__(self, keeper: Keeper, loading: Loading, free_bytes: Callable[[], int | None]) -> None:
        self._keeper = keeper
        self._ledger = keeper.ledger
        self._free_bytes = free_bytes
        self._here = _Manner(_wait_here, loading.here, blocking=True)
        self._apart = _Manner(_wait_apart, loading.apart, blocking=False)

    def here(self, asked: Asked) -> Entry:
        """In this thread."""
        return _at_once(self._acquire(asked, self._here))

    async def apart(self, asked: Asked) -> Entry:
        """On this event loop."""
        return await self._acquire(asked, self._apart)

    async def _acquire(self, asked: Asked, manner: _Manner) -> Entry:
        while True:
            claim = self._ledger.claim(asked.key, asked.size_bytes, asked.unload, self._free_bytes())
            if not claim.gone:
                return await self._referenced(claim, asked, manner)
            await self._over(claim.entry, asked, manner)

    async def _referenced(self, claim: Claim, asked: Asked, manner: _Manner) -> Entry:
        """The claim counts a reference already: it is given back if nothing comes of it."""
        entry = claim.entry
        try:
            if claim.mine:
                manner.start(claim, asked.loader, asked.left_s())
            failure = await self._over(entry, asked, manner)
        except BaseException:
            self._keeper.release(entry)
            raise
        if failure is not None:
            raise failure if claim.mine else _again(failure)
        if not claim.mine:
            self._ledger.joined(entry)
        return entry

    async def _over(self, entry: Entry, asked: Asked, manner: _Manner) -> ModelMoraError | None:
        step = entry.step
        if step.done():
            return step.result()
        refuse_endless_wait(entry, blocking=manner.blocking)
        try:
            return await manner.wait(step, asked.left_s())
        except TimeoutError:
            raise _too_late(asked) from None


async def _wait_here(step: Step, timeout_s: float) -> ModelMoraError | None:
    return step.result(timeout_s)


async def _wait_apart(step: Step, timeout_s: float) -> ModelMoraError | None:
    async with asyncio.timeout(timeout_s):
        return await asyncio.wrap_future(step)


def _at_once(coroutine: Coroutine[object, object, T]) -> T:
    """What a coroutine returns that never waits for a loop."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("a blocking wait did not block")


def _again(failure: ModelMoraError) -> ModelMoraError:
    """An instance for each caller: tracebacks of several threads do not mix in one."""
    own = copy.copy(failure)
    own.__cause__ = failure.__cause__
    return own


def _too_late(asked: Asked) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"the wait for {asked.key!r} took longer than its caller allows",
        model_id=str(asked.key),
        remedy="raise timeout_s; what others load is not stopped by this",
    )
