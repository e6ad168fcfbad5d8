"""The idle clocks, and what of demand is published when."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from modelmora.control import Demand, Demands, Key
from modelmora.control.local import LocalControl
from modelmora.errors import ServerUnavailable
from modelmora_router.demand import DemandTracker, Sample, Use, averaged, entries, matters, next_use
from tests.support.routing import eventually

ONE, TWO = Key("default", "one"), Key("default", "two")
IDLE = Sample(outstanding=0, idle_limit_s=300)
BUSY = Sample(outstanding=4, idle_limit_s=300)


def test_a_model_is_wanted_until_its_idle_time_is_over() -> None:
    assert next_use(Use(100.0), IDLE, published=True, now=399.9, elapsed_s=1) == Use(100.0)
    assert next_use(Use(100.0), IDLE, published=True, now=400.0, elapsed_s=1) is None


def test_a_busy_model_never_becomes_idle() -> None:
    use = next_use(Use(100.0), BUSY, published=True, now=10_000.0, elapsed_s=1)
    assert use is not None
    assert use.used_at == 10_000.0


def test_a_wake_is_not_forgotten_before_it_was_published() -> None:
    at_once = Sample(outstanding=0, idle_limit_s=0)
    assert next_use(Use(100.0), at_once, published=False, now=100.0, elapsed_s=0) == Use(100.0)
    assert next_use(Use(100.0), at_once, published=True, now=100.0, elapsed_s=0) is None


def test_a_deleted_model_is_no_longer_wanted() -> None:
    assert next_use(Use(100.0), None, published=True, now=101.0, elapsed_s=1) is None


def test_the_load_is_an_average_over_seconds() -> None:
    load = 0.0
    for _ in range(30):
        load = averaged(load, 8, elapsed_s=1)
    assert load == pytest.approx(8, rel=0.01)
    assert 6 < averaged(load, 0, elapsed_s=1) < 7
    assert averaged(0.01, 0, elapsed_s=1) == 0.0


def test_last_use_is_published_as_unix_time() -> None:
    assert entries({ONE: Use(90.0, 1.234)}, now=100.0, unix_now=5000.0) == {ONE: Demand(1.23, 4990.0)}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({ONE: Demand(1.0, 100.0)}, False),
        ({ONE: Demand(1.1, 101.0)}, False),
        ({ONE: Demand(1.3, 100.0)}, True),
        ({ONE: Demand(1.0, 111.0)}, True),
        ({ONE: Demand(1.0, 100.0, load_asked_at=7.0)}, True),
        ({ONE: Demand(1.0, 100.0, urgency=3)}, False),
        ({ONE: Demand(1.0, 100.0, waiting_since=9.0)}, True),
        ({}, True),
        ({ONE: Demand(1.0, 100.0), TWO: Demand(0.0, 100.0)}, True),
    ],
    ids=["equal", "a little", "load", "use", "load asked for", "busy", "waits", "dropped", "added"],
)
def test_only_what_could_change_a_decision_is_published(wanted: Demands, *, expected: bool) -> None:
    assert matters({ONE: Demand(1.0, 100.0)}, wanted, contended=False) is expected


@pytest.mark.parametrize(("urgency", "expected"), [(0, True), (1, True), (2, False), (3, False)])
def test_that_requests_are_less_urgent_can_wait(urgency: int, *, expected: bool) -> None:
    before, after = {ONE: Demand(1.0, 100.0, urgency=2)}, {ONE: Demand(1.0, 100.0, urgency=urgency)}
    assert matters(before, after, contended=True) is expected
    assert not matters(before, after, contended=False)


def looked(use: Use, sample: Sample, now: float) -> Use:
    found = next_use(use, sample, published=True, now=now, elapsed_s=1)
    assert found is not None
    return found


@pytest.mark.req("REQ-QUEUE-002")
def test_a_model_is_as_urgent_as_its_most_urgent_request_and_idle_soon_after_the_last() -> None:
    use = looked(Use(100.0), replace(BUSY, urgency=1, usual_urgency=3), 101)
    assert use.urgency == 1
    assert looked(use, replace(BUSY, urgency=4, usual_urgency=3), 101.5).urgency == 4
    assert looked(use, replace(IDLE, usual_urgency=3), 102.9).urgency == 1  # the next request may be on its way
    assert looked(use, replace(IDLE, usual_urgency=3), 103).urgency == 0


@pytest.mark.req("REQ-QUEUE-002")
def test_since_when_somebody_waits_is_known_for_as_long_as_anybody_does() -> None:
    asleep = replace(BUSY, urgency=2, usual_urgency=3, serving=False)
    use = looked(Use(100.0), asleep, 101)
    assert looked(use, asleep, 150).waiting_since == 101
    assert entries({ONE: looked(use, asleep, 150)}, now=150, unix_now=5000.0)[ONE].waiting_since == 4951
    served = looked(use, replace(asleep, serving=True), 160)
    assert (served.waiting_since, served.urgency) == (None, 2)
    gone = looked(use, replace(IDLE, serving=False), 160)
    assert (gone.waiting_since, gone.urgency) == (None, 0)


def test_who_was_refused_just_now_wants_the_model_all_the_same() -> None:
    refused = replace(IDLE, usual_urgency=3, serving=False)
    assert looked(Use(100.0), refused, 101).urgency == 3
    assert looked(Use(100.0), refused, 103).urgency == 0


class Recorder(LocalControl):
    """A control that remembers what was published, and can refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.published: list[set[Key]] = []
        self.refusals = 0

    async def publish_demand(self, demands: Demands) -> None:
        if self.refusals:
            self.refusals -= 1
            raise ServerUnavailable("not now")
        self.published.append(set(demands))
        await super().publish_demand(demands)


