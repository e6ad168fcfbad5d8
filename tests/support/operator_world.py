"""The cluster of pods for the contract suite: a real API server and kubelet, and no operator but the one cluster."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from modelmora.control import Demand, Key
from modelmora.control.leases import lease
from modelmora.kube.api import DEPLOYMENTS, LEASES, PODS, Kube
from modelmora.spec import ModelDeployment
from modelmora_operator.backends.kubernetes import KubernetesCluster
from modelmora_operator.backends.lists import Lists
from modelmora_operator.backends.pods import PodOptions
from modelmora_operator.backends.watches import Watched, Watches, credentials_of, quiet_kopf
from modelmora_operator.backends.writes import Writes
from tests.support.cluster import Kubectl
from tests.support.days import model

_PARAMETERS: Final[dict[str, dict[str, Any]]] = {"serve": {}, "fail": {"loadFails": "it was told to fail"}}
# The first process of a container cannot be killed from inside; here it is not the first.
_TOGETHER: Final = {"spec": {"shareProcessNamespace": True}}
_KILL: Final = """
import os, signal
for pid in filter(str.isdigit, os.listdir("/proc")):
    command = open(f"/proc/{pid}/cmdline", "rb").read()
    if int(pid) != os.getpid() and b"modelmora_worker" in command:
        os.kill(int(pid), signal.SIGKILL)
"""


@dataclass
class PodWorld:
    """One namespace. What a test does is told to the cluster at once; the rest it hears by itself."""

    cluster: KubernetesCluster
    kubectl: Kubectl
    namespace: str
    patience_s: float = 90.0

    def put(self, of: ModelDeployment) -> Key:
        stored = of.manifest() if of.metadata.resource_version else self._applied(of.manifest())
        self.cluster.view.heard(DEPLOYMENTS, "ADDED", stored, 0.0)
        return Key(self.namespace, of.metadata.name)

    def delete(self, key: Key) -> None:
        stored = self.kubectl.json("get", "mmd", key.name, "-n", key.namespace)
        self.kubectl.must("delete", "mmd", key.name, "-n", key.namespace, "--cascade=orphan")
        self.cluster.view.heard(DEPLOYMENTS, "DELETED", stored, 0.0)

    def want(self, key: Key, load: float) -> None:
        body = lease("router", {key: Demand(load, 0.0)}, 0.0)
        body["metadata"]["name"] = "router"
        self.cluster.view.heard(LEASES, "ADDED", body, asyncio.get_running_loop().time())

    def behaving(self, behaviour: str) -> ModelDeployment:
        made = model("minilm", self.namespace, parameters=_PARAMETERS[behaviour], podTemplate=_TOGETHER)
        return ModelDeployment.stored(self._applied(made))

    def crash(self, key: Key, worker_id: str) -> None:
        self.kubectl.must("exec", worker_id, "-n", key.namespace, "-c", "worker", "--", "python", "-c", _KILL)

    def _applied(self, manifest: dict[str, Any]) -> dict[str, Any]:
        metadata = {"name": manifest["metadata"]["name"], "namespace": self.namespace}
        body = {**manifest, "metadata": metadata}
        body.pop("status", None)
        answer = self.kubectl.must("apply", "--server-side", "-f", "-", "-o", "json", objects=body)
        stored: dict[str, Any] = json.loads(answer)
        return stored


@asynccontextmanager
async def pod_world(kubectl: Kubectl, namespace: str, image: str, kubeconfig: Path) -> AsyncIterator[PodWorld]:
    """Until the block ends."""
    quiet_kopf(debug=False)
    kube = await Kube.connect(kubeconfig)
    options = PodOptions(image=image, now=0.0, drain_timeout_s=5)
    cluster = KubernetesCluster(Writes(kube), options)
    lists = Lists(kube, cluster.view, home=namespace, namespaces=[namespace], resync_s=3600)
    watches = Watches(
        Watched((DEPLOYMENTS, PODS), [namespace]),
        credentials_of(kube.configuration),
        lambda resource, kind, item: cluster.view.heard(resource, kind, item, 0.0),
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(kube.close)
        await stack.enter_async_context(cluster.running())
        for resource in (DEPLOYMENTS, PODS):
            assert await lists.read(resource)
        cluster.view.synced.set()
        watching = asyncio.create_task(watches.run(), name="watches")
        stack.push_async_callback(_ended, watching)
        yield PodWorld(cluster, kubectl, namespace)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
