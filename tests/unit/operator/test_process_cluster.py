"""What the cluster of one machine does about a worker that has no process yet: to start one may take long, or hang."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from modelmora.control.local import LocalControl
from modelmora.spec import ModelDeployment
from modelmora_operator.backends.children import Child
from modelmora_operator.backends.launching import Launch
from modelmora_operator.backends.merging import key_of
from modelmora_operator.backends.processes import ProcessCluster
from modelmora_operator.backends.state_folder import StateFolder
from modelmora_operator.backends.worker_process import WorkerOptions
from modelmora_operator.cluster import Snapshot, WorkerSpec
from tests.support.operator_values import deployment, hash_of
from tests.support.waiting import DEADLINE_S, eventually_async


class Hanging:
    """A launcher whose warm parent never finishes its imports."""

    async def launch(self, launch: Launch) -> Child:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    async def close(self) -> None:
        """There is nothing to give back."""


@asynccontextmanager
async def hanging(tmp_path: Path) -> AsyncIterator[ProcessCluster]:
    with StateFolder(tmp_path / "state") as folder:
        options = WorkerOptions(cache_dir=tmp_path / "cache")
        cluster = ProcessCluster(LocalControl(), folder=folder, launcher=Hanging(), options=options)
        async with asyncio.timeout(DEADLINE_S), cluster.running():
            yield cluster


async def started(cluster: ProcessCluster, of: ModelDeployment) -> WorkerSpec:
    key = key_of(of)
    cluster.replace_deployments({key: of})
    worker = WorkerSpec(f"{key.name}-{hash_of(of)}-0", key, hash_of(of), of)
    assert await cluster.start(worker)
    return worker


def with_uid(of: ModelDeployment, uid: str) -> ModelDeployment:
    return of.model_copy(update={"metadata": of.metadata.model_copy(update={"uid": uid})})


async def seen(cluster: ProcessCluster, worker: WorkerSpec) -> Snapshot:
    snapshot = await cluster.observe(worker.key)
    assert snapshot is not None
    return snapshot


@pytest.mark.req("IMP-1")
async def test_a_worker_that_is_still_being_launched_can_be_stopped(tmp_path: Path) -> None:
    async with hanging(tmp_path) as cluster:
        worker = await started(cluster, deployment())
        await cluster.stop(worker.key, worker.worker_id)

        async def gone() -> bool:
            return not (await seen(cluster, worker)).workers

        await eventually_async(gone, what="the worker to be given up")
        assert (await seen(cluster, worker)).failure is None


async def test_the_workers_of_a_deployment_that_was_deleted_end_although_another_has_its_name(tmp_path: Path) -> None:
    former, latter = (with_uid(deployment(), uid) for uid in ("first", "second"))
    async with hanging(tmp_path) as cluster:
        worker = await started(cluster, former)
        cluster.replace_deployments({worker.key: latter})

        async def gone() -> bool:
            return not (await seen(cluster, worker)).workers

        await eventually_async(gone, what="the worker to be given up")
        assert not await cluster.start(worker)  # decided before it was deleted
        assert await cluster.start(replace(worker, deployment=latter))


async def test_the_server_ends_while_a_worker_is_still_being_launched(tmp_path: Path) -> None:
    async with hanging(tmp_path) as cluster:
        await started(cluster, deployment())
    assert not list((tmp_path / "state").rglob("workers/*"))


async def test_a_launch_has_the_progress_deadline_too(tmp_path: Path) -> None:
    async with hanging(tmp_path) as cluster:
        worker = await started(cluster, deployment(rollout={"progressDeadlineSeconds": 1}))

        async def failed() -> bool:
            return (await seen(cluster, worker)).failure is not None

        await eventually_async(failed, what="the deadline")
        record = (await seen(cluster, worker)).failure
        assert record is not None
        assert (record.last.reason, record.last.where) == ("ProgressDeadlineExceeded", "spawn")
        assert record.last.remedy


async def test_a_started_worker_is_news_before_it_can_be_heard(tmp_path: Path) -> None:
    async with hanging(tmp_path) as cluster:
        worker = await started(cluster, deployment())
        changes = cluster.changes()
        assert await anext(changes) == worker.key  # the deployment, all that there is at the start
        await cluster.start(WorkerSpec("another", worker.key, worker.spec_hash, worker.deployment))
        assert await anext(changes) == worker.key
