"""The cluster of one machine: a process for each worker.

What there is stands in this object and in the three cells that it shares with the router; nothing else is asked. Each
worker is owned by one task. Leaving the context normally drains every worker; leaving it by a cancellation kills them.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager

import structlog

from modelmora.control import Demands, Key, Worker
from modelmora.control.local import LocalControl
from modelmora.spec import ModelDeployment, ModelDeploymentStatus
from modelmora_operator import failures
from modelmora_operator.backends.demands import moved
from modelmora_operator.backends.failure_memory import FailureMemory
from modelmora_operator.backends.launching import Launcher
from modelmora_operator.backends.state_folder import StateFolder
from modelmora_operator.backends.worker_process import WorkerOptions, WorkerProcess
from modelmora_operator.cluster import Failure, FailureRecord, Phase, Snapshot, WorkerSpec
from modelmora_operator.duplicates import Identity, identity
from modelmora_operator.spec_hash import spec_hash

log = structlog.get_logger(__name__)


class ProcessCluster:
    """`Cluster` on one machine. Used from one event loop, inside `running`."""

    def __init__(
        self,
        control: LocalControl,
        *,
        folder: StateFolder,
        launcher: Launcher,
        options: WorkerOptions,
        sharing: bool = False,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._control = control
        self._folder = folder
        self._launcher = launcher
        self._options = options
        self._sharing = sharing
        self._clock = clock
        self._deployments: dict[Key, ModelDeployment] = {}
        self._twins: dict[Identity, list[Key]] = {}
        self._processes: dict[Key, dict[str, WorkerProcess]] = {}
        self._failures = FailureMemory(chance)
        self._changed: dict[Key, None] = {}  # in order, each once
        self._something_changed = asyncio.Event()
        self._all_ended = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Workers can live inside."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            watching = tasks.create_task(self._watch_demands(), name="operator-demands")
            self._publish_workers()
            yield
            watching.cancel()
            await self.stop_all()

    def phases(self) -> Iterable[Phase]:
        """Of every worker, for the numbers."""
        return [process.observed.phase for process in self._every_process()]

    async def stop_all(self) -> None:
        """Drains every worker and waits until all have ended; each has its own deadline."""
        for process in self._every_process():
            process.ask_to_stop()
        while self._processes:
            self._all_ended.clear()
            await self._all_ended.wait()

    def replace_deployments(self, deployments: Mapping[Key, ModelDeployment]) -> None:
        """These are all there are from now on; what was reported of an object stays with it."""
        before = self._deployments
        self._deployments = {key: _with_status(new, before.get(key)) for key, new in deployments.items()}
        twins_before, self._twins = self._twins, _by_identity(self._deployments)
        for key in [*before, *self._deployments]:
            old, new = before.get(key), self._deployments.get(key)
            if old != new:
                related = [*(_of(old, twins_before) if old else []), *(_of(new, self._twins) if new else [])]
                self._mark(key, *related)
            if old and new and old.metadata.uid != new.metadata.uid:
                self._stop_former(key)
        self._failures.keep_only(self._deployments.keys())
        self._publish_deployments()

    # -------------------------------------------------------------------------------------------- Cluster

    async def changes(self) -> AsyncIterator[Key]:
        self._mark(*self.known_keys())
        while True:
            while self._changed:
                key = next(iter(self._changed))
                del self._changed[key]
                yield key
            self._something_changed.clear()
            await self._something_changed.wait()

    def known_keys(self) -> Collection[Key]:
        return self._deployments.keys() | self._processes.keys()

    async def observe(self, key: Key) -> Snapshot | None:
        deployment = self._deployments.get(key)
        processes = self._processes.get(key, {})
        if deployment is None and not processes:
            return None
        demands = self._control.demands.value
        return Snapshot(
            key=key,
            deployment=deployment,
            workers=tuple(process.observed for process in processes.values()),
            demand=demands.get(key) if demands is not None else None,
            routers_alive=demands is not None,
            failure=self._failures[key],
            twins=self._twins_of(key, deployment),
        )

    async def start(self, worker: WorkerSpec) -> bool:
        if worker.worker_id in self._processes.get(worker.key, {}) or self._is_former(worker):
            return False
        if self._tasks is None:
            raise RuntimeError("workers live only inside `running`")
        process = WorkerProcess(
            worker,
            place=self._folder.place(),
            launcher=self._launcher,
            options=self._options,
            changed=self._worker_changed,
            clock=self._clock,
        )
        self._processes.setdefault(worker.key, {})[worker.worker_id] = process
        self._tasks.create_task(self._own(process), name=f"worker-{worker.worker_id}")
        self._mark(worker.key)  # that it exists is news, even before it can be heard
        return True

    def _is_former(self, worker: WorkerSpec) -> bool:
        now = self._deployments.get(worker.key)
        return now is not None and now.metadata.uid != worker.deployment.metadata.uid

    def _stop_former(self, key: Key) -> None:
        """Those of a deployment that was deleted go with it, also where another has come to have its name."""
        for process in self._processes.get(key, {}).values():
            process.ask_to_stop()

    async def stop(self, key: Key, worker_id: str) -> None:
        if process := self._processes.get(key, {}).get(worker_id):
            process.ask_to_stop()

    async def publish_status(self, key: Key, status: ModelDeploymentStatus) -> None:
        deployment = self._deployments.get(key)
        if deployment is not None:
            self._deployments[key] = deployment.model_copy(update={"status": status})
            self._publish_deployments()

    # -------------------------------------------------------------------------------------------- workers

    async def _own(self, process: WorkerProcess) -> None:
        key = process.spec.key
        end: failures.End | None = None
        try:
            end = await process.live()
        except Exception as error:
            log.exception("worker lost", model=process.spec.deployment.model_id, worker=process.spec.worker_id)
            lost = Failure("serve", "InternalError", f"the operator lost its worker: {error}", "see the log")
            now = self._clock()
            end = failures.End(process.spec.spec_hash, process.observed.started_at, now, lost)
        finally:
            self._forget(process)
        self._remember(process, end)
        self._mark(key)

    def _remember(self, process: WorkerProcess, end: failures.End | None) -> None:
        key = process.spec.key
        if end is None:
            self._failures.ended_well(key, process.spec.spec_hash, process.served_s)
            return
        record = self._failures.record_of(key, end)
        self._log_failure(process, record)
        deployment = self._deployments.get(key)
        if deployment is not None and spec_hash(deployment.spec) == end.spec_hash:
            self._failures.remember(key, record)  # of an older spec: nobody will try that one again

    def _forget(self, process: WorkerProcess) -> None:
        siblings = self._processes[process.spec.key]
        del siblings[process.spec.worker_id]
        if not siblings:
            del self._processes[process.spec.key]
        self._publish_workers()
        if not self._processes:
            self._all_ended.set()

    def _worker_changed(self, process: WorkerProcess) -> None:
        key = process.spec.key
        if process.observed.serving:
            self._failures.served(key, process.observed.spec_hash)
        self._publish_workers()
        self._mark(key)

    def _log_failure(self, process: WorkerProcess, record: FailureRecord) -> None:
        model, last = process.spec.deployment.model_id, record.last
        said = {} if last.reported else {"message": last.message, "remedy": last.remedy}  # else the worker's log has it
        log.warning(
            "worker failed",
            model=model,
            worker=process.spec.worker_id,
            where=last.where,
            reason=last.reason,
            exit_code=last.exit_code,
            failures=record.count,
            **said,
        )

    def _every_process(self) -> Iterable[WorkerProcess]:
        return [process for siblings in self._processes.values() for process in siblings.values()]

    # -------------------------------------------------------------------------------------------- the three cells

    async def _watch_demands(self) -> None:
        before: Demands | None = None
        async for demands in self._control.demands.watch():
            if before is None:
                self._mark(*self.known_keys())
            else:
                self._mark(*moved(before, demands, sharing=self._sharing))
            before = demands

    def _publish_deployments(self) -> None:
        self._control.deployments.set(dict(self._deployments))

    def _publish_workers(self) -> None:
        listening = [process for process in self._every_process() if process.listening]
        self._control.workers.set({worker.worker_id: worker for worker in map(_published, listening)})

    def _mark(self, *keys: Key) -> None:
        self._changed.update(dict.fromkeys(keys))
        self._something_changed.set()

    def _twins_of(self, key: Key, deployment: ModelDeployment | None) -> tuple[ModelDeployment, ...]:
        if deployment is None:
            return ()
        return tuple(self._deployments[twin] for twin in _of(deployment, self._twins) if twin != key)


def _published(process: WorkerProcess) -> Worker:
    key, observed = process.spec.key, process.observed
    return Worker(
        worker_id=f"{key.namespace}/{observed.worker_id}",
        key=key,
        address=observed.address,
        health_address=observed.address,
        terminating=observed.terminating,
        deployment_uid=process.spec.deployment.metadata.uid,
    )


def _with_status(new: ModelDeployment, old: ModelDeployment | None) -> ModelDeployment:
    if old is None or old.metadata.uid != new.metadata.uid:
        return new
    same = old.model_copy(update={"metadata": new.metadata, "spec": new.spec})
    return old if same == old else same


def _by_identity(deployments: Mapping[Key, ModelDeployment]) -> dict[Identity, list[Key]]:
    found: dict[Identity, list[Key]] = {}
    for key, deployment in deployments.items():
        found.setdefault(identity(deployment), []).append(key)
    return found


def _of(deployment: ModelDeployment, twins: Mapping[Identity, list[Key]]) -> list[Key]:
    return twins.get(identity(deployment), [])
