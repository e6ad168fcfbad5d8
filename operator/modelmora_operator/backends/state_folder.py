"""The folder of one local server: its lock, the sockets and the files of its workers.

The lock is the kernel's (flock): it ends with its holder, however that ended, and is not inherited by workers. Whoever
has it sweeps what a killed server has left. A path of a unix socket may have 107 bytes, so where the folder's own path
is too long the sockets go to a short temporary folder, whose path is written down for the next sweep.
"""

import fcntl
import itertools
import os
import secrets
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from modelmora.errors import AlreadyRunning, InvalidSettings
from modelmora_operator.settings import CLIENT_SOCKETS

_LONGEST_SOCKET_PATH: Final = 107  # sun_path without its terminating zero
_LONGEST_NAME: Final = 24  # "/a1b2-12345.s", or the fork server's "/listener-xxxxxxxx"


@dataclass(frozen=True, slots=True)
class WorkerPlace:
    """The paths of one worker, used by no other before or after it."""

    folder: Path
    socket: Path

    @property
    def address(self) -> str:
        """gRPC target."""
        return f"unix:{self.socket}"

    @property
    def settings_file(self) -> Path:
        return self.folder / "settings.json"

    @property
    def termination_message(self) -> Path:
        return self.folder / "termination.json"

    @property
    def files(self) -> Path:
        return self.folder / "files"

    def remove(self) -> None:
        """Deletes all of it."""
        self.socket.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


class StateFolder:
    """A context manager: locked and swept inside."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        # A worker of a killed server may live on for a moment and unlink its socket then: names never come twice.
        self._token = secrets.token_hex(2)
        self._numbers = itertools.count(1)
        self._lock: int | None = None
        self.sockets = Path()
        self.preferred_sockets = self._path / "run"
        self.client_sockets = self._path / CLIENT_SOCKETS  # where programs look for them if no other folder is set

    def __enter__(self) -> Self:
        """Raises:
        AlreadyRunning: another server has it.
        InvalidSettings: the folder cannot be made or written to.
        """
        try:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _locked(self._path / "lock")
            self._sweep()
            self.sockets = self._socket_folder()
        except OSError as error:
            self._unlock()
            raise InvalidSettings(
                f"the state directory {self._path} cannot be used: {error.strerror}",
                field="state_dir",
                file=str(self._path),
                remedy="set MODELMORA_STATE_DIR to a directory that this user may write to",
            ) from error
        except BaseException:
            self._unlock()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sweep()
        self._unlock()

    def place(self) -> WorkerPlace:
        """Paths for one more worker."""
        name = f"{self._token}-{next(self._numbers)}"
        folder = self._path / "workers" / name
        folder.mkdir(mode=0o700, parents=True)
        return WorkerPlace(folder, self.sockets / f"{name}.s")

    def _socket_folder(self) -> Path:
        preferred = self.preferred_sockets
        if len(os.fsencode(preferred)) + _LONGEST_NAME <= _LONGEST_SOCKET_PATH:
            preferred.mkdir(mode=0o700)
            return preferred
        short = Path(tempfile.mkdtemp(prefix="modelmora-"))  # 0700 by itself
        self._note.write_text(str(short), encoding="utf-8")
        return short

    def _sweep(self) -> None:
        if self._note.exists():
            shutil.rmtree(self._note.read_text(encoding="utf-8"), ignore_errors=True)
            self._note.unlink()
        shutil.rmtree(self.preferred_sockets, ignore_errors=True)
        shutil.rmtree(self.client_sockets, ignore_errors=True)
        shutil.rmtree(self._path / "workers", ignore_errors=True)

    @property
    def _note(self) -> Path:
        return self._path / "run.path"

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _locked(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise AlreadyRunning(
            f"another server (process {holder or 'unknown'}) uses the state directory {path.parent}",
            field="state_dir",
            file=str(path),
            remedy="stop it, or give this one a directory of its own with MODELMORA_STATE_DIR",
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor
