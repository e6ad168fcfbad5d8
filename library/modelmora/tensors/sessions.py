"""Two processes that share memory, until one of them ends.

Each side puts its tensors into arenas of its own and says where they are. The other opens an arena once, and looks at
it. One thread of a session reads what the other side says; when the connection ends, however that came about, nothing
is lent any more, and what nobody looks at is freed.
"""

import os
import queue
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import structlog

from modelmora.errors import InternalError, MalformedRequest, ModelMoraError, PeerGone, SharedMemoryUnavailable
from modelmora.tensors import forking
from modelmora.tensors.borrowing import Borrowing
from modelmora.tensors.connection import Connection, Peer
from modelmora.tensors.lending import MAX_HANDED, Lending, asked
from modelmora.tensors.mappings import Bytes
from modelmora.tensors.pool import Arena, Quota
from modelmora.tensors.shared_tensor import SharedTensor
from modelmora.v1.sessions_pb2 import ArenaOpened, CloseArena, Lend, Message, OpenArena, Release, Revoke
from modelmora.v1.types_pb2 import SharedMemory, Tensor
from modelmora.wire.status import from_rpc, to_rpc

log = structlog.get_logger(__name__)

_OPENED_WITHIN_S: Final = 10.0


class Session:
    """Used by any number of threads; not by a process that is forked from the one whose session it is.

    Args:
        connection: to the other side, after the greeting.
        token: names the session in requests that come another way.
        quota: of each side.
        folder: on a tmpfs, where arenas are made; None: in memory that can be sealed.
    """

    def __init__(self, connection: Connection, *, token: str, quota: Quota, folder: Path | None = None) -> None:
        self.token = token
        self.peer: Peer = connection.peer
        self._connection = connection
        self._lending = Lending(quota, folder=folder, opened=self._open, closed=self._close)
        self._borrowing = Borrowing(quota, connection.wake)
        self._opening: dict[int, Future[None]] = {}
        self._received: queue.SimpleQueue[SharedTensor | None] = queue.SimpleQueue()
        self._over: ModelMoraError | None = None
        self._ended = threading.Event()
        self._pid = os.getpid()
        forking.follow(self)
        self._thread = threading.Thread(target=self._run, name="shared memory session", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def over(self) -> bool:
        """Whether the other side is gone, or this one closed."""
        return self._ended.is_set()

    @property
    def lent(self) -> int:
        """Leases that the other side has not given back."""
        return len(self._lending)

    @property
    def borrowed(self) -> int:
        """Leases of the other side at which somebody looks here."""
        return len(self._borrowing)

    @property
    def own_bytes(self) -> int:
        """Of the arenas of this side."""
        return self._lending.pool.size_bytes

    @property
    def foreign_bytes(self) -> int:
        """Of the arenas that the other side has open."""
        return self._borrowing.arenas.size_bytes

    def wait(self, timeout_s: float | None = None) -> bool:
        """Whether the session ended within that time."""
        return self._ended.wait(timeout_s)

    def close(self) -> None:
        """Ends it; what is looked at here stays as long as somebody does."""
        if os.getpid() != self._pid:
            return
        self._connection.shut()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=_OPENED_WITHIN_S)

    # ------------------------------------------------------------------------------------------------ own tensors

    def empty(self, shape: Sequence[int] | int, dtype: npt.DTypeLike = np.float32, *, order: str = "C") -> SharedTensor:
        """A tensor to be filled in place, so that nothing is ever copied. Its elements are what was there before.

        Raises:
            QuotaExceeded: the session may not have so much.
            InsufficientMemory: the machine, or its volume, has not.
            InvalidRequest: a dtype that has no name on the wire.
            PeerGone: the session is over.
        """
        return SharedTensor(self._lending.empty(asked(shape, dtype, order)))

    def put(self, array: "npt.NDArray[Any]") -> SharedTensor:
        """A copy of the array, in its own order where that is row- or column-major, else row-major.

        Raises:
            As `empty`.
        """
        return SharedTensor(self._lending.put(array))

    # ------------------------------------------------------------------------------------------------ lending

    def send(
        self, tensor: "SharedTensor | npt.NDArray[Any]", tag: bytes = b"", *, timeout_s: float | None = 30.0
    ) -> None:
        """Hands a tensor over. An array that is in no arena of the session is copied into one.

        Raises:
            QuotaExceeded: as many as may be are not released, or the session may not have so much memory.
            PeerGone: the session is over.
        """
        array = tensor.numpy() if isinstance(tensor, SharedTensor) else tensor
        self._check()
        lease, message = self._lending.hand(array, timeout_s)
        try:
            self._say(Message(lend=Lend(lease=lease, tensor=message, tag=tag)))
        except BaseException:
            self._lending.give_back(lease)
            raise

    def lend(self, arrays: Iterable["npt.NDArray[Any]"]) -> tuple[int, list[Tensor]]:
        """A new lease of these arrays, and their handles, for a request that comes to the other side another way.

        An array that is in no arena of the session is copied into one.

        Raises:
            As `empty`.
        """
        self._check()
        return self._lending.lend(arrays)

    def own(self, tensor: Tensor, room: SharedTensor | None, *, field: str = "tensor") -> "npt.NDArray[Any]":
        """What the other side has written into the room that was lent to it.

        Raises:
            InvalidRequest: the handle reaches out of the room.
        """
        return self._lending.part(tensor, None if room is None else room.numpy(), field=field)

    def give_back(self, lease: int) -> None:
        """The other side has said by its answer that it does not look any more."""
        self._lending.give_back(lease)

    def revoke(self, lease: int) -> None:
        """Nobody waits for the answer: it is given back once the other side has taken its last look."""
        if lease in self._lending:
            with suppress(PeerGone):  # then all is given back anyhow, and who called has an error of its own
                self._say(Message(revoke=Revoke(lease=lease)))

    # ------------------------------------------------------------------------------------------------ borrowing

    def receive(self, timeout_s: float | None = None) -> SharedTensor:
        """The next tensor that the other side hands over: not to be written, released when nobody looks at it.

        Raises:
            PeerGone: the session is over, and nothing more is there.
            TimeoutError: nothing came within that time.
            SharedMemoryUnavailable: this process was forked from the one whose session it is.
        """
        self._check_process()
        try:
            tensor = self._received.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError(f"nothing was handed over within {timeout_s} s") from None
        if tensor is None:
            self._received.put(None)  # for whoever asks next
            self._check()
            raise InternalError("a session ended without a reason")
        return tensor

    def borrow(self, lease: int) -> None:
        """A request uses what the other side lent with it, until `done`; whoever revoked the lease hears of that.

        Raises:
            InvalidRequest: the lease was revoked, or is none.
        """
        self._check()
        self._borrowing.begin(lease)

    def done(self, lease: int) -> None:
        """The request does not use it any more, and what it has of it is not looked at."""
        self._borrowing.done(lease)

    def view(self, tensor: Tensor, *, field: str = "tensor") -> "npt.NDArray[Any]":
        """What a handle of the other side stands for, not to be written, for a request that has borrowed its lease.

        Raises:
            InvalidRequest: the handle is not valid; `field` is its path.
        """
        self._check()
        return self._borrowing.view(tensor, field=field)

    def room(self, shared: SharedMemory) -> Bytes:
        """Where the other side asks to be written to.

        Raises:
            InvalidRequest: that is in no arena of it.
        """
        self._check()
        return self._borrowing.arenas.room(shared.results_arena, shared.results_offset, shared.results_bytes)

    # ------------------------------------------------------------------------------------------------ the thread

    def _run(self) -> None:
        try:
            while True:
                for lease in self._borrowing.over():
                    self._connection.post(Message(release=Release(lease=lease)))
                if came := self._connection.receive():
                    self._heard(*came)
        except PeerGone as error:
            self._finish(error)
        except ModelMoraError as error:
            log.warning("a session ends, since its other side does not keep to the protocol", cause=error.message)
            self._finish(error)
        except Exception as error:  # the thread's top: nobody may wait for a session that is stuck
            log.exception("a session of shared memory failed")
            self._finish(InternalError(f"the session failed: {error}", remedy="see the log, and report it"))

    def _heard(self, message: Message, fd: int | None) -> None:
        if fd is not None and message.WhichOneof("kind") != "open_arena":
            os.close(fd)
        match message.WhichOneof("kind"):
            case "open_arena":
                self._open_foreign(message.open_arena, fd)
            case "arena_opened":
                self._hear_opened(message.arena_opened)
            case "close_arena":
                self._borrowing.arenas.close(message.close_arena.arena)
            case "lend":
                self._hear_lent(message.lend)
            case "release":
                self._lending.give_back(message.release.lease)
            case "revoke":
                self._borrowing.revoke(message.revoke.lease)
            case kind:
                raise MalformedRequest(f"{kind or 'an empty message'} is not expected in a session")

    def _open_foreign(self, wanted: OpenArena, fd: int | None) -> None:
        opened = ArenaOpened(arena=wanted.arena)
        try:
            if fd is None:
                raise MalformedRequest("an arena came without its descriptor")
            self._borrowing.arenas.open(wanted.arena, wanted.size_bytes, fd)
        except ModelMoraError as error:
            opened.error.CopyFrom(to_rpc(error))
        self._connection.post(Message(arena_opened=opened))

    def _hear_opened(self, opened: ArenaOpened) -> None:
        waiting = self._opening.pop(opened.arena, None)
        if waiting and opened.HasField("error"):
            waiting.set_exception(from_rpc(opened.error))
        elif waiting:
            waiting.set_result(None)

    def _hear_lent(self, lent: Lend) -> None:
        if self._received.qsize() >= MAX_HANDED:
            raise MalformedRequest(f"more than {MAX_HANDED} tensors are handed over and not taken")
        array = self._borrowing.hand(lent.tensor, lent.lease, field="tensor")
        self._received.put(SharedTensor(array, tag=lent.tag))

    # ------------------------------------------------------------------------------------------------ arenas of ours

    def _open(self, arena: Arena) -> None:
        waiting = self._opening[arena.number] = Future[None]()
        try:
            self._say(Message(open_arena=OpenArena(arena=arena.number, size_bytes=arena.size_bytes)), arena.fd)
            waiting.result(_OPENED_WITHIN_S)
        except TimeoutError:
            self._close(arena)  # it may still do so
            raise PeerGone(
                f"the other side did not open an arena within {_OPENED_WITHIN_S:.0f} s", remedy="open a new session"
            ) from None
        finally:
            self._opening.pop(arena.number, None)

    def _close(self, arena: Arena) -> None:
        self._say(Message(close_arena=CloseArena(arena=arena.number)))

    def _say(self, message: Message, fd: int | None = None) -> None:
        self._check()
        self._connection.send(message, fd)

    # ------------------------------------------------------------------------------------------------ the end

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise SharedMemoryUnavailable(
                "the session is that of the process this one was forked from", remedy="open a session after the fork"
            )

    def _check(self) -> None:
        self._check_process()
        if self._over:
            raise self._over.located()

    def _finish(self, error: ModelMoraError) -> None:
        self._over = gone = PeerGone(f"the session is over: {error.message}", remedy="open a new session")
        self._connection.shut()
        for waiting in list(self._opening.values()):
            waiting.set_exception(gone.located())
        self._lending.end(gone)
        self._borrowing.end()
        self._received.put(None)
        self._ended.set()
        self._connection.close()

    def forked(self) -> None:
        """In a child: what it does not look at, it does not keep."""
        self._lending.pool.forked()
        self._borrowing.arenas.forked()
