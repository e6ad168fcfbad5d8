"""What a tensor costs from process to process: in shared memory, by pickle with its buffers beside, as protobuf bytes.

The rivals go over a unix socket, in pieces as large as it takes. Overhead is all that lies between an array here and an
array there, wall and CPU of both processes. In shared memory data that is produced in place costs only the hand-over;
data that lies elsewhere one copy more.
"""

import pickle
import socket
import struct
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import Any, Final

import numpy as np
from report import Figure, figure, quantile
from rich.progress import track
from tensors_other import Pair, cpu_s, paired
from tensors_passes import FROM, SIZES

from modelmora.v1 import types_pb2

PICKLE, PROTOBUF, PIPE = "pickle 5", "protobuf bytes", "multiprocessing"
_BUFFER_BYTES: Final = 4 * 2**20
_HEAD: Final = struct.Struct("!QQ")


def measure(*, rounds: int, rounds_of_1_gb: int, largest: int) -> Iterator[Figure]:
    """Wall and CPU by size and system, and how much less ours are."""
    with paired() as pair:
        for side in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            pair.plain.setsockopt(socket.SOL_SOCKET, side, _BUFFER_BYTES)
        for name, size in SIZES.items():
            if size <= largest:
                yield from _compared(pair, name, size, rounds if size < 10**9 else rounds_of_1_gb)
        yield from _frames(pair, rounds)


def _compared(pair: Pair, name: str, size: int, rounds: int) -> Iterator[Figure]:
    array = np.ones(size, np.uint8)
    tensor = pair.session.put(array)
    ways: Mapping[str, Callable[[], tuple[float, float]]] = {
        "in place": lambda: _ours(pair, lambda: pair.session.send(tensor)),
        "one copy in": lambda: _ours(pair, lambda: pair.session.send(array)),
        PICKLE: lambda: _plain(pair, PICKLE, array),
        PROTOBUF: lambda: _plain(pair, PROTOBUF, array),
    }
    wall: dict[str, list[float]] = defaultdict(list)
    cpu: dict[str, list[float]] = defaultdict(list)
    for number in track(range(rounds + 1), description=f"rivals, {name}"):
        for way, act in ways.items():
            seconds, used = act()
            if number:  # the first warms all
                wall[way].append(seconds * 1e3)
                cpu[way].append(used * 1e3)
    for what, samples in (("wall", wall), ("CPU", cpu)):
        yield from _less(name, what, samples, goal=95.0 if size >= FROM else None)


def _less(name: str, what: str, samples: Mapping[str, list[float]], *, goal: float | None) -> Iterator[Figure]:
    for way, each in samples.items():
        yield figure(f"{name}, overhead, {what}: {way}", each, "ms")
    for rival in (PICKLE, PROTOBUF):
        theirs = quantile(samples[rival], 50)
        for way in ("in place", "one copy in"):
            less = [100 * (1 - ours / theirs) for ours in samples[way]]
            title = f"{name}, {what} less than {rival}: {way} (SC-007, NUM-29)"
            yield figure(title, less, "%", at_least=goal if way == "in place" else None)


def _ours(pair: Pair, send: Callable[[], None]) -> tuple[float, float]:
    pair.begin("receive")
    used, begun = cpu_s(), time.perf_counter()
    send()
    used = cpu_s() - used
    received, there = pair.end()
    return received - begun, used + there


def _plain(pair: Pair, kind: str, array: Any) -> tuple[float, float]:  # noqa: ANN401 - an array
    pair.begin("receive_plain", kind)
    used, begun = cpu_s(), time.perf_counter()
    _SEND[kind](pair.plain, array)
    used = cpu_s() - used
    received, there = pair.end()
    return received - begun, used + there


