"""Where there is no shared memory, or too little of it: an error in words before any write, never a signal."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.tensor_process import Refused, TensorProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]  # of several processes each

MB = 1_000_000
Mount = Callable[..., None]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "s")


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[tuple[Path, Mount]]:
    """A tmpfs of 64 MB, and how to mount it anew."""
    folder = tmp_path / "volume"
    folder.mkdir()

    def mount(options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        if done.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")

    mount("size=64m")
    yield folder, mount
    subprocess.run(["umount", str(folder)], timeout=30, check=True)


@pytest.fixture
def pair(path: str) -> Iterator[tuple[TensorProcess, TensorProcess]]:
    """One that listens, and one that will connect."""
    with TensorProcess() as listening, TensorProcess() as client:
        listening.ask(f"listener = Listener({path!r}, Terms(Quota(2**30, 64)))")
        yield listening, client


@pytest.mark.req("EDGE-4", "FR-011")
def test_a_full_volume_is_an_error_before_any_write_and_room_comes_back(
    volume: tuple[Path, Mount], pair: tuple[TensorProcess, TensorProcess], path: str
) -> None:
    folder, _ = volume
    listening, client = pair
    client.ask(
        f"session = connect({path!r}, folder=Path({str(folder)!r}))\n"
        "first = session.put(np.full(30 * 10**6, 5, np.uint8))"
    )
    with pytest.raises(Refused, match=f"InsufficientMemory: no room in {folder} for 50"):
        client.ask("session.put(np.ones(50 * 10**6, np.uint8))")
    with pytest.raises(Refused, match="InsufficientMemory"):
        client.ask("session.empty(70 * 10**6, np.uint8)")
    client.ask("session.send(first)")
    assert listening.ask("session = listener.accept(30); got = session.receive(30); got.numpy().sum()") == 150 * MB
    listening.ask("got.release(); del got")
    client.ask("first.release(); until(lambda: session.lent == 0)")
    client.ask("session.send(np.full(60 * 10**6, 2, np.uint8))")
    assert listening.ask("session.receive(30).numpy().sum()") == 120 * MB
    client.kill()
    assert listening.ask("session.wait(30); gc.collect(); arenas_mapped()") == 0
    free = "import shutil; shutil.disk_usage(FOLDER).used".replace("FOLDER", repr(str(folder)))
    assert listening.ask(free) == 0


@pytest.mark.req("EDGE-4")
def test_a_volume_that_others_have_filled_is_an_error_too(
    volume: tuple[Path, Mount], pair: tuple[TensorProcess, TensorProcess], path: str
) -> None:
    folder, _ = volume
    _, client = pair
    (folder / "others").write_bytes(b"x" * 60 * MB)
    client.ask(f"session = connect({path!r}, folder=Path({str(folder)!r}))")
    with pytest.raises(Refused, match="InsufficientMemory"):
        client.ask("session.put(np.ones(10 * 10**6, np.uint8))")
    (folder / "others").unlink()
    assert client.ask("session.put(np.ones(10 * 10**6, np.uint8)).numpy().sum()") == 10 * MB


@pytest.mark.req("EDGE-4", "FR-006", "FR-013a")
def test_a_volume_that_is_read_only_absent_or_no_memory_gives_none(
    volume: tuple[Path, Mount], pair: tuple[TensorProcess, TensorProcess], path: str
) -> None:
    folder, mount = volume
    _, client = pair
    mount("remount,ro")
    for where, problem in ((folder, "Read-only"), (folder / "none", "No such file"), ("/proc", "no shared memory")):
        client.ask(f"session = connect({path!r}, folder=Path({str(where)!r}))")
        with pytest.raises(Refused, match=f"SharedMemoryUnavailable: no shared memory .*{problem}|{problem}"):
            client.ask("session.put(np.ones(10))")
        assert client.ask("session.over") in {False, None}
    mount("remount,rw")


@pytest.mark.req("FR-013a")
def test_the_folder_may_come_from_the_environment(volume: tuple[Path, Mount], path: str) -> None:
    folder, _ = volume
    with TensorProcess({"MODELMORA_SHARED_MEMORY_DIR": str(folder)}) as process:
        assert process.ask("tensors.capabilities().backing") == "tmpfs"
        process.ask(f"listener = Listener({path!r}); session = connect({path!r}); held = session.empty(10**6)")
        assert process.ask(f"import shutil; shutil.disk_usage({str(folder)!r}).used") >= 4 * MB


_LIMITING = """
import resource
KINDS = (resource.RLIMIT_FSIZE, resource.RLIMIT_AS, resource.RLIMIT_NOFILE)
HARD = [resource.getrlimit(kind)[1] for kind in KINDS]
def limit(kind, soft): resource.setrlimit(kind, (soft, resource.getrlimit(kind)[1]))
def forbid(*_): raise PermissionError(1, "Operation not permitted")
def used(): return int(Path("/proc/self/statm").read_text().split()[0]) * 4096
def next_descriptor():
    last = os.dup(0)
    os.close(last)
    return last