class Bench:
    """A tracker that runs, its control, and what the lanes show."""

    def __init__(self, interval_s: float) -> None:
        self.control = Recorder()
        self.samples = {ONE: IDLE, TWO: IDLE}
        self.tracker = DemandTracker(self.control, self.samples.get, interval_s=interval_s)


@pytest.fixture
async def patient() -> AsyncIterator[Bench]:
    """Looks again only after an hour: what is published sooner was published at once."""
    bench = Bench(interval_s=3600)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(bench.tracker.run())
        await eventually(bench.tracker.said.is_set)
        bench.control.published.clear()
        yield bench
        task.cancel()


async def test_that_nothing_is_wanted_is_said_once_at_the_start() -> None:
    bench = Bench(interval_s=0.01)
    bench.control.refusals = 3
    async with asyncio.TaskGroup() as group:
        task = group.create_task(bench.tracker.run())
        await eventually(lambda: bench.control.refusals == 0)
        await eventually(bench.tracker.said.is_set)
        await asyncio.sleep(0.05)  # several looks later
        assert bench.control.published == [set()]
        assert bench.control.demands.value == {}
        task.cancel()


async def test_a_wake_is_published_at_once(patient: Bench) -> None:
    patient.tracker.touch(ONE)
    await eventually(lambda: patient.control.published == [{ONE}])
    patient.tracker.touch(TWO)
    await eventually(lambda: patient.control.published == [{ONE}, {ONE, TWO}])


async def test_further_requests_wake_nobody(patient: Bench) -> None:
    for _ in range(100):
        patient.tracker.touch(ONE)
        await asyncio.sleep(0)
    patient.tracker.touch(TWO)
    await eventually(lambda: patient.control.published == [{ONE}, {ONE, TWO}])


async def test_an_unload_is_published_at_once(patient: Bench) -> None:
    patient.tracker.touch(ONE)
    await eventually(lambda: patient.control.published == [{ONE}])
    patient.tracker.forget(ONE)
    await eventually(lambda: patient.control.published == [{ONE}, set()])


async def test_an_unused_model_is_dropped_and_a_used_one_is_not() -> None:
    bench = Bench(interval_s=0.01)
    bench.samples = {ONE: Sample(0, idle_limit_s=0.02), TWO: Sample(1, idle_limit_s=0.02)}
    bench.tracker = DemandTracker(bench.control, bench.samples.get, interval_s=0.01)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(bench.tracker.run())
        bench.tracker.touch(ONE)
        bench.tracker.touch(TWO)
        await eventually(lambda: bench.control.published[-1:] == [{TWO}])
        task.cancel()


async def test_what_could_not_be_published_is_published_later() -> None:
    bench = Bench(interval_s=0.01)
    bench.control.refusals = 3
    async with asyncio.TaskGroup() as group:
        task = group.create_task(bench.tracker.run())
        bench.tracker.touch(ONE)
        await eventually(lambda: bench.control.published == [{ONE}])
        task.cancel()


@pytest.mark.req("REQ-QUEUE-002")
async def test_a_request_for_a_model_that_gave_way_is_published_at_once() -> None:
    clock = [1000.0]
    bench = Bench(interval_s=3600)
    bench.tracker = DemandTracker(bench.control, bench.samples.get, interval_s=3600, now=lambda: clock[0])
    async with asyncio.TaskGroup() as group:
        task = group.create_task(bench.tracker.run())
        await eventually(bench.tracker.said.is_set)
        bench.tracker.touch(ONE)
        await eventually(lambda: bench.control.published[-1] == {ONE})
        bench.samples[ONE] = replace(IDLE, usual_urgency=3, serving=False)
        writes = len(bench.control.published)
        clock[0] += 60
        bench.tracker.touch(ONE)  # it was said a minute ago that somebody wants it: that is less than an interval
        await asyncio.sleep(0.02)
        assert len(bench.control.published) == writes
        clock[0] += 3600
        bench.tracker.touch(ONE)
        await eventually(lambda: (bench.control.demands.value or {})[ONE].urgency == 3)
        task.cancel()
