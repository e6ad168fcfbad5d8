"""A thousand ModelDeployments: first statuses, restart, rest, and how soon a changed spec is reconciled.

Once at zero, and once with a pod each on fake nodes (kwok plays the kubelet; its pods have no address, so the status
streams of real workers are not part of it). The operator runs as a process of this
machine against the cluster of KUBECONFIG, in a namespace of its own. What it writes is read from the API server's own
metrics, so nothing else should work on the cluster meanwhile.

make bench-operator                      about six minutes
make bench-operator ARGS="--count 100 --without-pods"
"""

import argparse
import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families
from rich.progress import Progress

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from report import Figure, figure, publish  # noqa: E402

from modelmora.kube.api import DEPLOYMENTS, OPENED, PODS, Kube, KubeError, Object, Resource  # noqa: E402
from tests.support.cluster import Kubectl  # noqa: E402

ENVIRONMENT = dict(os.environ)  # noqa: TID251 - a benchmark has no settings class
NAMESPACES, NODES = Resource("namespaces", "Namespace"), Resource("nodes", "Node")
NAMESPACE = "bench-operator"
PORT = 18081
PODS_A_NODE = 250
FIRST_GOAL_S, RESTART_GOAL_S = 15.0, 5.0
PATIENCE_S = 300.0
FAKE = {"key": "kwok.x-k8s.io/node", "operator": "Exists", "effect": "NoSchedule"}
WRITES = {"POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"}
OURS = {"modeldeployments", "pods", "events"}


@dataclass(frozen=True)
class Bench:
    """One run: so many deployments, at zero or with a pod each."""

    kube: Kube
    kubectl: Kubectl
    count: int
    pods: bool
    changes: int
    rest_s: float

    @property
    def label(self) -> str:
        return f"{self.count} deployments {'with a pod each' if self.pods else 'at zero'}"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--count", type=int, default=1000)
    arguments.add_argument("--changes", type=int, default=200, help="spec changes whose latency is measured")
    arguments.add_argument("--rest", type=float, default=60, help="seconds of rest in which writes are counted")
    arguments.add_argument("--without-pods", action="store_true", help="only at zero: needs no kwok")
    said = arguments.parse_args()
    publish("operator", asyncio.run(measure(said)))


async def measure(said: argparse.Namespace) -> list[Figure]:
    kubectl = Kubectl(ENVIRONMENT.get("KUBECTL", "kubectl").split(), ENVIRONMENT)
    kube = await Kube.connect(Path(ENVIRONMENT["KUBECONFIG"]), timeout_s=60)
    figures: list[Figure] = []
    try:
        figures += await one_run(Bench(kube, kubectl, said.count, pods=False, changes=said.changes, rest_s=said.rest))
        if not said.without_pods:
            with kwok():
                await fake_nodes(kube, said.count)
                figures += await one_run(
                    Bench(kube, kubectl, said.count, pods=True, changes=said.changes, rest_s=said.rest)
                )
    finally:
        await clean(kube)
        await kube.close()
    return figures


async def one_run(bench: Bench) -> list[Figure]:
    await clean_namespace(bench.kube)
    await bench.kube.apply(NAMESPACES, "", NAMESPACE, {}, manager="bench")
    await create(bench)
    with operator() as process:
        first_s = await until_all(bench, told)
        serve_s = [first_s + await until_all(bench, serving)] if bench.pods else []
    with operator() as process:
        begun = time.monotonic()
        await until_reconciled(bench.count)
        restart_s = time.monotonic() - begun
        await asyncio.sleep(5)  # what the restart itself changes has been written
        latencies = await spec_changes(bench)
        before = await writes(bench.kubectl)
        await asyncio.sleep(bench.rest_s)
        written = await writes(bench.kubectl) - before
        memory = psutil.Process(process.pid).memory_full_info().uss / 1e6
    name = bench.label
    return [
        figure(f"{name}: start to first status of all", [first_s], "s", at_most=FIRST_GOAL_S),
        # Most of this is the work of the API server, the scheduler and the fake kubelet on the same cores.
        *(figure(f"{name}: start to all pods ready and told", [seconds], "s") for seconds in serve_s),
        figure(f"{name}: restart to all reconciled", [restart_s], "s", at_most=RESTART_GOAL_S),
        figure(f"{name}: spec change to status, p50", latencies, "s"),
        figure(f"{name}: spec change to status, p99", latencies, "s", percentile=99),
        figure(f"{name}: writes in {bench.rest_s:g} s of rest", [written], "", at_most=0),
        figure(f"{name}: memory of the operator", [memory], "MB"),
    ]


