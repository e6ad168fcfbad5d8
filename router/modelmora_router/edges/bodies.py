"""The body of an inference over REST, from its bytes to messages: bounded in size, time and memory.

Large ones are read by the parser in a thread, so that all others go on meanwhile.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from fastapi import Request
from google.protobuf.struct_pb2 import Struct
from starlette.requests import ClientDisconnect

from modelmora.errors import MalformedRequest, PayloadTooLarge, RequestCancelled
from modelmora.spec import Priority
from modelmora.v1.types_pb2 import Value
from modelmora_router.edges import schemas
from modelmora_router.held_bytes import Holding
from modelmora_router.settings import RouterSettings

R = TypeVar("R")

LARGE_BYTES: Final = 256 * 1024  # takes a millisecond or more to parse


@dataclass(frozen=True, slots=True)
class Body:
    """What a body says."""

    input: Mapping[str, Value]
    parameters: Struct | None
    priority: Priority | None
    timeout_s: float | None
    size_bytes: int


async def received(request: Request, settings: RouterSettings, room: Callable[[int], Holding]) -> Body:
    """The body of the request, for which `room` is held until it has been parsed.

    Raises:
        MemoryFull: there is no room.
        PayloadTooLarge: it has too many bytes; one that says so itself is not even read.
        MalformedRequest, InvalidRequest: it is none, or did not come in time.
        RequestCancelled: the client hung up before it was complete.
    """
    stated = _stated_length(request, settings.max_request_bytes)
    with room(stated) as holding:
        data = await _read(request, settings, holding, stated)
        return await off_loop(len(data), lambda: _parsed(data, settings))


async def off_loop(size_bytes: int, work: Callable[[], R]) -> R:
    """What the work gives, in a thread where there is much of it."""
    return work() if size_bytes <= LARGE_BYTES else await asyncio.to_thread(work)


def _stated_length(request: Request, limit: int) -> int:
    length = request.headers.get("content-length", "")
    stated = int(length) if length.isdigit() else 0
    if stated > limit:
        raise _too_large(limit)
    return stated


async def _read(request: Request, settings: RouterSettings, holding: Holding, stated: int) -> bytes:
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            return await _bounded(request, settings.max_request_bytes, holding, stated)
    except ClientDisconnect:
        raise RequestCancelled("the client hung up before its request was complete") from None
    except TimeoutError:
        raise MalformedRequest(
            f"the body was not complete after {settings.body_timeout_s:g} s", remedy="send all of it at once"
        ) from None


async def _bounded(request: Request, limit: int, holding: Holding, held: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise _too_large(limit)
        if len(body) > held:  # of a body that did not say how long it is
            holding.grow(len(body) - held)
            held = len(body)
    return bytes(body)


def _parsed(data: bytes, settings: RouterSettings) -> Body:
    body = schemas.inference_body(data)
    return Body(
        input=_values(body, settings.max_request_bytes),
        parameters=schemas.parameters_struct(body.parameters),
        priority=schemas.priority_of(body.priority),
        timeout_s=body.timeout_seconds,
        size_bytes=len(data),
    )


def _values(body: schemas.InferenceBody, limit: int) -> Mapping[str, Value]:
    values = schemas.input_values(body.input)
    # Numbers are larger as a tensor than as JSON; a worker takes no more than gRPC callers may send.
    if sum(value.ByteSize() for value in values.values()) > limit:
        raise PayloadTooLarge(
            f"the inputs have more than {limit} bytes as tensors",
            field="input",
            remedy="send less in one request, or raise the setting max_request_bytes",
        )
    return values


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the body has more than {limit} bytes",
        remedy="send less in one request, or raise the setting max_request_bytes",
    )
