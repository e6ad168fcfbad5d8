"""The worker's queue with an engine that waits for the test: who is next, what shares a batch, that nothing is lost."""

import asyncio
import contextlib
import math
import threading
from collections.abc import AsyncIterator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelmora.errors import InferenceFailed, QueueFull, WorkerUnavailable
from modelmora.scheduling import BatchLimits, PriorityQueue
from modelmora.spec import Priority
from modelmora.v1 import worker_pb2
from modelmora.wire.status import from_rpc
from modelmora_worker.engines import EngineContext, EngineInput
from modelmora_worker.entries import EntryQueue
from modelmora_worker.entry import Done, Entry
from modelmora_worker.responses import Writer
from tests.support.waiting import eventually

DEADLINE_S = 30.0
CRITICAL, HIGH, NORMAL, LOW = Priority


class Gated:
    """Runs a batch when the test lets it; remembers the texts of each."""

    def __init__(self, context: EngineContext | None = None) -> None:
        self.batches: list[list[str]] = []
        self.started = threading.Semaphore(0)
        self.may_run = threading.Semaphore(0)
        self.gone: list[str] = []
        self.device: ThreadPoolExecutor

    def infer(self, batch: Sequence[EngineInput]) -> list[dict[str, list[str]]]:
        self.batches.append([entry.texts()[0] for entry in batch])
        self.started.release()
        assert self.may_run.acquire(timeout=DEADLINE_S)
        self.gone += [entry.texts()[0] for entry in batch if not entry.wanted()]
        if any(entry.texts() == ["bad"] for entry in batch):
            raise ValueError("bad word")
        return [{"text": entry.texts()} for entry in batch]


class Counting(Gated):
    """A token is a letter."""

    def count_tokens(self, batch: Sequence[EngineInput]) -> list[int]:
        return [len(entry.texts()[0]) for entry in batch]


@dataclass(eq=False)
class Router:
    """A stream, as the queue knows it."""

    name: str = ""
    messages: list[list[int]] = field(default_factory=list)
    answers: dict[int, worker_pb2.EntryResult] = field(default_factory=dict)
    twice: list[int] = field(default_factory=list)
    left_ids: list[int] = field(default_factory=list)
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    def left(self, entry: Entry) -> None:
        self.left_ids.append(entry.sent_id)

    def written(self, done: Sequence[Done]) -> list[bytes]:
        return Writer("m", 2**20).write(done)

    def reply(self, entries: Sequence[Entry], messages: Sequence[bytes]) -> None:
        found = [worker_pb2.ProcessResponse.FromString(message).results for message in messages]
        self.messages += [[result.entry_id for result in results] for results in found]
        for result in (result for results in found for result in results):
            self.twice += [result.entry_id] if result.entry_id in self.answers else []
            self.answers[result.entry_id] = result
        self.heard.set()

    def entry(self, sent_id: int, priority: Priority = NORMAL, *, text: str = "", **more: Any) -> Entry:
        return Entry(sent_id, self, {"text": [text or f"{self.name}{sent_id}"]}, priority=priority, **more)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while len(self.answers) < count:
                self.heard.clear()
                await self.heard.wait()


@asynccontextmanager
async def running(
    engine: Gated, *, max_entries: int = 1000, ageing_s: float = math.inf, **limits: Any
) -> AsyncIterator[EntryQueue]:
    """A queue with its engine; at the end the engine runs whatever is left."""
    known = BatchLimits(**{"max_size": 4} | limits)
    queue = EntryQueue("w-1", "m", max_entries, known, PriorityQueue(ageing_s=ageing_s))
    queue.open()
    with ThreadPoolExecutor(1) as device:
        engine.device = device
        task = asyncio.create_task(queue.run(engine, device))
        try:
            yield queue
        finally:
            engine.may_run.release(10_000)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def busy(engine: Gated, queue: EntryQueue, router: Router) -> None:
    """Returns when the engine works on the entry 0, so that what is submitted next waits."""
    queue.submit([router.entry(0, text="first")])
    assert await asyncio.to_thread(engine.started.acquire, timeout=DEADLINE_S)


async def test_entries_of_several_routers_share_a_batch_and_each_hears_of_its_own_in_one_message() -> None:
    engine, a, b = Gated(), Router("a"), Router("b")
    async with running(engine) as queue:
        await busy(engine, queue, a)
        queue.submit([a.entry(1), a.entry(2)])
        queue.submit([b.entry(1), b.entry(2)])
        engine.may_run.release(2)
        await asyncio.gather(a.until(3), b.until(2))
    assert engine.batches == [["first"], ["a1", "a2", "b1", "b2"]]
    assert a.messages == [[0], [1, 2]]
    assert b.messages == [[1, 2]]


