"""How the tensors of this process travelled, for its whole life: what `modelmora.tensors.statistics()` says."""

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

_MOST_REASONS: Final = 64  # they are codes of errors; what is more is a bug, and counted as OTHER


@dataclass(frozen=True, slots=True)
class Statistics:
    """Tensors and their bytes.

    Attributes:
        shm, shm_bytes: that travelled as a handle.
        bytes, bytes_bytes: that travelled as bytes.
        fallbacks: how often shared memory was wanted and could not be had, by reason.
        puts, puts_bytes: that were copied into an arena, as every array is that was not made there.
        layouts, layouts_bytes: of these, those whose elements had to be put into another order or representation.
    """

    shm: int = 0
    shm_bytes: int = 0
    bytes: int = 0
    bytes_bytes: int = 0
    puts: int = 0
    puts_bytes: int = 0
    layouts: int = 0
    layouts_bytes: int = 0
    fallbacks: Mapping[str, int] = field(default_factory=dict)


_lock: Final = threading.Lock()
_counts: Final[Counter[str]] = Counter()
_fallbacks: Final[Counter[str]] = Counter()


def count_sent(transport: Literal["shm", "bytes"], size_bytes: int) -> None:
    """A tensor that went to another process."""
    _count(transport, size_bytes)


def count_fallback(reason: str) -> None:
    """Shared memory was wanted, and bytes are sent; the reason is the code of an error."""
    with _lock:
        known = reason in _fallbacks or len(_fallbacks) < _MOST_REASONS
        _fallbacks[reason if known else "OTHER"] += 1


def count_put(size_bytes: int) -> None:
    """A tensor that was copied into an arena."""
    _count("puts", size_bytes)


def count_copied(size_bytes: int) -> None:
    """A tensor whose elements did not lie as they can travel: reversed, strided, repeated, or big-endian."""
    _count("layouts", size_bytes)


def _count(name: str, size_bytes: int) -> None:
    with _lock:
        _counts[name] += 1
        _counts[f"{name}_bytes"] += size_bytes


def statistics() -> Statistics:
    """What was counted until now."""
    with _lock:
        return Statistics(**_counts, fallbacks=MappingProxyType(dict(_fallbacks)))
