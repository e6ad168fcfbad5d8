"""Asks for what is wrong in every way. Usage: python -m tools.fuzz [--cases N] [--seed N]

Over gRPC and REST a router, which runs in this process with its worker, the caller in a thread; over the socket of
shared memory a process of its own. Ends with the smallest request that was
answered wrong, or with the number of those that were answered right; the router has to answer a good one then.
"""

import argparse
import asyncio
import sys
import time

import grpc
import structlog
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.support import fuzzing
from tests.support.fake_worker import fake_worker
from tests.support.fuzzing import Fuzz, over_grpc, over_rest, shares, steady
from tests.support.routing import Router, request, running_router
from tests.support.tensor_fuzzing import sessions


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(" Usage:")[0])
    parser.add_argument("--cases", type=int, default=100_000, help="requests in all")
    parser.add_argument("--seed", type=int, default=0, help="the same seed asks the same")
    given = parser.parse_args()
    structlog.configure(processors=[_drop])
    sys.exit(asyncio.run(_fuzz(given.cases, given.seed)))


def _drop(_: object, __: str, ___: structlog.typing.EventDict) -> structlog.typing.EventDict:
    raise structlog.DropEvent  # a wrong request is worth a line in a log, 100,000 are not


async def _fuzz(cases: int, first_seed: int) -> int:
    models = fuzzing.models()
    began = time.monotonic()
    async with (
        fake_worker("w1", respond=steady) as worker,
        running_router(*models, unload_timeout_s=0.2, report_s=0.05) as router,
    ):
        router.work(worker)
        await router.inference.Infer(request())
        wrong = await _through_all_doors(router, cases, first_seed)
        await router.inference.Infer(request())
        lost, worked_on = worker.streams - 1, len(worker.finished)
    print(f"{cases} requests in {time.monotonic() - began:.0f} s, {worked_on} of them right enough for the worker;")
    print(f"answered wrong: {wrong}; streams to the worker lost: {lost}")
    return 1 if wrong or lost else 0


async def _through_all_doors(router: Router, cases: int, first_seed: int) -> int:
    """One door after the other: hypothesis is not made for two threads."""
    host, bound = router.bound.host, router.bound
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns) as progress, grpc.insecure_channel(f"{host}:{bound.grpc_port}") as channel:
        rest = await asyncio.to_thread(over_rest, f"http://{host}:{bound.rest_port}")
        with sessions() as shared_memory:
            doors = [over_grpc(channel), rest, shared_memory]
            return sum(
                [
                    await asyncio.to_thread(_run, door, share, first_seed, progress)
                    for door, share in zip(doors, shares(cases, len(doors)), strict=True)
                ]
            )


def _run(door: Fuzz, cases: int, first_seed: int, progress: Progress) -> int:
    """How many were answered wrong: after the first it ends, with its smallest form."""
    bar = progress.add_task(door.name, total=cases)
    try:
        door.run(cases, first_seed=first_seed, done=lambda: progress.advance(bar))
    except AssertionError as error:
        progress.console.print(f"[bold]{door.name}[/bold]: {error}", *getattr(error, "__notes__", []), markup=True)
        return 1
    return 0


if __name__ == "__main__":
    main()
