"""The queue alone: put and get of 10,000 tasks, beside asyncio.PriorityQueue with comparable ones."""

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from report import Figure, figure
from rich.progress import track

from modelmora.scheduling import PriorityQueue
from modelmora.spec import Priority

_TASKS = 10_000


@dataclass(slots=True)
class Task:
    """What our queue holds: as little as it asks for."""

    entry_id: int
    priority: Priority
    arrived_at: float = 0.0


@dataclass(order=True, slots=True)
class Ordered:
    """What the rival's queue holds: the same order, by comparison."""

    priority: int
    entry_id: int
    payload: object = field(compare=False, default=None)


@dataclass(frozen=True)
class Pass:
    """Seconds of one pass; of each operation, where they were taken."""

    put_s: float
    get_s: float
    order: list[tuple[int, int]]

    @property
    def per_second(self) -> float:
        return 2 * len(self.order) / (self.put_s + self.get_s)

    @property
    def inversions(self) -> int:
        """Neighbours that came out in the wrong order."""
        return sum(first > second for first, second in pairwise(self.order))


def measure(*, rounds: int) -> Iterator[Figure]:
    """The figures of the queue (NUM-08, NUM-09, NUM-10)."""
    source = random.Random(5)  # the same tasks in every run
    priorities = [source.choice(list(Priority)) for _ in range(_TASKS)]
    ours, rivals, timed = [], [], []
    for _ in track(range(rounds), description="queue"):
        ours.append(_ours(priorities))
        rivals.append(asyncio.run(_rival(priorities)))
        timed.append(_ours_timed(priorities))
    rival = figure("", [each.per_second for each in rivals], "operations/s").value
    rates = [each.per_second for each in ours]
    yield figure("queue, put + get: ModelMora", rates, "operations/s", baseline=rival, at_least=1e6)
    yield figure("queue, put + get: asyncio.PriorityQueue", [each.per_second for each in rivals], "operations/s")
    inversions = max(each.inversions for each in ours)
    yield Figure("queue, inversions", inversions, "", goal=0, holds=inversions == 0, samples=len(ours))
    put, get = zip(*timed, strict=True)
    yield figure("queue, one put, median with a clock around each (NUM-09)", put, "µs", at_most=0.7)
    yield figure("queue, one get, median with a clock around each (NUM-09)", get, "µs", at_most=1.7)


def _ours(priorities: Sequence[Priority]) -> Pass:
    tasks = [Task(number, priority) for number, priority in enumerate(priorities)]
    queue: PriorityQueue[Task] = PriorityQueue()
    push, pop = queue.push, queue.pop
    begun = time.perf_counter()
    for task in tasks:
        push(task)
    filled = time.perf_counter()
    out = [pop(0.0) for _ in range(_TASKS)]
    emptied = time.perf_counter()
    return Pass(filled - begun, emptied - filled, [(task.priority, task.entry_id) for task in out if task])


async def _rival(priorities: Sequence[Priority]) -> Pass:
    tasks = [Ordered(int(priority), number) for number, priority in enumerate(priorities)]
    queue: asyncio.PriorityQueue[Ordered] = asyncio.PriorityQueue()
    begun = time.perf_counter()
    for task in tasks:
        await queue.put(task)
    filled = time.perf_counter()
    out = [await queue.get() for _ in range(_TASKS)]
    emptied = time.perf_counter()
    return Pass(filled - begun, emptied - filled, [(task.priority, task.entry_id) for task in out])


def _ours_timed(priorities: Sequence[Priority]) -> tuple[float, float]:
    """Median microseconds of one put and of one get."""
    queue: PriorityQueue[Task] = PriorityQueue()
    tasks = [Task(number, priority) for number, priority in enumerate(priorities)]
    put = [_clocked(lambda task=task: queue.push(task)) for task in tasks]  # type: ignore[misc]  # a bound argument
    get = [_clocked(lambda: queue.pop(0.0)) for _ in tasks]
    return figure("", put, "µs").value, figure("", get, "µs").value


def _clocked(operation: Callable[[], object]) -> float:
    begun = time.perf_counter()
    operation()
    return (time.perf_counter() - begun) * 1e6
