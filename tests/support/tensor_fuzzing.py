"""Packets that are wrong in every way, from a client that speaks the protocol of sessions by hand."""

import fcntl
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from hypothesis import strategies as st

from modelmora.errors import ModelMoraError
from modelmora.tensors import Session, connect, memory
from modelmora.tensors.looks import behind
from modelmora.v1 import sessions_pb2, types_pb2
from modelmora.v1.sessions_pb2 import Hello, Message
from tests.support.fuzzing import Fuzz, mutated
from tests.support.tensor_process import TensorProcess

DEADLINE_S = 20.0
SIZE = 8192


@contextmanager
def by_hand(path: str) -> Iterator[socket.socket]:
    """A session of which this process knows nothing but its socket."""
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    raw.settimeout(DEADLINE_S)
    with raw:
        raw.connect(path)
        raw.send(Message(hello=Hello(version=1)).SerializeToString())
        assert Message.FromString(raw.recv(65536)).HasField("welcome")
        yield raw


def say(raw: socket.socket, data: bytes, fd: int | None = None) -> bool:
    """Sends a packet; False: the other side has ended the session."""
    try:
        socket.send_fds(raw, [data], [] if fd is None else [fd])
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


# ------------------------------------------------------------------------------------------------ descriptors


def sealed(size: int = SIZE) -> int:
    """As our own side makes them."""
    fd = unsealed(size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, memory._SEALS)
    return fd


def unsealed(size: int = SIZE) -> int:
    fd = os.memfd_create("fuzz", os.MFD_ALLOW_SEALING)
    os.posix_fallocate(fd, 0, size)
    return fd


def _sparse() -> int:
    fd = os.memfd_create("fuzz")
    os.truncate(fd, SIZE)
    return fd


def _pipe() -> int:
    reading, writing = os.pipe()
    os.close(writing)
    return reading


_FILES: Final[Mapping[str, Callable[[], int | None]]] = {
    "none": lambda: None,
    "sealed": sealed,
    "unsealed": unsealed,
    "sparse": _sparse,
    "pipe": _pipe,
    "device": lambda: os.open("/dev/zero", os.O_RDWR),
    "folder": lambda: os.open("/", os.O_RDONLY),
    "program": lambda: os.open("/proc/self/exe", os.O_RDONLY),
    "socket": lambda: socket.socket(socket.AF_UNIX).detach(),
}

# ------------------------------------------------------------------------------------------------ packets

_small = st.integers(0, 4)
_numbers = st.one_of(st.integers(0, 64), st.integers(0, 2**32 - 1))
_wide = st.one_of(st.sampled_from([0, 1, 8, 4096, SIZE - 8, SIZE, SIZE + 1, 2**40, 2**63]), st.integers(0, 2**64 - 1))
_signed = st.one_of(st.integers(-2, 16), st.sampled_from([1024, 2048, -8, 2**62, -(2**63)]))
_tensors = st.builds(
    lambda datatype, shape, region, data: types_pb2.Tensor(datatype=datatype, shape=shape, region=region, data=data),
    st.one_of(st.sampled_from([1, 2, 4, 9]), st.integers(0, 20)),
    st.lists(_signed, max_size=5),
    st.builds(types_pb2.Region, arena=_small, offset=_wide, strides=st.lists(_signed, max_size=5)),
    st.sampled_from([b"", b"", b"", b"1234"]),
)
_good_tensors = st.builds(
    lambda offset: types_pb2.Tensor(
        datatype=types_pb2.DATA_TYPE_UINT8, shape=[8], region=types_pb2.Region(arena=1, offset=offset)
    ),
    st.integers(0, SIZE - 8),
)
_S = sessions_pb2
_messages = st.one_of(
    st.builds(lambda arena: Message(open_arena=arena), st.builds(_S.OpenArena, arena=_small, size_bytes=_wide)),
    st.builds(lambda of: Message(arena_opened=of), st.builds(_S.ArenaOpened, arena=_numbers)),
    st.builds(lambda of: Message(close_arena=of), st.builds(_S.CloseArena, arena=_small)),
    st.builds(
        lambda lent: Message(lend=lent),
        st.builds(_S.Lend, lease=_wide, tensor=st.one_of(_tensors, _tensors, _good_tensors), tag=st.binary(max_size=9)),
    ),
    st.builds(lambda of: Message(release=of), st.builds(_S.Release, lease=_wide)),
    st.builds(lambda of: Message(revoke=of), st.builds(_S.Revoke, lease=_wide)),
    st.just(Message(hello=Hello(version=1))),
    st.just(Message(welcome=_S.Welcome(session="x", quota_bytes=2**60))),
)
_bytes = _messages.map(lambda message: message.SerializeToString())
_packets = st.tuples(
    st.one_of(_bytes, _bytes, _bytes, mutated(_bytes), st.binary(max_size=40)),
    st.sampled_from(["none", "none", "none", *_FILES]),
)
# Most would fail at their first packet, and the later ones would never be looked at: so some begin well.
_OPENED = (Message(open_arena=_S.OpenArena(arena=1, size_bytes=SIZE)).SerializeToString(), "sealed")
_cases = st.tuples(st.booleans(), st.lists(_packets, max_size=6)).map(lambda case: [_OPENED] * case[0] + case[1])


def over_sessions(path: str, healthy: Callable[[], None]) -> Fuzz:
    """The socket of sessions; `healthy` fails if who listens there does not serve a good client any more."""

    def ask(case: list[tuple[bytes, str]]) -> None:
        with by_hand(path) as raw:
            for data, kind in case:
                fd = _FILES[kind]()
                said = say(raw, data, fd)
                if fd is not None:
                    os.close(fd)
                if not said:
                    break
        healthy()

    return Fuzz("shared memory", _cases, ask)


def healthy(path: str) -> None:
    """Fails if who listens there does not say the sum of what it is sent."""
    with connect(path, timeout_s=DEADLINE_S) as session:
        session.send(np.arange(10))
        assert session.receive(DEADLINE_S).numpy()[0] == 45


@contextmanager
def sessions() -> Iterator[Fuzz]:
    """The door, and a process behind it that says sums."""
    with TemporaryDirectory() as folder, TensorProcess() as process:
        path = f"{folder}/s"
        process.ask("import logging, structlog; from tests.support.tensor_fuzzing import answer_sums")
        process.ask("structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))")
        process.ask(f"listener = Listener({path!r}, Terms(Quota(2**26, 64), sessions=32), begun=answer_sums)")
        yield over_sessions(path, lambda: healthy(path))


# ------------------------------------------------------------------------------------------------ the other side


def answer_sums(session: Session) -> None:
    """Reads every element of all that comes, and says their sum; fails where one is outside of its arena."""
    try:
        with session:
            while True:
                got = session.receive(DEADLINE_S)
                array = got.numpy()
                _inside(array)
                session.send(np.array([array.astype(np.float64).sum()]), got.tag)
    except (ModelMoraError, TimeoutError):
        return  # the session is over, however that came about


def _inside(array: "np.ndarray[Any, Any]") -> None:
    look = behind(array)
    if look is None or not array.size:
        return
    low, high = np.lib.array_utils.byte_bounds(array)
    first, last = np.lib.array_utils.byte_bounds(np.asarray(look))
    if not first <= low <= high <= last:
        os.abort()
