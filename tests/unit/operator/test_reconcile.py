"""Observe, plan, execute, report: against a cluster in memory."""

import asyncio
from dataclasses import dataclass, field

import pytest

from modelmora.control import Key
from modelmora_operator.backoff import Backoff
from modelmora_operator.cluster import Failure, Phase, WorkerSpec
from modelmora_operator.controller import Controller
from modelmora_operator.plan import Policy
from modelmora_operator.reconcile import Reconciler
from modelmora_operator.workqueue import WorkQueue
from tests.support.fakes import FakeCluster
from tests.support.operator_values import deployment
from tests.support.waiting import eventually

POLICY = Policy(backoff=Backoff(first_s=10, cap_s=100, jitter=0))


@dataclass
class Scene:
    """A cluster, the operator, and a clock."""

    cluster: FakeCluster = field(default_factory=FakeCluster)

    def __post_init__(self) -> None:
        self.reconciler = Reconciler(self.cluster, POLICY, clock=lambda: self.cluster.now)

    async def settle(self, key: Key) -> float | None:
        """Reconciles until nothing moves any more."""
        for _ in range(10):
            before = (dict(self.cluster.workers.get(key, {})), len(self.cluster.status_writes))
            again = await self.reconciler.reconcile(key)
            if before == (self.cluster.workers.get(key, {}), len(self.cluster.status_writes)):
                return again
        raise AssertionError("it does not settle")

    def ids(self, key: Key) -> list[str]:
        return list(self.cluster.workers.get(key, {}))

    def ready(self, key: Key) -> tuple[str, str]:
        condition = self.cluster.deployments[key].status.condition("Ready")
        return (str(condition.status), condition.reason) if condition else ("", "")


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.mark.req("REQ-LIFE-001a", "REQ-LIFE-005b")
async def test_a_model_wakes_serves_rests_and_wakes_again(scene: Scene) -> None:
    key = scene.cluster.put(deployment())
    await scene.settle(key)
    assert scene.ids(key) == []
    scene.cluster.want(key, 1)
    await scene.settle(key)
    (first,) = scene.ids(key)
    scene.cluster.become(key, first, Phase.SERVING)
    await scene.settle(key)
    assert scene.ready(key) == ("True", "Serving")
    scene.cluster.want(key, None)
    await scene.settle(key)
    assert (scene.ids(key), scene.ready(key)) == ([], ("True", "ScaledToZero"))


async def test_nothing_is_written_when_nothing_changes(scene: Scene) -> None:
    key = scene.cluster.put(deployment())
    scene.cluster.want(key, 1)
    await scene.settle(key)
    writes = len(scene.cluster.status_writes)
    for _ in range(5):
        scene.cluster.now += 10
        await scene.reconciler.reconcile(key)
    assert len(scene.cluster.status_writes) == writes


async def test_a_name_that_is_taken_makes_it_look_again(scene: Scene) -> None:
    key = scene.cluster.put(deployment())
    scene.cluster.want(key, 1)
    await scene.settle(key)
    blind = Reconciler(BlindCluster(deployments=scene.cluster.deployments, demands=scene.cluster.demands), POLICY)
    assert await blind.reconcile(key) == 0.5


class BlindCluster(FakeCluster):
    """As if another operator had just taken every name."""

    async def start(self, worker: WorkerSpec) -> bool:
        return False


@pytest.mark.req("REQ-LIFE-011", "REQ-LIFE-010a", "REQ-REL-002")
async def test_failed_loads_are_retried_with_doubling_delays_until_one_is_good(scene: Scene) -> None:
    key = scene.cluster.put(deployment())
    scene.cluster.want(key, 1)
    waits = []
    for _ in range(3):
        await scene.settle(key)
        (loading,) = scene.ids(key)
        scene.cluster.fail(key, loading, Failure("load", "LoadFailed", "broken"))
        wait_s = await scene.settle(key)
        assert scene.ready(key) == ("False", "LoadFailed")
        assert wait_s is not None
        waits.append(wait_s)
        scene.cluster.now += wait_s
    assert waits == [10, 20, 40]
    await scene.settle(key)
    (loading,) = scene.ids(key)
    scene.cluster.become(key, loading, Phase.SERVING)
    await scene.settle(key)
    assert scene.ready(key) == ("True", "Serving")
    assert scene.cluster.deployments[key].status.last_failure is None


@pytest.mark.req("EDGE-3")
async def test_a_worker_that_is_killed_is_replaced_at_once(scene: Scene) -> None:
    key = scene.cluster.put(deployment())
    scene.cluster.want(key, 1)
    await scene.settle(key)
    (first,) = scene.ids(key)
    scene.cluster.become(key, first, Phase.SERVING)
    await scene.settle(key)
    scene.cluster.fail(key, first, Failure("serve", "WorkerCrashed", "killed", exit_code=-9, reported=False))
    await scene.settle(key)
    assert len(scene.ids(key)) == 1


async def test_a_deleted_deployment_takes_its_workers_along(scene: Scene) -> None:
    key = scene.cluster.put(deployment())
    scene.cluster.want(key, 1)
    await scene.settle(key)
    scene.cluster.delete(key)
    await scene.reconciler.reconcile(key)
    assert scene.ids(key) == []
    assert await scene.reconciler.reconcile(key) is None


async def test_when_the_older_of_two_is_deleted_the_younger_serves(scene: Scene) -> None:
    old = scene.cluster.put(deployment("old", created=1))
    young = scene.cluster.put(deployment("young", created=2))
    scene.cluster.want(young, 1)
    await scene.settle(young)
    assert (scene.ids(young), scene.ready(young)[1]) == ([], "DuplicateVersion")
    scene.cluster.delete(old)
    await scene.settle(young)
    assert len(scene.ids(young)) == 1


async def test_scaling_down_is_stabilised_over_reconciles(scene: Scene) -> None:
    key = scene.cluster.put(deployment(scaling={"maxReplicas": 3, "scaleDownDelaySeconds": 30}))
    scene.cluster.want(key, 90)
    await scene.settle(key)
    assert len(scene.ids(key)) == 3
    scene.cluster.want(key, 1)
    assert await scene.settle(key) == 30
    assert len(scene.ids(key)) == 3
    scene.cluster.now += 30
    await scene.settle(key)
    assert len(scene.ids(key)) == 1


async def test_the_controller_turns_changes_into_reconciles_and_survives_a_failing_one(scene: Scene) -> None:
    queue = WorkQueue[Key](backoff=Backoff(first_s=0.01))
    controller = Controller(scene.cluster, scene.reconciler.reconcile, queue, resync_s=3600)
    key = scene.cluster.put(deployment())
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(controller.run(), name="controller")
        scene.cluster.want(key, 1)
        await eventually(lambda: scene.ids(key), what="a worker")
        running.cancel()
    assert controller.statistics().failed == 0


async def test_a_resync_finds_what_no_change_told(scene: Scene) -> None:
    queue = WorkQueue[Key]()
    controller = Controller(scene.cluster, scene.reconciler.reconcile, queue, resync_s=0.02)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(controller.run(), name="controller")
        silent = deployment(scaling={"minReplicas": 1})
        key = Key("default", "minilm")
        scene.cluster.deployments[key] = silent
        await eventually(lambda: scene.ids(key), what="a worker")
        running.cancel()
