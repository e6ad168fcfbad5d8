"""How much this router wants each model, and the idle clocks.

A model is wanted from the first request for it until nobody has used it for `scaling.scaleToZeroAfterSeconds`. A wake
is published at once. Anything else is looked at once an interval, and published only when it could change what the
operator does: a model is no longer wanted, its load moved, or its last use is a good deal later than was said.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import structlog

from modelmora.control import Control, Demand, Demands, Key
from modelmora.errors import ServerUnavailable

log = structlog.get_logger(__name__)

_AVERAGED_OVER_S: Final = 5.0
_LOAD_MOVED: Final = 0.2  # share of what was published
_USE_MOVED_S: Final = 10.0
_USED_JUST_NOW_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Use:
    """What is known of one model's use. The monotonic clock, so that a wall clock that jumps unloads nothing."""

    used_at: float
    load: float = 0.0
    load_asked_at: float = 0.0  # Unix time of the last explicit load


@dataclass(frozen=True, slots=True)
class Sample:
    """What a model's lane shows now."""

    outstanding: int  # requests waiting and running
    idle_limit_s: float  # unused for so long, it is no longer wanted


# ------------------------------------------------------------------------------------------------ decisions


def next_use(use: Use, sample: Sample | None, *, published: bool, now: float, elapsed_s: float) -> Use | None:
    """The use after one more look; None if the model is no longer wanted, or no longer there.

    A wake that is not `published` yet is kept: even a request that was refused at once must reach the operator.
    """
    if sample is None:
        return None
    used_at = now if sample.outstanding else use.used_at
    if published and not sample.outstanding and now - used_at >= sample.idle_limit_s:
        return None
    return replace(use, used_at=used_at, load=averaged(use.load, sample.outstanding, elapsed_s=elapsed_s))


def averaged(load: float, outstanding: int, *, elapsed_s: float) -> float:
    """The moving average after `elapsed_s` more seconds with so many requests outstanding."""
    share = 1 - math.exp(-elapsed_s / _AVERAGED_OVER_S)
    moved = load + (outstanding - load) * share
    return moved if moved >= 0.01 else 0.0  # noqa: PLR2004 - an average fades for ever; so little is nothing


def entries(uses: Mapping[Key, Use], *, now: float, unix_now: float) -> dict[Key, Demand]:
    """What to publish."""
    return {
        key: Demand(round(use.load, 2), unix_now - (now - use.used_at), use.load_asked_at) for key, use in uses.items()
    }


def matters(published: Demands, wanted: Demands) -> bool:
    """Whether the operator could do something else once it knows."""
    return published.keys() != wanted.keys() or any(_moved(published[key], wanted[key]) for key in wanted)


def _moved(before: Demand, after: Demand) -> bool:
    load_moved = abs(after.load - before.load) > _LOAD_MOVED * max(before.load, 1.0)
    used_later = abs(after.last_used_at - before.last_used_at) >= _USE_MOVED_S
    return load_moved or used_later or after.load_asked_at != before.load_asked_at


# ------------------------------------------------------------------------------------------------ the owner


class DemandTracker:
    """Owns the idle clocks and publishes what follows from them."""

    def __init__(
        self,
        control: Control,
        sample: Callable[[Key], Sample | None],
        *,
        interval_s: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._control = control
        self._sample = sample
        self._interval_s = interval_s
        self._now = now
        self._uses: dict[Key, Use] = {}
        self._published: Demands = {}
        self._said = asyncio.Event()
        self._urgent = asyncio.Event()

    @property
    def said(self) -> asyncio.Event:
        """Set once a demand was published, and be it that nothing is wanted: it says that this router lives."""
        return self._said

    def touch(self, key: Key) -> None:
        """Someone uses the model now; wakes it if it was not wanted."""
        use, now = self._uses.get(key), self._now()
        if use is None:
            self._urgent.set()
            self._uses[key] = Use(now)
        elif now - use.used_at > _USED_JUST_NOW_S:  # each request comes by here
            self._uses[key] = replace(use, used_at=now)

    def ask_load(self, key: Key) -> None:
        """Someone wants the model loaded now, whatever became of the last attempt."""
        use = self._uses.get(key, Use(self._now()))
        self._uses[key] = replace(use, used_at=self._now(), load_asked_at=time.time())
        self._urgent.set()

    def forget(self, key: Key) -> None:
        """The model is no longer wanted, however lately it was used."""
        if self._uses.pop(key, None) is not None:
            self._urgent.set()

    def statistics(self) -> Demands:
        """What was last published."""
        return dict(self._published)

    async def run(self) -> None:
        """Looks and publishes until cancelled."""
        looked_at = self._now()
        while True:
            self._urgent.clear()
            now = self._now()
            self._look(now, elapsed_s=now - looked_at)
            looked_at = now
            await self._publish()
            await self._pause()

    def _look(self, now: float, *, elapsed_s: float) -> None:
        looked = {
            key: next_use(use, self._sample(key), published=key in self._published, now=now, elapsed_s=elapsed_s)
            for key, use in self._uses.items()
        }
        for key in [key for key, use in looked.items() if use is None]:
            log.info("model is no longer wanted", model=str(key))
        self._uses = {key: use for key, use in looked.items() if use is not None}

    async def _publish(self) -> None:
        wanted = entries(self._uses, now=self._now(), unix_now=time.time())
        if self._said.is_set() and not matters(self._published, wanted):
            return
        try:
            await self._control.publish_demand(wanted)
        except ServerUnavailable as error:
            log.warning("demand was not published; it is tried again", error=error.message)
            return
        for key in wanted.keys() - self._published.keys():
            log.info("model is wanted", model=str(key))
        self._published = wanted
        self._said.set()

    async def _pause(self) -> None:
        # With nothing wanted there is nothing to look at; what was not published yet is tried again.
        idle = self._said.is_set() and not self._uses and not self._published
        try:
            async with asyncio.timeout(None if idle else self._interval_s):
                await self._urgent.wait()
        except TimeoutError:
            return
