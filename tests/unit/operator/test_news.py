"""What is worth an event."""

import pytest

from modelmora.spec import Condition, ConditionStatus, ModelDeploymentStatus
from modelmora_operator.news import News, news
from tests.support.operator_values import deployment

NOTHING = deployment().status


def ready(status: ConditionStatus, reason: str, message: str = "") -> ModelDeploymentStatus:
    condition = Condition.model_validate(
        {
            "type": "Ready",
            "status": status,
            "reason": reason,
            "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
    )
    return ModelDeploymentStatus(conditions=(condition,))


TRUE, FALSE, UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN
SERVING = ready(TRUE, "Serving", "1 of 1 serve")
BROKEN = ready(FALSE, "LoadFailed", "broken")


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (NOTHING, SERVING, News("Normal", "Serving", "1 of 1 serve")),
        (SERVING, BROKEN, News("Warning", "LoadFailed", "broken")),
        (BROKEN, SERVING, News("Normal", "Serving", "1 of 1 serve")),
        (SERVING, ready(FALSE, "Suspended", "s"), News("Normal", "Suspended", "s")),
        (BROKEN, ready(FALSE, "LoadFailed", "other words"), News("Warning", "LoadFailed", "other words")),
        (SERVING, ready(TRUE, "Serving", "2 of 2 serve"), None),
        (BROKEN, BROKEN, None),
        (NOTHING, ready(UNKNOWN, "Unverified"), None),
        (BROKEN, NOTHING, None),
    ],
)
def test_a_turn_of_ready_is_news(
    before: ModelDeploymentStatus, after: ModelDeploymentStatus, expected: News | None
) -> None:
    assert news(before, after) == expected
