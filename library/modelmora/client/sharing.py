"""How a client hands large arrays to the worker beside it: in shared memory if it can, as bytes if it cannot.

A client that calls at the socket of a worker has a session of shared memory with it. Each call lends the worker what it
sends, and room for the answer, until the worker has answered.
"""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from modelmora.errors import (
    InvalidRequest,
    ModelMoraError,
    PayloadTooLarge,
    PeerGone,
    RequestError,
    ServerUnavailable,
    UnavailableError,
    WorkerUnavailable,
)
from modelmora.tensors import Session, SharedTensor, connect, counters
from modelmora.tensors.lending import asked
from modelmora.v1.types_pb2 import SharedMemory, Tensor
from modelmora.wire.values import Array

FROM_BYTES: Final = 64 * 1024  # smaller arrays are quicker as bytes
_FIRST_ROOM_BYTES: Final = 1024 * 1024
_ROOM: Final = 1.25  # times the largest answer of late
_TRIED_AGAIN_AFTER_S: Final = 10.0


def unshared(shape: Sequence[int] | int, dtype: npt.DTypeLike, order: str) -> "npt.NDArray[Any]":
    """An ordinary array, of what can travel.

    Raises:
        InvalidRequest: it cannot.
    """
    layout = asked(shape, dtype, order)
    return np.empty(layout.shape, layout.dtype, "F" if order == "F" else "C")


@dataclass(slots=True)
class Loan:
    """Of one call: what it lends, until that is given back or revoked."""

    session: Session
    lease: int
    handles: Mapping[int, Tensor]  # by the identity of their arrays
    room: SharedTensor | None
    message: SharedMemory = field(default_factory=SharedMemory)

    def place(self, array: Array, message: Tensor) -> bool:
        """Puts the handle of an array that is lent into its message."""
        handle = self.handles.get(id(array))
        if handle is None:
            return False
        message.CopyFrom(handle)
        return True

    def region(self, tensor: Tensor, field: str) -> Array:
        """What the worker wrote into the room.

        Raises:
            InvalidRequest: its handle reaches out of it.
        """
        return self.session.own(tensor, self.room, field=field)


@dataclass(frozen=True, slots=True)
class Passage:
    """How the arrays of one call travel: as handles of a loan, or as bytes."""

    loan: Loan | None = None
    why_bytes: ModelMoraError | None = None  # where there could have been a loan

    def explained(self, error: PayloadTooLarge) -> PayloadTooLarge | WorkerUnavailable:
        """Bytes have a bound that handles have not: who meets it hears why these were bytes."""
        why = self.why_bytes
        if why is None:
            return error
        message = f"{why.message}; and as bytes it is too large: {error.message}"
        worker_ended = isinstance(why, PeerGone) or isinstance(why.__cause__, ConnectionRefusedError)
        if worker_ended:  # and another takes its place
            return WorkerUnavailable(message, endpoint=why.context.endpoint, remedy="send it again")
        return PayloadTooLarge(message, field=why.context.field, remedy=why.context.remedy)


@contextmanager
def lent(passage: Passage) -> Iterator[Loan | None]:
    """The block of a call. A worker that has answered looks no more; one that has not may still look."""
    loan = passage.loan
    try:
        yield loan
    except BaseException as error:
        if loan:
            with suppress(ModelMoraError):  # a worker that is gone looks no more; why the call failed says the call
                loan.session.revoke(loan.lease)
        if isinstance(error, PayloadTooLarge):
            raise passage.explained(error) from error
        raise
    if loan:
        loan.session.give_back(loan.lease)


