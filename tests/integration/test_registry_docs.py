"""The page about the model registry, and its example, do what they say."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import Metric

from modelmora.registry import POLICIES, ModelRegistry
from modelmora.registry.metrics import RegistryCollector

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "registry.md").read_text(encoding="utf-8")


def run(*arguments: str) -> str:
    command = [sys.executable, "-W", "error", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_every_snippet_of_the_page_runs_and_prints_what_stands_beside_it() -> None:
    program = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    expected = re.findall(r"print\(.*\)  +# (.+)$", program, re.MULTILINE)
    printed = run("-c", program).splitlines()
    assert len(printed) == len(expected) >= 5
    for line, words in zip(printed, expected, strict=True):
        assert line.startswith(words.removesuffix("…"))


@pytest.mark.req("US1", "US1-AS1", "FR-003")
def test_the_two_nodes_of_the_example_share_one_model() -> None:
    [shown] = re.findall(r"```console\n\$ python examples/two_nodes.py\n(.*?)```", PAGE, re.DOTALL)
    printed = run("examples/two_nodes.py").splitlines()
    assert re.sub(r"MB: \d+", "MB: 102", "\n".join(printed)) == shown.strip()


def test_the_page_names_every_policy_and_every_metric() -> None:
    assert set(re.findall(r"^\| `([a-z-]+)`", PAGE, re.MULTILINE)) == set(POLICIES)
    names = [f"{metric.name}_total" if metric.type == "counter" else metric.name for metric in _metrics()]
    short = [name.removeprefix("modelmora_registry") for name in names]
    assert [name for name in short if f"`{name}`" not in PAGE and f"`modelmora_registry{name}`" not in PAGE] == []


def _metrics() -> list[Metric]:
    return list(RegistryCollector(ModelRegistry()).collect())
