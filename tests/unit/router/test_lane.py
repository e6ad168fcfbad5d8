"""The lane with replicas that only remember what they were sent."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import structlog.testing

from modelmora.control import Key, Worker
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
from modelmora.spec import ModelDeployment, Priority
from modelmora.v1 import worker_pb2
from modelmora.wire.status import to_rpc
from modelmora_router.breaker import BreakerState
from modelmora_router.calls import Answer, InferenceCall
from modelmora_router.lane import Lane
from modelmora_router.metrics import Meters
from modelmora_router.outstanding import CAPACITY, JOIN_AFTER_S
from modelmora_router.replica_set import ReplicaSet
from modelmora_router.replicas import Replica, Sendable
from modelmora_router.settings import RouterSettings
from tests.support.entries import Item, texts_of
from tests.support.routing import call, deployment, eventually, failed

SETTINGS = RouterSettings()


def has_sent(replica: "ScriptedReplica", count: int) -> bool:
    return len(replica.sent) >= count


def has_text(replica: "ScriptedReplica", text: str) -> bool:
    return text in replica.texts


class ScriptedReplica(Replica):
    """A replica without a connection: the test says when it serves and what it answers."""

    def __init__(self, lane: Lane, worker_id: str = "w1", settings: RouterSettings = SETTINGS) -> None:
        worker = Worker(worker_id, Key("default", "one"), "unix:x", "unix:x")
        super().__init__(worker, lane, settings, model_id="one", now=lane._now)
        self.lane = lane
        self.sent: list[worker_pb2.BatchEntry] = []
        self.batches_sent: list[list[str]] = []
        self.withdrawn: list[int] = []

    def serve(self, *, serving: bool = True) -> None:
        self._set(healthy=serving, streaming=serving)

    def send(self, batch: Sequence[Sendable], priority: Priority) -> None:
        written = worker_pb2.Batch()
        for each in batch:
            each.add_to(written)
        self.batches_sent.append([texts_of(entry)[0] for entry in written.entries])
        self.sent.extend(written.entries)
        super().send(batch, priority)
        self._unwritten.clear()  # written at once

    def cancel(self, entry_id: int) -> None:
        if entry_id in self._outstanding:
            self.withdrawn.append(entry_id)
        super().cancel(entry_id)

    @property
    def texts(self) -> list[str]:
        return [texts_of(entry)[0] for entry in self.sent]

    def answer(self, text: str, *, error: Any = None, inference_ms: float = 0.0) -> None:
        """Answers the entry with this text that was sent last."""
        entry_id = [entry.entry_id for entry in self.sent if texts_of(entry)[0] == text][-1]
        failure = to_rpc(error) if error else None
        result = worker_pb2.EntryResult(entry_id=entry_id, error=failure, inference_ms=inference_ms)
        if error is None:
            result.output = b""
        self._take([result])

    def answer_all(self) -> None:
        for entry_id in [entry.entry_id for entry in self.sent if entry.entry_id in self._outstanding]:
            result = worker_pb2.EntryResult(entry_id=entry_id, output=b"")
            self._take([result])


def lose(replica: ScriptedReplica) -> None:
    """As when its process was killed."""
    replica._set(streaming=False)
    replica._lose("Socket closed")


class Clock:
    """Stands still until the test says that time passes."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def __call__(self) -> float:
        return self.now


class Bench:
    """A lane that runs, and the callers that wait in it."""

    def __init__(self, lane: Lane, meters: Meters, group: asyncio.TaskGroup, settings: RouterSettings) -> None:
        self.lane = lane
        self.meters = meters
        self.settings = settings
        self.group = group

    def replica(self, worker_id: str = "w1", *, serving: bool = True) -> ScriptedReplica:
        replica = ScriptedReplica(self.lane, worker_id, self.settings)
        self.lane.attach(replica)
        if serving:
            replica.serve()
        return replica

    def infer(self, made: InferenceCall) -> "asyncio.Task[Answer | Exception]":
        return self.group.create_task(self._outcome(made))

    async def _outcome(self, made: InferenceCall) -> Answer | Exception:
        try:
            return await self.lane.infer(made)
        except Exception as error:  # noqa: BLE001 - the outcome is what the test looks at
            return error

    async def queued(self, count: int) -> None:
        await eventually(lambda: self.lane.statistics().queued == count)


