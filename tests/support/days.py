"""Models on a cluster as a person sees them: applied, waited for by their conditions, asked over REST."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.cluster import Kubectl

PATIENCE_S = 90

_ENGINE = Path(__file__).with_name("cluster_engine.py")
_FILES = "package://modelmora/wire"  # a folder that every image has: the engine does not look at it


def model(name: str, namespace: str, *, parameters: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    """A ModelDeployment of the engine in cluster_engine.py; `spec` adds to its spec, `model` to its spec.model."""
    described: dict[str, Any] = {"id": name, "task": "txt2embed", "source": {"uri": _FILES}}
    if parameters:
        described["config"] = {"parameters": parameters}
    runtime = {
        "engine": "python:cluster_engine:Cluster",
        "files": [{"path": "cluster_engine.py", "content": _ENGINE.read_text(encoding="utf-8")}],
    }
    return {
        "apiVersion": "modelmora.io/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": described | spec.pop("model", {}),
            "runtime": runtime | spec.pop("runtime", {}),
            "resources": spec.pop("resources", {"requests": {"cpu": "10m", "memory": "64Mi"}}),
            **spec,
        },
    }


@dataclass(frozen=True, slots=True)
class Models:
    """The models of one namespace."""

    kubectl: Kubectl
    namespace: str

    def run(self, *arguments: str, objects: Any = None) -> str:
        """kubectl in this namespace; it must succeed."""
        return self.kubectl.must("-n", self.namespace, *arguments, objects=objects)

    def apply(self, name: str, **spec: Any) -> None:
        """Applies a model as `model` makes it."""
        self.run("apply", "--server-side", "--force-conflicts", "-f", "-", objects=model(name, self.namespace, **spec))

    def get(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("get", "mmd", name, "-o", "json"))
        return found

    def condition(self, name: str, kind: str = "Ready") -> dict[str, Any]:
        """One condition of a model; empty if it is not there."""
        conditions = self.get(name).get("status", {}).get("conditions", [])
        return next((condition for condition in conditions if condition["type"] == kind), {})

    def wait(self, name: str, reason: str, *, kind: str = "Ready", within_s: float = PATIENCE_S) -> dict[str, Any]:
        """Until a condition has this reason; the condition."""
        what = f'--for=jsonpath={{.status.conditions[?(@.type=="{kind}")].reason}}={reason}'
        answer = self.kubectl("wait", what, f"mmd/{name}", "-n", self.namespace, f"--timeout={within_s}s")
        assert answer.ok, (
            f"{name} is not {kind}/{reason}: {answer.err}{json.dumps(self.get(name).get('status'), indent=1)}"
        )
        return self.condition(name, kind)

    def pods(self, name: str) -> list[dict[str, Any]]:
        """The worker pods of a model, those that are ending included."""
        found = json.loads(self.run("get", "pods", "-l", f"modelmora.io/deployment={name}", "-o", "json"))
        items: list[dict[str, Any]] = found["items"]
        return items

    def live_pods(self, name: str) -> list[str]:
        """The names of those that are not ending."""
        return sorted(p["metadata"]["name"] for p in self.pods(name) if "deletionTimestamp" not in p["metadata"])

    def wait_gone(self, name: str, *, within_s: float = PATIENCE_S) -> None:
        """Until no worker pod of a model is left."""
        self.run("wait", "--for=delete", "pod", "-l", f"modelmora.io/deployment={name}", f"--timeout={within_s}s")


class Door:
    """A router's REST interface, through a port-forward."""

    def __init__(self, url: str) -> None:
        self.url = url

    def infer(self, namespace: str, name: str, *, timeout_s: float = PATIENCE_S, **parameters: Any) -> httpx.Response:
        """One request; the answer whatever it is."""
        body = {"input": {"text": "hello"}, "parameters": parameters, "timeoutSeconds": timeout_s}
        headers = {"modelmora-namespace": namespace}
        return httpx.post(f"{self.url}/api/v1/infer/{name}", json=body, headers=headers, timeout=timeout_s + 5)


@contextmanager
def door(kubectl: Kubectl, namespace: str, target: str = "svc/modelmora-router", port: str = "8080") -> Iterator[Door]:
    """A port-forward to the router's Service, or to one of its pods."""
    forwarding = subprocess.Popen(
        [*kubectl.program, "port-forward", "-n", namespace, target, f":{port}", "--address", "127.0.0.1"],
        stdout=subprocess.PIPE,
        text=True,
        env=kubectl.environment,
        start_new_session=True,
    )
    try:
        assert forwarding.stdout is not None
        line = forwarding.stdout.readline()  # Forwarding from 127.0.0.1:PORT -> 8080
        assert "Forwarding from" in line, f"no port-forward to {target}: {line!r}"
        yield Door(f"http://{line.split()[2]}")
    finally:
        os.killpg(forwarding.pid, signal.SIGTERM)
        forwarding.communicate(timeout=10)
