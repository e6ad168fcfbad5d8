"""The unix socket of a session: messages, each a packet of its own, some with a file descriptor."""

import os
import select
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from modelmora.errors import MalformedRequest, PeerGone
from modelmora.tensors import forking
from modelmora.v1.sessions_pb2 import Message

MAX_BYTES: Final = 64 * 1024
_SEND_WITHIN_S: Final = 5.0  # a peer that does not read so long is as good as gone
_MOST_POSTED: Final = 4096


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end, as the kernel says."""

    pid: int
    uid: int


class Connection:
    """Sends from any thread, receives in one, which never waits for room to send: of two that did, neither would read.

    A child of this process lets go of it.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._socket.settimeout(0)  # never blocks: waits are by poll, with a deadline
        self._fd = connected.fileno()
        self._waker = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._posted: deque[bytes] = deque()
        self._closed = False
        # Held while a descriptor is used: another file may get the number of one that is closed. Reentrant, since an
        # array may go, and `wake` be called, at any moment, also in a thread that holds it.
        self._using = threading.RLock()
        forking.follow(self)

    @property
    def peer(self) -> Peer:
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid, uid = (int.from_bytes(credentials[at : at + 4], "little") for at in (0, 4))
        return Peer(pid, uid)

    def send(self, message: Message, fd: int | None = None) -> None:
        """Sends one message.

        Raises:
            PeerGone: the other end is closed, or does not read.
            MalformedRequest: it is too long.
        """
        data = message.SerializeToString()
        if len(data) > MAX_BYTES:
            raise MalformedRequest(f"a message of {len(data)} bytes is above {MAX_BYTES}", remedy="send a shorter tag")
        ends_at = time.monotonic() + _SEND_WITHIN_S
        while not self._sent(data, fd):
            self._until_writable(ends_at)

    def post(self, message: Message) -> None:
        """Sends one message as soon as there is room. Only in the thread that receives, and while it does.

        Raises:
            PeerGone: the other end does not read.
        """
        if len(self._posted) >= _MOST_POSTED:
            raise _gone("it does not read what it is sent")
        self._posted.append(message.SerializeToString())

    def _sent(self, data: bytes, fd: int | None) -> bool:
        with self._using:
            if self._closed:
                raise _gone("the connection is closed")
            try:
                socket.send_fds(self._socket, [data], [] if fd is None else [fd])
            except BlockingIOError:
                return False
            except OSError as error:
                raise _gone(error.strerror or "the connection broke") from error
            return True

    def _until_writable(self, ends_at: float) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        if not poll.poll(max(0.0, ends_at - time.monotonic()) * 1e3):
            raise _gone("it does not read what it is sent")

    def receive(self, timeout_s: float | None = None) -> tuple[Message, int | None] | None:
        """The next message and the descriptor that came with it, the receiver's to close; None: `wake` was called.

        Raises:
            PeerGone: the other end is closed.
            MalformedRequest: it sent what is no message.
            TimeoutError: nothing came within that time.
        """
        while True:
            while self._posted and self._sent(self._posted[0], None):
                self._posted.popleft()
            ready = self._ready(timeout_s)
            if self._waker in ready:
                os.eventfd_read(self._waker)
                return None
            if not ready:
                raise TimeoutError
            if ready[self._fd] != select.POLLOUT:
                return self._received()

    def _ready(self, timeout_s: float | None) -> dict[int, int]:
        poll = select.poll()
        poll.register(self._waker, select.POLLIN)
        poll.register(self._fd, select.POLLIN | (select.POLLOUT if self._posted else 0))
        return dict(poll.poll(None if timeout_s is None else timeout_s * 1e3))

    def _received(self) -> tuple[Message, int | None]:
        try:
            data, fds, flags, _ = socket.recv_fds(self._socket, MAX_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            raise _gone(error.strerror or "the connection broke") from error
        fd = fds[0] if fds else None
        try:
            return _read(data, flags), fd
        except BaseException:
            if fd is not None:
                os.close(fd)
            raise

    def wake(self) -> None:
        """Lets `receive` return at once. From any thread, at any moment."""
        with self._using:
            if not self._closed:
                os.eventfd_write(self._waker, 1)

    def shut(self) -> None:
        """Both ends hear that it is over."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it was over already

    def close(self) -> None:
        """Gives the descriptors back."""
        with self._using:
            if not self._closed:
                self._closed = True
                self._socket.close()
                os.close(self._waker)

    def forked(self) -> None:
        """In a child: its parent's must be the only one, so that its death is heard of."""
        self._using = threading.RLock()
        self.close()


def _gone(why: str) -> PeerGone:
    return PeerGone(f"the process at the other end of the session is gone: {why}", remedy="open a new session")


def _read(data: bytes, flags: int) -> Message:
    if not data:
        raise _gone("it closed the connection")
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise MalformedRequest("a packet is too large, or carries more than one descriptor")
    try:
        return Message.FromString(data)
    except DecodeError as error:
        raise MalformedRequest("a packet is no message of this protocol") from error
