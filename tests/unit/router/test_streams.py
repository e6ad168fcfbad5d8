"""What a stream keeps while its caller neither reads nor writes."""

import asyncio
import sys
from typing import Any, cast

import pytest

from modelmora.control.local import LocalControl
from modelmora.errors import DeadlineExceeded
from modelmora_router.calls import Payload
from modelmora_router.dataplane import DataPlane
from modelmora_router.edges.grpc_calls import Caller, Context
from modelmora_router.edges.streams import Conversation
from modelmora_router.settings import RouterSettings
from tests.support.routing import request


class Idle:
    """The server's side of a stream whose caller sends this, reads no answer, and sends nothing more."""

    def __init__(self, *sent: Payload) -> None:
        self.writing = asyncio.Event()
        self.read_dry = asyncio.Event()
        self._sent = list(sent)

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def peer(self) -> str:
        return "unix:"

    def time_remaining(self) -> None:
        return None

    async def read(self) -> Payload:
        if self._sent:
            return self._sent.pop()
        self.read_dry.set()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def write(self, _: Any) -> None:
        self.writing.set()
        await asyncio.Event().wait()


async def test_a_request_is_let_go_before_its_answer_is_taken() -> None:
    payload = Payload.of(request("large"))
    references = sys.getrefcount(payload)
    idle, settings = Idle(payload), RouterSettings()
    context = cast("Context", idle)
    plane = DataPlane(settings, LocalControl())
    conversation = Conversation(plane, context, Caller(context, settings), settings.max_unanswered, 60)
    running = asyncio.create_task(conversation.run())
    await idle.writing.wait()
    await idle.read_dry.wait()
    assert sys.getrefcount(payload) == references
    running.cancel()
    await asyncio.wait([running])


def conversation_with(idle: Idle, **settings: float) -> tuple[DataPlane, Conversation]:
    chosen, context = RouterSettings.model_validate(settings), cast("Context", idle)
    plane = DataPlane(chosen, LocalControl())
    caller = Caller(context, chosen)
    return plane, Conversation(plane, context, caller, chosen.max_unanswered, chosen.write_timeout_s)


async def test_a_caller_that_takes_no_answer_is_given_up() -> None:
    _, conversation = conversation_with(Idle(*(Payload.of(request(text)) for text in "abc")), write_timeout_s=0.05)
    with pytest.raises(DeadlineExceeded) as caught:
        await conversation.run()
    assert "0.05 s" in caught.value.message
    assert "write_timeout_s" in caught.value.context.remedy


async def test_answers_that_wait_for_their_reader_are_held_until_it_leaves() -> None:
    idle = Idle(*(Payload.of(request(text)) for text in "abc"))
    plane, conversation = conversation_with(idle)
    running = asyncio.create_task(conversation.run())
    await idle.writing.wait()
    await idle.read_dry.wait()
    # Errors, since the router behind the stream knows no model.
    assert await held(plane) > 3 * 100
    running.cancel()
    await asyncio.wait([running])
    assert await held(plane) == 0


async def held(plane: DataPlane) -> float:
    shown = (await plane.meters.exposition(""))[0].decode()
    return next(float(line.split()[1]) for line in shown.splitlines() if line.startswith("modelmora_held_bytes "))
