"""The router without its protocols: what the edges ask of it, each in one call.

A request is checked, resolved to a deployment, which is wanted from then on, passes its rate limit, finds room for its
bytes, and goes through the lane of the deployment. Whatever becomes of it is logged and counted here.
"""

import asyncio
import importlib.metadata
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import structlog

from modelmora.control import Control
from modelmora.errors import DeadlineExceeded, InternalError, ModelBusy, ModelMoraError, ServerUnavailable
from modelmora.spec import ModelDeployment, ModelDeploymentStatus, ModelRef, ModelState, Priority
from modelmora_router import admission
from modelmora_router.calls import Answer, InferenceCall
from modelmora_router.catalog import key_of, page
from modelmora_router.fleet import Fleet
from modelmora_router.held_bytes import HeldBytes, Holding
from modelmora_router.metrics import Meters, ModelMeters
from modelmora_router.mirroring import Mirroring
from modelmora_router.outcomes import Outcomes
from modelmora_router.rate_limits import RateLimits, rate_limited
from modelmora_router.rollbacks import Trial
from modelmora_router.settings import RouterSettings
from modelmora_router.spans import SpanSink
from modelmora_router.tickets import LaneStatistics

log = structlog.get_logger(__name__)

_COPIES_PART: Final = 4  # copies for mirrors may hold a quarter of what requests may


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model as this router sees it."""

    deployment: ModelDeployment
    lane: LaneStatistics


@dataclass(frozen=True, slots=True)
class SystemView:
    """The router and what it serves."""

    version: str
    started_at: datetime
    components: dict[str, str]  # "ready", or why not
    models: tuple[ModelView, ...]

    @property
    def ready(self) -> bool:
        return all(state == "ready" for state in self.components.values())


class DataPlane:
    """Holds, orders and forwards requests."""

    def __init__(self, settings: RouterSettings, control: Control, spans: SpanSink | None = None) -> None:
        self._settings = settings
        self._limits = admission.Limits(max_text_chars=settings.max_text_chars, max_items=settings.max_items)
        self.meters = Meters()
        self._outcomes = Outcomes(self.meters, spans, slow_s=settings.slow_request_s)
        self._rates = RateLimits(max_clients=settings.max_rate_limited_clients)
        self._held = HeldBytes(settings.max_held_bytes, retry_after_s=settings.retry_after_s)
        # What copies hold is counted by itself: else a slow mirror would fill the memory, and callers be refused.
        self._copied = HeldBytes(settings.max_held_bytes // _COPIES_PART, retry_after_s=settings.retry_after_s)
        self._mirroring = Mirroring(self._copied, limit=settings.max_copies)
        self._fleet = Fleet(settings, control, self.meters)
        self.meters.follow(self._fleet.lanes, self._deployments, lambda: self._held.held + self._copied.held)
        self._draining = False
        self._started_at = datetime.now(UTC)
        self._version = importlib.metadata.version("modelmora")

    @property
    def version(self) -> str:
        """Of ModelMora."""
        return self._version

    # ------------------------------------------------------------------------------------------------ for the edges

    async def infer(self, call: InferenceCall) -> Answer:
        """The answer of the model to the call.

        Raises:
            ModelMoraError: why there is none; it names the model and the request.
        """
        self._outcomes.received(call)
        meters: ModelMeters | None = None
        trial: Trial | None = None
        try:
            self._refuse_unless_ready()
            self._check(call)
            lane, trial = self._fleet.use(call)
            meters = self.meters.of(lane.deployment)
            self._refuse_too_frequent(lane.deployment, call)
            with self._room(lane.deployment, call):
                self._copy(call)
                answer = await lane.infer(call)
        except ModelMoraError as error:
            self._outcomes.failed(call, error, meters)
            if trial:
                self._fleet.failed(trial, call, error)
            raise error.located(model_id=call.ref.model_id, request_id=call.request_id) from error.__cause__
        except asyncio.CancelledError:
            self._outcomes.withdrawn(call, meters)
            raise
        except Exception:  # a bug: it is told where it ends, at the top of the edge
            self._outcomes.failed(call, InternalError("the router failed on this request"), meters)
            raise
        self._outcomes.completed(call, answer, meters)
        if trial:
            self._fleet.answered(trial)
        return answer

    def reading(self, size: int) -> Holding:
        """Room for a request that is read and whose priority is not known yet: a `with` block.

        Entering the block raises MemoryFull if there is none.
        """
        return self._held.hold(size, Priority.CRITICAL)

    def answered(self, size: int) -> Holding:
        """Room for an answer until its caller has taken it: a `with` block.

        Entering the block raises MemoryFull if there is none.
        """
        return self._held.hold(size, Priority.CRITICAL)

    def refused(self, error: ModelMoraError) -> None:
        """Counts an inference that an edge refused before it became a call."""
        self.meters.refused(error.code)

    def models(self, namespace: str, *, task: str, size: int, token: str) -> tuple[list[ModelView], str]:
        """A page of the namespace's models, and the token of the next.

        Raises:
            InvalidRequest: a page that cannot be.
        """
        self._refuse_unless_heard()
        found = page(self._fleet.catalog.listed(namespace, task), size=size, token=token)
        return [self._view(deployment) for deployment in found.models], found.next_token

    def model(self, namespace: str, ref: ModelRef) -> ModelView:
        """One model.

        Raises:
            ModelNotFound: there is none.
        """
        self._refuse_unless_heard()
        return self._view(self._fleet.resolve(namespace, ref))

    async def load(self, namespace: str, ref: ModelRef) -> ModelView:
        """Wakes the model, and returns once it serves. One whose load has failed is tried again at once.

        Raises:
            ModelNotFound, ModelSuspended, ModelUnhealthy, ColdStartTimeout: it will not, or not in time.
        """
        self._refuse_unless_ready()
        lane = self._fleet.wake(namespace, ref)
        await self._fleet.try_again(lane.deployment, within_s=self._settings.report_s)
        await lane.until_serving()
        return self._view(await self._reported(lane.deployment, lambda status: status.ready_replicas > 0))

    async def unload(self, namespace: str, ref: ModelRef) -> ModelView:
        """Lets the model go to zero now, and returns once its workers have ended.

        Raises:
            ModelNotFound: there is none.
            ModelBusy: requests use it, or it must have replicas.
            DeadlineExceeded: the workers did not end in time.
        """
        self._refuse_unless_heard()
        deployment = self._fleet.resolve(namespace, ref)
        self._refuse_busy(deployment)
        self._fleet.dismiss(deployment)
        try:
            async with asyncio.timeout(self._settings.unload_timeout_s):
                while self._fleet.has_workers(deployment):
                    self._refuse_busy(deployment)
                    await self._fleet.change()
        except TimeoutError:
            raise DeadlineExceeded(
                f"the workers of model {deployment.model_id!r} took over {self._settings.unload_timeout_s:g} s to end",
                model_id=deployment.model_id,
                remedy="look at its status: they may still be draining",
            ) from None
        return self._view(await self._reported(deployment, lambda status: status.replicas == 0))

    async def _reported(
        self, deployment: ModelDeployment, wanted: Callable[[ModelDeploymentStatus], bool]
    ) -> ModelDeployment:
        return await self._fleet.until_reported(deployment, wanted, within_s=self._settings.report_s)

    def system(self) -> SystemView:
        """Everything, loaded models first."""
        views = [self._view(deployment) for deployment in self._fleet.catalog.everywhere()]
        views.sort(key=lambda view: view.deployment.status.state != ModelState.LOADED)
        return SystemView(self._version, self._started_at, self.components(), tuple(views))

    def components(self) -> dict[str, str]:
        """What must be ready before the router is, by name."""
        heard = {name: "ready" if known else "not yet heard of" for name, known in self._fleet.heard().items()}
        demand = "ready" if self._fleet.said() else "not yet published"
        return {"router": "draining" if self._draining else "ready", **heard, "demand": demand}

    def _refuse_unless_ready(self) -> None:
        self._refuse_unless_heard()
        if self._draining:
            raise ServerUnavailable(
                "the server is about to end", remedy="send the request again in a moment", retry_after_s=1.0
            )

    def _refuse_unless_heard(self) -> None:
        # Of a model that nobody told it of yet, the router must not say that there is none.
        if not all(self._fleet.heard().values()):
            raise ServerUnavailable(
                "the server has just started and does not know its models yet",
                remedy="send the request again in a moment",
                retry_after_s=1.0,
            )

    def _refuse_busy(self, deployment: ModelDeployment) -> None:
        model_id = deployment.model_id
        if deployment.spec.scaling.min_replicas and not deployment.spec.suspend:
            raise ModelBusy(
                f"model {model_id!r} keeps {deployment.spec.scaling.min_replicas} replicas",
                model_id=model_id,
                field="spec.scaling.minReplicas",
                remedy="set spec.scaling.minReplicas to 0, or spec.suspend to true",
            )
        if self._fleet.statistics(deployment).outstanding:
            raise ModelBusy(
                f"requests for model {model_id!r} wait or run",
                model_id=model_id,
                remedy="unload it when they are answered",
                retry_after_s=self._settings.retry_after_s,
            )

    # ------------------------------------------------------------------------------------------------ the door

    def _check(self, call: InferenceCall) -> None:
        admission.check_timeout(call.timeout_s)
        message = call.payload.message()
        admission.check_written_once(message, size_bytes=call.size_bytes)
        admission.check_parameters(message.parameters if message.HasField("parameters") else None)
        admission.check_input(message.input, self._limits, size_bytes=call.size_bytes)

    def _refuse_too_frequent(self, deployment: ModelDeployment, call: InferenceCall) -> None:
        limit = deployment.spec.rate_limit
        if limit is None or deployment.spec.suspend:  # what is suspended is refused for that, by its lane
            return
        if wait_s := self._rates.take(key_of(deployment), call.client, limit, time.monotonic()):
            raise rate_limited(deployment.model_id, limit, wait_s=wait_s)

    def _room(self, deployment: ModelDeployment, call: InferenceCall) -> Holding:
        default = Priority[deployment.spec.queue.default_priority]
        return self._held.hold(call.size_bytes, call.priority or default)

    def _copy(self, call: InferenceCall) -> None:
        """To the mirror of its route, once it has passed the door; nobody waits for what comes of it."""
        if mirror := self._fleet.mirror(call):
            self._mirroring.copy(call, mirror, self.meters.of(mirror.deployment))

    def _deployments(self) -> list[ModelDeployment]:
        return self._fleet.catalog.everywhere()

    def _view(self, deployment: ModelDeployment) -> ModelView:
        return ModelView(deployment, self._fleet.statistics(deployment))

    # ------------------------------------------------------------------------------------------------ for the server

    async def run(self) -> None:
        """Works until cancelled."""
        await self._fleet.run()

    async def until_ready(self) -> None:
        """Returns once every component is ready."""
        await self._fleet.until_ready()

    async def drain(self) -> None:
        """Takes nothing new, and returns when nothing is left or the drain time is over."""
        self._draining = True
        started = time.monotonic()
        self._mirroring.close()
        log.info("draining", models=sum(lane.busy for lane in self._fleet.lanes()))
        try:
            async with asyncio.timeout(self._settings.drain_timeout_s):
                for lane in self._fleet.lanes():
                    await lane.until_empty()
        except TimeoutError:
            log.warning("requests were left at the end of the drain time")
        self._close_all()  # tells those that are left, and those that wait for a load
        log.debug("drained", seconds=round(time.monotonic() - started, 3))

    def _close_all(self) -> None:
        for lane in self._fleet.lanes():
            lane.close(
                ServerUnavailable(
                    "the server ended before the request was answered", remedy="send it again", retry_after_s=1.0
                )
            )
