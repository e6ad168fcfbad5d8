"""Programs of one machine that share memory with models of a real `modelmora serve`."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelmora import Client
from modelmora.errors import ModelMoraError
from tests.support.servers import Server, serving, wait_for, write_manifest
from tests.support.workers import short_folder

pytestmark = pytest.mark.slow

ENGINE = Path(__file__).parents[1] / "support" / "summing_engine.py"
AWAKE = {"minReplicas": 1, "maxReplicas": 2}
ARRAY = np.ones(1_000_000, np.float32)

PROGRAM = """
import dataclasses, json
import numpy as np
from modelmora import Client, tensors

with Client() as client:
    answer = client.infer("summing", np.ones(1_000_000, np.float32)).output
    print(json.dumps({"sum": float(answer["sum"][0]), "shm": tensors.statistics().shm}))
"""


def write(folder: Path, name: str = "summing", **spec: Any) -> None:
    """A model that adds up what it is sent."""
    folder.mkdir(exist_ok=True)
    files = [{"path": ENGINE.name, "content": ENGINE.read_text()}]
    write_manifest(
        folder,
        name,
        model={"id": name, "task": "txt2embed", "source": {"uri": "package://modelmora/wire"}},
        runtime={"engine": "python:summing_engine:Summing", "files": files, **spec.pop("runtime", {})},
        health={"inference": {"input": {"text": "x"}}},
        **{"sharedMemory": {}, **spec},
    )


@pytest.fixture
def server() -> Iterator[Server]:
    """With one model that shares memory and is awake."""
    with short_folder() as root:
        write(root / "models", scaling=AWAKE)
        with serving(root / "models", root) as running:
            yield running


def socket_of(server: Server, name: str = "summing") -> Path:
    """Where the model's worker is found, once it is."""
    path = server.state_dir / "sockets" / f"default.{name}.sock"
    wait_for(path.exists, within_s=30, what="the socket of the model")
    return path


def pid_of(client: Client) -> int:
    return int(client.infer("summing", ARRAY).output["pid"][0])


@pytest.mark.req("US2", "US3", "FR-004", "FR-005")
def test_a_program_finds_the_model_by_its_path_and_shares_memory(server: Server) -> None:
    path = socket_of(server)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600
    assert f"MODELMORA_SOCKET={path}" in server.log()
    environment = os.environ | {"MODELMORA_SOCKET": str(path)}  # noqa: TID251 - handed on
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"sum": 1_000_000, "shm": 1}
    assert "no such settings" not in server.log()


@pytest.mark.req("US2-AS2", "FR-009", "EDGE-3")
def test_of_a_program_that_is_gone_the_worker_keeps_nothing(server: Server) -> None:
    with Client(f"unix:{socket_of(server)}") as client:
        maps = Path(f"/proc/{pid_of(client)}/maps")
        assert "modelmora-arena" in maps.read_text()
    wait_for(lambda: "modelmora-arena" not in maps.read_text(), within_s=20, what="its memory to be given back")


@pytest.mark.req("US2-AS3", "FR-009")
def test_a_program_that_goes_on_comes_to_the_worker_of_an_edited_model(server: Server) -> None:
    with Client(f"unix:{socket_of(server)}", deadline_seconds=20) as client:
        before = pid_of(client)
        env = {"env": [{"name": "EDITED", "value": "1"}]}
        write(server.state_dir.parent / "models", scaling=AWAKE, runtime=env)

        def moved() -> bool:
            try:
                return pid_of(client) != before
            except ModelMoraError:
                return False

        wait_for(moved, within_s=30, what="the new worker")
        assert client.infer("summing", ARRAY).output["sum"] == 1_000_000


def test_of_several_workers_one_answers_and_at_the_end_nothing_is_left(server: Server) -> None:
    path = socket_of(server)
    write(server.state_dir.parent / "models", scaling={"minReplicas": 2, "maxReplicas": 2})
    wait_for(lambda: len(list(path.parent.glob("*.tensors"))) == 2, within_s=30, what="two workers")
    with Client(f"unix:{path}") as client:
        assert client.infer("summing", ARRAY).output["sum"] == 1_000_000
        write(server.state_dir.parent / "models", scaling={"minReplicas": 1, "scaleDownDelaySeconds": 0})
        wait_for(lambda: len(list(path.parent.glob("*.tensors"))) == 1, within_s=30, what="one worker to end")
        assert client.infer("summing", ARRAY).output["sum"] == 1_000_000
    assert server.stop() == 0
    assert not path.parent.exists()


@pytest.mark.req("US2")
def test_a_model_that_is_called_at_its_socket_does_not_go_to_zero_until_it_is_left_alone() -> None:
    with short_folder() as root:
        write(root / "models", scaling={"scaleToZeroAfterSeconds": 4})
        with serving(root / "models", root) as server:
            with server.client() as waking:
                waking.infer("summing", "hello")
            path = socket_of(server)
            with Client(f"unix:{path}") as client:
                _call_for(12, client)
            wait_for(lambda: not path.exists(), within_s=30, what="the model to go to zero")


def _call_for(seconds: float, client: Client) -> None:
    """Every half second; always the same worker answers."""
    pid, ends_at = pid_of(client), time.monotonic() + seconds
    while time.monotonic() < ends_at:
        assert pid_of(client) == pid
        time.sleep(0.5)
