"""The benchmark of the router runs, and what it writes has what the requirements ask for, each beside its rival."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(300)  # each runs a benchmark, in short


def measured(part: str, folder: Path) -> dict[str, dict[str, Any]]:
    """The figures of one part, by name, as a quick run wrote them. How fast this machine is now, no test asks."""
    brief = ("--quick", "--rounds", "1", "--seconds", "0.3")
    command = [sys.executable, "benchmarks/bench_router.py", *brief, "--only", part]
    done = subprocess.run(
        [*command, "--results", str(folder)], capture_output=True, text=True, cwd=ROOT, timeout=150, check=False
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


@pytest.mark.req("REQ-PERF-001", "SUCC-MVP-1", "REQ-QUEUE-004b")
def test_what_is_added_to_a_model_is_measured_over_both_protocols(tmp_path: Path) -> None:
    figures = measured("overhead", tmp_path)
    for protocol in ("gRPC", "REST"):
        for clients in (1, 10):
            for percentile in (50, 99):
                added = figures[f"added to 50 ms, {protocol}, clients: {clients}, p{percentile}"]
                assert (added["unit"], added["goal"], added["goal_is"]) == ("ms", 100, "at most")
    share = figures["share of the queue in a request of 50 ms"]
    assert share["goal"] == 0.01
    assert 0 < share["value"] < 1


@pytest.mark.req("SC-005", "NUM-10b", "SUCC-V1-2")
def test_the_way_through_the_router_is_measured_beside_a_bare_echo_and_a_bare_proxy(tmp_path: Path) -> None:
    figures = measured("noop", tmp_path)  # it fails if one of its requests does
    for shape, unit in (("1 client, p50", "ms"), ("100 clients", "req/s"), ("open loop, 500 req/s, p99", "ms")):
        rows = [figures[f"no-op model, {shape}: {system}"] for system in ("ModelMora", "bare echo", "bare proxy")]
        assert {row["unit"] for row in rows} == {unit}
        assert rows[0]["goal"] > 0
    compared = figures["no-op model, throughput of 100 clients ÷ of 10 clients (SC-005)"]
    assert (compared["goal"], compared["goal_is"]) == (1.0, "at least")


@pytest.mark.req("NUM-06", "NUM-07", "RM-2.3c")
def test_large_results_are_measured_by_client_and_by_chunk(tmp_path: Path) -> None:
    figures = measured("streams", tmp_path)
    for kind in ("made", "prepared"):
        title = f"10 results of 3 MB each, {kind}, InferStream"
        one, ten = figures[f"{title}, 1 client"], figures[f"{title}, 10 clients"]
        assert (one["unit"], one["goal"], ten["goal"], one["goal_is"]) == ("MB/s", 31.92, 33.31, "at least")
        assert figures[f"{title}, 1 client, a chunk of 1 MB"]["goal"] == 23.53
