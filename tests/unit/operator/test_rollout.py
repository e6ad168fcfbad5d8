"""From what there is to what is wanted."""

from dataclasses import replace

from modelmora_operator.cluster import Phase
from modelmora_operator.rollout import free_names, steps
from tests.support.operator_values import deployment, hash_of, worker

NEW = deployment()
OLD = deployment(model={"config": {"maxLength": 7}})
HASH = hash_of(NEW)


def test_missing_workers_are_started() -> None:
    made = steps([worker(NEW, 0)], HASH, 3)
    assert (made.missing, made.surplus) == (2, ())


def test_workers_that_are_ending_do_not_count_and_are_not_stopped_again() -> None:
    made = steps([worker(NEW, 0, terminating=True)], HASH, 1)
    assert (made.missing, made.surplus) == (1, ())


def test_an_outdated_worker_serves_on_until_its_successor_does() -> None:
    old, new = worker(OLD, 0), worker(NEW, 1, phase=Phase.LOADING)
    assert steps([old], HASH, 1).missing == 1
    assert steps([old, new], HASH, 1).surplus == ()
    assert steps([old, replace(new, phase=Phase.SERVING)], HASH, 1).surplus == (old.worker_id,)


def test_each_successor_that_serves_replaces_one_outdated_worker() -> None:
    old = [worker(OLD, number) for number in range(2)]
    new = [worker(NEW, 2), worker(NEW, 3, phase=Phase.TESTING)]
    assert steps([*old, *new], HASH, 2).surplus == (old[1].worker_id,)


def test_an_outdated_worker_that_does_not_serve_is_stopped_at_once() -> None:
    old = worker(OLD, 0, phase=Phase.LOADING)
    assert steps([old], HASH, 1) == steps([old], HASH, 1)
    assert steps([old], HASH, 1).surplus == (old.worker_id,)


def test_of_too_many_those_that_do_not_serve_go_first_then_the_youngest() -> None:
    loading, oldest, youngest = worker(NEW, 0, phase=Phase.LOADING), worker(NEW, 1), worker(NEW, 2)
    assert steps([loading, oldest, youngest], HASH, 2).surplus == (loading.worker_id,)
    assert set(steps([loading, oldest, youngest], HASH, 1).surplus) == {loading.worker_id, youngest.worker_id}


def test_at_zero_all_go() -> None:
    workers = [worker(OLD, 0), worker(NEW, 1)]
    assert set(steps(workers, HASH, 0).surplus) == {w.worker_id for w in workers}


def test_names_are_the_lowest_free_numbers() -> None:
    assert free_names("m", {"m-0", "m-2", "other-1"}, 3) == ["m-1", "m-3", "m-4"]
