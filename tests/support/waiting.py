"""Waiting for a condition with a deadline."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

DEADLINE_S = 60.0


async def eventually(condition: Callable[[], T | None], *, what: str, within_s: float = DEADLINE_S) -> T:
    """The first true value of a condition; fails the test if it does not come in time."""

    async def ask() -> T | None:
        return condition()

    return await eventually_async(ask, what=what, within_s=within_s)


async def eventually_async(
    condition: Callable[[], Awaitable[T | None]], *, what: str, within_s: float = DEADLINE_S
) -> T:
    """As `eventually`, for a condition that has to be awaited."""
    try:
        async with asyncio.timeout(within_s):
            while not (value := await condition()):  # noqa: ASYNC110 - any condition, not only events
                await asyncio.sleep(0.01)
            return value
    except TimeoutError:
        raise AssertionError(f"waited {within_s} s for {what}") from None


def until(condition: Callable[[], T | None], *, within_s: float = DEADLINE_S) -> T:
    """As `eventually`, in a test of threads."""
    ends_at = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < ends_at, f"waited {within_s} s"
        time.sleep(0.002)
    return value
