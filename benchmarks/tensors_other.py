"""The process at the other end: it connects, and does what it is told until it is told nothing more.

Times are those of the machine's one monotonic clock, which both processes read.
"""

import multiprocessing
import resource
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from modelmora.tensors import Listener, Quota, Session, SharedTensor, Terms, connect

DEADLINE_S = 120.0
QUOTA = Quota(bytes=8 * 2**30, arenas=64)


class Pair:
    """This process' end of both ways: the session, and a plain socket for the rivals."""

    def __init__(self, session: Session, plain: socket.socket, control: Connection) -> None:
        self.session = session
        self.plain = plain
        self._control = control

    def begin(self, what: str, *arguments: object) -> None:
        """Tells the other side what to do, and waits until it does."""
        self._control.send((what, arguments))
        self._heard()

    def end(self) -> Any:  # noqa: ANN401 - whatever was asked for
        """What it came to."""
        return self._heard()

    def _heard(self) -> Any:  # noqa: ANN401 - as above
        if not self._control.poll(DEADLINE_S):
            raise TimeoutError("the other process does not answer")
        return self._control.recv()


@contextmanager
def paired() -> Iterator[Pair]:
    """A process of its own, started anew, and ended with the block."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    plain, other = socket.socketpair()
    with TemporaryDirectory() as folder, Listener(Path(folder) / "s", Terms(QUOTA)) as listener, plain:
        process = context.Process(target=_main, args=(str(listener.path), there, other), daemon=True)
        process.start()
        other.close()
        try:
            yield Pair(listener.accept(DEADLINE_S), plain, here)
        finally:
            process.kill()
            process.join(DEADLINE_S)


def cpu_s() -> float:
    """Of all threads of this process until now, in and out of the kernel."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def timed(act: Any, *arguments: Any) -> float:  # noqa: ANN401 - anything that can be called
    """Seconds."""
    begun = time.perf_counter()
    act(*arguments)
    return time.perf_counter() - begun


def read(array: Any) -> object:  # noqa: ANN401 - any array of bytes
    """A full read, as fast as NumPy reads."""
    return np.max(array)


def _both(act: Any, shared: Any, private: Any) -> tuple[float, float]:  # noqa: ANN401 - arrays
    """Each twice, always after the other, so that neither finds itself in the cache; the first two are not timed."""
    act(shared), act(private)
    turns = [(timed(act, shared), timed(act, private)) for _ in range(2)]
    return turns[0][0] + turns[1][0], turns[0][1] + turns[1][1]


# ------------------------------------------------------------------------------------------------ there


def _main(path: str, control: Connection, plain: socket.socket) -> None:
    sys.setswitchinterval(0.0005)
    with connect(path) as session:
        other = _Other(session, control, plain)
        while True:
            what, arguments = control.recv()
            control.send(getattr(other, what)(*arguments))


class _Other:
    """What can be done there. Each says once that it begins, and then what it came to."""

    def __init__(self, session: Session, control: Connection, plain: socket.socket) -> None:
        self._session = session
        self._control = control
        self._plain = plain
        self._private: dict[int, tuple[Any, Any]] = {}

    def passes(self, size: int) -> dict[str, float]:
        """Receives one tensor, and reads it and copies it out, beside private memory of that size."""
        source, target = self._arrays(size)
        self._control.send("ready")
        got, received = self._received()
        read(got.numpy())
        done = time.perf_counter()
        return {
            "received": received,
            "read": done,
            "private read": timed(read, source),
            "again": timed(read, got.numpy()),
            "copy out": timed(np.copyto, target, got.numpy()),
            "private copy": timed(np.copyto, target, source),
        }

    def receive(self) -> tuple[float, float]:
        """Receives one tensor: when, and what it cost."""
        self._control.send("ready")
        begun = cpu_s()
        _, received = self._received()
        return received, cpu_s() - begun

    def receive_byte(self) -> float:
        """Receives one byte: when."""
        self._control.send("ready")
        self._plain.recv(1)
        return time.perf_counter()

    def receive_plain(self, kind: str) -> tuple[float, float]:
        """Receives one by a rival."""
        import tensors_rivals  # noqa: PLC0415 - it imports this module

        self._control.send("ready")
        begun = cpu_s()
        array = tensors_rivals.RECEIVE[kind](self._plain)
        received = time.perf_counter()
        assert array[-1] == array[0]
        return received, cpu_s() - begun

    def views(self, size: int) -> list[float]:
        """Seconds of one view: as NumPy's array, and by DLPack."""
        self._control.send("ready")
        got, _ = self._received()
        assert got.nbytes == size
        return [timed(lambda: (np.asarray(got), np.from_dlpack(got))) for _ in range(100)]  # type: ignore[arg-type]  # a protocol

    def operations(self, rounds: int) -> list[dict[str, tuple[float, float]]]:
        """Seconds of operations on what came, and on a private copy of it, in turns."""
        self._control.send("ready")
        shared = self._received()[0].numpy()
        private = shared.copy()
        out = np.empty_like(private)
        acts = {
            "sum": lambda array: array.sum(),
            "multiply": lambda array: np.multiply(array, 2, out=out),
            "sine": lambda array: np.sin(array[:100_000], out=out[:100_000]),
        }
        return [{name: _both(act, shared, private) for name, act in acts.items()} for _ in range(rounds)]

    def frames(self, count: int) -> float:
        """Reads so many; when the last was read."""
        self._control.send("ready")
        for _ in range(count):
            with self._session.receive(DEADLINE_S) as frame:
                read(frame.numpy())
        return time.perf_counter()

    def frames_plain(self, kind: str, count: int) -> float:
        """As `frames`, by a rival."""
        import tensors_rivals  # noqa: PLC0415 - it imports this module

        self._control.send("ready")
        for _ in range(count):
            read(tensors_rivals.RECEIVE[kind](self._plain))
        return time.perf_counter()

    def _received(self) -> tuple[SharedTensor, float]:
        got = self._session.receive(DEADLINE_S)
        return got, time.perf_counter()

    def _arrays(self, size: int) -> tuple[Any, Any]:
        if size not in self._private:
            self._private = {size: (np.ones(size, np.uint8), np.ones(size, np.uint8))}
        return self._private[size]
