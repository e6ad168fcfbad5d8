"""Files in memory without names: made, checked when they come from another process, and mapped.

A file is a memfd, sealed so that nobody can cut it short, or, in a folder that says so, one of `O_TMPFILE` on its
tmpfs, which counts against the size of that volume but cannot be sealed. Either way the kernel frees it with its last
holder. All of its pages are there before the first is written: memory that is missing is an error here, never a SIGBUS
later.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import stat
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from modelmora.errors import InsufficientMemory, InvalidRequest, SharedMemoryUnavailable

Bytes = npt.NDArray[np.uint8]

PAGE_BYTES: Final = mmap.PAGESIZE
_POPULATE_READ: Final = 22  # of madvise, since Linux 5.14; mmap does not name them yet
_POPULATE_WRITE: Final = 23
_MAP_NORESERVE: Final = 0x4000
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_TMPFS_MAGIC: Final = 0x01021994
_NO_ROOM: Final = {errno.ENOSPC, errno.ENOMEM, errno.EDQUOT, errno.EFBIG}


def create(size_bytes: int, folder: Path | None) -> int:
    """The descriptor of a new file of that size, with all its memory.

    Raises:
        InsufficientMemory: there is not so much.
        SharedMemoryUnavailable: such files cannot be made here.
    """
    fd = _opened(folder)
    try:
        os.posix_fallocate(fd, 0, size_bytes)
        if folder is None:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError as error:
        os.close(fd)
        raise _failed(error, size_bytes, folder) from error
    return fd


def _opened(folder: Path | None) -> int:
    try:
        if folder is None:
            return os.memfd_create("modelmora-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC | os.O_EXCL, 0o600)
    except OSError as error:
        raise _failed(error, 0, folder) from error


def _failed(error: OSError, size_bytes: int, folder: Path | None) -> InsufficientMemory | SharedMemoryUnavailable:
    where = f"in {folder}" if folder else "on this machine"
    if error.errno in _NO_ROOM:
        return InsufficientMemory(
            f"no room {where} for {size_bytes} bytes of shared memory: {os.strerror(error.errno)}",
            field="sharedMemory.sizeLimit",
            remedy="release tensors, or allow more (spec.sharedMemory.sizeLimit)",
        )
    reason = os.strerror(error.errno) if error.errno else str(error)
    return SharedMemoryUnavailable(
        f"no shared memory can be made {where}: {reason}", remedy="tensors travel as bytes instead"
    )


def check(fd: int, size_bytes: int) -> None:
    """Whether a file from another process is what it is said to be, and stays so.

    What is not sealed must be a file without a name on a tmpfs: then only its owner can cut it short, and would end
    the reader by a SIGBUS. That is promised to nobody.

    Raises:
        InvalidRequest: it is not.
    """
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink:
        raise _unfit("it is no file without a name")
    if found.st_size != size_bytes:
        raise _unfit(f"it has {found.st_size} bytes, and is said to have {size_bytes}")
    if not _sealed(fd) and not _on_tmpfs(fd):
        raise _unfit("it can be cut short: neither is it sealed, nor is it on a tmpfs")
    if found.st_blocks * 512 < size_bytes:
        raise _unfit("a part of its memory is missing")


def _unfit(problem: str) -> InvalidRequest:
    return InvalidRequest(f"an arena cannot be used: {problem}", field="arena", remedy="open arenas by the client SDK")


def _sealed(fd: int) -> bool:
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    except OSError:  # no memfd: no seals
        return False


class _Statfs(ctypes.Structure):
    _fields_ = (("f_type", ctypes.c_long), ("rest", ctypes.c_byte * 248))


def _on_tmpfs(fd: int) -> bool:
    found = _Statfs()
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.fstatfs(fd, ctypes.byref(found)) == 0 and found.f_type == _TMPFS_MAGIC)


def own(fd: int, size_bytes: int) -> Bytes:
    """All of a file of this process, to be written; its pages are there, so that no write waits for one.

    Raises:
        InsufficientMemory: they cannot be had.
    """
    return _mapped(fd, size_bytes, mmap.MAP_SHARED, _POPULATE_WRITE)


def foreign(fd: int, size_bytes: int) -> Bytes:
    """All of a file of another process, to be read. Who writes here writes a copy, and the other never sees it.

    Raises:
        InsufficientMemory: no room for the table of its pages.
    """
    return _mapped(fd, size_bytes, mmap.MAP_PRIVATE | _MAP_NORESERVE, _POPULATE_READ)


def shared(fd: int, size_bytes: int) -> Bytes:
    """All of a file of another process, to be written where it asked for that.

    Raises:
        InsufficientMemory: no room for the table of its pages.
    """
    return _mapped(fd, size_bytes, mmap.MAP_SHARED, None)


def _mapped(fd: int, size_bytes: int, flags: int, advice: int | None) -> Bytes:
    """The pages go when no array looks at them any more."""
    try:
        mapping = mmap.mmap(fd, size_bytes, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        if advice is not None:
            _populate(mapping, advice)
    except OSError as error:
        raise _failed(error, size_bytes, None) from error
    return np.frombuffer(mapping, dtype=np.uint8)


def _populate(mapping: mmap.mmap, advice: int) -> None:
    """Older kernels find the pages one by one, as they are used: slower, and as safe."""
    try:
        mapping.madvise(advice)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def address(array: "npt.NDArray[Any]") -> int:
    """Of its first element."""
    found: int = array.__array_interface__["data"][0]
    return found
