"""Which workers to start and which to stop, so that the wanted number of up-to-date ones serves without a gap.

A worker of an older spec, or of an older default image, that serves is kept until an up-to-date one has passed its test
inference; unless there is no room for both: then the old one goes first, if it leaves enough of it. Workers that are
ending do not count. Of too many, those that do not serve go first, then the youngest.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from modelmora_operator.cluster import ObservedWorker


@dataclass(frozen=True, slots=True)
class Steps:
    """So many up-to-date workers are missing; these workers are to be stopped."""

    missing: int
    surplus: tuple[str, ...]


def steps(
    workers: Iterable[ObservedWorker],
    spec_hash: str,
    desired: int,
    given_up: Collection[str] = frozenset(),
    *,
    places: int | None = None,
) -> Steps:
    """From what there is to what is wanted. Workers that are `given_up` are replaced at once.

    `places` bounds the old and the new ones together; None: nothing does.
    """
    live = [worker for worker in workers if not worker.terminating]
    trusted = [worker for worker in live if worker.worker_id not in given_up]
    current = sorted((w for w in trusted if up_to_date(w, spec_hash)), key=_worth, reverse=True)
    outdated = sorted((w for w in trusted if not up_to_date(w, spec_hash)), key=_worth, reverse=True)
    replaced = sum(worker.serving for worker in current[:desired])
    kept = [worker for worker in outdated if worker.serving][: max(0, desired - replaced)]
    kept = _without_those_in_the_way(kept, current[:desired])
    kept = _with_a_place_to_spare(kept, current[:desired], desired, places)
    surplus = [w for w in live if w in current[desired:] or (w not in current and w not in kept)]
    surplus.sort(key=_worth, reverse=True)
    return Steps(max(0, desired - len(current)), tuple(worker.worker_id for worker in surplus))


def up_to_date(worker: ObservedWorker, spec_hash: str) -> bool:
    """Made from the present spec, with the present default image or one that is good enough for now."""
    return worker.spec_hash == spec_hash and not worker.superseded


def free_names(prefix: str, taken: Collection[str], count: int) -> list[str]:
    """The lowest free numbers behind the prefix; workers that are ending still hold theirs."""
    names = (f"{prefix}-{number}" for number in range(len(taken) + count))
    return [name for name in names if name not in taken][:count]


def _worth(worker: ObservedWorker) -> tuple[bool, float]:
    return worker.serving, -worker.started_at


def _without_those_in_the_way(
    kept: Sequence[ObservedWorker], current: Iterable[ObservedWorker]
) -> list[ObservedWorker]:
    """One old worker less for each new one that has no room, if what the old one gives back is surely enough."""
    left = list(kept)
    for waiting in (worker for worker in current if worker.no_room):
        giving = next((old for old in reversed(left) if _makes_room(old, waiting)), None)
        if giving is not None:
            left.remove(giving)
    return left


def _with_a_place_to_spare(
    kept: Sequence[ObservedWorker], current: Sequence[ObservedWorker], desired: int, places: int | None
) -> list[ObservedWorker]:
    """So few old ones that one more new one has a place, unless one is on its way."""
    if places is None:
        return list(kept)
    on_its_way = any(not worker.serving and worker.failure is None for worker in current)
    spare = 0 if on_its_way or len(current) >= desired else 1
    return list(kept[: max(0, places - len(current) - spare)])


def _makes_room(old: ObservedWorker, new: ObservedWorker) -> bool:
    return bool(new.requests) and all(old.requests.get(name, 0.0) >= asked for name, asked in new.requests.items())
