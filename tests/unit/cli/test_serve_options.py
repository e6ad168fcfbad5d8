"""What `modelmora serve` refuses before it starts, and what it tells when it has."""

import asyncio
import json
from pathlib import Path

from typer.testing import CliRunner

from modelmora.cli.announcement import SERVER_FILE, Announcement
from modelmora.cli.app import USAGE, app
from modelmora.control.local import LocalControl
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
