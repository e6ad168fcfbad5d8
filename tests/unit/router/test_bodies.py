"""The body of a REST request on its way in: what it says of its length, and what is held of it meanwhile."""

import asyncio
import json

import pytest
from fastapi import Request
from starlette.types import Message

from modelmora.errors import MalformedRequest, MemoryFull, PayloadTooLarge
from modelmora.spec import Priority
from modelmora_router.edges.bodies import Body, received
from modelmora_router.held_bytes import HeldBytes, Holding
from modelmora_router.settings import RouterSettings

GOOD = json.dumps({"input": {"text": "a"}}).encode()
SETTINGS = RouterSettings(max_request_bytes=10_000)


class Client:
    """Sends what a test lets it, on a connection of its own."""

    def __init__(self, length: bytes | None) -> None:
        self._headers = [] if length is None else [(b"content-length", length)]
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self.ledger = HeldBytes(1_000_000, retry_after_s=1.0)

    def send(self, body: bytes, *, more: bool = False) -> None:
        self._messages.put_nowait({"type": "http.request", "body": body, "more_body": more})

    async def received(self) -> Body:
        request = Request({"type": "http", "method": "POST", "headers": self._headers}, self._messages.get)
        return await received(request, SETTINGS, self._room)

    def _room(self, size: int) -> Holding:
        return self.ledger.hold(size, Priority.CRITICAL)


@pytest.mark.parametrize("length", [b"\xb2", b"", b"-1", b"+5", b"1_0", b"5, 5", b"0x10", b"1.5", b"\xd9\xa3"])
async def test_a_length_that_is_no_number_is_the_callers_fault(length: bytes) -> None:
    client = Client(length)
    client.send(GOOD)
    with pytest.raises(MalformedRequest) as caught:
        await client.received()
    assert caught.value.context.field == "content-length"
    assert caught.value.context.remedy


@pytest.mark.parametrize("length", [b"10001", b"9" * 5000], ids=["one more than allowed", "more digits than int reads"])
async def test_a_length_above_the_limit_is_refused_before_a_byte_is_read(length: bytes) -> None:
    with pytest.raises(PayloadTooLarge):
        await Client(length).received()  # which has sent nothing


@pytest.mark.parametrize("length", [None, b"0000000000%d" % len(GOOD), b"10000"], ids=["none", "zeros", "too long"])
async def test_any_other_length_says_nothing_about_what_comes(length: bytes | None) -> None:
    client = Client(length)
    client.send(GOOD)
    assert (await client.received()).payload.size_bytes
    assert client.ledger.held == 0


async def test_only_what_has_come_is_held_and_all_of_it() -> None:
    client, seen = Client(b"10000"), []
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(client.received())
        for part in (b"", GOOD[:4], GOOD[4:10]):
            client.send(part, more=True)
            while not client._messages.empty():  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            seen.append(client.ledger.held)
        client.send(GOOD[10:])
    assert seen == [0, 4, 10]
    assert reading.result().payload.size_bytes
    assert client.ledger.held == 0


async def test_what_comes_when_no_room_is_left_is_refused_and_given_back() -> None:
    client = Client(b"10000")
    with client.ledger.hold(999_990, Priority.CRITICAL):
        client.send(b" " * 8, more=True)
        client.send(b" " * 8)
        with pytest.raises(MemoryFull):
            await client.received()
        assert client.ledger.held == 999_990
