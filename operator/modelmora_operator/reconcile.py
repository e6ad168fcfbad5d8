"""Observe, plan, execute, and one status write when there is something new to say."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog

from modelmora.control import Key
from modelmora.spec import ModelDeployment, ModelDeploymentStatus
from modelmora_operator.cluster import Cluster, Recommendation
from modelmora_operator.conditions import READY
from modelmora_operator.plan import Plan, Policy, plan

_LOOK_AGAIN_S: Final = 0.5  # after a name was taken: whoever took it is about to be heard of

log = structlog.get_logger(__name__)


class Reconciler:
    """Level-based: each call looks at everything anew. It remembers only what stabilises scaling down."""

    def __init__(
        self, cluster: Cluster, policy: Policy, *, deadline_s: float = 60.0, clock: Callable[[], float] = time.time
    ) -> None:
        self._cluster = cluster
        self._policy = policy
        self._deadline_s = deadline_s
        self._clock = clock
        self._recommendations: dict[Key, tuple[Recommendation, ...]] = {}

    async def reconcile(self, key: Key) -> float | None:
        """One step towards what the deployment says; the answer is when to look again, seconds from now.

        Raises:
            TimeoutError: the step took longer than its deadline; what was done of it stands.
        """
        async with asyncio.timeout(self._deadline_s):
            return await self._step(key)

    async def _step(self, key: Key) -> float | None:
        snapshot = await self._cluster.observe(key)
        if snapshot is None:
            self._recommendations.pop(key, None)
            return None
        remembered = self._recommendations.get(key, ())
        decided = plan(replace(snapshot, recommendations=remembered), self._clock(), self._policy)
        self._recommendations[key] = decided.recommendations
        started = await self._execute(key, decided)
        await self._report(key, snapshot.deployment, decided.status)
        return decided.requeue_after_s if started else _LOOK_AGAIN_S

    async def _execute(self, key: Key, decided: Plan) -> bool:
        """False: a name was taken meanwhile, so what was decided is out of date."""
        for worker_id in decided.stop:
            await self._cluster.stop(key, worker_id)
        started = [await self._cluster.start(worker) for worker in decided.start]
        return all(started)

    async def _report(self, key: Key, deployment: ModelDeployment | None, status: ModelDeploymentStatus | None) -> None:
        if deployment is None or status is None or status == deployment.status:
            return
        await self._cluster.publish_status(key, status)
        before, now = deployment.status.condition(READY), status.condition(READY)
        if now is not None and (before is None or (before.status, before.reason) != (now.status, now.reason)):
            told = log.debug if before is None else log.info  # that nobody has asked for a new model yet is no news
            told("model", model=deployment.model_id, ready=str(now.status), reason=now.reason)
