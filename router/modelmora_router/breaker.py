"""Whether a replica is trusted with requests. No I/O; times are passed in, monotonic, in seconds.

Closed, everything passes. After so many failures in a row it opens: nothing passes for a while, longer each time. Then
it is half open: one request passes, and what becomes of it closes the breaker or opens it again.
"""

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final


class BreakerState(StrEnum):
    """What passes: everything, one request, nothing."""

    CLOSED = "Closed"
    HALF_OPEN = "HalfOpen"
    OPEN = "Open"


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a breaker opens, and for how long."""

    failures: int = 5  # in a row
    open_s: float = 1.0  # the first time
    max_open_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Breaker:
    """Of one replica."""

    failures: int = 0  # in a row
    openings: int = 0  # without a success in between
    open_until: float = -math.inf

    def state(self, now: float) -> BreakerState:
        if not self.openings:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < self.open_until else BreakerState.HALF_OPEN

    def failed(self, policy: BreakerPolicy, *, now: float, chance: float) -> "Breaker":
        """After one more failure; `chance` from 0 to 1 spreads the probes of several routers."""
        state = self.state(now)
        if state is BreakerState.OPEN:  # of what was sent before it opened
            return self
        if state is BreakerState.CLOSED and self.failures + 1 < policy.failures:
            return replace(self, failures=self.failures + 1)
        open_s = min(policy.open_s * 2**self.openings, policy.max_open_s) * (0.75 + chance / 2)
        return Breaker(self.failures + 1, self.openings + 1, now + open_s)

    def succeeded(self) -> "Breaker":
        """After an answer."""
        return CLOSED


CLOSED: Final = Breaker()
