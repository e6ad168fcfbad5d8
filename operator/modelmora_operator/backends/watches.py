"""kopf's watches, from which we take nothing but the events: an object that came, changed or went.

kopf runs in a thread with an event loop of its own. It ends all tasks of the loop that it runs in when one of its own
fails (an unknown answer of the API, a definition that is deleted under it), and it takes over the signals; neither must
reach the operator. Whenever it ends it is begun again. It scans neither namespaces nor definitions: which kinds there
are is noticed by our own lists, which begin and end the watches. kopf peers with nobody, posts and patches nothing.

The least rights for what runs here and in `lists` (verbs list and watch; reading /api and /apis is everybody's):

    modelmora.io  modeldeployments   in the namespaces of the models, or in all
    ""            pods               likewise
    coordination  leases             in the namespace of the operator

and for what is written elsewhere: modeldeployments/status patch; pods get, create, delete; events create.
"""

import asyncio
import functools
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import kopf
import structlog
from kubernetes.aio.client import Configuration

from modelmora.kube.api import Resource
from modelmora_operator.backends.view import selector_of

_ERROR_BACKOFFS_S: Final = (0.1, 0.5, 1.0, 2.0, 5.0)
_AGAIN_S: Final = (0.1, 0.5, 1.0, 2.0, 5.0)
_WELL_AFTER_S: Final = 30.0
_STOP_S: Final = 0.5
_CLOSE_S: Final = 0.25  # for connections, which aiohttp closes behind its own back
_END_S: Final = 15.0
_WATCH_S: Final = 60  # after it the server ends a watch in order; so long at most is a stalled one blind
_CONNECT_S: Final = 5.0
_REQUEST_S: Final = 30.0

Heard = Callable[[Resource, str | None, Mapping[str, Any]], None]
Credentials = Callable[[], Awaitable[kopf.ConnectionInfo]]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Watched:
    """These kinds, in these namespaces; in all without any."""

    resources: tuple[Resource, ...]
    namespaces: Sequence[str] = ()


class Watches:
    """One thread of kopf. `heard` is called in the event loop of `run`, with the type of the event and the object."""

    def __init__(self, watched: Watched, credentials: Credentials, heard: Heard) -> None:
        self._watched = watched
        self._credentials = credentials
        self._heard = heard
        self.begun = 0  # how often
        self.problem = "they have not begun"

    async def run(self) -> None:
        """Until it is cancelled; begun again whenever kopf ends."""
        attempt, loop = 0, asyncio.get_running_loop()
        while True:
            at = loop.time()
            self.begun += 1
            ended = await self._once()
            attempt = 0 if loop.time() - at > _WELL_AFTER_S else attempt + 1
            self.problem = str(ended) or type(ended).__name__
            log.warning("watches ended, they begin again", kinds=self._kinds, cause=self.problem)
            await asyncio.sleep(_AGAIN_S[min(max(attempt - 1, 0), len(_AGAIN_S) - 1)])

    @property
    def _kinds(self) -> str:
        return ", ".join(resource.plural for resource in self._watched.resources)

    async def _once(self) -> BaseException:
        thread = _KopfThread(self._watched, self._credentials, self._heard, self._well)
        thread.start()
        try:
            return await thread.ended
        finally:
            thread.stop()
            await asyncio.to_thread(thread.join, _END_S)

    def _well(self) -> None:
        self.problem = ""


