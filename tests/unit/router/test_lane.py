"""The lane: order, bounds, deadlines, and what becomes of who waits."""

import asyncio
import time
from functools import partial

import pytest

from modelmora.errors import (
    ColdStartTimeout,
    DeadlineExceeded,
    InferenceFailed,
    ModelNotFound,
    ModelSuspended,
    ModelUnhealthy,
    QueueFull,
    ServerUnavailable,
    WorkerUnavailable,
)
from modelmora.spec import Priority
from modelmora.v1 import worker_pb2
from modelmora_router.calls import Answer
from modelmora_router.outstanding import CAPACITY
from tests.support.lanes import SETTINGS, has_sent, has_text, lose, running_lane
from tests.support.routing import call, deployment, eventually, failed


@pytest.mark.req("REQ-QUEUE-001a", "REQ-QUEUE-001d", "RM-2.1a")
async def test_what_is_urgent_goes_first_and_equals_go_in_their_order() -> None:
    async with running_lane() as bench:
        for text in ("low-1", "normal-1", "low-2", "critical", "high", "normal-2"):
            bench.infer(call(text, priority=Priority.parse(text.split("-")[0])))
        await bench.queued(6)
        replica = bench.replica()
        for count in range(1, 7):
            await eventually(partial(has_sent, replica, min(6, count + 1)))
            replica.answer(replica.texts[count - 1])
        assert replica.texts == ["critical", "high", "normal-1", "normal-2", "low-1", "low-2"]


async def test_a_call_without_priority_has_that_of_the_deployment() -> None:
    async with running_lane(deployment(queue={"defaultPriority": "LOW"})) as bench:
        bench.infer(call("unsaid"))
        bench.infer(call("normal", priority=Priority.NORMAL))
        await bench.queued(2)
        replica = bench.replica()
        await eventually(lambda: replica.texts == ["normal", "unsaid"])
        replica.answer_all()


async def test_a_replica_has_one_entry_that_runs_and_one_behind_it() -> None:
    async with running_lane() as bench:
        replica = bench.replica()
        outcomes = [bench.infer(call(str(number))) for number in range(5)]
        await bench.queued(5 - CAPACITY)
        assert replica.texts == ["0", "1"]
        replica.answer("0")
        await eventually(lambda: replica.texts == ["0", "1", "2"])
        for text in "1234":
            await eventually(partial(has_text, replica, text))
            replica.answer(text)
        assert all([isinstance(await outcome, Answer) for outcome in outcomes])


async def test_the_replica_with_the_least_to_do_gets_the_next() -> None:
    async with running_lane() as bench:
        replicas = [bench.replica("w1"), bench.replica("w2")]
        for number in range(4):
            bench.infer(call(str(number)))
        await eventually(lambda: [replica.outstanding for replica in replicas] == [2, 2])
        assert [replica.texts for replica in replicas] == [["0", "2"], ["1", "3"]]
        for replica in replicas:
            replica.answer_all()


async def test_a_queue_at_its_bound_refuses_and_says_when_to_come_again() -> None:
    async with running_lane(deployment(queue={"maxLength": 2})) as bench:
        held = [bench.infer(call(str(number))) for number in range(2)]
        await bench.queued(2)
        with pytest.raises(QueueFull) as caught:
            await bench.lane.infer(call("too many"))
        assert caught.value.context.retry_after_s
        replica = bench.replica()
        await eventually(lambda: len(replica.sent) == 2)
        replica.answer_all()
        assert all([isinstance(await outcome, Answer) for outcome in held])


@pytest.mark.req("REQ-QUEUE-004")
async def test_a_request_that_waits_too_long_leaves_the_queue() -> None:
    async with running_lane() as bench:
        replica = bench.replica()
        bench.infer(call("runs"))
        bench.infer(call("staged"))
        outcome = await bench.infer(call("waits", timeout_s=0.05))
        assert isinstance(outcome, DeadlineExceeded)
        assert outcome.context.request_id == "request-waits"
        assert "within 0.05 s, its timeout" in outcome.message
        assert bench.lane.statistics().queued == 0
        replica.answer_all()
        assert replica.texts == ["runs", "staged"]


@pytest.mark.req("REQ-QUEUE-004")
async def test_a_request_that_runs_too_long_frees_its_place_and_the_worker_is_told() -> None:
    async with running_lane() as bench:
        replica = bench.replica()
        outcome = await bench.infer(call("slow", timeout_s=0.05))
        assert isinstance(outcome, DeadlineExceeded)
        assert replica.withdrawn == [replica.sent[0].entry_id]
        assert replica.outstanding == 0


