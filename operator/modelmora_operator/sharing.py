"""Who gets the places where fewer workers may exist than models want, since a device or a machine holds only so many.

A model that is loaded keeps its place while somebody uses it, so that requests for several models in turn do not make
them come and go. Whoever waits takes a free place; else that of the least urgent, least recently used idle model; else
that of a second worker of some model; else that of a busy model if its own requests are more urgent, or if that one has
had its turn and it is, with what it has aged, as urgent. Nobody takes the place of a model that is loading, that has
served for less than eviction.minResidencySeconds, or that is to stay (minReplicas; eviction.policy Never, once loaded).
A model gets a second worker only from what is left, and gives it back to who has none. CRITICAL does not age, and
nobody ages to it.

The bound. A change is the time to drain one model and to load the next, a turn the longer of `turn_s` and
minResidencySeconds. Of n models of one urgency that are never idle, on r places, each serves (again) at most
⌈(n-1)/r⌉ x (turn + change) + change after it began to wait. A less urgent one has aged to HIGH after `ageing_s` for
each level; from then on the same holds for it beside HIGH and less, and it is then sure of its minResidencySeconds.
Beside CRITICAL without end there is no bound, and none beside models that are to stay.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from modelmora.control import Key
from modelmora.spec import Priority

_FIRM: Final = 0  # before CRITICAL: what is to stay
_IDLE: Final = max(Priority) + 1  # wanted, but nobody waits
_SURGE: Final = _IDLE + 1  # beside what it is to replace
_SETTLED_S: Final = 1.0  # so long a worker that has just come may take what waits for it, whatever its residency


@dataclass(frozen=True, slots=True)
class Rules:
    """The operator's own numbers."""

    max_workers: int
    turn_s: float = 60.0
    ageing_s: float = 30.0  # 0: nobody ages


@dataclass(frozen=True, slots=True)
class Contender:
    """A model that wants or holds places. Times are Unix seconds on our clock, but for the last use."""

    key: Key
    wants: int
    live: int = 0  # workers that are not ending, those included that are about to be started
    ending: int = 0
    surge: int = 0  # further places, until old workers are replaced
    firm: int = 0  # so many of its workers are to stay
    loading: bool = False  # and nothing serves
    arriving: bool = False  # some worker is loading, whether or not others serve
    serving_since: float | None = None
    urgency: int = 0  # as in Demand
    waiting_since: float = 0.0
    last_used_at: float = 0.0
    min_residency_s: float = 0.0

    @property
    def competes(self) -> bool:
        """It has something to do with others."""
        return self.wants + self.live + self.ending > 0


@dataclass(frozen=True, slots=True)
class Share:
    """What one model gets."""

    granted: int  # so many workers it may have
    may_start: int  # so many of them there is room for now
    holders: tuple[Key, ...] = ()  # who has the places that it wants
    for_good: bool = False  # none of the holders will ever give way
    gives_way_to: tuple[Key, ...] = ()
    changes_at: float | None = None  # Unix time at which it may be another; None: something else changes before


UNKNOWN: Final = Share(granted=2**31, may_start=0)  # nobody has looked yet: nothing is started or stopped for room


@dataclass(frozen=True, slots=True)
class Shares:
    """Of all, and until when they hold if nothing else changes."""

    by_key: Mapping[Key, Share] = field(default_factory=dict)
    until: float = math.inf


class _Rank(IntEnum):
    """Of places that are held; the lowest are taken first."""

    SURGE = 0
    IDLE_EXTRA = 1
    IDLE = 2
    EXTRA = 3
    BUSY = 4
    PROTECTED = 5
    FIRM = 6


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """One worker that a model has or wants."""

    key: Key
    index: int
    held: bool
    first: bool  # not a second one of its model
    own: int  # urgency
    aged: int
    since: float  # it waits, or serves
    rank: _Rank = _Rank.BUSY
    used_at: float = 0.0
    over: bool = False  # its turn
    settled: bool = True  # a second worker: it serves, and for long enough

    @property
    def worth(self) -> tuple[_Rank, int, bool, float, int, Key]:
        """Of those that are held: the smaller goes first."""
        moment = self.used_at if self.own == _IDLE else self.since
        return self.rank, -self.own, not self.over, moment, -self.index, self.key

    @property
    def turn(self) -> tuple[int, bool, int, float, int, Key]:
        """Of those that wait: the smaller comes first; second workers after all first ones that somebody waits for."""
        idle = max(0, self.own - _IDLE + 1)
        return idle, not self.first, self.aged, -self.used_at if idle else self.since, self.index, self.key

    def displaces(self, other: "_Place") -> bool:
        """This waits, the other is held."""
        if self.own >= _IDLE or other.rank is _Rank.FIRM:
            return False
        if not other.first:
            return self.first or (other.settled and self.own < other.own)
        if not self.first or other.rank is _Rank.PROTECTED:
            return False
        return self.aged <= other.own if other.over else self.own < other.own