async def test_the_owner_hears_once_of_each_that_the_engine_has_done_with_also_if_nobody_waits_for_it() -> None:
    engine, a = Gated(), Router("a")
    async with running(engine) as queue:
        first = a.entry(0, text="first")
        queue.submit([first])
        assert await asyncio.to_thread(engine.started.acquire, timeout=DEADLINE_S)
        waits, wanted = a.entry(1), a.entry(2)
        queue.submit([waits, wanted])
        queue.cancel([first, waits, waits])
        assert a.left_ids == [1]
        engine.may_run.release(2)
        await a.until(1)
        await queue.drained()
        await eventually(lambda: len(a.left_ids) == 3, what="the last to leave")
    assert a.left_ids == [1, 0, 2]


@pytest.mark.req("REQ-OBS-001h")
async def test_each_answer_says_how_large_its_batch_was_and_one_of_them_is_its_first() -> None:
    engine, a, b = Gated(), Router("a"), Router("b")
    async with running(engine) as queue:
        await busy(engine, queue, a)
        left = b.entry(1)
        queue.submit([left, b.entry(2)])
        queue.submit([a.entry(1), a.entry(2)])
        engine.may_run.release(1)
        assert await asyncio.to_thread(engine.started.acquire, timeout=DEADLINE_S)
        queue.cancel([left])
        engine.may_run.release(1)
        await asyncio.gather(a.until(3), b.until(1))
    results = [b.answers[2], a.answers[1], a.answers[2]]
    assert [(result.batch_size, result.batch_index) for result in results] == [(4, 0), (4, 1), (4, 2)]


@pytest.mark.req("REQ-QUEUE-001d")
async def test_what_is_urgent_goes_before_what_was_staged() -> None:
    engine, a, b = Gated(), Router("a"), Router("b")
    async with running(engine) as queue:
        await busy(engine, queue, a)
        queue.submit([a.entry(n) for n in range(1, 5)])
        queue.submit([b.entry(1, LOW), b.entry(2, HIGH), b.entry(3, CRITICAL)])
        engine.may_run.release(10)
        await asyncio.gather(a.until(5), b.until(3))
    # CRITICAL has no riders: a longer batch takes longer.
    assert engine.batches == [["first"], ["b3"], ["b2", "a1", "a2", "a3"], ["a4", "b1"]]


async def test_what_waits_for_long_goes_before_what_is_more_urgent_and_new() -> None:
    engine, a = Gated(), Router("a")
    async with running(engine, max_size=1, ageing_s=1e-9) as queue:
        await busy(engine, queue, a)
        queue.submit([a.entry(1, LOW)])
        queue.submit([a.entry(2, HIGH)])
        engine.may_run.release(10)
        await a.until(3)
    assert engine.batches == [["first"], ["a1"], ["a2"]]


async def test_an_entry_that_wants_to_be_alone_is() -> None:
    engine, a = Gated(), Router("a")
    async with running(engine) as queue:
        await busy(engine, queue, a)
        queue.submit([a.entry(1), a.entry(2, alone=True), a.entry(3)])
        engine.may_run.release(10)
        await a.until(4)
    assert engine.batches[1:] == [["a1"], ["a2"], ["a3"]]


async def test_batches_keep_to_the_tokens_that_the_engine_counts() -> None:
    engine, a = Counting(), Router("a")
    async with running(engine, max_size=10, max_tokens=12) as queue:
        await busy(engine, queue, a)
        texts = ["aaa", "bbbb", "ccc", "ddddddd", "e", "f", "g" * 20]
        queue.submit([a.entry(n, text=text) for n, text in enumerate(texts, 1)])
        engine.may_run.release(10)
        await a.until(8)
    assert engine.batches[1:] == [["aaa", "bbbb", "ccc"], ["ddddddd"], ["e", "f"], ["g" * 20]]


async def test_what_is_cancelled_leaves_at_once_and_frees_its_place() -> None:
    engine, a = Gated(), Router("a")
    async with running(engine, max_entries=2) as queue:
        await busy(engine, queue, a)
        gone = [a.entry(1), a.entry(2)]
        queue.submit(gone)
        with pytest.raises(QueueFull):
            queue.submit([a.entry(3)])
        queue.cancel(gone)
        assert queue.statistics().queued == 0
        queue.submit([a.entry(3), a.entry(4)])
        engine.may_run.release(10)
        await a.until(3)
    assert engine.batches == [["first"], ["a3", "a4"]]
    assert set(a.answers) == {0, 3, 4}


async def test_running_work_that_nobody_waits_for_is_told_so_and_not_answered() -> None:
    engine, a = Gated(), Router("a")
    async with running(engine) as queue:
        await busy(engine, queue, a)
        queue.submit([a.entry(1), a.entry(2)])
        running_entries = list(queue._running)
        queue.cancel(running_entries)
        assert queue.statistics().running == 0
        engine.may_run.release(10)
        await a.until(2)
    assert engine.gone == ["first"]
    assert set(a.answers) == {1, 2}


async def test_one_bad_input_fails_alone_across_routers() -> None:
    engine, a, b = Gated(), Router("a"), Router("b")
    engine.may_run.release(100)
    async with running(engine) as queue:
        queue.submit([a.entry(1), a.entry(2, text="bad"), b.entry(2)])
        await asyncio.gather(a.until(2), b.until(1))
    assert isinstance(from_rpc(a.answers[2].error), InferenceFailed)
    assert a.answers[1].HasField("output")
    assert b.answers[2].HasField("output")


