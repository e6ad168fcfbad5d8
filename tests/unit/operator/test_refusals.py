"""What it means that the API server refuses a pod."""

import pytest

from modelmora.kube.api import KubeError
from modelmora_operator.backends.refusals import failure_of, is_transient, missing_right, namespace_ends

QUOTA = 'pods "a" is forbidden: exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0'
SECURITY = 'pods "a" is forbidden: violates PodSecurity "restricted:latest": privileged'
RIGHT = (
    'pods is forbidden: User "system:serviceaccount:m:operator" cannot create resource "pods" in API group "" '
    'in the namespace "n"'
)
LIMITS = 'pods "a" is forbidden: maximum memory usage per Container is 1Gi, but limit is 2Gi'
INVALID = 'Pod "a" is invalid: spec.containers[0].image: Required value'


@pytest.mark.parametrize(
    ("status", "message", "reason"),
    [
        (403, QUOTA, "QuotaExceeded"),
        (403, SECURITY, "PodSecurityViolation"),
        (403, RIGHT, "Forbidden"),
        (403, LIMITS, "LimitRangeViolation"),
        (403, "no", "Forbidden"),
        (422, INVALID, "PodRejected"),
        (400, "admission webhook denied the request", "PodRejected"),
    ],
)
def test_a_refusal_has_a_reason_the_servers_words_and_a_remedy(status: int, message: str, reason: str) -> None:
    failure = failure_of(KubeError(status, "Any", message))
    assert (failure.where, failure.reason) == ("schedule", reason)
    assert message in failure.message
    assert failure.remedy


@pytest.mark.req("REQ-DEPLOY-004")
def test_a_missing_right_is_named() -> None:
    error = KubeError(403, "Forbidden", RIGHT)
    assert missing_right(error) == "system:serviceaccount:m:operator lacks the right to create pods"
    assert missing_right(error) in failure_of(error).remedy
    assert missing_right(KubeError(403, "Forbidden", QUOTA)) == ""


def test_what_time_heals_is_no_verdict() -> None:
    assert [is_transient(KubeError(status, "", "")) for status in (409, 429, 500, 503)] == [True] * 4
    assert [is_transient(KubeError(status, "", "")) for status in (400, 403, 413, 422)] == [False] * 4


def test_a_namespace_that_ends_is_known_by_the_servers_words() -> None:
    words = 'pods "a" is forbidden: unable to create new content in namespace n because it is being terminated'
    assert namespace_ends(KubeError(403, "Forbidden", words))
    assert not namespace_ends(KubeError(403, "Forbidden", QUOTA))
