"""What a stream keeps while its caller neither reads nor writes."""

import asyncio
import sys
from typing import Any, cast

from modelmora.control.local import LocalControl
from modelmora.v1.types_pb2 import InferenceRequest
from modelmora_router.dataplane import DataPlane
from modelmora_router.edges.grpc_calls import Caller, Context, Received
from modelmora_router.edges.streams import Conversation
from modelmora_router.settings import RouterSettings
from tests.support.routing import request


class Idle:
    """The server's side of a stream whose caller sends this, reads no answer, and sends nothing more."""

    def __init__(self, *sent: InferenceRequest) -> None:
        self.writing = asyncio.Event()
        self.read_dry = asyncio.Event()
        self._sent = list(sent)

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def peer(self) -> str:
        return "unix:"

    def time_remaining(self) -> None:
        return None

    async def read(self) -> Received:
        if self._sent:
            return Received(self._sent.pop(), 1)
        self.read_dry.set()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def write(self, _: Any) -> None:
        self.writing.set()
        await asyncio.Event().wait()


async def test_a_request_is_let_go_before_its_answer_is_taken() -> None:
    message = request("large")
    references = sys.getrefcount(message)
    idle, settings = Idle(message), RouterSettings()
    context = cast("Context", idle)
    plane = DataPlane(settings, LocalControl())
    conversation = Conversation(plane, context, Caller(context, settings), settings.max_unanswered)
    running = asyncio.create_task(conversation.run())
    await idle.writing.wait()
    await idle.read_dry.wait()
    assert sys.getrefcount(message) == references
    running.cancel()
    await asyncio.wait([running])