def shares(contenders: Iterable[Contender], rules: Rules, now: float) -> Shares:
    """What each of them gets now."""
    everyone = list(contenders)
    places = [place for one in everyone for place in _places(one, rules, now)]
    held = sorted((place for place in places if place.held), key=lambda place: place.worth)
    kept = held[max(0, len(held) - rules.max_workers) :]
    waiting = sorted((place for place in places if not place.held), key=lambda place: place.turn)
    come, gone = _grants(waiting, kept, rules.max_workers)
    left, given = [place for place in kept if place not in gone], set(come)
    refused = [place for place in waiting if place not in given]
    outcome = _Outcome(left, come, refused, gone, _changes_at(everyone, refused, rules, now))
    room = rules.max_workers - sum(one.live + one.ending for one in everyone)
    return Shares(outcome.shares(everyone, room), outcome.until)


def _places(one: Contender, rules: Rules, now: float) -> Iterable[_Place]:
    for index in range(one.wants + one.surge):
        held, firm = index < one.live, index < one.firm
        first = index == 0 or firm
        own = _SURGE if index >= one.wants else _FIRM if firm and not held else one.urgency or _IDLE
        since = min(one.waiting_since or now, now)  # a clock that was set back makes nobody wait less
        yield _Place(
            key=one.key,
            index=index,
            held=held,
            first=first,
            own=own,
            aged=own if held else _aged(own, now - since, rules.ageing_s),
            since=(one.serving_since or now) if held else since,
            rank=_rank(one, own, now, first=first, firm=firm),
            used_at=one.last_used_at,
            over=_served_for(one, _turn_s(one, rules), now),
            settled=not one.arriving and _served_for(one, _protected_s(one), now),
        )


def _rank(one: Contender, own: int, now: float, *, first: bool, firm: bool) -> _Rank:
    if firm:
        return _Rank.FIRM
    if own == _SURGE:
        return _Rank.SURGE
    if not first:
        return _Rank.IDLE_EXTRA if own == _IDLE else _Rank.EXTRA
    if one.loading or not _served_for(one, _protected_s(one), now):
        return _Rank.PROTECTED
    return _Rank.IDLE if own == _IDLE else _Rank.BUSY


def _grants(waiting: Sequence[_Place], kept: Sequence[_Place], places: int) -> tuple[list[_Place], dict[_Place, Key]]:
    """Those that get a place, in order, and those that give theirs to whom."""
    come: list[_Place] = []
    gone: dict[_Place, Key] = {}
    in_vain: set[tuple[bool, int, int]] = set()  # who is like one that found nobody, finds nobody either
    for place in waiting:
        if len(kept) - len(gone) + len(come) >= places:
            like = (place.first, place.own, place.aged)
            fits = (other for other in kept if place.displaces(other) and other not in gone)
            other = None if place.own >= _IDLE or like in in_vain else next(fits, None)
            if other is None:
                in_vain.add(like)
                continue
            gone[other] = place.key
        come.append(place)
    return come, gone


def _aged(own: int, waited_s: float, ageing_s: float) -> int:
    """One level more urgent for each `ageing_s`, up to HIGH."""
    if not Priority.HIGH < own < _IDLE or not ageing_s:
        return own
    return max(own - int(max(0.0, waited_s) / ageing_s), Priority.HIGH)


def _turn_s(one: Contender, rules: Rules) -> float:
    return max(rules.turn_s, _protected_s(one))


def _protected_s(one: Contender) -> float:
    return max(one.min_residency_s, _SETTLED_S if one.urgency else 0.0)


def _served_for(one: Contender, span_s: float, now: float) -> bool:
    """At least so long. Also what does not serve, and what began so far in the future that the clock was set back."""
    since = one.serving_since
    return since is None or now - since >= span_s or since - now > span_s


def _changes_at(everyone: Iterable[Contender], refused: Iterable[_Place], rules: Rules, now: float) -> float:
    """When time alone may give a place to one of those that wait; never, if nobody does."""
    waiting = [place for place in refused if place.own < _IDLE]
    if not waiting:
        return math.inf
    moments = [
        one.serving_since + span
        for one in everyone
        if one.serving_since is not None
        for span in (_protected_s(one), _turn_s(one, rules))
    ]
    moments += [
        place.since + (place.own - place.aged + 1) * rules.ageing_s
        for place in waiting
        if place.aged > Priority.HIGH and rules.ageing_s
    ]
    return min((moment for moment in moments if moment > now), default=math.inf)


@dataclass(frozen=True, slots=True)
class _Outcome:
    left: Sequence[_Place]
    come: Sequence[_Place]
    refused: Sequence[_Place]
    gone: Mapping[_Place, Key]
    until: float

    def shares(self, everyone: Iterable[Contender], room: int) -> dict[Key, Share]:
        """`room`: so many more workers may exist now."""
        granted = Counter(place.key for place in (*self.left, *self.come))
        starts = Counter(place.key for place in self.come[: max(0, room)])
        short = {place.key for place in self.refused}
        # One of those that wait looks again when time alone may have changed something; the others are told.
        watch = next((place.key for place in self.refused if place.own < _IDLE), None)
        holders = tuple(dict.fromkeys(place.key for place in (*self.left, *self.come)))
        for_good = all(place.rank is _Rank.FIRM for place in self.left)
        return {
            one.key: Share(
                granted=granted[one.key],
                may_start=starts[one.key],
                holders=tuple(key for key in holders if key != one.key) if one.key in short else (),
                for_good=for_good and one.key in short,
                gives_way_to=tuple(to for place, to in self.gone.items() if place.key == one.key),
                changes_at=self.until if one.key == watch and self.until < math.inf else None,
            )
            for one in everyone
        }
