"""A worker's pod, and what the worker last said, as the worker that decisions see. Pure.

The kubelet restarts a failed worker in place. Its failure stands in the pod until the next attempt has served: in the
container's state while it is held back, in its last state while it runs again. So `Ready` does not waver between a
crash and the next attempt, and an operator that has just started sees what the one before it saw.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from modelmora.kube import names
from modelmora.spec import quantity_value
from modelmora.v1 import worker_pb2
from modelmora_operator.backends import pod_failures, worker_reports
from modelmora_operator.cluster import Failure, FailureRecord, ObservedWorker, Phase

Pod = Mapping[str, Any]

_OVER: Final = frozenset({"Failed", "Succeeded"})


@dataclass(frozen=True, slots=True)
class Sight:
    """What a pod shows: the worker, and the failure that it has not got over yet."""

    worker: ObservedWorker
    record: FailureRecord | None = None


def seen(
    pod: Pod,
    update: worker_pb2.StatusUpdate | None,
    *,
    now: float,
    known: ObservedWorker | None,
    deadline_s: float = math.inf,
) -> Sight:
    """`update` is the last word of a status stream that lives; `known` is how the worker was seen before.

    A worker that has not begun to run within the deadline has failed, as far as anybody can tell.
    """
    failure = None if ready(pod) else pod_failures.failure_of(pod) or _not_begun(pod, deadline_s, now)
    worker = replace(
        _made(pod),
        node=str(pod["spec"].get("nodeName") or ""),
        address=address(pod),
        phase=Phase.FAILED if failure else _phase(pod),
        failure=failure,
        failed_at=_held_since(pod, failure),
        serving_since=served_since(pod),
        no_room=pod_failures.lacks_room(pod),
        artifact=known.artifact if known else None,
        memory_bytes=known.memory_bytes if known else 0,
        vram_bytes=known.vram_bytes if known else 0,
        phase_seconds=known.phase_seconds if known else {},
        direct_requests=known.direct_requests if known else 0,
        direct_used_at=known.direct_used_at if known else None,
    )
    if update is not None and failure is None:
        said = worker_reports.updated(worker, update, now)
        worker = replace(said, phase=worker.phase) if _lost_readiness(pod) and said.serving else said
    return Sight(worker, _record(pod, worker))


def ended(pod: Pod) -> bool:
    """Nothing will run in it again: evicted, refused by its node, or its node went down in order."""
    return pod.get("status", {}).get("phase") in _OVER


def ready(pod: Pod) -> bool:
    """Its readiness probe answers."""
    return pod_failures.condition(pod, "Ready").get("status") == "True"


def address(pod: Pod) -> str:
    """Where the worker is called; empty before it has an IP."""
    ip = str(pod.get("status", {}).get("podIP") or "")
    return f"[{ip}]:{names.CALL_PORT}" if ":" in ip else f"{ip}:{names.CALL_PORT}" if ip else ""


def callable_now(pod: Pod) -> bool:
    """The worker's process runs and is not asked to end."""
    running = pod_failures.worker_state(pod).get("state", {}).get("running")
    return bool(running) and "deletionTimestamp" not in pod["metadata"] and not ended(pod)


def spec_hash_of(pod: Pod) -> str:
    """Of the spec that it was made from; empty if somebody edited the labels by which routers find it.

    No spec has an empty hash: such a pod is out of date, and is replaced as one.
    """
    labels = pod["metadata"].get("labels") or {}
    made_for = [str(one.get("name")) for one in pod["metadata"].get("ownerReferences") or () if one.get("controller")]
    found = labels.get(names.COMPONENT) == names.WORKER and labels.get(names.DEPLOYMENT) in made_for
    return str(labels.get(names.SPEC_HASH, "")) if found else ""


def served_since(pod: Pod) -> float | None:
    """Unix time since when it has been ready; None: it is not."""
    turned = pod_failures.condition(pod, "Ready").get("lastTransitionTime")
    return pod_failures.unix(turned) if turned and ready(pod) else None


def had_served_since(pod: Pod) -> float | None:
    """As `served_since`, also of one that has ended: about since when it had been ready in its last run."""
    terminated = pod_failures.worker_state(pod).get("state", {}).get("terminated") or {}
    if ended(pod) and pod_failures.served_until(pod, terminated):
        return pod_failures.unix(terminated["startedAt"])  # when it became ready, the pod does not tell any more
    return served_since(pod)


def ready_for_s(pod: Pod, now: float) -> float | None:
    """For how long it has been ready; None: it is not."""
    since = served_since(pod)
    return None if since is None else now - since


def running_since(pod: Pod) -> float | None:
    """Since when the worker's process runs without having been ready; None: it does not, or it has been."""
    started = pod_failures.worker_state(pod).get("state", {}).get("running", {}).get("startedAt")
    if not started or ready(pod) or _lost_readiness(pod):
        return None
    # A node whose clock is behind does not make it older than it can be.
    return max(pod_failures.unix(started), pod_failures.unix(pod["metadata"]["creationTimestamp"]))


