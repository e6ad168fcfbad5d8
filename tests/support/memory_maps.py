"""What a process has of shared memory: its mappings, its descriptors, its own copies of pages."""

import re
from pathlib import Path

_HEAD = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) .*?(?:\s(/\S.*))?$")


def arenas_mapped(pid: int | str = "self") -> int:
    """Bytes of arenas that the process has mapped, its own and those of others."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    spans = (line.split()[0].split("-") for line in lines if _is_arena(line))
    return sum(int(end, 16) - int(begin, 16) for begin, end in spans)


def private_dirty(pid: int | str = "self", *, of_arenas: bool = False) -> int:
    """Bytes of pages that this process alone has written; of all its mappings, or only where arenas are mapped."""
    total, counts = 0, True
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-", line):
            counts = _is_arena(line) or not of_arenas
        elif counts and line.startswith("Private_Dirty:"):
            total += int(line.split()[1]) * 1024
    return total


def open_files(pid: int | str = "self") -> int:
    """Descriptors."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _is_arena(line: str) -> bool:
    return "/memfd:modelmora-arena" in line or ("(deleted)" in line and "/#" in line)