"""
LIMITS = {
    # A filter of system calls would do so too.
    "no memfd": ("os.memfd_create = forbid", r"SharedMemoryUnavailable.*Operation not permitted"),
    "no large files": ("limit(resource.RLIMIT_FSIZE, 2**20)", r"InsufficientMemory.*too large"),
    "no address space": ("limit(resource.RLIMIT_AS, used() + 2**24)", r"InsufficientMemory.*Cannot allocate"),
    "no descriptors": ("limit(resource.RLIMIT_NOFILE, next_descriptor())", r"SharedMemoryUnavailable.*Too many open"),
}


@pytest.mark.req("EDGE-4", "FR-006")
@pytest.mark.parametrize(("limit", "problem"), LIMITS.values(), ids=LIMITS)
def test_a_process_that_may_not_make_arenas_hears_so_and_can_still_be_sent_some(
    pair: tuple[TensorProcess, TensorProcess], path: str, limit: str, problem: str
) -> None:
    listening, client = pair
    client.ask(f"{_LIMITING}\nsession = connect({path!r}); array = np.ones(100 * 10**6, np.uint8)")
    client.ask(limit)
    with pytest.raises(Refused, match=problem):
        client.ask("session.put(array)")
    client.ask("[limit(kind, hard) for kind, hard in zip(KINDS, HARD)]")
    listening.ask("session = listener.accept(30); session.send(np.full(10, 4.0))")
    assert client.ask("session.receive(30).numpy().sum()") == 40


@pytest.mark.req("FR-006", "FR-013a", "US3-AS2")
def test_it_can_be_switched_off(path: str) -> None:
    with TensorProcess({"MODELMORA_SHARED_MEMORY": "off"}) as process, TensorProcess() as other:
        found = "found = tensors.capabilities(); [found.shared_memory, found.backing, found.why]"
        shared, backing, why = process.ask(found)
        assert (shared, backing) == (False, "")
        assert "MODELMORA_SHARED_MEMORY" in why
        process.ask(f"listener = Listener({path!r})")
        with pytest.raises(Refused, match="SharedMemoryUnavailable: shared memory is switched off"):
            process.ask(f"connect({path!r})")
        other.ask(f"session = connect({path!r})")
        with pytest.raises(Refused, match="SharedMemoryUnavailable: shared memory is switched off"):
            process.ask("listener.accept(30).put(np.ones(3))")


@pytest.mark.req("FR-013a", "FR-013b")
def test_the_command_line_says_what_the_machine_has() -> None:
    command = [sys.executable, "-m", "modelmora", "info", "--system"]
    table = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "shared memory  yes (memfd)" in table
    said = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=60, check=True).stdout
    document = json.loads(said)
    assert (document["sharedMemory"], document["backing"], document["why"]) == (True, "memfd", "")
    cards = Path("/proc/driver/nvidia/gpus")
    assert len(document["gpus"]) == (len(list(cards.iterdir())) if cards.is_dir() else 0)


@pytest.mark.req("EDGE-4")
def test_who_listens_without_descriptors_takes_sessions_again_when_it_has_some(
    pair: tuple[TensorProcess, TensorProcess], path: str
) -> None:
    listening, client = pair
    listening.ask(_LIMITING + "\nlimit(resource.RLIMIT_NOFILE, next_descriptor())")
    with pytest.raises(Refused, match=r"PeerGone|WorkerUnavailable"):
        client.ask(f"connect({path!r}, timeout_s=0.5)")
    listening.ask("limit(resource.RLIMIT_NOFILE, HARD[2])")
    client.ask(f"session = connect({path!r}, timeout_s=20); session.send(np.full(10, 3.0))")
    taken = """
while True:
    session = listener.accept(30)
    try:
        total = session.receive(30).numpy().sum()
        break
    except errors.PeerGone:  # who gave up waiting
        pass
total
"""
    assert listening.ask(taken) == 30
