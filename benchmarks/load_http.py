"""The cheapest client for HTTP/1.1 that reads answers rightly: rivals that speak HTTP must not pay for their client."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import cast
from urllib.parse import urlsplit

import httptools


class BadAnswer(Exception):
    """An answer that says that the request failed, or none: the connection broke."""


class Pool:
    """Connections to one URL, as many as requests are on their way; each is used again."""

    def __init__(self, url: str, bodies: Sequence[bytes], headers: Mapping[str, str]) -> None:
        parts = urlsplit(url)
        self._address = (str(parts.hostname), int(parts.port or 80))
        lines = {"Host": parts.netloc, "Content-Type": "application/json", **headers}
        head = f"POST {parts.path or '/'} HTTP/1.1\r\n" + "".join(f"{name}: {text}\r\n" for name, text in lines.items())
        self._requests = [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
        self._idle: list[_Connection] = []
        self._all: list[_Connection] = []

    async def ask(self, number: int) -> int:
        """Sends one request; the bytes of its answer's body.

        Raises:
            BadAnswer: the status is not 200, or the connection broke.
        """
        connection = self._idle.pop() if self._idle else await self._connect()
        received = await connection.exchange(self._requests[number % len(self._requests)])
        if connection.reusable:
            self._idle.append(connection)
        if connection.status != 200:
            raise BadAnswer(f"HTTP {connection.status}")
        return received

    def close(self) -> None:
        for connection in self._all:
            connection.close()

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, *self._address)
        self._all.append(connection)
        return connection


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.status = 0
        self.reusable = False
        self._received = 0
        self._answer: asyncio.Future[int] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None

    async def exchange(self, request: bytes) -> int:
        if self._transport is None:
            raise BadAnswer("not connected")
        self._answer, self._received, self.reusable = asyncio.get_running_loop().create_future(), 0, False
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        if self._transport:
            self._transport.close()

    # of asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.reusable = False
        if self._answer and not self._answer.done():
            self._answer.set_exception(BadAnswer(f"connection lost: {exc}"))

    # of httptools

    def on_body(self, body: bytes) -> None:
        self._received += len(body)

    def on_message_complete(self) -> None:
        self.status, self.reusable = self._parser.get_status_code(), self._parser.should_keep_alive()
        if self._answer and not self._answer.done():
            self._answer.set_result(self._received)
