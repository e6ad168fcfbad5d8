"""Keys: each once in the queue, never twice at a time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from modelmora_operator.backoff import Backoff
from modelmora_operator.workqueue import WorkQueue
from tests.support.waiting import eventually

Reconcile = Callable[[str], Awaitable[float | None]]


@asynccontextmanager
async def working(queue: WorkQueue[str], reconcile: Reconcile) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(queue.run(reconcile), name="queue")
        yield
        running.cancel()


class Recorder:
    """A reconcile that can be held and made to fail."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.ended: list[str] = []
        self.open = asyncio.Event()
        self.open.set()
        self.failing = 0
        self.again_after_s: float | None = None

    async def __call__(self, key: str) -> float | None:
        self.began.append(key)
        await self.open.wait()
        if self.failing > 0:
            self.failing -= 1
            raise RuntimeError("told to fail")
        self.ended.append(key)
        again, self.again_after_s = self.again_after_s, None
        return again


async def test_a_key_that_is_added_often_is_reconciled_once() -> None:
    queue, reconcile = WorkQueue[str](), Recorder()
    for _ in range(5):
        queue.add("a")
    async with working(queue, reconcile):
        await eventually(lambda: queue.statistics().finished, what="a reconcile")
    assert reconcile.ended == ["a"]


async def test_a_key_that_is_added_while_it_is_worked_on_runs_once_more_and_not_at_the_same_time() -> None:
    queue, reconcile = WorkQueue[str](concurrency=4), Recorder()
    reconcile.open.clear()
    queue.add("a")
    async with working(queue, reconcile):
        await eventually(lambda: reconcile.began == ["a"], what="the first reconcile")
        for _ in range(3):
            queue.add("a")
        queue.add("b")
        await eventually(lambda: reconcile.began == ["a", "b"], what="the other key")
        assert queue.statistics().running == 2
        reconcile.open.set()
        await eventually(lambda: sorted(reconcile.ended) == ["a", "a", "b"], what="the second reconcile")
    assert queue.statistics().waiting == 0


async def test_no_more_keys_are_worked_on_than_allowed() -> None:
    queue, reconcile = WorkQueue[str](concurrency=2), Recorder()
    reconcile.open.clear()
    for key in "abc":
        queue.add(key)
    async with working(queue, reconcile):
        await eventually(lambda: len(reconcile.began) == 2, what="two reconciles")
        statistics = queue.statistics()
        assert (statistics.running, statistics.waiting) == (2, 1)
        assert statistics.oldest_s > 0
        reconcile.open.set()
        await eventually(lambda: sorted(reconcile.ended) == ["a", "b", "c"], what="all")


async def test_a_reconcile_may_ask_to_be_repeated_later() -> None:
    queue, reconcile = WorkQueue[str](), Recorder()
    reconcile.again_after_s = 0.02
    queue.add("a")
    async with working(queue, reconcile):
        await eventually(lambda: reconcile.ended == ["a", "a"], what="the repetition")
    assert queue.statistics().scheduled == 0


async def test_a_change_comes_before_the_time_that_was_asked_for() -> None:
    queue, reconcile = WorkQueue[str](), Recorder()
    reconcile.again_after_s = 3600
    queue.add("a")
    async with working(queue, reconcile):
        await eventually(lambda: queue.statistics().scheduled, what="the repetition to be scheduled")
        queue.add("a")
        await eventually(lambda: reconcile.ended == ["a", "a"], what="the change")
        assert queue.statistics().scheduled == 0


@pytest.mark.req("REQ-LIFE-011")
async def test_a_failed_reconcile_is_retried_with_growing_delays_until_it_succeeds() -> None:
    queue, reconcile = WorkQueue[str](backoff=Backoff(first_s=0.01, cap_s=0.05)), Recorder()
    reconcile.failing = 3
    queue.add("a")
    async with working(queue, reconcile):
        await eventually(lambda: reconcile.ended == ["a"], what="the success")
    statistics = queue.statistics()
    assert (statistics.failed, statistics.finished) == (3, 1)
    assert reconcile.began == ["a"] * 4


async def test_a_failing_key_holds_up_no_other() -> None:
    queue, reconcile = WorkQueue[str](concurrency=1, backoff=Backoff(first_s=3600, cap_s=3600)), Recorder()
    reconcile.failing = 1
    queue.add("broken")
    queue.add("good")
    async with working(queue, reconcile):
        await eventually(lambda: reconcile.ended == ["good"], what="the good one")
