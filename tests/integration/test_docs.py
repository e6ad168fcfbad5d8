"""The commands of the README work as they stand there."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelmora.spec.manifests import load_text
from tests.support.servers import Server, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"<!-- run: (\w+) -->\n```(\w+)\n(.*?)```", re.DOTALL)
BLOCKS = [(kind, language, text) for kind, language, text in BLOCK.findall((ROOT / "README.md").read_text())]
DEMO = [(language, text) for kind, language, text in BLOCKS if kind == "demo"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(ROOT / "examples" / "minilm.yaml", tmp_path_factory.mktemp("demo")) as server:
        yield server


@pytest.mark.parametrize(("language", "text"), DEMO, ids=[text.split()[1] for _, text in DEMO])
def test_the_demo(server: Server, language: str, text: str) -> None:
    text = text.replace("localhost:8080", server.rest.removeprefix("http://")).replace("localhost:9000", server.grpc)
    environment = {**os.environ, "MODELMORA_SERVER": server.grpc}  # noqa: TID251 - handed on to the commands
    for command in commands(language, text):
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=120, cwd=ROOT, env=environment, check=False
        )
        assert result.returncode == 0, result.stderr
        assert result.stdout
        assert '"code"' not in result.stdout  # curl ends well on a problem, too


def commands(language: str, text: str) -> list[list[str]]:
    if language == "python":
        return [[sys.executable, "-c", text]]
    python = f"{sys.executable} -m modelmora"
    lines = [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]
    return [["bash", "-c", line.replace(".venv/bin/modelmora", python)] for line in lines]


def test_the_manifest_is_valid() -> None:
    [manifest] = [text for kind, _, text in BLOCKS if kind == "validate"]
    [document] = load_text(manifest, Path("README.md"), {})
    assert document.error is None
    assert document.deployment is not None


def test_every_link_of_the_documentation_leads_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())]
    assert [f"{page.relative_to(ROOT)}: {link}" for page, link in links if not (page.parent / link).exists()] == []
