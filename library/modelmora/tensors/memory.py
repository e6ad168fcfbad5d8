"""Files in memory without names: made, and checked when they come from another process.

A file is a memfd, sealed so that nobody can cut it short, or, in a folder that says so, one of `O_TMPFILE` on its
tmpfs, which counts against the size of that volume but cannot be sealed. Either way the kernel frees it with its last
holder. All of its pages are there before the first is written: memory that is missing is an error here, never a SIGBUS
later.
"""

import ctypes
import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import Final

from modelmora.errors import InsufficientMemory, InvalidRequest, SharedMemoryUnavailable
from modelmora.registry.memory import Memory
from modelmora.tensors import mappings
from modelmora.tensors.mappings import HUGE_PAGE_BYTES, PAGE_BYTES, Bytes

_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_TMPFS_MAGIC: Final = 0x01021994
_NO_ROOM: Final = {errno.ENOSPC, errno.ENOMEM, errno.EDQUOT, errno.EFBIG}
_AT_ONCE_BYTES: Final = 64 * 2**20  # a signal lets fallocate begin anew: in pieces, it comes to an end nevertheless


def create(size_bytes: int, folder: Path | None) -> tuple[int, Bytes]:
    """The descriptor of a new file of that size, with all its memory, and that memory, to be written.

    Raises:
        InsufficientMemory: there is not so much.
        SharedMemoryUnavailable: such files cannot be made here.
    """
    _require_free(size_bytes)
    fd = _opened(folder)
    try:
        _fill(fd, size_bytes)
        if folder is None:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        return fd, mappings.own(fd, size_bytes)
    except OSError as error:
        os.close(fd)
        raise _failed(error, size_bytes, folder) from error
    except BaseException:
        os.close(fd)
        raise


def _require_free(size_bytes: int) -> None:
    """The kernel would not refuse: it would end a process, this one or another."""
    free = Memory().free_bytes()
    if free is not None and size_bytes > free:
        raise InsufficientMemory(
            f"no room for {size_bytes} bytes of shared memory: {free} bytes are free",
            field="sharedMemory.sizeLimit",
            remedy="release tensors, or give the machine or the container more memory",
        )


def _opened(folder: Path | None) -> int:
    try:
        if folder is None:
            return os.memfd_create("modelmora-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC | os.O_EXCL, 0o600)
    except OSError as error:
        raise _failed(error, 0, folder) from error


def _fill(fd: int, size_bytes: int) -> None:
    """Huge pages where they can be had, each grown from a small one; then whatever is missing."""
    os.truncate(fd, size_bytes)
    whole = size_bytes // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES
    for begin in range(0, whole, HUGE_PAGE_BYTES):
        os.posix_fallocate(fd, begin, PAGE_BYTES)
    if whole:
        mappings.make_huge(fd, size_bytes)
    for begin in range(0, size_bytes, _AT_ONCE_BYTES):
        os.posix_fallocate(fd, begin, min(_AT_ONCE_BYTES, size_bytes - begin))


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


# ------------------------------------------------------------------------------------------------ of other processes


def foreign(fd: int, size_bytes: int) -> Bytes:
    """The memory of a file from another process, if that is what it is said to be, and stays so; to be read.

    What is not sealed must be a file without a name on a tmpfs: then only its owner can cut it short, and would end
    the reader by a SIGBUS. That is promised to nobody.

    Raises:
        InvalidRequest: it is not.
        InsufficientMemory: no room for the table of its pages.
    """
    _check(fd, size_bytes)
    try:
        return mappings.foreign(fd, size_bytes)
    except OSError as error:
        raise _unusable(error, size_bytes) from error


def writable(fd: int, size_bytes: int) -> Bytes:
    """As `foreign`, to be written.

    Raises:
        As `foreign`.
    """
    try:
        return mappings.shared(fd, size_bytes)
    except OSError as error:
        raise _unusable(error, size_bytes) from error


def _check(fd: int, size_bytes: int) -> None:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink:
        raise _unfit("it is no file without a name")
    if found.st_size != size_bytes:
        raise _unfit(f"it has {found.st_size} bytes, and is said to have {size_bytes}")
    if not _on_tmpfs(fd):
        raise _unfit("it is not in memory of ordinary pages")
    if found.st_blocks * 512 < size_bytes:
        raise _unfit("a part of its memory is missing")


def _unusable(error: OSError, size_bytes: int) -> InvalidRequest | InsufficientMemory:
    if error.errno in _NO_ROOM:
        return InsufficientMemory(f"no room for the page table of {size_bytes} bytes", remedy="release tensors")
    return _unfit(error.strerror or str(error))


def _unfit(problem: str) -> InvalidRequest:
    return InvalidRequest(f"an arena cannot be used: {problem}", field="arena", remedy="open arenas by the client SDK")


class _Statfs(ctypes.Structure):
    _fields_ = (("f_type", ctypes.c_long), ("rest", ctypes.c_byte * 248))


def _on_tmpfs(fd: int) -> bool:
    found = _Statfs()
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.fstatfs(fd, ctypes.byref(found)) == 0 and found.f_type == _TMPFS_MAGIC)
