"""What of a changed status a person must be told as an event: that a model became ready, or ceased to be, and why."""

from dataclasses import dataclass

from modelmora.spec import Condition, ConditionStatus, ModelDeploymentStatus
from modelmora_operator.conditions import READY, SUSPENDED, UNVERIFIED

NORMAL = "Normal"
WARNING = "Warning"


@dataclass(frozen=True, slots=True)
class News:
    """The content of an event."""

    type: str
    reason: str
    message: str


def news(before: ModelDeploymentStatus, after: ModelDeploymentStatus) -> News | None:
    """None: nothing that has not been told, or that is not worth it."""
    then, now = before.condition(READY), after.condition(READY)
    if now is None or now.reason == UNVERIFIED or _same(then, now):
        return None
    bad = now.status is ConditionStatus.FALSE and now.reason != SUSPENDED
    return News(WARNING if bad else NORMAL, now.reason, now.message or now.reason)


def _same(then: Condition | None, now: Condition) -> bool:
    """A count that changed while it serves is no news, other words for a failure are."""
    if then is None or (then.status, then.reason) != (now.status, now.reason):
        return False
    return now.status is not ConditionStatus.FALSE or then.message == now.message
