"""Why a worker's pod does not serve, in the words of whoever stopped it, with what to do about it. Pure.

One cause has one reason and one message, however often the kubelet changes its own word for it (ErrImagePull and
ImagePullBackOff take turns), so that a status is not written for nothing.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from modelmora.kube import names
from modelmora_operator.backends import worker_reports
from modelmora_operator.cluster import Failure

Pod = Mapping[str, Any]

UNSCHEDULABLE: Final = "Unschedulable"
IMAGE_PULL_FAILED: Final = "ImagePullFailed"
OOM_KILLED: Final = "OOMKilled"
DEADLINE_EXCEEDED: Final = "ProgressDeadlineExceeded"

_IMAGE: Final = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
    | {"RegistryUnavailable", "SignatureValidationFailed"}
)
_CREATION: Final = frozenset({"CreateContainerError", "RunContainerError", "PreCreateHookError", "PreStartHookError"})
_NEVER_RAN: Final = frozenset({"StartError", "ContainerCannotRun"})
_BACK_OFF: Final = re.compile(r'^Back-off pulling image "[^"]*"(: \w+: )?')
_SIGNALLED: Final = 128  # a shell's convention: an exit code above it is a signal
_LONGEST: Final = 4096
# What the scheduler says of a node that has not enough left, or that is not meant for workers at all.
_FULL: Final = re.compile(r"^\d+ (Insufficient \S+|Too many pods)$")
_NOT_OURS: Final = re.compile(r"^\d+ node\(s\) had untolerated taint(\(s\))? ?\{node-role\.kubernetes\.io/[^}]*\}$")
_TOLD: Final = re.compile(
    r"^0/\d+ nodes are available: (?P<why>.*?)\.?(?: (?:preemption|no new claims).*)?$", re.DOTALL
)


def failure_of(pod: Pod) -> Failure | None:
    """Why it does not serve now; None: nothing is known to be wrong."""
    return _unschedulable(pod) or _of_containers(pod)


def worker_state(pod: Pod) -> Mapping[str, Any]:
    """The container status of the worker itself."""
    statuses = pod.get("status", {}).get("containerStatuses") or ()
    return next((status for status in statuses if status.get("name") == names.WORKER_CONTAINER), {})


def last_end(pod: Pod) -> Mapping[str, Any]:
    """How the worker's process ended last; empty: it never did."""
    status = worker_state(pod)
    end: Mapping[str, Any] = (
        status.get("state", {}).get("terminated") or status.get("lastState", {}).get("terminated") or {}
    )
    return end


def why_it_crashed(pod: Pod, terminated: Mapping[str, Any]) -> Failure:
    """From the worker's last words; from the way it ended where there are none."""
    code = exit_code(terminated)
    if terminated.get("reason") == OOM_KILLED:
        return _out_of_memory(pod, code)
    if terminated.get("reason") in _NEVER_RAN:
        return replace(_not_created(pod, names.WORKER_CONTAINER, str(terminated.get("message"))), exit_code=code)
    said = worker_reports.last_words(str(terminated.get("message") or ""))
    if said is not None:
        return replace(said, exit_code=code)
    return Failure(
        where="serve" if served_until(pod, terminated) else "spawn",  # how far it came else, nobody knows
        reason=worker_reports.CRASHED,
        message=f"the worker {pod['metadata']['name']} {worker_reports.how_it_ended(code)} without a word",
        remedy=_crash_remedy(pod, code),
        exit_code=code,
        reported=False,
    )


def exit_code(terminated: Mapping[str, Any]) -> int:
    """Negative: the signal that ended it."""
    if terminated.get("signal"):
        return -int(terminated["signal"])
    code = int(terminated.get("exitCode") or 0)
    return _SIGNALLED - code if _SIGNALLED < code < _SIGNALLED + 65 else code


def served_until(pod: Pod, terminated: Mapping[str, Any]) -> bool:
    """The run that ended so had been ready: the pod lost its readiness after the start of it."""
    turned, started = condition(pod, "Ready").get("lastTransitionTime"), terminated.get("startedAt")
    return bool(turned and started and unix(turned) > unix(started))


def condition(pod: Pod, kind: str) -> Mapping[str, Any]:
    """One of the pod's conditions; empty: it is not there yet."""
    conditions = pod.get("status", {}).get("conditions") or ()
    return next((one for one in conditions if one.get("type") == kind), {})


def unix(moment: str) -> float:
    """Of a time as Kubernetes writes it, seconds."""
    return datetime.fromisoformat(moment).timestamp()


def lacks_room(pod: Pod) -> bool:
    """Every node that workers may use has too little left of what is requested; nothing else keeps the pod waiting."""
    told = _TOLD.match(_unscheduled(pod))
    reasons = [reason.strip() for reason in re.split(r",(?![^{]*\})", told["why"])] if told else []
    full = [reason for reason in reasons if _FULL.match(reason)]
    return bool(full) and all(reason in full or _NOT_OURS.match(reason) for reason in reasons)


def not_begun(pod: Pod, deadline_s: float) -> Failure:
    """Its worker has not begun to run in the time that it was given, and nobody says that anything is wrong."""
    name, placed = pod["metadata"]["name"], condition(pod, "PodScheduled")
    where = "spawn" if placed.get("status") == "True" else "schedule"
    message = f"the worker {name} has not begun to run within {deadline_s:g} s: {_what_it_waits_for(pod, placed)}"
    return Failure(where, DEADLINE_EXCEEDED, message[:_LONGEST], f"kubectl describe pod {name} tells more")


