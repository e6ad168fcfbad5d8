"""Pods as workers: what runs, what failed, what has ended, and what stays known between a crash and a restart."""

import json

import pytest

from modelmora.kube import names
from modelmora.v1 import worker_pb2
from modelmora_operator.backends import pod_status
from modelmora_operator.backends.pod_status import Sight
from modelmora_operator.cluster import ObservedWorker, Phase
from tests.support.operator_pods import Object, moment, pod, running, terminated, unscheduled, waiting
from tests.support.operator_values import NOW

WORDS = json.dumps({"reason": "LoadFailed", "message": "broken", "remedy": "mend it", "where": "load"})
LOADING = worker_pb2.StatusUpdate(phase=worker_pb2.WORKER_PHASE_LOADING)
SERVING = worker_pb2.StatusUpdate(phase=worker_pb2.WORKER_PHASE_SERVING, memory_bytes=100)


def seen(
    of: Object, update: worker_pb2.StatusUpdate | None = None, known: ObservedWorker | None = None, now: float = NOW
) -> Sight:
    return pod_status.seen(of, update, now=now, known=known)


def test_a_pod_says_who_where_and_since_when() -> None:
    worker = seen(pod(state=running())).worker
    assert (worker.worker_id, worker.spec_hash, worker.node) == ("minilm-aaaa1111-0", "aaaa1111", "node-1")
    assert (worker.started_at, worker.address, worker.phase) == (NOW, "10.0.0.1:9100", Phase.STARTING)


@pytest.mark.parametrize("label", [names.COMPONENT, names.DEPLOYMENT, names.SPEC_HASH])
def test_a_pod_that_routers_cannot_find_by_its_labels_is_of_no_spec(label: str) -> None:
    edited = pod(state=running(), ready=True)
    del edited["metadata"]["labels"][label]
    assert seen(edited).worker.spec_hash == ""


def test_an_address_of_the_sixth_version_is_in_brackets() -> None:
    assert pod_status.address(pod(status={"podIP": "fd00::1"})) == "[fd00::1]:9100"
    assert pod_status.address(pod(status={"podIP": ""})) == ""


def test_without_a_stream_readiness_tells_and_with_one_the_worker_does() -> None:
    assert seen(pod(state=running(), ready=True)).worker.phase is Phase.SERVING
    assert seen(pod(state=running()), LOADING).worker.phase is Phase.LOADING
    assert seen(pod(state=running()), SERVING).worker.serving


def test_a_worker_that_says_it_serves_but_has_lost_its_readiness_does_not() -> None:
    cut_off = pod(state=running(NOW + 1), turned=NOW + 60)
    assert not seen(cut_off, SERVING).worker.serving
    assert not seen(cut_off).worker.serving


def test_what_was_measured_stays_while_the_stream_is_away() -> None:
    before = seen(pod(state=running(), ready=True), SERVING).worker
    assert before.memory_bytes == 100
    assert seen(pod(state=running(), ready=True), None, known=before).worker.memory_bytes == 100


def test_so_does_when_its_own_socket_was_last_used_and_an_old_word_of_it_is_no_new_use() -> None:
    used = worker_pb2.StatusUpdate(phase=worker_pb2.WORKER_PHASE_SERVING, direct_requests=3)
    of = pod(state=running(), ready=True)
    before = seen(of, used, known=seen(of).worker, now=NOW + 1).worker
    assert (before.direct_used_at, before.direct_requests) == (NOW + 1, 3)
    for update in (used, None):
        assert seen(of, update, known=before, now=NOW + 9).worker.direct_used_at == NOW + 1
    assert seen(of, used, now=NOW + 9).worker.direct_used_at == NOW + 9  # for an operator that has just started


def test_a_deleted_pod_and_one_that_is_over_are_ending() -> None:
    assert seen(pod(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})).worker.terminating
    evicted = pod(status={"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."})
    assert seen(evicted).worker.terminating
    assert pod_status.ended(evicted)
    failure = pod_status.why_it_is_over(evicted)
    assert (failure.reason, failure.reported) == ("Evicted", False)
    assert "low on resource: memory" in failure.message


@pytest.mark.req("REQ-LIFE-011")
def test_a_failure_is_known_from_the_crash_until_the_next_attempt_serves() -> None:
    end = terminated(1, message=WORDS)
    crashed = seen(pod(state=end))
    held_back = seen(pod(state=waiting("CrashLoopBackOff"), last=end, restarts=1))
    again = seen(pod(state=running(NOW + 20), last=end, restarts=1))
    for sight in (crashed, held_back, again):
        assert sight.record is not None
        assert (sight.record.last.reason, sight.record.last.message) == ("LoadFailed", "broken")
        assert (sight.record.at, sight.record.count, sight.record.restarts_in_place) == (NOW + 5, 1, True)
    assert [sight.worker.phase for sight in (crashed, held_back, again)] == [
        Phase.FAILED,
        Phase.FAILED,
        Phase.STARTING,
    ]
    served = pod(state=running(NOW + 20), last=end, restarts=1, ready=True, turned=NOW + 25)
    assert seen(served).record is None
    assert seen(pod(state=running(NOW + 20), last=end, restarts=1), SERVING).record is None