async def test_the_answer_to_what_nobody_waits_for_any_more_disturbs_nobody() -> None:
    async with running_lane() as bench:
        replica = bench.replica()
        await bench.infer(call("slow", timeout_s=0.02))
        bench.lane.finished(worker_pb2.EntryResult(entry_id=replica.sent[0].entry_id, output=b""))
        outcome = bench.infer(call("next"))
        await eventually(lambda: "next" in replica.texts)
        replica.answer("next")
        assert isinstance(await outcome, Answer)


async def test_the_callers_own_deadline_ends_a_held_request() -> None:
    async with running_lane() as bench:
        outcome = await bench.infer(call("held", deadline=time.monotonic() + 0.05))
        assert isinstance(outcome, DeadlineExceeded)


async def test_a_model_that_does_not_wake_in_time_is_a_cold_start_timeout() -> None:
    async with running_lane(deployment(queue={"coldStartTimeoutSeconds": 1, "timeoutSeconds": 1})) as bench:
        outcome = await bench.infer(call("held", timeout_s=0.05))
        assert isinstance(outcome, ColdStartTimeout)
        assert outcome.context.retry_after_s == SETTINGS.retry_after_s


@pytest.mark.req("RM-2.1c")
async def test_a_short_timeout_does_not_count_while_the_model_wakes() -> None:
    async with running_lane() as bench:
        outcome = bench.infer(call("held", timeout_s=0.1))
        await asyncio.wait([outcome], timeout=0.2)
        replica = bench.replica()
        await eventually(lambda: replica.texts == ["held"])
        replica.answer("held")
        assert isinstance(await outcome, Answer)


async def test_a_caller_that_leaves_is_taken_out_of_the_queue() -> None:
    async with running_lane() as bench:
        gone = bench.infer(call("gone"))
        bench.infer(call("stays"))
        await bench.queued(2)
        gone.cancel()
        await bench.queued(1)
        replica = bench.replica()
        await eventually(lambda: replica.texts == ["stays"])
        replica.answer_all()


async def test_the_work_of_a_caller_that_leaves_is_withdrawn() -> None:
    async with running_lane() as bench:
        replica = bench.replica()
        gone = bench.infer(call("gone"))
        await eventually(lambda: replica.sent)
        gone.cancel()
        await eventually(lambda: replica.withdrawn == [replica.sent[0].entry_id])
        assert not bench.lane.busy


@pytest.mark.req("EDGE-3", "US2-AS3")
async def test_a_lost_worker_fails_what_it_had_and_nothing_else() -> None:
    async with running_lane() as bench:
        replica = bench.replica()
        outcomes = [bench.infer(call(str(number))) for number in range(4)]
        await bench.queued(2)
        lose(replica)
        lost = [await outcome for outcome in outcomes[:2]]
        assert all(isinstance(error, WorkerUnavailable) for error in lost)
        assert "Socket closed" in str(lost[0])
        assert isinstance(lost[0], WorkerUnavailable)
        assert (lost[0].context.model_id, lost[0].context.endpoint) == ("one", "unix:x")
        assert bench.lane.statistics().queued == 2
        other = bench.replica("w2")
        await eventually(lambda: other.texts == ["2", "3"])
        other.answer_all()
        assert all([isinstance(await outcome, Answer) for outcome in outcomes[2:]])


async def test_what_a_draining_worker_gives_back_is_first_in_its_line_again() -> None:
    async with running_lane() as bench:
        replica = bench.replica()
        for text in "0123":
            bench.infer(call(text))
        await bench.queued(2)
        replica.serve(serving=False)
        replica._give_back()
        other = bench.replica("w2")
        for count in range(1, 5):
            await eventually(partial(has_sent, other, min(4, count + 1)))
            other.answer(other.texts[count - 1])
        assert other.texts == ["0", "1", "2", "3"]


async def test_what_crossed_with_a_workers_notice_to_drain_goes_elsewhere() -> None:
    async with running_lane() as bench:
        replica = bench.replica()
        outcome = bench.infer(call("crossed"))
        await eventually(lambda: replica.sent)
        replica.serve(serving=False)
        replica.answer("crossed", error=ServerUnavailable("the worker drains"))
        other = bench.replica("w2")
        await eventually(lambda: other.texts == ["crossed"])
        other.answer("crossed")
        assert isinstance(await outcome, Answer)


async def test_of_two_that_a_worker_refuses_the_older_goes_first_again() -> None:
    async with running_lane() as bench:
        replica = bench.replica()
        outcomes = [bench.infer(call(text)) for text in ("older", "younger")]
        await eventually(lambda: replica.texts == ["older", "younger"])
        replica.serve(serving=False)
        for text in ("older", "younger"):
            replica.answer(text, error=ServerUnavailable("the worker drains"))
        other = bench.replica("w2")
        await eventually(lambda: len(other.texts) == 2)
        assert other.texts == ["older", "younger"]
        other.answer_all()
        assert all([isinstance(await outcome, Answer) for outcome in outcomes])


