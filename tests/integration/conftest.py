"""What many tests of the router begin with."""

from collections.abc import AsyncIterator

import pytest

from tests.support.fake_worker import FakeWorker, fake_worker


@pytest.fixture
async def worker() -> AsyncIterator[FakeWorker]:
    """A worker that a test scripts; nobody has been told of it yet."""
    async with fake_worker("w1") as worker:
        yield worker
