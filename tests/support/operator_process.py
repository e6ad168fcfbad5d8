"""The operator of a cluster as a process of this machine, with rights of the kubeconfig, for namespaces of a test."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

_PATIENCE_S = 60.0
_END_S = 20.0
_STEP_S = 0.05


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class OperatorProcess:
    """One after the other, with the same settings and the same log."""

    namespace: str
    worker_image: str
    log: Path
    kubeconfig: str
    more: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=_free_port)

    def __post_init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it is ready."""
        self.begin()
        self.until_ready()

    def begin(self) -> None:
        """Starts it, and waits for nothing."""
        named = {
            "KUBECONFIG": self.kubeconfig,
            "NAMESPACE": self.namespace,
            "NAMESPACES": json.dumps([self.namespace]),
            "WORKER_IMAGE": self.worker_image,
            "PORT": str(self.port),
            "DRAIN_TIMEOUT_S": "5",
            **self.more,
        }
        environment = dict(os.environ)  # noqa: TID251 - a program under test
        environment |= {f"MODELMORA_OPERATOR_{name}": value for name, value in named.items()}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "modelmora_operator"], env=environment, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """As the kernel does when memory runs out."""
        assert self.process
        self.process.kill()
        self.process.wait(_END_S)

    def end(self) -> int:
        """By SIGTERM; its exit code."""
        assert self.process
        self.process.terminate()
        return self.process.wait(_END_S)

    def ask(self, path: str) -> httpx.Response | None:
        """None: nothing answers there."""
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=5)
        except httpx.TransportError:
            return None

    def until_ready(self) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while (answer := self.ask("/readyz")) is None or answer.status_code != 200:
            assert self.process
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"{answer.text if answer else ''}{self.log.read_text()}"
            time.sleep(_STEP_S)

    def writes(self) -> float:
        """To the API server, since it started."""
        answer = self.ask("/metrics")
        assert answer is not None
        lines = [line for line in answer.text.splitlines() if line.startswith("modelmora_operator_api_writes_total")]
        return sum(float(line.rpartition(" ")[2]) for line in lines)


@contextmanager
def operator_process(namespace: str, worker_image: str, folder: Path, **more: str) -> Iterator[OperatorProcess]:
    """Runs when the block begins; whatever runs when it ends is ended. `more` are settings, by their names."""
    kubeconfig = os.environ["KUBECONFIG"]  # noqa: TID251 - a test run has no settings class
    operator = OperatorProcess(namespace, worker_image, folder / "operator.log", kubeconfig, more)
    operator.start()
    try:
        yield operator
    finally:
        if operator.process and operator.process.poll() is None:
            operator.end()