class Sharing:
    """Of one client. Used by any number of threads."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._session: Session | None = None
        self._lock = threading.Lock()
        self._not_before = 0.0
        self._room_bytes: dict[str, int] = {}

    @classmethod
    def at(cls, target: str) -> "Sharing | None":
        """With whoever listens at a target; None: that is on no socket of this machine."""
        scheme, _, path = target.partition(":")
        return cls(Path("/" + path.lstrip("/") if path.startswith("/") else path)) if scheme == "unix" else None

    def passage(self, model_id: str, values: Iterable[object]) -> Passage:
        """Lends the large ones among the arrays, and room for the answer, if that can be."""
        arrays = [value for value in values if isinstance(value, np.ndarray) and value.nbytes >= FROM_BYTES]
        if not arrays and self._room_bytes.get(model_id, 0) < FROM_BYTES:
            return Passage()
        try:
            return self._lent(model_id, arrays)
        except ModelMoraError as error:
            counters.count_fallback(error.code)
            for array in arrays:
                counters.count_sent("bytes", array.nbytes)
            return Passage(why_bytes=error)

    def _lent(self, model_id: str, arrays: list[np.ndarray[Any, Any]]) -> Passage:
        session = self._opened()
        room, why_none = self._room(session, model_id)
        lease, handles = session.lend([*arrays, *([room.numpy()] if room else [])])
        message = SharedMemory(session=session.token, lease=lease)
        if room:
            region = handles[len(arrays)].region
            message.results_arena, message.results_offset = region.arena, region.offset
            message.results_bytes = room.nbytes
        by_identity = {id(array): handle for array, handle in zip(arrays, handles, strict=False)}
        for array in arrays:
            counters.count_sent("shm", array.nbytes)
        return Passage(Loan(session, lease, by_identity, room, message), why_none)

    def _room(self, session: Session, model_id: str) -> tuple[SharedTensor | None, ModelMoraError | None]:
        """Without room the answer comes as bytes, which is no reason to send the request so."""
        try:
            return session.empty(self._room_bytes.get(model_id, _FIRST_ROOM_BYTES), np.uint8), None
        except ModelMoraError as error:
            counters.count_fallback(error.code)
            return None, error

    def empty(self, shape: Sequence[int] | int, dtype: npt.DTypeLike, order: str) -> "npt.NDArray[Any]":
        """An array that travels without a copy; an ordinary one where there is no shared memory, or not so much.

        Raises:
            InvalidRequest: a dtype that has no name on the wire.
        """
        try:
            return self._opened().empty(shape, dtype, order=order).numpy()
        except UnavailableError:  # counted when it is sent
            return unshared(shape, dtype, order)

    def mended(self, model_id: str, error: RequestError) -> bool:
        """Whether a call that failed so is to be sent once more, since something is other now.

        The worker does not know the session: another came in its place. Or the answer had no room: now it is known how
        much it takes, and the model runs once more for it.
        """
        context = error.context
        if isinstance(error, InvalidRequest) and context.field == "sharedMemory.session":
            self.drop()
            return True
        if not isinstance(error, PayloadTooLarge) or context.needed_bytes is None:
            return False
        known_bytes = self._room_bytes.get(model_id, _FIRST_ROOM_BYTES)
        self._room_bytes[model_id] = max(known_bytes, int(context.needed_bytes * _ROOM))
        return known_bytes < context.needed_bytes and self._can_open()

    def _can_open(self) -> bool:
        try:
            self._opened()
        except ModelMoraError:
            return False
        return True

    def answered(self, model_id: str, outputs: Iterable[object]) -> None:
        """Remembers how much room the next answer of the model may take."""
        size = sum(output.nbytes + 64 for output in outputs if isinstance(output, np.ndarray))
        self._room_bytes[model_id] = max(int(size * _ROOM), self._room_bytes.get(model_id, 0) // 2)

    def _opened(self) -> Session:
        with self._lock:
            if self._session and not self._session.over:
                return self._session
            if time.monotonic() < self._not_before:
                raise ServerUnavailable("it could not be reached a moment ago")
            try:
                # Through the link, so that calls and memory come to the same worker.
                self._session = connect(f"{self._socket.resolve()}.tensors")
            except WorkerUnavailable:  # which is known at once, and another may come at once
                raise
            except ModelMoraError:
                self._not_before = time.monotonic() + _TRIED_AGAIN_AFTER_S
                raise
            return self._session

    def drop(self) -> None:
        """The worker does not know the session: the next call opens another."""
        with self._lock:
            session, self._session = self._session, None
        if session:
            session.close()

    close = drop
