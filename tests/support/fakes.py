"""Fakes that implement the seams, in memory."""

import asyncio
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field, replace

from modelmora.control import Demand, Key
from modelmora.spec import ModelDeployment, ModelDeploymentStatus
from modelmora_operator import failures
from modelmora_operator.cluster import Failure, FailureRecord, ObservedWorker, Phase, Snapshot, WorkerSpec
from modelmora_operator.duplicates import identity


@dataclass
class FakeCluster:
    """A `Cluster` whose workers do what a test tells them; time stands still unless a test moves it."""

    now: float = 0.0
    deployments: dict[Key, ModelDeployment] = field(default_factory=dict)
    workers: dict[Key, dict[str, ObservedWorker]] = field(default_factory=dict)
    demands: dict[Key, Demand] | None = field(default_factory=dict)
    failed: dict[Key, FailureRecord] = field(default_factory=dict)
    status_writes: list[tuple[Key, ModelDeploymentStatus]] = field(default_factory=list)
    ending: bool = True  # a stopped worker is gone at once; False: it stays until `gone`
    _queue: asyncio.Queue[Key] = field(default_factory=asyncio.Queue)

    # what a test does

    def put(self, deployment: ModelDeployment) -> Key:
        key = Key(deployment.metadata.namespace, deployment.metadata.name)
        self.deployments[key] = deployment
        self._queue.put_nowait(key)
        return key

    def delete(self, key: Key) -> None:
        del self.deployments[key]
        self._queue.put_nowait(key)

    def want(self, key: Key, load: float | None) -> None:
        self.demands = dict(self.demands or {})
        if load is None:
            self.demands.pop(key, None)
        else:
            self.demands[key] = Demand(load, self.now)
        self._queue.put_nowait(key)

    def become(self, key: Key, worker_id: str, phase: Phase) -> None:
        worker = replace(self.workers[key][worker_id], phase=phase)
        self.workers[key][worker_id] = worker
        record = self.failed.get(key)
        if worker.serving and record and record.spec_hash == worker.spec_hash:
            self.failed[key] = replace(record, healed=True)
        self._queue.put_nowait(key)

    def fail(self, key: Key, worker_id: str, failure: Failure) -> None:
        """The worker ends without having been asked to."""
        worker = self.workers[key].pop(worker_id)
        end = failures.End(worker.spec_hash, worker.started_at, self.now, failure)
        self.failed[key] = failures.recorded(self.failed.get(key), end, chance=0.0)
        self._queue.put_nowait(key)

    def gone(self, key: Key, worker_id: str) -> None:
        """A worker that was asked to end has ended."""
        self.workers[key].pop(worker_id, None)
        self._queue.put_nowait(key)

    # Cluster

    async def changes(self) -> AsyncIterator[Key]:
        for key in list(self.known_keys()):
            yield key
        while True:
            yield await self._queue.get()

    def known_keys(self) -> Collection[Key]:
        return self.deployments.keys() | {key for key, workers in self.workers.items() if workers}

    async def observe(self, key: Key) -> Snapshot | None:
        deployment, workers = self.deployments.get(key), self.workers.get(key, {})
        if deployment is None and not workers:
            return None
        return Snapshot(
            key=key,
            deployment=deployment,
            workers=tuple(workers.values()),
            demand=(self.demands or {}).get(key),
            routers_alive=self.demands is not None,
            failure=self.failed.get(key),
            twins=self._twins(key, deployment),
        )

    async def start(self, worker: WorkerSpec) -> bool:
        workers = self.workers.setdefault(worker.key, {})
        if worker.worker_id in workers:
            return False
        workers[worker.worker_id] = ObservedWorker(worker.worker_id, worker.spec_hash, self.now)
        self._queue.put_nowait(worker.key)
        return True

    async def stop(self, key: Key, worker_id: str) -> None:
        worker = self.workers.get(key, {}).get(worker_id)
        if worker is None:
            return
        self.workers[key][worker_id] = replace(worker, terminating=True)
        if self.ending:
            self.gone(key, worker_id)

    async def publish_status(self, key: Key, status: ModelDeploymentStatus) -> None:
        if deployment := self.deployments.get(key):
            self.status_writes.append((key, status))
            self.deployments[key] = deployment.model_copy(update={"status": status})

    def _twins(self, key: Key, deployment: ModelDeployment | None) -> tuple[ModelDeployment, ...]:
        if deployment is None:
            return ()
        others = (other for name, other in self.deployments.items() if name != key)
        return tuple(other for other in others if identity(other) == identity(deployment))