# ------------------------------------------------------------------------------------------------ deployments


async def create(bench: Bench) -> None:
    at_once = asyncio.Semaphore(20)

    async def one(number: int) -> None:
        async with at_once:
            await bench.kube.create(DEPLOYMENTS, NAMESPACE, deployment(f"model-{number:04}", pods=bench.pods))

    with Progress() as progress:
        task = progress.add_task(f"creating {bench.label}", total=bench.count)
        async with asyncio.TaskGroup() as tasks:
            for number in range(bench.count):
                tasks.create_task(one(number)).add_done_callback(lambda _: progress.advance(task))


def deployment(name: str, *, pods: bool) -> Object:
    template = {"spec": {"nodeSelector": {"type": "kwok"}, "tolerations": [FAKE], "terminationGracePeriodSeconds": 1}}
    spec: Object = {
        "model": {"id": name, "task": "txt2embed", "source": {"uri": "package://some/model"}},
        "scaling": {"initialReplicas": 0, "minReplicas": 1 if pods else 0},
        "podTemplate": template,
    }
    return {"apiVersion": DEPLOYMENTS.api_version, "kind": "ModelDeployment", "metadata": {"name": name}, "spec": spec}


def told(item: Object) -> bool:
    return bool(item.get("status", {}).get("conditions"))


def serving(item: Object) -> bool:
    return bool(item.get("status", {}).get("readyReplicas") == 1)


async def until_all(bench: Bench, reached: Callable[[Object], bool]) -> float:
    """Seconds until every deployment is as wanted."""
    begun = time.monotonic()
    listed = await bench.kube.list(DEPLOYMENTS, NAMESPACE)
    names = {item["metadata"]["name"] for item in listed.items if not reached(item)}
    async with asyncio.timeout(PATIENCE_S):
        while names:
            watching = bench.kube.watch(DEPLOYMENTS, NAMESPACE, resource_version=listed.resource_version)
            async for event in watching:
                if reached(event.object):
                    names.discard(event.object["metadata"]["name"])
                if not names:
                    break
    return time.monotonic() - begun


async def spec_changes(bench: Bench) -> list[float]:
    """Seconds from the edit of a scaling number to its observedGeneration, one after the other."""
    latencies = []
    for number in range(bench.changes):
        name = f"model-{number % bench.count:04}"
        edit = {"spec": {"scaling": {"scaleToZeroAfterSeconds": 1000 + number}}}
        begun = time.monotonic()
        edited = await bench.kube.apply(DEPLOYMENTS, NAMESPACE, name, edit, manager="bench-edit")
        await until_observed(bench.kube, edited)
        latencies.append(time.monotonic() - begun)
    return latencies


async def until_observed(kube: Kube, edited: Object) -> None:
    name, generation = edited["metadata"]["name"], edited["metadata"]["generation"]
    async with asyncio.timeout(PATIENCE_S):
        async for event in kube.watch(DEPLOYMENTS, NAMESPACE, resource_version=edited["metadata"]["resourceVersion"]):
            if event.type == OPENED or event.object["metadata"]["name"] != name:
                continue
            if event.object.get("status", {}).get("observedGeneration") == generation:
                return


# ------------------------------------------------------------------------------------------------ the operator


