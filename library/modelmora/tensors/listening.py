"""How sessions begin: one side listens at a path, the other connects, and both say who they are."""

import errno
import os
import queue
import secrets
import socket
import struct
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import structlog

from modelmora.errors import (
    AddressInUse,
    MalformedRequest,
    ModelMoraError,
    PeerGone,
    QuotaExceeded,
    SharedMemoryUnavailable,
    WorkerUnavailable,
)
from modelmora.tensors import forking, settings
from modelmora.tensors.connection import Connection
from modelmora.tensors.pool import Quota
from modelmora.tensors.sessions import Session
from modelmora.v1 import sessions_pb2
from modelmora.wire.status import from_rpc, to_rpc

log = structlog.get_logger(__name__)

VERSION: Final = 1
DEFAULT_QUOTA: Final = Quota(bytes=4 * 2**30, arenas=64)
_GREETED_WITHIN_S: Final = 5.0
_BACKLOG: Final = 64
_BREATH_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Terms:
    """What a listener grants.

    Attributes:
        quota: of each side of a session.
        sessions: at once.
        folder: on a tmpfs, where this side makes its arenas; None: in memory that can be sealed.
        mode: of the socket; 0o600: for processes of the same user.
    """

    quota: Quota = DEFAULT_QUOTA
    sessions: int = 64
    folder: Path | None = None
    mode: int = 0o600


class Listener:
    """Takes sessions at a path until it is closed. `begun` hears of each in a thread of its own; else `accept` them.

    A child of this process lets go of it.

    Raises:
        AddressInUse: something is at that path.
    """

    def __init__(
        self, path: Path | str, terms: Terms | None = None, begun: Callable[[Session], None] | None = None
    ) -> None:
        self.path = Path(path)
        self.terms = terms or Terms()
        self._accepted: queue.SimpleQueue[Session | None] = queue.SimpleQueue()
        self._begun = begun or self._accepted.put
        # A session that is over, and what it holds, is its users'; until then its thread keeps it.
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._greeting = threading.BoundedSemaphore(_BACKLOG)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._pid = os.getpid()
        self._socket = self._bound()
        forking.follow(self)
        self._thread = threading.Thread(target=self._run, name="shared memory listener", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def sessions(self) -> list[Session]:
        """Those that are not over."""
        with self._lock:
            return [session for session in self._sessions if not session.over]

    def find(self, token: str) -> Session | None:
        """The session of that name."""
        named = token.encode(errors="replace")
        return next((each for each in self.sessions if secrets.compare_digest(each.token.encode(), named)), None)

    def accept(self, timeout_s: float | None = None) -> Session:
        """The next session.

        Raises:
            TimeoutError: nobody came within that time.
            PeerGone: the listener was closed.
        """
        try:
            session = self._accepted.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError(f"nobody connected to {self.path} within {timeout_s} s") from None
        if session is None:
            self._accepted.put(None)  # for whoever asks next
            raise PeerGone("the listener was closed", endpoint=str(self.path))
        return session

    def close(self) -> None:
        """Ends all sessions."""
        with self._lock:
            if self._closed.is_set() or os.getpid() != self._pid:
                return
            self._closed.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout=_GREETED_WITHIN_S)
        self._socket.close()
        self.path.unlink(missing_ok=True)
        for session in self.sessions:
            session.close()
        self._accepted.put(None)

    def forked(self) -> None:
        """In a child: who comes when its parent is gone must not wait for it."""
        self._lock = threading.Lock()
        self._socket.close()

    def _bound(self) -> socket.socket:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            if _is_left_over(self.path):
                self.path.unlink(missing_ok=True)
            listening.bind(str(self.path))
            self.path.chmod(self.terms.mode)
            listening.listen(_BACKLOG)
        except OSError as error:
            listening.close()
            raise AddressInUse(
                f"no session can be taken at {self.path}: {error.strerror or error}",
                endpoint=str(self.path),
                remedy="name a path in a folder that exists, at which nothing is, and of under 108 characters",
            ) from error
        return listening

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                connected, _ = self._socket.accept()
            except OSError as error:
                if not self._closed.is_set():
                    log.warning("a connection was lost as it came", path=str(self.path), cause=str(error))
                    self._closed.wait(_BREATH_S)  # out of descriptors, for example: others must let go of some
                continue
            # While so many have not said Hello, further ones wait in the backlog.
            if not self._greeting.acquire(timeout=_GREETED_WITHIN_S):
                connected.close()
                continue
            threading.Thread(target=self._greet, args=(connected,), name="shared memory greeting", daemon=True).start()

    def _greet(self, connected: socket.socket) -> None:
        try:
            session = self._greeted(Connection(connected))
        except OSError as error:
            connected.close()
            log.warning("a connection was lost as it came", path=str(self.path), cause=str(error))
            return
        finally:
            self._greeting.release()
        if session:
            self._begun(session)

    def _greeted(self, connection: Connection) -> Session | None:
        try:
            self._hear(connection)
            session = self._begin(connection)
        except (ModelMoraError, TimeoutError) as error:
            log.info("a session did not begin", path=str(self.path), cause=str(error))
            connection.shut()
            connection.close()
            return None
        quota = self.terms.quota
        welcome = sessions_pb2.Welcome(session=session.token, quota_bytes=quota.bytes, max_arenas=quota.arenas)
        try:
            connection.send(sessions_pb2.Message(welcome=welcome))
        except ModelMoraError as error:
            log.info("a session did not begin", path=str(self.path), cause=error.message)
            session.close()
            return None
        return session

    def _hear(self, connection: Connection) -> None:
        came = connection.receive(_GREETED_WITHIN_S)
        hello, fd = came or (sessions_pb2.Message(), None)
        if fd is not None:
            os.close(fd)
        if refusal := _refusal(hello):
            connection.send(sessions_pb2.Message(refusal=to_rpc(refusal)))
            raise refusal

    def _begin(self, connection: Connection) -> Session:
        """A session, if one more may be."""
        token = secrets.token_urlsafe(24)
        with self._lock:
            running = sum(not session.over for session in self._sessions)
            waiting = self._accepted.qsize()  # over or not, they cost memory until somebody takes them
            if not self._closed.is_set() and max(running, waiting) < self.terms.sessions:
                session = Session(connection, token=token, quota=self.terms.quota, folder=self.terms.folder)
                self._sessions.add(session)
                return session
        refusal = QuotaExceeded(
            f"{self.terms.sessions} sessions are open here, and no more may be",
            endpoint=str(self.path),
            remedy="close one, or share one in your process",
        )
        connection.send(sessions_pb2.Message(refusal=to_rpc(refusal)))
        raise refusal


