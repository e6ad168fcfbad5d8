"""When a model's state refuses requests, and in which words."""

from datetime import timedelta

import pytest

from modelmora.errors import ColdStartTimeout, DeadlineExceeded, ModelSuspended, ModelUnhealthy
from modelmora.spec import ModelState
from modelmora_router.deadlines import Ending
from modelmora_router.refusals import overdue, refusal
from tests.support.routing import MOMENT, condition, deployment, failed

NOW = MOMENT.timestamp()


@pytest.mark.parametrize("state", [state for state in ModelState if state != ModelState.FAILED_TO_LOAD])
def test_requests_are_held_in_every_state_but_failed(state: ModelState) -> None:
    assert refusal(deployment(status={"state": state}), serving=False, now=NOW, retry_after_s=5) is None


@pytest.mark.req("REQ-LIFE-010b")
def test_a_failed_model_refuses_with_the_reason_and_what_to_do() -> None:
    error = refusal(deployment(status=failed("LoadFailed", "it is cut short")), serving=False, now=NOW, retry_after_s=5)
    assert isinstance(error, ModelUnhealthy)
    assert error.message == "model 'one' version 1.0.0 cannot be loaded: it is cut short"
    assert (error.context.reason, error.context.remedy) == ("LoadFailed", "fetch it again")
    assert error.context.retry_after_s == 5


def test_the_caller_is_told_to_come_back_after_the_next_attempt() -> None:
    status = failed()
    status["last_failure"] = status["last_failure"].model_copy(update={"retry_at": MOMENT + timedelta(seconds=40)})
    waits = [
        refused.context.retry_after_s
        for now in (NOW, NOW + 30, NOW + 100)
        if (refused := refusal(deployment(status=status), serving=False, now=now, retry_after_s=5))
    ]
    assert waits == [41, 11, 1]


def test_a_failed_rollout_does_not_stop_the_worker_that_serves() -> None:
    assert refusal(deployment(status=failed()), serving=True, now=NOW, retry_after_s=5) is None


def test_the_failure_of_an_older_spec_says_nothing_of_the_present_one() -> None:
    model = deployment(status=failed(), metadata={"generation": 2})
    assert refusal(model, serving=False, now=NOW, retry_after_s=5) is None


def test_a_suspended_model_refuses_even_while_its_worker_still_serves() -> None:
    error = refusal(deployment(suspend=True), serving=True, now=NOW, retry_after_s=5)
    assert isinstance(error, ModelSuspended)
    assert error.context.field == "spec.suspend"


@pytest.mark.parametrize(
    ("ending", "kind", "field"),
    [
        (Ending.ASLEEP, ColdStartTimeout, "spec.queue.coldStartTimeoutSeconds"),
        (Ending.AWAKE, DeadlineExceeded, "timeoutSeconds"),
        (Ending.CALLER, DeadlineExceeded, ""),
    ],
)
def test_what_ended_the_time_decides_the_error(ending: Ending, kind: type[Exception], field: str) -> None:
    error = overdue(deployment(), ending=ending, allowed_s=2.0, retry_after_s=5)
    assert type(error) is kind
    assert error.context.field == field
    assert error.context.model_id == "one"


@pytest.mark.req("REQ-QUEUE-002")
def test_a_model_that_did_not_wake_since_it_has_no_place_says_who_has_it() -> None:
    words = "all places for workers are taken, by n: it gets one when one of them is idle"
    status = {"conditions": (condition("Scheduled", "False", "WaitingForRoom", words),)}
    error = overdue(deployment(status=status), ending=Ending.ASLEEP, allowed_s=2.0, retry_after_s=5)
    assert isinstance(error, ColdStartTimeout)
    assert "has no place" in error.message
    assert (error.context.reason, error.context.remedy) == ("WaitingForRoom", words)
    assert error.context.retry_after_s == 5