@asynccontextmanager
async def running_lane(
    model: ModelDeployment | None = None,
    *,
    settings: RouterSettings = SETTINGS,
    batches: bool = False,
    now: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Bench]:
    model = model or deployment()
    if not batches:
        one = model.spec.batching.model_copy(update={"max_size": 1})
        model = model.model_copy(update={"spec": model.spec.model_copy(update={"batching": one})})
    meters = Meters()
    lane = Lane(model, settings, meters.of(model), now=now, chance=lambda: 0.0)
    async with asyncio.TaskGroup() as group:
        owner = group.create_task(lane.run())
        try:
            yield Bench(lane, meters, group, settings)
        finally:
            owner.cancel()


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


# ---------------------------------------------------------------------------------------------------- batches


@pytest.mark.req("REQ-QUEUE-005", "FR-012", "RM-2.1g")
async def test_what_waits_goes_out_together_in_its_order() -> None:
    async with running_lane(batches=True) as bench:
        for text in ("low", "normal-1", "normal-2", "high"):
            bench.infer(call(text, priority=Priority.parse(text.split("-")[0])))
        await bench.queued(4)
        replica = bench.replica()
        await eventually(lambda: replica.batches_sent == [["high", "normal-1", "normal-2", "low"]])
        replica.answer_all()


@pytest.mark.req("REQ-QUEUE-006a", "REQ-QUEUE-006c", "RM-2.1h")
async def test_a_batch_is_no_larger_than_the_deployment_says() -> None:
    async with running_lane(deployment(batching={"maxSize": 3}), batches=True) as bench:
        outcomes = [bench.infer(call(str(number))) for number in range(7)]
        await bench.queued(7)
        replica = bench.replica()
        await eventually(lambda: replica.batches_sent == [["0", "1", "2"], ["3", "4", "5"]])
        replica.answer_all()
        await eventually(lambda: replica.batches_sent[2:] == [["6"]])
        replica.answer_all()
        assert all([isinstance(await outcome, Answer) for outcome in outcomes])


async def test_a_lone_request_leaves_at_once_for_a_replica_that_is_idle() -> None:
    async with running_lane(deployment(batching={"maxWaitMilliseconds": 60_000}), batches=True) as bench:
        replica = bench.replica()
        bench.infer(call("alone"))
        await eventually(lambda: replica.batches_sent == [["alone"]])
        replica.answer_all()


async def test_behind_a_batch_that_runs_others_gather_and_critical_does_not_wait_for_them() -> None:
    async with running_lane(deployment(batching={"maxWaitMilliseconds": 60_000}), batches=True) as bench:
        replica = bench.replica()
        bench.infer(call("runs"))
        await eventually(lambda: replica.batches_sent == [["runs"]])
        for text in "abc":
            bench.infer(call(text))
        bench.infer(call("urgent", priority=Priority.CRITICAL))
        await eventually(lambda: replica.batches_sent[1:2] == [["urgent"]])
        replica.answer_all()
        await eventually(lambda: replica.batches_sent[2:] == [["a", "b", "c"]])
        replica.answer_all()


async def test_critical_is_sent_even_when_a_batch_runs_and_another_is_staged() -> None:
    async with running_lane() as bench:
        replica = bench.replica()
        for text in ("runs", "staged", "waits"):
            bench.infer(call(text, priority=Priority.LOW))
        await bench.queued(1)
        bench.infer(call("urgent", priority=Priority.CRITICAL))
        await eventually(lambda: replica.texts == ["runs", "staged", "urgent"])
        assert int(replica.sent[-1].priority) == Priority.CRITICAL
        bench.infer(call("also urgent", priority=Priority.CRITICAL))
        await bench.queued(2)
        replica.answer_all()
        await eventually(lambda: replica.texts[3:] == ["also urgent", "waits"])
        replica.answer_all()


