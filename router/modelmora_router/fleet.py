"""What there is: a lane for each deployment that was asked for, a replica for each worker, the demand, and the trips.

Follows what the control says, and keeps the lanes, the replicas and the catalog in step with it.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from modelmora.control import Control, Deployments, Key, Trip, Worker, Workers
from modelmora.errors import ModelMoraError, ModelNotFound, ServerUnavailable
from modelmora.spec import ModelDeployment, ModelDeploymentStatus, ModelRef, ModelState, Priority
from modelmora_router.calls import InferenceCall
from modelmora_router.catalog import Catalog, key_of
from modelmora_router.demand import DemandTracker, Sample
from modelmora_router.lane import Lane
from modelmora_router.metrics import Meters
from modelmora_router.replicas import Replica
from modelmora_router.rollbacks import Trial
from modelmora_router.settings import RouterSettings
from modelmora_router.tickets import UNUSED, LaneStatistics
from modelmora_router.tripping import Tripping

log = structlog.get_logger(__name__)

_RESTART_S = 1.0


class Fleet:
    """Owns the lanes and the replicas."""

    def __init__(self, settings: RouterSettings, control: Control, meters: Meters) -> None:
        self._settings = settings
        self._control = control
        self._meters = meters
        self._catalog = Catalog({})
        self._deployments: Deployments = {}
        self._tripping = Tripping(control)
        self._workers: Workers = {}
        self._changed = asyncio.Event()
        self._lanes: dict[Key, _Tended] = {}
        self._replicas: dict[str, Replica] = {}
        self._contended = False
        self._demand = DemandTracker(
            control, self._sample, interval_s=settings.demand_interval_s, contended=lambda: self._contended
        )
        self._group = asyncio.TaskGroup()
        self._heard = {"deployments": asyncio.Event(), "routes": asyncio.Event(), "workers": asyncio.Event()}

    @property
    def catalog(self) -> Catalog:
        """The deployments as they are now."""
        return self._catalog

    def heard(self) -> dict[str, bool]:
        """What the control has told so far, by name."""
        return {name: event.is_set() for name, event in self._heard.items()}

    def said(self) -> bool:
        """Whether the operator could hear from this router: what is wanted, and so that it lives."""
        return self._demand.said.is_set()

    def lanes(self) -> list[Lane]:
        """Those that there are now."""
        return [tended.lane for tended in self._lanes.values()]

    def use(self, call: InferenceCall) -> tuple[Lane, Trial | None]:
        """The lane of the deployment that is to answer a call, which is wanted from now on; and whether it is on trial.

        Raises:
            ModelNotFound: there is no such model.
            ServerUnavailable: none is known, but there may be one.
            ModelUnhealthy: its route names none that can answer.
        """
        route = self._catalog.route(call.namespace, call.ref)
        if route is None:
            return self.wake(call.namespace, call.ref), None
        for key in route.wanted:
            self._demand.touch(key)
        chosen = route.pick(call.headers)
        return self._used(chosen), route.trials.get(chosen.metadata.name)

    def answered(self, trial: Trial) -> None:
        """A call was answered by a backend on trial."""
        self._follow_trial(trial, trial.answered(time.monotonic()))

    def failed(self, trial: Trial, call: InferenceCall, error: ModelMoraError) -> None:
        """A call was not."""
        of_caller = call.timeout_s is not None
        self._follow_trial(trial, trial.failed(error, time.monotonic(), timeout_of_caller=of_caller))

    def wake(self, namespace: str, ref: ModelRef) -> Lane:
        """The lane of the deployment that stands for what is asked for, which is wanted from now on.

        Raises:
            ModelNotFound: there is no such model.
        """
        return self._used(self.resolve(namespace, ref))

    def resolve(self, namespace: str, ref: ModelRef) -> ModelDeployment:
        """The deployment that stands for what is asked for.

        Raises:
            ModelNotFound: there is no such model.
            ServerUnavailable: none is known, but there may be one.
        """
        try:
            return self._catalog.resolve(namespace, ref)
        except ModelNotFound:
            if why := self._control.blind(namespace):
                raise self._unseen(ref, why) from None
            raise

    def _unseen(self, ref: ModelRef, why: str) -> ServerUnavailable:
        return ServerUnavailable(
            f"the router cannot see the deployments now, and knows no model {ref.model_id!r}: {why}",
            model_id=ref.model_id,
            remedy="send the request again later; if it stays so, see the router's log",
            retry_after_s=self._settings.retry_after_s,
        )

    def mirror(self, call: InferenceCall) -> Lane | None:
        """The lane to which a copy of this call goes, if one does; to be asked once a call."""
        route = self._catalog.route(call.namespace, call.ref)
        deployment = route.copy_to() if route else None
        return self._lane(key_of(deployment), deployment) if deployment else None

    async def try_again(self, deployment: ModelDeployment, *, within_s: float) -> None:
        """If the model's last load failed: asks for another, and returns once it is under way, or after that time."""
        if self.newest(deployment).status.state is ModelState.FAILED_TO_LOAD:
            self._demand.ask_load(key_of(deployment))
            await self.until_reported(deployment, _no_longer_failed, within_s=within_s)

    def dismiss(self, deployment: ModelDeployment) -> None:
        """The model is no longer wanted."""
        self._demand.forget(key_of(deployment))

    def statistics(self, deployment: ModelDeployment) -> LaneStatistics:
        """Of the deployment's lane."""
        tended = self._lanes.get(key_of(deployment))
        return tended.lane.statistics() if tended else UNUSED

    def newest(self, deployment: ModelDeployment) -> ModelDeployment:
        """The same deployment as it is now, or as it last was."""
        return self._deployments.get(key_of(deployment), deployment)

    def has_workers(self, deployment: ModelDeployment) -> bool:
        """Whether any worker of it is listed."""
        key = key_of(deployment)
        return any(worker.key == key for worker in self._workers.values())

    async def change(self) -> None:
        """Returns when something is heard of deployments or workers."""
        await self._changed.wait()

    async def until_reported(
        self, deployment: ModelDeployment, wanted: Callable[[ModelDeploymentStatus], bool], *, within_s: float
    ) -> ModelDeployment:
        """The deployment as soon as its status says what is wanted, else as it is after that time.

        What the router sees of its workers comes sooner than what the operator writes about them.
        """
        try:
            async with asyncio.timeout(within_s):
                while not wanted(self.newest(deployment).status):
                    await self.change()
        except TimeoutError:
            log.debug("status does not follow", model=deployment.model_id)
        return self.newest(deployment)

    async def run(self) -> None:
        """Follows the control until cancelled."""
        async with self._group as group:
            group.create_task(self._follow_deployments(), name="deployments")
            group.create_task(self._follow_routes(), name="routes")
            group.create_task(self._follow_workers(), name="workers")
            group.create_task(self._publish_demand(), name="demand")
            group.create_task(self._tripping.run(), name="trips")

    async def until_ready(self) -> None:
        """Returns once deployments, routes and workers are known, and the running ones are said to be wanted."""
        await self._until_heard()
        await self._demand.said.wait()

    async def _until_heard(self) -> None:
        for event in self._heard.values():
            await event.wait()

    # ------------------------------------------------------------------------------------------------ lanes

    def _used(self, deployment: ModelDeployment) -> Lane:
        key = key_of(deployment)
        # A refused request counts as demand too: it is what a failed model is tried again for.
        if not deployment.spec.suspend:
            self._demand.touch(key)
        return self._lane(key, deployment)

    def _lane(self, key: Key, deployment: ModelDeployment) -> Lane:
        tended = self._lanes.get(key)
        if tended is None:
            lane = Lane(deployment, self._settings, self._meters.of(deployment))
            task = self._group.create_task(lane.run(), name=f"lane of {key}")
            tended = self._lanes[key] = _Tended(lane, task)
        return tended.lane

    def _sample(self, key: Key) -> Sample | None:
        deployment, tended = self._deployments.get(key), self._lanes.get(key)
        if deployment is None or deployment.spec.suspend:
            return None
        seen = tended.lane.statistics() if tended else UNUSED
        return Sample(
            outstanding=seen.outstanding,
            idle_limit_s=deployment.spec.scaling.scale_to_zero_after_seconds,
            urgency=tended.lane.urgency if tended else 0,
            usual_urgency=Priority[deployment.spec.queue.default_priority],
            serving=seen.serving > 0,
        )

    # ------------------------------------------------------------------------------------------------ the control

    async def _follow_deployments(self) -> None:
        async for deployments in self._control.watch_deployments():
            self._take_deployments(deployments)
            self._heard["deployments"].set()

    def _take_deployments(self, deployments: Deployments) -> None:
        self._deployments = deployments
        self._contended = any(one.status.waiting_for_room for one in deployments.values())
        self._look_up()
        for key in list(self._lanes):
            before, now = self._lanes[key].lane.deployment, deployments.get(key)
            # Deleted, or deleted and made again under its name between two looks: what waits was not meant for that.
            if now is None or now.metadata.uid != before.metadata.uid:
                self._close_lane(key)
            elif now is not before:
                self._lanes[key].lane.update(now)
        self._take_workers(self._workers)  # those that were listed before their deployment

    async def _follow_routes(self) -> None:
        async for routes in self._control.watch_routes():
            self._tripping.take(routes)
            self._look_up()
            self._heard["routes"].set()
            self._announce()

    def _look_up(self) -> None:
        self._catalog = Catalog(self._deployments, self._tripping.routes(), self._catalog)

    def _follow_trial(self, trial: Trial, trip: Trip | None) -> None:
        edition = trial.edition
        route = self._catalog.routes.get((edition.key.namespace, edition.model_id))
        if trip is None or route is None or not route.may_lose(trial):
            return
        self._tripping.add(edition.key, trip)
        self._look_up()
        if deployment := self._deployments.get(Key(edition.key.namespace, trial.backend)):
            self._meters.of(deployment).rolled_back()

    def _close_lane(self, key: Key) -> None:
        lane, task = (tended := self._lanes.pop(key)).lane, tended.task
        self._meters.forget(lane.deployment)
        self._demand.forget(key)
        for worker_id in [worker_id for worker_id, worker in self._workers.items() if worker.key == key]:
            if replica := self._replicas.pop(worker_id, None):
                replica.retire()
        lane.close(ModelNotFound(f"model {lane.deployment.model_id!r} was deleted", remedy="deploy it again"))
        task.cancel()

    async def _follow_workers(self) -> None:
        first = True
        async for workers in self._control.watch_workers():
            self._take_workers(workers)
            if first:
                # Of those that run already, this router does not know when they were last used: just now, it says.
                self._touch_running(workers.values())
                first = False
            self._heard["workers"].set()

    def _touch_running(self, workers: Iterable[Worker]) -> None:
        for worker in workers:
            if not worker.terminating:
                self._demand.touch(worker.key)

    def _take_workers(self, workers: Workers) -> None:
        self._workers = workers
        for worker_id in self._replicas.keys() - workers.keys():
            self._replicas.pop(worker_id).retire()
        for worker_id, worker in workers.items():
            replica = self._replicas.get(worker_id)
            if replica and not replica.is_of(worker):  # another pod under its name, or at another address
                self._replicas.pop(worker_id).retire()
                replica = None
            if replica:
                replica.update(worker)
            elif (deployment := self._deployments.get(worker.key)) and _made_for(worker, deployment):
                self._begin(worker, deployment)
        self._announce()

    def _announce(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _begin(self, worker: Worker, deployment: ModelDeployment) -> None:
        lane = self._lane(worker.key, deployment)
        replica = Replica(worker, lane, self._settings, model_id=deployment.model_id)
        self._replicas[worker.worker_id] = replica
        lane.attach(replica)
        self._group.create_task(self._tend(replica, lane), name=f"replica {worker.worker_id}")

    async def _tend(self, replica: Replica, lane: Lane) -> None:
        try:
            while not replica.retired:
                try:
                    await replica.run()
                except Exception:  # the task's top: a bug in one replica must not end the router
                    log.exception("replica failed", model=lane.deployment.model_id, worker=replica.worker_id)
                    await asyncio.sleep(_RESTART_S)
        finally:
            lane.detach(replica)

    async def _publish_demand(self) -> None:
        # Before the running models and their deployments are known, an empty demand would stop them.
        await self._until_heard()
        await self._demand.run()


def _made_for(worker: Worker, deployment: ModelDeployment) -> bool:
    """Not for one of the same name that was deleted: what that one loaded may be something else."""
    return worker.deployment_uid in {"", deployment.metadata.uid} or not deployment.metadata.uid


def _no_longer_failed(status: ModelDeploymentStatus) -> bool:
    return status.state is not ModelState.FAILED_TO_LOAD


@dataclass(frozen=True, slots=True)
class _Tended:
    """A lane and the task that owns it."""

    lane: Lane
    task: "asyncio.Task[None]"
