"""The cluster of pods: the other side of the seam.

What is decided is decided on the view: what was told by watches, lists, and the answers to our own writes. An answer
goes into the view at once, so that a watch that is late never makes a second pod.
"""

import math
import random
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import structlog

from modelmora.control import Demand, Key
from modelmora.kube.api import CONFLICT, DEPLOYMENTS, NOT_FOUND, PODS, KubeError
from modelmora.kube.following import Name, name_of
from modelmora.spec import ModelDeployment, ModelDeploymentStatus
from modelmora_operator import failures
from modelmora_operator.backends import pod_status, refusals, stored_deployments
from modelmora_operator.backends.announcements import Announcements
from modelmora_operator.backends.demands import AskedLoads, Waits
from modelmora_operator.backends.failure_memory import FailureMemory
from modelmora_operator.backends.past_failures import told_before
from modelmora_operator.backends.pod_error import PodError
from modelmora_operator.backends.pod_status import Sight
from modelmora_operator.backends.pods import PodOptions, pod
from modelmora_operator.backends.status_streams import StatusStreams
from modelmora_operator.backends.stored_deployments import Unreadable
from modelmora_operator.backends.upgrades import Upgrades
from modelmora_operator.backends.view import ClusterView, is_selected, key_of, owner_of
from modelmora_operator.backends.writes import Writes
from modelmora_operator.cluster import Failure, FailureRecord, ObservedWorker, Phase, Snapshot, WorkerSpec
from modelmora_operator.news import news
from modelmora_operator.spec_hash import spec_hash

Pod = Mapping[str, Any]

log = structlog.get_logger(__name__)