@pytest.mark.req("REQ-PERF-001")
async def test_who_comes_later_joins_what_is_staged_until_it_is_full() -> None:
    clock, batching = Clock(), {"maxSize": 3, "maxWaitMilliseconds": 0}
    async with running_lane(deployment(batching=batching), batches=True, now=clock) as bench:
        replica = bench.replica()
        for text in ("runs", "staged"):
            bench.infer(call(text, received_at=clock.now))
            await eventually(partial(has_text, replica, text))
        for text in "abc":
            bench.infer(call(text, received_at=clock.now))
        await bench.queued(3)
        clock.now += JOIN_AFTER_S
        await eventually(lambda: replica.batches_sent == [["runs"], ["staged"], ["a", "b"]])
        clock.now += JOIN_AFTER_S
        await bench.queued(1)
        replica.answer("runs")
        await eventually(lambda: replica.batches_sent[3:] == [["c"]])
        replica.answer_all()


@pytest.mark.req("REQ-OBS-001h")
async def test_a_batch_is_counted_as_the_engine_had_it_and_once() -> None:
    async with running_lane(deployment(batching={"maxSize": 8}), batches=True) as bench:
        replica = bench.replica()
        outcomes = [bench.infer(call(text)) for text in "ab"]
        await eventually(lambda: len(replica.sent) == 2)
        ids = [entry.entry_id for entry in replica.sent]
        for index, entry_id in enumerate(ids):
            result = worker_pb2.EntryResult(entry_id=entry_id, output=b"", batch_size=4, batch_index=index)
            replica._take([result])
        answers = [await outcome for outcome in outcomes]
        assert [isinstance(answer, Answer) and answer.batch_size for answer in answers] == [4, 4]
        labels = {"model_namespace": "default", "model": "one", "version": "1.0.0", "task": "txt2embed"}
        counted = [
            bench.meters.registry.get_sample_value(f"modelmora_{name}", labels)
            for name in ("batch_size_sum", "batch_size_count", "batch_fill_ratio_sum")
        ]
        assert counted == [4, 1, 0.5]


async def test_in_a_full_queue_the_urgent_takes_the_place_of_the_newest_of_the_least_urgent() -> None:
    async with running_lane(deployment(queue={"maxLength": 2})) as bench:
        outcomes = {text: bench.infer(call(text, priority=Priority.LOW)) for text in ("low-1", "low-2")}
        await bench.queued(2)
        bench.infer(call("urgent", priority=Priority.CRITICAL))
        displaced = await outcomes["low-2"]
        assert isinstance(displaced, QueueFull)
        assert "more urgent" in displaced.message
        with pytest.raises(QueueFull):
            await bench.lane.infer(call("low-3", priority=Priority.LOW))
        replica = bench.replica()
        await eventually(lambda: replica.texts == ["urgent", "low-1"])
        replica.answer_all()


async def test_a_worker_that_is_not_trusted_makes_no_room_in_the_queue() -> None:
    settings = RouterSettings(breaker_failures=1, breaker_open_s=60)
    async with running_lane(deployment(queue={"maxLength": 2}), settings=settings) as bench:
        failing = bench.replica("w1")
        bench.infer(call("lost"))
        await eventually(lambda: failing.sent)
        lose(failing)
        failing.serve()
        other = bench.replica("w2")
        for number in range(4):
            bench.infer(call(str(number)))
        await bench.queued(2)
        with pytest.raises(QueueFull):
            await bench.lane.infer(call("too many"))
        other.answer_all()
        await eventually(lambda: other.texts == ["0", "1", "2", "3"])
        other.answer_all()


async def test_a_critical_batch_above_the_capacity_of_one_worker_takes_no_room_from_another() -> None:
    async with running_lane() as bench:
        busy, idle, replicas = bench.replica("w1"), bench.replica("w2"), ReplicaSet()
        for entry_id, priority in enumerate((Priority.LOW, Priority.LOW, Priority.CRITICAL), start=1):
            busy.send([Item(entry_id)], priority)
        replicas.attach(busy)
        replicas.attach(idle)
        assert replicas.free_batches(time.monotonic()) == CAPACITY


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
