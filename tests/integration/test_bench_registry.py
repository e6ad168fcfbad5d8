"""The benchmark of the registry runs, and what it writes has what the requirements ask for, bounds beside."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(180)  # each runs a benchmark, in short


def measured(part: str, folder: Path) -> dict[str, dict[str, Any]]:
    """The figures of one part, by name, as a quick run wrote them. How fast this machine is now, no test asks."""
    command = [sys.executable, "benchmarks/bench_registry.py", "--quick", "--only", part, "--results", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=150, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads((folder / f"registry-{part}.json").read_text())
    assert written["machine"].keys() >= {"cpu", "cores", "python", "memory_gib"}
    assert "absent" not in written
    return {figure["name"]: figure for figure in written["figures"]}


@pytest.mark.req("NUM-23", "SC-002", "S3-1", "S3-3", "S3-6")
def test_a_hit_is_measured_beside_the_clock_itself(tmp_path: Path) -> None:
    figures = measured("hits", tmp_path)
    median, p99 = figures["hit, median"], figures["hit, p99 (SC-002: 100 ms)"]
    assert (median["unit"], median["goal"], median["samples"]) == ("µs", 1.0, 20_000)
    assert p99["goal"] == 100_000
    assert 0 < median["baseline"] < median["value"] <= p99["value"]
    assert figures["hits that were not counted"]["holds"]


@pytest.mark.req("FR-002", "S3-1")
def test_32_threads_are_counted_exactly(tmp_path: Path) -> None:
    figures = measured("threads", tmp_path)
    assert figures["32 threads, acquire + release"]["value"] > 0
    for name in ("references too many or too few", "hits that were not counted", "loads"):
        assert figures[f"32 threads, {name}"]["holds"]


@pytest.mark.req("SC-001", "NUM-20", "NUM-21", "S3-1", "S3-2", "S3-5", "S3-7")
def test_what_sharing_saves_is_measured_with_the_bound_beside(tmp_path: Path) -> None:
    figures = measured("sharing", tmp_path)
    for count in (3, 10):
        memory = figures[f"{count} callers of 20 MB, memory, saved (baseline: the bound)"]
        assert (memory["unit"], memory["goal"], memory["goal_is"]) == ("%", 60, "at least")
        assert memory["baseline"] == pytest.approx(100 * (count - 1) / count)
        assert 60 <= memory["value"] <= memory["baseline"] + 1
        shared = figures[f"{count} callers of 20 MB, time to load, one registry"]
        assert shared["baseline"] == figures[f"{count} callers of 20 MB, time to load, one process each"]["value"]


@pytest.mark.req("NUM-32")
def test_three_large_models_are_measured_not_extrapolated(tmp_path: Path) -> None:
    figures = measured("large", tmp_path)  # 1500 MB each, in a quick run 30 MB
    whole, shared = (
        figures[f"3 callers of 30 MB, memory, {arm}"]["value"] for arm in ("one process each", "one registry")
    )
    assert shared < 0.4 * whole
