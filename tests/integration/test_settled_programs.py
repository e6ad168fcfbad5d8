"""Every process on the way of a request takes what it has built by then out of garbage collection, before it serves.

Otherwise CPython looks through all of it now and then, and all requests wait: 100 ms in a server, 400 ms beside torch.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.kube_server import kube_server
from tests.support.router_program import router_program
from tests.support.routing import deployment
from tests.support.scripted import scripted
from tests.support.servers import serving, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# Imported by the interpreter itself as it starts.
SPY = """
import gc, os
real = gc.freeze
def freeze():
    real()
    with open({log!r}, "a") as log:
        log.write(f"{{os.getpid()}}\\n")
gc.freeze = freeze
"""
Settled = Callable[[], list[int]]


@pytest.fixture
def settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settled:
    """The processes that did, one entry each time."""
    (tmp_path / "spy").mkdir()
    log = tmp_path / "settled"
    log.touch()
    (tmp_path / "spy" / "sitecustomize.py").write_text(SPY.format(log=str(log)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "spy"))
    return lambda: [int(pid) for pid in log.read_text().split()]


def test_a_server_and_its_worker(tmp_path: Path, settled: Settled) -> None:
    scripted(tmp_path / "models", "a")
    with serving(tmp_path / "models", tmp_path) as server, server.client() as client:
        wait_for(lambda: server.pid in settled(), within_s=30, what="the server to settle")
        client.infer("a", "hello")
        workers = {process.pid for process in server.descendants()} & set(settled())
        assert [settled().count(pid) for pid in workers] == [2]  # after its imports, and when it has loaded


def test_a_router_in_a_cluster(tmp_path: Path, settled: Settled) -> None:
    with kube_server(tmp_path) as kube:
        kube.put_deployment(deployment("one"))
        given = {"ROUTER_KUBECONFIG": str(kube.kubeconfig), "ROUTER_POD_NAME": "router-a", "ROUTER_POD_UID": "uid-a"}
        with router_program(tmp_path, **given) as router:
            wait_for(lambda: router.process.pid in settled(), within_s=60, what="the router to settle")
