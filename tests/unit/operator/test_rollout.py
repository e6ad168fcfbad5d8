"""From what there is to what is wanted."""

from dataclasses import replace
from typing import Any

import pytest

from modelmora_operator.cluster import Phase
from modelmora_operator.rollout import Steps, free_names, steps
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


@pytest.mark.req("REQ-DEPLOY-004")
def test_a_worker_of_an_older_image_is_replaced_when_it_is_its_turn() -> None:
    old = worker(NEW, 0, superseded=True)
    assert steps([old], HASH, 1) == Steps(1, ())
    new = worker(NEW, 1, phase=Phase.LOADING)
    assert steps([old, new], HASH, 1) == Steps(0, ())
    assert steps([old, replace(new, phase=Phase.SERVING)], HASH, 1) == Steps(0, (old.worker_id,))


def test_a_worker_that_is_given_up_is_replaced_at_once() -> None:
    held = worker(NEW, 0, phase=Phase.FAILED)
    assert steps([held], HASH, 1, {held.worker_id}) == Steps(1, (held.worker_id,))


SMALL, LARGE = {"cpu": 1.0, "memory": 1e9}, {"cpu": 1.0, "memory": 2e9}


@pytest.mark.parametrize(
    ("new", "recreated"),
    [
        ({"requests": SMALL, "no_room": True}, True),
        ({"requests": SMALL, "no_room": False}, False),
        ({"requests": LARGE, "no_room": True}, False),
        ({"requests": {**SMALL, "nvidia.com/gpu": 1.0}, "no_room": True}, False),
        ({"requests": {}, "no_room": True}, False),
    ],
    ids=["no-room", "room", "larger", "another-resource", "unknown"],
)
def test_the_old_worker_goes_first_only_if_that_surely_makes_room(new: dict[str, Any], recreated: bool) -> None:
    old, waiting = worker(OLD, 0, requests=SMALL), worker(NEW, 1, phase=Phase.FAILED, **new)
    assert steps([old, waiting], HASH, 1) == Steps(0, (old.worker_id,) if recreated else ())


def test_one_old_worker_goes_for_one_new_one_that_has_no_room() -> None:
    old = [worker(OLD, number, requests=SMALL) for number in range(3)]
    waiting = worker(NEW, 3, phase=Phase.FAILED, requests=SMALL, no_room=True)
    assert len(steps([*old, waiting], HASH, 3).surplus) == 1


def test_without_a_place_to_spare_the_old_one_goes_first() -> None:
    old, new = worker(OLD, 0), worker(NEW, 1, phase=Phase.LOADING)
    assert steps([old], HASH, 1, places=2).surplus == ()
    assert steps([old], HASH, 1, places=1) == Steps(1, (old.worker_id,))
    assert steps([old, new], HASH, 1, places=2).surplus == ()
    assert steps([old, new], HASH, 1, places=1).surplus == (old.worker_id,)


def test_with_one_place_to_spare_they_go_one_by_one_each_after_its_successor_serves() -> None:
    old = [worker(OLD, number) for number in range(2)]
    assert steps(old, HASH, 2, places=2).surplus == (old[1].worker_id,)
    loading = worker(NEW, 2, phase=Phase.LOADING)
    assert steps([old[0], loading], HASH, 2, places=2).surplus == ()
    assert steps([old[0], replace(loading, phase=Phase.SERVING)], HASH, 2, places=2).surplus == (old[0].worker_id,)
