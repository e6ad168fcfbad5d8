"""Counting failures, and when to try again."""

import pytest

from modelmora_operator.backoff import Backoff
from modelmora_operator.cluster import Failure, FailureRecord
from modelmora_operator.failures import STABLE_AFTER_S, End, recorded, retry_at

SAID = Failure("load", "LoadFailed", "broken")
SILENT = Failure("serve", "WorkerCrashed", "killed", reported=False)
BACKOFF = Backoff(first_s=1, cap_s=10, jitter=0)


def end(at: float, failure: Failure = SAID, spec_hash: str = "a", served_since: float | None = None) -> End:
    return End(spec_hash, at - 1, at, failure, served_since)


def after(ends: list[End]) -> FailureRecord:
    record: FailureRecord | None = None
    for one in ends:
        record = recorded(record, one, chance=0)
    assert record is not None
    return record


@pytest.mark.req("REQ-LIFE-011")
def test_each_failure_in_a_row_doubles_the_wait() -> None:
    times = [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]
    records = [after([end(at) for at in times[: n + 1]]) for n in range(len(times))]
    assert [retry_at(record, BACKOFF) - record.at for record in records] == [1, 2, 4, 8, 10, 10]


def test_a_worker_that_ended_without_a_word_is_replaced_once_at_once() -> None:
    once = after([end(10, SILENT)])
    assert (retry_at(once, BACKOFF), once.in_a_row) == (10, 0)
    twice = after([end(10, SILENT), end(20, SILENT)])
    assert (retry_at(twice, BACKOFF), twice.in_a_row) == (21, 1)


def test_another_spec_starts_anew() -> None:
    assert after([end(10), end(20), end(30, spec_hash="b")]).count == 1


def test_a_long_life_in_service_starts_anew_and_a_short_one_does_not() -> None:
    short = end(100, SILENT, served_since=100 - STABLE_AFTER_S + 1)
    long = end(100, SILENT, served_since=100 - STABLE_AFTER_S)
    assert after([end(10), end(20), short]).count == 3
    assert after([end(10), end(20), long]).count == 1


def test_replicas_that_failed_together_are_one_failure() -> None:
    first = End("a", 0, 10, SAID)
    second = End("a", 0, 11, SAID)
    assert after([first, second]).count == 1
    assert after([first, second, End("a", 12, 13, SAID)]).count == 2