async def test_what_is_left_at_the_end_is_answered_once() -> None:
    engine, a = Gated(), Router("a")
    async with running(engine) as queue:
        await busy(engine, queue, a)
        queue.submit([a.entry(1), a.entry(2)])
        queue.close("has ended")
        queue.abandon()
        assert {n: type(from_rpc(a.answers[n].error)) for n in a.answers} == dict.fromkeys(range(3), WorkerUnavailable)
        with pytest.raises(WorkerUnavailable, match="has ended"):
            queue.submit([a.entry(3)])
    assert a.twice == []


async def test_of_what_is_left_at_the_end_what_had_begun_says_so() -> None:
    engine, a = Gated(), Router("a")
    async with running(engine) as queue:
        await busy(engine, queue, a)
        queue.submit([a.entry(1)])
        queue.abandon()
    assert [a.answers[sent_id].inference_ms > 0 for sent_id in (0, 1)] == [True, False]


async def test_an_answer_that_comes_as_its_entry_is_abandoned_is_no_second_one() -> None:
    engine, a = Gated(), Router("a")
    async with running(engine) as queue:
        await busy(engine, queue, a)
        engine.may_run.release()
        engine.device.submit(int).result(
            DEADLINE_S
        )  # the engine has answered; the loop, which is here, has not seen it
        queue.abandon()
        for _ in range(10):
            await asyncio.sleep(0)
    assert a.messages == [[0]]


async def test_drained_waits_for_what_runs_and_what_waits() -> None:
    engine, a = Gated(), Router("a")
    async with running(engine) as queue:
        await busy(engine, queue, a)
        queue.submit([a.entry(1)])
        drained = asyncio.create_task(queue.drained())
        engine.may_run.release()
        await a.until(1)
        assert not drained.done()
        engine.may_run.release()
        async with asyncio.timeout(DEADLINE_S):
            await drained
    assert set(a.answers) == {0, 1}


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("submit"), st.integers(0, 2), st.lists(st.sampled_from(list(Priority)), min_size=1, max_size=6)
        ),
        st.tuples(st.just("cancel"), st.integers(0, 2), st.integers(0, 40)),
        st.tuples(st.just("run"), st.just(0), st.integers(1, 3)),
    ),
    max_size=30,
)


@pytest.mark.req("REQ-QUEUE-001d", "REQ-QUEUE-006a")
@settings(max_examples=60, deadline=None)
@given(steps=STEPS, max_size=st.integers(1, 5))
def test_nothing_is_lost_answered_twice_out_of_order_or_beyond_the_bounds(steps: list[Any], max_size: int) -> None:
    asyncio.run(_follow(steps, max_size))


async def _follow(steps: Iterable[Any], max_size: int) -> None:
    engine, routers, max_entries = Gated(), [Router(name) for name in "abc"], 12
    accepted: dict[str, Entry] = {}
    async with running(engine, max_entries=max_entries, max_size=max_size) as queue:
        await busy(engine, queue, routers[0])
        for kind, which, what in steps:
            if kind == "submit":
                _submit(queue, routers[which], what, accepted, max_entries)
            elif kind == "cancel" and (entry := accepted.get(f"{'abc'[which]}{what + 1}")):
                queue.cancel([entry])
            elif kind == "run":
                engine.may_run.release(what)
                await asyncio.sleep(0)
        engine.may_run.release(10_000)
        async with asyncio.timeout(DEADLINE_S):
            await queue.drained()
    _check(engine, routers, accepted, max_size)


def _submit(
    queue: EntryQueue, router: Router, priorities: list[Priority], accepted: dict[str, Entry], bound: int
) -> None:
    first = 1 + sum(name.startswith(router.name) for name in accepted)
    entries = [router.entry(first + n, priority) for n, priority in enumerate(priorities)]
    room = bound - queue.statistics().queued
    try:
        queue.submit(entries)
    except QueueFull:
        assert len(entries) > room
        return
    assert len(entries) <= room
    accepted |= {f"{router.name}{entry.sent_id}": entry for entry in entries}


def _check(engine: Gated, routers: list[Router], accepted: dict[str, Entry], max_size: int) -> None:
    ran = [text for batch in engine.batches for text in batch if text != "first"]
    assert len(set(ran)) == len(ran)
    assert max(map(len, engine.batches)) <= max_size
    answered = {f"{router.name}{n}" for router in routers for n in router.answers if n}
    assert not any(router.twice for router in routers)
    wanted = {name for name, entry in accepted.items() if not entry.cancelled}
    assert wanted <= answered <= set(ran) <= set(accepted)
    for priority in Priority:  # first in, first out inside a level, whoever sent them
        line = [accepted[name].entry_id for name in ran if accepted[name].priority == priority]
        assert line == sorted(line)
