"""The page about shared memory, and its example, do on this machine what they say."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from modelmora.spec import ModelDeployment
from tests.support.servers import serving, wait_for
from tests.support.workers import short_folder

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "shared-memory.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
EXAMPLE = yaml.safe_load((ROOT / "examples" / "sidecar.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """Of programs beside the model of the example."""
    with short_folder() as root, serving(ROOT / "examples" / "sidecar.yaml", root) as server:
        path = server.state_dir / "sockets" / "default.brightness.sock"
        wait_for(path.exists, within_s=30, what="the model to serve")
        yield {**os.environ, "MODELMORA_SOCKET": str(path)}  # noqa: TID251 - handed on


@pytest.mark.req("US2", "US3", "FR-004")
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_of_the_page_prints_what_stands_beside_it(environment: dict[str, str], program: str) -> None:
    expected = re.findall(r"print\(.*\)  +# (.+)$", program, re.MULTILINE)
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert expected
    assert done.stdout.splitlines() == expected


def test_the_example_is_a_good_manifest() -> None:
    assert ModelDeployment.parse(EXAMPLE).model_id == "examples/brightness"


def test_the_program_of_the_example_sends_handles_and_ends_when_it_is_told_to(environment: dict[str, str]) -> None:
    [sidecar] = EXAMPLE["spec"]["sidecars"]
    command = [sys.executable, *sidecar["command"][1:], *sidecar["args"]]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(2)]
        assert [re.sub(r"\d+ ms", "N ms", line) for line in lines] == [
            "1 in N ms, 1 frames as handles, 0 as bytes\n",
            "2 in N ms, 2 frames as handles, 0 as bytes\n",
        ]
        process.terminate()
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.communicate(timeout=20)
