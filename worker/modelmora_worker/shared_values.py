"""The tensors of a call that are in shared memory: the caller's, looked at where they are, and the answer's, written
where the caller wants them.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from modelmora.errors import InvalidRequest
from modelmora.tensors import Listener, Session
from modelmora.tensors.allocator import rounded
from modelmora.tensors.layouts import Layout, like, to_message
from modelmora.tensors.memory import Bytes
from modelmora.v1.types_pb2 import SharedMemory, Tensor
from modelmora.wire.values import Array, elsewhere

# What is an index for NumPy or PyTorch as it is. Such are checked, and then used: they must not change in between.
_INDICES: Final = frozenset("?ilqILQ")


@dataclass(slots=True)
class Results:
    """Where the answer of a call may be written: tensor behind tensor. On the device thread."""

    asked: SharedMemory
    room: Bytes
    _used: int = field(default=0, init=False)

    def place(self, array: Array, message: Tensor) -> bool:
        """Writes an array there, and its handle into the message; False: there is no room for it."""
        layout, begin = like(array), self._used
        if begin + layout.size_bytes > len(self.room):
            return False
        target: Array = _over(self.room, layout, begin)
        target[...] = array
        self._used = begin + rounded(layout.size_bytes)
        message.CopyFrom(to_message(layout, self.asked.results_arena, self.asked.results_offset + begin))
        return True


def _over(room: Bytes, layout: Layout, offset: int) -> Array:
    array: Array = np.ndarray(layout.shape, layout.dtype, room, offset, layout.strides)
    return array


@dataclass(frozen=True, slots=True)
class SharedValues:
    """Of one call."""

    session: Session | None
    asked: SharedMemory

    @classmethod
    def of(cls, asked: SharedMemory, sessions: Listener | None) -> "SharedValues":
        """Finds the session that the call names.

        Raises:
            InvalidRequest: there is none of that name.
        """
        if not asked.session:
            return cls(None, asked)
        session = sessions.find(asked.session) if sessions else None
        if session is None:
            raise InvalidRequest(
                "no such session shares memory with this worker",
                field="sharedMemory.session",
                remedy="open a session with the worker to which you send the request, and keep it open",
            )
        return cls(session, asked)

    def region(self, tensor: Tensor, field: str) -> Array:
        """What a handle of the call stands for, not to be written.

        Raises:
            InvalidRequest: it is not valid, or the call names no session.
        """
        if self.session is None:
            raise elsewhere(field)
        array = self.session.view(tensor, self.asked.lease, field=field)
        return array.copy() if array.dtype.char in _INDICES else array

    def results(self) -> Results | None:
        """Where the answer may be written; None: nowhere.

        Raises:
            InvalidRequest: the place is not in an arena of the session.
        """
        if self.session is None or not self.asked.results_bytes:
            return None
        return Results(self.asked, self.session.room(self.asked))
