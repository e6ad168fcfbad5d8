"""What `modelmora serve` refuses before it starts, and what it tells when it has."""

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from modelmora.cli.announcement import SERVER_FILE, Announcement
from modelmora.cli.app import USAGE, app
from modelmora.cli.local import read_settings
from modelmora.control.local import LocalControl
from modelmora.errors import InvalidSettings
from modelmora_router.server import Bound


def test_an_unknown_log_level_is_wrong_use_and_names_the_known_ones() -> None:
    result = CliRunner().invoke(app, ["serve", "package://a/b", "--log-level", "loud"])
    assert result.exit_code == USAGE
    assert "warning" in result.output


async def test_an_address_of_ipv6_is_told_in_a_form_that_clients_take(tmp_path: Path) -> None:
    file = tmp_path / SERVER_FILE
    async with asyncio.TaskGroup() as tasks:
        Announcement(tmp_path, LocalControl(), None, tasks).show(Bound("::1", rest_port=80, grpc_port=90))
    told = json.loads(file.read_text())
    assert (told["rest"], told["grpc"]) == ("[::1]:80", "[::1]:90")


def test_several_router_processes_are_for_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELMORA_PROCESSES", "2")
    with pytest.raises(InvalidSettings) as refused:
        read_settings(None, {})
    assert refused.value.context.field == "processes"
    assert "router.processes" in refused.value.context.remedy
    monkeypatch.setenv("MODELMORA_PROCESSES", "1")
    assert read_settings(None, {}).router.processes == 1