def _refusal(hello: sessions_pb2.Message) -> ModelMoraError | None:
    if hello.WhichOneof("kind") != "hello":
        return MalformedRequest("a session begins with Hello", remedy="connect by the client SDK")
    if hello.hello.version != VERSION:
        return MalformedRequest(
            f"version {hello.hello.version} of the protocol is not spoken here, but {VERSION}",
            remedy="use the same release on both sides",
        )
    return None


def _is_left_over(path: Path) -> bool:
    """Whether a listener that was killed left its socket there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as trying:
        try:
            trying.connect(str(path))
        except OSError as error:
            return error.errno == errno.ECONNREFUSED and path.is_socket()
    return False


def connect(path: Path | str, *, folder: Path | None = None, timeout_s: float = _GREETED_WITHIN_S) -> Session:
    """A session with whoever listens at that path.

    Args:
        folder: on a tmpfs, where this side makes its arenas; default: in memory that can be sealed.

    Raises:
        WorkerUnavailable: nobody listens there.
        QuotaExceeded: as many sessions as may be are open there.
        SharedMemoryUnavailable: it is switched off.
    """
    settings.required()
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # Not by settimeout: then a listener that is busy would look like one that is not there.
    whole, rest = divmod(timeout_s, 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(whole), int(rest * 1e6)))
    try:
        connected.connect(str(path))
    except OSError as error:
        connected.close()
        raise WorkerUnavailable(
            f"nobody shares memory at {path}: {error.strerror or error}",
            endpoint=str(path),
            remedy="start the other side first, or name its path",
        ) from error
    connection = Connection(connected)
    try:
        return _greeted(connection, folder, timeout_s)
    except BaseException:
        connection.shut()
        connection.close()
        raise


def _greeted(connection: Connection, folder: Path | None, timeout_s: float) -> Session:
    connection.send(sessions_pb2.Message(hello=sessions_pb2.Hello(version=VERSION, pid=os.getpid())))
    try:
        came = connection.receive(timeout_s)
    except TimeoutError:
        raise PeerGone(f"the other side did not answer within {timeout_s} s", remedy="try again") from None
    message, fd = came or (sessions_pb2.Message(), None)
    if fd is not None:
        os.close(fd)
    match message.WhichOneof("kind"):
        case "welcome":
            welcome = message.welcome
            quota = Quota(welcome.quota_bytes, welcome.max_arenas)
            return Session(connection, token=welcome.session, quota=quota, folder=folder)
        case "refusal":
            raise from_rpc(message.refusal)
        case _:
            raise SharedMemoryUnavailable("who listens there is no ModelMora", remedy="name another path")
