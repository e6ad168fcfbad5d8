"""Which workers to start and which to stop, so that the wanted number of up-to-date ones serves without a gap.

A worker of an older spec that serves is kept until an up-to-date one has passed its test inference. Workers that are
ending do not count. Of too many, those that do not serve go first, then the youngest.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from modelmora_operator.cluster import ObservedWorker


@dataclass(frozen=True, slots=True)
class Steps:
    """So many up-to-date workers are missing; these workers are to be stopped."""

    missing: int
    surplus: tuple[str, ...]


def steps(workers: Iterable[ObservedWorker], spec_hash: str, desired: int) -> Steps:
    """From what there is to what is wanted."""
    live = [worker for worker in workers if not worker.terminating]
    current = sorted((w for w in live if w.spec_hash == spec_hash), key=_worth, reverse=True)
    outdated = sorted((w for w in live if w.spec_hash != spec_hash), key=_worth, reverse=True)
    replaced = sum(worker.serving for worker in current[:desired])
    kept = [worker for worker in outdated if worker.serving][: max(0, desired - replaced)]
    surplus = [*current[desired:], *(worker for worker in outdated if worker not in kept)]
    return Steps(max(0, desired - len(current)), tuple(worker.worker_id for worker in surplus))


def free_names(prefix: str, taken: Collection[str], count: int) -> list[str]:
    """The lowest free numbers behind the prefix; workers that are ending still hold theirs."""
    names = (f"{prefix}-{number}" for number in range(len(taken) + count))
    return [name for name in names if name not in taken][:count]


def _worth(worker: ObservedWorker) -> tuple[bool, float]:
    return worker.serving, -worker.started_at
