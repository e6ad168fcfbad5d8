"""Objects that an older release stored, and what is said of those that cannot be read."""

from typing import Any

from modelmora.spec import ModelDeployment
from modelmora_operator.backends.stored_deployments import Unreadable, minimal_status_of, read, status_of, told
from tests.support.operator_values import NOW, deployment

GOOD = deployment().manifest()


def broken(**status: Any) -> dict[str, Any]:
    spec = {**GOOD["spec"], "scaling": {"maxReplicas": "many"}}
    return {**GOOD, "metadata": {"name": "minilm", "generation": 3}, "spec": spec, "status": status}


def unreadable(**status: Any) -> Unreadable:
    found = read(broken(**status))
    assert isinstance(found, Unreadable)
    return found


def test_what_can_be_read_is_read() -> None:
    assert isinstance(read(GOOD), ModelDeployment)


def test_a_status_that_cannot_be_read_is_derived_anew() -> None:
    found = read({**GOOD, "status": {"state": "Sleeping", "replicas": "x"}})
    assert isinstance(found, ModelDeployment)
    assert found.status.conditions == ()


def test_what_cannot_be_read_is_told_with_words_and_the_rest_of_the_status_stays() -> None:
    of = unreadable(verifiedSpecHash="abc")
    assert not told(of)
    status = status_of(of, NOW)
    ready, stalled = status["conditions"]
    assert (ready["type"], ready["status"], ready["reason"]) == ("Ready", "False", "InvalidSpec")
    assert (stalled["type"], stalled["status"], stalled["observedGeneration"]) == ("Stalled", "True", 3)
    assert "maxReplicas" in ready["message"]
    assert status["verifiedSpecHash"] == "abc"
    assert "verifiedSpecHash" not in minimal_status_of(of, NOW)


def test_it_is_told_once() -> None:
    status = status_of(unreadable(), NOW)
    assert told(unreadable(**status))
