"""When a worker that failed is tried again.

A worker that said why it cannot serve will say the same again: the next attempt waits. One that ended without a word
(killed, crashed) is replaced once at once, before its deployment counts as failed. A worker that has served for long
enough starts the count anew; a short life in service does not, so that a crash loop backs off.
"""

from dataclasses import dataclass

from modelmora_operator.backoff import Backoff
from modelmora_operator.cluster import Failure, FailureRecord

STABLE_AFTER_S = 30.0


@dataclass(frozen=True, slots=True)
class End:
    """A worker that ended and was not asked to. Times are Unix seconds."""

    spec_hash: str
    started_at: float
    ended_at: float
    failure: Failure
    served_since: float | None = None  # None: it never served


def recorded(previous: FailureRecord | None, end: End, chance: float) -> FailureRecord:
    """The failures in a row after one more worker ended."""
    count = 1
    served_s = None if end.served_since is None else end.ended_at - end.served_since
    if previous is not None and previous.spec_hash == end.spec_hash and not was_stable(served_s):
        # Replicas that started together and failed together are one failure, not several.
        count = previous.count + (1 if end.started_at >= previous.at else 0)
    return FailureRecord(end.spec_hash, count, end.ended_at, end.failure, chance, end.started_at)


def retry_at(record: FailureRecord, backoff: Backoff) -> float:
    """Unix time from which the next worker may be started."""
    return record.at + backoff.delay_s(record.in_a_row, record.chance)


def was_stable(served_s: float | None) -> bool:
    """Whether a worker served for long enough to start the count anew; None: it never served."""
    return served_s is not None and served_s >= STABLE_AFTER_S
