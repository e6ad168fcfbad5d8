"""The body of an inference over REST, from its bytes to messages: bounded in size, time and memory.

Large ones are read by the parser in a thread, so that all others go on meanwhile.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from modelmora.errors import MalformedRequest, PayloadTooLarge, RequestCancelled
from modelmora.spec import Priority
from modelmora.v1.types_pb2 import InferenceRequest
from modelmora_router import admission
from modelmora_router.calls import Payload
from modelmora_router.edges import schemas
from modelmora_router.held_bytes import Holding
from modelmora_router.settings import RouterSettings

R = TypeVar("R")

LARGE_BYTES: Final = 256 * 1024  # takes a millisecond or more to parse


@dataclass(frozen=True, slots=True)
class Body:
    """What a body says."""

    payload: Payload
    priority: Priority | None
    timeout_s: float | None


async def received(request: Request, settings: RouterSettings, room: Callable[[int], Holding]) -> Body:
    """The body of the request; for what of it has come, `room` is held until it has been parsed.

    Raises:
        MemoryFull: there is no room.
        PayloadTooLarge: it has too many bytes; one that says so itself is not even read.
        MalformedRequest, InvalidRequest: it is none, its length is none, or it did not come in time.
        RequestCancelled: the client hung up before it was complete.
    """
    _refuse_stated(request.headers.get("content-length"), settings.max_request_bytes)
    with room(0) as holding:  # what is only promised takes no room from those who send
        data = await _read(request, settings, holding)
        return await off_loop(len(data), lambda: _parsed(data, settings))


async def off_loop(size_bytes: int, work: Callable[[], R]) -> R:
    """What the work gives, in a thread where there is much of it."""
    return work() if size_bytes <= LARGE_BYTES else await asyncio.to_thread(work)


def _refuse_stated(length: str | None, limit: int) -> None:
    if length is None:
        return
    if not (length.isascii() and length.isdigit()):
        raise MalformedRequest(
            f"Content-Length is {length[:80]!a}", field="content-length", remedy="give the number of bytes of the body"
        )
    digits = length.lstrip("0")
    if len(digits) > len(str(limit)) or int(digits or "0") > limit:  # int reads only so many digits
        raise _too_large(limit)


async def _read(request: Request, settings: RouterSettings, holding: Holding) -> bytes:
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            return await _bounded(request, settings.max_request_bytes, holding)
    except ClientDisconnect:
        raise RequestCancelled("the client hung up before its request was complete") from None
    except TimeoutError:
        raise MalformedRequest(
            f"the body was not complete after {settings.body_timeout_s:g} s", remedy="send all of it at once"
        ) from None


async def _bounded(request: Request, limit: int, holding: Holding) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > limit:
            raise _too_large(limit)
        holding.grow(len(chunk))
        body += chunk
    return bytes(body)


def _parsed(data: bytes, settings: RouterSettings) -> Body:
    body = schemas.inference_body(data)
    return Body(
        payload=_payload(body, settings.max_request_bytes),
        priority=schemas.priority_of(body.priority),
        timeout_s=body.timeout_seconds,
    )


def _payload(body: schemas.InferenceBody, limit: int) -> Payload:
    values, parameters = schemas.input_values(body.input), schemas.parameters_struct(body.parameters)
    admission.check_parameters(parameters)  # what is nested too deep no message can hold
    payload = Payload.of(InferenceRequest(input=values, parameters=parameters))
    # Numbers are larger as a tensor than as JSON; a worker takes no more than gRPC callers may send.
    if payload.size_bytes > limit:
        raise PayloadTooLarge(
            f"the inputs have more than {limit} bytes as tensors",
            field="input",
            remedy="send less in one request, or raise the setting max_request_bytes",
        )
    return payload


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the body has more than {limit} bytes",
        remedy="send less in one request, or raise the setting max_request_bytes",
    )
