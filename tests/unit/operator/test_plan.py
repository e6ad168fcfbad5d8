"""The whole decision, from a snapshot to what is done and said."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmora.control import Demand, Key
from modelmora.spec import ModelState
from modelmora_operator.backoff import Backoff
from modelmora_operator.cluster import ObservedWorker, Phase, Snapshot
from modelmora_operator.plan import Plan, Policy, plan
from modelmora_operator.sharing import UNKNOWN, Contender, Rules, Share
from tests.support.operator_values import KEY, NOW, deployment, failed, hash_of, reported, snapshot, worker

POLICY = Policy(backoff=Backoff(first_s=10, cap_s=100, jitter=0))
LAZY = deployment()


def planned(of: Snapshot, now: float = NOW, policy: Policy = POLICY) -> Plan:
    return plan(of, now, policy)


def state(made: Plan) -> ModelState:
    assert made.status is not None
    return made.status.state


@pytest.mark.req("REQ-LIFE-001a", "DEC-2")
def test_a_model_that_nobody_asked_for_has_no_worker() -> None:
    made = planned(snapshot(LAZY))
    assert (made.start, made.stop, made.requeue_after_s) == ((), (), None)
    assert state(made) is ModelState.PENDING


@pytest.mark.req("REQ-LIFE-001a")
def test_the_first_request_starts_a_worker() -> None:
    made = planned(snapshot(LAZY, load=1))
    assert [spec.worker_id for spec in made.start] == [f"minilm-{hash_of(LAZY)}-0"]
    assert made.start[0].deployment == LAZY
    assert state(made) is ModelState.LOADING


def test_a_wake_while_the_last_worker_still_ends_takes_another_name() -> None:
    made = planned(snapshot(LAZY, worker(LAZY, 0, terminating=True), load=1))
    assert [spec.worker_id for spec in made.start] == [f"minilm-{hash_of(LAZY)}-1"]


@pytest.mark.req("REQ-LIFE-005b")
def test_without_demand_the_worker_goes() -> None:
    serving = worker(LAZY)
    made = planned(snapshot(LAZY, serving))
    assert made.stop == (serving.worker_id,)
    proven = reported(LAZY, serving, demand=snapshot(LAZY, load=1).demand)
    assert state(planned(snapshot(proven))) is ModelState.STANDBY


def test_a_clock_that_was_set_back_does_not_hold_up_the_next_attempt() -> None:
    wanted = snapshot(LAZY, load=1, failure=failed(LAZY, 2))
    assert planned(wanted, NOW - 60).requeue_after_s == 80
    assert planned(wanted, NOW - 3600).start


def test_while_no_router_lives_a_rollout_does_not_grow() -> None:
    model = deployment(scaling={"maxReplicas": 5})
    older = worker(deployment(scaling={"maxReplicas": 5}, runtime={"engine": "python:a:B"}))
    made = planned(snapshot(model, older, worker(model, phase=Phase.LOADING), routers_alive=False))
    assert (made.start, made.stop) == ((), ())


def test_a_deleted_deployment_leaves_no_worker_and_no_status() -> None:
    running, ending = worker(LAZY, 0), worker(LAZY, 1, terminating=True)
    made = planned(Snapshot(KEY, None, (running, ending)))
    assert (made.start, made.stop, made.status) == ((), (running.worker_id,), None)


def test_a_suspended_deployment_has_no_worker_whatever_the_demand() -> None:
    suspended = deployment(suspend=True, scaling={"minReplicas": 1})
    made = planned(snapshot(suspended, worker(suspended), load=5))
    assert (made.start, len(made.stop)) == ((), 1)


def test_a_new_spec_proves_itself_once_where_the_operator_says_so() -> None:
    policy = replace(POLICY, initial_replicas=1)
    assert len(planned(snapshot(LAZY), policy=policy).start) == 1
    proven = reported(LAZY, worker(LAZY))
    assert planned(snapshot(proven), policy=policy).start == ()
    own = deployment(scaling={"initialReplicas": 0})
    assert planned(snapshot(own), policy=policy).start == ()


@pytest.mark.req("REQ-LIFE-011", "REQ-REL-002")
def test_a_failed_load_waits_and_is_then_tried_again_while_it_is_wanted() -> None:
    broken = snapshot(LAZY, load=1, failure=failed(LAZY, count=2))
    waiting = planned(broken, NOW + 5)
    assert (waiting.start, waiting.requeue_after_s) == ((), 15)
    assert state(waiting) is ModelState.FAILED_TO_LOAD
    assert len(planned(broken, NOW + 20).start) == 1
    assert planned(replace(broken, demand=None), NOW + 20).start == ()


def test_the_status_says_when_the_next_attempt_is() -> None:
    waiting = planned(snapshot(LAZY, load=1, failure=failed(LAZY, count=2)), NOW + 5)
    assert waiting.status is not None
    assert waiting.status.last_failure is not None
    assert waiting.status.last_failure.retry_at == datetime.fromtimestamp(NOW + 20, UTC)


@pytest.mark.parametrize(("asked_at", "starts"), [(NOW + 1, 1), (NOW - 1, 0), (0.0, 0)], ids=["after", "before", "not"])
def test_a_load_that_is_asked_for_after_the_failure_does_not_wait(asked_at: float, starts: int) -> None:
    asked = snapshot(LAZY, failure=failed(LAZY, count=9), demand=Demand(1, NOW, load_asked_at=asked_at))
    assert len(planned(asked, NOW + 5).start) == starts


def test_a_worker_that_was_killed_is_replaced_at_once_and_the_model_does_not_count_as_failed() -> None:
    made = planned(snapshot(LAZY, load=1, failure=failed(LAZY, reported=False)))
    assert len(made.start) == 1
    assert state(made) is ModelState.LOADING


def test_a_failure_of_an_older_spec_holds_up_nothing() -> None:
    edited = deployment(model={"config": {"maxLength": 9}})
    made = planned(snapshot(edited, load=1, failure=failed(LAZY, count=9)))
    assert len(made.start) == 1


def test_a_changed_spec_is_rolled_out_without_a_gap() -> None:
    edited = deployment(generation=2, model={"config": {"maxLength": 9}})
    old = worker(LAZY)
    began = planned(snapshot(edited, old, load=1))
    assert (len(began.start), began.stop) == (1, ())
    assert state(began) is ModelState.LOADED
    ended = planned(snapshot(edited, old, worker(edited, 1), load=1))
    assert (ended.start, ended.stop) == ((), (old.worker_id,))


def test_a_rollout_that_fails_leaves_the_old_worker_serving() -> None:
    edited = deployment(generation=2, model={"config": {"maxLength": 9}})
    made = planned(snapshot(edited, worker(LAZY), load=1, failure=failed(edited)), NOW + 1)
    assert (made.start, made.stop) == ((), ())
    assert state(made) is ModelState.LOADED
    ready = made.status.condition("Ready") if made.status else None
    assert ready is not None
    assert (ready.status, ready.reason) == ("False", "LoadFailed")


def test_an_edit_of_a_scaling_number_restarts_nothing() -> None:
    edited = deployment(generation=2, scaling={"maxReplicas": 4, "scaleToZeroAfterSeconds": 1})
    made = planned(snapshot(edited, worker(LAZY), load=1))
    assert (made.start, made.stop) == ((), ())


@pytest.mark.req("REQ-REG-003")
def test_the_younger_of_two_with_one_version_serves_nothing() -> None:
    old, young = deployment("old", created=NOW - 5), deployment("young")
    made = planned(snapshot(young, worker(young), load=1, twins=(old,)))
    assert (made.start, len(made.stop)) == ((), 1)
    assert len(planned(snapshot(old, load=1, twins=(young,))).start) == 1


PHASES = st.sampled_from([Phase.STARTING, Phase.LOADING, Phase.SERVING, Phase.FAILED])
SPECS = [LAZY, deployment(model={"config": {"maxLength": 9}})]
OBSERVED = st.builds(
    lambda spec, number, phase, terminating: worker(
        SPECS[spec], number, phase=phase, terminating=terminating, started_at=NOW - number
    ),
    st.integers(0, 1),
    st.integers(0, 6),
    PHASES,
    st.booleans(),
)


@given(
    workers=st.lists(OBSERVED, max_size=8, unique_by=lambda worker: worker.worker_id),
    load=st.one_of(st.none(), st.floats(0, 200)),
    minimum=st.integers(0, 2),
    maximum=st.integers(2, 4),
)
def test_a_plan_that_is_carried_out_comes_to_rest_within_its_bounds(
    workers: list[ObservedWorker], load: float | None, minimum: int, maximum: int
) -> None:
    of = deployment(scaling={"minReplicas": minimum, "maxReplicas": maximum, "scaleDownDelaySeconds": 0})
    now, there = NOW, tuple(workers)
    for _ in range(20):
        made = planned(snapshot(of, *there, load=load), now)
        current = [w for w in there if w.spec_hash == hash_of(of) and not w.terminating]
        assert len(current) - len(set(made.stop) & {w.worker_id for w in current}) + len(made.start) <= maximum
        after = carried_out(there, made, now)
        if after == there:
            break
        there, now = after, now + 1
    else:
        pytest.fail("it never comes to rest")
    wanted = made.status.desired_replicas if made.status else -1
    assert len(there) == wanted
    assert minimum <= wanted <= maximum
    assert all(w.spec_hash == hash_of(of) for w in there)


def carried_out(workers: tuple[ObservedWorker, ...], made: Plan, now: float) -> tuple[ObservedWorker, ...]:
    """What stops is gone, what was there has come to serve, what starts is there."""
    left = [w for w in workers if w.worker_id not in made.stop and not w.terminating]
    served = [replace(w, phase=Phase.SERVING) for w in left]
    return (*served, *(ObservedWorker(spec.worker_id, spec.spec_hash, now) for spec in made.start))


def test_the_same_snapshot_gives_the_same_status_however_often() -> None:
    serving = worker(LAZY)
    first = reported(LAZY, serving)
    assert planned(snapshot(first, serving), NOW + 50).status == planned(snapshot(first, serving), NOW + 90).status


def test_a_failure_that_the_kubelet_retries_holds_nothing_up() -> None:
    model = deployment(scaling={"minReplicas": 2, "maxReplicas": 2})
    crashing = worker(model, phase=Phase.STARTING)
    record = failed(model, 5, restarts_in_place=True)
    made = planned(snapshot(model, crashing, failure=record))
    assert len(made.start) == 1
    assert made.status is not None
    assert made.status.last_failure is not None
    assert made.status.last_failure.retry_at is None


def test_a_worker_that_is_held_back_is_replaced_when_somebody_asks_for_a_load() -> None:
    failure = failed(LAZY).last
    held = worker(LAZY, phase=Phase.FAILED, failure=failure, failed_at=NOW - 10)
    record = failed(LAZY, 5, at=NOW - 10, restarts_in_place=True)

    def asked(at: float) -> Plan:
        return planned(snapshot(LAZY, held, demand=Demand(0, at, at), failure=record))

    assert (asked(NOW - 11).start, asked(NOW - 11).stop) == ((), ())
    assert asked(NOW - 5).stop == (held.worker_id,)
    assert [spec.worker_id for spec in asked(NOW - 5).start] == [f"minilm-{hash_of(LAZY)}-1"]
    waiting = worker(LAZY, phase=Phase.FAILED, failure=failure)
    assert planned(snapshot(LAZY, waiting, demand=Demand(0, NOW, NOW), failure=record)).stop == ()


def test_what_time_alone_changes_is_looked_at_in_time() -> None:
    made = planned(snapshot(LAZY, worker(LAZY, phase=Phase.LOADING), load=1, recheck_after_s=42))
    assert made.requeue_after_s == 42


def test_while_no_router_lives_an_upgrade_does_not_grow() -> None:
    old, new = worker(LAZY, 0, superseded=True), worker(LAZY, 1, phase=Phase.LOADING)
    made = planned(snapshot(LAZY, old, new, routers_alive=False))
    assert (made.start, made.stop) == ((), ())


# ------------------------------------------------------------------------------------------------ places for few

BOUND = replace(POLICY, sharing=Rules(max_workers=1))
NONE_FREE = Share(granted=0, may_start=0, holders=(Key("default", "other"), Key("elsewhere", "secret")))


def contender(of: Snapshot, policy: Policy = BOUND) -> Contender:
    made = planned(of, policy=policy).contender
    assert made is not None
    return made


def test_without_a_bound_nothing_is_shared() -> None:
    assert planned(snapshot(LAZY, load=1)).contender is None


@pytest.mark.req("REQ-QUEUE-002")
def test_a_worker_is_started_only_where_there_is_room_for_it() -> None:
    wanted = snapshot(LAZY, load=1)
    assert planned(replace(wanted, share=NONE_FREE)).start == ()
    assert planned(replace(wanted, share=Share(granted=1, may_start=0))).start == ()
    assert len(planned(replace(wanted, share=Share(granted=1, may_start=1))).start) == 1
    assert planned(replace(wanted, share=UNKNOWN)).start == ()


def test_who_gets_no_place_gives_its_own_back() -> None:
    running = worker(LAZY)
    assert planned(snapshot(LAZY, running, load=1, share=NONE_FREE)).stop == (running.worker_id,)
    assert planned(snapshot(LAZY, running, load=1, share=UNKNOWN)).stop == ()


def test_what_it_is_to_others() -> None:
    demand = Demand(1, NOW - 3, urgency=2, waiting_since=NOW - 5)
    waits = contender(snapshot(LAZY, demand=demand, share=NONE_FREE))
    assert waits == Contender(KEY, 1, urgency=2, waiting_since=NOW - 5, last_used_at=NOW - 3, min_residency_s=30)
    starts = contender(snapshot(LAZY, demand=demand, share=Share(granted=1, may_start=1)))
    assert (starts.live, starts.loading) == (1, True)
    serves = contender(snapshot(LAZY, worker(LAZY, serving_since=NOW - 9), demand=demand))
    assert (serves.live, serves.loading, serves.serving_since, serves.waiting_since) == (1, False, NOW - 9, 0)
    gives_way = contender(snapshot(LAZY, worker(LAZY), demand=demand, share=NONE_FREE))
    assert (gives_way.wants, gives_way.live, gives_way.ending) == (1, 0, 1)
    deleted = contender(Snapshot(KEY, None, (worker(LAZY, 0), worker(LAZY, 1, terminating=True))))
    assert (deleted.wants, deleted.live, deleted.ending) == (0, 0, 2)


def test_a_worker_that_cannot_serve_holds_a_place_and_is_not_on_its_way() -> None:
    failure = failed(LAZY).last
    for broken in (worker(LAZY, phase=Phase.FAILED, failure=failure), worker(LAZY, phase=Phase.STARTING, no_room=True)):
        found = contender(snapshot(LAZY, broken, load=1))
        assert (found.live, found.loading, found.serving_since) == (1, False, None)
    assert contender(snapshot(LAZY, worker(LAZY, phase=Phase.LOADING), load=1)).loading
    stuck = worker(LAZY, phase=Phase.STARTING, started_at=NOW - LAZY.spec.rollout.progress_deadline_seconds)
    assert not contender(snapshot(LAZY, stuck, load=1)).loading  # it lost its readiness, and does not get it back


def test_what_must_not_be_started_yet_keeps_nobody_waiting() -> None:
    broken = snapshot(LAZY, load=1, failure=failed(LAZY, count=2), share=Share(granted=1, may_start=1))
    assert contender(broken).wants == 0
    assert plan(broken, NOW + 20, BOUND).start


@pytest.mark.parametrize(
    ("spec", "workers", "firm"),
    [
        ({"scaling": {"minReplicas": 1}}, 0, 1),
        ({"eviction": {"policy": "Never"}}, 0, 0),
        ({"eviction": {"policy": "Never"}}, 1, 1),
        ({}, 1, 0),
    ],
)
def test_a_floor_and_what_is_never_evicted_are_to_stay(spec: dict[str, Any], workers: int, firm: int) -> None:
    model = deployment(**spec)
    running = [worker(model, number) for number in range(workers)]
    assert contender(snapshot(model, *running, load=1, share=NONE_FREE if not workers else None)).firm == firm


def test_what_never_loaded_is_not_to_stay() -> None:
    model = deployment(eviction={"policy": "Never"})
    assert contender(snapshot(model, worker(model, phase=Phase.LOADING), load=1)).firm == 0


def test_a_rollout_asks_for_a_further_place_and_does_without() -> None:
    edited, old = deployment(generation=2, model={"config": {"maxLength": 9}}), worker(LAZY)
    rolling = snapshot(edited, old, load=1)
    assert (contender(replace(rolling, share=UNKNOWN)).wants, contender(replace(rolling, share=UNKNOWN)).surge) == (
        1,
        1,
    )
    both = planned(replace(rolling, share=Share(granted=2, may_start=1)), policy=BOUND)
    assert (len(both.start), both.stop) == (1, ())
    waits = planned(replace(rolling, share=Share(granted=2, may_start=0)), policy=BOUND)
    assert (waits.start, waits.stop) == ((), ())
    alone = planned(replace(rolling, share=Share(granted=1, may_start=0)), policy=BOUND)
    assert (alone.start, alone.stop) == ((), (old.worker_id,))
    assert alone.contender is not None
    assert (alone.contender.wants, alone.contender.ending, alone.contender.surge) == (1, 1, 0)


def test_a_rollout_that_has_failed_takes_no_place_from_the_old_worker() -> None:
    edited, old = deployment(generation=2, model={"config": {"maxLength": 9}}), worker(LAZY)
    made = planned(snapshot(edited, old, load=1, failure=failed(edited, 2), share=Share(1, 0)), NOW + 1, BOUND)
    assert (made.start, made.stop) == ((), ())
    assert made.contender is not None
    assert (made.contender.wants, made.contender.surge) == (1, 0)


def test_it_looks_again_when_its_share_may_be_another() -> None:
    share = replace(NONE_FREE, changes_at=NOW + 7)
    assert planned(snapshot(LAZY, load=1, share=share)).requeue_after_s == 7
