"""The lane: what goes out together, and what makes room for what."""

import time
from functools import partial

import pytest

from modelmora.errors import (
    QueueFull,
)
from modelmora.spec import Priority
from modelmora.v1 import worker_pb2
from modelmora_router.calls import Answer
from modelmora_router.outstanding import CAPACITY, JOIN_AFTER_S
from modelmora_router.replica_set import ReplicaSet
from modelmora_router.settings import RouterSettings
from tests.support.entries import Item
from tests.support.lanes import Clock, has_text, lose, running_lane
from tests.support.routing import call, deployment, eventually


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
