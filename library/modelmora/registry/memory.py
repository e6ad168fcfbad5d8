"""What this process uses and what the machine has left, as the kernel says. Linux; elsewhere nothing is known.

A container's limit is that of its cgroup and of all above it, in either version of cgroups. Page cache that the kernel
would drop at once (inactive_file) counts as free, as the kubelet counts it.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

# The files of a group, by its controller: in version 2 there is one tree for all of them, which is named for none.
_FILES: Final = {"": ("max", "current", "stat"), "memory": ("limit_in_bytes", "usage_in_bytes", "stat")}


class Memory:
    """Of this process and its machine."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def own_bytes(self) -> int | None:
        """Unique set size: what the machine gets back if this process ends; milliseconds for some gigabytes."""
        text = self._read("proc/self/smaps_rollup")
        return None if text is None else unique_bytes(text)

    def free_bytes(self) -> int | None:
        """What can still be allocated here; None where nobody says."""
        return min(self._bounds(), default=None)

    def _bounds(self) -> Iterator[int]:
        if text := self._read("proc/meminfo"):
            yield from _sizes(text, "MemAvailable")
        known = self._read("proc/self/cgroup") or ""
        for controller, names in _FILES.items():
            for group in groups(known, controller):
                texts = [self._read(f"sys/fs/cgroup/{controller}{group}/memory.{name}") for name in names]
                left = headroom_bytes(*(text or "" for text in texts))
                if left is not None:
                    yield left

    def _read(self, path: str) -> str | None:
        try:
            return (self._root / path).read_text()
        except OSError:  # another kernel, or one that hides it: not known
            return None


def unique_bytes(smaps_rollup: str) -> int:
    """The pages that no other process maps, huge ones included."""
    return sum(_sizes(smaps_rollup, "Private_Clean", "Private_Dirty", "Private_Hugetlb"))


def groups(cgroup: str, controller: str = "") -> list[str]:
    """The paths of a process' group and of all above it, below the mount; the root is the empty path.

    In a container the mount may begin at its own group, whatever path that is said to have.
    """
    for line in cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            own = PurePosixPath(path)
            return [str(each).rstrip("/") for each in (own, *own.parents)]
    return []


def headroom_bytes(maximum: str, current: str, stat: str) -> int | None:
    """What a group may still allocate, from its three files; None if nothing bounds it."""
    if not maximum.strip().isdigit() or not current.strip().isdigit():  # "max", or not there
        return None
    fields = dict(line.split(maxsplit=1) for line in stat.splitlines() if line)
    cache = fields.get("total_inactive_file") or fields.get("inactive_file") or "0"  # the former: of version 1
    return int(maximum) - int(current) + int(cache)


def _sizes(text: str, *names: str) -> list[int]:
    """Of the lines `NAME: N kB`, in bytes."""
    fields = (line.split() for line in text.splitlines())
    return [int(words[1]) * 1024 for words in fields if words and words[0].removesuffix(":") in names]
