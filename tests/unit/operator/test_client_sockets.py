"""Where programs of a machine find the workers that share memory with them."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from modelmora.control import Key
from modelmora.control.local import LocalControl
from modelmora.errors import InvalidSettings
from modelmora_operator.backends.children import Child
from modelmora_operator.backends.client_sockets import made, path_of, usable_path_of
from modelmora_operator.backends.launching import Launch
from modelmora_operator.backends.processes import ProcessCluster
from modelmora_operator.backends.state_folder import StateFolder
from modelmora_operator.backends.worker_process import WorkerOptions
from modelmora_operator.cluster import FailureRecord, WorkerSpec
from modelmora_operator.settings import OperatorSettings
from modelmora_worker.meeting import TENSORS, Meeting
from tests.support.operator_values import KEY, deployment, hash_of
from tests.support.waiting import DEADLINE_S, eventually_async


class Noting:
    """A launcher that notes what a worker would be told, and never starts one."""

    def __init__(self) -> None:
        self.told: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    async def launch(self, launch: Launch) -> Child:
        self.told.set_result(json.loads(launch.settings_json))
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    async def close(self) -> None:
        """There is nothing to give back."""


async def told_and_failed(tmp_path: Path, sockets: Path, **spec: Any) -> tuple[dict[str, Any], FailureRecord | None]:
    """What the worker of a deployment is told, and why it could not be."""
    launcher, described = Noting(), deployment(**spec)
    options = WorkerOptions(tmp_path / "cache", socket_dir=sockets)
    with StateFolder(tmp_path / "state") as folder:
        cluster = ProcessCluster(LocalControl(), folder=folder, launcher=launcher, options=options)
        async with asyncio.timeout(DEADLINE_S), cluster.running():
            cluster.replace_deployments({KEY: described})
            await cluster.start(WorkerSpec("minilm-1-0", KEY, hash_of(described), described))

            async def settled() -> bool:
                snapshot = await cluster.observe(KEY)
                return launcher.told.done() or bool(snapshot and snapshot.failure)

            await eventually_async(settled, what="a launch or its failure")
            snapshot = await cluster.observe(KEY)
            return launcher.told.result() if launcher.told.done() else {}, snapshot.failure if snapshot else None


@pytest.mark.req("US2", "ENT-3")
async def test_a_worker_that_shares_memory_is_told_where_its_callers_look_for_it(tmp_path: Path) -> None:
    told, _ = await told_and_failed(tmp_path, Path("/run/s"), sharedMemory={"sessionQuota": "64Mi"})
    assert told["client_socket"] == "/run/s/default.minilm.sock"
    assert told["session_quota_bytes"] == 64 * 2**20


async def test_any_other_has_no_socket(tmp_path: Path) -> None:
    told, _ = await told_and_failed(tmp_path, Path("/run/s"))
    assert "client_socket" not in told


async def test_a_path_that_no_socket_can_have_is_told_with_what_to_do(tmp_path: Path) -> None:
    told, failure = await told_and_failed(tmp_path, Path("/run") / ("s" * 90), sharedMemory={})
    assert not told
    assert failure
    assert failure.last.reason == "InvalidSettings"
    assert "--socket-dir" in failure.last.remedy


def test_the_longest_path_leaves_room_for_what_the_worker_puts_behind_it() -> None:
    key = Key("default", "minilm")
    ending = len(path_of(Path("/"), key).name) + 1
    longest = usable_path_of(Path("/" + "s" * (91 - ending - 1)), key)
    own = Meeting(longest, 0o600).own
    assert len(str(own).rpartition(".")[0]) + len(".4194304") + len(TENSORS) == 107
    with pytest.raises(InvalidSettings, match="has 92 bytes; 91 are possible"):
        usable_path_of(Path("/" + "s" * (91 - ending)), key)


def test_models_of_different_namespaces_have_different_paths() -> None:
    assert path_of(Path("/s"), Key("a", "b")) != path_of(Path("/s"), Key("b", "a"))


def test_their_folder_is_for_this_user_alone(tmp_path: Path) -> None:
    assert made(tmp_path / "s").stat().st_mode & 0o777 == 0o700
    made(tmp_path / "s")
    (tmp_path / "file").touch()
    with pytest.raises(InvalidSettings) as refused:
        made(tmp_path / "file")
    assert refused.value.context.field == "socket_dir"


def test_it_is_in_the_state_directory_unless_another_is_named(tmp_path: Path) -> None:
    assert OperatorSettings(state_dir=tmp_path).sockets == tmp_path / "sockets"
    assert OperatorSettings(state_dir=tmp_path, socket_dir=Path("/s")).sockets == Path("/s")


def test_what_a_killed_server_left_there_is_swept(tmp_path: Path) -> None:
    left = made(OperatorSettings(state_dir=tmp_path).sockets) / "default.minilm.sock"
    left.symlink_to("default.minilm.sock.1")
    with StateFolder(tmp_path):
        assert not left.is_symlink()
