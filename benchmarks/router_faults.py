"""100 requests a second, evenly: for a minute, and while a worker of two is killed."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import models
from loads import Load, Outcome, drive, texts
from report import Absent, Figure, figure
from rich.progress import track

from modelmora import Client
from tests.support.servers import wait_for

_RATE = 100.0
_AVAILABLE = 0.999


def steady(*, seconds: float) -> Iterator[Figure | Absent]:
    """AC-PROD-8: no errors."""
    with models.room() as folder, models.served(folder, {"noop": models.own(models.NOOP, folder)}) as server:
        load = Load(target=server.grpc, payloads=texts("noop", ["hello"]), seconds=seconds, rate=_RATE, connections=4)
        [outcome] = drive(load)
    errors = outcome.errors.total()
    what = f"{_RATE:g} req/s for {seconds:g} s"
    yield Figure(f"{what}, errors", errors, "", goal=0, holds=errors == 0, samples=outcome.sent)
    yield from _named(what, outcome)
    yield figure(f"{what}, p50", outcome.latencies_ms, "ms")
    yield figure(f"{what}, p99", outcome.latencies_ms, "ms", percentile=99)


def kill(*, rounds: int, seconds: float) -> Iterator[Figure | Absent]:
    """A worker of two is ended with SIGKILL while both work."""
    total = Outcome()
    worst: list[float] = []
    with models.room() as folder:
        spec = models.own(models.WHO, folder)
        spec["scaling"] = {**models.NEVER_TO_ZERO, "minReplicas": 2, "maxReplicas": 2}
        with models.served(folder, {"twice": spec}) as server, server.client() as client:
            for _ in track(range(rounds), description="kill -9 of a worker"):
                outcome = _killed(server.grpc, client, seconds)
                total.latencies_ms += outcome.latencies_ms
                total.errors += outcome.errors
                worst.append(max(outcome.latencies_ms))
    yield from _availability(total, worst, rounds)


def _killed(target: str, client: Client, seconds: float) -> Outcome:
    pids = wait_for(lambda: _both(client), within_s=60, what="both workers to answer")
    load = Load(target=target, payloads=texts("twice", ["who?"]), seconds=seconds, rate=_RATE, connections=4)

    def meanwhile() -> None:
        time.sleep(seconds / 3)
        os.kill(pids[0], signal.SIGKILL)

    [outcome] = drive(load, meanwhile=meanwhile)
    return outcome


def _both(client: Client) -> list[int] | None:
    """The workers, by their own word: their pids, once there are two that answer."""
    with ThreadPoolExecutor(20) as callers:  # at once: one after the other, the first worker would answer them all
        answers = callers.map(lambda _: client.infer("twice", "who?"), range(20))
        pids = {int(str(answer.output["text"][0])) for answer in answers}
    return sorted(pids) if len(pids) == 2 else None


def _availability(total: Outcome, worst: list[float], rounds: int) -> Iterator[Figure]:
    what = f"kill -9 of one worker of two at {_RATE:g} req/s"
    share = len(total.latencies_ms) / total.sent
    kept = share >= _AVAILABLE
    yield Figure(f"{what}, availability", 100 * share, "%", None, 100 * _AVAILABLE, kept, rounds, 0.0, "at least")
    yield Figure(f"{what}, failed requests", total.errors.total(), "", samples=total.sent)
    yield from _named(what, total)
    yield figure(f"{what}, the slowest answer of a round", worst, "ms")
    yield figure(f"{what}, p99", total.latencies_ms, "ms", percentile=99)


def _named(what: str, outcome: Outcome) -> Iterator[Figure]:
    for code, count in outcome.errors.items():
        yield Figure(f"{what}, failed: {code}", count, "requests")
