"""A day in minutes: tensors allocated, passed and released, while the processes at the other end are killed at random.

The others are forked from a process that has imported everything, so that one can die every few hundred tensors. That
one forgets them only when it is told to: until then no stranger has the number of a process that is to be killed.
"""

import gc
import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
from report import Figure
from rich.progress import Progress

from modelmora.errors import ModelMoraError, PeerGone
from modelmora.tensors import Listener, Quota, Session, Terms, connect
from tests.support.memory_maps import arenas_mapped, open_files

_DEADLINE_S = 30.0
_MEGABYTE = 1e6
_QUOTA = Quota(bytes=64 * 2**20, arenas=16)


def measure(*, tensors: int) -> Iterator[Figure]:
    """What is left after so many; the first tenth warms."""
    source = random.Random(8)  # the same kills in every run, as far as the machine lets them be
    with TemporaryDirectory() as folder, Progress() as progress:
        bar = progress.add_task("tensors that are passed, and processes that are killed", total=tensors)
        with _forking() as forked, Listener(Path(folder) / "s", Terms(_QUOTA)) as listener:
            passed, killed, before = 0, 0, _held()
            while passed < tensors:
                passed += _life(forked, listener, source)
                killed += 1
                progress.update(bar, completed=passed)
                if passed < tensors / 10:
                    before = _held()
            after = _held()
    yield Figure("tensors passed", passed, "", goal=tensors, holds=passed >= tensors, goal_is="at least")
    yield Figure("processes killed at random", killed, "")
    for what, goal in (("bytes of arenas mapped", 0), ("open descriptors", 0), ("threads", 0)):
        more = after[what] - before[what]
        yield Figure(f"growth: {what}", more, "", baseline=before[what], goal=goal, holds=more <= goal)
    more = (after["private bytes"] - before["private bytes"]) / _MEGABYTE
    yield Figure("growth: private memory", more, "MB", baseline=before["private bytes"] / 1e6, goal=5, holds=more <= 5)
    left = len([each for each in Path("/dev/shm").iterdir() if "modelmora" in each.name])
    yield Figure("left in /dev/shm", left, "", goal=0, holds=not left)


def _held() -> dict[str, float]:
    gc.collect()
    return {
        "bytes of arenas mapped": arenas_mapped(),
        "open descriptors": open_files(),
        "threads": threading.active_count(),
        "private bytes": psutil.Process().memory_full_info().uss,
    }


def _life(forked: Connection, listener: Listener, source: random.Random) -> int:
    """Passes tensors to and fro with one process until it is killed; how many."""
    forked.send(str(listener.path))
    pid = forked.recv()
    session = listener.accept(_DEADLINE_S)
    killer = threading.Timer(source.uniform(0.01, 0.3), os.kill, (pid, signal.SIGKILL))
    killer.start()
    passed = _passed(session, source)
    killer.join(_DEADLINE_S)
    forked.send(pid)
    forked.recv()
    if not session.wait(_DEADLINE_S):
        raise TimeoutError("the end of a killed process was not heard of")
    _emptied(session)
    if session.lent or session.own_bytes or session.foreign_bytes:
        raise AssertionError(f"a session that is over holds {session.own_bytes} and {session.foreign_bytes} bytes")
    return passed


def _passed(session: Session, source: random.Random) -> int:
    passed = 0
    try:
        while True:
            size = int(10 ** source.uniform(0, 6))
            session.send(np.ones(size, np.uint8), timeout_s=_DEADLINE_S)
            with session.receive(_DEADLINE_S) as got:
                assert got.numpy()[-1] == 1
            passed += 2
    except PeerGone:
        return passed


def _emptied(session: Session) -> None:
    try:
        while True:
            session.receive(_DEADLINE_S)
    except PeerGone:
        return


@contextmanager
def _forking() -> Iterator[Connection]:
    """To a process that forks others: a path makes one, and gives its number; a number waits for its end."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_forks, args=(there,))
    process.start()
    there.close()
    try:
        yield here
    finally:
        here.close()
        process.join(_DEADLINE_S)


def _forks(control: Connection) -> None:
    while True:
        try:
            asked = control.recv()
        except EOFError:
            return
        if isinstance(asked, int):
            control.send(os.waitpid(asked, 0)[1])
        elif pid := os.fork():
            control.send(pid)
        else:
            control.close()
            _other(asked)
            os._exit(0)


def _other(path: str) -> None:
    """Sends back what it gets: the same memory's copy, in an arena of its own."""
    source = random.Random(os.getpid())
    held = []
    try:
        with connect(path) as session:
            while True:
                got = session.receive(_DEADLINE_S)
                session.send(got.numpy())
                held.append(got)
                if source.random() < 0.1:  # keeps some, and lets go of them together
                    held.clear()
    except ModelMoraError:
        return
