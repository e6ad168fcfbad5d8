"""The lane: which replica gets what, and what is sent again when one fails."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest
import structlog.testing

from modelmora.errors import (
    DeadlineExceeded,
    WorkerUnavailable,
)
from modelmora.spec import Priority
from modelmora_router.breaker import BreakerState
from modelmora_router.calls import Answer
from modelmora_router.settings import RouterSettings
from tests.support.lanes import Bench, Clock, ScriptedReplica, has_text, lose, running_lane
from tests.support.routing import call, deployment, eventually

# ---------------------------------------------------------------------------------------------------- replicas


async def spread(bench: Bench, replicas: Sequence[ScriptedReplica], requests: int) -> list[int]:
    """How many of these requests each replica gets; each of them comes when the one before has been answered."""
    before = [len(replica.sent) for replica in replicas]
    for number in range(sum(before), sum(before) + requests):
        outcome, text = bench.infer(call(f"{number}")), f"{number}"
        await eventually(lambda text=text: any(has_text(replica, text) for replica in replicas))  # type: ignore[misc]
        next(replica for replica in replicas if has_text(replica, text)).answer(text)
        assert isinstance(await outcome, Answer)
    return [len(replica.sent) - count for replica, count in zip(replicas, before, strict=True)]


@pytest.mark.req("RM-4.2d")
async def test_equal_replicas_that_are_idle_get_equal_shares() -> None:
    async with running_lane() as bench:
        replicas = [bench.replica(f"w{number}") for number in range(3)]
        assert await spread(bench, replicas, 300) == [100, 100, 100]


@pytest.mark.req("RM-4.2d")
async def test_what_is_less_loaded_gets_more_and_what_does_not_serve_nothing() -> None:
    async with running_lane() as bench:
        replicas = [bench.replica(f"w{number}") for number in range(4)]
        replicas[3].serve(serving=False)  # it has not loaded the model
        busy = bench.infer(call("long"))
        await eventually(lambda: any(replica.sent for replica in replicas))
        replicas.sort(key=lambda replica: -replica.outstanding)
        assert sorted(await spread(bench, replicas, 60)) == [0, 0, 30, 30]
        replicas[0].answer("long")
        await busy
        assert sorted(await spread(bench, replicas, 60)) == [0, 20, 20, 20]


# ---------------------------------------------------------------------------------------------------- failures


@pytest.mark.req("REQ-REL-003")
async def test_what_a_lost_worker_had_is_sent_to_another_each_alone() -> None:
    async with running_lane(batches=True) as bench:
        outcomes = [bench.infer(call(text)) for text in "ab"]
        await bench.queued(2)
        first = bench.replica("w1")
        await eventually(lambda: first.batches_sent == [["a", "b"]])
        second = bench.replica("w2")
        lose(first)
        await eventually(lambda: second.batches_sent == [["a"], ["b"]])
        assert all(entry.alone for entry in second.sent)
        second.answer_all()
        assert all([isinstance(await outcome, Answer) for outcome in outcomes])


@pytest.mark.req("REQ-REL-003")
async def test_what_ends_two_workers_is_not_sent_to_a_third() -> None:
    async with running_lane() as bench:
        replicas = [bench.replica(f"w{number}") for number in range(3)]
        outcome = bench.infer(call("deadly"))
        for _ in range(2):
            await eventually(lambda: any(replica.outstanding for replica in replicas))
            lose(next(replica for replica in replicas if replica.outstanding))
        assert isinstance(await outcome, WorkerUnavailable)
        assert sum(len(replica.sent) for replica in replicas) == 2


@pytest.mark.req("REQ-REL-003")
async def test_what_must_not_be_done_twice_is_not_sent_twice() -> None:
    async with running_lane() as bench:
        first, second = bench.replica("w1"), bench.replica("w2")
        outcome = bench.infer(replace(call("once"), idempotent=False))
        await eventually(lambda: first.sent)
        lose(first)
        assert isinstance(await outcome, WorkerUnavailable)
        assert not second.sent


@pytest.mark.req("REQ-REL-003")
@pytest.mark.parametrize("idempotent", [True, False])
async def test_what_had_begun_when_its_worker_ended_is_done_twice_only_if_it_may_be(*, idempotent: bool) -> None:
    async with running_lane() as bench:
        first = bench.replica("w1")
        outcome = bench.infer(replace(call("begun"), idempotent=idempotent))
        await eventually(lambda: first.sent)
        second = bench.replica("w2")
        first.serve(serving=False)
        first.answer("begun", error=WorkerUnavailable("it ended before its answer"), inference_ms=30_000)
        if idempotent:
            await eventually(lambda: second.texts == ["begun"])
            assert second.sent[0].alone
            second.answer("begun")
        assert isinstance(await outcome, Answer if idempotent else WorkerUnavailable)
        assert bool(second.sent) is idempotent


async def test_a_worker_that_is_silent_while_its_callers_leave_is_not_trusted() -> None:
    async with running_lane(settings=RouterSettings(breaker_failures=1, breaker_open_s=60)) as bench:
        replica = bench.replica()
        for patience_s, state in ((0, BreakerState.CLOSED), (60, BreakerState.OPEN)):
            caller = bench.infer(call(str(patience_s)))
            await eventually(partial(has_text, replica, str(patience_s)))
            replica._now = lambda later_s=patience_s: time.monotonic() + later_s  # type: ignore[misc]
            caller.cancel()
            await asyncio.wait([caller])
            assert bench.lane.statistics().breakers == {"w1": state}


async def test_a_retry_does_not_outlive_the_deadline_of_its_caller() -> None:
    lane_settings = RouterSettings()
    async with running_lane(settings=lane_settings) as bench:
        first, second = bench.replica("w1"), bench.replica("w2")
        second.serve(serving=False)
        second.serve()
        outcome = bench.infer(call("short", deadline=time.monotonic() + 0.3))
        await eventually(lambda: first.sent or second.sent)
        lose(first if first.sent else second)
        other = second if first.sent else first
        await eventually(lambda: other.sent)
        assert isinstance(await outcome, DeadlineExceeded)
        assert other.withdrawn == [other.sent[0].entry_id]


@pytest.mark.req("RM-5.1d")
async def test_nothing_is_sent_to_a_worker_that_fails_until_one_request_has_tried_it() -> None:
    settings = RouterSettings(breaker_failures=2, breaker_open_s=0.2)
    async with running_lane(settings=settings, batches=True) as bench:
        replica = bench.replica()
        for text in "ab":
            bench.infer(call(text))
            await eventually(partial(has_text, replica, text))
            lose(replica)
            replica.serve()
        assert bench.lane.statistics().breakers == {"w1": BreakerState.OPEN}
        with pytest.raises(WorkerUnavailable) as caught:
            await bench.lane.infer(call("refused"))
        assert caught.value.context.retry_after_s
        await eventually(lambda: bench.lane.statistics().breakers == {"w1": BreakerState.HALF_OPEN})
        outcomes = [bench.infer(call(text)) for text in ("probe", "waits-1", "waits-2")]
        await eventually(lambda: replica.batches_sent[2:] == [["probe"]])
        replica.answer("probe")
        await eventually(lambda: replica.batches_sent[3:] == [["waits-1", "waits-2"]])
        replica.answer_all()
        assert all([isinstance(await outcome, Answer) for outcome in outcomes])
        assert bench.lane.statistics().breakers == {"w1": BreakerState.CLOSED}


@pytest.mark.req("RM-5.1d")
@pytest.mark.parametrize(
    ("time_s", "passes_s", "leaves", "state"),
    [(1, 1.01, False, BreakerState.OPEN), (1, 0.96, True, BreakerState.OPEN), (60, 1, True, BreakerState.HALF_OPEN)],
    ids=["its time is over", "its caller knows so a little sooner", "its caller leaves for reasons of its own"],
)
async def test_a_trial_without_an_answer_counts_when_its_time_is_over(
    time_s: float, passes_s: float, state: BreakerState, *, leaves: bool
) -> None:
    clock = Clock()
    async with running_lane(settings=RouterSettings(breaker_failures=1, breaker_open_s=5), now=clock) as bench:
        replica = bench.replica()
        quick = bench.infer(call("quick"))  # so that a short time is known to be enough for an answer
        await eventually(lambda: replica.sent)
        clock.now += 0.5
        replica.answer("quick")
        await quick
        bench.infer(call("lost"))
        await eventually(partial(has_text, replica, "lost"))
        lose(replica)
        replica.serve()
        assert replica.breaker(clock.now) is BreakerState.OPEN
        clock.now = (replica.trusted_at or 0) + 0.1
        trial = bench.infer(call("trial", deadline=clock.now + time_s))
        await eventually(partial(has_text, replica, "trial"))
        clock.now += passes_s
        trial.cancel() if leaves else bench.lane.changed()
        await asyncio.wait([trial])
        assert replica.breaker(clock.now) is state


@pytest.mark.req("REQ-QUEUE-002")
async def test_a_lane_is_as_urgent_as_the_most_urgent_of_what_waits_or_runs() -> None:
    async with running_lane(deployment(queue={"defaultPriority": "LOW"})) as bench:
        assert bench.lane.urgency == 0
        asked = asyncio.ensure_future(bench.lane.until_serving())
        await eventually(lambda: bench.lane.urgency == Priority.LOW)
        bench.infer(call("high", priority=Priority.HIGH))
        bench.infer(call("normal", priority=Priority.NORMAL))
        await bench.queued(2)
        assert bench.lane.urgency == Priority.HIGH
        replica = bench.replica()
        await asked
        await eventually(lambda: replica.texts == ["high", "normal"])
        assert bench.lane.urgency == Priority.HIGH
        replica.answer("high")
        assert bench.lane.urgency == Priority.NORMAL
        replica.answer("normal")
        assert bench.lane.urgency == 0


@pytest.mark.req("REQ-OBS-003d")
async def test_a_queue_that_is_nearly_full_is_a_warning_and_not_one_for_each_request() -> None:
    with structlog.testing.capture_logs() as lines:
        async with running_lane(deployment(queue={"maxLength": 10})) as bench:
            for number in range(8):
                bench.infer(call(str(number)))
            await bench.queued(8)
            assert lines == []
            for number in range(2):
                bench.infer(call(f"more {number}"))
            await bench.queued(10)
            warned = [line for line in lines if line["log_level"] == "warning"]
            assert [(line["event"], line["queued"], line["max_length"]) for line in warned] == [
                ("queue is nearly full", 8, 10)
            ]