async def test_what_is_refused_twice_waits_for_the_notice_of_the_worker_that_drains() -> None:
    async with running_lane() as bench:
        replica = bench.replica()
        outcome = bench.infer(call("crossed"))
        for sends in (1, 2):
            await eventually(partial(has_sent, replica, sends))
            replica.answer("crossed", error=ServerUnavailable("the worker drains"))
        assert len(bench.lane._ledger.retrying) == 1
        replica.serve(serving=False)
        other = bench.replica("w2")
        await eventually(lambda: other.texts == ["crossed"])
        other.answer("crossed")
        assert isinstance(await outcome, Answer)


async def test_a_worker_that_refuses_again_and_again_is_not_asked_for_ever() -> None:
    async with running_lane() as bench:
        replica = bench.replica()
        outcome = bench.infer(call("never"))
        for sends in (1, 2, 3):
            await eventually(partial(has_sent, replica, sends))
            replica.answer("never", error=ServerUnavailable("the worker drains"))
        assert isinstance(await outcome, ServerUnavailable)


@pytest.mark.req("REQ-INFER-003")
async def test_an_engines_error_reaches_its_caller_with_model_and_request() -> None:
    async with running_lane() as bench:
        replica = bench.replica()
        outcome = bench.infer(call("bad"))
        await eventually(lambda: replica.sent)
        replica.answer("bad", error=InferenceFailed("the input is odd (ValueError)"))
        error = await outcome
        assert isinstance(error, InferenceFailed)
        assert (error.message, error.context.model_id) == ("the input is odd (ValueError)", "one")
        assert error.context.request_id == "request-bad"


async def test_an_empty_answer_is_an_error_not_an_empty_result() -> None:
    async with running_lane() as bench:
        replica = bench.replica()
        outcome = bench.infer(call("bad"))
        await eventually(lambda: replica.sent)
        replica._take([worker_pb2.EntryResult(entry_id=replica.sent[0].entry_id)])
        assert isinstance(await outcome, InferenceFailed)


@pytest.mark.req("REQ-LIFE-010b")
async def test_held_requests_fail_as_soon_as_the_load_has_failed() -> None:
    async with running_lane() as bench:
        outcome = bench.infer(call("held"))
        await bench.queued(1)
        bench.lane.update(deployment(status=failed("LoadFailed", "it is cut short")))
        error = await outcome
        assert isinstance(error, ModelUnhealthy)
        assert error.context.reason == "LoadFailed"
        with pytest.raises(ModelUnhealthy):
            await bench.lane.infer(call("new"))


async def test_a_model_that_is_suspended_gives_up_what_is_held() -> None:
    async with running_lane() as bench:
        outcome = bench.infer(call("held"))
        await bench.queued(1)
        bench.lane.update(deployment(suspend=True))
        assert isinstance(await outcome, ModelSuspended)


async def test_a_load_waits_until_a_replica_serves() -> None:
    async with running_lane() as bench:
        loading = bench.group.create_task(bench.lane.until_serving())
        await eventually(lambda: bench.lane.statistics().outstanding == 1)
        bench.replica()
        await loading
        assert bench.lane.statistics().outstanding == 0


async def test_a_load_fails_with_the_reason() -> None:
    async with running_lane() as bench:

        async def fail() -> None:
            await eventually(lambda: bench.lane.statistics().outstanding == 1)
            bench.lane.update(deployment(status=failed()))

        bench.group.create_task(fail())
        with pytest.raises(ModelUnhealthy):
            await bench.lane.until_serving()


async def test_a_replica_that_ends_late_does_not_take_its_successor_along() -> None:
    async with running_lane() as bench:
        former = bench.replica("w1", serving=False)
        successor = bench.replica("w1")
        bench.lane.detach(former)
        bench.infer(call("hello"))
        await eventually(lambda: successor.texts == ["hello"])
        successor.answer_all()


async def test_whoever_comes_after_the_end_of_a_lane_hears_why_it_ended() -> None:
    async with running_lane() as bench:
        outcome = bench.infer(call("early"))
        await bench.queued(1)
        bench.lane.close(ModelNotFound("model 'one' was deleted"))
        assert isinstance(await outcome, ModelNotFound)
    with pytest.raises(ModelNotFound):
        await bench.lane.infer(call("late"))


async def test_whoever_is_left_when_the_lane_ends_is_told() -> None:
    async with running_lane() as bench:
        outcome = bench.infer(call("left"))
        await bench.queued(1)
    assert isinstance(outcome.result(), ServerUnavailable)
