"""Remembers who competes for places, and tells those whose share changed.

A share is asked for, decided on and noted without a pause in between, so two models never take the last place. After a
start nothing is started or stopped for the sake of room before every model has been looked at once: what serves already
may have the places.
"""

from collections.abc import Callable, Collection

from modelmora.control import Key
from modelmora_operator.sharing import UNKNOWN, Contender, Rules, Share, Shares, shares


class Places:
    """Used from one event loop. `known` tells all models, `mark` that one is to be looked at again."""

    def __init__(self, rules: Rules, known: Callable[[], Collection[Key]], mark: Callable[[Key], None]) -> None:
        self._rules = rules
        self._known = known
        self._mark = mark
        self._contenders: dict[Key, Contender] = {}
        self._looked_at: set[Key] = set()
        self._all_seen = False
        self._shares = Shares()
        self._made_at: float | None = None  # None: they are out of date

    def share_of(self, contender: Contender, now: float) -> Share:
        """What it gets, as it is now."""
        self._take(contender)
        self._renew(now, asking=contender.key)
        return self._shares.by_key.get(contender.key, UNKNOWN)

    def note(self, contender: Contender, now: float) -> None:
        """What it is about to be."""
        self._take(contender)
        self._renew(now)

    def forget(self, key: Key, now: float) -> None:
        """It is gone."""
        self._look_at(key)
        if self._contenders.pop(key, None) is not None:
            self._made_at = None
        self._renew(now)

    def miss(self, key: Key, now: float) -> None:
        """It cannot be looked at now: it keeps what it has, and holds nobody up."""
        self._look_at(key)
        self._renew(now)

    def _take(self, contender: Contender) -> None:
        key, before = contender.key, self._contenders.get(contender.key)
        self._look_at(key)
        if contender.competes:
            self._contenders[key] = contender
        else:
            self._contenders.pop(key, None)
        if self._contenders.get(key) != before:
            self._made_at = None

    def _look_at(self, key: Key) -> None:
        if not self._all_seen:
            self._looked_at.add(key)

    def _renew(self, now: float, asking: Key | None = None) -> None:
        if not self._seen_all():
            return
        if self._made_at is not None and self._made_at <= now < self._shares.until:
            return
        before, self._shares = self._shares.by_key, shares(self._contenders.values(), self._rules, now)
        self._made_at = now
        for key, share in self._shares.by_key.items():
            if key != asking and _asks_for_a_look(before.get(key, UNKNOWN), share):
                self._mark(key)

    def _seen_all(self) -> bool:
        if not self._all_seen and self._looked_at.issuperset(self._known()):
            self._all_seen = True
            self._looked_at.clear()
        return self._all_seen


def _asks_for_a_look(before: Share, now: Share) -> bool:
    sooner = now.changes_at is not None and (before.changes_at is None or now.changes_at < before.changes_at)
    return now.granted != before.granted or now.may_start > before.may_start or sooner
