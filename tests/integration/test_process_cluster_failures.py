"""Which failures of real workers are remembered, and for how long."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from modelmora.control import Key
from modelmora.control.local import LocalControl
from modelmora.spec import ModelDeployment
from modelmora_operator.backends.launching import FreshLauncher, WorkerProgram
from modelmora_operator.backends.processes import ProcessCluster
from modelmora_operator.backends.state_folder import StateFolder
from modelmora_operator.backends.worker_process import WorkerOptions
from modelmora_operator.cluster import Snapshot, WorkerSpec
from modelmora_operator.failures import STABLE_AFTER_S
from tests.support.operator_values import KEY, deployment, hash_of
from tests.support.waiting import eventually_async

PROGRAM = WorkerProgram(module="tests.support.dummy_worker")


@dataclass
class Clock:
    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class World:
    cluster: ProcessCluster
    folder: Path
    clock: Clock
    numbers: Any = field(default_factory=lambda: iter(range(100)))

    @property
    def die(self) -> Path:
        return self.folder / "die"

    def behaving(self, behaviour: str) -> ModelDeployment:
        parameters = {"behaviour": behaviour, "die": str(self.die)}
        return deployment(model={"config": {"parameters": parameters}})

    async def start(self, of: ModelDeployment) -> str:
        self.cluster.replace_deployments({KEY: of})
        worker_id = f"minilm-{hash_of(of)}-{next(self.numbers)}"
        assert await self.cluster.start(WorkerSpec(worker_id, KEY, hash_of(of), of))
        return worker_id

    async def seen(self, key: Key = KEY) -> Snapshot:
        snapshot = await self.cluster.observe(key)
        assert snapshot is not None
        return snapshot

    async def serves(self, worker_id: str) -> None:
        async def ask() -> bool:
            return any(worker.serving and worker.worker_id == worker_id for worker in (await self.seen()).workers)

        await eventually_async(ask, what="the worker to serve")

    async def ended(self, worker_id: str) -> None:
        async def ask() -> bool:
            return all(worker.worker_id != worker_id for worker in (await self.seen()).workers)

        await eventually_async(ask, what="the worker to end")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with _world(tmp_path) as made:
        yield made


@asynccontextmanager
async def _world(tmp_path: Path) -> AsyncIterator[World]:
    clock = Clock()
    launcher = FreshLauncher(PROGRAM, {"PYTHONPATH": str(Path.cwd())})
    options = WorkerOptions(cache_dir=tmp_path / "cache", drain_timeout_s=5)
    with StateFolder(tmp_path / "state") as folder:
        cluster = ProcessCluster(LocalControl(), folder=folder, launcher=launcher, options=options, clock=clock)
        async with cluster.running():
            yield World(cluster, tmp_path, clock)


@pytest.mark.req("REQ-LIFE-011")
async def test_a_worker_of_an_older_spec_that_crashes_hides_no_failure_of_the_present_one(world: World) -> None:
    older = await world.start(world.behaving("serve"))
    await world.serves(older)
    present = world.behaving("fail")
    await world.ended(await world.start(present))
    world.die.touch()
    await world.ended(older)
    record = (await world.seen()).failure
    assert record is not None
    assert record.spec_hash == hash_of(present)
    assert record.last.reported


@pytest.mark.req("REQ-LIFE-011")
@pytest.mark.parametrize(("served_s", "forgotten"), [(STABLE_AFTER_S, True), (STABLE_AFTER_S - 1, False)])
async def test_a_long_life_in_service_that_ended_as_asked_forgets_the_failures_before_it(
    world: World, served_s: float, forgotten: bool
) -> None:
    of = world.behaving("serve")
    crashing = await world.start(of)
    await world.serves(crashing)
    world.die.touch()
    await world.ended(crashing)
    assert (await world.seen()).failure is not None
    world.die.unlink()
    healthy = await world.start(of)
    await world.serves(healthy)
    world.clock.now += served_s
    await world.cluster.stop(KEY, healthy)
    await world.ended(healthy)
    assert ((await world.seen()).failure is None) is forgotten
