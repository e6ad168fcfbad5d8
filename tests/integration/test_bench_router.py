"""The benchmark of the router runs, and what it writes has what the requirements ask for, each beside its rival."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def measured(part: str, folder: Path) -> dict[str, dict[str, Any]]:
    """The figures of one part, by name, as a quick run wrote them. How fast this machine is now, no test asks."""
    command = [sys.executable, "benchmarks/bench_router.py", "--quick", "--rounds", "1", "--only", part]
    done = subprocess.run(
        [*command, "--results", str(folder)], capture_output=True, text=True, cwd=ROOT, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads((folder / f"router-{part}.json").read_text())
    assert written["machine"].keys() >= {"cpu", "cores", "python", "memory_gib"}
    assert "absent" not in written
    return {figure["name"]: figure for figure in written["figures"]}


@pytest.mark.req("REQ-QUEUE-001c", "NUM-08", "NUM-09", "NUM-10", "NUM-16", "DEC-3")
def test_the_queue_is_measured_beside_the_one_of_asyncio_and_in_order(tmp_path: Path) -> None:
    figures = measured("queue", tmp_path)
    ours, rival = (figures[f"queue, put + get: {of}"] for of in ("ModelMora", "asyncio.PriorityQueue"))
    assert (ours["unit"], ours["goal"], ours["goal_is"]) == ("operations/s", 1_000_000, "at least")
    assert ours["baseline"] == rival["value"] > 0
    assert ours["samples"] == rival["samples"] >= 3
    assert (figures["queue, inversions"]["value"], figures["queue, inversions"]["holds"]) == (0, True)
    for what, goal in (("put", 0.7), ("get", 1.7)):
        one = figures[f"queue, one {what}, median with a clock around each (NUM-09)"]
        assert (one["unit"], one["goal"], one["goal_is"]) == ("µs", goal, "at most")
        assert one["value"] > 0
