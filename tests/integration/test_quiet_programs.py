"""What gRPC's core has to say of connections is no line of our logs, in a pod as little as on a laptop."""

import os
import subprocess
import sys

import pytest

# Runs a program as `python -m` does, and tells what the environment was when gRPC was imported.
_SPY = """
import importlib.abc, os, runpy, sys

class Spy(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "grpc._cython":
            print("seen", os.environ.get("GRPC_VERBOSITY"), flush=True)

sys.meta_path.insert(0, Spy())
module, *sys.argv[1:] = sys.argv[1:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [
        (["modelmora_worker", "--settings", "/nowhere.json"], None),
        (["modelmora_worker", "--settings", "/nowhere.json"], "INFO"),
        (["modelmora_operator", "--help"], None),
        (["modelmora", "serve", "--rest-port", "none"], None),
    ],
    ids=["worker", "worker of a person who wants more", "operator", "serve"],
)
def test_grpc_says_only_errors_unless_a_person_wants_more(arguments: list[str], chosen: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}  # noqa: TID251
    environment |= {"GRPC_VERBOSITY": chosen} if chosen else {}
    done = subprocess.run(
        [sys.executable, "-c", _SPY, *arguments],
        capture_output=True, text=True, env=environment, timeout=60, check=False,
    )  # fmt: skip
    assert f"seen {chosen or 'ERROR'}\n" in done.stdout, done.stdout + done.stderr
