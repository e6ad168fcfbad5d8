"""The router's program as a process, as in a cluster: `python -m modelmora_router` with settings by environment."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

_STOP_S = 30.0


@dataclass
class RouterProgram:
    """A running program; it may not be ready."""

    process: subprocess.Popen[bytes]
    rest: str
    grpc: str  # host:port
    log_file: Path

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def ready(self) -> bool:
        """Whether a probe of readiness would succeed now."""
        try:
            return httpx.get(f"{self.rest}/health/ready", timeout=5).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def components(self) -> dict[str, str]:
        """What it says of its parts; nothing while it does not answer."""
        try:
            shown: dict[str, str] = httpx.get(f"{self.rest}/health", timeout=5).json()["components"]
        except httpx.TransportError:
            return {}
        return shown

    def models(self) -> set[str]:
        """The namespaces of the models that it knows, one for each."""
        shown = httpx.get(f"{self.rest}/api/v1/status", timeout=5).json()
        return {model["namespace"] for model in shown["models"]}

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Sends a signal and waits for the end; the exit code."""
        self.process.send_signal(how)
        return self.process.wait(_STOP_S)


@contextmanager
def router_program(folder: Path, **settings: str) -> Iterator[RouterProgram]:
    """The program on free ports, with these variables MODELMORA_…; killed when the block ends, if it still runs."""
    rest, grpc = _free_ports()
    given = {f"MODELMORA_{name}": value for name, value in settings.items()}
    ports = {"MODELMORA_REST_PORT": str(rest), "MODELMORA_GRPC_PORT": str(grpc), "MODELMORA_DRAIN_TIMEOUT_S": "10"}
    log_file = folder / f"router-{rest}.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "modelmora_router"],
            stdout=log,
            stderr=log,
            env={**os.environ, **ports, **given},  # noqa: TID251 - handed on
        )
    try:
        yield RouterProgram(process, f"http://127.0.0.1:{rest}", f"127.0.0.1:{grpc}", log_file)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(_STOP_S)


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]
