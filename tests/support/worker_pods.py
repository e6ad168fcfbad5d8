"""Pods of workers on the cluster without an operator: made by its builder, applied by kubectl."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from modelmora.control import Key
from modelmora.spec import ModelDeployment
from modelmora.v1 import worker_pb2, worker_pb2_grpc
from modelmora_operator.backends import pods
from modelmora_operator.cluster import WorkerSpec
from modelmora_operator.spec_hash import spec_hash
from tests.support.cluster import Kubectl
from tests.support.days import door
from tests.support.manifests import manifest

PATIENCE_S = 60
ENGINE = Path(__file__).with_name("scripted_engine.py")


def scripted(name: str = "scripted", *, model: Any = None, parameters: Any = None, **spec: Any) -> dict[str, Any]:
    """A ModelDeployment of the engine in scripted_engine.py, whose files every image has."""
    config = {"parameters": {"log": "/tmp/events", **(parameters or {})}}
    files = [{"path": ENGINE.name, "content": ENGINE.read_text(encoding="utf-8")}]
    described = {"id": None, "source": {"uri": "package://modelmora/wire"}, "config": config, **(model or {})}
    runtime = {"engine": "python:scripted_engine:Scripted", "files": files}
    return manifest(name, model=described, runtime=runtime, **spec)


@dataclass(frozen=True, slots=True)
class WorkerPods:
    """The worker pods of one namespace."""

    kubectl: Kubectl
    namespace: str
    image: str

    def run(self, *arguments: str, objects: Any = None) -> str:
        """kubectl in this namespace; it must succeed."""
        return self.kubectl.must("-n", self.namespace, *arguments, objects=objects)

    def made(self, deployment: dict[str, Any], **options: Any) -> dict[str, Any]:
        """The manifest of a first worker. The deployment is stored, suspended: whose owner is gone is collected."""
        stored = {**deployment, "spec": {**deployment["spec"], "suspend": True}}
        answer = self.run("apply", "--server-side", "-f", "-", "-o", "json", objects=stored)
        read = ModelDeployment.stored(json.loads(answer))
        hashed = spec_hash(read.spec)
        worker = WorkerSpec(f"{read.metadata.name}-{hashed}-0", Key(self.namespace, read.metadata.name), hashed, read)
        return pods.pod(worker, pods.PodOptions(**{"image": self.image, "now": time.time(), **options}))

    def start(self, deployment: dict[str, Any], **options: Any) -> str:
        """Makes the pod; its name."""
        pod = self.made(deployment, **options)
        self.run("create", "-f", "-", objects=pod)
        return str(pod["metadata"]["name"])

    def ready(self, pod: str) -> None:
        """Returns when it is."""
        answer = self.kubectl(
            "wait", "--for=condition=Ready", f"pod/{pod}", "-n", self.namespace, f"--timeout={PATIENCE_S}s"
        )
        assert answer.ok, f"{answer.err}\n{self.container(pod)}\n{self.run('logs', pod)}"

    def container(self, pod: str) -> dict[str, Any]:
        """The status of the container worker."""
        status = json.loads(self.run("get", "pod", pod, "-o", "json"))["status"]
        [found] = [item for item in status.get("containerStatuses", []) if item["name"] == "worker"] or [{}]
        return dict(found)

    def ended(self, pod: str) -> dict[str, Any]:
        """How its container ended, once it has."""
        path = "{.status.containerStatuses[?(@.name=='worker')].lastState.terminated.exitCode}"
        self.run("wait", f"--for=jsonpath={path}", f"pod/{pod}", f"--timeout={PATIENCE_S}s")
        return dict(self.container(pod)["lastState"]["terminated"])

    @asynccontextmanager
    async def channel(self, pod: str, port: int) -> AsyncIterator[grpc.aio.Channel]:
        """To a port of the pod, wherever the cluster runs."""
        with door(self.kubectl, self.namespace, f"pod/{pod}", str(port)) as opened:
            async with grpc.aio.insecure_channel(opened.url.removeprefix("http://")) as channel:
                yield channel


async def status(channel: grpc.aio.Channel) -> worker_pb2.StatusUpdate:
    """What the worker says of itself now."""
    stub: Any = worker_pb2_grpc.WorkerServiceStub(channel)
    update: worker_pb2.StatusUpdate
    async for update in stub.Status(worker_pb2.StatusRequest(), timeout=PATIENCE_S):
        return update
    raise AssertionError("the worker said nothing")
