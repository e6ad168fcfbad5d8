"""One worker process from its launch to its end.

It is started, followed over its status stream, and ended: by SIGTERM, which means drain, and by SIGKILL when its time
is over. Whichever way it ends, its socket and its files go, and why it ended is found out, unless it was asked to.
"""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from signal import Signals
from typing import Final

import structlog

from modelmora.errors import InvalidSettings
from modelmora.spec import quantity_value
from modelmora.v1 import worker_pb2
from modelmora_operator.backends import client_sockets, status_streams, worker_reports
from modelmora_operator.backends.children import Child
from modelmora_operator.backends.launching import Launch, Launcher
from modelmora_operator.backends.state_folder import WorkerPlace
from modelmora_operator.cluster import Failure, ObservedWorker, Phase, WorkerSpec
from modelmora_operator.failures import End

_SOCKET_STEP_S: Final = 0.005
_IDLE_GRACE_S: Final = 5.0  # for a worker that never served: nothing was accepted
_FAILED_GRACE_S: Final = 5.0  # for a worker that has said why it fails, to end by itself
_KILL_GRACE_S: Final = 3.0  # beyond the drain time, and for the kernel after a SIGKILL

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What all workers of this server are told."""

    cache_dir: Path
    drain_timeout_s: float = 30.0
    socket_dir: Path | None = None  # for the workers that share memory; None: they do not
    more: Mapping[str, str] = field(default_factory=dict)  # further settings of the worker, by their names there


class WorkerProcess:
    """Owned by the one task that awaits `live`. `changed` is called whenever `observed` or `listening` has changed."""

    def __init__(
        self,
        spec: WorkerSpec,
        *,
        place: WorkerPlace,
        launcher: Launcher,
        options: WorkerOptions,
        changed: Callable[["WorkerProcess"], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.spec = spec
        self.listening = False
        self.observed = ObservedWorker(spec.worker_id, spec.spec_hash, clock(), address=place.address)
        self._place = place
        self._launcher = launcher
        self._options = options
        self._changed = changed
        self._clock = clock
        self._served_since: float | None = None
        self._overdue = False
        self._settled = asyncio.Event()  # it serves, has failed, or is asked to stop
        self._ending = asyncio.Event()  # it has failed, or is asked to stop
        self._log = log.bind(model=spec.deployment.model_id, worker=spec.worker_id)

    @property
    def served_s(self) -> float | None:
        """For how long it has served; None: it never did."""
        return None if self._served_since is None else self._clock() - self._served_since

    def ask_to_stop(self) -> None:
        """Begins to drain and end it; nothing happens the second time."""
        if self.observed.terminating:
            return
        self._ending.set()
        self._settled.set()
        self._set(replace(self.observed, terminating=True))

    async def live(self) -> End | None:
        """Until it has ended; None: it was asked to. Cancelled, it is killed."""
        try:
            return await self._live()
        finally:
            self._place.remove()

    async def _live(self) -> End | None:
        child = await self._launched()
        if not isinstance(child, Child):
            return self._end(child) if child and not self.observed.terminating else None
        exit_code = await self._until_end(child)
        failure = None if self.observed.terminating else self._why(exit_code)
        self._log.info("worker ended", exit_code=exit_code, reason=failure.reason if failure else "asked to")
        return self._end(failure) if failure else None

    async def _launched(self) -> Child | Failure | None:
        """None: it was asked to stop before there was a process."""
        launching: asyncio.Task[Child | Failure] | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                launching = tasks.create_task(self._try_to_launch(), name=f"launch-{self.spec.worker_id}")
                ending = tasks.create_task(self._ending.wait(), name=f"ending-{self.spec.worker_id}")
                await asyncio.wait({launching, ending}, timeout=self._deadline_s, return_when=asyncio.FIRST_COMPLETED)
                launching.cancel()
                ending.cancel()
        except asyncio.CancelledError:
            if launching and not launching.cancelled() and isinstance(child := launching.result(), Child):
                await _killed(child)
            raise
        if not launching.cancelled():
            return launching.result()
        return None if self.observed.terminating else self._too_late(None)

    async def _try_to_launch(self) -> Child | Failure:
        try:
            return await self._launcher.launch(self._launch())
        except InvalidSettings as error:
            return Failure("spawn", type(error).__name__, error.message, error.context.remedy)
        except OSError as error:
            message = f"no process could be started for the worker {self.spec.worker_id}: {error}"
            return Failure("spawn", "SpawnFailed", message, "free memory or processes on this machine")

    def _launch(self) -> Launch:
        deployment = self.spec.deployment
        settings = {
            **self._options.more,
            "deployment": deployment.manifest(),
            "worker_id": self.spec.worker_id,
            "address": self._place.address,
            "cache_dir": str(self._options.cache_dir),
            "files_dir": str(self._place.files),
            "termination_message_path": str(self._place.termination_message),
            "drain_timeout_s": self._options.drain_timeout_s,
            "started_at": self.observed.started_at,
            "exit_with_parent": True,
            "parent_pid": os.getpid(),
            **self._sharing(),
        }
        environment = {env.name: env.value for env in deployment.spec.runtime.env if env.value is not None}
        return Launch(json.dumps(settings), self._place.settings_file, environment)

    def _sharing(self) -> dict[str, str | int]:
        """Of a model that shares memory: where its callers are to find it, and what they may have."""
        shared, folder = self.spec.deployment.spec.shared_memory, self._options.socket_dir
        if shared is None or folder is None:
            return {}
        path = client_sockets.usable_path_of(folder, self.spec.key)
        return {"client_socket": str(path), "session_quota_bytes": int(quantity_value(shared.session_quota))}

    # -------------------------------------------------------------------------------------------- while it lives

    async def _until_end(self, child: Child) -> int:
        self._log.info("worker started", pid=child.pid, warm=child.warm)
        self._set(replace(self.observed, warm=child.warm))
        try:
            async with asyncio.TaskGroup() as tasks:
                around = [
                    tasks.create_task(self._follow(), name=f"status-{self.spec.worker_id}"),
                    tasks.create_task(self._end_in_time(child), name=f"end-{self.spec.worker_id}"),
                ]
                exit_code = await child.wait()
                for task in around:
                    task.cancel()
        finally:
            await _killed(child)
        return exit_code

    async def _follow(self) -> None:
        while not self._place.socket.exists():  # noqa: ASYNC110 - a bound socket makes no other sign
            await asyncio.sleep(_SOCKET_STEP_S)
        self.listening = True
        self._changed(self)
        await status_streams.follow(self._place.address, self._heard)

    def _heard(self, update: worker_pb2.StatusUpdate) -> None:
        observed = worker_reports.updated(self.observed, update, self._clock())
        if observed.phase is Phase.SERVING and self._served_since is None:
            self._served_since = self._clock()
            self._settled.set()
            observed = replace(observed, serving_since=self._served_since)
            self._log.info("worker serves", seconds=observed.phase_seconds)
        if observed.phase is Phase.FAILED:
            self._settled.set()
            self._ending.set()
        self._set(observed)

    def _set(self, observed: ObservedWorker) -> None:
        if observed != self.observed:
            self.observed = observed
            self._changed(self)

    # -------------------------------------------------------------------------------------------- how it ends

    async def _end_in_time(self, child: Child) -> None:
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._settled.wait()
        except TimeoutError:
            self._overdue = True
            child.signal(Signals.SIGKILL)
            return
        await self._ending.wait()
        if self.observed.terminating:
            child.signal(Signals.SIGTERM)
        await asyncio.sleep(self._grace_s())
        self._log.warning("worker does not end, so it is killed", pid=child.pid)
        child.signal(Signals.SIGKILL)

    def _grace_s(self) -> float:
        if not self.observed.terminating:
            return _FAILED_GRACE_S
        drain_s = self._options.drain_timeout_s
        return (drain_s if self._served_since is not None else min(drain_s, _IDLE_GRACE_S)) + _KILL_GRACE_S

    def _why(self, exit_code: int) -> Failure:
        if self._overdue:
            return self._too_late(exit_code)
        return worker_reports.why_it_ended(self.observed, exit_code, self._place.termination_message)

    def _too_late(self, exit_code: int | None) -> Failure:
        return Failure(
            where=worker_reports.WHILE[self.observed.phase],
            reason="ProgressDeadlineExceeded",
            message=f"the worker {self.spec.worker_id} did not serve within {self._deadline_s} s",
            remedy="see its log for what it waits for, or raise spec.rollout.progressDeadlineSeconds",
            exit_code=exit_code,
        )

    @property
    def _deadline_s(self) -> int:
        return self.spec.deployment.spec.rollout.progress_deadline_seconds

    def _end(self, failure: Failure) -> End:
        return End(self.spec.spec_hash, self.observed.started_at, self._clock(), failure, self._served_since)


async def _killed(child: Child) -> None:
    """Makes sure that it has ended; nothing is left to do in the common case."""
    child.signal(Signals.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_KILL_GRACE_S):
            await child.wait()