class _KopfThread:
    """From its start to its end; everything is told in the loop in which it was made."""

    def __init__(self, watched: Watched, credentials: Credentials, heard: Heard, well: Callable[[], None]) -> None:
        self._watched = watched
        self._registry = registry_of(watched, credentials, functools.partial(self._tell, heard))
        self._well = well
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[BaseException] = self._loop.create_future()
        self._stop: Callable[[], None] = lambda: None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="kopf", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Soon; nothing that it says is heard any more."""
        self._stopped = True
        self._stop()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def _run(self) -> None:
        outcome: BaseException = RuntimeError("kopf ended without an error")
        try:
            asyncio.run(self._operate())
        except asyncio.CancelledError:
            outcome = RuntimeError("kopf was stopped")
        except Exception as error:  # noqa: BLE001 - told to the supervisor, which begins it again
            outcome = error
        self._tell(self._end, outcome)

    async def _operate(self) -> None:
        loop, stop, ready = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        self._stop = functools.partial(_in_loop, loop, stop.set)
        if self._stopped:
            return
        operating = loop.create_task(self._kopf(stop, ready), name="kopf")
        beside = [
            loop.create_task(self._tell_when(ready), name="kopf is ready"),
            loop.create_task(_cancelled_after(stop, operating), name="kopf is stopped"),
        ]
        try:
            await operating
        finally:
            for task in beside:
                task.cancel()
            await asyncio.sleep(_CLOSE_S)

    async def _kopf(self, stop: asyncio.Event, ready: asyncio.Event) -> None:
        await kopf.operator(
            registry=self._registry,
            settings=kopf_settings(self._watched),
            standalone=True,
            clusterwide=not self._watched.namespaces,
            namespaces=list(self._watched.namespaces),
            stop_flag=stop,
            ready_flag=ready,
        )

    async def _tell_when(self, ready: asyncio.Event) -> None:
        await ready.wait()
        self._tell(self._well)

    def _end(self, outcome: BaseException) -> None:
        if not self.ended.done():
            self.ended.set_result(outcome)

    def _tell(self, what: Callable[..., None], *arguments: object) -> None:
        if not self._stopped:
            _in_loop(self._loop, what, *arguments)


async def _cancelled_after(stop: asyncio.Event, task: asyncio.Task[None]) -> None:
    """Stopped while it asks which kinds there are, kopf would wait seconds for credentials that nobody gives it."""
    await stop.wait()
    await asyncio.sleep(_STOP_S)
    task.cancel()


def registry_of(watched: Watched, credentials: Credentials, heard: Heard) -> kopf.OperatorRegistry:
    """Handlers that pass events on, and nothing else."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry, id="login")
    async def login(**_: object) -> kopf.ConnectionInfo:
        return await credentials()

    for resource in watched.resources:
        decorated = kopf.on.event(resource.group, resource.version, resource.plural, registry=registry, id="event")
        decorated(_handler(resource, heard))
    return registry


def _handler(resource: Resource, heard: Heard) -> Callable[..., Awaitable[None]]:
    async def pass_on(event: Mapping[str, Any], **_: object) -> None:
        heard(resource, event["type"], event["object"])

    return pass_on


def kopf_settings(watched: Watched) -> kopf.OperatorSettings:
    """Watches and nothing else, that come back within seconds whatever happened."""
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.process.ultimate_exiting_timeout = None
    settings.networking.error_backoffs = _ERROR_BACKOFFS_S
    settings.networking.connect_timeout = _CONNECT_S
    settings.networking.request_timeout = _REQUEST_S
    settings.watching.server_timeout = _WATCH_S
    settings.watching.client_timeout = _WATCH_S + _CONNECT_S
    for resource in watched.resources:
        if selector := selector_of(resource):
            settings.watching.label_selectors[resource.group, resource.version, resource.plural] = selector
    return settings


def quiet_kopf(*, debug: bool) -> None:
    """It logs each attempt of each request, with a traceback; what is wrong our lists say in one line."""
    logging.getLogger("kopf").setLevel(logging.WARNING if debug else logging.CRITICAL)


def credentials_of(configuration: Configuration) -> Credentials:
    """As the port has them; a token that is replaced on disk is read anew."""

    async def login() -> kopf.ConnectionInfo:
        token = await configuration.get_api_key_with_prefix("BearerToken")
        scheme, _, secret = (token or "").rpartition(" ")
        return kopf.ConnectionInfo(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert or None,
            insecure=not configuration.verify_ssl,
            certificate_path=configuration.cert_file or None,
            private_key_path=configuration.key_file or None,
            scheme=(scheme or "Bearer") if secret else None,
            token=secret or None,
        )

    return login


def _in_loop(loop: asyncio.AbstractEventLoop, what: Callable[..., None], *arguments: object) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(what, *arguments)
