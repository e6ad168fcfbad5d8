"""What becomes of a router process that has ended unasked: it is started again, or all of them end. No I/O."""

import signal
from dataclasses import dataclass
from typing import Final

CANNOT_START: Final = 2  # the exit code of a program that has said why it cannot begin

_FIRST_S: Final = 0.5
_CAP_S: Final = 30.0
_MAX_DOUBLINGS: Final = 16  # beyond it the cap has long been reached
_UNDECIDED_S: Final = 5.0  # the others were started at the same time: by then it is known whether they began
_WELL_AFTER_S: Final = 30.0  # who lived so long is started again at once


@dataclass(frozen=True, slots=True)
class History:
    """Of one of the processes: how often it was started, and how often in a row it did not live long."""

    starts: int = 0
    failures: int = 0

    def started(self) -> "History":
        """After one more start."""
        return History(self.starts + 1, self.failures)

    def ended(self, lived_s: float) -> "History":
        """After its end."""
        return History(self.starts, 0 if lived_s >= _WELL_AFTER_S else self.failures + 1)

    def delay_s(self, code: int | None) -> float:
        """Before the next start, after an end with this exit code; None: it could not be started."""
        if code is not None and self.could_not_begin(code):
            return _UNDECIDED_S
        if not self.failures:
            return 0.0
        return min(_CAP_S, _FIRST_S * 2.0 ** min(self.failures - 1, _MAX_DOUBLINGS))

    def could_not_begin(self, code: int) -> bool:
        """Whether its first start failed by its own word. Later the same is no reason to give up."""
        return code == CANNOT_START and self.starts == 1


def is_hopeless(could_not_begin: int, count: int) -> bool:
    """Whether the whole program is to end: so many of them could not begin, and none has begun.

    One alone is tried again: while the API server is away, the others serve what they know.
    """
    return could_not_begin == count


def manner(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal has no name
        return f"killed by signal {-code}"
