"""Observe, plan, execute, and one status write when there is something new to say."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog

from modelmora.control import Key
from modelmora.spec import ModelDeployment, ModelDeploymentStatus
from modelmora_operator.cluster import Cluster, Recommendation, Snapshot
from modelmora_operator.conditions import READY
from modelmora_operator.places import Places
from modelmora_operator.plan import Plan, Policy, plan
from modelmora_operator.sharing import UNKNOWN

_LOOK_AGAIN_S: Final = 0.5  # after a name was taken: whoever took it is about to be heard of

log = structlog.get_logger(__name__)


class Reconciler:
    """Level-based: each call looks at everything anew.

    It remembers what stabilises scaling down, and who competes for places where their number is bounded: `mark` is told
    of models that are to be reconciled since others have come or gone.
    """

    def __init__(
        self,
        cluster: Cluster,
        policy: Policy,
        *,
        mark: Callable[[Key], None] = lambda _: None,
        deadline_s: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cluster = cluster
        self._policy = policy
        self._deadline_s = deadline_s
        self._clock = clock
        self._recommendations: dict[Key, tuple[Recommendation, ...]] = {}
        self._places = Places(policy.sharing, cluster.known_keys, mark) if policy.sharing else None

    async def reconcile(self, key: Key) -> float | None:
        """One step towards what the deployment says; the answer is when to look again, seconds from now.

        Raises:
            TimeoutError: the step took longer than its deadline; what was done of it stands.
        """
        async with asyncio.timeout(self._deadline_s):
            return await self._step(key)

    async def _step(self, key: Key) -> float | None:
        snapshot = await self._observed(key)
        if snapshot is None:
            self._recommendations.pop(key, None)
            return None
        decided = self._decided(snapshot)
        started = await self._execute(key, decided)
        await self._report(key, snapshot.deployment, decided.status)
        return decided.requeue_after_s if started else _LOOK_AGAIN_S

    async def _observed(self, key: Key) -> Snapshot | None:
        """One that cannot be looked at now keeps what it has: its workers are there all the same."""
        try:
            snapshot = await self._cluster.observe(key)
        except Exception:
            if self._places:
                self._places.miss(key, self._clock())
            raise
        if snapshot is None and self._places:
            self._places.forget(key, self._clock())
        return snapshot

    def _decided(self, snapshot: Snapshot) -> Plan:
        """Without a pause, so that two of these never give away the same place."""
        now, key = self._clock(), snapshot.key
        snapshot = replace(snapshot, recommendations=self._recommendations.get(key, ()))
        decided = self._with_a_share(snapshot, now) if self._places else plan(snapshot, now, self._policy)
        self._recommendations[key] = decided.recommendations
        return decided

    def _with_a_share(self, snapshot: Snapshot, now: float) -> Plan:
        places = self._places
        wishes = plan(replace(snapshot, share=UNKNOWN), now, self._policy).contender
        if places is None or wishes is None:
            raise RuntimeError("a plan under a bound says what the model is to others")
        share = places.share_of(wishes, now)
        decided = plan(replace(snapshot, share=share), now, self._policy)
        if decided.contender is not None:
            places.note(decided.contender, now)
        if decided.stop and share.gives_way_to:
            to = [str(other) for other in share.gives_way_to]
            log.info("model gives way", deployment=str(snapshot.key), to=to, workers=decided.stop)
        return decided

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
