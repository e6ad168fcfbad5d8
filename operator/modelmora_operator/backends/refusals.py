"""What it means that the API server refuses a worker's pod: a failure, told in the server's own words. Pure."""

import re
from typing import Final

from modelmora.kube.api import KubeError
from modelmora_operator.cluster import Failure

FORBIDDEN: Final = 403
_QUOTA: Final = re.compile(r"exceeded quota|failed quota|insufficient quota", re.IGNORECASE)
_LIMITS: Final = re.compile(r"(maximum|minimum) .* usage per (Container|Pod)|LimitRange", re.IGNORECASE)
_RIGHT: Final = re.compile(r"User \"(?P<user>[^\"]+)\" cannot (?P<verb>\w+) resource \"(?P<what>[^\"]+)\"")
_LONGEST: Final = 4096
# 401: of the operator's own token, which is read anew; it says nothing of a pod.
_TRANSIENT: Final = frozenset({401, 408, 409, 429, 500, 502, 503, 504})


def is_transient(error: KubeError) -> bool:
    """Time heals it: no verdict on the deployment."""
    return error.status in _TRANSIENT or error.status not in range(400, 500)


def namespace_ends(error: KubeError) -> bool:
    """The namespace is being deleted, and everything in it."""
    return error.status == FORBIDDEN and "because it is being terminated" in error.message


def failure_of(error: KubeError) -> Failure:
    """Why there is no pod."""
    reason, remedy = _verdict(error)
    return Failure("schedule", reason, f"the API server refuses the pod: {error.message}"[:_LONGEST], remedy)


def missing_right(error: KubeError) -> str:
    """Which right a token lacks, in words; empty: that is not what is wrong."""
    said = _RIGHT.search(error.message) if error.status == FORBIDDEN else None
    return f"{said['user']} lacks the right to {said['verb']} {said['what']}" if said else ""


def _verdict(error: KubeError) -> tuple[str, str]:
    message = error.message
    if right := missing_right(error):
        return "Forbidden", f"{right}: give it by a Role, as the chart does"
    if error.status == FORBIDDEN and _QUOTA.search(message):
        return "QuotaExceeded", "raise the ResourceQuota of the namespace, or lower spec.resources"
    if error.status == FORBIDDEN and "violates PodSecurity" in message:
        return "PodSecurityViolation", "take what the message names out of spec.podTemplate and spec.sidecars"
    if error.status == FORBIDDEN and _LIMITS.search(message):
        return "LimitRangeViolation", "bring spec.resources within the LimitRange of the namespace"
    if error.status == FORBIDDEN:
        return "Forbidden", "ask who runs the cluster: an admission rule or a missing right refuses the pod"
    return "PodRejected", "correct what the message names in spec.podTemplate, spec.sidecars, spec.runtime or resources"
