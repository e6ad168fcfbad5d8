"""A real `modelmora serve` for tests and benchmarks: a process with free ports and a state directory of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import yaml

from modelmora import Client

T = TypeVar("T")

START_S = 60.0
STOP_S = 30.0


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen[bytes]
    state_dir: Path
    log_file: Path
    rest: str  # URL
    grpc: str  # host:port

    @property
    def pid(self) -> int:
        return self.process.pid

    def client(self) -> Client:
        return Client(self.grpc, deadline_seconds=180)

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.rest, timeout=180)

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children(recursive=True)

    def sockets(self) -> list[Path]:
        """The sockets of workers, wherever this server keeps them."""
        note = self.state_dir / "run.path"
        places = [self.state_dir, *([Path(note.read_text())] if note.exists() else [])]
        return [path for place in places for path in place.rglob("*.s") if path.is_socket()]

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Sends a signal and waits for the end; the exit code."""
        self.process.send_signal(how)
        return self.process.wait(STOP_S)


def manifest(name: str, *, model: Mapping[str, Any], **spec: Any) -> dict[str, Any]:
    """A ModelDeployment as its YAML would be read."""
    return {
        "apiVersion": "modelmora.io/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {"model": dict(model), **spec},
    }


def write_manifest(folder: Path, name: str, *, model: Mapping[str, Any], **spec: Any) -> Path:
    """Writes one ModelDeployment to `folder`; atomically, as an editor would."""
    file, draft = folder / f"{name}.yaml", folder / f".{name}.draft"
    draft.write_text(yaml.safe_dump(manifest(name, model=model, **spec), sort_keys=False))
    return draft.replace(file)


@contextmanager
def serving(
    sources: Path | str, root: Path, *flags: str, env: Mapping[str, str] | None = None, warm: bool = False
) -> Iterator[Server]:
    """Runs `modelmora serve SOURCES` until the block ends; kills what is left of it then.

    Without its warm parent, unless `warm`: models that need no torch start sooner so.
    """
    server = start(sources, root, *flags, env={"MODELMORA_WARM_PARENT": str(warm)} | dict(env or {}))
    family = [psutil.Process(server.pid)]
    try:
        yield server
        if server.process.poll() is None:
            family += server.descendants()
            server.stop()
    finally:
        if server.process.poll() is None:
            family += server.descendants()
        for process in family:
            if process.is_running():
                process.kill()
        server.process.wait(STOP_S)


def start(sources: Path | str, root: Path, *flags: str, env: Mapping[str, str], start_s: float = START_S) -> Server:
    """Starts `modelmora serve` with its state below `root` and waits until it answers."""
    state_dir, log_file = root / "state", root / "serve.log"
    command = [sys.executable, "-m", "modelmora", "serve", str(sources), "--rest-port", "0", "--grpc-port", "0"]
    command += ["--state-dir", str(state_dir), *flags]
    with log_file.open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **env})  # noqa: TID251 - handed on
    try:
        address = wait_for(
            lambda: _addresses(process, state_dir, log_file), within_s=start_s, what="the server to start"
        )
    except BaseException:
        process.kill()
        process.wait(STOP_S)
        raise
    return Server(process, state_dir, log_file, rest=f"http://{address['rest']}", grpc=address["grpc"])


def _addresses(process: subprocess.Popen[bytes], state_dir: Path, log_file: Path) -> dict[str, str] | None:
    if process.poll() is not None:
        raise AssertionError(f"serve ended with {process.returncode}:\n{log_file.read_text()}")
    try:
        found: dict[str, Any] = json.loads((state_dir / "server.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return found if found["pid"] == process.pid else None


def wait_for(condition: Callable[[], T | None], *, within_s: float, what: str) -> T:
    """The first true value of a condition.

    Raises:
        AssertionError: it did not come true in time.
    """
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {within_s} s for {what}")
