"""Several models and fewer places, over reconciles: nobody takes the last place twice, and everybody hears of news."""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from modelmora.control import Demand, Key
from modelmora.errors import ServerUnavailable
from modelmora_operator.cluster import Phase, Snapshot, WorkerSpec
from modelmora_operator.plan import Policy
from modelmora_operator.reconcile import Reconciler
from modelmora_operator.sharing import Rules
from tests.support.fakes import FakeCluster
from tests.support.operator_values import NOW, deployment

RULES = Rules(max_workers=1, turn_s=60, ageing_s=30)
A, B, C = (Key("default", name) for name in "abc")
QUICK = {"minResidencySeconds": 0}


@dataclass
class Scene:
    """A cluster with one place, its operator, and who is to be looked at again."""

    rules: Rules = RULES
    cluster: FakeCluster = field(default_factory=lambda: FakeCluster(now=NOW, ending=False))
    marked: dict[Key, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Another operator process."""
        self.marked.clear()
        self.reconciler = Reconciler(
            self.cluster, Policy(sharing=self.rules), mark=self._mark, clock=lambda: self.cluster.now
        )

    def _mark(self, key: Key) -> None:
        self.marked[key] = None

    def put(self, *keys: Key, **spec: Any) -> None:
        for key in keys:
            of = deployment(key.name, model={"id": key.name}, **({"eviction": QUICK} | spec))
            self.cluster.put(of)

    def ask(self, key: Key, urgency: int) -> None:
        demands, now = dict(self.cluster.demands or {}), self.cluster.now
        demands[key] = Demand(1.0 if urgency else 0.0, now, urgency=urgency, waiting_since=now if urgency else 0.0)
        self.cluster.demands = demands

    async def look(self, *keys: Key) -> None:
        """At these, and then at whoever is marked."""
        pending = dict.fromkeys(keys)
        for _ in range(50):
            if not pending:
                return
            self.marked.clear()
            for key in pending:
                await self.reconciler.reconcile(key)
            pending = dict(self.marked)
        raise AssertionError("it does not come to rest")

    def of(self, key: Key) -> list[str]:
        return list(self.cluster.workers.get(key, {}))

    async def serve(self, key: Key) -> None:
        (worker_id,) = self.of(key)
        self.cluster.become(key, worker_id, Phase.SERVING)
        workers = self.cluster.workers[key]
        workers[worker_id] = replace(workers[worker_id], serving_since=self.cluster.now)
        demands = dict(self.cluster.demands or {})
        self.cluster.demands = demands | {key: replace(demands[key], waiting_since=0.0)}
        await self.look(key)

    async def end(self, key: Key) -> None:
        (worker_id,) = self.of(key)
        assert self.cluster.workers[key][worker_id].terminating
        self.cluster.gone(key, worker_id)
        await self.look(key)

    def scheduled(self, key: Key) -> str:
        found = self.cluster.deployments[key].status.condition("Scheduled")
        return found.reason if found else ""


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.mark.req("REQ-QUEUE-002", "RM-2.1b")
async def test_an_idle_model_gives_its_place_to_one_that_is_asked_for(scene: Scene) -> None:
    scene.put(A, B)
    scene.ask(A, 3)
    await scene.look(A, B)
    await scene.serve(A)
    scene.cluster.now += 5
    scene.ask(B, 3)
    await scene.look(B)
    assert scene.of(B) == []
    assert scene.scheduled(B) == "WaitingForRoom"
    scene.ask(A, 0)
    with capture_logs() as logs:
        await scene.look(A)
    told = [entry for entry in logs if entry["event"] == "model gives way"]
    assert [(entry["deployment"], entry["to"]) for entry in told] == [("default/a", ["default/b"])]
    assert scene.of(B) == []  # not before the other has ended
    await scene.end(A)
    assert (scene.of(A), len(scene.of(B))) == ([], 1)


@pytest.mark.req("REQ-QUEUE-002")
async def test_the_turn_of_a_busy_model_ends_by_time_alone(scene: Scene) -> None:
    scene.put(A, B)
    scene.ask(A, 3)
    await scene.look(A, B)
    await scene.serve(A)
    scene.ask(B, 3)
    while not scene.marked:  # nothing happens but that it looks again when it said
        again = await scene.reconciler.reconcile(B)
        assert again
        scene.cluster.now += again
        scene.marked.clear()
        await scene.reconciler.reconcile(B)
    assert scene.cluster.now == NOW + 60
    await scene.look(A)
    await scene.end(A)
    assert (scene.of(A), len(scene.of(B))) == ([], 1)


@pytest.mark.req("REQ-QUEUE-002")
@pytest.mark.parametrize("first", [A, B])
async def test_of_two_that_are_reconciled_side_by_side_one_gets_the_last_place(first: Key) -> None:
    scene = Scene(cluster=SlowCluster(now=NOW))
    scene.put(A, B)
    scene.ask(A, 3)
    scene.ask(B, 3)
    async with asyncio.TaskGroup() as tasks:
        for key in (first, *({A, B} - {first})):
            tasks.create_task(scene.look(key))
    await scene.look(A, B)
    assert len(scene.of(A)) + len(scene.of(B)) == 1


class SlowCluster(FakeCluster):
    """Others run while it is asked and told."""

    async def observe(self, key: Key) -> Snapshot | None:
        await asyncio.sleep(0)
        return await super().observe(key)

    async def start(self, worker: WorkerSpec) -> bool:
        for _ in range(5):
            await asyncio.sleep(0)
        return await super().start(worker)


async def test_a_place_is_taken_from_the_moment_that_it_is_decided() -> None:
    cluster = HeldCluster(now=NOW)
    scene = Scene(cluster=cluster)
    scene.put(A, B)
    scene.ask(A, 4)
    await scene.look(B)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(scene.look(A))
        await cluster.asked.wait()
        scene.ask(B, 1)  # more urgent, but the worker of the other is about to be
        await scene.look(B)
        cluster.released.set()
    assert (len(scene.of(A)), scene.of(B)) == (1, [])


@dataclass
class HeldCluster(FakeCluster):
    """Nothing starts before the test says so."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self, worker: WorkerSpec) -> bool:
        self.asked.set()
        async with asyncio.timeout(10):
            if worker.key == A:
                await self.released.wait()
        return await super().start(worker)


async def test_after_a_start_nobody_gets_a_place_before_everybody_has_been_looked_at(scene: Scene) -> None:
    scene.put(A, B)
    scene.ask(A, 3)
    await scene.look(A, B)
    await scene.serve(A)
    scene.restart()
    scene.ask(B, 1)  # the most urgent, and it is looked at first
    await scene.look(B)
    assert (scene.of(B), scene.cluster.workers[A][scene.of(A)[0]].terminating) == ([], False)
    scene.cluster.now += 10
    await scene.look(A)
    assert scene.cluster.workers[A][scene.of(A)[0]].terminating
    assert scene.of(B) == []


async def test_one_that_cannot_be_looked_at_does_not_hold_up_all() -> None:
    class Shut(FakeCluster):
        async def observe(self, key: Key) -> Snapshot | None:
            if key == C:
                raise ServerUnavailable("not now")
            return await super().observe(key)

    scene = Scene(cluster=Shut(now=NOW))
    scene.put(A, C)
    scene.ask(A, 3)
    await scene.look(A)
    assert scene.of(A) == []
    with pytest.raises(ServerUnavailable):
        await scene.reconciler.reconcile(C)
    await scene.look(*scene.marked)
    assert len(scene.of(A)) == 1


async def test_a_model_that_is_deleted_leaves_its_place_when_its_worker_has_ended(scene: Scene) -> None:
    scene.put(A, B)
    scene.ask(A, 1)
    await scene.look(A, B)
    await scene.serve(A)
    scene.ask(B, 4)
    await scene.look(B)
    scene.cluster.delete(A)
    await scene.look(A)
    assert scene.of(B) == []
    await scene.end(A)
    assert len(scene.of(B)) == 1


async def test_a_changed_spec_is_rolled_out_in_the_one_place_there_is(scene: Scene) -> None:
    scene.put(A)
    scene.ask(A, 3)
    await scene.look(A)
    await scene.serve(A)
    (old,) = scene.of(A)
    scene.put(A, runtime={"engine": "python:a:B"})
    await scene.look(A)
    assert scene.of(A) == [old]
    assert scene.cluster.workers[A][old].terminating
    await scene.end(A)
    (new,) = scene.of(A)
    assert new != old


async def test_nothing_is_marked_and_nothing_is_written_while_nothing_changes(scene: Scene) -> None:
    scene.put(A, B, C)
    for key in (A, B, C):
        scene.ask(key, 3)
    await scene.look(A, B, C)
    await scene.serve(A)
    await scene.look(A, B, C)
    scene.marked.clear()
    writes = len(scene.cluster.status_writes)
    for _ in range(3):
        scene.cluster.now += 1
        for key in (A, B, C):
            await scene.reconciler.reconcile(key)
    assert (scene.marked, len(scene.cluster.status_writes)) == ({}, writes)
