"""A container beside a worker on the cluster: programs that run in it, and what its pod looks like from inside."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.days import Models

ENGINE = Path(__file__).with_name("summing_engine.py")
MODEL = "summing"
CONTAINER = "app"
# Until somebody ends it; as the first process of a container it hears of the end only if it listens.
IDLE = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit()); signal.pause()"
_USED = "import os; v = os.statvfs('/dev/shm'); print((v.f_blocks - v.f_bfree) * v.f_frsize)"
_MAPPED = "print(sum('/dev/shm/' in line for line in open('/proc/1/maps')))"


@dataclass(frozen=True, slots=True)
class Neighbour:
    """The container `app` in the pod of the model."""

    models: Models
    image: str

    def apply(self, program: str = IDLE, *, limits: dict[str, str] | None = None, **spec: Any) -> None:
        """The model, with this Python program beside its worker."""
        sidecar = {
            "name": CONTAINER,
            "image": self.image,
            "command": ["python", "-c", program],
            **({"resources": {"limits": limits}} if limits else {}),
        }
        runtime = {
            "engine": "python:summing_engine:Summing",
            "files": [{"path": ENGINE.name, "content": ENGINE.read_text(encoding="utf-8")}],
        }
        default: dict[str, Any] = {
            "resources": {"requests": {"cpu": "10m", "memory": "256Mi"}},  # room for a request with bytes
            "scaling": {"minReplicas": 1},
            "sharedMemory": {"sizeLimit": "512Mi", "sessionQuota": "256Mi"},
        }
        self.models.apply(
            MODEL,
            runtime=runtime,
            health={"inference": {"input": {"text": "x"}}},
            eviction={"policy": "Never"},
            sidecars=[sidecar],
            **(default | spec),
        )

    def serve(self, program: str = IDLE, **spec: Any) -> str:
        """As `apply`; returns once it serves: the pod."""
        self.apply(program, **spec)
        self.models.wait(MODEL, "Serving")
        (pod,) = self.models.live_pods(MODEL)
        return pod

    def run(self, pod: str, program: str, *, container: str = CONTAINER) -> str:
        """What a Python program says that runs in a container of the pod."""
        return self.models.run("exec", pod, "-c", container, "--", "python", "-c", program)

    def told(self, pod: str, program: str, *, container: str = CONTAINER) -> dict[str, Any]:
        """As `run`, of a program whose last line is JSON."""
        said: dict[str, Any] = json.loads(self.run(pod, program, container=container).splitlines()[-1])
        return said

    def used_bytes(self, pod: str) -> int:
        """Of the shared volume."""
        return int(self.run(pod, _USED, container="worker"))

    def mapped(self, pod: str) -> int:
        """How many files of the shared volume the worker has mapped."""
        return int(self.run(pod, _MAPPED, container="worker"))

    def container(self, pod: str, name: str = CONTAINER) -> dict[str, Any]:
        """Its status."""
        status = json.loads(self.models.run("get", "pod", pod, "-o", "json"))["status"]
        return dict(next(item for item in status["containerStatuses"] if item["name"] == name))
