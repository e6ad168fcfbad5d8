"""What this machine has: tried out, not guessed."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from modelmora.errors import InsufficientMemory, InvalidRequest, SharedMemoryUnavailable
from modelmora.tensors import memory
from modelmora.tensors.mappings import PAGE_BYTES
from modelmora.tensors.settings import required

_NVIDIA: Final = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Of this process.

    Attributes:
        shared_memory: whether tensors can be shared.
        backing: where arenas are made.
        why: what is missing, in words.
        gpus: their names, as the driver has them.
    """

    shared_memory: bool
    backing: Literal["memfd", "tmpfs", ""]
    why: str
    gpus: tuple[str, ...]


def capabilities() -> Capabilities:
    """Makes an arena of one page, looks at it as another process would, and drops it.

    Raises:
        InvalidSettings: a setting that cannot be understood.
    """
    found = gpus()
    try:
        folder = required().shared_memory_dir
        _try(folder)
    except (InsufficientMemory, InvalidRequest, SharedMemoryUnavailable) as error:
        return Capabilities(shared_memory=False, backing="", why=error.message, gpus=found)
    return Capabilities(shared_memory=True, backing="tmpfs" if folder else "memfd", why="", gpus=found)


def _try(folder: Path | None) -> None:
    fd, _ = memory.create(PAGE_BYTES, folder)
    try:
        memory.foreign(fd, PAGE_BYTES)
    finally:
        os.close(fd)


def gpus(folder: Path = _NVIDIA) -> tuple[str, ...]:
    """As the NVIDIA driver lists them; none without one."""
    if not folder.is_dir():
        return ()
    return tuple(_model(card / "information") for card in sorted(folder.iterdir()))


def _model(information: Path) -> str:
    lines = information.read_text(errors="replace").splitlines() if information.is_file() else []
    fields = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in fields if name.strip() == "Model"), information.parent.name)
