"""What every `Cluster` promises, asked of the fake, of real processes, and of pods where there is a Kubernetes."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest

from modelmora.control import Demand, Demands, Key
from modelmora.control.local import LocalControl
from modelmora.spec import ModelDeployment, ModelDeploymentStatus, ModelState
from modelmora_operator.backends.forkserver import WarmParent
from modelmora_operator.backends.launching import FreshLauncher, WarmLauncher, WorkerProgram
from modelmora_operator.backends.merging import key_of
from modelmora_operator.backends.processes import ProcessCluster
from modelmora_operator.backends.state_folder import StateFolder
from modelmora_operator.backends.worker_process import WorkerOptions
from modelmora_operator.cluster import Cluster, Failure, FailureRecord, ObservedWorker, Phase, Snapshot, WorkerSpec
from tests.support.cluster import kubectl, namespace  # noqa: F401 - fixtures
from tests.support.dummy_worker import REASON
from tests.support.fakes import FakeCluster
from tests.support.images import images  # noqa: F401 - a fixture
from tests.support.operator_values import deployment, hash_of
from tests.support.operator_world import pod_world
from tests.support.waiting import DEADLINE_S, eventually, eventually_async

PROGRAM = WorkerProgram("tests.support.dummy_worker:run", "tests.support.dummy_worker", "tests.support.dummy_preload")


class World(Protocol):
    """A cluster, and the hands of whoever is around it."""

    @property
    def cluster(self) -> Cluster: ...

    @property
    def patience_s(self) -> float: ...

    def put(self, of: ModelDeployment) -> Key: ...

    def delete(self, key: Key) -> None: ...

    def want(self, key: Key, load: float) -> None: ...

    def behaving(self, behaviour: str) -> ModelDeployment: ...

    def crash(self, key: Key, worker_id: str) -> None: ...


class ObedientCluster(FakeCluster):
    """Its workers do what their deployment says, as the real dummy workers do."""

    async def start(self, worker: WorkerSpec) -> bool:
        started = await super().start(worker)
        if started:
            asyncio.get_running_loop().call_soon(self._behave, worker)
        return started

    def _behave(self, worker: WorkerSpec) -> None:
        match worker.deployment.spec.model.config.parameters["behaviour"]:
            case "serve":
                self.become(worker.key, worker.worker_id, Phase.SERVING)
            case "fail":
                self.fail(worker.key, worker.worker_id, Failure("load", REASON["reason"], REASON["message"]))


@dataclass
class FakeWorld:
    cluster: ObedientCluster = field(default_factory=ObedientCluster)
    patience_s: float = DEADLINE_S

    def put(self, of: ModelDeployment) -> Key:
        return self.cluster.put(of)

    def delete(self, key: Key) -> None:
        self.cluster.delete(key)

    def want(self, key: Key, load: float) -> None:
        self.cluster.want(key, load)

    def behaving(self, behaviour: str) -> ModelDeployment:
        return deployment(model={"config": {"parameters": {"behaviour": behaviour}}})

    def crash(self, key: Key, worker_id: str) -> None:
        self.cluster.fail(key, worker_id, Failure("serve", "WorkerCrashed", "killed", exit_code=-9, reported=False))


@dataclass
class ProcessWorld:
    cluster: ProcessCluster
    control: LocalControl
    folder: Path
    deployments: dict[Key, ModelDeployment] = field(default_factory=dict)
    patience_s: float = DEADLINE_S

    def put(self, of: ModelDeployment) -> Key:
        key = key_of(of)
        self.deployments[key] = of
        self.cluster.replace_deployments(self.deployments)
        return key

    def delete(self, key: Key) -> None:
        del self.deployments[key]
        self.cluster.replace_deployments(self.deployments)

    def want(self, key: Key, load: float) -> None:
        before: Demands = self.control.demands.value or {}
        self.control.demands.set({**before, key: Demand(load, 0.0)})

    def behaving(self, behaviour: str) -> ModelDeployment:
        parameters = {"behaviour": behaviour, "die": str(self.folder / "die")}
        return deployment(model={"config": {"parameters": parameters}})

    def crash(self, key: Key, worker_id: str) -> None:
        (self.folder / "die").touch()


PODS = pytest.param("pods", marks=[pytest.mark.cluster, pytest.mark.timeout(240)])


@pytest.fixture(params=["fake", "fresh", "forked", PODS])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    if request.param == "fake":
        yield FakeWorld()
        return
    if request.param == "pods":
        asked = {name: request.getfixturevalue(name) for name in ("kubectl", "namespace", "images")}
        kubeconfig = Path(os.environ["KUBECONFIG"])  # noqa: TID251 - a test run has no settings class
        async with pod_world(asked["kubectl"], asked["namespace"], asked["images"].worker_bare, kubeconfig) as pods:
            yield pods
        return
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(StateFolder(tmp_path / "state"))
        environment = {"PYTHONPATH": str(Path.cwd())}
        fresh = FreshLauncher(PROGRAM, environment)
        launcher = WarmLauncher(PROGRAM, WarmParent(PROGRAM.preload, temporary=folder.sockets), fresh)
        control = LocalControl()
        cluster = ProcessCluster(
            control,
            folder=folder,
            launcher=launcher if request.param == "forked" else fresh,
            options=WorkerOptions(cache_dir=tmp_path / "cache", drain_timeout_s=5),
        )
        stack.push_async_callback(launcher.close)
        await stack.enter_async_context(cluster.running())
        yield ProcessWorld(cluster, control, tmp_path)


def spec_of(of: ModelDeployment, key: Key, number: int = 0) -> WorkerSpec:
    return WorkerSpec(f"{key.name}-{hash_of(of)}-{number}", key, hash_of(of), of)


async def seen(world: World, key: Key) -> Snapshot:
    snapshot = await world.cluster.observe(key)
    assert snapshot is not None
    return snapshot


async def serving(world: World, key: Key) -> ObservedWorker:
    async def ask() -> ObservedWorker | None:
        return next((worker for worker in (await seen(world, key)).workers if worker.serving), None)

    return await eventually_async(ask, what="a worker that serves", within_s=world.patience_s)


async def alone(world: World, key: Key) -> None:
    async def ask() -> bool:
        snapshot = await world.cluster.observe(key)
        return snapshot is None or not snapshot.workers

    await eventually_async(ask, what="all workers to be gone", within_s=world.patience_s)


async def failed(world: World, key: Key) -> FailureRecord:
    """Its first failure. Processes have ended then; a pod stays, and is tried again by others."""

    async def ask() -> FailureRecord | None:
        return (await seen(world, key)).failure

    return await eventually_async(ask, what="a failure", within_s=world.patience_s)


async def test_nothing_is_seen_of_what_nobody_put_there(world: World) -> None:
    assert await world.cluster.observe(Key("default", "nobody")) is None
    assert list(world.cluster.known_keys()) == []


async def test_every_known_key_is_told_at_the_start_and_every_change_after_it(world: World) -> None:
    key = world.put(world.behaving("serve"))
    async with asyncio.timeout(world.patience_s), aclosing(world.cluster.changes()) as changes:  # type: ignore[type-var]
        assert await anext(changes) == key
        other = world.put(deployment("other", model={"id": "org/other"}))
        while await anext(changes) != other:
            pass


async def test_a_started_worker_comes_to_serve(world: World) -> None:
    of = world.behaving("serve")
    key = world.put(of)
    assert await world.cluster.start(spec_of(of, key))
    worker = await serving(world, key)
    assert (worker.worker_id, worker.spec_hash) == (spec_of(of, key).worker_id, hash_of(of))


async def test_a_name_that_is_taken_starts_nothing(world: World) -> None:
    of = world.behaving("serve")
    key = world.put(of)
    assert await world.cluster.start(spec_of(of, key))
    assert not await world.cluster.start(spec_of(of, key))
    assert len((await seen(world, key)).workers) == 1


@pytest.mark.req("REQ-LIFE-005b")
async def test_a_stopped_worker_ends_and_is_no_failure(world: World) -> None:
    of = world.behaving("serve")
    key = world.put(of)
    await world.cluster.start(spec_of(of, key))
    worker = await serving(world, key)
    await world.cluster.stop(key, worker.worker_id)
    await world.cluster.stop(key, worker.worker_id)
    await alone(world, key)
    assert (await seen(world, key)).failure is None


async def test_stopping_what_is_not_there_is_no_error(world: World) -> None:
    key = world.put(world.behaving("serve"))
    await world.cluster.stop(key, "nobody")
    await world.cluster.stop(Key("default", "nobody"), "nobody")


async def test_a_worker_that_says_why_it_fails_is_recorded_with_its_words(world: World) -> None:
    of = world.behaving("fail")
    key = world.put(of)
    await world.cluster.start(spec_of(of, key))
    record = await failed(world, key)
    assert (record.spec_hash, record.count, record.healed) == (hash_of(of), 1, False)
    assert record.last.reason == REASON["reason"]
    assert REASON["message"] in record.last.message
    assert record.last.reported


@pytest.mark.req("EDGE-3")
async def test_a_worker_that_is_killed_is_recorded_as_one_that_said_nothing(world: World) -> None:
    of = world.behaving("serve")
    key = world.put(of)
    await world.cluster.start(spec_of(of, key))
    worker = await serving(world, key)
    world.crash(key, worker.worker_id)
    record = await failed(world, key)
    assert (record.last.reason, record.last.exit_code, record.last.reported) == ("WorkerCrashed", -9, False)


async def test_a_status_stays_until_the_next_one(world: World) -> None:
    key = world.put(world.behaving("serve"))
    status = ModelDeploymentStatus(state=ModelState.LOADING, desired_replicas=1)
    await world.cluster.publish_status(key, status)
    snapshot = await seen(world, key)
    assert snapshot.deployment is not None
    assert snapshot.deployment.status == status
    await world.cluster.publish_status(Key("default", "nobody"), status)


async def test_workers_of_a_deleted_deployment_are_still_seen(world: World) -> None:
    of = world.behaving("serve")
    key = world.put(of)
    await world.cluster.start(spec_of(of, key))
    await serving(world, key)
    world.delete(key)
    snapshot = await seen(world, key)
    assert snapshot.deployment is None
    assert len(snapshot.workers) == 1
    assert key in world.cluster.known_keys()
    await world.cluster.stop(key, snapshot.workers[0].worker_id)
    await alone(world, key)
    assert key not in world.cluster.known_keys()


async def test_demand_is_seen_where_a_router_lives(world: World) -> None:
    key = world.put(world.behaving("serve"))
    world.want(key, 3.5)
    snapshot = await seen(world, key)
    assert snapshot.routers_alive
    assert snapshot.demand is not None
    assert snapshot.demand.load == 3.5


async def test_two_deployments_of_one_version_see_each_other(world: World) -> None:
    first, second = world.put(deployment("first")), world.put(deployment("second"))
    assert [twin.metadata.name for twin in (await seen(world, first)).twins] == ["second"]
    assert [twin.metadata.name for twin in (await seen(world, second)).twins] == ["first"]
    world.delete(first)
    assert (await seen(world, second)).twins == ()


async def test_the_end_of_a_worker_is_a_change(world: World) -> None:
    of = world.behaving("serve")
    key = world.put(of)
    await world.cluster.start(spec_of(of, key))
    worker = await serving(world, key)
    counted: list[int] = []

    async def listen() -> None:
        async for changed in world.cluster.changes():
            snapshot = await world.cluster.observe(changed)
            counted.append(len(snapshot.workers) if snapshot else 0)

    async with asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(listen(), name="listen")
        await eventually(lambda: 1 in counted, what="the start to be told", within_s=world.patience_s)
        await world.cluster.stop(key, worker.worker_id)
        await eventually(lambda: counted[-1] == 0, what="the end to be told", within_s=world.patience_s)
        listening.cancel()