def _what_it_waits_for(pod: Pod, placed: Pod) -> str:
    status, node = pod.get("status", {}), pod["spec"].get("nodeName")
    if not placed:
        return "no scheduler has looked at its pod"
    if placed.get("status") != "True":
        return f"its pod has no node yet ({placed.get('reason')}: {placed.get('message')})"
    if not status.get("startTime"):
        return f"its node {node} has not taken up the pod"
    if condition(pod, "PodReadyToStartContainers").get("status") == "False":
        return f"a volume that it mounts (a Secret, a ConfigMap, a claim), or its network, is not there on {node}"
    first = (one for one in status.get("initContainerStatuses") or () if (one.get("state") or {}).get("running"))
    if running := next(first, None):
        return f"the container {running.get('name')} before it still runs"
    return f"its image is still being pulled, or its container is being made, on {node}"


def _unscheduled(pod: Pod) -> str:
    """The scheduler's words; empty: it has placed the pod, or has not looked at it yet."""
    placed = condition(pod, "PodScheduled")
    waits = placed.get("status") == "False" and placed.get("reason") == UNSCHEDULABLE
    return str(placed.get("message") or "") if waits else ""


def _unschedulable(pod: Pod) -> Failure | None:
    words = _unscheduled(pod)
    if not words:
        return None
    told = _TOLD.match(words)
    asked = "lower spec.resources.requests, or add a node" if "Insufficient" in words else _PLACEMENT
    return Failure(
        "schedule", UNSCHEDULABLE, f"no node takes the pod: {told['why'] if told else words}"[:_LONGEST], asked
    )


_PLACEMENT: Final = "correct the placement in spec.podTemplate, or make such a node"


def _of_containers(pod: Pod) -> Failure | None:
    status = pod.get("status", {})
    every = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    worker_first = sorted(every, key=lambda one: one.get("name") != names.WORKER_CONTAINER)
    return next((failure for one in worker_first if (failure := _of_container(pod, one))), None)


def _of_container(pod: Pod, status: Mapping[str, Any]) -> Failure | None:
    name, state = str(status.get("name")), status.get("state") or {}
    waiting, terminated = state.get("waiting") or {}, state.get("terminated") or {}
    reason, words = str(waiting.get("reason") or ""), str(waiting.get("message") or "")
    if reason in _IMAGE:
        return _no_image(status, reason, words)
    if reason == "CreateContainerConfigError":
        return Failure("spawn", reason, f"the container {name} cannot be configured: {words}"[:_LONGEST], _REFERENCES)
    if reason in _CREATION:
        return _not_created(pod, name, words)
    end = terminated or (status.get("lastState", {}).get("terminated") or {} if reason else {})
    if not end or (name != names.WORKER_CONTAINER and _ended_well(pod, name, end)):
        return None
    return why_it_crashed(pod, end) if name == names.WORKER_CONTAINER else _neighbour_crashed(name, end)


_REFERENCES: Final = "create the Secret or ConfigMap that it names, or correct spec.runtime"


def _ended_well(pod: Pod, name: str, terminated: Mapping[str, Any]) -> bool:
    """An init container that did its work; a container beside the worker is to run as long as it does."""
    first = {one.get("name") for one in pod["spec"].get("initContainers") or ()}
    return name in first and int(terminated.get("exitCode") or 0) == 0


def _no_image(status: Mapping[str, Any], reason: str, words: str) -> Failure:
    image = status.get("image") or ""
    why = _BACK_OFF.sub("", words).strip() or reason
    message = f"the image {image} of the container {status.get('name')} cannot be had: {why}"
    remedy = "correct the name of the image, or give the pod a pull secret in spec.podTemplate.spec.imagePullSecrets"
    return Failure("spawn", IMAGE_PULL_FAILED, message[:_LONGEST], remedy)


def _not_created(pod: Pod, name: str, words: str) -> Failure:
    message = f"the container {name} of {pod['metadata']['name']} cannot be started: {words}"
    remedy = "correct the command, the image, the mounts or the security context that the message names"
    return Failure("spawn", "CreateContainerError", message[:_LONGEST], remedy)


def _out_of_memory(pod: Pod, code: int) -> Failure:
    limit = _memory_limit(pod)
    message = f"the worker {pod['metadata']['name']} used more memory than its limit{f' of {limit}' if limit else ''}"
    where = "serve" if served_until(pod, last_end(pod)) else "spawn"
    return Failure(where, OOM_KILLED, message, "raise spec.resources.limits.memory", code)


def _memory_limit(pod: Pod) -> str:
    containers = pod["spec"].get("containers") or ()
    worker: Pod = next((one for one in containers if one.get("name") == names.WORKER_CONTAINER), {})
    return str((worker.get("resources", {}).get("limits") or {}).get("memory") or "")


def _neighbour_crashed(name: str, terminated: Mapping[str, Any]) -> Failure:
    code = exit_code(terminated)
    words = str(terminated.get("message") or "").strip()
    out_of_memory = " after it had used more memory than its limit" if terminated.get("reason") == OOM_KILLED else ""
    message = f"the container {name} beside the worker {worker_reports.how_it_ended(code)}{out_of_memory}"
    said = f"{message}: {words}" if words else message
    return Failure("spawn", "SidecarFailed", said[:_LONGEST], f"see the log of the container {name}", code)


def _crash_remedy(pod: Pod, code: int) -> str:
    log = f"kubectl logs --previous {pod['metadata']['name']} -c {names.WORKER_CONTAINER} says more"
    if code in {0, -9, -15}:  # as the kubelet ends what fails its liveness probe
        return f"if nobody ended it, its liveness probe failed or its node was short of memory; {log}"
    return log
