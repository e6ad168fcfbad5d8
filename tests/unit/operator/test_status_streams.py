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


@pytest.mark.req("REQ-LIFE-010")
async def test_that_it_failed_stays_the_last_word_of_a_worker_until_its_container_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def say(address: str, take: Callable[..., None], *, lost: Callable[[], None], **_: object) -> None:
        failed = address == "failed:1"
        phase = worker_pb2.WORKER_PHASE_FAILED if failed else worker_pb2.WORKER_PHASE_SERVING
        take(worker_pb2.StatusUpdate(phase=phase))
        lost()

    monkeypatch.setattr(status_streams, "follow", say)
    heard: list[Name] = []
    streams = StatusStreams(heard.append)
    async with streams.running():
        streams.follow(ODD, "failed:1")
        streams.follow(GOOD, "serving:1")
        await eventually(lambda: len(heard) == 3 or None, what="both are heard, and that one left")
        assert (streams[ODD] is not None, streams[GOOD]) == (True, None)
        streams.follow(ODD, "")
        assert streams[ODD] is None
