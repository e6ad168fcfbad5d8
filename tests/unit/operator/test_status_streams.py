"""The status streams of workers: one that says something odd disturbs nobody."""

from collections.abc import Callable

import pytest

from modelmora.v1 import worker_pb2
from modelmora_operator.backends import status_streams
from modelmora_operator.backends.status_streams import Name, StatusStreams
from tests.support.waiting import eventually

ODD, GOOD = ("n", "odd"), ("n", "good")


async def test_a_worker_whose_status_is_not_understood_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Name] = []

    def hear(name: Name) -> None:
        heard.append(name)
        if name == ODD:
            raise ValueError("too long")

    async def say(address: str, take: Callable[..., None], **_: object) -> None:
        take(worker_pb2.StatusUpdate())

    monkeypatch.setattr(status_streams, "follow", say)
    streams = StatusStreams(hear)
    async with streams.running():
        streams.follow(ODD, "a:1")
        streams.follow(GOOD, "b:1")
        await eventually(lambda: len(heard) == 2 or None, what="both are heard")
        await eventually(lambda: streams[ODD] is None or None, what="the odd one is forgotten")
        assert streams[GOOD] is not None
