"""The path at which callers of a machine find a worker, while workers come and go."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelmora.errors import AddressInUse
from modelmora_worker.meeting import TENSORS, Meeting, tidied


@dataclass(frozen=True, slots=True)
class Other(Meeting):
    """That of another process."""

    pid: int = 0

    @property
    def own(self) -> Path:
        return self.path.with_name(f"{self.path.name}.{self.pid}")


@contextmanager
def living() -> Iterator[int]:
    """The pid of a process that lives until the end."""
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        yield process.pid
    finally:
        process.communicate(timeout=20)


def listening(meeting: Meeting) -> Meeting:
    """As if its sockets were there."""
    meeting.own.touch()
    Path(f"{meeting.own}{TENSORS}").touch()
    return meeting


def test_the_path_leads_to_the_newest_that_serves(tmp_path: Path) -> None:
    path = tmp_path / "model.sock"
    with living() as pid:
        older, newer = listening(Other(path, 0o600, pid)), listening(Meeting(path, 0o600))
        older.open()
        assert path.resolve() == older.own
        newer.open()
        assert path.resolve() == newer.own
        assert newer.own.stat().st_mode & 0o777 == 0o600
        older.leave()
        assert path.resolve() == newer.own
        newer.leave()
        assert not path.is_symlink()


def test_if_the_newest_leaves_it_leads_to_one_that_stays(tmp_path: Path) -> None:
    path = tmp_path / "model.sock"
    with living() as pid:
        older, newer = listening(Other(path, 0o600, pid)), listening(Meeting(path, 0o600))
        older.open()
        newer.open()
        newer.leave()
        assert path.resolve() == older.own


def test_it_never_leads_to_one_that_is_dead(tmp_path: Path) -> None:
    path = tmp_path / "model.sock"
    with living() as pid:
        pass
    dead, last = listening(Other(path, 0o600, pid)), listening(Meeting(path, 0o600))
    dead.open()
    last.open()
    last.leave()
    assert not path.is_symlink()


def test_what_a_dead_one_left_is_tidied_away(tmp_path: Path) -> None:
    path = tmp_path / "model.sock"
    with living() as pid:
        pass
    dead = listening(Other(path, 0o600, pid))
    with tidied(Meeting(path, 0o600)):
        assert not dead.own.exists()
        assert not Path(f"{dead.own}{TENSORS}").exists()


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(AddressInUse, match="callers cannot be led"):
        Meeting(tmp_path / "none" / "model.sock", 0o600).open()
