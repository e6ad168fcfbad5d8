"""Copies for a mirror: bounded, least urgent, and heard of by nobody."""

from typing import cast

import pytest

from modelmora.errors import InferenceFailed
from modelmora.spec import ModelDeployment, Priority
from modelmora_router.calls import Answer, InferenceCall
from modelmora_router.held_bytes import HeldBytes
from modelmora_router.lane import Lane
from modelmora_router.metrics import Meters
from modelmora_router.mirroring import Mirroring, copy_of
from tests.support.routing import call, deployment, eventually


class Shadow:
    """As much of a lane as a copy needs."""

    def __init__(self, error: Exception | None = None) -> None:
        self.deployment: ModelDeployment = deployment()
        self.calls: list[InferenceCall] = []
        self.numbers = Meters()
        self.meters = self.numbers.of(self.deployment)
        self._error = error

    async def infer(self, call: InferenceCall) -> Answer | None:
        self.calls.append(call)
        if self._error:
            raise self._error
        return None

    def counted(self, outcome: str) -> float | None:
        """What the metrics say of copies for it."""
        labels = {"model": "one", "version": "1.0.0", "model_namespace": "default", "task": "txt2embed"}
        return self.numbers.registry.get_sample_value("modelmora_mirror_copies_total", labels | {"outcome": outcome})

    @property
    def lane(self) -> Lane:
        return cast("Lane", self)


def mirroring(limit: int = 10, held: int = 1 << 20) -> Mirroring:
    return Mirroring(HeldBytes(held, retry_after_s=1.0), limit=limit)


@pytest.mark.req("RM-4.3c")
def test_a_copy_is_least_urgent_outlives_its_caller_and_is_never_sent_twice() -> None:
    original = call(priority=Priority.CRITICAL, timeout_s=1.0, deadline=5.0)
    copy = copy_of(original)
    assert (copy.priority, copy.timeout_s, copy.deadline, copy.idempotent) == (Priority.LOW, None, None, False)
    assert copy.payload is original.payload


@pytest.mark.req("RM-4.3c")
@pytest.mark.parametrize("error", [InferenceFailed("no"), RuntimeError("a bug")])
async def test_whatever_a_copy_fails_of_is_counted_and_goes_no_further(error: Exception) -> None:
    copies, shadow = mirroring(), Shadow(error)
    copies.copy(call(), shadow.lane, shadow.meters)
    await eventually(lambda: copies.statistics().failed == 1)
    assert copies.statistics().under_way == 0
    assert shadow.counted("Failed") == 1


async def test_one_more_than_may_be_is_dropped() -> None:
    copies, shadow = mirroring(limit=2), Shadow()
    for _ in range(5):
        copies.copy(call(), shadow.lane, shadow.meters)
    await eventually(lambda: copies.statistics().answered == 2)
    assert copies.statistics().dropped == 3
    copies.copy(call(), shadow.lane, shadow.meters)
    await eventually(lambda: copies.statistics().answered == 3)
    assert (shadow.counted("Answered"), shadow.counted("TooMany"), shadow.counted("Failed")) == (3, 3, 0)


async def test_without_memory_for_it_a_copy_is_dropped() -> None:
    held = HeldBytes(100, retry_after_s=1.0)
    copies, shadow = Mirroring(held, limit=10), Shadow()
    with held.hold(90, Priority.NORMAL):
        copies.copy(call("twenty bytes, or more"), shadow.lane, shadow.meters)
        await eventually(lambda: copies.statistics().dropped == 1)
    assert shadow.calls == []
    assert (shadow.counted("HeldBytes"), shadow.counted("Answered")) == (1, 0)


async def test_closed_it_takes_none() -> None:
    copies, shadow = mirroring(), Shadow()
    copies.close()
    copies.copy(call(), shadow.lane, shadow.meters)
    assert (copies.statistics().dropped, copies.statistics().under_way) == (1, 0)
    assert shadow.counted("Closing") == 1
