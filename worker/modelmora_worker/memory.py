"""How much memory this process uses: what the machine gets back when it ends."""

from dataclasses import dataclass

import psutil

from modelmora_worker.engines import devices


@dataclass(frozen=True, slots=True)
class Measured:
    """In bytes. `used` is the unique set size: pages that a fork shares with its parent do not count."""

    used: int
    vram: int


def measure() -> Measured:
    """Reads the kernel's accounting; takes milliseconds."""
    process = psutil.Process()
    try:
        used = process.memory_full_info().uss
    except (psutil.AccessDenied, NotImplementedError, OSError):
        used = process.memory_info().rss  # a kernel that hides smaps: an upper bound
    return Measured(int(used), devices.allocated_bytes())
