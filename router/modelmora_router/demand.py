"""How much this router wants each model, and the idle clocks.

A model is wanted from the first request for it until nobody has used it for `scaling.scaleToZeroAfterSeconds`. A wake
is published at once. Anything else is looked at once an interval, and published only when it could change what the
operator does: a model is no longer wanted, its load moved, its requests have begun to wait for a worker or no longer
do, or its last use is a good deal later than was said; and while some model waits for a place, that requests have
become more urgent, or are over.
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
_LINGERS_S: Final = 2.0  # so long a model that was used last counts as busy: the next request may be on its way


@dataclass(frozen=True, slots=True)
class Use:
    """What is known of one model's use. The monotonic clock, so that a wall clock that jumps unloads nothing."""

    used_at: float
    load: float = 0.0
    load_asked_at: float = 0.0  # Unix time of the last explicit load
    urgency: int = 0  # as in Demand
    waiting_since: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """What a model's lane shows now."""

    outstanding: int  # requests waiting and running
    idle_limit_s: float  # unused for so long, it is no longer wanted
    urgency: int = 0  # of the most urgent of those requests
    usual_urgency: int = 0  # of one that does not say, or that was refused
    serving: bool = True  # a worker takes requests


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
    urgency = _urgency(use, sample, unused_s=now - used_at)
    since = now if use.waiting_since is None else use.waiting_since
    return replace(
        use,
        used_at=used_at,
        load=averaged(use.load, sample.outstanding, elapsed_s=elapsed_s),
        urgency=urgency,
        waiting_since=since if urgency and not sample.serving else None,
    )


def _urgency(use: Use, sample: Sample, *, unused_s: float) -> int:
    """Also of who asked just now and is gone, or was refused: what it asked for may be tried again for it."""
    if sample.urgency or unused_s >= _LINGERS_S:
        return sample.urgency
    return use.urgency or sample.usual_urgency


def averaged(load: float, outstanding: int, *, elapsed_s: float) -> float:
    """The moving average after `elapsed_s` more seconds with so many requests outstanding."""
    share = 1 - math.exp(-elapsed_s / _AVERAGED_OVER_S)
    moved = load + (outstanding - load) * share
    return moved if moved >= 0.01 else 0.0  # noqa: PLR2004 - an average fades for ever; so little is nothing


def entries(uses: Mapping[Key, Use], *, now: float, unix_now: float) -> dict[Key, Demand]:
    """What to publish."""
    return {
        key: Demand(
            load=round(use.load, 2),
            last_used_at=unix_now - (now - use.used_at),
            load_asked_at=use.load_asked_at,
            urgency=use.urgency,
            waiting_since=0.0 if use.waiting_since is None else unix_now - (now - use.waiting_since),
        )
        for key, use in uses.items()
    }


def matters(published: Demands, wanted: Demands, *, contended: bool) -> bool:
    """Whether the operator could do something else once it knows. `contended`: some model waits for a place."""
    return published.keys() != wanted.keys() or any(
        _moved(published[key], wanted[key]) or (contended and _presses_otherwise(published[key], wanted[key]))
        for key in wanted
    )


def _moved(before: Demand, after: Demand) -> bool:
    load_moved = abs(after.load - before.load) > _LOAD_MOVED * max(before.load, 1.0)
    used_later = abs(after.last_used_at - before.last_used_at) >= _USE_MOVED_S
    asked = after.load_asked_at != before.load_asked_at
    waits = bool(before.waiting_since) != bool(after.waiting_since)
    return load_moved or used_later or asked or waits


def _presses_otherwise(before: Demand, after: Demand) -> bool:
    """That it has become less urgent can wait until something else is said: a mix of priorities comes and goes."""
    idle_or_busy = bool(before.urgency) != bool(after.urgency)
    return idle_or_busy or 0 < after.urgency < before.urgency


# ------------------------------------------------------------------------------------------------ the owner


class DemandTracker:
    """Owns the idle clocks and publishes what follows from them."""

    def __init__(
        self,
        control: Control,
        sample: Callable[[Key], Sample | None],
        *,
        interval_s: float,
        contended: Callable[[], bool] = lambda: False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._control = control
        self._sample = sample
        self._contended = contended
        self._interval_s = interval_s
        self._now = now
        self._uses: dict[Key, Use] = {}
        self._published: Demands = {}
        self._published_at = 0.0
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
            if not use.urgency and self._is_asleep(key) and now - self._published_at >= self._interval_s:
                self._urgent.set()  # it had to give way to another

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

    def _is_asleep(self, key: Key) -> bool:
        sample = self._sample(key)
        return sample is not None and not sample.serving

    def _look(self, now: float, *, elapsed_s: float) -> None:
        looked = {
            key: next_use(use, self._sample(key), published=key in self._published, now=now, elapsed_s=elapsed_s)
            for key, use in self._uses.items()
        }
        for key in [key for key, use in looked.items() if use is None]:
            log.info("model is no longer wanted", deployment=str(key))
        self._uses = {key: use for key, use in looked.items() if use is not None}

    async def _publish(self) -> None:
        wanted = entries(self._uses, now=self._now(), unix_now=time.time())
        if self._said.is_set() and not matters(self._published, wanted, contended=self._contended()):
            return
        try:
            await self._control.publish_demand(wanted)
        except ServerUnavailable as error:
            log.warning("demand was not published; it is tried again", error=error.message)
            return
        for key in wanted.keys() - self._published.keys():
            log.info("model is wanted", deployment=str(key))
        self._published, self._published_at = wanted, self._now()
        self._said.set()

    async def _pause(self) -> None:
        # With nothing wanted there is nothing to look at; what was not published yet is tried again.
        idle = self._said.is_set() and not self._uses and not self._published
        try:
            async with asyncio.timeout(None if idle else self._interval_s):
                await self._urgent.wait()
        except TimeoutError:
            return
