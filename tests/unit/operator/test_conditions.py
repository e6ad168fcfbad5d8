"""What is said of a deployment, in conditions and status."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from modelmora.control import Demand, Key
from modelmora.spec import ArtifactStatus, Condition, ModelDeployment, ModelDeploymentStatus, ModelState
from modelmora_operator.cluster import Failure, ObservedWorker, Phase
from modelmora_operator.plan import Policy, plan
from modelmora_operator.sharing import Share
from tests.support.operator_values import NOW, deployment, failed, reported, snapshot, worker

MODEL = deployment()
WANTED = Demand(1, NOW)
ALWAYS = {"Ready", "Available", "Scheduled", "ModelAvailable"}


def status(of: ModelDeployment, *workers: ObservedWorker, now: float = NOW, **fields: Any) -> ModelDeploymentStatus:
    made = plan(snapshot(of, *workers, **fields), now, Policy()).status
    assert made is not None
    return made


def condition(of: ModelDeploymentStatus, kind: str) -> Condition:
    found = of.condition(kind)
    assert found is not None, f"{kind} is missing"
    return found


def ready(of: ModelDeploymentStatus) -> tuple[str, str]:
    found = condition(of, "Ready")
    return str(found.status), found.reason


proven = reported(MODEL, worker(MODEL), demand=WANTED)


def test_ready_is_unknown_before_anything_was_tried() -> None:
    assert ready(status(MODEL)) == ("Unknown", "Unverified")
    loading = worker(MODEL, phase=Phase.LOADING)
    assert ready(status(MODEL, loading, demand=WANTED)) == ("Unknown", "Unverified")


@pytest.mark.req("REQ-LIFE-009")
def test_ready_is_true_only_once_the_test_inference_passed() -> None:
    for phase in (Phase.STARTING, Phase.FETCHING, Phase.LOADING, Phase.TESTING):
        assert ready(status(MODEL, worker(MODEL, phase=phase), demand=WANTED))[0] != "True"
    assert ready(status(MODEL, worker(MODEL), demand=WANTED)) == ("True", "Serving")


def test_ready_stays_true_at_zero_once_it_was_proven() -> None:
    assert ready(status(proven)) == ("True", "ScaledToZero")
    waking = status(proven, worker(MODEL, phase=Phase.LOADING), demand=WANTED)
    assert ready(waking) == ("True", "ScaledToZero")


def test_an_edit_that_a_worker_sees_makes_ready_unknown_again() -> None:
    edited = deployment(generation=2, model={"config": {"maxLength": 9}}).model_copy(update={"status": proven.status})
    assert ready(status(edited)) == ("Unknown", "Unverified")
    assert ready(status(edited, worker(MODEL), demand=WANTED)) == ("Unknown", "Unverified")


def test_an_edit_of_a_scaling_number_leaves_ready_true() -> None:
    edited = deployment(generation=2, scaling={"maxReplicas": 3}).model_copy(update={"status": proven.status})
    assert ready(status(edited)) == ("True", "ScaledToZero")
    assert condition(status(edited), "Ready").observed_generation == 2


@pytest.mark.req("REQ-LIFE-010a")
def test_a_failed_load_is_ready_false_with_its_reason_and_what_to_do() -> None:
    said = status(MODEL, demand=WANTED, failure=failed(MODEL))
    assert ready(said) == ("False", "LoadFailed")
    assert "model.safetensors" in condition(said, "Ready").message
    assert "fetch it again" in condition(said, "Ready").message
    assert said.last_failure is not None
    assert (said.last_failure.reason, said.last_failure.where, said.last_failure.exit_code) == ("LoadFailed", "load", 1)


def test_a_failure_stays_while_it_is_tried_again_and_goes_with_the_next_good_load() -> None:
    record = failed(MODEL)
    broken = MODEL.model_copy(update={"status": status(MODEL, demand=WANTED, failure=record)})
    retrying = status(broken, worker(MODEL, phase=Phase.LOADING), demand=WANTED, failure=record, now=NOW + 60)
    assert ready(retrying) == ("False", "LoadFailed")
    assert retrying.state == "Loading"
    good = status(broken, worker(MODEL), demand=WANTED, failure=replace(record, healed=True))
    assert (ready(good), good.last_failure) == (("True", "Serving"), None)


def test_a_failure_that_was_healed_is_not_remembered_at_zero() -> None:
    assert ready(status(proven, failure=replace(failed(MODEL), healed=True))) == ("True", "ScaledToZero")


def test_a_model_that_was_proven_and_cannot_be_loaded_any_more_is_not_ready() -> None:
    assert ready(status(proven, demand=WANTED, failure=failed(MODEL))) == ("False", "LoadFailed")


def test_one_end_without_a_word_is_no_verdict_on_a_model_that_nobody_wants() -> None:
    killed = failed(MODEL, reported=False)
    assert (ready(status(proven, failure=killed)), status(proven, failure=killed).state) == (
        ("True", "ScaledToZero"),
        "Standby",
    )
    assert ready(status(proven, demand=WANTED, failure=killed)) == ("False", "WorkerCrashed")
    assert ready(status(proven, failure=replace(killed, count=2))) == ("False", "WorkerCrashed")


def test_the_state_names_the_steps() -> None:
    loading = worker(MODEL, phase=Phase.LOADING)
    assert status(MODEL).state == "Pending"
    assert status(MODEL, loading, demand=WANTED).state == "Loading"
    assert status(MODEL, worker(MODEL), demand=WANTED).state == "Loaded"
    assert status(proven).state == "Standby"
    assert status(MODEL, demand=WANTED, failure=failed(MODEL)).state == "FailedToLoad"
    assert status(MODEL, failure=failed(MODEL)).state == "FailedToLoad"


def test_the_four_conditions_are_always_there_and_the_others_only_while_true() -> None:
    resting = {c.type for c in status(proven).conditions}
    waking = {c.type for c in status(proven, demand=WANTED).conditions}
    assert (resting, waking) == (ALWAYS, ALWAYS | {"Reconciling"})


@pytest.mark.parametrize(
    "reason", ["InvalidSource", "UnsafeWeights", "InvalidEngine", "ChecksumMismatch", "ProgressDeadlineExceeded"]
)
def test_stalled_says_what_time_does_not_heal(reason: str) -> None:
    record = replace(failed(MODEL), last=Failure("fetch", reason, "no such thing"))
    said = status(MODEL, demand=WANTED, failure=record)
    assert condition(said, "Stalled").reason == reason
    assert said.condition("Reconciling") is None
    assert condition(said, "ModelAvailable").status == "False"


def test_a_failure_that_may_pass_is_reconciling() -> None:
    said = status(MODEL, demand=WANTED, failure=failed(MODEL))
    assert said.condition("Stalled") is None
    assert condition(said, "Reconciling").reason == "WaitingToRetry"
    assert condition(said, "Scheduled").reason == "WaitingToRetry"


def test_the_younger_of_two_is_stalled_and_names_the_older() -> None:
    old, young = deployment("old", created=NOW - 5), deployment("young")
    said = status(young, twins=(old,))
    assert ready(said) == ("False", "DuplicateVersion")
    assert condition(said, "Stalled").reason == "DuplicateVersion"
    assert "old" in condition(said, "Ready").message


def test_a_suspended_deployment_says_so() -> None:
    assert ready(status(deployment(suspend=True))) == ("False", "Suspended")


def test_the_time_of_a_transition_moves_only_with_the_status() -> None:
    later = proven.model_copy(update={"status": status(proven, now=NOW + 50)})
    assert ready(later.status) == ("True", "ScaledToZero")
    assert condition(later.status, "Ready").last_transition_time == datetime.fromtimestamp(NOW, UTC)
    assert condition(later.status, "Available").last_transition_time == datetime.fromtimestamp(NOW + 50, UTC)


def test_what_was_measured_and_loaded_is_reported_and_kept_at_zero() -> None:
    artifact = ArtifactStatus(digest="d1", bytes=7, verified_at=datetime.fromtimestamp(NOW, UTC))
    serving = worker(
        MODEL, phase_seconds={"load": 0.25}, memory_bytes=1000, warm=True, artifact=artifact, address="unix:/w.s"
    )
    said = status(MODEL, serving, demand=WANTED)
    assert (said.ready_of_desired, said.endpoints, said.replicas) == ("1/1", ("unix:/w.s",), 1)
    assert said.last_load is not None
    assert (said.last_load.seconds, said.last_load.kind) == ({"load": 0.25}, "Warm")
    resting = status(MODEL.model_copy(update={"status": said}))
    assert (resting.artifact, resting.last_load, resting.resources) == (artifact, said.last_load, said.resources)
    assert (resting.endpoints, resting.replicas) == ((), 0)


def test_small_changes_of_memory_are_no_news() -> None:
    before = MODEL.model_copy(update={"status": status(MODEL, worker(MODEL, memory_bytes=1000), demand=WANTED)})
    assert status(before, worker(MODEL, memory_bytes=1040), demand=WANTED) == before.status
    grown = status(before, worker(MODEL, memory_bytes=1200), demand=WANTED).resources
    assert grown is not None
    assert grown.memory_bytes == 1200


NONE_FREE = Share(granted=0, may_start=0, holders=(Key("default", "a"), Key("default", "b"), Key("elsewhere", "c")))
WAITING = Demand(1, NOW, urgency=3, waiting_since=NOW - 119)


@pytest.mark.req("REQ-QUEUE-002")
def test_who_waits_for_a_place_says_who_has_it_and_holds_its_requests() -> None:
    made = status(proven, demand=WAITING, share=NONE_FREE)
    scheduled = condition(made, "Scheduled")
    assert (str(scheduled.status), scheduled.reason) == ("False", "WaitingForRoom")
    for words in ("a, b, 1 other model:", "--max-workers", "operator.maxWorkers"):
        assert words in scheduled.message
    assert "c" not in scheduled.message.split("by ")[1].split(":")[0].split(", ")[:2]
    assert made.state is ModelState.STANDBY  # nothing loads; a router holds the requests
    assert ready(made) == ("True", "ScaledToZero")
    assert made.condition("Reconciling") is None


def test_ready_is_false_once_requests_have_waited_for_a_place_for_as_long_as_they_may() -> None:
    waiting = snapshot(proven, demand=WAITING, share=NONE_FREE)
    assert plan(waiting, NOW, Policy()).requeue_after_s == 1
    late = status(proven, demand=WAITING, share=NONE_FREE, now=NOW + 1)
    assert ready(late) == ("False", "WaitingForRoom")
    assert late.state is ModelState.STANDBY
    assert ready(status(proven, demand=WAITING, share=Share(1, 1), now=NOW + 1)) == ("True", "ScaledToZero")
    held_up = Share(granted=1, may_start=0)  # by a worker of another that does not end
    assert ready(status(proven, demand=WAITING, share=held_up, now=NOW + 1)) == ("False", "WaitingForRoom")


@pytest.mark.parametrize("model", [proven, MODEL], ids=["verified", "never tested"])
def test_it_stays_so_while_callers_that_were_refused_come_and_go_until_they_stay_away(model: ModelDeployment) -> None:
    late = status(model, demand=WAITING, share=NONE_FREE, now=NOW + 1)
    refused = model.model_copy(update={"status": late})
    away = Demand(0, NOW)  # its last request has failed, and none waits
    between = status(refused, demand=away, share=NONE_FREE, now=NOW + 30)
    assert ready(between) == ("False", "WaitingForRoom")
    assert "all places for workers are taken" in condition(between, "Ready").message
    assert between.desired_replicas == 1
    back = Demand(1, NOW + 31, urgency=3, waiting_since=NOW + 31)
    assert ready(status(refused, demand=back, share=NONE_FREE, now=NOW + 32)) == ("False", "WaitingForRoom")
    assert plan(snapshot(refused, demand=away, share=NONE_FREE), NOW + 30, Policy()).requeue_after_s == 90
    gone = status(refused, demand=away, share=NONE_FREE, now=NOW + 120)
    assert ready(gone)[1] == ("ScaledToZero" if model is proven else "Unverified")
    assert ready(status(refused, demand=away, share=Share(1, 1), now=NOW + 30))[1] != "WaitingForRoom"


def test_a_model_that_gave_way_and_that_nobody_waits_for_is_at_rest() -> None:
    made = status(proven, demand=Demand(0, NOW), share=NONE_FREE)
    assert (made.state, made.desired_replicas) == (ModelState.STANDBY, 0)
    assert ready(made) == ("True", "ScaledToZero")
    assert condition(made, "Scheduled").reason == "NothingToPlace"


def test_a_new_model_without_a_place_is_told_to_wait_for_one() -> None:
    made = status(MODEL, demand=Demand(0, NOW), share=replace(NONE_FREE, for_good=True))
    assert ready(made) == ("Unknown", "Unverified")
    assert "lower their scaling.minReplicas" in condition(made, "Ready").message
    assert condition(made, "Reconciling").reason == "WaitingForRoom"


def test_a_model_with_fewer_workers_than_it_wants_serves_all_the_same() -> None:
    model = deployment(scaling={"maxReplicas": 3})
    made = status(model, worker(model), demand=Demand(90, NOW, urgency=3), share=replace(NONE_FREE, granted=1))
    assert ready(made) == ("True", "Serving")
    assert condition(made, "Scheduled").reason == "WaitingForRoom"
    assert made.condition("Reconciling") is None