def waits_since(pod: Pod) -> float | None:
    """Since when it is to run for the first time; None: it has run, will not, or its pod tells why it does not."""
    status = pod_failures.worker_state(pod)
    has_run = status.get("state", {}).keys() & {"running", "terminated"} or status.get("lastState")
    if has_run or ended(pod) or "deletionTimestamp" in pod["metadata"] or pod_failures.failure_of(pod):
        return None
    placed = pod_failures.condition(pod, "PodScheduled")
    since = placed.get("lastTransitionTime") if placed.get("status") == "True" else None
    return pod_failures.unix(since or pod["metadata"]["creationTimestamp"])


def overdue(pod: Pod, deadline_s: float, now: float) -> Failure | None:
    """It runs, says nothing of a failure, and has not become ready in the time that it was given."""
    since = running_since(pod)
    if since is None or now - since < deadline_s:
        return None
    return Failure(
        where="load",
        reason=pod_failures.DEADLINE_EXCEEDED,
        message=f"the worker did not serve within {deadline_s:g} s after its start",
        remedy="see its log for what it waits for, or raise spec.rollout.progressDeadlineSeconds",
    )


def _not_begun(pod: Pod, deadline_s: float, now: float) -> Failure | None:
    """The kubelet goes on trying, so the pod is left to it."""
    since = waits_since(pod)
    return pod_failures.not_begun(pod, deadline_s) if since is not None and now - since >= deadline_s else None


def why_it_is_over(pod: Pod) -> Failure:
    """Of a pod that has ended as a whole."""
    status = pod["status"]
    reason = str(status.get("reason") or "PodEnded")
    words = str(status.get("message") or "").strip().rstrip(".") or "nothing more is known"
    return Failure(
        where="serve",
        reason=reason[:256],
        message=f"the pod {pod['metadata']['name']} ended: {words}"[:4096],
        remedy="another one takes its place; if it happens again, see the events of its node",
        reported=False,
    )


def _made(pod: Pod) -> ObservedWorker:
    metadata = pod["metadata"]
    return ObservedWorker(
        worker_id=metadata["name"],
        spec_hash=spec_hash_of(pod),
        started_at=pod_failures.unix(metadata["creationTimestamp"]),
        terminating="deletionTimestamp" in metadata or ended(pod),
        requests=requests(pod),
    )


def _phase(pod: Pod) -> Phase:
    return Phase.SERVING if ready(pod) else Phase.STARTING


def _held_since(pod: Pod, failure: Failure | None) -> float | None:
    """A pod that no node takes is not helped by another one of the same kind."""
    if failure is None or failure.where == "schedule":
        return None
    terminated = pod_failures.last_end(pod)
    return (
        pod_failures.unix(terminated["finishedAt"])
        if terminated.get("finishedAt")
        else pod_failures.unix(pod["metadata"]["creationTimestamp"])
    )


def _record(pod: Pod, worker: ObservedWorker) -> FailureRecord | None:
    """Of the last crash, until the worker has served after it."""
    terminated = pod_failures.last_end(pod)
    if worker.terminating or worker.serving or ready(pod) or _lost_readiness(pod):
        return None
    if not terminated.get("finishedAt"):
        return None
    restarts = int(pod_failures.worker_state(pod).get("restartCount") or 0)
    return FailureRecord(
        spec_hash=worker.spec_hash,
        count=1 if pod_failures.served_until(pod, terminated) else max(1, restarts),
        at=pod_failures.unix(terminated["finishedAt"]),
        last=worker.failure or pod_failures.why_it_crashed(pod, terminated),
        started_at=pod_failures.unix(terminated.get("startedAt") or terminated["finishedAt"]),
        restarts_in_place=True,
    )


def _lost_readiness(pod: Pod) -> bool:
    """It was ready, in its present run, and is not any more: the turn came after the start."""
    started = pod_failures.worker_state(pod).get("state", {}).get("running", {}).get("startedAt")
    turned = pod_failures.condition(pod, "Ready").get("lastTransitionTime")
    return bool(started and turned and not ready(pod) and pod_failures.unix(turned) > pod_failures.unix(started))


def requests(pod: Pod) -> Mapping[str, float]:
    """What the scheduler counts, all containers together."""
    total: dict[str, float] = {}
    for name, quantity in _each_request(pod):
        total[name] = total.get(name, 0.0) + quantity
    return total


def _each_request(pod: Pod) -> Iterator[tuple[str, float]]:
    for container in pod["spec"].get("containers") or ():
        for name, quantity in (container.get("resources", {}).get("requests") or {}).items():
            yield name, float(quantity_value(str(quantity)))
