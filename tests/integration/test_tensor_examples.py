"""The examples of shared memory run as they stand there."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def run(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=ROOT, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


@pytest.mark.req("US3", "US3-AS1")
def test_frames_of_100_mb_go_from_producer_to_consumer() -> None:
    lines = run("examples/frames.py", "3").splitlines()
    assert lines[:3] == [f"frame {number}: 100 MB, mean of its middle {number}" for number in range(3)]
    assert lines[3].endswith("frames a second, drawing included")


@pytest.mark.req("US4", "US4-AS2", "US4-AS3", "FR-007")
def test_numpy_and_pytorch_see_one_memory_in_two_processes() -> None:
    pytest.importorskip("torch")
    shown = run("examples/exchange.py")
    assert "NumPy sees  [[10.0, 1.0, 2.0], [3.0, 4.0, 5.0]]" in shown
    assert "doubled     [[20.0, 2.0, 4.0], [6.0, 8.0, 10.0]]" in shown
