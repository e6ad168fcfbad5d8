"""Whether, and when, a request that came back without an answer is sent again. No I/O; times are passed in, monotonic.

Three bounds hold retries back: what one request may use of them, a budget that all requests of a model fill together so
that retries stay a small share of the traffic, and a back-off that spreads them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from modelmora.errors import ModelMoraError, QueueFull
from modelmora_router.deadlines import Deadlines
from modelmora_router.tickets import Ticket

_MAX_SENDS: Final = 3  # of a request that workers gave back unworked
_MAX_LOSSES: Final = 2  # of a request whose worker ended with it: perhaps it is the cause

_FIRST_S: Final = 0.02
_CAP_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """Retries that are left: each request adds a share of one, each retry takes one."""

    share: float = 0.2
    most: float = 20.0
    left: float = 20.0

    def earned(self) -> "RetryBudget":
        """After one more request."""
        return (
            self
            if self.left >= self.most
            else RetryBudget(self.share, self.most, min(self.most, self.left + self.share))
        )

    def spent(self) -> "RetryBudget | None":
        """After one more retry; None: there is none left."""
        return RetryBudget(self.share, self.most, self.left - 1) if self.left >= 1 else None


def may_retry(*, idempotent: bool, losses: int, elsewhere: bool) -> bool:
    """Whether a request that was lost so often may be sent again, if the budget allows it."""
    return idempotent and elsewhere and losses < _MAX_LOSSES


def backoff_s(attempt: int, *, chance: float) -> float:
    """How long to wait before the retry of that number, from 1; `chance` from 0 to 1 is the jitter."""
    delay_s: float = min(_CAP_S, _FIRST_S * 2 ** (attempt - 1))
    return delay_s * (0.5 + chance / 2)


class Retrying:
    """Between two sends a request is parked here. Times are monotonic; `chance` gives the jitter, from 0 to 1."""

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance
        self._parked = Deadlines()
        self._budget = RetryBudget()

    def __len__(self) -> int:
        return len(self._parked)

    def earned(self) -> None:
        """One more request has come."""
        self._budget = self._budget.earned()

    def may(self, ticket: Ticket, *, elsewhere: bool) -> bool:
        """Whether a request that was lost with its worker may be sent again, the budget aside."""
        return may_retry(idempotent=ticket.call.idempotent, losses=ticket.losses, elsewhere=elsewhere)

    def spend(self) -> bool:
        """Whether the budget had one more retry, which it now has no longer."""
        left = self._budget.spent()
        self._budget = left or self._budget
        return left is not None

    def park(self, ticket: Ticket, attempt: int, now: float) -> None:
        """Until its back-off is over."""
        self._parked.set(ticket.entry_id, now + backoff_s(attempt, chance=self._chance()))

    def forget(self, ticket: Ticket) -> None:
        self._parked.remove(ticket.entry_id)

    def due(self, now: float) -> list[int]:
        """Takes those whose back-off is over."""
        return self._parked.pop_due(now)

    def next_at(self) -> float | None:
        return self._parked.next_at()


def given_back_too_often(ticket: Ticket) -> bool:
    """Whether a request that workers give back unworked is sent no more."""
    return ticket.sends >= _MAX_SENDS


def later(ticket: Ticket, error: ModelMoraError) -> bool:
    """Whether what a worker gave back goes out again only after a while: a full queue takes time to empty.

    And the notice of a worker that drains takes time to come: until then it has the least to do, and gets it again.
    """
    return ticket.sends > 1 or isinstance(error, QueueFull)