class KubernetesCluster:
    """`Cluster` of pods. Used from one event loop, inside `running`; whoever runs it feeds its `view`."""

    def __init__(
        self,
        writes: Writes,
        options: PodOptions,
        *,
        announcements: Announcements | None = None,
        sharing: bool = False,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.view = ClusterView(self._pod_changed, sharing=sharing)
        self._writes = writes
        self._options = options
        self._announcements = announcements
        self._clock = clock
        self._chance = chance
        self._streams = StatusStreams(self._heard)
        self._upgrades = Upgrades(options)
        self._failures = FailureMemory(chance)
        self._asked = AskedLoads()
        self._waits = Waits()
        self._seen: dict[Name, ObservedWorker] = {}
        self._buried: dict[Name, str] = {}  # uids of pods whose end has been counted
        self._remembered: set[Key] = set()  # whose status has been read for a failure before our time

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The status of workers is heard inside."""
        async with self._streams.running():
            yield

    def phases(self) -> Iterable[Phase]:
        """Of all workers, as they were seen last."""
        return [worker.phase for worker in self._seen.values()]

    # -------------------------------------------------------------------------------------------- Cluster

    async def changes(self) -> AsyncIterator[Key]:
        await self.view.synced.wait()
        for key in self.view.known_keys():  # all, before any: a roll that has begun keeps its turn
            self._take_turns(key)
        async for key in self.view.changes():
            yield key

    def known_keys(self) -> Collection[Key]:
        return self.view.known_keys()

    async def observe(self, key: Key) -> Snapshot | None:
        if self.view.closed(key.namespace):
            return None
        deployment = self.view.deployment(key)
        self._take_turns(key)  # also for a deployment that was read after its pods
        if isinstance(deployment, Unreadable):
            await self._tell(key, deployment)
            return None
        await self._search(key)
        if deployment is None and not self.view.pods_of(key):
            self._failures.forget(key)
            self._asked.forget(key)
            self._waits.forget(key)
            self._remembered.discard(key)
            return None
        recheck_after_s = await self._bury(key, deployment)
        sights = [self._sight(one, deployment) for one in self.view.pods_of(key).values()]
        return Snapshot(
            key=key,
            deployment=deployment,
            workers=tuple(self._with_turn(key, sight.worker, deployment) for sight in sights),
            demand=self._demand(key),
            routers_alive=self.view.routers.alive,
            failure=self._failure(key, deployment, sights) if deployment else None,
            twins=self.view.twins_of(key, deployment) if deployment else (),
            recheck_after_s=recheck_after_s,
        )

    async def start(self, worker: WorkerSpec) -> bool:
        try:
            body = pod(worker, replace(self._options, now=self._clock()))
            created = await self._writes.create(PODS, worker.key.namespace, body)
        except PodError as error:
            self._refused(worker, Failure("schedule", error.reason, error.message, error.remedy))
        except KubeError as error:
            return await self._not_created(worker, error)
        else:
            self.view.pods.put(created)
        return True

    async def stop(self, key: Key, worker_id: str) -> None:
        found = self.view.pods_of(key).get(worker_id)
        if found is not None and "deletionTimestamp" not in found["metadata"]:
            served_s = pod_status.ready_for_s(found, self._clock())
            self._failures.ended_well(key, pod_status.spec_hash_of(found), served_s)
            await self._delete(found)

    async def publish_status(self, key: Key, status: ModelDeploymentStatus) -> None:
        deployment = self.view.deployment(key)
        if not isinstance(deployment, ModelDeployment):
            return
        if await self._write_status(key, deployment.metadata.uid, status.manifest()):
            said = news(deployment.status, status)
            if said is not None and self._announcements is not None:
                self._announcements.announce(deployment, said)

    # -------------------------------------------------------------------------------------------- what is seen

    def _demand(self, key: Key) -> Demand | None:
        now = self._clock()
        return self._waits.on_our_clock(key, self._asked.on_our_clock(key, self.view.demands.get(key), now), now)

    def _sight(self, one: Pod, deployment: ModelDeployment | None) -> Sight:
        name = name_of(dict(one))
        sight = self._look(one, deployment)
        self._seen[name] = sight.worker
        owner = owner_of(one)
        if deployment is not None and owner is not None and owner.get("uid") != deployment.metadata.uid:
            # Of a deployment of the same name that was deleted: it goes with its owner, and only holds its name.
            return Sight(replace(sight.worker, terminating=True))
        return sight

    def _look(self, one: Pod, deployment: ModelDeployment | None) -> Sight:
        name, deadline_s = name_of(dict(one)), math.inf
        if deployment is not None:
            deadline_s = deployment.spec.rollout.progress_deadline_seconds
        return pod_status.seen(
            one, self._streams[name], now=self._clock(), known=self._seen.get(name), deadline_s=deadline_s
        )

    def _with_turn(self, key: Key, worker: ObservedWorker, deployment: ModelDeployment | None) -> ObservedWorker:
        old = deployment is not None and self._upgrades.supersedes(key, worker.worker_id)
        return replace(worker, superseded=True) if old else worker

    def _failure(self, key: Key, deployment: ModelDeployment, sights: list[Sight]) -> FailureRecord | None:
        hashed = spec_hash(deployment.spec)
        if not any(sight.worker.spec_hash == hashed for sight in sights):  # else the pods tell it better
            self._recall(key, deployment, hashed)
        self._remembered.add(key)
        in_place = [sight.record for sight in sights if sight.record and sight.record.spec_hash == hashed]
        latest = max(in_place, key=lambda record: record.at, default=None)
        before = self._failures[key]
        if latest is not None and (before is None or latest.at > before.at):
            # If the pod goes before it has served, the next one waits as the kubelet would have.
            kept = replace(latest, restarts_in_place=False, chance=self._chance())
            self._failures.remember(key, kept)
        if any(sight.worker.serving and sight.worker.spec_hash == hashed for sight in sights):
            self._failures.served(key, hashed)
        known = self._failures[key]
        return latest if latest is not None and (known is None or known.at <= latest.at) else known

    def _recall(self, key: Key, deployment: ModelDeployment, hashed: str) -> None:
        """What an operator before this one wrote into the status."""
        if key in self._remembered or self._failures[key] is not None:
            return
        if record := told_before(deployment, hashed):
            self._failures.remember(key, record)

    # -------------------------------------------------------------------------------------------- what has ended

    async def _search(self, key: Key) -> None:
        """For lost pods. One without our labels is found by no router either: it goes, whatever it is doing."""
        for name, uid in list(self.view.lost_of(key).items()):
            there = await self._writes.get_if_there(PODS, key.namespace, name)
            if there is not None and there["metadata"]["uid"] == uid:
                await self._delete_lost(there)
            self.view.found(key, name)

    async def _bury(self, key: Key, deployment: ModelDeployment | None) -> float | None:
        """Counts and deletes the pods that will never serve; the answer is when to look for more, seconds from now."""
        now = self._clock()
        waits = []
        for one in list(self.view.pods_of(key).values()):
            if "deletionTimestamp" in one["metadata"] or self.view.pods[name_of(dict(one))] is not one:
                continue  # the latter: it changed, or went, while another one was being deleted
            failure, wait_s = _verdict(one, deployment, now)
            if failure is not None:
                self._count(key, one, failure)
                await self._delete(one)
            elif wait_s is not None:
                waits.append(wait_s)
        return min(waits, default=None)

    def _count(self, key: Key, one: Pod, failure: Failure) -> None:
        name, uid = name_of(dict(one)), one["metadata"]["uid"]
        if self._buried.get(name) == uid:
            return
        self._buried[name] = uid
        now = self._clock()
        worker = self._sight(one, None).worker
        started_at = worker.started_at + 1  # the API server cuts off the fraction of the second
        end = failures.End(worker.spec_hash, started_at, now, failure, pod_status.had_served_since(one))
        self._remember(key, end, worker.worker_id)

    def _refused(self, worker: WorkerSpec, failure: Failure) -> None:
        now = self._clock()
        self._remember(worker.key, failures.End(worker.spec_hash, now, now, failure), worker.worker_id)
        self.view.mark(worker.key)

    def _remember(self, key: Key, end: failures.End, worker_id: str) -> None:
        record, last = self._failures.record_of(key, end), end.failure
        self._failures.remember(key, record)
        log.warning(
            "worker failed",
            deployment=str(key),
            worker=worker_id,
            reason=last.reason,
            message=last.message,
            failures=record.count,
        )

    # -------------------------------------------------------------------------------------------- what is written

    async def _not_created(self, worker: WorkerSpec, error: KubeError) -> bool:
        """False: the name is taken by one of ours."""
        if error.status == CONFLICT and error.reason == "AlreadyExists":
            return await self._name_is_free(worker)
        if refusals.namespace_ends(error) or error.status == NOT_FOUND:
            log.debug("no pod is made in a namespace that goes", deployment=str(worker.key))
            return True
        if refusals.is_transient(error):
            raise error
        self._refused(worker, refusals.failure_of(error))
        return True

    async def _name_is_free(self, worker: WorkerSpec) -> bool:
        found = await self._writes.get_if_there(PODS, worker.key.namespace, worker.worker_id)
        if found is None:  # it went in between
            return False
        if key_of(found) == worker.key:
            if is_selected(PODS, found):
                self.view.pods.put(found)
            else:
                await self._delete_lost(found)
            return False
        message = f"a pod named {worker.worker_id} exists that is none of ours"
        self._refused(worker, Failure("schedule", "NameTaken", message, "delete or rename that pod"))
        return True

    async def _delete_lost(self, one: Pod) -> None:
        if "deletionTimestamp" not in one["metadata"]:
            log.warning("a pod lost its labels, it is replaced", pod=one["metadata"]["name"])
            await self._writes.delete(PODS, *name_of(dict(one)), uid=str(one["metadata"]["uid"]))

    async def _delete(self, one: Pod) -> None:
        name, uid = name_of(dict(one)), str(one["metadata"]["uid"])
        answer = await self._writes.delete(PODS, *name, uid=uid)
        if answer is not None and answer.get("kind") == PODS.kind:
            self.view.pods.put(answer)
        else:
            self.view.pods.remove(name, uid)

    async def _write_status(self, key: Key, uid: str, status: Mapping[str, Any]) -> bool:
        """False: the object is gone."""
        # An empty object where there was a full one becomes null in an apply, which the schema refuses.
        said = {name: value for name, value in status.items() if value != {}}
        body = {"metadata": {"uid": uid}, "status": said}
        try:
            answer = await self._writes.apply_status(DEPLOYMENTS, key.namespace, key.name, body)
        except KubeError as error:
            # Gone, or another object of the same name. Any other conflict is one of writes, and is tried again.
            if error.status == NOT_FOUND or (error.status == CONFLICT and "uid" in error.message.lower()):
                return False
            raise
        self.view.deployments.put(answer)
        return True

    async def _tell(self, key: Key, unreadable: Unreadable) -> None:
        if stored_deployments.told(unreadable):
            return
        log.warning("a stored deployment cannot be read", deployment=str(key), cause=unreadable.words)
        uid, now = str(unreadable.manifest["metadata"].get("uid") or ""), self._clock()
        try:
            await self._write_status(key, uid, stored_deployments.status_of(unreadable, now))
        except KubeError:
            await self._write_status(key, uid, stored_deployments.minimal_status_of(unreadable, now))

    # -------------------------------------------------------------------------------------------- what is told

    def _pod_changed(self, key: Key, name: Name, now: Pod | None) -> None:
        if now is None:
            self._streams.follow(name, "")
            self._seen.pop(name, None)
            self._buried.pop(name, None)
        else:
            self._streams.follow(name, pod_status.address(now) if pod_status.callable_now(now) else "")
        self._take_turns(key)

    def _take_turns(self, key: Key) -> None:
        deployment, pods = self.view.deployment(key), self.view.pods_of(key)
        turn = self._upgrades.look(key, deployment if isinstance(deployment, ModelDeployment) else None, pods)
        if turn is not None and turn != key:
            self.view.mark(turn)

    def _heard(self, name: Name) -> None:
        """Marks the deployment if the worker looks any different for it."""
        one = self.view.pods[name]
        if one is None or (key := key_of(one)) is None:
            return
        found = self.view.deployment(key)
        deployment = found if isinstance(found, ModelDeployment) else None
        if self._look(one, deployment).worker != self._seen.get(name):
            self.view.mark(key)


def _verdict(one: Pod, deployment: ModelDeployment | None, now: float) -> tuple[Failure | None, float | None]:
    """Why it will never serve; else when that may be known, seconds from now."""
    if pod_status.ended(one):
        return pod_status.why_it_is_over(one), None
    if deployment is None:
        return None, None
    deadline_s = deployment.spec.rollout.progress_deadline_seconds
    overdue, since = pod_status.overdue(one, deadline_s, now), pod_status.running_since(one)
    if since is None and (since := pod_status.waits_since(one)) is not None and now - since >= deadline_s:
        return None, None  # it is told, and may yet start: nothing more becomes true by time alone
    return overdue, None if since is None else max(0.0, since + deadline_s - now)
