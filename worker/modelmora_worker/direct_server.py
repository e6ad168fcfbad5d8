"""The life of the worker's own socket: it listens while the worker does, and is found once the worker serves."""

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Final

from grpc_health.v1 import health_pb2_grpc

from modelmora_worker.direct import DirectService
from modelmora_worker.direct_use import DirectMeter
from modelmora_worker.entries import EntryQueue
from modelmora_worker.lifecycle import Lifecycle
from modelmora_worker.listening import listener
from modelmora_worker.meeting import Meeting, tidied
from modelmora_worker.settings import WorkerSettings

_GOODBYE_S: Final = 1.0


class DirectServer:
    """Of a worker that has a client_socket; of any other, nothing."""

    def __init__(self, settings: WorkerSettings, queue: EntryQueue, lifecycle: Lifecycle) -> None:
        self._settings = settings
        self._queue = queue
        self._lifecycle = lifecycle
        path = settings.client_socket
        self.meter = DirectMeter()
        self._meeting = None if path is None else Meeting(path, settings.client_socket_mode)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Until the block ends.

        Raises:
            AddressInUse: it cannot listen there.
        """
        if self._meeting is None:
            yield
            return
        with ExitStack() as held:
            held.enter_context(tidied(self._meeting))
            quota_bytes = self._settings.session_quota_bytes
            sessions = self._meeting.listener(quota_bytes, self._settings.max_sessions) if quota_bytes else None
            if sessions:
                held.enter_context(sessions)
            bound = self._settings.max_message_bytes
            server = listener(self._meeting.address, max_sent_bytes=bound, max_received_bytes=bound)
            service = DirectService(
                queue=self._queue,
                deployment=self._settings.deployment,
                sessions=sessions,
                meter=self.meter,
                max_bytes=bound,
            )
            service.add_to(server)
            health_pb2_grpc.add_HealthServicer_to_server(self._lifecycle.health, server)
            await server.start()
            try:
                yield
            finally:
                await server.stop(_GOODBYE_S)

    def open(self) -> None:
        """The worker serves: callers may come.

        Raises:
            AddressInUse: the folder of the socket is not to be written.
        """
        if self._meeting:
            self._meeting.open()
