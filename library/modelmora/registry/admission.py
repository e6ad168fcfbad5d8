"""Whether a model may be loaded, and which others have to leave for it. No I/O: everything is predicted, then done."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from modelmora.errors import InsufficientMemory
from modelmora.registry.policies import Candidate

_GIGABYTE: Final = 10**9
_NAMED: Final = 5  # holders that a refusal names


@dataclass(frozen=True, slots=True)
class Room:
    """What there is, in bytes; None: no bound, or one that nobody knows."""

    taken_bytes: int = 0  # by models that are loaded or being loaded
    limit_bytes: int | None = None  # of the registry
    free_bytes: int | None = None  # of the machine or the container, less what is promised to loads under way

    def missing_bytes(self, needed_bytes: int) -> int:
        """How much too small it is for that; 0 if it is not."""
        over_limit = 0 if self.limit_bytes is None else self.taken_bytes + needed_bytes - self.limit_bytes
        # A need that nobody knows is no reason to refuse it on a machine that is full of other things.
        over_machine = 0 if self.free_bytes is None or not needed_bytes else needed_bytes - self.free_bytes
        return max(0, over_limit, over_machine)

    def usable_bytes(self) -> int:
        """What the largest model may have that could be loaded now."""
        bounds = [] if self.limit_bytes is None else [self.limit_bytes - self.taken_bytes]
        bounds += [] if self.free_bytes is None else [self.free_bytes]
        return max(0, min(bounds, default=0))


def making_room(missing_bytes: int, order: Iterable[Candidate]) -> tuple[list[Candidate], int]:
    """Who leaves, in that order, until enough is free; and what is missing still if all of them do not suffice."""
    leaving = []
    for model in order:
        if missing_bytes <= 0:
            break
        if model.size_bytes:
            leaving.append(model)
            missing_bytes -= model.size_bytes
    return leaving, max(0, missing_bytes)


def refusal(key: Hashable, needed_bytes: int, room: Room, models: Sequence[Candidate]) -> InsufficientMemory:
    """What to tell whoever asked for a model that does not fit."""
    limit = "no limit is set" if room.limit_bytes is None else f"the limit is {megabytes(room.limit_bytes)}"
    machine = "" if room.free_bytes is None else f", the machine has {megabytes(max(0, room.free_bytes))} free"
    return InsufficientMemory(
        f"{key!r} needs {megabytes(needed_bytes)} and {megabytes(room.usable_bytes())} are free: {limit}{machine}; "
        f"{_held(models)}",
        model_id=str(key),
        remedy=_remedy(needed_bytes, room),
    )


def _held(models: Sequence[Candidate]) -> str:
    if not models:
        return "no model is loaded"
    largest = sorted(models, key=lambda model: -model.size_bytes)
    named = [f"{one.key!r} ({megabytes(one.size_bytes)}, references: {one.references})" for one in largest[:_NAMED]]
    more = len(largest) - _NAMED
    return "loaded: " + ", ".join(named) + (f" and {more} more" if more > 0 else "")


def _remedy(needed_bytes: int, room: Room) -> str:
    if room.limit_bytes is not None and needed_bytes > room.limit_bytes:
        return "raise memory_limit_bytes, or load a smaller model"
    if room.free_bytes is not None and needed_bytes > room.free_bytes:
        return "free memory of the machine or raise the container's limit, or load a smaller model"
    return "close handles of other models, evict() idle ones, or raise memory_limit_bytes"


def megabytes(size_bytes: int) -> str:
    """For people: 1.5 MB, 24105 MB."""
    return f"{size_bytes / 1e6:{'.4g' if size_bytes < _GIGABYTE else '.0f'}} MB"