@contextmanager
def operator() -> Iterator[subprocess.Popen[bytes]]:
    settings = {
        "MODELMORA_OPERATOR_KUBECONFIG": ENVIRONMENT["KUBECONFIG"],
        "MODELMORA_OPERATOR_NAMESPACE": NAMESPACE,
        "MODELMORA_OPERATOR_NAMESPACES": f'["{NAMESPACE}"]',
        "MODELMORA_OPERATOR_WORKER_IMAGE": "localhost/none:1",
        "MODELMORA_OPERATOR_PORT": str(PORT),
        "MODELMORA_OPERATOR_LOG_LEVEL": "warning",
    }
    with tempfile.NamedTemporaryFile(prefix="bench-operator-", suffix=".log", delete=False) as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "modelmora_operator"], env=ENVIRONMENT | settings, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


async def until_reconciled(count: int) -> None:
    """By the operator's own metrics: every key was reconciled once, and none waits."""
    async with asyncio.timeout(PATIENCE_S), httpx.AsyncClient() as http:
        while True:
            try:
                answer = await http.get(f"http://127.0.0.1:{PORT}/metrics")
            except httpx.TransportError:
                await asyncio.sleep(0.05)
                continue
            found = samples(answer.text)
            if found.get(RECONCILES, 0) >= count:
                return
            await asyncio.sleep(0.05)


RECONCILES = "modelmora_operator_reconciles_total"


def samples(text: str) -> dict[str, float]:
    """Every sample, summed over its labels."""
    summed: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            summed[sample.name] = summed.get(sample.name, 0.0) + sample.value
    return summed


async def writes(kubectl: Kubectl) -> float:
    """Requests that write one of our kinds, as the API server counts them."""
    text = await asyncio.to_thread(kubectl.must, "get", "--raw", "/metrics")
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        if family.name == "apiserver_request"
        for sample in family.samples
        if sample.labels.get("verb") in WRITES and sample.labels.get("resource") in OURS
    )


# ------------------------------------------------------------------------------------------------ fake nodes


@contextmanager
def kwok() -> Iterator[None]:
    program = shutil.which("kwok")
    if program is None:
        sys.exit("no kwok on PATH: go install sigs.k8s.io/kwok/cmd/kwok@latest, or pass --without-pods")
    arguments = [
        *("--kubeconfig", ENVIRONMENT["KUBECONFIG"], "--config", str(ROOT / "benchmarks" / "kwok.yaml")),
        *("--manage-nodes-with-label-selector", "type=kwok", "--node-lease-duration-seconds", "40"),
    ]
    with tempfile.NamedTemporaryFile(prefix="kwok-", suffix=".log", delete=False) as log:
        process = subprocess.Popen([program, *arguments], stdout=log, stderr=log)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


async def fake_nodes(kube: Kube, pods: int) -> None:
    capacity = {"cpu": "1000", "memory": "4Ti", "pods": str(PODS_A_NODE)}
    for number in range(pods // PODS_A_NODE + 1):
        name = f"kwok-{number}"
        node = {
            "metadata": {"name": name, "labels": {"type": "kwok"}, "annotations": {"kwok.x-k8s.io/node": "fake"}},
            "spec": {"taints": [{"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}]},
            "status": {"capacity": capacity, "allocatable": capacity},
        }
        await kube.create(NODES, "", node)


async def clean(kube: Kube) -> None:
    await clean_namespace(kube)
    for node in (await kube.list(NODES, selector="type=kwok")).items:
        await kube.delete(NODES, "", node["metadata"]["name"])


async def clean_namespace(kube: Kube) -> None:
    for pod in (await kube.list(PODS, NAMESPACE)).items:
        await kube.delete(PODS, NAMESPACE, pod["metadata"]["name"], grace_s=0)
    await kube.delete(NAMESPACES, "", NAMESPACE)
    async with asyncio.timeout(PATIENCE_S):
        while await there(kube):  # noqa: ASYNC110 - a benchmark may poll
            await asyncio.sleep(0.5)


async def there(kube: Kube) -> bool:
    try:
        await kube.get(NAMESPACES, "", NAMESPACE)
    except KubeError:
        return False
    return True


if __name__ == "__main__":
    main()
