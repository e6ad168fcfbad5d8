"""What `modelmora serve` refuses before it starts, and what it tells when it has."""

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from modelmora.cli.announcement import SERVER_FILE, Announcement
from modelmora.cli.app import USAGE, app
from modelmora.cli.local import read_settings
from modelmora.control import Key
from modelmora.control.local import LocalControl
from modelmora.errors import InvalidSettings
from modelmora_operator.settings import OperatorSettings
from modelmora_router.server import Bound
from tests.support.operator_values import deployment


def test_an_unknown_log_level_is_wrong_use_and_names_the_known_ones() -> None:
    result = CliRunner().invoke(app, ["serve", "package://a/b", "--log-level", "loud"])
    assert result.exit_code == USAGE
    assert "warning" in result.output


async def test_an_address_of_ipv6_is_told_in_a_form_that_clients_take(tmp_path: Path) -> None:
    file = tmp_path / SERVER_FILE
    async with asyncio.TaskGroup() as tasks:
        settings = OperatorSettings(state_dir=tmp_path)
        Announcement(settings, LocalControl(), None, tasks).show(Bound("::1", rest_port=80, grpc_port=90))
    told = json.loads(file.read_text())
    assert (told["rest"], told["grpc"]) == ("[::1]:80", "[::1]:90")


async def test_where_a_model_shares_memory_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    control, settings = LocalControl(), OperatorSettings(state_dir=tmp_path, socket_dir=tmp_path / "s")
    shared, other = deployment("shared", sharedMemory={}), deployment("other")
    control.deployments.set({Key("default", each.metadata.name): each for each in (shared, other)})
    async with asyncio.TaskGroup() as tasks:
        Announcement(settings, control, None, tasks).show(Bound("localhost", rest_port=80, grpc_port=90))
    said = capsys.readouterr().out
    assert f"MODELMORA_SOCKET={tmp_path}/s/default.shared.sock" in said
    assert said.count("MODELMORA_SOCKET") == 1
    assert json.loads((tmp_path / SERVER_FILE).read_text())["sockets"] == f"{tmp_path}/s"


def test_several_router_processes_are_for_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELMORA_PROCESSES", "2")
    with pytest.raises(InvalidSettings) as refused:
        read_settings(None, {})
    assert refused.value.context.field == "processes"
    assert "router.processes" in refused.value.context.remedy
    monkeypatch.setenv("MODELMORA_PROCESSES", "1")
    assert read_settings(None, {}).router.processes == 1
