"""The commands by which the documents say that figures are made again."""

import json
import re
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"<!-- run: bench -->\n```console\n\$ (make bench-.*?)(?: +#.*)?\n```")
COMMANDS = [found for page in sorted((ROOT / "docs").glob("*.md")) for found in BLOCK.findall(page.read_text())]


@pytest.mark.req("S3-4", "S3-3")
def test_there_are_two() -> None:
    assert [command.split()[1] for command in COMMANDS] == ["bench-registry", "bench-tensors"]


@pytest.mark.req("S3-4", "S3-3")
@pytest.mark.parametrize("command", COMMANDS, ids=[command.split()[1] for command in COMMANDS])
def test_it_measures_and_writes_what_it_measured(command: str, tmp_path: Path) -> None:
    given = re.sub(r'ARGS="?([^"]*)"?$', rf'ARGS="\1 --results {tmp_path}"', command)
    done = subprocess.run(["bash", "-c", given], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [written] = tmp_path.glob("*.json")
    assert json.loads(written.read_text())["figures"]
