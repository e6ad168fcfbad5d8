"""The requests of a lane, and where each of them is: in the queue, parked between two sends, or with a replica.

A request is in here from when it is admitted until it is settled, and after that nowhere any more. No I/O; times are
passed in, monotonic.
"""

import math
from collections.abc import Callable, Iterator
from itertools import count

from modelmora.scheduling import PriorityQueue
from modelmora_router.deadlines import Deadlines
from modelmora_router.retries import Retrying
from modelmora_router.tickets import Ticket


class Ledger:
    """Of one lane. `queue` and `retrying` are its own; whoever takes a ticket out of the queue sends it at once."""

    def __init__(self, *, ageing_s: float, chance: Callable[[], float]) -> None:
        self.queue: PriorityQueue[Ticket] = PriorityQueue(ageing_s=ageing_s or math.inf)
        self.retrying = Retrying(chance)
        self._tickets: dict[int, Ticket] = {}
        self._deadlines = Deadlines()
        self._ids = count(1)

    def __len__(self) -> int:
        return len(self._tickets)

    @property
    def queued(self) -> int:
        """Those that no replica has."""
        return len(self.queue) + len(self.retrying)

    @property
    def urgency(self) -> int:
        """The most urgent priority of all of them; 0: there are none."""
        return min({ticket.priority for ticket in self._tickets.values()}, default=0)

    def next_id(self) -> int:
        """Of the ticket that comes next."""
        return next(self._ids)

    def find(self, entry_id: int) -> Ticket | None:
        """The ticket, unless it is settled."""
        return self._tickets.get(entry_id)

    def all(self) -> list[Ticket]:
        return list(self._tickets.values())

    def waiting(self) -> list[Ticket]:
        return [ticket for ticket in self._tickets.values() if ticket.replica is None]

    def add(self, ticket: Ticket) -> None:
        """At the end of its line."""
        self._tickets[ticket.entry_id] = ticket
        self.queue.push(ticket)
        self._set_end(ticket)

    def take_back(self, ticket: Ticket, *, awake: bool, now: float) -> None:
        """Its replica has it no longer: to be put back into the queue, or parked."""
        ticket.replica = None
        self._turn(ticket, awake=awake, now=now)

    def unpark(self, now: float) -> None:
        """Those whose back-off is over are first of their lines."""
        for entry_id in self.retrying.due(now):
            self.queue.push_front(self._tickets[entry_id])

    def turn(self, *, awake: bool, now: float) -> None:
        """The model woke or fell asleep: another of the two times of those that wait runs."""
        for ticket in self.waiting():
            self._turn(ticket, awake=awake, now=now)

    def overdue(self, now: float) -> Iterator[Ticket]:
        """Those whose time is over; each is to be dropped."""
        for entry_id in self._deadlines.pop_due(now):
            if ticket := self._tickets.get(entry_id):
                yield ticket

    def next_at(self) -> float:
        """When one of them is overdue, or its back-off is over; never, if there is none."""
        moments = (self._deadlines.next_at(), self.retrying.next_at())
        return min((moment for moment in moments if moment is not None), default=math.inf)

    def drop(self, ticket: Ticket) -> None:
        """Takes it out of everything; a worker that has it is told."""
        self._deadlines.remove(ticket.entry_id)
        if self._tickets.pop(ticket.entry_id, None) is None:
            return
        if ticket.replica:
            ticket.replica.cancel(ticket.entry_id)
        elif not self.queue.remove(ticket):
            self.retrying.forget(ticket)

    def _turn(self, ticket: Ticket, *, awake: bool, now: float) -> None:
        ticket.clock = ticket.clock.turned(awake=awake, now=now)
        self._set_end(ticket)

    def _set_end(self, ticket: Ticket) -> None:
        self._deadlines.set(ticket.entry_id, ticket.clock.ends_at)