def _frames(pair: Pair, rounds: int) -> Iterator[Figure]:
    """Frames of 100 MB, handed over and read: how many a second (NUM-27).

    The rivals are pickle at its best, with its buffers beside it into memory that is not cleared, and as the pipes and
    queues of multiprocessing send it.
    """
    frame = np.ones(10**8, np.uint8)
    place = pair.session.put(frame)
    count = max(5, rounds // 5)
    ways: Mapping[str, Callable[[], float]] = {
        "shared memory, made in place": lambda: _rate(pair, count, partial(pair.session.send, place)),
        "shared memory, one copy in": lambda: _rate(pair, count, partial(pair.session.send, frame)),
        PICKLE: lambda: _rate(pair, count, partial(_SEND[PICKLE], pair.plain, frame), PICKLE),
        PIPE: lambda: _rate(pair, count, partial(_SEND[PIPE], pair.plain, frame), PIPE),
    }
    rates: dict[str, list[float]] = defaultdict(list)
    for _ in track(range(5), description="frames"):
        for way, rate in ways.items():
            rates[way].append(rate())
    for way, each in rates.items():
        goal = 55 if way == "shared memory, one copy in" else None
        yield figure(f"frames of 100 MB: {way} (NUM-27)", each, "1/s", at_least=goal)
    for rival in (PICKLE, PIPE):
        for way in ("shared memory, made in place", "shared memory, one copy in"):
            times = [ours / theirs for ours, theirs in zip(rates[way], rates[rival], strict=True)]
            yield figure(f"frames of 100 MB: {way} ÷ {rival} (NUM-27)", times, "×", at_least=10)


def _rate(pair: Pair, count: int, send: Callable[[], object], plain: str = "") -> float:
    pair.begin(*(("frames_plain", plain, count) if plain else ("frames", count)))
    begun = time.perf_counter()
    for _ in range(count):
        send()
    return float(count / (pair.end() - begun))


# ------------------------------------------------------------------------------------------------ the rivals


def _send_pickle(plain: socket.socket, array: Any) -> None:  # noqa: ANN401 - an array
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(array, protocol=5, buffer_callback=buffers.append)
    [body] = [buffer.raw() for buffer in buffers]
    plain.sendall(_HEAD.pack(len(head), body.nbytes) + head)
    plain.sendall(body)


def _receive_pickle(plain: socket.socket) -> Any:  # noqa: ANN401 - an array
    head_bytes, body_bytes = _HEAD.unpack(_received(plain, _HEAD.size))
    head = _received(plain, head_bytes)
    return pickle.loads(head, buffers=[_received(plain, body_bytes)])


def _send_pipe(plain: socket.socket, array: Any) -> None:  # noqa: ANN401 - an array
    """What multiprocessing.connection.Connection.send does."""
    data = ForkingPickler.dumps(array)
    plain.sendall(_HEAD.pack(0, len(data)))
    plain.sendall(data)


def _receive_pipe(plain: socket.socket) -> Any:  # noqa: ANN401 - an array
    _, size = _HEAD.unpack(_received(plain, _HEAD.size))
    return pickle.loads(_received(plain, size))


def _send_protobuf(plain: socket.socket, array: Any) -> None:  # noqa: ANN401 - an array
    message = types_pb2.Tensor(datatype=types_pb2.DATA_TYPE_UINT8, shape=array.shape, data=array.tobytes())
    data = message.SerializeToString()
    plain.sendall(_HEAD.pack(0, len(data)))
    plain.sendall(data)


def _receive_protobuf(plain: socket.socket) -> Any:  # noqa: ANN401 - an array
    _, size = _HEAD.unpack(_received(plain, _HEAD.size))
    message = types_pb2.Tensor.FromString(memoryview(_received(plain, size)))  # type: ignore[arg-type]  # any buffer
    return np.frombuffer(message.data, np.uint8)


def _received(plain: socket.socket, size: int) -> Any:  # noqa: ANN401 - a buffer
    whole: Any = np.empty(size, np.uint8).data  # not filled first, as a bytearray would be
    rest = whole
    while rest:
        rest = rest[plain.recv_into(rest) :]
    return whole


_SEND: Final = {PICKLE: _send_pickle, PROTOBUF: _send_protobuf, PIPE: _send_pipe}
RECEIVE: Final[Mapping[str, Callable[[socket.socket], Any]]] = {
    PICKLE: _receive_pickle,
    PROTOBUF: _receive_protobuf,
    PIPE: _receive_pipe,
}
