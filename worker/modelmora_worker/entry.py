"""One request in this worker, and who gets its answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from pydantic import JsonValue

from modelmora.spec import Priority
from modelmora.wire.values import Items
from modelmora_worker.engines import EngineInput
from modelmora_worker.inference import Answer


@dataclass(frozen=True, slots=True)
class Done:
    """What became of an entry; time in the engine and size, of its whole batch."""

    sent_id: int
    answer: Answer
    inference_ms: float = 0.0
    batch_size: int = 0  # 0: it never got to the engine
    batch_index: int = 0  # among those of the batch that somebody waits for


class Owner(Protocol):
    """Who sent entries: the stream of a router, or a caller at the worker's own socket."""

    def written(self, done: Sequence[Done]) -> list[bytes]:
        """The messages that carry the answers, made on the device thread: an engine may use their memory again."""
        ...

    def reply(self, entries: "Sequence[Entry]", messages: Sequence[bytes]) -> None:
        """These have been answered, by these messages."""

    def left(self, entry: "Entry") -> None:
        """The engine is done with it, or has never begun; called once for each that was taken."""


@dataclass(slots=True, eq=False)
class Entry:
    """Owned by the queue from when it is submitted."""

    sent_id: int  # by its owner; others use the same numbers
    owner: Owner
    values: Mapping[str, Items]
    parameters: Mapping[str, JsonValue] = field(default_factory=dict)
    priority: Priority = Priority.NORMAL
    alone: bool = False
    request_id: str = ""
    traceparent: str = ""
    entry_id: int = 0  # in this worker
    arrived_at: float = 0.0
    tokens: int = 0  # of its longest text; 0: not known
    cancelled: bool = False  # read by the device thread too

    @property
    def size_bytes(self) -> int:
        """About; not asked of the message, which would write itself out to know."""
        return sum(_size(items) for items in self.values.values())

    def wanted(self) -> bool:
        return not self.cancelled

    def input(self) -> EngineInput:
        return EngineInput(self.values, self.parameters, self.wanted)


def _size(items: Items) -> int:
    return items.nbytes if isinstance(items, np.ndarray) else sum(len(item) for item in items)