def test_an_old_crash_does_not_come_back_when_a_later_run_loses_its_readiness() -> None:
    old = pod(state=running(NOW + 20), last=terminated(1), restarts=1, turned=NOW + 500)
    assert seen(old).record is None


def test_a_crash_after_service_begins_the_count_anew() -> None:
    end = terminated(1, started=NOW + 100, finished=NOW + 200)
    served_in_it = pod(state=waiting("CrashLoopBackOff"), last=end, restarts=7, turned=NOW + 200)
    never_served = pod(state=waiting("CrashLoopBackOff"), last=end, restarts=7, turned=NOW)
    counts = [seen(one).record for one in (served_in_it, never_served)]
    assert [record.count for record in counts if record] == [1, 7]


def test_a_pod_that_ends_because_it_was_asked_to_has_no_failure_record() -> None:
    asked = pod(state=terminated(0), metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    assert seen(asked).record is None


def test_only_what_is_held_back_in_its_place_can_be_given_up() -> None:
    held = seen(pod(state=waiting("CrashLoopBackOff"), last=terminated(1), restarts=1)).worker
    assert held.failed_at == NOW + 5
    assert seen(pod(state=waiting("ImagePullBackOff"))).worker.failed_at == NOW
    assert seen(unscheduled("0/1 nodes are available: 1 Insufficient cpu.")).worker.failed_at is None
    assert seen(pod(state=running())).worker.failed_at is None


def test_the_deadline_counts_while_it_runs_without_having_been_ready() -> None:
    slow = pod(state=running(NOW + 5))
    assert pod_status.overdue(slow, 60, NOW + 64) is None
    failure = pod_status.overdue(slow, 60, NOW + 65)
    assert failure is not None
    assert (failure.reason, failure.reported) == ("ProgressDeadlineExceeded", True)
    for other in (
        pod(state=waiting("ContainerCreating")),
        pod(state=running(NOW + 5), ready=True),
        pod(state=running(NOW + 5), turned=NOW + 30),
    ):
        assert pod_status.overdue(other, 60, NOW + 1000) is None


def test_a_node_whose_clock_is_behind_ends_no_worker_that_has_just_begun() -> None:
    assert pod_status.overdue(pod(state=running(NOW - 3600), turned=NOW - 3601), 60, NOW + 5) is None


def condition(kind: str, status: str, **more: str) -> Object:
    return {"type": kind, "status": status, **more}


PLACED = condition("PodScheduled", "True", lastTransitionTime=moment(NOW + 10))
TAKEN: Object = {"startTime": moment(NOW + 11)}
GATED = condition("PodScheduled", "False", reason="SchedulingGated", message="Scheduling is blocked")


@pytest.mark.parametrize(
    ("conditions", "status", "where", "words"),
    [
        ([], {}, "schedule", "no scheduler has looked at its pod"),
        ([GATED], {}, "schedule", "has no node yet (SchedulingGated: Scheduling is blocked)"),
        ([PLACED], {"containerStatuses": []}, "spawn", "its node node-1 has not taken up the pod"),
        ([PLACED, condition("PodReadyToStartContainers", "False")], TAKEN, "spawn", "a volume that it mounts"),
        ([PLACED, condition("PodReadyToStartContainers", "True")], TAKEN, "spawn", "still being pulled"),
        (
            [PLACED],
            {**TAKEN, "initContainerStatuses": [{"name": "first", "state": running()}]},
            "spawn",
            "the container first before it still runs",
        ),
    ],
)
@pytest.mark.req("REQ-LIFE-011")
def test_a_worker_that_has_not_begun_in_time_says_what_it_waits_for(
    conditions: list[Object], status: Object, where: str, words: str
) -> None:
    stuck = pod(state=waiting("ContainerCreating"), conditions=conditions, status=status)
    assert pod_status.seen(stuck, None, now=NOW + 59, known=None, deadline_s=60).worker.failure is None
    failure = pod_status.seen(stuck, None, now=NOW + 70, known=None, deadline_s=60).worker.failure
    assert failure is not None
    assert (failure.where, failure.reason) == (where, "ProgressDeadlineExceeded")
    assert words in failure.message


@pytest.mark.parametrize("state", [running(), waiting("ImagePullBackOff"), terminated(1)])
def test_the_wait_ends_when_it_runs_or_says_itself_what_is_wrong(state: Object) -> None:
    assert pod_status.waits_since(pod(state=state)) is None


def test_requests_of_all_containers_add_up() -> None:
    containers = [
        {"name": "worker", "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}},
        {"name": "beside", "resources": {"requests": {"cpu": "1"}}},
    ]
    assert pod_status.requests(pod(spec={"containers": containers})) == {"cpu": 1.5, "memory": 1024.0**3}
