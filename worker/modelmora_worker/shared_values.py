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
from modelmora.tensors.mappings import Bytes
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
    """Of one call, which uses what is lent with it until `done`."""

    session: Session | None
    asked: SharedMemory

    @classmethod
    def of(cls, asked: SharedMemory, sessions: Listener | None) -> "SharedValues":
        """From now on the call uses what is lent with it.

        Raises:
            InvalidRequest: there is no session of that name, or the lease was revoked.
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
        session.borrow(asked.lease)
        return cls(session, asked)

    def done(self) -> None:
        """Neither the engine nor anybody else here looks at it, or writes to it, any more."""
        if self.session:
            self.session.done(self.asked.lease)

    def region(self, tensor: Tensor, field: str) -> Array:
        """What a handle of the call stands for, not to be written.

        Raises:
            InvalidRequest: it is not valid, or the call names no session.
        """
        if self.session is None:
            raise elsewhere(field)
        array = self.session.view(tensor, field=field)
        if array.dtype.char not in _INDICES:
            return array
        array = array.copy()
        array.flags.writeable = False  # as all inputs of an engine
        return array

    def results(self) -> Results | None:
        """Where the answer may be written; None: nowhere.

        Raises:
            InvalidRequest: the place is not in an arena of the session.
        """
        if self.session is None or not self.asked.results_bytes:
            return None
        return Results(self.asked, self.session.room(self.asked))
