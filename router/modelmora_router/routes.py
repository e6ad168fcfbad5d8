"""A ModelRoute at work: who answers the next request, and whether a copy of it goes to the mirror. No I/O.

Built once for each snapshot, so that a request costs a few additions. Requests are split by smooth weighted round
robin: after as many requests as the sum of the weights, each backend has had exactly its share, and in between never in
a lump. With a sticky header the backend follows from the header's value alone, the same in every router: by rendezvous
hashing, so that an edit of the weights moves only as many callers as it must.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Final

from modelmora.control import Key
from modelmora.errors import ModelUnhealthy
from modelmora.spec import ModelDeployment
from modelmora.spec.route_effect import Arm, Defect, Effect
from modelmora_router.rollbacks import Trial, trials

_RETRY_AFTER_S: Final = 1.0
_WHOLE: Final = 100
_HASH_BYTES: Final = 8
_HASHES: Final = 2 ** (8 * _HASH_BYTES)


class Turns:
    """Whose turn it is: each of these weights has its exact share, in small steps."""

    def __init__(self, weights: Sequence[int]) -> None:
        self.weights = tuple(weights)
        self._whole = sum(weights)
        self._due = [0] * len(weights)

    def next(self) -> int:
        """The index of the weight whose turn it is."""
        due = [before + weight for before, weight in zip(self._due, self.weights, strict=True)]
        chosen = due.index(max(due))
        due[chosen] -= self._whole
        self._due = due
        return chosen


class RouteTable:
    """One route. What of it is the same as in the table `before` goes on where that one is."""

    def __init__(self, effect: Effect, before: "RouteTable | None" = None) -> None:
        self._effect = effect
        self._open = [(arm, arm.deployment) for arm in effect.arms if arm.deployment is not None and arm.effective]
        self.shares: list[tuple[str, int]] = [(arm.name, arm.effective) for arm, _ in self._open]
        self._sticky = (effect.route.spec.sticky_header or "").lower()
        self._mirror = effect.mirror.deployment if effect.mirror and effect.mirror.effective else None
        percent = effect.mirror.weight if effect.mirror else 0
        turns, copies = Turns([share for _, share in self.shares]), Turns((percent, _WHOLE - percent))
        self.turns: Turns = before.turns if before and before.shares == self.shares else turns
        self.copies: Turns = before.copies if before and before.copies.weights == copies.weights else copies
        self.wanted = tuple(_wanted(effect))
        self.trials: dict[str, Trial] = trials(effect.route, before.trials if before else {})

    @property
    def main(self) -> ModelDeployment | None:
        """The backend that stands for the model where one must: that with the largest share, if any is there."""
        there = [arm for arm in self._effect.arms if arm.deployment is not None]
        return max(there, key=lambda arm: (arm.effective, arm.weight)).deployment if there else None

    def pick(self, headers: Mapping[str, str]) -> ModelDeployment:
        """Who answers a request with these headers, whose names are in lower case; each call is a turn.

        Raises:
            ModelUnhealthy: no backend can.
        """
        if len(self._open) == 1:
            return self._open[0][1]
        if not self._open:
            raise _unanswered(self._effect)
        if self._sticky and (value := headers.get(self._sticky)):
            return self._open[_rendezvous(value, self.shares)][1]
        return self._open[self.turns.next()][1]

    def may_lose(self, trial: Trial) -> bool:
        """Whether this is the edition that the trial is of, its backend gets requests, and others could answer them."""
        backend = trial.backend
        takes_part = any(name == backend for name, _ in self.shares)
        return self.trials.get(backend) is trial and takes_part and len(self.shares) > 1

    def copy_to(self) -> ModelDeployment | None:
        """Who gets a copy of this request; each call is a turn."""
        if self._mirror is None or self.copies.next() != 0:
            return None
        return self._mirror


def _rendezvous(value: str, shares: Sequence[tuple[str, int]]) -> int:
    """Each share draws a lot that depends on the value and its own name alone; the highest wins.

    The lots are weighted so that each wins for its share of all values, and whoever is added, or grows, takes values
    over from the others without moving any between these.
    """
    lots = [math.log(_uniform(f"{name}\0{value}")) / weight for name, weight in shares]
    return lots.index(max(lots))


def _uniform(text: str) -> float:
    """Between 0 and 1, both excluded; the same on every machine."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=_HASH_BYTES).digest()
    return (int.from_bytes(digest) + 0.5) / _HASHES


def _wanted(effect: Effect) -> list[Key]:
    """Whom a request wakes although it goes elsewhere: the mirror, and backends that will only be tried again so."""
    failed = [arm for arm in effect.defects if arm.defect is Defect.FAILED]
    mirror = [effect.mirror] if effect.mirror and effect.mirror.defect in {None, Defect.FAILED} else []
    return [_key(arm, effect) for arm in [*failed, *mirror]]


def _key(arm: Arm, effect: Effect) -> Key:
    return Key(effect.route.metadata.namespace, arm.name)


def _unanswered(effect: Effect) -> ModelUnhealthy:
    route, defects = effect.route, effect.defects
    where = f"{route.metadata.namespace}/{route.metadata.name}"
    why = "; ".join(arm.words for arm in defects) or "every weight is 0"
    return ModelUnhealthy(
        f"no backend of the ModelRoute {where} can answer for model {route.spec.model_id!r}: {why}",
        model_id=route.spec.model_id,
        field="spec.backends",
        reason=str(defects[0].defect) if defects else "",
        remedy=f"see the status of the ModelRoute {where}, or ask for one version as id@version",
        retry_after_s=_RETRY_AFTER_S,
    )
