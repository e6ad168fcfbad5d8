"""Files in memory, as arrays of bytes: mapped, with their pages there, and given back when no array looks any more.

Where the kernel can, a mapping begins at a multiple of 2 MiB and consists of pages of that size: then the table of a
gigabyte has 512 entries, to be made and looked up, instead of 262,144.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import weakref
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

PAGE_BYTES: Final = mmap.PAGESIZE
HUGE_PAGE_BYTES: Final = 2 * 2**20
# Of mmap and madvise; Python does not name them yet.
_MAP_FIXED: Final = 0x10
_MAP_NORESERVE: Final = 0x4000
_DONTNEED: Final = 4
_POPULATE_READ: Final = 22  # since Linux 5.14
_POPULATE_WRITE: Final = 23
_COLLAPSE: Final = 25  # since Linux 6.1
# Of /proc/self/pagemap.
_THERE: Final = 62  # in memory, or swapped out
_OF_A_FILE: Final = 61
_PAGEMAP_SCAN: Final = 0xC0606610  # since Linux 6.7
_FILE, _PRESENT, _SWAPPED = 4, 8, 16

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_size_t
_libc.mmap.argtypes = (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_size_t, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int)
_FAILED: Final = 2 ** (8 * ctypes.sizeof(ctypes.c_size_t)) - 1


class _Pages:
    """Some pages of this process, which NumPy keeps as long as an array looks at them."""

    __slots__ = ("__array_interface__", "__weakref__")

    def __init__(self, begin: int, size_bytes: int) -> None:
        self.__array_interface__ = {"version": 3, "data": (begin, False), "shape": (size_bytes,), "typestr": "|u1"}
        weakref.finalize(self, _libc.munmap, begin, size_bytes).atexit = False


def make_huge(fd: int, size_bytes: int) -> None:
    """Gives a new file, which has a page in each 2 MiB, pages of that size, where the kernel has them."""
    begin = _mapped(fd, size_bytes, mmap.MAP_SHARED)
    whole = size_bytes // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES
    for at in range(begin, begin + whole, HUGE_PAGE_BYTES):
        if _libc.madvise(at, HUGE_PAGE_BYTES, _COLLAPSE):
            break  # it has none left, or knows none: small ones do as well
    _libc.munmap(begin, size_bytes)


def own(fd: int, size_bytes: int) -> Bytes:
    """All of a file of this process, to be written; its pages are there, so that no write waits for one.

    Raises:
        OSError: they cannot be had.
    """
    return _seen(fd, size_bytes, mmap.MAP_SHARED, _POPULATE_WRITE)


def foreign(fd: int, size_bytes: int) -> Bytes:
    """All of a file of another process, to be read. Who writes here writes a copy, and the other never sees it.

    Raises:
        OSError: no room for the table of its pages, or they are gone.
    """
    return _seen(fd, size_bytes, mmap.MAP_PRIVATE | _MAP_NORESERVE, _POPULATE_READ)


def shared(fd: int, size_bytes: int) -> Bytes:
    """All of a file of another process, to be written where it asked for that.

    Raises:
        OSError: no room for the table of its pages.
    """
    return _seen(fd, size_bytes, mmap.MAP_SHARED, None)


def _seen(fd: int, size_bytes: int, flags: int, advice: int | None) -> Bytes:
    begin = _mapped(fd, size_bytes, flags)
    pages = _Pages(begin, size_bytes)
    # Older kernels find the pages one by one, as they are used: slower, and as safe.
    if advice is not None and _libc.madvise(begin, size_bytes, advice) and ctypes.get_errno() != errno.EINVAL:
        raise _error()
    return np.asarray(pages)


def _mapped(fd: int, size_bytes: int, flags: int) -> int:
    """Its address. What has whole huge pages begins at a multiple of their size."""
    if size_bytes < HUGE_PAGE_BYTES:
        return _mmap(0, size_bytes, flags, fd)
    reserved = size_bytes + HUGE_PAGE_BYTES
    nothing = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    found = _mmap(0, reserved, nothing, -1, access=0)
    begin = -(-found // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
    try:
        _mmap(begin, size_bytes, flags | _MAP_FIXED, fd)
    except OSError:
        _libc.munmap(found, reserved)
        raise
    end = -(-(begin + size_bytes) // PAGE_BYTES) * PAGE_BYTES
    for at, until in ((found, begin), (end, found + reserved)):
        if until > at:
            _libc.munmap(at, until - at)
    return begin


def _mmap(at: int, size_bytes: int, flags: int, fd: int, access: int = mmap.PROT_READ | mmap.PROT_WRITE) -> int:
    begin: int = _libc.mmap(at, size_bytes, access, flags, fd, 0)
    if begin == _FAILED:
        raise _error()
    return begin


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


# ------------------------------------------------------------------------------------------------ copies of pages


def restore(mapped: Bytes, begin: int, end: int) -> None:
    """Lets this process see the other's pages again where it wrote copies of them."""
    if written(mapped, begin, end):
        at, until = _whole_pages(mapped, begin, end)
        _libc.madvise(at, until - at, _DONTNEED)


def written(mapped: Bytes, begin: int, end: int) -> bool:
    """Whether this process has copies of its own of some of those pages of another's file: it gets them by writing."""
    at, until = _whole_pages(mapped, begin, end)
    if at == until:
        return False
    try:
        with Path("/proc/self/pagemap").open("rb", buffering=0) as table:
            try:
                return _scanned(table.fileno(), at, until)
            except OSError:  # an older kernel
                return _listed(table.fileno(), at, until)
    except OSError:  # it cannot be known
        return True


def _scanned(table: int, at: int, until: int) -> bool:
    """By a walk in the kernel, which takes a huge page in one step and ends at the first that is found."""
    found = (ctypes.c_uint64 * 3)()
    asked = (ctypes.c_uint64 * 12)(
        96, 0, at, until, 0, ctypes.addressof(found), 1, 1, _FILE, _FILE, _PRESENT | _SWAPPED
    )
    regions: int = fcntl.ioctl(table, _PAGEMAP_SCAN, asked)
    return regions > 0


def _listed(table: int, at: int, until: int) -> bool:
    """By an entry a page."""
    count = (until - at) // PAGE_BYTES
    entries = np.frombuffer(os.pread(table, 8 * count, at // PAGE_BYTES * 8), np.uint64)
    there, of_a_file = entries >> np.uint64(_THERE) != 0, entries >> np.uint64(_OF_A_FILE) & np.uint64(1) != 0
    return len(entries) < count or bool((there & ~of_a_file).any())


def _whole_pages(mapped: Bytes, begin: int, end: int) -> tuple[int, int]:
    first = address(mapped)
    return (first + begin) // PAGE_BYTES * PAGE_BYTES, -(-(first + end) // PAGE_BYTES) * PAGE_BYTES


def address(array: "npt.NDArray[Any]") -> int:
    """Of its first element."""
    found: int = array.__array_interface__["data"][0]
    return found
