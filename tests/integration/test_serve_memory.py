"""What loading and unloading leaves behind: nothing."""

from pathlib import Path

import psutil
import pytest

from tests.support.scripted import scripted
from tests.support.servers import Server, serving, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
CYCLES = 60
PER_UNLOAD = 100_000  # bytes; in-process unloading leaves five thousand times that


def cycle(server: Server, times: int) -> None:
    with server.client() as client:
        for _ in range(times):
            client.infer("a", "hello")
            client.unload("a")


def unique_bytes(server: Server) -> int:
    """Of the server and of its warm parent, without what they share with others."""
    return sum(process.memory_full_info().uss for process in [psutil.Process(server.pid), *server.descendants()])


@pytest.mark.req("REQ-LIFE-005c", "RM-1.3g", "NUM-01")
def test_load_and_unload_cycles_leave_no_memory_no_process_and_no_open_file(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    scripted(folder, "a")
    with serving(folder, tmp_path, warm=True) as server:
        cycle(server, 20)
        wait_for(lambda: server.sockets() == [], within_s=60, what="the worker to go")
        memory, files, family = unique_bytes(server), psutil.Process(server.pid).num_fds(), len(server.descendants())
        cycle(server, CYCLES)
        wait_for(lambda: server.sockets() == [], within_s=60, what="the worker to go")
        assert len(server.descendants()) == family
        assert psutil.Process(server.pid).num_fds() <= files + 2
        assert unique_bytes(server) - memory < CYCLES * PER_UNLOAD
