"""How far a worker is trusted with requests: its breaker, and what counts as a failure of it. Owned by a replica."""

import random
from collections.abc import Callable
from typing import Final

from modelmora_router.breaker import CLOSED, BreakerPolicy, BreakerState
from modelmora_router.settings import RouterSettings

_UNKNOWN_PATIENCE_S: Final = 30.0
_LEAST_PATIENCE_S: Final = 1.0
_PATIENCE: Final = 4.0  # times what the slowest of the last answers took
_FADES: Final = 0.9  # with each answer, of the slowest


class Trust:
    """In one worker. Times are monotonic; `chance` from 0 to 1 spreads the probes of several routers."""

    def __init__(self, settings: RouterSettings, chance: Callable[[], float] = random.random) -> None:
        self._policy = BreakerPolicy(settings.breaker_failures, settings.breaker_open_s, settings.breaker_max_open_s)
        self._chance = chance
        self._breaker = CLOSED
        self._answered_at = 0.0
        self._slowest_s: float | None = None

    @property
    def failures(self) -> int:
        """In a row."""
        return self._breaker.failures

    @property
    def regained_at(self) -> float | None:
        """When one request may be tried again; None: it is trusted."""
        return self._breaker.open_until if self._breaker.openings else None

    def state(self, now: float) -> BreakerState:
        return self._breaker.state(now)

    def failed(self, now: float) -> bool:
        """It broke the stream while it had work, or is silent; the answer: whether it lost its trust by that."""
        before = self._breaker
        self._breaker = before.failed(self._policy, now=now, chance=self._chance())
        return self._breaker.openings > before.openings

    def is_silent(self, sent_at: float, now: float, *, overdue: bool) -> bool:
        """Whether it is its fault that what was sent then has no answer: only if it has answered nothing since.

        A worker may be slow. But one that is being tried must answer while the trial's time lasts: else nobody would
        know what became of it. A trial that had less time than an answer may take tells nothing.
        """
        if self._answered_at > sent_at:
            return False
        if self._breaker.openings:
            if sent_at < self._breaker.open_until:  # before it opened: that has been counted
                return False
            if overdue:
                return now - sent_at >= (self._slowest_s or _LEAST_PATIENCE_S)
        return now - sent_at > self._patience_s

    @property
    def _patience_s(self) -> float:
        slowest_s = self._slowest_s
        return _UNKNOWN_PATIENCE_S if slowest_s is None else max(_LEAST_PATIENCE_S, _PATIENCE * slowest_s)

    def answered(self, sent_at: float, now: float) -> bool:
        """What was sent then; the answer is whether it is trusted again because of that."""
        self._answered_at = now
        self._slowest_s = max(now - sent_at, _FADES * (self._slowest_s or 0.0))
        if self._breaker is CLOSED:
            return False
        regained, self._breaker = self._breaker.openings > 0, self._breaker.succeeded()
        return regained
